"""For which other inputs a wrong answer would be right: two in each other's place, one changed."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .data import SEED, Exercise
from .probing import Outcome, agree, run

FEWEST = 3              # numbers, of all failed probes, that a relation has to explain


def other_inputs(exercise: Exercise, expected: Sequence[Outcome],
                  got: Sequence[Outcome]) -> str | None:
    """For which change of one input, or of two, the answer would be right."""
    first = exercise.probes[0].inputs(seed=SEED)
    names = list(first)
    swaps = [(f"if `{a}` and `{b}` changed places", lambda held, a=a, b=b:
              {**held, a: held[b], b: held[a]})
             for i, a in enumerate(names) for b in names[i + 1:]
             if type(first[a]) is type(first[b])]
    one = [(said.format(f"`{name}`"), lambda held, name=name, change=change:
            {**held, name: change(held[name])})
           for name in names for said, change in _changes(first[name])]
    explains = explained(expected, got)
    for said, change in (*swaps, *one):
        def outcome(i: int, change: Callable = change) -> Outcome | None:
            inputs = attempt(change, exercise.probes[i].inputs(seed=SEED))
            return None if inputs is None else run(
                exercise, exercise.reference, inputs, trusted=True)

        if explains(outcome):
            return said
    return None


def explained(expected: Sequence[Outcome], got: Sequence[Outcome]
              ) -> Callable[[Callable[[int], Outcome | None]], bool]:
    """Whether outcomes, asked for by the number of a probe, are the answer's on every one, and
    those that it got wrong hold enough to tell. Those come first."""
    wrong = [i for i in range(len(got)) if not agree(expected[i], got[i])]
    right = [i for i in range(len(got)) if i not in wrong]
    telling = sum(size(expected[i].value) for i in wrong if got[i].raised is None) >= FEWEST

    def holds(outcome: Callable[[int], Outcome | None]) -> bool:
        return telling and all((found := outcome(i)) is not None and agree(found, got[i])
                               for i in (*wrong, *right))

    return holds


WHOLE = (
    ("if {} were one more", lambda x: x + 1),
    ("if {} were one less", lambda x: x - 1),
    ("if {} were 0", lambda x: 0),
    ("if {} were 1", lambda x: 1),
    ("if {} were twice as large", lambda x: 2 * x),
    ("if {} were half as large", lambda x: x // 2),
)
REAL = (
    ("if {} were 0", lambda x: 0.0),
    ("if {} were 1", lambda x: 1.0),
    ("if {} had the other sign", lambda x: -x),
    ("if {} were squared", lambda x: x * x),
    ("if the root of {} stood there", lambda x: x**0.5),
    ("if one divided by {} stood there", lambda x: 1 / x),
    ("if one less {} stood there", lambda x: 1 - x),
    ("if {} were twice as large", lambda x: 2 * x),
    ("if {} were half as large", lambda x: x / 2),
)
MASK = (
    ("if {} were the opposite", torch.logical_not),
    ("if all of {} were True", torch.ones_like),
    ("if {} were transposed", lambda x: x.mT),
)
TENSOR = (
    ("if {} had the other sign", torch.neg),
    ("if {} were transposed", lambda x: x.mT),
    ("if {} had lost its mean along the last axis", lambda x: x - x.mean(-1, keepdim=True)),
    ("if {} stood from back to front", lambda x: x.flip(0)),
    ("if the last axis of {} stood from back to front", lambda x: x.flip(-1)),
    ("if all of {} were 0", torch.zeros_like),
    ("if all of {} were 1", torch.ones_like),
    ("if {} were one more", lambda x: x + 1),
    ("if {} were one less", lambda x: x - 1),
    ("if {} were squared", torch.square),
    ("if {} were rounded to bfloat16", lambda x: x.bfloat16().to(x.dtype)),
    ("if {} were sorted", lambda x: x.sort(-1).values),
)
TEXT = (
    ("if {} were in lower case", str.lower),
    ("if {} had no space around", str.strip),
    ("if {} were read from its end", lambda x: x[::-1]),
)
ITEMS = (
    ("if {} stood from back to front", lambda x: x[::-1]),
    ("if {} had no first", lambda x: x[1:]),
    ("if {} had no last", lambda x: x[:-1]),
    ("if {} were sorted", lambda x: type(x)(sorted(x))),
    ("if {} held nothing twice", lambda x: type(x)(dict.fromkeys(x))),
)


def _changes(value: Any) -> tuple[tuple[str, Callable], ...]:
    """How an input of this kind is easily mistaken, and what to say of it."""
    if isinstance(value, Tensor):
        return MASK if value.dtype == torch.bool else TENSOR
    if isinstance(value, bool):
        return (("if {} were the opposite", lambda x: not x),)
    kinds = {int: WHOLE, float: REAL, str: TEXT, bytes: ITEMS, list: ITEMS, tuple: ITEMS}
    return next((each for kind, each in kinds.items() if isinstance(value, kind)), ())


def attempt(change: Callable, value: Any) -> Any:
    """The changed value; None where the change makes no sense."""
    try:
        return change(value)
    except Exception:
        return None


def size(value: Any) -> int:
    """How many numbers, or items, a value lets one compare."""
    if isinstance(value, Tensor):
        return value.numel()
    if isinstance(value, dict):
        value = list(value.values())
    return sum(map(size, value)) if isinstance(value, list | tuple) else 1
