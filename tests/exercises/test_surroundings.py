"""What an answer leaves behind is put back, and what it patches does not make it right."""

import builtins
import math
import os
import random
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from learner import right

from llama_edu import layers
from llama_edu.exercises import check
from llama_edu.exercises.judge import judge
from llama_edu.exercises.records import FILE
from llama_edu.exercises.registry import exercises
from llama_edu.exercises.surroundings import SETTINGS, undisturbed

pytestmark = pytest.mark.usefixtures("folder")


def after(meddle: Callable[[], object]) -> Callable:
    """A right answer to 1.1 that meddles first."""
    def answer(x, weight, eps):
        result = right(x, weight, eps)
        meddle()
        return result

    return answer


def states() -> list[object]:
    """All random states, as values that can be compared."""
    return [torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()]


# -- states and settings ------------------------------------------------------------------------


@pytest.mark.parametrize("meddle", [
    lambda: torch.set_num_threads(torch.get_num_threads() + 1),
    lambda: torch.set_default_dtype(torch.float64),
    lambda: torch.set_default_device("meta"),
    lambda: torch.use_deterministic_algorithms(True),
    lambda: torch.use_deterministic_algorithms(True, warn_only=True),
    lambda: torch.set_float32_matmul_precision("medium"),
    lambda: torch.set_grad_enabled(False),
    lambda: torch.autograd.set_detect_anomaly(True),
    lambda: sys.setrecursionlimit(4_321),
    lambda: os.chdir("/"),
], ids=["threads", "dtype", "device", "deterministic", "warn only", "precision", "grad mode",
        "anomaly", "recursion", "folder"])
@pytest.mark.parametrize("is_right", [True, False])
def test_a_setting_that_an_answer_changes_is_put_back(meddle: Callable, is_right: bool):
    before = [read() for read, _ in SETTINGS]

    def answer(x, weight, eps):
        result = after(meddle)(x, weight, eps)
        if not is_right:
            raise ValueError
        return result

    assert check("1.1", answer).passed == is_right
    assert [read() for read, _ in SETTINGS] == before


def test_a_setting_of_the_readers_own_is_kept():
    with torch.no_grad():
        torch.set_default_dtype(torch.float64)
        try:
            assert check("1.1", right).passed
            assert torch.get_default_dtype() == torch.float64
        finally:
            torch.set_default_dtype(torch.float32)
        assert not torch.is_grad_enabled()


@pytest.mark.parametrize("meddle", [
    lambda: torch.manual_seed(5), lambda: torch.rand(3), lambda: random.seed(5),
    lambda: np.random.seed(5), lambda: torch.set_rng_state(torch.Generator().get_state())],
    ids=["torch", "drawn", "random", "numpy", "state"])
def test_random_states_that_an_answer_changes_are_put_back(meddle: Callable):
    before = states()
    assert check("1.1", after(meddle)).passed
    assert states() == before


def test_progress_is_kept_where_the_reader_stood(folder: Path, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    check("1.1", after(lambda: os.chdir(elsewhere)))
    assert Path.cwd() == folder / "chapters"
    assert (folder / FILE).is_file()
    assert list(elsewhere.iterdir()) == []


def test_a_check_in_a_folder_that_is_gone_says_that_nothing_is_saved(
        folder: Path, tmp_path_factory):
    gone = tmp_path_factory.mktemp("gone")
    os.chdir(gone)
    gone.rmdir()
    try:
        report = check("1.1", right)
    finally:
        os.chdir(folder)
    assert report.passed
    assert dict(report.details)["progress"] == "not saved: the working directory is gone"


# -- patched functions --------------------------------------------------------------------------


def nothing(*values, **options):
    return torch.zeros(())


PATCHES = [(torch, "softmax"), (torch, "allclose"), (torch.Tensor, "mean"), (torch.Tensor, "all"),
           (torch.Tensor, "softmax"), (torch.Tensor, "__eq__"), (torch.nn.functional, "silu"),
           (torch.nn.RMSNorm, "forward"), (torch.nn.Module, "__call__"), (layers, "rotate"),
           (math, "isclose"), (builtins, "any"), (builtins, "zip")]


@pytest.mark.parametrize(("owner", "name"), PATCHES,
                         ids=[f"{owner.__name__}.{name}" for owner, name in PATCHES])
def test_a_function_that_an_answer_patches_is_put_back(owner, name: str):
    before = getattr(owner, name)

    def answer(x, weight, eps):
        setattr(owner, name, nothing)
        return x

    report = check("1.1", answer)
    assert report.status == "wrong"
    assert getattr(owner, name) is before
    assert check("1.1", right).passed


def test_an_answer_cannot_bend_the_reference_to_itself():
    """Each patches what the reference or the comparison calls, within the answer or before it."""
    def bent(logits, tokens, learn):
        torch.Tensor.log_softmax = lambda value, *rest, **options: value * 0
        torch.Tensor.sum = torch.Tensor.mean = lambda value, *rest, **options: value.new_zeros(())
        torch.Tensor.any = lambda value, *rest: False
        return logits.new_zeros(())

    def silent(x):
        torch.nn.functional.silu = lambda value: value
        return x

    assert check("8.1", bent).status == "wrong"
    assert check("4.1", silent).status == "wrong"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "log_softmax", lambda value, *rest, **options: value * 0)
        patch.setattr(torch.Tensor, "any", lambda value, *rest: False)
        assert judge(exercises()["8.1"], lambda logits, tokens, learn: logits.new_zeros(())
                     ).status == "wrong"
        assert torch.zeros(1).any() is False, "the reader's own patch is left alone"


def test_the_expected_values_are_computed_before_a_line_of_the_answer_runs():
    asked = []
    exercise = exercises()["1.1"]

    def reference(*values):
        asked.append("reference")
        return exercise.reference(*values)

    def answer(x, weight, eps):
        asked.append("answer")
        return right(x, weight, eps)

    judge(replace(exercise, reference=reference), answer)
    assert asked.index("answer") == len(exercise.probes)


def test_a_result_that_says_it_equals_all_is_compared_by_its_numbers():
    class Agreeable(torch.Tensor):
        def __eq__(self, other):
            return torch.ones(self.shape, dtype=torch.bool)

        @classmethod
        def __torch_function__(cls, function, types, args=(), kwargs=None):
            return args[0]

    assert check("1.1", lambda x, weight, eps: x.as_subclass(Agreeable)).status == "wrong"


def test_nothing_is_put_back_where_nothing_was_changed():
    before = dict(vars(torch.Tensor))
    with undisturbed():
        pass
    assert dict(vars(torch.Tensor)) == before
