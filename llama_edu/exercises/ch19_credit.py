"""The exercise of chapter 19 on credit: 19.2, generalised advantage estimation."""

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from ..alignment.ppo import advantages, spread
from .ch19_price import acts_of
from .data import Exercise, Inputs, Misconception, Probe, normal


def _gae(rewards: Tensor, values: Tensor, acts: Tensor, discount: float, lam: float) -> Tensor:
    return advantages(rewards, values, acts, discount=discount, lam=lam)[0]


def _course(rng: Generator, t: int, *spans: tuple[int, int], discount: float = 1.0,
            lam: float = 0.5, full: bool = True, outside: float = 0.0) -> Inputs:
    """full: the critic says something at every place, as it does. outside: the rewards there."""
    acts = acts_of(t, *spans)
    values = normal(rng, len(spans), t, mean=1.0)
    return {"rewards": normal(rng, len(spans), t).where(acts, outside), "values": values if full
            else values * acts, "acts": acts, "discount": discount, "lam": lam}


def _backwards(step: Callable[..., Tensor], *, behind: bool = False, outside: bool = False,
               carried: bool = False, bare: bool = False) -> Callable:
    """A pass from the end: step(reward, value, next value, next advantage, discount, lam).

    behind: the values behind an answer count. carried: so do its advantages. outside: both, as
    acts are never looked at. bare: what is returned is not 0 outside.
    """
    def answer(rewards: Tensor, values: Tensor, acts: Tensor, discount: float, lam: float
               ) -> Tensor:
        found, after = torch.zeros_like(rewards), torch.zeros_like(rewards[:, 0])
        following = torch.zeros_like(after)
        for i in reversed(range(rewards.shape[1])):
            held = step(rewards[:, i], values[:, i], following, after, discount, lam)
            after = held if outside or carried else held * acts[:, i]
            following = values[:, i] if behind or outside else values[:, i] * acts[:, i]
            found[:, i] = held if bare else after
        return found

    return answer


def _right(r: Tensor, v: Tensor, later: Tensor, after: Tensor, g: float, lam: float) -> Tensor:
    return r + g * later - v + g * lam * after


def _at_the_end(answer: Callable, *, silent: bool = False) -> Callable:
    """What an answer gives, and acts on the result alone. silent: the values are 0 outside."""
    return lambda rewards, values, acts, discount, lam: acts * answer(
        rewards, values * acts if silent else values, acts, discount, lam)


def _early(rewards: Tensor, values: Tensor, acts: Tensor, discount: float, lam: float) -> Tensor:
    """r_t + discount V_t - V_{t-1}: what is expected before a token is taken for what is after."""
    found, after = torch.zeros_like(rewards), torch.zeros_like(rewards[:, 0])
    for i in reversed(range(rewards.shape[1])):
        surprise = rewards[:, i] + discount * values[:, i] - values[:, i - 1]
        after = (surprise + discount * lam * after) * acts[:, i]
        found[:, i] = after
    return found


def _summed_forwards(rewards: Tensor, values: Tensor, acts: Tensor, discount: float, lam: float
                     ) -> Tensor:
    surprise = _gae(rewards, values, acts, discount, 0.0)
    return _gae(surprise.flip(1), torch.zeros_like(values), acts.flip(1), discount, lam).flip(1)


def _whitened(size: Callable[[Tensor], Tensor]) -> Callable:
    def answer(rewards: Tensor, values: Tensor, acts: Tensor, discount: float, lam: float
               ) -> Tensor:
        found = _gae(rewards, values, acts, discount, lam)
        return (found - found[acts].mean()) / size(found[acts]) * acts

    return answer


GAE = Exercise(
    "19.2", "Better than expected", "Your turn: better than expected", _gae,
    probes=(
        Probe("three answers", lambda rng: _course(rng, 7, (2, 3), (1, 5), (2, 4))),
        Probe("discounted", lambda rng: _course(rng, 6, (1, 4), (2, 3), discount=0.5)),
        Probe("only the next surprise", lambda rng: _course(rng, 6, (1, 3), (2, 4), lam=0.0)),
        Probe("all surprises to come", lambda rng: _course(rng, 6, (1, 3), (2, 4), lam=1.0)),
        Probe("an answer of one token", lambda rng: _course(rng, 4, (2, 1), (1, 3))),
        Probe("rewards of 7 outside", lambda rng: _course(rng, 7, (2, 3), (1, 4), outside=7.0)),
        Probe("values are 0 outside", lambda rng: _course(rng, 7, (2, 3), (1, 6), full=False)),
    ),
    misconceptions=(
        Misconception("values behind the answer", _backwards(_right, behind=True),
                      "the last token's surprise has the critic's value of what stands behind it. "
                      "Nothing follows an answer's last token: 0."),
        Misconception("over the padding", _backwards(_right, outside=True),
                      "prompt and padding have advantages, and what stands behind an answer flows "
                      "into it. Nobody acted there: 0.",
                      also=(_backwards(_right, carried=True),
                            lambda rewards, values, acts, discount, lam: _backwards(
                                _right, outside=True)(rewards, values * acts, acts, discount,
                                                      lam))),
        Misconception("masked at the end alone", _at_the_end(_backwards(_right, outside=True)),
                      "outside the answers yours is 0, but only at the end: on the way, what "
                      "stands behind an answer is carried into its last token. The carry, too, is "
                      "0 where nobody acted.",
                      also=(_at_the_end(_backwards(_right, carried=True)),
                            _at_the_end(_backwards(_right, outside=True), silent=True))),
        Misconception("not zero outside", _backwards(_right, bare=True),
                      "on the answers yours is right. Outside them, where nobody acted, it is to "
                      "be 0.",
                      also=(lambda rewards, values, acts, discount, lam: _backwards(
                          _right, bare=True)(rewards, values * acts, acts, discount, lam),)),
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
                      "your values are one place late: values[:, i] is what is expected *before* "
                      "token i, so what follows it is values[:, i + 1].",
                      also=(_early, lambda rewards, values, acts, discount, lam: _early(
                          rewards, values * acts, acts, discount, lam))),
        Misconception("forwards", lambda rewards, values, acts, discount, lam: _gae(
                          rewards.flip(1), values.flip(1), acts.flip(1), discount, lam).flip(1),
                      "you went from the beginning to the end. What comes later is what an action "
                      "is worth: begin at the end.", also=(_summed_forwards,)),
        Misconception("whitened", lambda rewards, values, acts, discount, lam: spread(
                          _gae(rewards, values, acts, discount, lam), acts),
                      "you whitened the advantages. That comes later, over the whole batch; here "
                      "they keep their size.",
                      also=(_whitened(lambda found: found.std()),
                            _whitened(lambda found: found.std(correction=0)))),
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

EXERCISES = [GAE]
