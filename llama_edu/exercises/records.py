"""What the reader has solved, kept in one file that git ignores."""

import json
import os
import tempfile
from dataclasses import dataclass
from html import escape
from itertools import groupby
from pathlib import Path

from .registry import Listed, listed
from .report import BOX, CELL, LOOKS, Report

FILE = ".llama_edu_progress.json"
STARTED = ".llama_edu_chapters.json"        # in a folder that `llama-edu start` made


@dataclass(frozen=True)
class Record:
    """How an exercise went so far. Once solved, it stays solved."""

    solved: bool = False
    tries: int = 0

    @property
    def status(self) -> str:
        """The status of the exercise, in the words of a Report."""
        return "correct" if self.solved else "wrong" if self.tries else "not attempted"

    @property
    def text(self) -> str:
        """The status and the tries it took, in words."""
        tries = f"{self.tries} {'try' if self.tries == 1 else 'tries'}"
        return {"correct": f"solved in {tries}", "wrong": f"{tries}, not right yet",
                "not attempted": "not attempted yet"}[self.status]


def home(folder: Path) -> Path:
    """Where the progress of work in `folder` is kept: in the first folder upwards that
    `llama-edu start` made or that is the repository, else in `folder`."""
    marks = STARTED, "book.yml"
    return next((each for each in (folder, *folder.parents)
                 if any((each / mark).is_file() for mark in marks)), folder)


def in_solutions(folder: Path) -> bool:
    """Whether notebooks in `folder` are solutions; running those solves nothing for the reader."""
    return folder.name == "solutions" or "solutions" in folder.relative_to(home(folder)).parts


def place() -> Path | None:
    """Where the reader works; None if that folder is gone."""
    try:
        return Path.cwd()
    except OSError:
        return None


def read(folder: Path | None) -> dict[str, Record]:
    """All records by exercise id; none where the file is missing or broken."""
    if folder is None:
        return {}
    try:
        held = json.loads((home(folder) / FILE).read_text(encoding="utf-8"))["exercises"]
        return {id: Record(each["solved"] is True, max(0, int(each["tries"])))
                for id, each in held.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError,
            RecursionError):
        return {}


def record(report: Report, folder: Path | None) -> str:
    """Count a try made in this folder. Returns why it could not be saved, or an empty text."""
    if report.status not in ("correct", "wrong"):
        return ""
    if folder is None:
        return "not saved: the working directory is gone"
    try:
        if in_solutions(folder):
            return ""
        held = read(folder)
        old = held.get(report.exercise, Record())
        tries = old.tries if old.solved else old.tries + 1
        _write(home(folder), held | {report.exercise: Record(old.solved or report.passed, tries)})
    except OSError as error:
        return f"not saved: {error.strerror or type(error).__name__}"
    return ""


def _write(folder: Path, held: dict[str, Record]) -> None:
    """All at once: another notebook sees the old file or the new one, never half of one."""
    text = json.dumps({"exercises": {id: vars(each) for id, each in sorted(held.items())}},
                      indent=2)
    handle, draft = tempfile.mkstemp(dir=folder, prefix=FILE)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text + "\n")
        os.replace(draft, folder / FILE)
    except OSError:
        Path(draft).unlink(missing_ok=True)
        raise


@dataclass(frozen=True, repr=False)
class Progress:
    """All exercises by chapter, with what the reader has done: a table, as text or as HTML."""

    rows: tuple[tuple[Listed, Record], ...]

    @property
    def summary(self) -> str:
        """How many are solved."""
        n_solved = sum(each.solved for _, each in self.rows)
        return f"{n_solved} of {len(self.rows)} exercises solved"

    def __repr__(self) -> str:
        width = max((len(exercise.title) for exercise, _ in self.rows), default=0)
        lines = []
        for chapter, rows in self._chapters():
            begun = any(each.tries for _, each in rows)
            lines.append(f"chapter {chapter}" + ("" if begun else f": {_untouched(rows)}"))
            lines += [f"  {LOOKS[each.status][0]} {exercise.id:<5} {exercise.title:<{width}}"
                      f"  {each.text}" for exercise, each in rows if begun]
        return "\n".join([*lines, self.summary])

    def _chapters(self) -> list[tuple[int, list[tuple[Listed, Record]]]]:
        """The rows of each chapter."""
        return [(chapter, list(rows))
                for chapter, rows in groupby(self.rows, key=lambda row: row[0].chapter)]

    def _repr_html_(self) -> str:
        rows = "".join(_in_html(chapter, rows) for chapter, rows in self._chapters())
        heads = "".join(f'<th scope="col" style="{CELL}">{head}</th>'
                        for head in ("exercise", "title", "progress"))
        return (f'<div style="{BOX.format(colour="#0072B2")}"><table>'
                f'<caption style="text-align: left; color: inherit;">{self.summary}</caption>'
                f'<thead><tr><td></td>{heads}</tr></thead><tbody>{rows}</tbody></table></div>')


def _untouched(rows: list[tuple[Listed, Record]]) -> str:
    """A chapter that was not begun, in one line."""
    return f"{len(rows)} {'exercise' if len(rows) == 1 else 'exercises'}, not begun"


def _in_html(chapter: int, rows: list[tuple[Listed, Record]]) -> str:
    """A chapter's rows of the table; one row for a chapter that was not begun."""
    if not any(each.tries for _, each in rows):
        return (f'<tr><td aria-hidden="true">{LOOKS["not attempted"][0]}</td>'
                f'<th scope="row" style="{CELL}">chapter {chapter}</th>'
                f'<td style="{CELL}" colspan="2">{_untouched(rows)}</td></tr>')
    return "".join(
        f'<tr><td aria-hidden="true">{LOOKS[each.status][0]}</td>'
        f'<th scope="row" style="{CELL}">{exercise.id}</th>'
        f'<td style="{CELL}">{escape(exercise.title)}</td>'
        f'<td style="{CELL}">{each.text}</td></tr>' for exercise, each in rows)


def progress(folder: Path | None = None) -> Progress:
    """All exercises by chapter, and which of them are solved in a folder; without one, in that
    which the reader is in."""
    held = read(place() if folder is None else folder.resolve())
    return Progress(tuple((each, held.get(each.id, Record())) for each in listed()))
