"""The exercise of chapter 20 on the optimum, 20.4: from preferences to the best policy."""

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from .data import Exercise, Inputs, Misconception, Probe, count


def _best(p: Tensor, wins: Tensor, beta: float) -> Tensor:
    """A test finds the same by minimising the expected loss of DPO."""
    rewards = wins.logit().mean(1)
    return (p.log() + rewards / beta).softmax(0)


def _wins(rewards: Tensor) -> Tensor:
    return (rewards[:, None] - rewards).sigmoid()


def _given(p: list[float], rewards: list[float], beta: float) -> Callable[[Generator], Inputs]:
    def make(rng: Generator) -> Inputs:
        turn = torch.tensor(rewards, dtype=torch.float64).roll(count(rng, 0, len(p) - 1))
        return {"p": torch.tensor(p, dtype=torch.float64).roll(count(rng, 0, len(p) - 1)),
                "wins": _wins(turn), "beta": beta}

    return make


def _drawn(rng: Generator, n: int, beta: float) -> Inputs:
    p = torch.randn(n, generator=rng, dtype=torch.float64).softmax(0)
    return {"p": p, "wins": _wins(1.5 * torch.randn(n, generator=rng, dtype=torch.float64)),
            "beta": beta}


def _by(odds: Callable[[Tensor, Tensor, float], Tensor]) -> Callable:
    def answer(p: Tensor, wins: Tensor, beta: float) -> Tensor:
        found = odds(p, wins, beta)
        return found / found.sum()

    return answer


def _rewards(wins: Tensor) -> Tensor:
    return wins.logit().mean(1)


OPTIMUM = Exercise(
    "20.4", "From preferences to the best policy", "Harder: no reward model, no training", _best,
    probes=(
        Probe("five answers", _given([0.4, 0.3, 0.15, 0.1, 0.05], [0.0, 1.0, -1.0, 0.5, 2.0], 1.0)),
        Probe("a small price", _given([0.5, 0.3, 0.2], [0.0, 0.4, -0.3], 0.25)),
        Probe("a high price", _given([0.5, 0.3, 0.2], [1.0, 0.0, 3.0], 4.0)),
        Probe("nobody has a preference", _given([0.6, 0.3, 0.1], [1.0, 1.0, 1.0], 0.5)),
        Probe("many answers", lambda rng: _drawn(rng, 12, 0.7)),
        Probe("two answers", _given([0.8, 0.2], [0.0, 1.0], 0.5)),
    ),
    misconceptions=(
        Misconception("no reference", _by(lambda p, w, beta: (_rewards(w) / beta).exp()),
                      "the reference is missing. The best policy is it, tilted: an answer that "
                      "was unlikely stays less likely than an equally good one that was not."),
        Misconception("no price", _by(lambda p, w, beta: p * _rewards(w).exp()),
                      "beta is missing: rewards are divided by it before they tilt, and dividing "
                      "the probabilities themselves changes nothing once they sum to 1."),
        Misconception("times beta", _by(lambda p, w, beta: p * (_rewards(w) * beta).exp()),
                      "you multiplied by beta. A high price keeps the policy near the reference: "
                      "divide."),
        Misconception("win rates for rewards", _by(
                          lambda p, w, beta: p * (w.mean(1) / beta).exp()),
                      "you took an answer's mean win rate for its reward. Bradley and Terry's "
                      "reward is a *logit*: its differences are the log-odds of winning.",
                      also=(_by(lambda p, w, beta: p * (w.sum(1) / beta).exp()),
                            _by(lambda p, w, beta: p * (w[:, 0] / beta).exp()))),
        Misconception("the logit of a mean", _by(
                          lambda p, w, beta: p * (w.mean(1).logit() / beta).exp()),
                      "you took the mean of the win rates and then its logit. Only each rate by "
                      "itself is a difference of two rewards: first the logits.",
                      also=(_by(lambda p, w, beta: p * (((w.sum(1) - 0.5) / (len(p) - 1)).logit()
                                                        / beta).exp()),)),
        Misconception("a mean over the others", _by(
                          lambda p, w, beta: p * (_rewards(w) * len(p) / (len(p) - 1)
                                                  / beta).exp()),
                      "you divided the sum of an answer's logits by the number of *others*. The "
                      "logit against itself is 0 and counts: r_i less the mean of all rewards is "
                      "their mean over all m. Or take one column alone.",
                      also=(_by(lambda p, w, beta: p * (w.logit().sum(1) / beta).exp()),)),
        Misconception("log for logit", _by(
                          lambda p, w, beta: p * (w.log().mean(1) / beta).exp()),
                      "you took log w. The difference of two rewards is log(w / (1 - w)).",
                      also=(_by(lambda p, w, beta: p * (w[:, 0].log() / beta).exp()),)),
        Misconception("columns", _by(lambda p, w, beta: p * (_rewards(w.T) / beta).exp()),
                      "you read the columns: w[i, j] says how often i is preferred to j."),
        Misconception("linear", _by(lambda p, w, beta: p * (1 + _rewards(w) / beta).clamp(min=0)),
                      "the tilt is exp(r / beta), and not 1 + r / beta."),
        Misconception("not normalised", lambda p, w, beta: p * (_rewards(w) / beta).exp(),
                      "your probabilities do not sum to 1.",
                      also=tuple(lambda p, w, beta, i=i: p * (w.logit()[:, i] / beta).exp()
                                 for i in (0, -1))),
        Misconception("logits returned", lambda p, w, beta: p.log() + _rewards(w) / beta,
                      "you returned logarithms: take the softmax."),
        Misconception("p once more in the power", _by(
                          lambda p, w, beta: (p * _rewards(w).exp())**(1 / beta)),
                      "you raised the reference to 1/beta as well. Only exp(r) is."),
        Misconception("the best alone", lambda p, w, beta: torch.nn.functional.one_hot(
                          w.mean(1).argmax(), len(p)).double(),
                      "you give the best answer only. That is the optimum without a price."),
    ),
    hints=(
        "What is r_i - r_j, if i is preferred to j with probability w? A constant on all rewards "
        "changes nothing: fix one.",
        "Rewards: wins.logit()[:, 0], say. Then which policy has the most expected reward less "
        "beta KL? Write it with a Lagrange multiplier.",
        "(p.log() + wins.logit()[:, 0] / beta).softmax(0).",
    ))

EXERCISES = [OPTIMUM]
