"""Exercises that know what went wrong: `check` an answer, ask for a `hint`, see your `progress`.

`suspects` hands out what a bug hunt is about; `reveal` shows a guess beside the truth. Each is
fetched when it is first used: `llama-edu progress` needs no torch, which takes seconds.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .asking import check as check
    from .asking import hint as hint
    from .asking import suspects as suspects
    from .guesses import reveal as reveal
    from .records import progress as progress

_HOME = {"check": "asking", "hint": "asking", "suspects": "asking", "reveal": "guesses",
         "progress": "records"}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"llama_edu.exercises has no {name!r}; it has {', '.join(__all__)}.")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
