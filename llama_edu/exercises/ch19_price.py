"""The exercise of chapter 19 on the reward of every token, 19.1."""

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from ..alignment.ppo import token_rewards
from .data import Exercise, Inputs, Misconception, Probe, count, normal

BETA = 0.25


def _rewards(scores: Tensor, log_probs: Tensor, reference: Tensor, acts: Tensor, beta: float
             ) -> Tensor:
    return token_rewards(scores, log_probs, reference, acts, beta=beta)


def acts_of(t: int, *spans: tuple[int, int]) -> Tensor:
    """True on the answers, from a place and so many tokens long."""
    places = torch.arange(t)
    return torch.stack([(places >= start) & (places < start + n) for start, n in spans])


def _answers(rng: Generator, t: int, *spans: tuple[int, int], beta: float = BETA,
             zero: bool = False) -> Inputs:
    """zero: log-probabilities are 0 outside the answers, as rollouts have them; else anything."""
    acts = acts_of(t, *spans)
    log_probs, reference = (-normal(rng, len(spans), t).abs() - 0.1 for _ in range(2))
    if zero:
        log_probs, reference = log_probs * acts, reference * acts
    return {"scores": normal(rng, len(spans), mean=0.5, std=2.0), "log_probs": log_probs,
            "reference": reference, "acts": acts, "beta": beta + count(rng, 0, 3) / 8}


def _last(acts: Tensor) -> Tensor:
    return acts & (acts.flip(1).cumsum(1).flip(1) == 1)


def _made(price: Callable[[Tensor, Tensor], Tensor], *,
          where: Callable[[Tensor], Tensor] = _last, of: Callable[[Tensor], Tensor] = lambda a: a
          ) -> Callable:
    """Rewards with another price of a token, the score elsewhere, or other tokens that pay."""
    def answer(scores: Tensor, log_probs: Tensor, reference: Tensor, acts: Tensor, beta: float
               ) -> Tensor:
        return (-beta * price(log_probs, reference) * of(acts)
                + scores[:, None] * where(acts))

    return answer


def _ratio(p: Tensor, q: Tensor) -> Tensor:
    return p - q


def _k3(p: Tensor, q: Tensor) -> Tensor:
    return (q - p).exp() - (q - p) - 1


def _summed(scores: Tensor, log_probs: Tensor, reference: Tensor, acts: Tensor, beta: float
            ) -> Tensor:
    far = ((log_probs - reference) * acts).sum(1)
    return (scores - beta * far)[:, None] * _last(acts)


def _at_row_end(acts: Tensor) -> Tensor:
    return torch.arange(acts.shape[1]) == acts.shape[1] - 1


def _share(acts: Tensor) -> Tensor:
    return acts / acts.sum(1, keepdim=True)


def _first(acts: Tensor) -> Tensor:
    return acts & (acts.cumsum(1) == 1)


def _after(acts: Tensor) -> Tensor:
    return _last(acts).roll(1, 1)


def _after_if_there(acts: Tensor) -> Tensor:
    return torch.cat([torch.zeros_like(acts[:, :1]), _last(acts)[:, :-1]], 1)


def _after_or_last(acts: Tensor) -> Tensor:
    found = _after_if_there(acts)
    found[:, -1] |= acts[:, -1]
    return found


def _prompt_forgotten(acts: Tensor) -> Tensor:
    return torch.arange(acts.shape[1]) == acts.sum(1, keepdim=True) - 1


def _overwritten(scores: Tensor, log_probs: Tensor, reference: Tensor, acts: Tensor, beta: float
                 ) -> Tensor:
    return torch.where(_last(acts), scores[:, None], -beta * (log_probs - reference) * acts)


def _twice(scores: Tensor, log_probs: Tensor, reference: Tensor, acts: Tensor, beta: float
           ) -> Tensor:
    each = -beta * (log_probs - reference) * acts
    return each + (scores + each.sum(1))[:, None] * _last(acts)


def _less_price(scores: Tensor, log_probs: Tensor, reference: Tensor, acts: Tensor, beta: float
                ) -> Tensor:
    """Beta on the score, too."""
    return beta * (scores[:, None] * _last(acts) - (log_probs - reference) * acts)


REWARDS = Exercise(
    "19.1", "The reward of every token", "Your turn: who pays, and where", _rewards,
    probes=(
        Probe("three answers", lambda rng: _answers(rng, 7, (2, 3), (1, 4), (2, 5))),
        Probe("as rollouts come", lambda rng: _answers(rng, 8, (1, 2), (3, 5), (2, 4), zero=True)),
        Probe("an answer of one token", lambda rng: _answers(rng, 5, (2, 1), (1, 4))),
        Probe("all filled", lambda rng: _answers(rng, 4, (0, 4), (0, 4))),
        Probe("7.0 outside", lambda rng: (held := _answers(rng, 7, (2, 3), (1, 4), (3, 1)))
              | {"log_probs": held["log_probs"].where(held["acts"], 7.0),
                 "reference": held["reference"].where(held["acts"], -7.0)}),
        Probe("no price", lambda rng: _answers(rng, 6, (2, 3), (1, 2)) | {"beta": 0.0}),
    ),
    misconceptions=(
        Misconception("the sign of the price", _made(lambda p, q: q - p),
                      "you pay the policy for leaving the reference. A token that it now likes "
                      "better than the reference did has log p - log q above 0, and that costs."),
        Misconception("the score at every token", _made(_ratio, where=lambda acts: acts),
                      "every token of an answer got the whole score: a long answer is paid many "
                      "times. It is given once, at the last token."),
        Misconception("the score shared out", _made(_ratio, where=_share),
                      "you shared the score out over the answer. Nobody knows which token earned "
                      "it; that is what the advantages will find out. It stands at the last one."),
        Misconception("the score at the row's end", _made(_ratio, where=_at_row_end),
                      "the score stands at the end of the row: for the shorter answers that is "
                      "padding, where nothing was done."),
        Misconception("the score at the first token", _made(_ratio, where=_first),
                      "the score stands at each answer's first token. It is known when the answer "
                      "is over."),
        Misconception("the score behind the answer", _made(_ratio, where=_after),
                      "the score stands one place behind the last token that was drawn.",
                      also=(_made(_ratio, where=_after_if_there),
                            _made(_ratio, where=_after_or_last))),
        Misconception("the prompt forgotten", _made(_ratio, where=_prompt_forgotten),
                      "the score stands at place n - 1 of the row, for an answer of n tokens. The "
                      "answer does not begin at place 0: a prompt stands before it."),
        Misconception("the score for the price", _overwritten,
                      "at the last token you wrote the score over the price. It was drawn like the "
                      "others and pays like them: add the score."),
        Misconception("beta on the score", _less_price,
                      "beta multiplies the score as well. It is the price of a nat; the score "
                      "counts whole.",
                      also=(lambda scores, log_probs, reference, acts, beta: _rewards(
                          beta * scores, log_probs, reference, acts, 1.0),)),
        Misconception("charged twice", _twice,
                      "every token pays for itself, and at the last one the whole answer pays "
                      "again. Once is enough."),
        Misconception("nothing back", _made(lambda p, q: (p - q).clamp(min=0)),
                      "you cut the price off at 0. A token that the policy likes less than the "
                      "reference did earns something back; only so is the mean a KL."),
        Misconception("the ratio for its logarithm", _made(lambda p, q: (p - q).exp()),
                      "your price is the ratio p/q itself, so even a policy that has not moved "
                      "pays. The price is the ratio's logarithm, log p - log q.",
                      also=(_made(lambda p, q: (p - q).exp() - 1),
                            _made(lambda p, q: p / q))),
        Misconception("all tokens pay", _made(_ratio, of=torch.ones_like),
                      "prompt and padding pay as well. Nobody chose them: only where `acts` is "
                      "True was a token drawn."),
        Misconception("one price at the end", _summed,
                      "you took the price of the whole answer at its last token. Each token pays "
                      "for itself, where it went astray."),
        Misconception("never below zero", _made(_k3),
                      "you took q/p - log(q/p) - 1 for the price. That is an estimate whose mean "
                      "is the KL, too, and GRPO's; here the price of a token is log p - log q."),
        Misconception("absolute values", _made(lambda p, q: (p - q).abs()),
                      "you took the distance without its sign. A token that the policy likes less "
                      "than the reference did earns something back; only so is the mean a KL."),
        Misconception("no logarithm", _made(lambda p, q: p.exp() - q.exp()),
                      "you subtracted probabilities. The price is the difference of the "
                      "logarithms, which is how it is given."),
        Misconception("weighed with p", _made(lambda p, q: p.exp() * (p - q)),
                      "you weighed with p. The token was drawn with p already: its chance to come "
                      "up is the weight."),
        Misconception("no price", _made(lambda p, q: torch.zeros_like(p)),
                      "there is no price in it: nothing holds the policy near the reference."),
        Misconception("beta misplaced", _made(lambda p, q: (p - q) / BETA),
                      "beta divides or is left out. It multiplies the difference.",
                      also=(lambda scores, log_probs, reference, acts, beta: (
                                -(log_probs - reference) * acts
                                + scores[:, None] * _last(acts)),
                            lambda scores, log_probs, reference, acts, beta: (
                                -(log_probs - reference) * acts / (beta or 1)
                                + scores[:, None] * _last(acts)))),
    ),
    hints=(
        "Write the two parts apart: a price at each token that was drawn, and a score at one.",
        "The price is -beta * (log_probs - reference), times acts. Which place of a row is the "
        "last True one?",
        "last = acts & (acts.flip(1).cumsum(1).flip(1) == 1); then the price times acts, plus "
        "scores[:, None] * last.",
    ))

EXERCISES = [REWARDS]
