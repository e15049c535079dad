"""Values in a few words: rounded, cut short, the same on every processor."""

import re
from collections.abc import Callable, Sequence
from functools import singledispatch
from numbers import Integral, Real
from typing import Any

from torch import Tensor, nn

WIDTH = 6           # numbers of one row that are written out
ROWS = 3
LONGEST = 200       # characters of any other value


def brief(value: Any) -> str:
    """A value as a learner would write it, short enough for one line, whatever it is."""
    return spoken(_brief, value) or f"{a(type(value).__name__)} that cannot be shown"


def spoken(how: Callable[[Any], str], value: Any) -> str:
    """`how(value)`, without addresses in memory; empty if the value cannot even be shown."""
    try:
        return re.sub(r" at 0x[0-9a-f]+", "", how(value))
    except Exception:
        return ""


def a(name: str) -> str:
    """The name of a type with its article."""
    return name if name == "None" else f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"


@singledispatch
def _brief(value: Any) -> str:
    return shorten(repr(value))


@_brief.register
def _(value: Tensor) -> str:
    dtype = str(value.dtype).removeprefix("torch.")
    shape = " x ".join(map(str, value.shape))
    if value.numel() == 0:
        return f"an empty tensor ({shape}, {dtype})"
    return f"{_rows(value.detach().cpu())} ({shape + ', ' if shape else ''}{dtype})"


@_brief.register
def _(value: nn.Module) -> str:
    return f"a module, {type(value).__name__}"


@_brief.register
def _(value: Real) -> str:
    return number(value)


@_brief.register(tuple)
@_brief.register(list)
def _(value: Sequence) -> str:
    items = [brief(item) for item in value[:WIDTH]] + ["..."] * (len(value) > WIDTH)
    opening, closing = ("[", "]") if isinstance(value, list) else ("(", ")")
    closing = "," * (opening == "(" and len(value) == 1) + closing
    return shorten(opening + ", ".join(items) + closing, 3 * LONGEST)


@_brief.register(type(lambda: None))
def _(value: Any) -> str:
    return f"a function, {value.__name__}"


def number(value: Any) -> str:
    """Four decimals, so that rounding on another processor does not show; whole numbers whole."""
    if isinstance(value, Integral | bool):
        return str(value)
    if isinstance(value, complex):
        return f"{value.real:.4f}{value.imag:+.4f}j"
    tiny = 0 < abs(value) < 1e-3 or 1e7 <= abs(value) < float("inf")
    if tiny:
        return f"{value:.3e}"
    short = round(value, 4) + 0.0           # + 0.0 makes a negative zero plain
    return f"{short:.1f}" if short == round(short, 1) else f"{short:.4f}"


def shorten(text: str, longest: int = LONGEST) -> str:
    """The first `longest` characters, and dots where more was cut."""
    return text if len(text) <= longest else text[:longest] + " ..."


def _rows(tensor: Tensor) -> str:
    if tensor.ndim == 0:
        return number(tensor.item())
    most = WIDTH if tensor.ndim == 1 else ROWS if tensor.ndim == 2 else 1
    items = [_rows(item) for item in tensor[:most]] + ["..."] * (len(tensor) > most)
    return "[" + ", ".join(items) + "]"
