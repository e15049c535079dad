"""Which one slip in the right code does what a wrong answer did: `<` for `<=`, a term left out.

The lines that the reference ran are changed in one place after another, as they lie in memory, and
put back. What is said is told by behaviour: the answer may have gone another way to the same end.
"""

import ast
import gc
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import _lru_cache_wrapper
from pathlib import Path
from types import CodeType, FrameType, FunctionType
from typing import Any

from .compare import snapshot
from .data import SEED, Exercise
from .kin_inputs import explained
from .mutations import Place, mutations
from .probing import PACKAGE, Outcome, run
from .surroundings import undisturbed

MOST = 300                      # places that are tried
MOST_LINES = 400_000            # of Python, over all of them: a few seconds
ENGINE = {"judge", "probing", "compare", "data", "surroundings", "show", "gradients"}


@dataclass(frozen=True)
class Ran:
    """What one run of the reference went through."""

    functions: dict[Path, list[FunctionType]]   # of the package, by the file that they stand in
    lines: dict[Path, set[int]]
    n_lines: int


def slip(exercise: Exercise, expected: Sequence[Outcome], got: Sequence[Outcome]) -> str | None:
    """The first slip in the reference that explains the answer on every probe; None if none."""
    ran = _trace(exercise)
    inputs = [probe.inputs(seed=SEED) for probe in exercise.probes]    # before anything is changed
    explains = explained(expected, got)
    most = min(MOST, MOST_LINES // max(ran.n_lines, 1))
    with _fresh_caches():
        for file, functions in ran.functions.items():
            tree = ast.parse(file.read_text(encoding="utf-8"))
            for place in mutations(tree, ran.lines[file]):
                if (most := most - 1) < 0:
                    return None
                with _changed(tree, place, file, functions) as done:
                    if done and explains(
                            lambda i: run(exercise, exercise.reference, snapshot(inputs[i]),
                                          trusted=True)):
                        return (f"returned what the right code gives with {place.said}, in one "
                                "place.")
    return None


def _trace(exercise: Exercise) -> Ran:
    """Run the reference on its probes, and note which of the package's lines it ran."""
    codes: dict[CodeType, set[int]] = {}
    skipped = getattr(exercise.adapt, "__code__", None)
    n_lines = 0

    def trace(frame: FrameType, event: str, argument: object) -> Callable | None:
        nonlocal n_lines
        code = frame.f_code
        if code is skipped or not _ours(code.co_filename):
            return None
        if event == "line":
            n_lines += 1
            codes.setdefault(code, set()).add(frame.f_lineno)
        return trace

    for probe in exercise.probes:
        values = probe.inputs(seed=SEED).values()
        before = sys.gettrace()
        with undisturbed(trusted=True):
            sys.settrace(trace)
            try:
                exercise.adapt(exercise.reference, *values)
            except Exception:
                pass
            finally:
                sys.settrace(before)
    lines: dict[Path, set[int]] = {}
    for code, numbers in codes.items():
        lines.setdefault(Path(code.co_filename), set()).update(numbers)
    functions: dict[Path, list[FunctionType]] = {}
    for each in gc.get_objects():
        if type(each) is FunctionType and each.__code__ in codes:
            file = Path(each.__code__.co_filename)
            if file in lines:       # the same lines at the same place of another file are equal
                functions.setdefault(file, []).append(each)
    return Ran(functions, lines, n_lines // len(exercise.probes))


def _ours(file: str) -> bool:
    path = Path(file)
    return path.is_relative_to(PACKAGE) and path.stem not in ENGINE


@contextmanager
def _changed(tree: ast.Module, place: Place, file: Path,
             functions: list[FunctionType]) -> Iterator[bool]:
    """The functions of a file with one place of its tree changed; whether that is a program."""
    place.put(place.new)
    try:
        module = ast.Module(body=[place.definition], type_ignores=[])
        codes = dict(_codes(compile(ast.fix_missing_locations(module), str(file), "exec")))
    except (SyntaxError, ValueError, TypeError):
        codes = {}
    finally:
        place.put(place.old)
    before = []
    try:
        for each in functions:
            new = codes.get((each.__code__.co_qualname, each.__code__.co_firstlineno))
            if new is not None and new.co_freevars == each.__code__.co_freevars:
                before.append((each, each.__code__))
                each.__code__ = new
        yield bool(before)
    finally:
        for each, code in before:
            each.__code__ = code


def _codes(code: CodeType) -> Iterator[tuple[tuple[str, int], CodeType]]:
    """All code inside a piece of code, by its name and first line."""
    for each in code.co_consts:
        if isinstance(each, CodeType):
            yield (each.co_qualname, each.co_firstlineno), each
            yield from _codes(each)


@contextmanager
def _fresh_caches() -> Iterator[None]:
    """Forget afterwards what a changed function may have left in a cache."""
    held: list[tuple[Any, int]] = [
        (each, each.cache_info().currsize) for each in gc.get_objects()
        if type(each) is _lru_cache_wrapper
        and each.__module__.startswith("llama_edu.")]
    try:
        yield
    finally:
        for each, size in held:
            if each.cache_info().currsize != size:
                each.cache_clear()
