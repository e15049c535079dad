"""The exercise of chapter 18 on what the best of n is worth, 18.6."""

import math
from collections.abc import Callable
from fractions import Fraction

import torch
from torch import Generator, Tensor

from ..alignment.rejection import expected_best
from .data import Exercise, Inputs, Misconception, Probe, count, normal


def _package_best(scores: Tensor, values: Tensor, n: int) -> float:
    return expected_best(scores, values)[n - 1].item()


def _inputs(rng: Generator, m: int, n: int, *, vary: int = 0, like: float = 0.5) -> Inputs:
    scores = normal(rng, m, std=2.0)
    return {"scores": scores, "values": like * scores + normal(rng, m, mean=3.0),
            "n": n + count(rng, 0, vary)}


def _ordered(scores: Tensor, values: Tensor) -> list[float]:
    """The values, from the worst score to the best."""
    return values[scores.argsort()].tolist()


def _weighed(weight: Callable[[int, int, int], float]) -> Callable:
    """The values by rank, the i-th of m from below weighed for the best of n."""
    def answer(scores: Tensor, values: Tensor, n: int) -> float:
        m = len(scores)
        return float(sum(Fraction(weight(i, m, n)) * Fraction(value)
                         for i, value in enumerate(_ordered(scores, values))))

    return answer


def _right(i: int, m: int, n: int) -> Fraction:
    return Fraction(math.comb(i, n - 1), math.comb(m, n))


def _put_back(i: int, m: int, n: int) -> Fraction:
    return Fraction((i + 1)**n - i**n, m**n)


def _first(scores: Tensor, values: Tensor, n: int) -> float:
    return values[scores[:n].argmax()].item()


def _groups(scores: Tensor, values: Tensor, n: int) -> float:
    best = [values[start + int(scores[start:start + n].argmax())]
            for start in range(0, len(scores) - n + 1, n)]
    return (sum(best) / len(best)).item()


def _windows(scores: Tensor, values: Tensor, n: int) -> float:
    best = [values[start + int(scores[start:start + n].argmax())]
            for start in range(len(scores) - n + 1)]
    return (sum(best) / len(best)).item()


def _in_order_of_values(scores: Tensor, values: Tensor, n: int) -> float:
    return _weighed(_right)(values, values, n)


def _drawn(scores: Tensor, values: Tensor, n: int) -> float:
    chance = torch.Generator().manual_seed(0)
    taken = [torch.randperm(len(scores), generator=chance)[:n] for _ in range(200)]
    return sum(values[rows[scores[rows].argmax()]].item() for rows in taken) / len(taken)


BEST = Exercise(
    "18.6", "The best of n, from m answers", "Your turn: all n from one set of answers",
    _package_best,
    probes=(
        Probe("two of five", lambda rng: _inputs(rng, 5, 2, vary=1)),
        Probe("one of six", lambda rng: _inputs(rng, 6, 1)),
        Probe("all of four", lambda rng: _inputs(rng, 4, 4)),
        Probe("three of eight", lambda rng: _inputs(rng, 8, 3, vary=2)),
        Probe("scores that err", lambda rng: _inputs(rng, 7, 4, like=-0.3)),
        Probe("twenty of sixty", lambda rng: _inputs(rng, 60, 20)),
    ),
    misconceptions=(
        Misconception("the first n", _first,
                      "you took the best of the first n answers: one sample of n, when there are "
                      "many in the m answers. Take the mean over all ways to draw n of them."),
        Misconception("groups of n", _groups,
                      "you cut the answers into groups of n. That is right on average and wastes "
                      "most of what is there: take all ways to draw n of the m.", also=(_windows,)),
        Misconception("drawn at random", _drawn,
                      "you drew some samples of n. All of them can be counted: of how many is an "
                      "answer the best?"),
        Misconception("put back", _weighed(_put_back),
                      "you drew with putting back: ((i+1)/m)**n - (i/m)**n. Then an answer may be "
                      "drawn twice, and the best of n comes out too low. Draw n different ones."),
        Misconception("what scores, not what it is worth", lambda scores, values, n:
                      _weighed(_right)(scores, scores, n),
                      "you returned the mean of the best *score*. Whoever chooses must not mark: "
                      "take the value of the answer that has it."),
        Misconception("chosen by the values", _in_order_of_values,
                      "you let the values choose. The score chooses, and errs; the value is what "
                      "one gets.", ),
        Misconception("values not in order", lambda scores, values, n: _weighed(_right)(
                          torch.arange(len(scores)), values, n),
                      "the weights go by rank, from the worst score to the best: put the values in "
                      "the order of the scores first."),
        Misconception("best first", lambda scores, values, n: _weighed(_right)(-scores, values, n),
                      "you return what the *worst* of n is worth: the largest weight belongs to "
                      "the best score."),
        Misconception("ranks from one", _weighed(lambda i, m, n: Fraction(
                          math.comb(i + 1, n - 1), sum(math.comb(j + 1, n - 1) for j in range(m)))),
                      "your ranks are one too high. Below the i-th from below, counted from 0, lie "
                      "i answers, and the other n - 1 are drawn of these.",
                      also=(_weighed(lambda i, m, n: Fraction(math.comb(i + 1, n - 1),
                                                              math.comb(m, n))),)),
        Misconception("n of those below", _weighed(lambda i, m, n: Fraction(
                          math.comb(i, n), math.comb(m, n))),
                      "you drew n answers below the best. It is one of the n itself: n - 1 are "
                      "left.",
                      also=(_weighed(lambda i, m, n: Fraction(math.comb(i + 1, n),
                                                              math.comb(m, n))),)),
        Misconception("the mean of the n best", _weighed(
                          lambda i, m, n: Fraction(int(i >= m - n), n)),
                      "you averaged the n best of all m. The best of n drawn ones is asked for."),
        Misconception("the best of all", _weighed(lambda i, m, n: Fraction(int(i == m - 1))),
                      "you returned the best of all m answers. Only n are drawn."),
        Misconception("a quantile", _weighed(
                          lambda i, m, n: Fraction(int(i == min(m - 1, m * n // (n + 1))))),
                      "you took one answer, about where the best of n is expected. Every answer "
                      "from the n-th on may be the best of some n: take the mean."),
        Misconception("the mean", _weighed(lambda i, m, n: Fraction(1, m)),
                      "you returned the mean over all answers. That is the best of 1."),
    ),
    hints=(
        "Sort by score. In how many of the C(m, n) ways to draw n is the i-th from below (from 0) "
        "the best?",
        "It is the best where it is drawn and the other n - 1 lie below it: C(i, n - 1) ways.",
        "ordered = values[scores.argsort()].tolist(); then "
        "sum(math.comb(i, n - 1) * v for i, v in enumerate(ordered)) / math.comb(m, n)",
    ))

EXERCISES = [BEST]
