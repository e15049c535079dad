"""Every exercise of the course keeps its promises: the proofs that a diagnosis can be trusted."""

import re
from collections.abc import Callable
from dataclasses import replace
from functools import singledispatch
from importlib import import_module
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from llama_edu import exercises as engine
from llama_edu.exercises.data import Exercise, Misconception, call_plainly
from llama_edu.exercises.judge import OTHER_SEED, SEED, judge, matches, outcomes
from llama_edu.exercises.probing import run_all
from llama_edu.exercises.registry import exercises, listed

ALL = [each for each in exercises().values() if isinstance(each, Exercise)]
# Arguments that say how to compute and not what: a right answer may do without them.
WITHOUT_EFFECT = {("3.5", "block"), ("5.3", "letters"), ("8.8", "size")}
each_exercise = pytest.mark.parametrize("exercise", ALL, ids=lambda each: each.id)


def slips() -> list[Any]:
    """Every way to make every mistake."""
    return [pytest.param(exercise, slip, wrong, id=f"{exercise.id} {slip.name} {i}")
            for exercise in ALL for slip in exercise.misconceptions
            for i, wrong in enumerate((slip.wrong, *slip.also))]


def arguments(keep: Callable[[Any], bool]) -> list[Any]:
    """Every argument of every exercise that `keep` wants."""
    return [pytest.param(exercise, name, id=f"{exercise.id} {name}") for exercise in ALL
            for name, value in exercise.probes[0].inputs(seed=SEED).items() if keep(value)]


def spoiled(exercise: Exercise, spoil: Callable[[Any], Any]) -> Callable:
    """The right answer, spoiled at the end."""
    return lambda *values: spoil(exercise.adapt(exercise.reference, *values))


def returns(fits: Callable[[Any], bool]) -> Any:
    """The exercises whose right answer to the first probe fits."""
    return pytest.mark.parametrize("exercise", [
        each for each in ALL if fits(run_all(each, each.reference, seed=SEED)[0].value)],
        ids=lambda each: each.id)


def is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor)


def plain(exercise: Exercise) -> Exercise:
    """The same exercise, asked as if every answer were a plain function of the probe's values."""
    def plainly(answer: Callable) -> Callable:
        return lambda *values: exercise.adapt(answer, *values)

    slips = tuple(replace(each, wrong=plainly(each.wrong), also=tuple(map(plainly, each.also)))
                  for each in exercise.misconceptions)
    return replace(exercise, adapt=call_plainly, reference=plainly(exercise.reference),
                   misconceptions=slips)


@singledispatch
def frozen(value: Any, constant: Any) -> Any:
    """Something that fits in the place of a value and does not depend on it."""
    return constant


frozen.register(Tensor, lambda value, constant: torch.full_like(value, 0.5))
frozen.register(nn.Module, lambda value, constant: torch.tanh)
frozen.register(FunctionType, lambda value, constant: torch.sin)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the reader's own progress out of it."""
    monkeypatch.chdir(tmp_path)


def test_ids_are_numbered_without_gaps_within_each_chapter():
    every = exercises().values()
    for chapter in {each.chapter for each in every}:
        numbers = [int(each.id.split(".")[1]) for each in every if each.chapter == chapter]
        assert numbers == list(range(1, len(numbers) + 1))


def test_an_exercise_stands_in_the_file_of_its_chapter():
    for path in Path(engine.__file__).parent.glob("ch*.py"):
        held = import_module(f"{engine.__name__}.{path.stem}").EXERCISES
        assert {each.chapter for each in held} == {int(path.stem[2:4])}


@each_exercise
def test_an_exercise_has_three_misconceptions_two_hints_and_distinct_names(exercise: Exercise):
    names = [each.name for each in exercise.misconceptions]
    assert len(names) >= 3
    assert len(set(names)) == len(names)
    assert len(exercise.hints) >= 2
    assert len({probe.name for probe in exercise.probes}) == len(exercise.probes) >= 3
    assert all(text.strip() for text in exercise.hints)
    assert all(text.why.strip() for text in exercise.misconceptions)
    assert exercise.title
    assert exercise.section


@each_exercise
def test_the_reference_passes(exercise: Exercise):
    report = engine.check(exercise.id, exercise.reference)
    assert report.passed
    assert str(report).startswith(f"✓ {exercise.id} correct: {len(exercise.probes)} probes (")


@each_exercise
def test_the_stub_reads_as_not_attempted(exercise: Exercise):
    def stub(*values):
        raise NotImplementedError(f"Exercise {exercise.id}")

    report = judge(exercise, stub)
    assert report.status == "not attempted"
    assert str(report) == f"○ {exercise.id} not attempted yet"


@pytest.mark.parametrize(("exercise", "slip", "wrong"), slips())
def test_a_misconception_fails_and_is_diagnosed_as_itself(
        exercise: Exercise, slip: Misconception, wrong: Callable):
    report = engine.check(exercise.id, wrong)
    assert report.status == "wrong"
    assert report.diagnosis == slip.name
    assert str(report).startswith(f"✗ {exercise.id} {slip.why.rstrip('.')}")
    assert {"probe", "expected", "got"} <= {label for label, _ in report.details}


@each_exercise
def test_no_misconception_is_taken_for_another(exercise: Exercise):
    expected = outcomes(exercise, exercise.reference)
    slips = [(slip.name, outcomes(exercise, wrong)) for slip in exercise.misconceptions
             for wrong in (slip.wrong, *slip.also)]
    confused = [(name, other) for name, got in slips for other, seen in slips
                if name != other and matches(expected, seen, got)]
    assert confused == []


@returns(is_tensor)
def test_a_wrong_shape_is_named(exercise: Exercise):
    report = judge(plain(exercise), spoiled(exercise, lambda value: value[None]))
    assert "the shape (1," in report.message


@returns(is_tensor)
def test_a_wrong_dtype_is_named(exercise: Exercise):
    report = judge(plain(exercise), spoiled(exercise, lambda value: value.to(torch.complex64)))
    assert re.match(r"returned complex64; \w+ is needed", report.message)


@returns(lambda value: is_tensor(value) and value.is_floating_point())
def test_nan_is_named(exercise: Exercise):
    report = judge(plain(exercise), spoiled(exercise, lambda value: value * torch.nan))
    assert "returned NaN" in report.message or report.diagnosis     # a mistake known to give NaN


@returns(lambda value: type(value) is int)
def test_a_float_for_a_whole_number_is_named(exercise: Exercise):
    report = judge(plain(exercise), spoiled(exercise, float))
    assert "returned a float; an int is needed." in report.message


@each_exercise
def test_a_wrong_type_is_named(exercise: Exercise):
    right = run_all(exercise, exercise.reference, seed=SEED)[0].value
    wrapped = (lambda value: [value]) if isinstance(right, dict) else (lambda value: {"": value})
    report = judge(plain(exercise), spoiled(exercise, wrapped))
    assert f"returned a {'list' if isinstance(right, dict) else 'dict'};" in report.message


@each_exercise
def test_a_forgotten_return_is_named(exercise: Exercise):
    report = judge(plain(exercise), spoiled(exercise, lambda value: None))
    assert report.message == "returned nothing; did you forget `return`?"


@pytest.mark.parametrize(("exercise", "name"),
                         arguments(lambda value: isinstance(value, Tensor | nn.Module)))
def test_a_changed_argument_is_named(exercise: Exercise, name: str):
    place = list(exercise.probes[0].inputs(seed=SEED)).index(name)

    def meddling(*values):
        result = exercise.adapt(exercise.reference, *values)
        held = values[place]
        for tensor in held.parameters() if isinstance(held, nn.Module) else [held]:
            tensor.data.copy_(~tensor if tensor.dtype == torch.bool else tensor + 1)
        return result

    report = judge(plain(exercise), meddling)
    assert f"changed its argument `{name}` in place" in report.message


@pytest.mark.parametrize(("exercise", "name"), arguments(lambda value: True))
def test_an_argument_never_used_is_named(exercise: Exercise, name: str):
    place = list(exercise.probes[0].inputs(seed=SEED)).index(name)
    constant = exercise.probes[0].inputs(seed=OTHER_SEED)[name]

    def deaf(*values):
        heard = [frozen(each, constant) if i == place else each for i, each in enumerate(values)]
        return exercise.adapt(exercise.reference, *heard)

    report = judge(plain(exercise), deaf)
    if (exercise.id, name) in WITHOUT_EFFECT:
        assert report.passed
        return
    assert report.status == "wrong"
    # Another shape, an error or a known mistake also says it; "other values" would say nothing.
    assert not report.message.startswith(("returned other values", "returned another value"))


def test_what_is_read_from_the_text_of_the_files_is_what_they_hold():
    assert [(each.id, each.title) for each in listed()] == [
        (id, each.title) for id, each in exercises().items()]
