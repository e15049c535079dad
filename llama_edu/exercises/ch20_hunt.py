"""The bug hunt of chapter 20, 20.5: six DPO losses, told apart by a few pairs."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .hunts import HEALTHY, Bug, Hunt

END = 9                 # ends an answer, and fills up
Text = Sequence[int]
Found = tuple[float, float]


def _policy(token: int) -> float:
    """The toy's log-probability of a token, whatever stands before it."""
    return -token / 10


def _reference(token: int) -> float:
    return -0.1 - token / 20


def _sum(values: Sequence[float]) -> float:
    return math.fsum(values)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _surprise(margin: float, beta: float) -> float:
    return math.log1p(math.exp(-beta * margin))


def _setup(*, over: Callable[[Sequence[float]], float] = _sum, sign: float = 1.0,
           padding_too: bool = False, reference: bool = True, end_too: bool = True,
           crossed: bool = False, loss: Callable[[float, float], float] = _surprise
           ) -> Callable[..., Found]:
    """From one pair to its loss and its margin without beta, healthy unless told otherwise."""

    def suspect(prompt: Text, chosen: Text, rejected: Text, beta: float = 0.1) -> Found:
        longest = max(len(chosen), len(rejected))

        def score(answer: Text, told: Callable[[int], float]) -> float:
            read = list(answer) if end_too else [each for each in answer if each != END]
            if padding_too:
                read += [END] * (longest - len(answer))
            return over([told(each) for each in read])      # the prompt falls out of a difference

        before = [score(each, _reference) if reference else 0.0 for each in (chosen, rejected)]
        if crossed:
            before.reverse()
        margin = sign * (score(chosen, _policy) - before[0] - score(rejected, _policy) + before[1])
        return loss(margin, beta), margin

    return suspect


def _look(suspect: Callable[..., Found]) -> Tensor:
    return torch.tensor([*suspect([1, 2], [3, 4, END], [5, 6, 7, 8, END], 0.5),
                         *suspect([8, 8, 8], [3, END], [3, 2], 2.0)], dtype=torch.float64)


LOSSES = Hunt(
    "20.5", "Six losses", "Find the bug: six losses",
    healthy=_setup,
    bugs={
        "mean for sum": Bug(
            lambda: _setup(over=_mean),
            "sees no difference between [4, 4] and [4, 4, 4, 4]"),
        "padding counts": Bug(
            lambda: _setup(padding_too=True),
            "sees no difference between [4] and [4, 9]: it fills the shorter one up"),
        "reference forgotten": Bug(
            lambda: _setup(reference=False),
            "has a margin of 0.1 between [2] and [3], where the policy's and the reference's gaps "
            "together leave 0.05"),
        "sides exchanged": Bug(
            lambda: _setup(sign=-1.0),
            "has a loss that rises when the chosen answer gets likelier"),
        "reference crossed": Bug(
            lambda: _setup(crossed=True),
            "has a margin of 0.15 between [2] and [3], the sum of both gaps"),
        "beta outside": Bug(
            lambda: _setup(loss=lambda margin, beta: beta * _surprise(margin, 1.0)),
            "has a loss that doubles exactly when beta does"),
        "no logarithm": Bug(
            lambda: _setup(loss=lambda margin, beta: 1 / (1 + math.exp(beta * margin))),
            "has a loss that never exceeds 1, however wrong the pair"),
        "end left out": Bug(
            lambda: _setup(end_too=False),
            "has a margin of 0.2 and not of -0.15 between [4, 9] and [5, 5]"),
    },
    hidden={"a": "reference crossed", "b": HEALTHY, "c": "beta outside", "d": "padding counts",
            "e": "mean for sum", "f": "end left out"},
    look=_look,
    hints=(
        "Begin with answers of one token each, [2] against [3], and work the margin out by hand "
        "from the two tables.",
        "Then one answer twice as long as the other; then one with an end token and one without.",
        "For the loss: keep the pair and double beta. What should a loss do with beta very small?",
    ))

EXERCISES = [LOSSES]
