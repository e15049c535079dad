"""Values and texts of the ledger as a reader meets them: rounded, in plain text or in HTML."""

import math
import re
from datetime import date
from functools import singledispatch
from html import escape
from typing import Any

# A mark and a colour for each verdict (Okabe-Ito), for borders: words keep the page's own colour.
LOOKS = {
    "right": ("✓", "#009E73"),
    "wrong": ("✗", "#D55E00"),
    "imprecise": ("≈", "#E69F00"),
    "open": ("?", "#999999"),
}
SCIENTIFIC = 1e12       # from here on, and below its inverse, numbers are written as 3.8e+25


def spoken(value: Any, *, tolerance: float | None, unit: str | None = None) -> str:
    """A value with its unit; floats to the digits that the tolerance vouches for.

    >>> spoken(20.800008, tolerance=0.005, unit="days")
    '20.80 days'
    """
    return " ".join([_spoken(value, tolerance or 0.0), *([unit] if unit else [])])


@singledispatch
def _spoken(value: Any, tolerance: float) -> str:
    return str(value)


@_spoken.register
def _(value: bool, tolerance: float) -> str:
    return "true" if value else "false"


@_spoken.register
def _(value: int, tolerance: float) -> str:
    return f"{value:,}" if abs(value) >= 10_000 else str(value)


@_spoken.register
def _(value: date, tolerance: float) -> str:
    return value.isoformat()


@_spoken.register
def _(value: tuple, tolerance: float) -> str:
    return ", ".join(_spoken(item, tolerance) for item in value) or "none"


@_spoken.register
def _(value: float, tolerance: float) -> str:
    if value == 0 or not 1 / SCIENTIFIC < abs(value) < SCIENTIFIC:
        digits = 2 if not value or not tolerance else _digits(
            tolerance / 10 ** math.floor(math.log10(abs(value))))
        return f"{value:.{digits}e}" if value else "0"
    return f"{value:,.{_digits(tolerance)}f}" if tolerance else f"{value:,.6g}"


def _digits(tolerance: float) -> int:
    """Decimals whose half is at most the tolerance: 2 for 0.005."""
    return min(12, max(0, math.ceil(-math.log10(2 * tolerance) - 1e-9)))


def in_html(text: str) -> str:
    """A text of the ledger as HTML: `code` in backticks becomes code, all else is itself."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))


def badge(verdict: str) -> str:
    """The verdict as a small label, told by its word, its mark and its colour."""
    mark, colour = LOOKS[verdict]
    return (f'<span style="border: 1.5px solid {colour}; border-radius: 1em; padding: 0 0.6em; '
            f'white-space: nowrap;"><span aria-hidden="true">{mark} </span>{verdict}</span>')
