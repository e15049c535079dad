"""Guesses made before a cell shows the answer: how far off one was, without a cross."""

from dataclasses import dataclass
from html import escape
from numbers import Real
from typing import Any

from .report import BOX
from .show import brief


@dataclass(frozen=True, repr=False)
class Guess:
    """What was guessed, and what is so: in words, and framed in a notebook."""

    what: str
    said: Any
    truth: Any

    def __repr__(self) -> str:
        return f"{self.what}: {self._verdict()}"

    def _verdict(self) -> str:
        if self.said is None or self.said == "?":
            return f"{_spoken(self.truth)} (no guess yet: set one above, before you look)"
        if _plain(self.said) == _plain(self.truth) or _spoken(self.said) == _spoken(self.truth):
            return f"{_spoken(self.truth)}, as you said"
        told = f"you said {_spoken(self.said)}; it is {_spoken(self.truth)}"
        if not (_is_number(self.said) and _is_number(self.truth)) or self.truth <= 0:
            return told
        ratio = self.said / self.truth
        if ratio <= 0 or not 1 / 3 <= ratio <= 3:
            return told + (f", {_times(ratio)}" if ratio > 0 else "")
        return f"{told}, {abs(ratio - 1):.0%} too {'high' if ratio > 1 else 'low'}"

    def _repr_html_(self) -> str:
        return f'<div style="{BOX.format(colour="#0072B2")}">{escape(repr(self))}</div>'


def reveal(what: str, said: Any, truth: Any) -> Guess:
    """Show a guess beside the truth: `reveal("largest feature", guess, 1.697)`.

    `said` is a number or one of several words; None or "?" is no guess yet. Nothing is recorded.
    """
    return Guess(what, said, truth)


def _plain(value: Any) -> Any:
    """A guess without what does not matter: capitals, space around it, list or tuple."""
    if isinstance(value, str):
        return value.strip().casefold()
    return tuple(value) if isinstance(value, list | tuple) else value


def _times(ratio: float) -> str:
    factor = ratio if ratio > 1 else 1 / ratio
    return f"{factor:,.0f} times too {'high' if ratio > 1 else 'low'}"


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _spoken(value: Any) -> str:
    """Numbers with three digits, or whole; other things as they are."""
    if isinstance(value, str):
        return value
    if not _is_number(value):
        return brief(value)
    return f"{value:,}" if float(value).is_integer() else f"{float(value):.3g}"
