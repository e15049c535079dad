"""The one exercise of chapter 00: the mean square, to see how a check speaks."""

from torch import Generator, Tensor

from .data import Exercise, Inputs, Misconception, Probe, normal, whole


def _mean_square(x: Tensor) -> Tensor:
    return x.pow(2).mean(-1)


def _inputs(x: Tensor) -> Inputs:
    return {"x": x}


def _low(rng: Generator, *shape: int) -> Tensor:
    """Far below zero, so that a mean is not the mean of the sizes."""
    return normal(rng, *shape, mean=-2.0)


MEAN_SQUARE = Exercise(
    "0.1", "The mean of the squares", "How the checks work", _mean_square,
    probes=(
        Probe("one vector", lambda rng: _inputs(whole(rng, 3))),
        Probe("a batch", lambda rng: _inputs(_low(rng, 2, 4))),
        Probe("two axes in front", lambda rng: _inputs(_low(rng, 2, 3, 5))),
    ),
    misconceptions=(
        Misconception("square of the mean", lambda x: x.mean(-1).pow(2),
                      "you squared the mean. Square first, then take the mean: -3 and 3 have the "
                      "mean 0, but they are not small."),
        Misconception("mean subtracted", lambda x: x.var(-1, unbiased=False),
                      "you subtracted the mean first: that is the variance. The mean square "
                      "measures from zero.", also=(lambda x: x.var(-1),)),
        Misconception("deviation", lambda x: x.std(-1, unbiased=False),
                      "you took the standard deviation: it measures from the mean, and has a root. "
                      "The mean square measures from zero, and has none.",
                      also=(lambda x: x.std(-1),)),
        Misconception("nothing squared", lambda x: x.mean(-1),
                      "you took the mean of the numbers as they are. Square them first."),
        Misconception("root taken", lambda x: x.pow(2).mean(-1).sqrt(),
                      "you took the root as well: that is the root mean square. Leave it out."),
        Misconception("sum for mean", lambda x: x.pow(2).sum(-1),
                      "you summed the squares. Divide by how many there are."),
        Misconception("rows counted", lambda x: x.pow(2).sum(-1) / len(x),
                      "you divided by the length of the first axis: len(x) counts rows. Divide by "
                      "the length of the last."),
        Misconception("not averaged", lambda x: x.pow(2),
                      "you squared and did not average. Take the mean over the last axis."),
        Misconception("sizes for squares", lambda x: x.abs().mean(-1),
                      "you took the mean of the absolute values. Square them."),
        Misconception("axis kept", lambda x: x.pow(2).mean(-1, keepdim=True),
                      "the numbers are right, but the last axis is still there. Drop keepdim."),
        Misconception("over everything", lambda x: x.pow(2).mean(),
                      "you averaged over the whole tensor. Average over the last axis only, and "
                      "keep the axes in front."),
        Misconception("over the first axis", lambda x: x.pow(2).mean(0),
                      "you averaged over the first axis. The features are the last one: dim=-1."),
    ),
    hints=("Read the name from right to left: first square, then mean.",
           "x.pow(2) squares; .mean(-1) averages over the last axis and keeps those in front."))

EXERCISES = [MEAN_SQUARE]
