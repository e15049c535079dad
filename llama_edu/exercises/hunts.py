"""Bug hunts: suspects whose behaviour alone says which mistake is built into each."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from .data import Numbered
from .report import Report
from .show import a, brief

HEALTHY = "healthy"             # the verdict on a suspect without a bug
OPEN = "?"                      # no verdict yet


@dataclass(frozen=True)
class Bug:
    """A mistake, something that has it, and what it shows to whoever looks.

    `shows` completes the sentence "that bug ...", as in "changes the first token's output when
    the last token changes"; it is true of everything that has the bug.
    """

    make: Callable[[], Any]
    shows: str


@dataclass(frozen=True)
class Hunt(Numbered):
    """What `check` knows about a bug hunt.

    `hidden` gives for each suspect ("a", "b", ...) the name of its bug, or HEALTHY; `bugs` holds
    decoys too. `look` is one observation, a tensor or a number, that tells all bugs and the healthy
    one apart: the proof that the hunt can be solved.
    """

    id: str
    title: str
    section: str
    healthy: Callable[[], Any]
    bugs: Mapping[str, Bug]
    hidden: Mapping[str, str]
    look: Callable[[Any], Any]
    hints: tuple[str, ...]

    def make(self, name: str) -> Any:
        """A new suspect with this bug, or without one. A function comes without its own name."""
        made = self.healthy() if name == HEALTHY else self.bugs[name].make()
        if isinstance(made, nn.Module) or not callable(made):
            return made

        def suspect(*values: Any, **named: Any) -> Any:
            return made(*values, **named)

        return suspect


def judge_hunt(hunt: Hunt, answer: Any) -> Report:
    """Compare the reader's verdicts, one a suspect, with the bugs that were built in."""
    form = f'check("{hunt.id}", {dict.fromkeys(hunt.hidden, OPEN)})'
    if not isinstance(answer, Mapping):
        kind = a("None" if answer is None else type(answer).__name__)
        return Report(hunt.id, "error", f"needs one verdict a suspect and got {kind}: {form}.")
    if odd := [each for each in answer if each not in hunt.hidden]:
        return Report(hunt.id, "error", f"has no suspect {brief(odd[0])}; there are "
                                        f"{', '.join(hunt.hidden)}.")
    choices = (HEALTHY, *hunt.bugs)
    spelt = {each.casefold(): each for each in (*choices, OPEN)}
    said = {each: answer.get(each, OPEN) for each in hunt.hidden}
    said = {each: spelt.get(verdict.strip().casefold(), verdict) if isinstance(verdict, str)
            else verdict for each, verdict in said.items()}
    for suspect, verdict in said.items():
        if verdict not in (*choices, OPEN):
            return Report(hunt.id, "error", f"does not know the verdict {brief(verdict)} on "
                          f"`{suspect}`. Choose one of: {'; '.join(choices)}.")
    named = {suspect: verdict for suspect, verdict in said.items() if verdict != OPEN}
    if not named:
        return Report(hunt.id, "not attempted", "not attempted yet")
    wrong = [suspect for suspect, verdict in named.items() if verdict != hunt.hidden[suspect]]
    if wrong:
        right = f"{len(named) - len(wrong)} of {len(hunt.hidden)} verdicts are right"
        return Report(hunt.id, "wrong", f"{right}. {_why_not(hunt, wrong[0], said[wrong[0]])}")
    if len(named) < len(hunt.hidden):
        return Report(hunt.id, "not attempted", f"{len(named)} of {len(hunt.hidden)} suspects are "
                                                "named, rightly so far")
    return Report(hunt.id, "correct", f"correct: all {len(named)} suspects")


def _why_not(hunt: Hunt, suspect: str, verdict: str) -> str:
    if verdict == HEALTHY:
        return f"`{suspect}` is not healthy: compare it with your own on more inputs."
    return f"`{suspect}` is something else: {verdict!r} {hunt.bugs[verdict].shows.rstrip('.')}."
