"""Answers that do no work: zeros, a constant, a flipped sign, an input, a value without a past."""

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import cache, singledispatch
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from llama_edu.exercises.data import Exercise, call_plainly
from llama_edu.exercises.judge import SEED, fault, judge, outcomes
from llama_edu.exercises.probing import run_all
from llama_edu.exercises.registry import exercises

ALL = [each for each in exercises().values() if isinstance(each, Exercise)]
each_exercise = pytest.mark.parametrize("exercise", ALL, ids=lambda each: each.id)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the reader's own progress out of it."""
    monkeypatch.chdir(tmp_path)


def plain(exercise: Exercise) -> Exercise:
    """The same exercise, asked as a plain function; no mistake is looked for, which takes time."""
    return replace(exercise, adapt=call_plainly, misconceptions=(),
                   reference=lambda *values: exercise.adapt(exercise.reference, *values))


@singledispatch
def filled(value: Any, n: int) -> Any:
    """The value with n in the place of every number, and nothing in the place of a text."""
    return type(value)(n)


@filled.register
def _(value: Tensor, n: int) -> Tensor:
    return torch.full_like(value, n)


@filled.register(str)
@filled.register(bytes)
def _(value: Any, n: int) -> Any:
    return value[:0] if n == 0 else type(value)().join([value[:1]] * len(value))


@filled.register(list)
@filled.register(tuple)
def _(value: Any, n: int) -> Any:
    return type(value)(filled(each, n) for each in value)


@singledispatch
def flipped(value: Any) -> Any:
    """The value with the other sign, or the other truth, or back to front."""
    return -value


@flipped.register
def _(value: bool) -> bool:
    return not value


@flipped.register
def _(value: Tensor) -> Tensor:
    return ~value if value.dtype == torch.bool else -value


@flipped.register(str)
@flipped.register(bytes)
def _(value: Any) -> Any:
    return value[::-1]


@flipped.register(list)
@flipped.register(tuple)
def _(value: Any) -> Any:
    return type(value)(map(flipped, value))


def refused(exercise: Exercise, spoil: Callable[[Any], Any]) -> None:
    """Judge the right answer, spoiled at the end."""
    asked = plain(exercise)
    report = judge(asked, lambda *values: spoil(asked.reference(*values)))
    assert report.status == "wrong", report
    assert report.message


def is_wrong(exercise: Exercise, answer: Callable) -> bool:
    """Whether a probe fails, which is what `judge` calls wrong; how it is explained, which takes
    most of its time, is not asked for."""
    return any(map(fault, outcomes(exercise, exercise.reference),
                   run_all(exercise, answer, seed=SEED)))


@each_exercise
@pytest.mark.parametrize("n", [0, 1])
def test_a_result_of_the_right_form_filled_with_one_number_is_refused(exercise: Exercise, n: int):
    refused(exercise, lambda value: filled(value, n))


@each_exercise
def test_the_right_answer_to_one_probe_is_refused_as_the_answer_to_all(exercise: Exercise):
    # 5.3 is judged by what the answer does, which is one verdict for all probes.
    asked = exercise if exercise.id == "5.3" else plain(exercise)

    @cache
    def right_for(i: int) -> Any:
        return asked.reference(*asked.probes[i].inputs(seed=SEED).values())

    for i in range(len(asked.probes)):
        try:
            constant = right_for(i)
        except ValueError:                  # the exercise asks for an error there
            continue
        assert is_wrong(asked, lambda *values, constant=constant: constant)


@each_exercise
def test_a_flipped_sign_is_refused(exercise: Exercise):
    refused(exercise, flipped)


@each_exercise
def test_an_input_returned_as_it_is_is_refused(exercise: Exercise):
    asked = plain(exercise)
    for i in range(len(exercise.probes[0].inputs(seed=SEED))):
        assert is_wrong(asked, lambda *values, i=i: values[i])


# -- gradients ----------------------------------------------------------------------------------

# What training runs through: the other exercises count, cut, convert, or only generate.
TRAINED = [each for each in ALL if each.gradients]
each_trained = pytest.mark.parametrize("exercise", TRAINED, ids=lambda each: each.id)


def test_each_chapter_on_a_part_of_the_model_looks_at_gradients():
    assert {each.chapter for each in TRAINED} >= {1, 2, 3, 4, 6, 8}


@singledispatch
def cut_off(value: Any) -> Any:
    """The same value without a past."""
    return value.detach()


@cut_off.register
def _(value: nn.Module) -> nn.Module:
    return copy.deepcopy(value).requires_grad_(False)


@each_trained
@pytest.mark.parametrize("cut", [
    Tensor.detach, lambda value: value.data, torch.nn.Parameter,
    lambda value: torch.tensor(value.tolist(), dtype=value.dtype)],
    ids=["detach", "data", "parameter", "tensor"])
def test_the_right_value_cut_off_from_its_inputs_is_refused(exercise: Exercise, cut: Callable):
    asked = plain(exercise)
    report = judge(asked, lambda *values: cut(asked.reference(*values)))
    assert report.status == "wrong"
    assert "cut off from" in report.message


@each_trained
def test_an_input_cut_off_is_named(exercise: Exercise):
    asked = plain(exercise)
    names = list(exercise.probes[0].inputs(seed=SEED))
    for name in exercise.gradients:
        place = names.index(name)

        def cut(*values, place=place):
            heard = [cut_off(each) if i == place else each for i, each in enumerate(values)]
            return asked.reference(*heard)

        report = judge(asked, cut)
        assert report.status == "wrong"
        assert report.message.startswith(f"returned the right values, but cut off from `{name}")


@each_trained
def test_a_right_value_with_another_gradient_is_refused(exercise: Exercise):
    asked = plain(exercise)

    def halved(*values):
        result = asked.reference(*values)
        return result.detach() / 2 + result / 2

    report = judge(asked, halved)
    assert report.status == "wrong"
    assert "but another gradient for" in report.message


def test_8_1_as_a_bare_number_is_refused():
    exercise = exercises()["8.1"]
    report = judge(exercise, lambda *values: torch.tensor(exercise.reference(*values).item()))
    assert report.status == "wrong"
    assert "cut off from `logits`" in report.message


def test_a_value_changed_in_place_is_told_as_that():
    def in_place(model, rope, mask, tokens):
        x = model.tok_embeddings(tokens)
        for block in model.layers:
            x += block.attention(block.attention_norm(x), rope, mask)
            x += block.feed_forward(block.ffn_norm(x))
        return model.logits(model.norm(x))

    report = judge(exercises()["6.2"], in_place)
    assert report.status == "wrong"
    assert "changed one in place" in report.message
