"""Judge claims before reading on: your verdicts beside those of the ledger."""

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass

from .box import Boxes, show
from .rows import VERDICTS, Claim, find

OPEN = "?"                      # not judged yet
WIDTH = 80                      # columns, as a page of the book shows them


@dataclass(frozen=True, repr=False)
class Judged:
    """What you said of some claims: in words, and in a notebook with the box of each."""

    rows: tuple[tuple[Claim, str], ...]         # a claim and your verdict

    @property
    def n_right(self) -> int:
        """Verdicts that are those of the ledger."""
        return sum(said == claim.verdict for claim, said in self.rows)

    def boxes(self) -> Boxes:
        """The boxes of the claims that you judged; of the others nothing is given away."""
        return show(*(claim.id for claim, said in self.rows if said != OPEN))

    def __repr__(self) -> str:
        lines = [_line(claim, said) for claim, said in self.rows]
        judged = sum(said != OPEN for _, said in self.rows)
        return "\n".join([*lines, f"{self.n_right} of {judged} judged as the ledger does, "
                                  f"{len(self.rows) - judged} to go"])


def judge(verdicts: Mapping[str, str]) -> Judged:
    """Compare verdicts, by the ids of claims, with the ledger; "?" is one not given yet.

    Raises KeyError for an id that there is not, ValueError for another word.
    """
    verdicts = {id: said.strip().lower() if isinstance(said, str) else said
                for id, said in verdicts.items()}
    for id, said in verdicts.items():
        if said not in (*VERDICTS, OPEN):
            raise ValueError(f"{id} was judged {said!r}; one of {', '.join(VERDICTS)} is needed, "
                             f"or {OPEN!r} for later.")
    return Judged(tuple((find(id), said) for id, said in verdicts.items()))


def _line(claim: Claim, said: str) -> str:
    if said == OPEN:
        line = f"○ {claim.id} {claim.claim}"
    elif said == claim.verdict:
        line = f"✓ {claim.id} {said}: {claim.claim}"
    else:
        line = f"✗ {claim.id} is {claim.verdict}, not {said}: {claim.claim}"
    return textwrap.fill(line, WIDTH, subsequent_indent="  ", break_long_words=False)
