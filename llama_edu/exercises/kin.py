"""What a wrong answer has in common with the right one: a sign, a factor, an order, an input.

A misconception names a mistake that somebody foresaw. The relations here need no foresight. Each
tells how the values behave, on every probe that failed, and nothing of how they came about.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .compare import difference
from .data import Exercise
from .kin_inputs import FEWEST, attempt, other_inputs, size
from .probing import Outcome

NEARLY = 0.02           # of the usual size: a constant or a precision, not another formula
Pair = tuple[Any, Any]  # what is right, and what the answer returned, on one probe


@dataclass(frozen=True)
class Relation:
    """A change of the right value that makes it the answer's; None where it makes no sense."""

    said: str                               # read after "returned"
    change: Callable[[Any], Any]


def kinship(exercise: Exercise, expected: Sequence[Outcome], got: Sequence[Outcome],
            failed: Sequence[int]) -> str | None:
    """How the answer's values come from the right ones; None if no simple way is seen."""
    if any(each[i].raised is not None for each in (expected, got) for i in failed):
        return None
    pairs = [(expected[i].value, got[i].value) for i in failed]
    if said := _relation(pairs) or _of_one_item(pairs):
        return said
    if said := other_inputs(exercise, expected, got):
        return f"returned what is right {said}."
    return _nearly(pairs)


def _relation(pairs: Sequence[Pair]) -> str | None:
    """The first relation that holds on all pairs, if there are enough numbers to tell."""
    if sum(size(right) for right, _ in pairs) < FEWEST:
        return None
    if said := _zeros(pairs):
        return f"returned {said}."
    for each in (*RELATIONS, *_along_axes(pairs)):
        if all(_equal(attempt(each.change, right), given) for right, given in pairs):
            return f"returned {each.said}."
    for way in (_reshaped, _uniform, _along_rows, _too_many, _at_one_end):
        if said := way(pairs):
            return f"returned {said}."
    return None


def _of_one_item(pairs: Sequence[Pair]) -> str | None:
    """The relation of the first item that is wrong, of results that hold several."""
    first = pairs[0][0]
    if not isinstance(first, dict | tuple):
        return None
    for key in first if isinstance(first, dict) else range(len(first)):
        items = [(right[key], given[key]) for right, given in pairs
                 if attempt(lambda x, key=key: x[key], right) is not None
                 and attempt(lambda x, key=key: x[key], given) is not None]
        wrong = [pair for pair in items if not _equal(*pair)]
        if wrong:
            said = _relation(wrong) or _nearly(wrong)
            return said and f"item {key}: {said}"
    return None


# -- the right value, changed ------------------------------------------------------------------


def _numbers(value: Any) -> Tensor | None:
    """All numbers of a value in one row, in float64; None if it holds anything else."""
    if isinstance(value, Tensor) and not value.is_complex() and value.dtype != torch.bool:
        return value.detach().double().flatten()
    if type(value) in (int, float):
        return torch.tensor([float(value)], dtype=torch.float64)
    if isinstance(value, list | tuple) and value:
        parts = [_numbers(each) for each in value]
        return None if any(part is None for part in parts) else torch.cat(parts)
    return None


def _in_rows(pairs: Sequence[Pair]) -> list[tuple[Tensor, Tensor]] | None:
    """Both values of each pair as rows of numbers; None where they are no equal counts of them."""
    rows = [(_numbers(right), _numbers(given)) for right, given in pairs]
    if any(a is None or b is None or len(a) != len(b) or not len(a) for a, b in rows):
        return None
    return rows


def _each(change: Callable[[Tensor], Tensor]) -> Callable[[Any], Any]:
    """Change every number by itself; the rest of the value stays as it is."""
    def changed(value: Any) -> Any:
        if isinstance(value, Tensor):
            return None if value.dtype == torch.bool else change(value.double()).to(value.dtype)
        if isinstance(value, list | tuple):
            return type(value)(map(changed, value))
        if isinstance(value, bool):
            return None
        return type(value)(change(torch.tensor(float(value), dtype=torch.float64)).item())
    return changed


def _sequence(change: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Change the order or the ends of a list, a tuple, a text or bytes."""
    return lambda value: change(value) if isinstance(value, list | tuple | str | bytes) else None


def _tensor(change: Callable[[Tensor], Tensor]) -> Callable[[Any], Any]:
    return lambda value: change(value) if isinstance(value, Tensor) else None


def _opposite(value: Any) -> Any:
    return not value if isinstance(value, bool) else ~value if value.dtype == torch.bool else None


def _sorted(value: Any) -> Any:
    return value.sort(-1).values if isinstance(value, Tensor) else type(value)(sorted(value))


RELATIONS = (
    Relation("the right values with the other sign", _each(torch.neg)),
    Relation("the right values without their signs", _each(torch.abs)),
    Relation("the opposite of what is right", _opposite),
    Relation("one divided by the right values", _each(torch.reciprocal)),
    Relation("one less the right values", _each(lambda x: 1 - x)),
    Relation("the squares of the right values", _each(torch.square)),
    Relation("the square roots of the right values", _each(torch.sqrt)),
    Relation("the logarithms of the right values", _each(torch.log)),
    Relation("the exponentials of the right values", _each(torch.exp)),
    Relation("the right values rounded", _each(torch.round)),
    Relation("the right values rounded down", _each(torch.floor)),
    Relation("the right values with nothing below zero", _each(torch.relu)),
    Relation("the softmax of the right values, over the last axis",
             _tensor(lambda x: x.softmax(-1))),
    Relation("the log-softmax of the right values, over the last axis",
             _tensor(lambda x: x.log_softmax(-1))),
    Relation("the right values transposed", _tensor(lambda x: x.transpose(-1, -2))),
    Relation("the right values from back to front", _sequence(lambda x: x[::-1])),
    Relation("the right values without the first", _sequence(lambda x: x[1:])),
    Relation("the right values without the last", _sequence(lambda x: x[:-1])),
    Relation("the right values in ascending order", _sorted),
)


def _along_axes(pairs: Sequence[Pair]) -> Iterator[Relation]:
    """The same for each axis of the tensors that were returned."""
    if not all(isinstance(right, Tensor) for right, _ in pairs):
        return
    for axis in range(-1, -1 - max(right.ndim for right, _ in pairs), -1):
        def along(change: Callable, axis: int = axis) -> Callable:
            return _tensor(lambda x: change(x, axis) if x.ndim >= -axis else x)

        where = f"along the axis {axis}"
        yield from (
            Relation(f"the right values from back to front {where}",
                     along(lambda x, n: x.flip(n))),
            Relation(f"the right values, one place further {where}",
                     along(lambda x, n: x.roll(1, n))),
            Relation(f"the right values, one place earlier {where}",
                     along(lambda x, n: x.roll(-1, n))),
            Relation(f"the right values without the first {where}",
                     along(lambda x, n: x.narrow(n, 1, x.shape[n] - 1))),
            Relation(f"the right values without the last {where}",
                     along(lambda x, n: x.narrow(n, 0, x.shape[n] - 1))),
            Relation(f"the right values summed up {where}", along(lambda x, n: x.cumsum(n))),
            Relation(f"the right values divided by their sum {where}",
                     along(lambda x, n: x / x.sum(n, keepdim=True))),
            Relation(f"the right values less their mean {where}",
                     along(lambda x, n: x - x.mean(n, keepdim=True))),
        )


def _zeros(pairs: Sequence[Pair]) -> str | None:
    found = [_numbers(given) for _, given in pairs]
    none = all(each is not None and len(each) and not each.any() for each in found)
    return "nothing but zeros" if none else None


def _uniform(pairs: Sequence[Pair]) -> str | None:
    """The right values times a number, or plus one: the same in each probe by itself."""
    rows = _in_rows(pairs)
    if rows is None or not all(bool(part.isfinite().all()) for row in rows for part in row):
        return None
    at = [int(right.abs().argmax()) for right, _ in rows]
    sums = [float(given[i] - right[i]) for i, (right, given) in zip(at, rows, strict=True)]
    factors = [float(given[i] / right[i]) if right[i] else 0.0
               for i, (right, given) in zip(at, rows, strict=True)]
    for found, change, said in (
        (factors, torch.mul, "the right values times {}"),
        (sums, torch.add, "the right values plus {}"),
    ):
        held = all(_equal(attempt(_each(lambda x, n=n, f=change: f(x, n)), right), given)
                   for n, (right, given) in zip(found, pairs, strict=True))
        constant = max(found) - min(found) <= 1e-3 * max(map(abs, found))
        if not held or (not constant and all(len(right) == 1 for right, _ in rows)):
            continue
        if constant and change is torch.mul and abs(found[0] - 1) < NEARLY:
            continue
        if constant:
            return said.format(f"{found[0]:.4g}")
        listed = ", ".join(f"{n:.4g}" for n in found[:3])
        return said.format(f"another number in each probe ({listed}): which size is it")
    return None


def _tensors(pairs: Sequence[Pair]) -> bool:
    return all(isinstance(right, Tensor) and isinstance(given, Tensor)
               and right.shape == given.shape for right, given in pairs)


def _reshaped(pairs: Sequence[Pair]) -> str | None:
    """The same numbers in the same order, in another shape."""
    if not all(isinstance(each, Tensor) for pair in pairs for each in pair):
        return None
    if not all(right.numel() == given.numel() and right.shape != given.shape
               and _equal(right.flatten(), given.flatten()) for right, given in pairs):
        return None
    right, given = pairs[0]
    return f"the right values in the shape {tuple(given.shape)}; {tuple(right.shape)} is needed"


def _along_rows(pairs: Sequence[Pair]) -> str | None:
    """In each row the right direction with a wrong length."""
    if not _tensors(pairs) or not all(right.ndim and right.is_floating_point()
                                      and right.shape[-1] > 2 for right, _ in pairs):
        return None
    if _nearly(pairs):
        return None
    for right, given in pairs:
        at = right.abs().argmax(-1, keepdim=True)
        factors = given.double().gather(-1, at) / right.double().gather(-1, at)
        if not _equal((right.double() * factors.nan_to_num(1.0)).to(right.dtype), given):
            return None
    return ("rows in the right direction, of a wrong length: along the last axis all values are "
            "off by one factor, and each row has its own")


def _too_many(pairs: Sequence[Pair]) -> str | None:
    """Of True and False: all that is right and more, or less."""
    if not _tensors(pairs) or not all(right.dtype == torch.bool for right, _ in pairs):
        return None
    if not any(bool((right & ~given).any()) for right, given in pairs):
        return "True wherever it is right, and in more places"
    if not any(bool((given & ~right).any()) for right, given in pairs):
        return "True only where it is right, but in too few places"
    return None


def _at_one_end(pairs: Sequence[Pair]) -> str | None:
    """Right values but for the first or the last along one axis."""
    if not _tensors(pairs):
        return None
    for axis in range(-1, -1 - min(right.ndim for right, _ in pairs), -1):
        for name, skip in (("first", 1), ("last", 0)):
            if all(right.shape[axis] > 2
                   and _equal(*(x.narrow(axis, skip, x.shape[axis] - 1) for x in pair))
                   for pair in pairs for right in pair[:1]):
                return f"the right values but for the {name} along the axis {axis}"
    return None


def _nearly(pairs: Sequence[Pair]) -> str | None:
    """Values so near that it is no other formula."""
    rows = _in_rows(pairs)
    if rows is None:
        return None
    whole = any(type(a) is not type(b) or getattr(a, "shape", 0) != getattr(b, "shape", 0)
                for a, b in pairs) or not any(isinstance(right, float) or (isinstance(right, Tensor)
                    and right.is_floating_point()) for right, _ in pairs)
    off = max(float((a - b).abs().max() / a.abs().mean().clamp_min(1e-30)) for a, b in rows)
    if whole or not off < NEARLY:
        return None
    return (f"returned nearly the right values: at most {off:.1g} of their usual size away. A "
            "constant is a little off or missing, or a step is done in too few bits.")


# -- small things ------------------------------------------------------------------------------


def _equal(right: Any, given: Any) -> bool:
    return right is not None and difference(right, given) is None
