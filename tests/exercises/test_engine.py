"""How `check`, `hint` and `progress` behave, whatever a learner hands them."""

import functools
import linecache
import random
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from learner import right, stub, wrong

from llama_edu import exercises as engine
from llama_edu.exercises import check, hint
from llama_edu.exercises.judge import judge
from llama_edu.exercises.registry import find
from llama_edu.exercises.show import brief

pytestmark = pytest.mark.usefixtures("folder")


# -- what a report says -----------------------------------------------------------------------


def test_the_four_forms_of_a_report():
    assert str(check("1.1", stub)) == "○ 1.1 not attempted yet"
    assert str(check("1.1", right)) == (
        "✓ 1.1 correct: 7 probes (float32, bfloat16, a batch, a zero row, ...)")
    subtracted = check("1.1", lambda x, weight, eps: torch.nn.functional.layer_norm(
        x.float(), x.shape[-1:], eps=eps).type_as(x) * weight)
    assert str(subtracted).startswith(
        "✗ 1.1 you subtracted the mean: that is LayerNorm. RMSNorm leaves the mean where it is "
        '(chapter 1, "The idea").\n  probe ')
    assert subtracted.diagnosis == "mean subtracted"
    raised = check("1.1", lambda x, weight, eps: x @ torch.ones(99, 1))
    assert str(raised).startswith("✗ 1.1 raised RuntimeError: ")


def test_a_wrong_answer_shows_the_smallest_failing_probe_and_the_first_difference():
    report = check("1.1", wrong)
    details = dict(report.details)
    assert report.message == "returned the right values plus 1."
    assert report.diagnosis is None
    assert details["probe"] == "one vector (the smallest of 7 that failed)"
    assert list(details)[1:] == ["x", "weight", "eps", "expected", "got", "differs"]
    assert details["differs"].startswith("at [0]: expected ")


def test_only_a_failing_probe_is_shown():
    report = check("1.1", lambda x, weight, eps: x if x.ndim == 3 else right(x, weight, eps))
    assert dict(report.details)["probe"] == "a batch"


def test_a_raising_answer_shows_the_line_of_a_notebook_cell():
    source = "def answer(x, weight, eps):\n    y = x * 2\n    return y.nonsense()\n"
    name = "/tmp/ipykernel_1/42.py"         # what a kernel calls a cell; it fills linecache too
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    cell: dict = {}
    exec(compile(source, name, "exec"), cell)
    report = check("1.1", cell["answer"])
    assert report.message.startswith("raised AttributeError: 'Tensor' object has no attribute")
    assert dict(report.details)["your line"] == "line 3 of answer: return y.nonsense()"
    assert "ipykernel" not in str(report)


def test_the_line_shown_is_the_learners_even_when_a_library_raised():
    report = check("1.1", lambda x, weight, eps: torch.nn.functional.rms_norm(x, (99,)))
    assert "rms_norm(x, (99,))" in dict(report.details)["your line"]


def test_html_is_escaped_and_says_the_status_in_words():
    def answer(x, weight, eps):
        raise ValueError("<script>alert(1)</script>")

    html = check("1.1", answer)._repr_html_()
    assert "<script>" not in html
    assert "wrong: raised ValueError: &lt;script&gt;" in html
    assert '<span aria-hidden="true">✗ </span>' in html
    assert '<th scope="row"' in html
    assert "<script>" not in check("<script>", right)._repr_html_()


def test_colours_are_for_borders_only():
    for report in (check("1.1", right), check("1.1", wrong), check("1.1", stub), check("9", stub)):
        html = report._repr_html_()
        assert " color: #" not in html
        assert "background: #" not in html
        assert "border-left: 4px solid #" in html


def test_numbers_are_rounded_and_long_values_cut_short():
    assert brief(torch.tensor([1 / 3, 2.0, -0.0])) == "[0.3333, 2.0, 0.0] (3, float32)"
    assert brief(torch.zeros(4, 9)).count("0.0") == 18
    assert len(brief("x" * 10_000)) < 250
    assert brief(object()) == "<object object>"
    assert brief([1, 2]) == "[1, 2]"
    assert brief((3,)) == "(3,)"


# -- odd answers ------------------------------------------------------------------------------


class Layer(torch.nn.Module):
    def forward(self, x, weight, eps):
        return right(x, weight, eps)


@pytest.mark.parametrize("answer", [
    functools.partial(right), Layer(), lambda *values: right(*values),
    lambda x, weight, eps=1e-5, more=1: right(x, weight, eps),
    lambda x, weight, eps: right(x.clone().requires_grad_(), weight, eps),
    lambda x, weight, eps: right(x, weight, eps)[:],
    lambda x, weight, eps: x.float().mul(
        (x.float() ** 2).mean(-1, True).add(eps) ** -0.5).to(x.dtype) * weight,
    lambda x, weight, eps: (x.double() / (x.double() ** 2).mean(-1, True).add(eps).sqrt()
                            * weight.double()).to(x.dtype),
], ids=["partial", "module", "star", "defaults", "grad", "view", "powers", "float64"])
def test_any_right_answer_passes_however_it_is_written(answer: Callable):
    assert check("1.1", answer).passed


async def _async(x, weight, eps):
    return x


def _generator(x, weight, eps):
    yield x


def _endless(x, weight, eps):
    return _endless(x, weight, eps)


def _mute(x, weight, eps):
    right(x, weight, eps)


class Unshowable(Exception):  # noqa: N818
    def __str__(self):
        raise RuntimeError("no text")

    __repr__ = __str__


def _unshowable(x, weight, eps):
    raise Unshowable


@pytest.mark.parametrize(("answer", "message"), [
    (_async, "returned a coroutine; a Tensor is needed. Write `def`, not `async def`."),
    (_generator, "returned a generator; a Tensor is needed. Did you write `yield` for `return`?"),
    (_endless, "raised RecursionError: the function calls itself without end"),
    (_mute, "returned nothing; did you forget `return`?"),
    (_unshowable, "raised Unshowable"),
    (lambda x, weight, eps: exit(), "raised SystemExit"),
    (lambda x, weight, eps: Unshowable(), "returned an Unshowable; a Tensor is needed."),
    (lambda x, weight, eps: right(x, weight, eps).float().numpy(), "Use torch's functions"),
    (lambda x, weight, eps: right(x, weight, eps).to("meta"), "without values (device meta)"),
    (lambda x, weight, eps: right(x, weight, eps).to_sparse(), "with a sparse layout"),
    (lambda x, weight, eps: right(x, weight, eps).int(), "returned int32; float32 is needed."),
    (lambda x, weight, eps: (right(x, weight, eps),), "returned a tuple; a Tensor is needed."),
    (lambda x, weight, eps: right, "Did you return the function, and not its result?"),
    (lambda x, weight, eps: torch.nn.Parameter(right(x, weight, eps)), "cut off from `x`"),
    (lambda x, weight, eps: x.div_(2), "changed its argument `x` in place."),
    (lambda x, weight, eps: x, "`weight` has no effect here"),
    (lambda x, weight: x, "has the parameters (x, weight); the check calls it with "
                          "(x, weight, eps). Take these values, in this order."),
    (lambda x, weight, *, eps: x, "has the parameters (x, weight, *, eps); the check calls it"),
    (torch.rsqrt, "raised TypeError: "),
], ids=range(19))
def test_a_wrong_answer_is_told_what_is_wrong(answer: Callable, message: str):
    report = check("1.1", answer)
    assert report.status == "wrong"
    assert message in report.message
    assert report.diagnosis is None
    assert " 0x" not in str(report) + report._repr_html_()


@pytest.mark.parametrize(("answer", "given"), [(None, "None"), (torch.ones(2), "a Tensor"),
                                               ("rms_norm", "a str"), (1.5, "a float")])
def test_what_is_not_a_function_is_named(answer: object, given: str):
    report = check("1.1", answer)
    assert report.status == "error"
    assert str(report) == (f"✗ 1.1 needs a function and got {given}. Hand over the function "
                           'itself, without calling it: check("1.1", your_function).')


@pytest.mark.parametrize(("asked", "message"), [
    ("1.11", '✗ 1.11 is not an exercise. The nearest is "1.1": RMSNorm by hand. '
             "progress() lists them all."),
    ("1.99x", 'The nearest is "1.'), ("nonsense", "✗ nonsense is not an exercise. progress()"),
    (right, "✗ that is a function, not the id of an exercise. The id comes first"),
    (None, "✗ that is a NoneType, not"), ("", "✗ that is an empty text, not"),
    ([1], "✗ that is a list, not")])
def test_an_unknown_exercise_is_answered_with_the_nearest(asked: object, message: str):
    for answer in (check(asked, right), hint(asked)):
        assert answer.status == "error"
        assert message in str(answer)


def test_an_id_may_be_a_number():
    assert check(1.1, right).passed


def test_a_stub_without_a_text_is_a_stub_and_a_real_error_is_not():
    def bare(x, weight, eps):
        raise NotImplementedError

    assert check("1.1", bare).status == "not attempted"
    assert check("1.1", torch.nn.Module()).status == "wrong"


def test_an_answer_that_needs_an_earlier_stub_says_so():
    report = check("1.3", lambda x, norm, sublayer: x + sublayer(stub(x, norm.weight, norm.eps)))
    assert str(report) == ("○ 1.3 not attempted yet: it calls the answer of 1.1, which comes "
                           "first")


def test_an_interrupt_from_the_keyboard_passes_through():
    def interrupted(x, weight, eps):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        check("1.1", interrupted)


def test_an_answer_may_print_more_than_memory_holds(capsys: pytest.CaptureFixture):
    def chatty(x, weight, eps):
        for _ in range(100):
            print("ha" * 500_000)
        return x

    report = check("1.1", chatty)
    assert dict(report.details)["printed"].startswith("haha")
    assert len(str(report)) < 3_000
    assert capsys.readouterr().out == ""


def test_a_fault_of_the_check_itself_reaches_the_learner_as_a_sentence(
        monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(engine, "judge", lambda *_: 1 / 0)
    report = check("1.1", right)
    assert report.status == "error"
    assert "could not be checked: ZeroDivisionError: division by zero." in report.message


def test_a_check_leaves_random_states_and_settings_alone():
    def meddling(x, weight, eps):
        torch.manual_seed(5), random.seed(5), np.random.seed(5)
        torch.set_grad_enabled(False)
        torch.set_default_dtype(torch.float64)
        return x + torch.rand_like(x)

    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    check("1.1", meddling)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert np.random.get_state()[1].tolist() == before[2]
    assert torch.get_default_dtype() == torch.float32
    assert torch.is_grad_enabled()


def test_a_check_gives_the_same_report_twice():
    assert str(check("1.1", torch.rand_like)) == str(check("1.1", torch.rand_like))
    noisy = [str(check("1.1", lambda x, weight, eps: x + torch.rand_like(x))) for _ in range(2)]
    assert noisy[0] == noisy[1]


def test_an_answer_that_never_ends_is_stopped_with_a_sentence():
    def endless(x, weight, eps):
        while True:
            x = x + 0

    report = check("1.1", endless)
    assert report.status == "wrong"
    assert report.message.startswith("raised TimeoutError: it did not end after 300,000 lines")


def test_a_reference_that_fails_is_no_measure_for_an_answer():
    """Else an answer that fails in the same way would be right."""
    def broken(x, weight, eps):
        raise AttributeError("no such thing")

    with pytest.raises(AttributeError, match="no such thing"):
        judge(replace(find("1.1"), reference=broken), broken)
