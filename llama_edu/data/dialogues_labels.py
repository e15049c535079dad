"""Labellers of the talks: of two answers they prefer one, and err as often as is known.

    found = list(labelled(1000, seed=3, about="helpful", sharpness=6.0))
    found[0].chosen, found[0].rejected, found[0].rating
    ceilings(found, sharpness=6.0)      # the best accuracy by rating that there can be

What answers are worth is the judge's word, so all that a labeller does is known exactly: which
answer is better, by how much, and how likely the labeller is to take the other.
"""

import math
import random
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from .dialogues import GRADES, Message, answer, dialogues, judge, pick, prompts
from .dialogues_reading import Talk

ABOUT: Mapping[str, Sequence[str]] = {      # the judge's marks that count
    "helpful": ("wishes", "question", "rule", "tale", "chat"),
    "safe": ("refusal",)}
RATED = {"significantly better": 0.75, "better": 0.5, "slightly better": 0.2,
         "negligibly better": 0.0}          # the least difference in worth that is called so

Chance = random.Random


@dataclass(frozen=True)
class Preference:
    """What a labeller said of two answers, and what is true."""

    prompt: Sequence[Message]   # ends with what the user said
    chosen: str
    rejected: str
    rating: str                 # one of RATED
    difference: float           # worth of the chosen less that of the rejected: below 0, an error


def worth(talk: Talk, about: str) -> float | None:
    """What the last answer of a talk is worth, from 0 to 1; None where it cannot be helpful (or
    safe) at all, as nothing was asked for (or nothing forbidden).

    Raises ValueError for what labellers are not asked about.
    """
    if about not in ABOUT:
        raise ValueError(f"labellers were asked how {about!r} answers are; they know about "
                         f"{', '.join(ABOUT)}. Ask for one of these.")
    marks = judge(talk).given
    found = [marks[name] for name in ABOUT[about] if name in marks]
    return sum(found) / len(found) if found else None


def difference(prompt: Talk, first: str, second: str, about: str) -> float | None:
    """How much more the first answer is worth; None as for `worth`."""
    one, other = (worth([*prompt, {"role": "assistant", "content": said}], about)
                  for said in (first, second))
    return None if one is None or other is None else one - other


def chosen_first(difference: float, sharpness: float) -> float:
    """How likely a labeller prefers the first of two answers, whose worths differ by so much:
    sigmoid(sharpness * difference) (Bradley & Terry 1952). At sharpness 0 a coin decides.

    Raises ValueError for a sharpness below 0, at which the worse would be preferred.
    """
    if not sharpness >= 0:
        raise ValueError(f"a sharpness of {sharpness} was given; 0 or more is needed, for a "
                         "labeller who prefers the better. Choose another.")
    return (1 + math.tanh(sharpness * difference / 2)) / 2      # which cannot overflow


def rated(difference: float) -> str:
    """How sure a labeller is who sees this difference, whichever answer is preferred."""
    return next(rating for rating, least in RATED.items() if abs(difference) >= least)


def label(prompt: Talk, first: str, second: str, chance: Chance, *, about: str, sharpness: float
          ) -> Preference | None:
    """What a labeller says of any two answers, a model's samples too.

    None where there is nothing to say: the answers are the same, or cannot be helpful (or safe) at
    all. Raises ValueError as `worth` and `chosen_first` do.
    """
    by = difference(prompt, first, second, about)
    if by is None or first == second:
        return None
    if chance.random() < chosen_first(by, sharpness):
        return Preference(prompt, first, second, rated(by), by)
    return Preference(prompt, second, first, rated(by), -by)


def labelled(n: int, *, seed: int, about: str, sharpness: float, ties: bool = True
             ) -> Iterator[Preference]:
    """n preferences between answers of two demonstrators, each of a grade drawn at random, to the
    prompts of clean talks; the same seed gives the same on any machine.

    ties: whether pairs stay whose answers are worth the same. Raises ValueError as `label` does.
    """
    chance, left = Chance(seed), n
    talks = dialogues(sys.maxsize, seed=int(chance.random() * 2**32))
    while left > 0:
        for prompt in prompts(next(talks)):
            first, second = (answer(prompt, chance, pick(GRADES, chance)) for _ in range(2))
            found = label(prompt, first, second, chance, about=about, sharpness=sharpness)
            if found and left > 0 and (ties or found.difference):
                left -= 1
                yield found


def ceilings(found: Iterable[Preference], *, sharpness: float) -> dict[str, float]:
    """The accuracy, by rating, that one who knows which answer is better can expect on labels of
    these very pairs: the mean of sigmoid(sharpness * |difference|). Nobody can expect more."""
    chances = defaultdict(list)
    for each in found:
        chances[each.rating].append(chosen_first(abs(each.difference), sharpness))
    return {rating: sum(chances[rating]) / len(chances[rating])
            for rating in RATED if rating in chances}
