"""The page "The fact check" of the book: the whole ledger in HTML, made when the book is built."""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from html import escape

from .box import flat
from .evaluate import Outcome, recompute
from .rows import VERDICTS, Claim, Contradiction, contradictions, ledger, writeups
from .words import LOOKS, in_html, spoken

Chapters = Mapping[str, tuple[str, Collection[str]]]
SHOWN = re.compile(r"\bclaims\.show\(([^()]*)\)")
PLACE = re.compile(r"<!-- claims: (\w+) -->.*?<!-- /claims -->", re.S)


def fill(text: str, chapters: Chapters) -> str:
    """A Markdown page with each `<!-- claims: NAME --> ... <!-- /claims -->` replaced by its table.

    chapters: of each chapter, by its number ("08"): its address, and the claims it has boxes for.
    """
    outcomes = {claim: recompute(claim) for claim in ledger()}
    from_writeups = {c: o for c, o in outcomes.items() if c.writeup not in "TS"}
    blocks = {
        "sums": lambda: sums(from_writeups),
        "writeups": lambda: writeup_table(from_writeups),
        "claims": lambda: claim_table(from_writeups, chapters, css="filtered"),
        "contradictions": lambda: contradiction_table(contradictions()),
        "traps": lambda: claim_table(_of("T", outcomes), chapters),
        "slips": lambda: claim_table(_of("S", outcomes), chapters),
    }
    return PLACE.sub(lambda place: f"```{{raw}} html\n{blocks[place[1]]()}\n```", text)


def shown(source: str) -> list[str]:
    """The claims that a chapter's source has boxes for, in order."""
    return [id for call in SHOWN.findall(source) for id in re.findall(r"[A-Z]\d+", call)]


def _of(letter: str, outcomes: Mapping[Claim, Outcome]) -> dict[Claim, Outcome]:
    return {claim: outcome for claim, outcome in outcomes.items() if claim.writeup == letter}


def sums(outcomes: Mapping[Claim, Outcome]) -> str:
    """One sentence: how many claims, how they were judged, how many were computed."""
    verdicts = Counter(claim.verdict for claim in outcomes)
    judged = ", ".join(f"{verdicts[verdict]} {verdict}" for verdict in VERDICTS)
    n_computed = sum(claim.compute is not None for claim in outcomes)
    return (f"<p>Of <strong>{len(outcomes)}</strong> claims we found {judged}. "
            f"<strong>{n_computed}</strong> of the verdicts rest on a computation that ran when "
            "this page was built; the others name a source, or say why they stay open.</p>")


# -- tables ------------------------------------------------------------------------------------

def writeup_table(outcomes: Iterable[Claim]) -> str:
    """What each write-up is, and a bar of the verdicts on it."""
    rows, claims = [], list(outcomes)
    for letter, writeup in writeups().items():
        verdicts = Counter(claim.verdict for claim in claims if claim.writeup == letter)
        if verdicts:
            rows.append(f'<tr><th scope="row">{letter}</th><td>{escape(writeup.name)}<small>'
                        f"{escape(writeup.kind)}; {escape(writeup.language)}; "
                        f"{escape(writeup.date)}</small></td><td>{bar(verdicts)}</td></tr>")
    return _table("fact-check writeups", ("", "What it is", "Verdicts on its claims"), rows)


def bar(verdicts: Mapping[str, int]) -> str:
    """Counts side by side, each as wide as its share, and in words for who cannot see widths."""
    parts = "".join(f'<span class="{verdict}" style="flex-grow: {verdicts[verdict]}" '
                    f'title="{verdicts[verdict]} {verdict}">{verdicts[verdict]}</span>'
                    for verdict in VERDICTS if verdicts.get(verdict))
    words = ", ".join(f"{verdicts.get(verdict, 0)} {verdict}" for verdict in VERDICTS)
    return f'<div class="bar" role="img" aria-label="{words}">{parts}</div>'


def claim_table(outcomes: Mapping[Claim, Outcome], chapters: Chapters,
                css: str = "") -> str:
    """A row for each claim: what is said, the verdict, what is so and how one knows."""
    rows = [claim_row(claim, outcome, chapters) for claim, outcome in outcomes.items()]
    return _table(f"fact-check {css}".strip(), ("Id", "Verdict", "What is said", "What is so"),
                  rows)


def claim_row(claim: Claim, outcome: Outcome, chapters: Chapters) -> str:
    writeup, anchor = writeups()[claim.writeup], claim.id.lower()
    evidence = [f"<p>{in_html(claim.correct)}</p>"] if claim.correct else []
    if claim.compute is not None:
        evidence.append(f'<p class="computed"><code>{escape(flat(claim.compute))}</code> '
                        f"{escape(_result(claim, outcome))}</p>")
    if claim.source:
        evidence.append(f'<p class="source">{in_html(claim.source)}</p>')
    if claim.chapter in chapters:
        address, ids = chapters[claim.chapter]
        where, words = ((f"#claim-{anchor}", f"Chapter {claim.chapter} decides it")
                        if claim.id in ids else ("", f"See chapter {claim.chapter}"))
        evidence.append(f'<p class="decided"><a href="{escape(address + where)}">{words}</a></p>')
    kept = {"verdict": claim.verdict, "writeup": claim.writeup, "chapter": claim.chapter or "",
            "computed": "yes" if claim.compute else ""}
    data = " ".join(f'data-{key}="{value}"' for key, value in kept.items())
    return (f'<tr id="{anchor}" {data}><th scope="row"><a href="#{anchor}">{claim.id}</a></th>'
            f"<td>{verdict_label(claim.verdict)}</td>"
            f"<td><p>{in_html(claim.claim)}</p><small>{escape(writeup.name)}</small></td>"
            f"<td>{''.join(evidence)}</td></tr>")


def verdict_label(verdict: str) -> str:
    return (f'<span class="verdict {verdict}"><span aria-hidden="true">{LOOKS[verdict][0]} </span>'
            f"{verdict}</span>")


def _result(claim: Claim | Contradiction, outcome: Outcome) -> str:
    if outcome.value is None:
        expected = spoken(claim.value, tolerance=claim.tolerance, unit=claim.unit)
        return f"= {expected} ({outcome.remark})"
    given = spoken(outcome.value, tolerance=claim.tolerance, unit=claim.unit)
    return f"= {given}" + ("" if outcome.agrees else f" (amiss: {outcome.remark})")


def contradiction_table(rows: Iterable[Contradiction]) -> str:
    """Who says what, and what is so."""
    cells = []
    for row in rows:
        said = "".join(f'<li><b title="{escape(writeups()[where].name)}">{where}</b> '
                       f"{in_html(says)}</li>" for where, says in row.statements)
        links = " ".join(f'<a href="#{id.lower()}">{id}</a>' for id in row.claims)
        computed = "" if row.compute is None else (
            f'<p class="computed"><code>{escape(flat(row.compute))}</code> '
            f"{escape(_result(row, recompute(row)))}</p>")
        cells.append(f'<tr><th scope="row">{in_html(row.topic)}</th><td><ul>{said}</ul></td>'
                     f"<td><p>{in_html(row.resolution)}</p>{computed}"
                     f'<p class="decided">{links}</p></td></tr>')
    return _table("fact-check contradictions", ("Topic", "What is said", "What is so"), cells)


def _table(css: str, head: Iterable[str], rows: Iterable[str]) -> str:
    titles = "".join(f'<th scope="col">{title}</th>' for title in head)
    body = "\n".join(rows)
    return (f'<table class="{css}"><thead><tr>{titles}</tr></thead>\n'
            f"<tbody>\n{body}\n</tbody></table>")
