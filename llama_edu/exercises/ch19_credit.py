"""The exercises of chapter 19 on credit: 19.1, the reward of every token, and 19.2, GAE."""

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from ..alignment.ppo import advantages, token_rewards
from .data import Exercise, Inputs, Misconception, Probe, count, normal

# -- 19.1: a price for every token, the score at the last ----------------------------------------

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


REWARDS = Exercise(
    "19.1", "The reward of every token", "Your turn: who pays, and where", _rewards,
    probes=(
        Probe("three answers", lambda rng: _answers(rng, 7, (2, 3), (1, 4), (2, 5))),
        Probe("as rollouts come", lambda rng: _answers(rng, 8, (1, 2), (3, 5), (2, 4), zero=True)),
        Probe("an answer of one token", lambda rng: _answers(rng, 5, (2, 1), (1, 4))),
        Probe("all filled", lambda rng: _answers(rng, 4, (0, 4), (0, 4))),
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
                      "the score stands one place behind the last token that was drawn."),
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
        Misconception("odds without logarithm", _made(lambda p, q: p.exp() - q.exp()),
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

# -- 19.2: what an action was worth ----------------------------------------------------------------


def _gae(rewards: Tensor, values: Tensor, acts: Tensor, discount: float, lam: float) -> Tensor:
    return advantages(rewards, values, acts, discount=discount, lam=lam)[0]


def _course(rng: Generator, t: int, *spans: tuple[int, int], discount: float = 1.0,
            lam: float = 0.5, full: bool = True) -> Inputs:
    """full: the critic says something at every place, as it does."""
    acts = acts_of(t, *spans)
    values = normal(rng, len(spans), t, mean=1.0)
    return {"rewards": normal(rng, len(spans), t) * acts, "values": values if full
            else values * acts, "acts": acts, "discount": discount, "lam": lam}


def _backwards(step: Callable[..., Tensor], *, behind: bool = False, outside: bool = False
               ) -> Callable:
    """A pass from the end: step(reward, value, next value, next advantage, discount, lam).

    behind: the values behind an answer count. outside: it runs over the padding, too.
    """
    def answer(rewards: Tensor, values: Tensor, acts: Tensor, discount: float, lam: float
               ) -> Tensor:
        found, after = torch.zeros_like(rewards), torch.zeros_like(rewards[:, 0])
        following = torch.zeros_like(after)
        for i in reversed(range(rewards.shape[1])):
            held = step(rewards[:, i], values[:, i], following, after, discount, lam)
            after = held if outside else held * acts[:, i]
            following = values[:, i] if behind or outside else values[:, i] * acts[:, i]
            found[:, i] = after
        return found

    return answer


def _right(r: Tensor, v: Tensor, later: Tensor, after: Tensor, g: float, lam: float) -> Tensor:
    return r + g * later - v + g * lam * after


GAE = Exercise(
    "19.2", "Better than expected", "Your turn: better than expected", _gae,
    probes=(
        Probe("three answers", lambda rng: _course(rng, 7, (2, 3), (1, 5), (2, 4))),
        Probe("discounted", lambda rng: _course(rng, 6, (1, 4), (2, 3), discount=0.5)),
        Probe("only the next surprise", lambda rng: _course(rng, 6, (1, 3), (2, 4), lam=0.0)),
        Probe("all surprises to come", lambda rng: _course(rng, 6, (1, 3), (2, 4), lam=1.0)),
        Probe("an answer of one token", lambda rng: _course(rng, 4, (2, 1), (1, 3))),
        Probe("values are 0 outside", lambda rng: _course(rng, 7, (2, 3), (1, 6), full=False)),
    ),
    misconceptions=(
        Misconception("values behind the answer", _backwards(_right, behind=True),
                      "the last token's surprise has the critic's value of what stands behind it. "
                      "Nothing follows an answer's last token: 0."),
        Misconception("over the padding", _backwards(_right, outside=True),
                      "prompt and padding have advantages, and what stands behind an answer flows "
                      "into it. Nobody acted there: 0.",
                      also=(lambda rewards, values, acts, discount, lam: _backwards(
                          _right, outside=True)(rewards, values, acts, discount, lam) * acts,)),
        Misconception("rewards without values", _backwards(
                          lambda r, v, later, after, g, lam: r + g * lam * after),
                      "you summed the rewards to come. An advantage is what was better than the "
                      "critic expected: take its value away, and what it expects next in."),
        Misconception("the return", lambda rewards, values, acts, discount, lam: (
                          _gae(rewards, values, acts, discount, lam) + values * acts),
                      "that is the return: the advantage with the value on top. The critic learns "
                      "from it; the policy from the advantage."),
        Misconception("the next value not discounted", _backwards(
                          lambda r, v, later, after, g, lam: r + later - v + g * lam * after),
                      "what is expected next is to be discounted as well."),
        Misconception("lambda alone", _backwards(
                          lambda r, v, later, after, g, lam: r + g * later - v + lam * after),
                      "a surprise one token later counts discount * lam of itself, not lam."),
        Misconception("discount alone", _backwards(
                          lambda r, v, later, after, g, lam: r + g * later - v + g * after),
                      "a surprise one token later counts discount * lam of itself. You left lam "
                      "out.", also=(_backwards(lambda r, v, later, after, g, lam:
                                               r + later - v + after),)),
        Misconception("lambda on the value", _backwards(
                          lambda r, v, later, after, g, lam: r + g * lam * later - v
                          + g * lam * after),
                      "you shortened the next value by lam. It belongs to the surprises, which "
                      "are summed with it."),
        Misconception("one step only", _backwards(
                          lambda r, v, later, after, g, lam: r + g * later - v),
                      "each token has its own surprise and none of the later ones. The score comes "
                      "at the end, and only so it reaches the beginning."),
        Misconception("the wrong sign", _backwards(
                          lambda r, v, later, after, g, lam: v - r - g * later + g * lam * after),
                      "yours is expected less got: actions that were better than expected would "
                      "become rarer."),
        Misconception("the value of the token before", lambda rewards, values, acts, discount, lam:
                      _gae(rewards, values.roll(1, 1), acts, discount, lam),
                      "your values are one place late."),
        Misconception("forwards", lambda rewards, values, acts, discount, lam: _gae(
                          rewards.flip(1), values.flip(1), acts.flip(1), discount, lam).flip(1),
                      "you went from the beginning to the end. What comes later is what an action "
                      "is worth: begin at the end."),
        Misconception("values not taken away", _backwards(
                          lambda r, v, later, after, g, lam: r + g * later + g * lam * after),
                      "the critic's value at the place itself is missing: take it away."),
    ),
    hints=(
        "By hand: rewards 0, 0, 1 and values 0.5, 0.5, 0.5. What was the surprise at each? Then "
        "add to each what is left of the later ones.",
        "surprise = reward + discount * next value - value, and the next value behind the end is "
        "0. advantage = surprise + discount * lam * next advantage.",
        "Go through i from the last place to the first, keep `after` and `following`, and multiply "
        "both by acts[:, i] as you pass.",
    ))

EXERCISES = [REWARDS, GAE]
