"""What a wrong answer has in common with the right one is said, and only where it is so."""

import pytest
import torch

from llama_edu.exercises.data import Exercise, Probe, normal, whole
from llama_edu.exercises.judge import judge


def asked(reference, *probes) -> Exercise:
    made = tuple(Probe(f"probe {i}", make) for i, make in enumerate(probes))
    return Exercise("1.1", "", "The idea", reference, made, (), ())


def two(rng):
    return {"x": normal(rng, 3, 4, mean=1.0), "w": whole(rng, 4)}


def square(rng):
    return {"x": normal(rng, 4, 4, mean=1.0), "w": whole(rng, 4)}


SCALED = asked(lambda x, w: x * w, two, square)
SUMMED = asked(lambda x, w: (x * w).sum(-1), two, square)
LISTED = asked(lambda n: list(range(n)), lambda rng: {"n": 5}, lambda rng: {"n": 7})
MASKED = asked(lambda n: torch.ones(n, n).tril().bool(), lambda rng: {"n": 4}, lambda rng: {"n": 3})
PAIR = asked(lambda x, w: (x, x * w), two, square)


@pytest.mark.parametrize(
    ("exercise", "answer", "said"),
    [
        (SCALED, lambda x, w: -x * w, "returned the right values with the other sign."),
        (SCALED, lambda x, w: x * w / 8, "returned the right values times 0.125."),
        (SCALED, lambda x, w: x * w + 3, "returned the right values plus 3."),
        (SCALED, lambda x, w: x * w * len(x), "times another number in each probe (3, 4)"),
        (SCALED, lambda x, w: (x * w).exp(), "the exponentials of the right values"),
        (SCALED, lambda x, w: (x * w).softmax(-1), "the softmax of the right values"),
        (SCALED, lambda x, w: (x * w).flip(0), "from back to front along the axis -2"),
        (SCALED, lambda x, w: (x * w).roll(1, -1), "one place further along the axis -1"),
        (SCALED, lambda x, w: (x * w)[1:], "without the first along the axis -2"),
        (SCALED, lambda x, w: x * (w + 1), "what is right if `w` were one more."),
        (SCALED, lambda x, w: x * w**2, "what is right if `w` were squared."),
        (SCALED, lambda x, w: x * w * 1.001, "nearly the right values: at most 0.00"),
        (SCALED, lambda x, w: x * w * torch.arange(1, len(x) + 1)[:, None],
         "rows in the right direction, of a wrong length"),
        (SCALED, lambda x, w: torch.cat([x[:1], (x * w)[1:]]),
         "the right values but for the first along the axis -2"),
        (SUMMED, lambda x, w: (x * w).sum(-1, keepdim=True),
         "the right values in the shape (3, 1); (3,) is needed"),
        (LISTED, lambda n: list(range(1, n + 1)), "the right values plus 1."),
        (LISTED, lambda n: list(range(n))[::-1], "the right values from back to front."),
        (LISTED, lambda n: list(range(n - 1)), "the right values without the last."),
        (MASKED, lambda n: ~torch.ones(n, n).tril().bool(), "the opposite of what is right."),
        (MASKED, lambda n: torch.ones(n, n).tril(1).bool(), "right, and in more places."),
        (MASKED, lambda n: torch.ones(n, n).tril(-1).bool(), "right, but in too few places."),
        (PAIR, lambda x, w: (x, -x * w), "item 1: returned the right values with the other sign."),
    ],
)  # fmt: skip
def test_a_relation_is_named(exercise, answer, said):
    report = judge(exercise, answer)
    assert not report.passed
    assert said in report.message


@pytest.mark.parametrize(
    "answer",
    [
        lambda x, w: x + w,                                     # another formula
        lambda x, w: x * w * (2 if len(x) == 3 else 1) + (len(x) == 4) * w.mean() * x**2,
        lambda x, w: x * torch.randn_like(x) * w,
    ],
)
def test_no_relation_is_made_up(answer):
    torch.manual_seed(0)
    assert "other values than expected" in judge(SCALED, answer).message


def test_a_swap_of_two_inputs_is_named():
    exercise = asked(lambda a, b: a - 2 * b, lambda rng: {"a": whole(rng, 5), "b": whole(rng, 5)})
    message = judge(exercise, lambda a, b: b - 2 * a).message
    assert message == "returned what is right if `a` and `b` changed places."


def test_one_number_alone_proves_no_relation():
    exercise = asked(lambda n: n * n, lambda rng: {"n": 3})
    assert judge(exercise, lambda n: n + 4).message.startswith("returned another value")


def test_where_few_probes_fail_they_are_named():
    exercise = asked(lambda n: max(n, 2), *(lambda rng, n=n: {"n": n} for n in (1, 3, 4, 5)))
    message = judge(exercise, lambda n: n).message
    assert message.endswith('Only on "probe 0": the values of the other 3 are right.')
