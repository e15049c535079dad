"""The box that a chapter shows for a claim: its words, its verdict, and the sum done again."""

from dataclasses import dataclass
from html import escape

from .evaluate import Outcome, recompute
from .rows import Claim, find, writeups
from .words import LOOKS, badge, in_html, spoken

BOX = "border-left: 4px solid {colour}; padding: 0.2em 0.8em; margin: 0.5em 0;"
CODE = "white-space: pre-wrap; overflow-wrap: anywhere; background: none; color: inherit;"
PART = "margin: 0.25em 0;"


def show(*ids: str) -> "Boxes":
    """Boxes for these claims, computed now: `show("A06", "D63")` as the last value of a cell."""
    claims = [find(id) for id in ids]
    return Boxes(tuple(Box(claim, recompute(claim)) for claim in claims))


@dataclass(frozen=True, repr=False)
class Box:
    """One claim and what came of computing it: plain text anywhere, HTML in a notebook."""

    claim: Claim
    outcome: Outcome

    def parts(self) -> list[tuple[str, str]]:
        """What there is to say below the claim, each with its label."""
        row, labelled = self.claim, []
        if row.correct:
            label = "Why it stays open" if row.verdict == "open" else "What is so"
            labelled.append((label, row.correct))
        if row.compute is not None:
            labelled.append(("Computed", f"`{flat(row.compute)}` {self.result()}"))
        if row.source:
            labelled.append(("Source", row.source))
        return labelled

    def result(self) -> str:
        """What the expression gave, and whether that is what the ledger expects."""
        row, outcome = self.claim, self.outcome
        if outcome.agrees is None:
            expected = spoken(row.value, tolerance=row.tolerance, unit=row.unit)
            return f"gave {expected} when the ledger was written; {outcome.remark}"
        if outcome.value is None:
            return outcome.remark
        given = spoken(outcome.value, tolerance=row.tolerance, unit=row.unit)
        return f"gives {given}" if outcome.agrees else f"gives {given}, which is amiss: " \
                                                       f"{outcome.remark}"

    def __repr__(self) -> str:
        mark, _ = LOOKS[self.claim.verdict]
        head = f"{mark} {kind(self.claim)} {self.claim.id} ({self.claim.verdict}): " \
               f"{self.claim.claim}"
        said = [("Said in", where(self.claim)), *self.parts()]
        return "\n".join([head, *(f"  {label}: {text.replace('`', '')}" for label, text in said)])

    def _repr_html_(self) -> str:
        row, (_, colour) = self.claim, LOOKS[self.claim.verdict]
        parts = "".join(f'<div style="{PART}"><strong>{label}.</strong> {styled(text)}</div>'
                        for label, text in self.parts())
        return (f'<div id="claim-{row.id.lower()}" style="{BOX.format(colour=colour)}">'
                f'<div style="{PART}"><strong>{kind(row)} {row.id}</strong> {badge(row.verdict)} '
                f"<small>{escape(where(row))}</small></div>"
                f'<div style="{PART}"><em>{styled(row.claim)}</em></div>{parts}</div>')


@dataclass(frozen=True, repr=False)
class Boxes:
    """Several boxes, one below the other."""

    boxes: tuple[Box, ...]

    def __repr__(self) -> str:
        return "\n\n".join(map(repr, self.boxes))

    def _repr_html_(self) -> str:
        return "".join(box._repr_html_() for box in self.boxes)


def kind(claim: Claim) -> str:
    """What to call it: the last two letters are no write-ups."""
    return {"T": "Trap", "S": "Slip"}.get(claim.writeup, "Claim")


def where(claim: Claim) -> str:
    """What the claim was taken from, in a few words."""
    writeup = writeups()[claim.writeup]
    return f"{writeup.name} ({writeup.kind}, {writeup.date})"


def flat(expression: str) -> str:
    """An expression on one line."""
    return " ".join(expression.split())


def styled(text: str) -> str:
    return in_html(text).replace("<code>", f'<code style="{CODE}">')
