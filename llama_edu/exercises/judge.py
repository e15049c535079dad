"""The verdict on an answer: right, or which mistake it is, or at least what is wrong with it."""

import inspect
import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from torch import Tensor

from .compare import Difference, difference, identical
from .data import OTHER_SEED, SEED, Exercise, Misconception, Probe, call_plainly
from .gradients import wrong_gradient
from .kin import kinship
from .probing import Outcome, agree, own_line, run, run_all
from .report import Report
from .show import a, brief, shorten
from .slips import slip
from .surroundings import undisturbed

NAMED_PROBES = 4            # of the probes passed, how many a report names
REFUSALS = (ValueError, LookupError, TypeError)     # by which a right answer refuses bad input
# A failure is reported by its most telling kind: the wrong shape explains the wrong values.
KINDS = ("raised", "type", "shape", "length", "dtype", "changed", "nan", "value")


def judge(exercise: Exercise, answer: Any) -> Report:
    """Run the answer on every probe, and explain the failure if there is one."""
    with undisturbed():
        return _judge(exercise, answer)


def _judge(exercise: Exercise, answer: Any) -> Report:
    if not callable(answer):
        return Report(exercise.id, "error", f"needs a function and got {_kind(answer)}. "
                      f'Hand over the function itself, without calling it: '
                      f'check("{exercise.id}", your_function).')
    if problem := wrong_parameters(exercise, answer):
        return Report(exercise.id, "wrong", problem)
    # Before any line of the answer: it may change what the reference calls.
    expected = outcomes(exercise, exercise.reference)
    for each in expected:
        if each.raised is not None and not isinstance(each.raised, REFUSALS):
            raise each.raised           # no refusal: the check itself is broken
    got = run_all(exercise, answer, seed=SEED)
    if (unwritten := _unwritten(got[0])) is not None:
        return _not_attempted(exercise, unwritten)
    faults = [fault(*pair) for pair in zip(expected, got, strict=True)]
    if not any(faults):
        if severed := wrong_gradient(exercise, answer):
            return Report(exercise.id, "wrong", severed)
        return Report(exercise.id, "correct", _praise(exercise.probes))
    return _explain(exercise, answer, expected, got, faults)


@lru_cache(maxsize=4096)
def outcomes(exercise: Exercise, function: Callable) -> tuple[Outcome, ...]:
    """What the reference, or a known mistake, does with each probe: the same at each check."""
    return tuple(run_all(exercise, function, seed=SEED, trusted=True))


def wrong_parameters(exercise: Exercise, answer: Callable) -> str:
    """What is wrong with the answer's parameters; empty if a call with the inputs would fit."""
    given = list(exercise.probes[0].inputs(seed=SEED))
    if exercise.adapt is not call_plainly:
        return ""
    try:
        signature = inspect.signature(answer)
    except (ValueError, TypeError):         # a builtin that does not say
        return ""
    try:
        signature.bind(*given)
    except TypeError:
        taken = [each.replace(annotation=each.empty, default=each.empty)
                 for each in signature.parameters.values()]
        return (f"has the parameters {inspect.Signature(taken)}; the check calls it with "
                f"({', '.join(given)}). Take these values, in this order.")
    return ""


def fault(expected: Outcome, got: Outcome) -> Difference | None:
    """What is wrong with the outcome of one probe; None if it is right."""
    if expected.raised is not None and type(got.raised) is type(expected.raised):
        return None
    if got.raised is not None:
        return Difference("raised", _raised(got))
    if expected.raised is not None:
        needed = type(expected.raised).__name__
        return Difference("type", f"returned a value; a {needed} is to be raised here.")
    found = difference(expected.value, got.value)
    if got.changed and (found is None or found.kind in ("nan", "value")):
        return Difference("changed", f"changed its argument `{got.changed}` in place. The caller "
                                     "may still need it: make a new value, as in `y = x + 1`.")
    return found


def diagnose(exercise: Exercise, expected: Sequence[Outcome],
             got: Sequence[Outcome]) -> Misconception | None:
    """The misconception that behaves as the answer did on every probe, if there is one."""
    return next((each for each in exercise.misconceptions for wrong in (each.wrong, *each.also)
                 if matches(expected, outcomes(exercise, wrong), got)), None)


def matches(expected: Sequence[Outcome], known: Sequence[Outcome],
            got: Sequence[Outcome]) -> bool:
    """Whether an answer does on every probe what a known mistake does, wrongly at least once."""
    return all(map(agree, known, got)) and any(map(_evidence, expected, known, got))


def ignored(exercise: Exercise, answer: Callable, expected: Sequence[Outcome],
            got: Sequence[Outcome]) -> str | None:
    """The first parameter that changes the right result, and never the answer's."""
    def moved(function: Callable, probe: Probe, name: str) -> Outcome:
        inputs = probe.inputs(seed=SEED) | {name: _another(exercise, probe, name)}
        return run(exercise, function, inputs, trusted=function is exercise.reference)

    def deaf(name: str) -> bool:
        right = [moved(exercise.reference, probe, name) for probe in exercise.probes]
        telling = [i for i, after in enumerate(right)
                   if after.raised is None and not agree(expected[i], after)]
        return bool(telling) and all(agree(got[i], moved(answer, exercise.probes[i], name))
                                     for i in telling)

    return next((name for name in exercise.probes[0].inputs(seed=SEED) if deaf(name)), None)


def _another(exercise: Exercise, probe: Probe, name: str) -> Any:
    """Another value for one input: of another seed, or of another probe, or else the same."""
    held = probe.inputs(seed=SEED)[name]
    others = [probe.inputs(seed=OTHER_SEED)[name],
              *(each.inputs(seed=SEED)[name] for each in exercise.probes)]
    return next((each for each in others
                 if type(each) is not type(held) or not identical(held, each)), held)


def _explain(exercise: Exercise, answer: Callable, expected: Sequence[Outcome], got: list[Outcome],
             faults: list[Difference | None]) -> Report:
    every = [i for i, found in enumerate(faults) if found is not None]
    known = diagnose(exercise, expected, got)
    worst = min((faults[i].kind for i in every), key=KINDS.index)
    failed = every if known else [i for i in every if faults[i].kind == worst]
    at = min(failed, key=lambda i: _size(exercise.probes[i]))
    if known is not None:
        message = f"{known.why.rstrip('.')} ({exercise.place_of(known.section)})."
    elif worst == "value" and (name := ignored(exercise, answer, expected, got)):
        message = (f"returned values on which `{name}` has no effect here: with another `{name}` "
                   "they stay the same.")
    elif worst in ("value", "length", "shape") and (
            said := kinship(exercise, expected, got, failed) or slip(exercise, expected, got)):
        message = said
    else:
        message = faults[at].problem + (_where(exercise, failed) if failed == every else "")
    return Report(exercise.id, "wrong", message, known.name if known else None,
                  _details(exercise.probes[at], expected[at], got[at], faults[at], len(failed)))


def _where(exercise: Exercise, failed: Sequence[int]) -> str:
    """On which few of the probes it went wrong; empty where it did on most."""
    if 2 * len(failed) > len(exercise.probes):
        return ""
    names = ", ".join(f'"{exercise.probes[i].name}"' for i in failed)
    n_right = len(exercise.probes) - len(failed)
    return f" Only on {names}: the values of the other {n_right} are right."


def _details(probe: Probe, expected: Outcome, got: Outcome, found: Difference,
             n_failed: int) -> tuple[tuple[str, str], ...]:
    others = f" (the smallest of {n_failed} that failed)" if n_failed > 1 else ""
    raised, right = got.raised, expected.raised
    rows = [("your line", own_line(raised) if raised else ""),
            ("probe", probe.name + others),
            *((name, brief(value)) for name, value in probe.inputs(seed=SEED).items()),
            ("expected", f"a {type(right).__name__}" if right else brief(expected.value)),
            ("got", _raised(got).removeprefix("raised ") if raised else brief(got.value)),
            ("differs", found.place),
            ("printed", shorten(got.printed.rstrip()))]
    return tuple((label, text) for label, text in rows if text)


def _raised(got: Outcome) -> str:
    name = type(got.raised).__name__
    said = "the function calls itself without end" if name == "RecursionError" else got.message
    return f"raised {name}: {said}".rstrip(": ")


def _evidence(expected: Outcome, known: Outcome, got: Outcome) -> bool:
    """Whether one probe speaks for a misconception: a shared wrong value, or the same complaint.

    That both merely raise is none, for any slip may raise.
    """
    if got.raised is not None:
        return known.message == got.message
    return expected.raised is not None or difference(expected.value, got.value) is not None


def _unwritten(first: Outcome) -> str | None:
    """The text of a stub's NotImplementedError; None if the answer is more than a stub."""
    text = first.message
    is_stub = type(first.raised) is NotImplementedError and (not text or "Exercise" in text)
    return text if is_stub else None


def _not_attempted(exercise: Exercise, text: str) -> Report:
    named = re.search(r"Exercise (\d+\.\d+)", text)
    if named and named[1] != exercise.id:
        return Report(exercise.id, "not attempted",
                      f"not attempted yet: it calls the answer of {named[1]}, which comes first")
    return Report(exercise.id, "not attempted", "not attempted yet")


def _praise(probes: Sequence[Probe]) -> str:
    names = [probe.name for probe in probes[:NAMED_PROBES]]
    more = ["..."] * (len(probes) > NAMED_PROBES)
    plural = "s" * (len(probes) > 1)
    return f"correct: {len(probes)} probe{plural} ({', '.join(names + more)})"


def _size(probe: Probe) -> int:
    values = probe.inputs(seed=SEED).values()
    return sum(value.numel() if isinstance(value, Tensor) else len(brief(value))
               for value in values)


def _kind(value: Any) -> str:
    return a("None" if value is None else type(value).__name__)
