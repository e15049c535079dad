"""Every exercise of the course, found in the chapter files beside this one."""

import difflib
import pkgutil
import re
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:       # importing an exercise imports torch, which takes seconds
    from .data import Exercise
    from .hunts import Hunt

LISTED = re.compile(r'\b(?:Exercise|Hunt)\(\s*"(\d+)\.(\d+)",\s*"([^"]*)"')


class UnknownExerciseError(KeyError):
    """There is no exercise of that id. The message is read after the id."""


@dataclass(frozen=True)
class Listed:
    """What a list of exercises shows of one."""

    chapter: int
    number: int
    title: str

    @property
    def id(self) -> str:
        return f"{self.chapter}.{self.number}"


def listed() -> list[Listed]:
    """All exercises and bug hunts in the order of the course, as the text of the chapter files
    names them: `Exercise("1.1", "RMSNorm by hand", ...)`. Nothing is imported, so it takes no time.
    """
    texts = (file.read_text(encoding="utf-8") for file in Path(__file__).parent.glob("ch*.py"))
    found = [Listed(int(chapter), int(number), title)
             for text in texts for chapter, number, title in LISTED.findall(text)]
    return sorted(found, key=lambda each: (each.chapter, each.number))


@cache
def exercises() -> "dict[str, Exercise | Hunt]":
    """All exercises and bug hunts by id, in the order of the course.

    A file `chNN_topic.py` in this folder takes part by having a list `EXERCISES`; a chapter may
    have several.
    """
    package = __package__ or ""
    names = [module.name for module in pkgutil.iter_modules(import_module(package).__path__)
             if module.name.startswith("ch")]
    found = [each for name in names for each in import_module(f"{package}.{name}").EXERCISES]
    found.sort(key=lambda each: [int(part) for part in each.id.split(".")])
    by_id = {each.id: each for each in found}
    if len(by_id) < len(found):
        ids = [each.id for each in found]
        twice = sorted({id for id in ids if ids.count(id) > 1})
        raise ValueError(f"two exercises are called {', '.join(twice)}; an id names one. "
                         "Renumber one of them.")
    return by_id


def find(exercise_id: Any) -> "Exercise | Hunt":
    """The exercise of that id; UnknownExerciseError names the nearest one if there is none."""
    known = exercises()
    asked = str(exercise_id) if type(exercise_id) in (str, float, int) else ""
    if asked in known:
        return known[asked]
    if not asked:
        from .show import a
        given = "an empty text" if exercise_id == "" else a(type(exercise_id).__name__)
        raise UnknownExerciseError(f"is {given}, not the id of an exercise. The id comes first, "
                                   'as text: check("1.1", your_function).')
    near = _nearest(asked, list(known))
    nearest = f' The nearest is "{near}": {known[near].title}.' if near else ""
    raise UnknownExerciseError(f"is not an exercise.{nearest} progress() lists them all.")


def _nearest(asked: str, known: list[str]) -> str:
    """The id that is spelled most alike, else the first of the nearest chapter; may be empty."""
    if alike := difflib.get_close_matches(asked, known, n=1):
        return alike[0]
    if not (chapter := re.match(r"\d{1,4}", asked)):
        return ""
    return min(known, key=lambda id: abs(int(id.split(".")[0]) - int(chapter[0])), default="")
