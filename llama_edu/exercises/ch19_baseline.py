"""The exercise of chapter 19 on baselines, 19.6: which one makes a sampled gradient least noisy."""

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from .data import Exercise, Inputs, Misconception, Probe, count, normal

Found = tuple[float, float]


def _gradients(p: Tensor) -> Tensor:
    """Of log p of each answer by the logits: one-hot less p, a row an answer."""
    return torch.eye(len(p), dtype=p.dtype) - p


def _noise(p: Tensor, rewards: Tensor, baseline: float) -> float:
    """The variance of one sampled gradient, summed over the logits; a test draws samples."""
    found = _gradients(p) * (rewards - baseline)[:, None]
    mean = p @ found
    return (p @ (found - mean).square().sum(1)).item()


def _best(p: Tensor, rewards: Tensor) -> Found:
    weight = p * _gradients(p).square().sum(1)
    baseline = (weight @ rewards / weight.sum()).item()
    return baseline, _noise(p, rewards, baseline)


def _given(p: list[float], rewards: list[float]) -> Callable[[Generator], Inputs]:
    def make(rng: Generator) -> Inputs:
        turn = count(rng, 0, len(p) - 1)
        return {"p": torch.tensor(p, dtype=torch.float64).roll(turn),
                "rewards": torch.tensor(rewards, dtype=torch.float64).roll(
                    count(rng, 0, len(p) - 1))}

    return make


def _drawn(rng: Generator, n: int) -> Inputs:
    return {"p": (1.2 * torch.randn(n, generator=rng, dtype=torch.float64)).softmax(-1),
            "rewards": normal(rng, n, mean=2.0, std=1.5).double()}


def _with(baseline: Callable[[Tensor, Tensor], Tensor]) -> Callable:
    def answer(p: Tensor, rewards: Tensor) -> Found:
        b = float(baseline(p, rewards))
        return b, _noise(p, rewards, b)

    return answer


def _weighed(weigh: Callable[[Tensor], Tensor]) -> Callable:
    return _with(lambda p, r: weigh(p) @ r / weigh(p).sum())


def _noise_as(noise: Callable[[Tensor, Tensor, float], float]) -> Callable:
    def answer(p: Tensor, rewards: Tensor) -> Found:
        b = _best(p, rewards)[0]
        return b, noise(p, rewards, b)

    return answer


def _alike(p: Tensor, r: Tensor, b: float) -> float:
    """Each answer counts once, around the right mean."""
    found = _gradients(p) * (r - b)[:, None]
    return (found - p @ found).square().mean(0).sum().item()


def _square(p: Tensor, r: Tensor, b: float) -> float:
    return (p @ (_gradients(p) * (r - b)[:, None]).square().sum(1)).item()


BASELINE = Exercise(
    "19.6", "The quietest baseline", "Harder: the quietest baseline", _best,
    probes=(
        Probe("three answers", _given([0.5, 0.3, 0.2], [1.0, 0.0, 0.5])),
        Probe("one is nearly sure", _given([0.9, 0.06, 0.04], [1.0, 3.0, -1.0])),
        Probe("five answers", lambda rng: _drawn(rng, 5)),
        Probe("many answers", lambda rng: _drawn(rng, 12)),
        Probe("all worth nearly the same", _given([0.4, 0.35, 0.15, 0.1], [3.0, 3.1, 3.0, 2.9])),
        Probe("far from zero", _given([0.4, 0.3, 0.2, 0.1], [21.0, 20.0, 20.5, 19.0])),
    ),
    misconceptions=(
        Misconception("the expected reward", _weighed(lambda p: p),
                      "your baseline is the expected reward. That is what a critic learns, and it "
                      "is good; but an answer whose gradient is long makes more noise, and counts "
                      "more."),
        Misconception("the mean of all answers", _with(lambda p, r: r.mean()),
                      "you averaged over the answers as if they were drawn alike."),
        Misconception("no baseline", _with(lambda p, r: torch.zeros(())),
                      "you took no baseline at all."),
        Misconception("the best answer", _with(lambda p, r: r.max()),
                      "you took the best reward for a baseline: then everything is blamed.",
                      also=(_with(lambda p, r: r[p.argmax()]),)),
        Misconception("lengths, not squares", _weighed(
                          lambda p: p * _gradients(p).square().sum(1).sqrt()),
                      "you weighed with the gradients' lengths. The noise is a sum of squares: "
                      "weigh with the squared lengths."),
        Misconception("not weighed with p", _weighed(lambda p: _gradients(p).square().sum(1)),
                      "the squared lengths are there, and the chance to be drawn is missing."),
        Misconception("the answer's own logit alone", _weighed(lambda p: p * (1 - p).square()),
                      "you took the gradient by the answer's own logit alone. Drawing it pushes "
                      "all others down, too.", also=(_weighed(lambda p: p * (1 - p)),)),
        Misconception("the mean not taken away", _noise_as(_square),
                      "that is the mean square of the sampled gradient. Its variance is what is "
                      "left without the mean: what one learns from is no noise."),
        Misconception("the deviation", _noise_as(lambda p, r, b: _noise(p, r, b)**0.5),
                      "you returned the deviation, the root of what is asked for."),
        Misconception("a mean over logits", _noise_as(lambda p, r, b: _noise(p, r, b) / len(p)),
                      "you averaged over the logits: the sum over them is asked for."),
        Misconception("the variance of rewards", _noise_as(
                          lambda p, r, b: (p @ (r - b).square()).item()),
                      "that is how far the rewards lie from the baseline. The noise is in the "
                      "gradient: reward less baseline, times one-hot less p.",
                      also=(_noise_as(lambda p, r, b: (p @ (r - p @ r).square()).item()),)),
        Misconception("without the baseline's help", _noise_as(
                          lambda p, r, b: _noise(p, r, 0.0)),
                      "that is the noise without any baseline."),
        Misconception("each answer once", _noise_as(lambda p, r, b: (
                          _gradients(p) * (r - b)[:, None]).var(0, correction=0).sum().item()),
                      "in your variance each answer counts alike. It is drawn with its p.",
                      also=(_noise_as(_alike), _noise_as(lambda p, r, b: (
                          _gradients(p) * (r - b)[:, None]).var(0).sum().item()),
                          _noise_as(lambda p, r, b: len(p) * _alike(p, r, b)))),
    ),
    hints=(
        "One sample's gradient is (r - b) g, with g = one-hot less p. Its mean does not depend on "
        "b (why?). So make the mean of (r - b)^2 |g|^2 small.",
        "Set the derivative by b to 0: b = E[|g|^2 r] / E[|g|^2], with the expectation over p.",
        "g = torch.eye(len(p), dtype=p.dtype) - p; w = p * g.square().sum(1); b = (w @ rewards) / "
        "w.sum(). Then drawn = g * (rewards - b)[:, None], a row an answer; its mean is p @ drawn; "
        "the variance is p @ (drawn - p @ drawn).square().sum(1). Both as float(...).",
    ))

EXERCISES = [BASELINE]
