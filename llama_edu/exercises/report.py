"""What `check` and `hint` hand back: plain text anywhere, HTML in a notebook."""

from dataclasses import dataclass
from html import escape

# Okabe-Ito colours, for a border only: text keeps the page's own colour, light or dark.
LOOKS = {
    "correct": ("✓", "#009E73"),
    "wrong": ("✗", "#D55E00"),
    "not attempted": ("○", "#999999"),
    "error": ("✗", "#CC79A7"),
}
BOX = "border-left: 4px solid {colour}; padding: 0.2em 0.8em; margin: 0.3em 0;"
CELL = "text-align: left; vertical-align: top; padding: 0.1em 1em 0.1em 0;"
CODE = "white-space: pre-wrap; overflow-wrap: anywhere; background: none; color: inherit;"


@dataclass(frozen=True, repr=False)
class Report:
    """The verdict on one answer. `diagnosis` names the misconception that was recognised, if any.

    `status` is "correct", "wrong" (also: it raised), "not attempted", or "error": there was
    nothing to judge, such as no such exercise or no function. `details` are labelled lines.
    """

    exercise: str
    status: str
    message: str
    diagnosis: str | None = None
    details: tuple[tuple[str, str], ...] = ()

    @property
    def passed(self) -> bool:
        """Whether the answer is right."""
        return self.status == "correct"

    def __repr__(self) -> str:
        symbol, _ = LOOKS[self.status]
        width = max((len(label) for label, _ in self.details), default=0)
        indent = "\n" + " " * (width + 4)
        lines = [f"  {label:<{width}}  {text.replace(chr(10), indent)}"
                 for label, text in self.details]
        return "\n".join([f"{symbol} {self.exercise} {self.message}", *lines])

    def _repr_html_(self) -> str:
        symbol, colour = LOOKS[self.status]
        said = "wrong: " if self.status == "wrong" else ""
        rows = "".join(
            f'<tr style="background: none;"><th scope="row" style="{CELL}">{escape(label)}</th>'
            f'<td style="{CELL}"><code style="{CODE}">{escape(text)}</code></td></tr>'
            for label, text in self.details)
        table = f'<table style="border: none;"><tbody>{rows}</tbody></table>' if rows else ""
        return (f'<div style="{BOX.format(colour=colour)}">'
                f'<span aria-hidden="true">{symbol} </span>'
                f"<strong>{escape(self.exercise)}</strong> {said}{escape(self.message)}"
                f"{table}</div>")


@dataclass(frozen=True, repr=False)
class Hint:
    """One hint, and where it stands among the others."""

    exercise: str
    text: str

    def __repr__(self) -> str:
        return f"{self.exercise} {self.text}"

    def _repr_html_(self) -> str:
        return (f'<div style="{BOX.format(colour="#0072B2")}">'
                f"<strong>{escape(self.exercise)}</strong> {escape(self.text)}</div>")
