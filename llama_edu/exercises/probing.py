"""Run an answer on probes, undisturbed: what it returned, raised, changed and printed."""

import inspect
import io
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from .compare import difference, identical, snapshot, state
from .data import Exercise, Inputs
from .show import shorten, spoken
from .surroundings import undisturbed

PACKAGE = Path(__file__).parent.parent
# Where code lies that no reader wrote; libraries also make some from strings.
LIBRARIES = (*{sysconfig.get_path(kind) for kind in ("stdlib", "purelib", "platlib")},
             "<string>", "<frozen")
INSTALLED = (str(PACKAGE), *LIBRARIES)
KEPT_OUTPUT = 2_000         # characters; an answer may print more than memory holds


@dataclass(frozen=True)
class Outcome:
    """What an answer did with one probe."""

    value: Any = None                       # a snapshot: the answer may write to its own later
    raised: BaseException | None = None
    changed: str | None = None              # the first argument that was written to
    printed: str = ""

    @property
    def message(self) -> str:
        """The first line of what was raised."""
        return shorten(spoken(str, self.raised).partition("\n")[0])


def run(exercise: Exercise, answer: Any, inputs: Inputs, *, trusted: bool = False) -> Outcome:
    """Ask once. Whatever the answer raises is kept, except an interrupt from the keyboard.

    trusted: the answer is the course's own.
    """
    before = {name: state(value) for name, value in inputs.items()}
    screen = _Screen()
    with undisturbed(trusted=trusted), redirect_stdout(screen), redirect_stderr(screen):
        try:
            with within(exercise.most_lines):
                value = exercise.adapt(answer, *inputs.values())
            value = snapshot(value)
        except (Exception, SystemExit) as error:
            return Outcome(raised=error, printed=screen.text)
    if inspect.iscoroutine(value):
        value.close()                       # else Python warns that nobody awaited it
    changed = next((name for name, held in inputs.items()
                    if not identical(before[name], state(held))), None)
    return Outcome(value=value, changed=changed, printed=screen.text)


def run_all(exercise: Exercise, answer: Any, *, seed: int, trusted: bool = False) -> list[Outcome]:
    """One outcome for each probe, in order."""
    return [run(exercise, answer, probe.inputs(seed=seed), trusted=trusted)
            for probe in exercise.probes]


def agree(expected: Outcome, got: Outcome) -> bool:
    """Whether two outcomes tell the same story: equal values, or errors of one type."""
    if expected.raised is not None or got.raised is not None:
        return type(expected.raised) is type(got.raised)
    return difference(expected.value, got.value) is None


class StoppedError(BaseException):
    """Too many lines; not an Exception, so that an answer's own `except` does not go on."""


@contextmanager
def within(most_lines: int) -> Iterator[None]:
    """Raise TimeoutError in what runs here after so many lines of Python; libraries' do not count.

    Lines and not seconds, so that every machine stops at the same place, before memory is full.
    """
    left, before = most_lines, sys.gettrace()

    def trace(frame: FrameType, event: str, argument: object) -> Callable | None:
        nonlocal left
        if event == "call" and frame.f_code.co_filename.startswith(LIBRARIES):
            return None
        left -= event == "line"
        if left < 0:
            raise StoppedError
        return trace

    sys.settrace(trace)
    try:
        yield
    except StoppedError:
        raise TimeoutError(f"it did not end after {most_lines:,} lines of Python. Does every way "
                           "through the loop move on?") from None
    finally:
        sys.settrace(before)


def own_line(error: BaseException) -> str:
    """The learner's line that raised, as `line 3 of rms_norm: return ...`; empty if there is none.

    File names stay out: those of notebook cells mean nothing, and others show the machine.
    """
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith(INSTALLED)]
    if not own:
        return ""
    return f"line {own[-1].lineno} of {own[-1].name}: {own[-1].line or ''}".rstrip(": ")


class _Screen(io.TextIOBase):
    """Takes whatever is printed and keeps the beginning."""

    text = ""

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.text = (self.text + text[:KEPT_OUTPUT])[:KEPT_OUTPUT]
        return len(text)
