"""Small pages of HTML and script that let a reader move what a chapter's figures hold still.

Each is one file beside this one: no kernel, no network, no library.
"""

from dataclasses import dataclass
from html import escape
from importlib.resources import files


@dataclass(frozen=True, repr=False)
class Explorer:
    """A page in a frame of its own, so that its styles and those of the book never meet."""

    name: str
    page: str

    def __repr__(self) -> str:
        return f"<explorer {self.name}: drawn where HTML and scripts are allowed>"

    def _repr_html_(self) -> str:
        return (f'<div><iframe title="Explorer: {escape(self.name)}" srcdoc="{escape(self.page)}"'
                ' loading="lazy" style="width: 100%; height: 60em; border: 0;"></iframe>'
                "<p><small>Move the sliders with a pointer or the arrow keys. Where scripts are "
                "off, as on GitHub, the figures of the chapter show the same.</small></p></div>")


def show(name: str) -> Explorer:
    """The explorer of that name, to stand as the last value of a notebook cell.

    Raises KeyError for a name that no page has.
    """
    pages = {page.name.removesuffix(".html"): page for page in files(__package__).iterdir()
             if page.name.endswith(".html")}
    if name not in pages:
        raise KeyError(f"no explorer is called {name!r}. Known are: {', '.join(sorted(pages))}.")
    return Explorer(name, pages[name].read_text(encoding="utf-8"))
