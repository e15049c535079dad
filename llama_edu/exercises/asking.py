"""What a chapter asks of the exercises: `check`, `hint`, `suspects`."""

from collections import Counter
from dataclasses import replace
from typing import Any

from . import records
from .hunts import Hunt, judge_hunt
from .judge import judge
from .registry import UnknownExerciseError, find
from .report import Hint, Report
from .show import shorten, spoken

# Hints begin anew with each kernel, so that Restart and Run All shows what it showed before.
_hints_given: Counter[str] = Counter()


def check(exercise_id: str, answer: Any = None) -> Report:
    """Say whether an answer is right; if not, which mistake it is and where it shows.

    Never raises, an interrupt from the keyboard aside: ask the report for `.passed`. Leaves all
    random states and settings as they were. `answer` is the function itself:
    `check("1.1", rms_norm)`; for a bug hunt, one verdict a suspect: `check("3.6", {"a": "?"})`.
    """
    try:
        place = records.place()             # before the answer runs, which may go elsewhere
        exercise = find(exercise_id)
        report = (judge_hunt if isinstance(exercise, Hunt) else judge)(exercise, answer)
        unsaved = "" if _shown(answer) else records.record(report, place)
    except UnknownExerciseError as unknown:
        return _unknown(exercise_id, unknown)
    except Exception as error:      # a learner must not meet a traceback of ours
        return Report(shorten(str(exercise_id), 40), "error", "could not be checked: "
                      f"{type(error).__name__}: {shorten(spoken(str, error))}. The fault may be "
                      "the check's own: try a plainer answer, and tell the authors.")
    return replace(report, details=(*report.details, ("progress", unsaved))) if unsaved else report


def hint(exercise_id: str) -> Hint | Report:
    """One hint more at each call, from a nudge to nearly the answer."""
    try:
        exercise = find(exercise_id)
    except UnknownExerciseError as unknown:
        return _unknown(exercise_id, unknown)
    given, total = _hints_given[exercise.id], len(exercise.hints)
    if given == total:
        return Hint(exercise.id, f"has no more hints than these {total}. Read {exercise.place} "
                                 "again, or see how the solutions notebook does it.")
    _hints_given[exercise.id] += 1
    return Hint(exercise.id, f"hint {given + 1} of {total}: {exercise.hints[given]}")


def suspects(exercise_id: str) -> dict[str, Any]:
    """The suspects of a bug hunt, made anew: by letter, each a function or a model.

    Raises KeyError for an id that names no exercise, ValueError for one that is no hunt.
    """
    hunt = find(exercise_id)
    if not isinstance(hunt, Hunt):
        raise ValueError(f"{hunt.id} is no bug hunt and has no suspects: it asks for a function. "
                         f'Use check("{hunt.id}", your_function).')
    return {letter: hunt.make(bug) for letter, bug in hunt.hidden.items()}


def _shown(answer: Any) -> bool:
    """Whether a chapter shows this answer, wrong on purpose: it is no try of the reader's."""
    return getattr(answer, "__name__", "").endswith("on_purpose")


def _unknown(exercise_id: Any, unknown: UnknownExerciseError) -> Report:
    is_id = type(exercise_id) in (str, float, int)
    label = shorten(str(exercise_id), 40) if is_id and exercise_id != "" else "that"
    return Report(label, "error", unknown.args[0])
