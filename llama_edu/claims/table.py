"""The ledger as a table for a terminal: what `llama-edu check-claims` prints."""

from collections import Counter
from collections.abc import Mapping, Sequence

from .evaluate import Outcome
from .rows import Claim, ledger
from .words import spoken

COLUMNS = ("id", "verdict", "claim", "computed", "expected", "ok")
GAP = "  "
WIDTH = 120         # letters of a line, in a file or a pipe
LEAST = 12          # letters of the columns that give way


def select(*, writeup: str | None = None, verdict: str | None = None,
           chapter: str | None = None) -> tuple[Claim, ...]:
    """The claims that fit all that is asked; with nothing asked, all of them."""
    asked = {"writeup": writeup, "verdict": verdict, "chapter": chapter}
    return tuple(claim for claim in ledger()
                 if all(wish in (None, getattr(claim, key)) for key, wish in asked.items()))


def report(outcomes: Mapping[Claim, Outcome], *, width: int = WIDTH) -> str:
    """A line of `width` letters for each claim, what is amiss in full below them, and the sums."""
    widths = _widths(width)
    lines = [_line(COLUMNS, widths), _line(["-" * each for each in widths], widths)]
    lines += [_line(_cells(claim, outcome), widths) for claim, outcome in outcomes.items()]
    amiss = [f"{claim.id}: {outcome.remark}" for claim, outcome in outcomes.items()
             if outcome.agrees is False or (claim.compute and outcome.agrees is None)]
    return "\n".join([*lines, "", *amiss, *[""] * bool(amiss), sums(outcomes)])


def sums(outcomes: Mapping[Claim, Outcome]) -> str:
    """How many claims, how they were judged, and how many were computed anew."""
    verdicts = Counter(claim.verdict for claim in outcomes)
    agrees = Counter(outcome.agrees for outcome in outcomes.values())
    waiting = sum(claim.compute is not None and outcome.agrees is None
                  for claim, outcome in outcomes.items())
    judged = ", ".join(f"{n} {verdict}" for verdict, n in verdicts.items())
    seconds = sum(outcome.seconds for outcome in outcomes.values())
    return (f"{len(outcomes)} claims{': ' * bool(judged)}{judged}.\n"
            f"{agrees[True] + agrees[False]} recomputed in {seconds:.1f} s, {agrees[False]} of "
            f"them disagree; {agrees[None] - waiting} rest on a source or an argument; "
            f"{waiting} wait for a vocabulary.")


def _widths(width: int) -> list[int]:
    """Of the columns: two fifths of what the narrow ones leave are for the numbers."""
    room = width - 5 - 9 - 3 - len(GAP) * (len(COLUMNS) - 1)
    number = max(LEAST, min(20, room // 5))
    return [5, 9, max(LEAST, room - 2 * number), number, number, 3]


def _cells(claim: Claim, outcome: Outcome) -> list[str]:
    computed = expected = ""
    if claim.compute is not None:
        expected = spoken(claim.value, tolerance=claim.tolerance, unit=claim.unit)
    if outcome.value is not None:
        computed = spoken(outcome.value, tolerance=claim.tolerance, unit=claim.unit)
    return [claim.id, claim.verdict, claim.claim, computed, expected,
            {True: "yes", False: "NO", None: ""}[outcome.agrees]]


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return GAP.join(_cut(*each) for each in zip(cells, widths, strict=True)).rstrip()


def _cut(text: str, width: int) -> str:
    return f"{text:{width}}" if len(text) <= width else text[:width - 3] + "..."
