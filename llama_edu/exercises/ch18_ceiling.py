"""The exercise of chapter 18 on what labels with errors allow, 18.3."""

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor

from ..alignment.preferences import preference
from ..data.dialogues_labels import chosen_first
from .data import Exercise, Inputs, Misconception, Probe, between, normal

Bounds = tuple[float, float]


def _package_bounds(worths: Tensor, sharpness: float) -> Bounds:
    """A model that scores `sharpness * worth` is the labeller: its loss at either label."""
    first, second = (sharpness * worths.double()).unbind(1)
    chances = [chosen_first(float(by), sharpness)
               for by in (worths.double().diff(dim=1)[:, 0]).abs()]
    found = 0.0
    for one, other, p in zip(torch.maximum(first, second), torch.minimum(first, second), chances,
                             strict=True):
        for better, worse, share in ((one, other, p), (other, one, 1 - p)):
            batch = {"tokens": None, "ends": None, "margins": torch.zeros(1).double()}
            scores = torch.stack([better, worse])
            found += share * preference(lambda t, e, s=scores: s, batch).total.item()
    return sum(chances) / len(chances), found / len(chances)


def _inputs(rng: Generator, n: int, *, sharp: tuple[float, float] = (2.0, 5.0), ties: int = 0
            ) -> Inputs:
    worths = normal(rng, n, 2, mean=0.5, std=0.4)
    worths[:ties, 1] = worths[:ties, 0]
    return {"worths": worths, "sharpness": between(rng, *sharp)}


def _sure(rng: Generator) -> Inputs:
    """So sure that probabilities round to 1, and a tie, or the loss would be below all rounding."""
    worths = torch.tensor([[1.0, 0.0], [0.0, 0.75], [0.5, 0.5]])
    return {"worths": worths, "sharpness": between(rng, 60, 90)}


def _entropy(p: Tensor) -> Tensor:
    return torch.special.entr(p) + torch.special.entr(1 - p)


def _by(worths: Tensor, sharpness: float) -> Tensor:
    """How likely the first answer is preferred, float64."""
    return (sharpness * (worths[:, 0] - worths[:, 1]).double()).sigmoid()


def _bounds(*, chance: Callable[[Tensor, float], Tensor] = _by,
            best: Callable[[Tensor], Tensor] = lambda p: torch.maximum(p, 1 - p),
            loss: Callable[[Tensor], Tensor] = _entropy) -> Callable:
    """Both bounds, right unless told otherwise."""
    def answer(worths: Tensor, sharpness: float) -> Bounds:
        p = chance(worths, sharpness)
        return best(p).mean().item(), loss(p).mean().item()

    return answer


def _nats(p: Tensor) -> Tensor:
    return -(p * p.log() + (1 - p) * (1 - p).log())


def _better(p: Tensor) -> Tensor:
    return torch.maximum(p, 1 - p)


def _ties(p: Tensor, count_as: float) -> Tensor:
    return _better(p).masked_fill(p == 0.5, count_as)


BOUNDS = Exercise(
    "18.3", "What labels with errors allow", "Labellers who err, and as often as we choose",
    _package_bounds,
    probes=(
        Probe("five pairs", lambda rng: _inputs(rng, 5)),
        Probe("equal answers among them", lambda rng: _inputs(rng, 6, ties=2)),
        Probe("a coin", lambda rng: _inputs(rng, 3, ties=3)),
        Probe("hardly an eye for it", lambda rng: _inputs(rng, 7, sharp=(0.2, 0.6))),
        Probe("nearly sure", lambda rng: _inputs(rng, 4, sharp=(9.0, 12.0))),
        Probe("wrong in ties alone", _sure),
    ),
    misconceptions=(
        Misconception("sides not turned", _bounds(best=lambda p: p),
                      "your accuracy is how often the *first* answer is preferred. Whoever knows "
                      "the worths bets on the better of the two, wherever it stands.",
                      also=(_bounds(best=lambda p: p, loss=lambda p: -p.log()),)),
        Misconception("always right", _bounds(best=torch.ones_like),
                      "your best accuracy is 1. A labeller sometimes takes the worse answer, and "
                      "then whoever knows better is counted as wrong.",
                      also=(_bounds(best=torch.ones_like, loss=torch.zeros_like),)),
        Misconception("ties always right", _bounds(best=lambda p: _ties(p, 1.0)),
                      "you count equal answers as rightly told. There a coin decides: 0.5."),
        Misconception("ties always wrong", _bounds(best=lambda p: _ties(p, 0.0)),
                      "you count equal answers as wrongly told. There a coin decides, and any bet "
                      "wins half the time."),
        Misconception("ties left out", lambda worths, sharpness: (
                          _bounds()(kept, sharpness) if len(kept := worths[worths[:, 0] != worths[
                              :, 1]]) else (math.nan, math.nan)),
                      "you left equal answers out. Their labels stand in the data as well, and no "
                      "one can tell them."),
        Misconception("sharpness forgotten", _bounds(chance=lambda w, s: _by(w, 1.0)),
                      "you left the sharpness out: it multiplies the difference."),
        Misconception("divided by the sharpness", _bounds(chance=lambda w, s: _by(w, 1 / s)),
                      "you divided by the sharpness. A sharper eye sees the same difference "
                      "larger: multiply."),
        Misconception("the mean difference", lambda worths, sharpness: _bounds()(
                          torch.stack([(worths[:, 0] - worths[:, 1]).abs().mean(),
                                       torch.zeros(())])[None], sharpness),
                      "you took the mean difference for all. Sigmoid and entropy bend: take them "
                      "pair by pair, then the mean."),
        Misconception("surprise at the better", _bounds(loss=lambda p: -_better(p).log()),
                      "your loss is the surprise when the better answer is chosen. With chance "
                      "1 - p the other is, and that surprises more: weigh both.",
                      also=(_bounds(loss=lambda p: -torch.maximum(p, 1 - p).mean().log()),)),
        Misconception("half the entropy", _bounds(loss=lambda p: torch.special.entr(_better(p))),
                      "you left out the labels that go to the worse answer. Of two outcomes both "
                      "have a surprise: p and 1 - p.",
                      also=(_bounds(loss=lambda p: torch.special.entr(1 - _better(p))),)),
        Misconception("bits", _bounds(loss=lambda p: _entropy(p) / math.log(2)),
                      "your loss is in bits. Use the natural logarithm."),
        Misconception("entropy of the mean", lambda worths, sharpness: (
                          _bounds()(worths, sharpness)[0],
                          _entropy(_better(_by(worths, sharpness)).mean()).item()),
                      "you took the entropy of the mean accuracy. Take that of each pair, then the "
                      "mean."),
        Misconception("0 times infinity", _bounds(loss=_nats),
                      "a probability has rounded to 1, and 0 times the logarithm of 0 is NaN. It "
                      "counts as 0: torch.special.entr knows that, or write it with F.softplus.",
                      also=(_bounds(chance=lambda w, s: (s * (w[:, 0] - w[:, 1])).sigmoid(),
                                    loss=_nats),)),
        Misconception("the sum", lambda worths, sharpness: tuple(
                          len(worths) * each for each in _bounds()(worths, sharpness)),
                      "you summed over the pairs. Take the means."),
        Misconception("twice the advantage", _bounds(best=lambda p: (2 * p - 1).abs()),
                      "2 p - 1 is how much better than a coin one does, and not how often one is "
                      "right."),
        Misconception("exchanged", lambda worths, sharpness: _bounds()(worths, sharpness)[::-1],
                      "you returned the loss first. The accuracy comes first."),
    ),
    hints=(
        "One pair first. With which chance p does the labeller take the better answer? Who knows "
        "that, bets on it and wins with chance p.",
        "p = sigmoid(sharpness * |difference|), which is 0.5 for equal answers. The surprise is "
        "-log p with chance p, and -log(1 - p) with chance 1 - p.",
        "p.mean().item(), (torch.special.entr(p) + torch.special.entr(1 - p)).mean().item()",
    ))

EXERCISES = [BOUNDS]
