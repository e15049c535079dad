"""The exercise of chapter 18 on two reward models, 18.4: one reward of both, whitened."""

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor

from ..alignment.reward import UNSAFE_BELOW, combined, whitened
from .data import Exercise, Inputs, Misconception, Probe, normal

CUT = math.log(UNSAFE_BELOW / (1 - UNSAFE_BELOW))       # the score of that probability, -1.73
Rule = Callable[[Tensor, Tensor, Tensor], Tensor]


def _package_reward(helpful: Tensor, safe: Tensor, tagged: Tensor) -> Tensor:
    return whitened(combined(helpful, safe, tagged))


def _inputs(rng: Generator, n: int, *, tags: float = 0.3, safe: float = 0.0, std: float = 2.5
            ) -> Inputs:
    """Scores of which none is so near the threshold that rounding decides."""
    scores = normal(rng, n, mean=safe, std=std)
    scores = torch.where((scores - CUT).abs() < 0.1, scores + 0.3, scores)
    return {"helpful": normal(rng, n, mean=1.0, std=1.5), "safe": scores,
            "tagged": torch.rand(n, generator=rng) < tags}


def _between(rng: Generator) -> Inputs:
    """Safety scores between the threshold as a score, and as a probability."""
    return _inputs(rng, 6, tags=0.0) | {"safe": -1.5 + 1.6 * torch.rand(6, generator=rng)}


def _alike(rng: Generator) -> Inputs:
    one = normal(rng, 1).expand(4).clone()
    return {"helpful": one, "safe": one.abs() + 1, "tagged": torch.zeros(4, dtype=torch.bool)}


def _large(rng: Generator) -> Inputs:
    held = _inputs(rng, 5, tags=0.4, safe=1.0)
    held["helpful"][0], held["safe"][1] = 120.0, 90.0
    return held | {"tagged": torch.tensor([False, True, False, True, False])}


def _pick(unsafe: Rule = lambda h, s, t: t | (s < CUT), *, whiten: Callable = whitened,
          reward: Callable[[Tensor], Tensor] = lambda r: r) -> Callable:
    """The safety score where `unsafe`, else the other; right unless told otherwise."""
    return lambda h, s, t: whiten(reward(torch.where(unsafe(h, s, t), s, h)))


def _of(mix: Rule) -> Callable:
    return lambda h, s, t: whitened(mix(h, s, t))


def _scaled(r: Tensor, std: Tensor) -> Tensor:
    return (r - r.mean()) / std


def _there_and_back(r: Tensor) -> Tensor:
    return (r.sigmoid() / (1 - r.sigmoid())).log()


COMBINED = Exercise(
    "18.4", "One reward of two", "Your turn: two judges, one number", _package_reward,
    probes=(
        Probe("six answers", lambda rng: _inputs(rng, 6)),
        Probe("nothing tagged", lambda rng: _inputs(rng, 7, tags=0.0)),
        Probe("all tagged", lambda rng: _inputs(rng, 5, tags=1.1)),
        Probe("unlikely to be safe, but not below 0.15", _between),
        Probe("two answers", lambda rng: _inputs(rng, 2, safe=2.0, tags=0.0)),
        Probe("all alike", _alike),
        Probe("very sure", _large),
        Probe("many", lambda rng: _inputs(rng, 40, safe=-1.0)),
    ),
    misconceptions=(
        Misconception("a score for a probability", _pick(lambda h, s, t: t | (s < UNSAFE_BELOW)),
                      "you compared the score with 0.15. The threshold is a probability: its "
                      "score is its logit, -1.73."),
        Misconception("both conditions", _pick(lambda h, s, t: t & (s < CUT)),
                      "you ask for both: tagged and unlikely to be safe. Either is enough."),
        Misconception("tags ignored", _pick(lambda h, s, t: s < CUT),
                      "you left the tags out: on a dangerous prompt safety counts even where the "
                      "answer is safe."),
        Misconception("only tags", _pick(lambda h, s, t: t),
                      "you left the threshold out: an answer unlikely to be safe is judged by "
                      "safety on any prompt."),
        Misconception("upside down", _pick(lambda h, s, t: ~(t | (s < CUT))),
                      "you exchanged the two rewards: safety's counts where it is dangerous."),
        Misconception("above the threshold", _pick(lambda h, s, t: t | (s > CUT)),
                      "you take safety's reward where it is *more* than 0.15 likely."),
        Misconception("the smaller of two", _of(lambda h, s, t: torch.minimum(h, s)),
                      "you took the smaller of the two. Their scales have nothing to do with each "
                      "other; tag and threshold decide."),
        Misconception("added", _of(lambda h, s, t: h + s),
                      "you added the two. Then a very helpful answer may be dangerous.",
                      also=(_of(lambda h, s, t: torch.where(t, s, h + s)),
                            _of(lambda h, s, t: torch.where(t | (s < CUT), h + s, h)))),
        Misconception("helpfulness alone", _of(lambda h, s, t: h),
                      "you left safety out."),
        Misconception("safety alone", _of(lambda h, s, t: s),
                      "you left helpfulness out."),
        Misconception("whitened before", lambda h, s, t: torch.where(
                          t | (s < CUT), whitened(s), whitened(h)),
                      "you whitened each reward by itself, and then chose. Choose first: what "
                      "comes out of the choice has mean 0."),
        Misconception("threshold after whitening", lambda h, s, t: whitened(torch.where(
                          t | (whitened(s) < CUT), s, h)),
                      "you compared whitened scores with the threshold. 0.15 is the model's own "
                      "probability, before anything is shifted.",
                      also=(lambda h, s, t: torch.where(t | (whitened(s) < CUT), whitened(s),
                                                        whitened(h)),)),
        Misconception("not whitened", _pick(whiten=lambda r: r),
                      "you chose rightly and did not whiten: subtract the mean, divide by the "
                      "standard deviation."),
        Misconception("mean not subtracted", _pick(whiten=lambda r: r / r.std().clamp(min=1e-4)),
                      "you did not subtract the mean.", also=(
                          _pick(whiten=lambda r: r / (r.var() + 1e-8).sqrt()),
                          _pick(whiten=lambda r: r / r.std()))),
        Misconception("not scaled", _pick(whiten=lambda r: r - r.mean()),
                      "you subtracted the mean and did not divide by the standard deviation."),
        Misconception("divided by the variance", _pick(whiten=lambda r: _scaled(r, r.var() + 1e-8)),
                      "you divided by the variance. Take its root.",
                      also=(_pick(whiten=lambda r: _scaled(r, r.var())),)),
        Misconception("variance of all", _pick(whiten=lambda r: _scaled(
                          r, (r.var(correction=0) + 1e-8).sqrt())),
                      "your variance is divided by b. It is divided by b - 1, as of a sample.",
                      also=(_pick(whiten=lambda r: _scaled(r, r.std(correction=0))),)),
        Misconception("probabilities", _pick(reward=torch.sigmoid),
                      "you whitened probabilities. Their logits are asked for, which the scores "
                      "are: a sigmoid squeezes the best and the worst together."),
        Misconception("there and back", _pick(reward=_there_and_back),
                      "you went to the probability and back by its logit: where the model is very "
                      "sure, that has rounded to 1, and the logit is infinite. The score *is* the "
                      "logit.", also=(
                          _pick(reward=lambda r: torch.logit(r.sigmoid())),
                          lambda h, s, t: whitened(torch.logit(torch.where(
                              t | (s.sigmoid() < UNSAFE_BELOW), s.sigmoid(), h.sigmoid()))))),
        Misconception("0 by 0", _pick(whiten=lambda r: _scaled(r, r.std())),
                      "all rewards were equal and you divided 0 by 0. Put a small number under the "
                      "root: equal rewards become 0."),
    ),
    hints=(
        "Choose first, whiten then. Which score belongs to a probability of 0.15?",
        "Safety's score where tagged or below log(0.15 / 0.85); else that of helpfulness. A score "
        "is the logit already.",
        "r = torch.where(tagged | (safe.sigmoid() < 0.15), safe, helpful); then "
        "(r - r.mean()) / (r.var() + 1e-8).sqrt().",
    ))

EXERCISES = [COMBINED]
