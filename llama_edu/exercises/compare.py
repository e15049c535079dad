"""Whether two outputs are equal, and if not, how and where they first differ."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import singledispatch
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor, nn

from .show import a, brief, number, shorten

# Largest relative error of a right answer, by the dtype of the result. Each leaves room for
# another order of summation and for a few roundings, and is far below what a mistake makes.
TOLERANCE = {
    torch.float64: 1e-6,        # the package computes in float32 inside, so float32 limits this
    torch.float32: 1e-4,        # one rounding is 6e-8; a sum of thousands loses three digits
    torch.float16: 5e-3,        # one rounding is 5e-4; ten of them
    torch.bfloat16: 3e-2,       # one rounding is 4e-3; seven of them
    torch.complex64: 1e-4,      # as float32
    torch.complex128: 1e-6,     # as float64
}
NUMBER_TOLERANCE = 1e-6         # a Python float may have come out of float32 arithmetic

REMARKS = {                     # what to say about a type that is a telling slip
    "NoneType": "did you forget `return`?",
    "ndarray": "Use torch's functions, or torch.from_numpy at the end.",
    "generator": "Did you write `yield` for `return`?",
    "coroutine": "Write `def`, not `async def`.",
    "function": "Did you return the function, and not its result?",
    "ellipsis": "`...` stands where the answer belongs.",
}


@dataclass(frozen=True)
class Difference:
    """Why an output is not the expected one. `place` is the first value that differs, if any."""

    kind: str                   # "type", "shape", "length", "dtype", "nan", "value"
    problem: str                # read after the exercise's id: "returned ...".
    place: str = ""


@singledispatch
def difference(expected: Any, got: Any) -> Difference | None:
    """What separates `got` from `expected`; None if nothing does, up to rounding."""
    if type(got) is not type(expected):
        return wrong_type(expected, got)
    return None if got == expected else _other_value(expected, got)


@difference.register
def _(expected: Tensor, got: Any) -> Difference | None:
    if not isinstance(got, Tensor):
        return wrong_type(expected, got)
    if got.shape != expected.shape:
        return Difference("shape", f"returned the shape {tuple(got.shape)}; "
                                   f"{tuple(expected.shape)} is needed.")
    if got.dtype != expected.dtype:
        return Difference("dtype", f"returned {_dtype(got)}; {_dtype(expected)} is needed.")
    if got.is_meta or got.layout != torch.strided:
        kind = "without values (device meta)" if got.is_meta else "with a sparse layout"
        return Difference("type", f"returned a tensor {kind}; an ordinary one is needed.")
    return _tensor_values(expected.detach().cpu(), got.detach().cpu())


@difference.register
def _(expected: bool, got: Any) -> Difference | None:
    if not isinstance(got, bool):
        return wrong_type(expected, got)
    return None if got == expected else _other_value(expected, got)


@difference.register
def _(expected: Integral, got: Any) -> Difference | None:
    if not isinstance(got, Integral) or isinstance(got, bool):
        hint = " `//` keeps whole numbers whole." if isinstance(got, Real) else ""
        return wrong_type(expected, got, hint)
    return None if got == expected else _other_value(expected, got)


@difference.register
def _(expected: float, got: Any) -> Difference | None:
    if not isinstance(got, Real) or isinstance(got, bool):
        return wrong_type(expected, got)
    if math.isnan(got) and not math.isnan(expected):
        return Difference("nan", "returned NaN where a number is needed.")
    both_nan = math.isnan(got) and math.isnan(expected)
    if both_nan or got == expected or math.isclose(got, expected, rel_tol=NUMBER_TOLERANCE):
        return None
    return _other_value(expected, got)


@difference.register(tuple)
@difference.register(list)
def _(expected: Sequence, got: Any) -> Difference | None:
    if not isinstance(got, type(expected)):
        return wrong_type(expected, got)
    if len(got) != len(expected):
        return Difference("length", f"returned a length of {len(got)}; {len(expected)} is needed.",
                          _first_of(expected, got))
    return next((_inside(i, found) for i, pair in enumerate(zip(expected, got, strict=True))
                 if (found := difference(*pair)) is not None), None)


@difference.register
def _(expected: dict, got: Any) -> Difference | None:
    if not isinstance(got, dict):
        return wrong_type(expected, got)
    if odd := sorted(map(str, expected.keys() ^ got.keys())):
        return Difference("length", "returned other keys than expected.",
                          f"only one of the two has {shorten(', '.join(odd))}")
    return next((_inside(key, found) for key in expected
                 if (found := difference(expected[key], got[key])) is not None), None)


def wrong_type(expected: Any, got: Any, hint: str = "") -> Difference:
    """The difference of two types, with a remark where the type is a telling slip."""
    name = type(got).__name__
    given = "nothing" if got is None else a(name)
    remark = f" {REMARKS[name]}" if name in REMARKS else hint
    needed = "" if got is None else f" {a(type(expected).__name__)} is needed."
    return Difference("type", f"returned {given};{needed}{remark}")


def _tensor_values(expected: Tensor, got: Tensor) -> Difference | None:
    wrong = ~_close(expected, got)
    if not wrong.any():
        return None
    index = tuple(wrong.nonzero()[0].tolist())
    where = f"at {list(index)}: " if index else ""
    place = f"{where}expected {number(expected[index].item())}, got {number(got[index].item())}"
    if (got.isnan() & ~expected.isnan()).any():
        return Difference("nan", "returned NaN where a number is needed.", place)
    return Difference("value", "returned other values than expected.", place)


def _close(expected: Tensor, got: Tensor) -> Tensor:
    """True where got is right: relative to the value itself plus the tensor's mean size.

    The second part forgives values near zero that are what is left of larger ones.
    """
    same = (got == expected) | (got.isnan() & expected.isnan())
    tolerance = TOLERANCE.get(expected.dtype)
    if tolerance is None:                       # whole numbers and booleans are exact
        return same
    size = expected.to(torch.complex128).abs()
    finite = size[size.isfinite()]
    usual = finite.mean() if finite.numel() else torch.zeros(())
    error = (got.to(torch.complex128) - expected.to(torch.complex128)).abs()
    return same | (expected.isfinite() & (error <= tolerance * (size + usual)))


def _inside(index: Any, found: Difference) -> Difference:
    return Difference(found.kind, f"item {index}: {found.problem}",
                      f"item {index} {found.place}".strip() if found.place else "")


def _first_of(expected: Sequence, got: Sequence) -> str:
    for i, (one, other) in enumerate(zip(expected, got, strict=False)):
        if difference(one, other) is not None:
            return f"at [{i}]: expected {brief(one)}, got {brief(other)}"
    return f"at [{min(len(expected), len(got))}], where one of the two ends"


def _other_value(expected: Any, got: Any) -> Difference:
    return Difference("value", "returned another value than expected.",
                      f"expected {brief(expected)}, got {brief(got)}")


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


# -- copies, to see whether an answer changed what it was given --------------------------------


@singledispatch
def snapshot(value: Any) -> Any:
    """A copy that later writes to `value` cannot reach, as far as tensors and lists go."""
    return value


@snapshot.register
def _(value: Tensor) -> Tensor:
    with torch._C.DisableTorchFunctionSubclass():       # a subclass may say that it equals all
        copy = Tensor.clone(Tensor.detach(value))
        return copy if type(copy) is Tensor else copy.as_subclass(Tensor)


@snapshot.register(tuple)
@snapshot.register(list)
def _(value: Sequence) -> Any:
    return type(value)(map(snapshot, value)) if type(value) in (tuple, list) else value


@snapshot.register
def _(value: dict) -> dict:
    return {key: snapshot(item) for key, item in value.items()}


def state(value: Any) -> Any:
    """A snapshot of everything in an argument that an answer could change."""
    return snapshot(dict(value.state_dict()) if isinstance(value, nn.Module) else value)


@singledispatch
def identical(before: Any, after: Any) -> bool:
    """Whether two snapshots agree to the last bit."""
    return before is after or before == after


@identical.register
def _(before: Tensor, after: Any) -> bool:
    return (before.shape == after.shape and before.dtype == after.dtype
            and bool(((before == after) | (before.isnan() & after.isnan())).all()))


@identical.register(tuple)
@identical.register(list)
def _(before: Sequence, after: Sequence) -> bool:
    return len(before) == len(after) and all(map(identical, before, after))


@identical.register
def _(before: dict, after: dict) -> bool:
    return before.keys() == after.keys() and all(identical(before[k], after[k]) for k in before)
