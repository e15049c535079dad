"""The exercises of chapter 19 on the loss: 19.3, the clip, and 19.4, groups."""

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from ..alignment.grpo import LEAST_SPREAD, group_advantages
from ..alignment.ppo import clipped
from .ch19_price import acts_of
from .data import Exercise, Inputs, Misconception, Probe, normal

# -- 19.3: the clip --------------------------------------------------------------------------------


def _package_loss(now: Tensor, before: Tensor, advantages: Tensor, acts: Tensor, clip: float
                  ) -> Tensor:
    return (clipped(now - before, advantages, clip) * acts).sum() / acts.sum()


def _moved(rng: Generator, t: int, *spans: tuple[int, int], by: float = 0.4, clip: float = 0.2,
           zero: bool = False) -> Inputs:
    """zero: all is 0 outside the answers; else whatever stands there."""
    acts, b = acts_of(t, *spans), len(spans)
    before = -normal(rng, b, t).abs() - 0.5
    now, better = before + normal(rng, b, t, std=by), normal(rng, b, t, mean=0.2)
    if zero:
        now, before, better = now * acts, before * acts, better * acts
    return {"now": now, "before": before, "advantages": better, "acts": acts, "clip": clip}


def _ratio(now: Tensor, before: Tensor) -> Tensor:
    return (now - before).exp()


def _mean(loss: Callable[[Tensor, Tensor, float], Tensor], *,
          ratio: Callable[[Tensor, Tensor], Tensor] = _ratio) -> Callable:
    """Of the tokens that were drawn: loss(ratio, advantage, clip)."""
    def answer(now: Tensor, before: Tensor, advantages: Tensor, acts: Tensor, clip: float
               ) -> Tensor:
        return (loss(ratio(now, before), advantages, clip) * acts).sum() / acts.sum()

    return answer


def _both(r: Tensor, a: Tensor, c: float) -> Tensor:
    return -torch.minimum(r * a, r.clamp(1 - c, 1 + c) * a)


def _divided(loss: Callable[[Tensor, Tensor, float], Tensor]) -> Callable:
    """The logarithms divided, where a token was drawn: elsewhere both may be 0."""
    return lambda now, before, advantages, acts, clip: loss(
        now[acts] / before[acts], advantages[acts], clip).mean()


def _plain(r: Tensor, a: Tensor, c: float) -> Tensor:
    return -r * a


def _again(size: Callable[[Tensor], Tensor]) -> Callable:
    """Advantages whitened once more."""
    def answer(now: Tensor, before: Tensor, advantages: Tensor, acts: Tensor, clip: float
               ) -> Tensor:
        held = advantages[acts]
        return clipped((now - before)[acts], (held - held.mean()) / size(held), clip).mean()

    return answer


def _of_rows(now: Tensor, before: Tensor, advantages: Tensor, acts: Tensor, clip: float) -> Tensor:
    loss = clipped(now - before, advantages, clip) * acts
    return (loss.sum(1) / acts.sum(1)).mean()


def _of_all(now: Tensor, before: Tensor, advantages: Tensor, acts: Tensor, clip: float) -> Tensor:
    return clipped(now - before, advantages, clip).mean()


def _of_zeros(now: Tensor, before: Tensor, advantages: Tensor, acts: Tensor, clip: float
              ) -> Tensor:
    return (clipped(now - before, advantages, clip) * acts).mean()


def _of_answers(now: Tensor, before: Tensor, advantages: Tensor, acts: Tensor, clip: float
                ) -> Tensor:
    """One ratio for a whole answer."""
    whole = ((now - before) * acts).sum(1, keepdim=True).expand_as(now)
    return (clipped(whole, advantages, clip) * acts).sum() / acts.sum()


CLIP = Exercise(
    "19.3", "The clip", "Your turn: the clip", _package_loss,
    probes=(
        Probe("three answers", lambda rng: _moved(rng, 7, (2, 3), (1, 5), (2, 4))),
        Probe("hardly moved", lambda rng: _moved(rng, 6, (1, 4), (2, 3), by=0.05)),
        Probe("far away", lambda rng: _moved(rng, 6, (1, 4), (2, 4), by=1.5)),
        Probe("another clip", lambda rng: _moved(rng, 6, (1, 4), (2, 3), clip=0.5, by=0.6)),
        Probe("as rollouts come", lambda rng: _moved(rng, 8, (1, 2), (3, 5), zero=True)),
        Probe("7.0 outside", lambda rng: (held := _moved(rng, 7, (2, 3), (1, 4)))
              | {name: held[name].where(held["acts"], 7.0)
                 for name in ("now", "before", "advantages")}),
        Probe("not moved at all", lambda rng: (held := _moved(rng, 6, (1, 4), (2, 3)))
              | {"now": held["before"].clone()}),
    ),
    misconceptions=(
        Misconception("no clip", _mean(lambda r, a, c: -r * a),
                      "nothing is clipped: an answer that was good once pulls for ever."),
        Misconception("always clipped", _mean(lambda r, a, c: -r.clamp(1 - c, 1 + c) * a),
                      "you took the clipped ratio alone. Where the policy has gone astray (a bad "
                      "token has become likelier) its gradient is 0 too, and it never comes back. "
                      "The lesser of the two objectives is taken."),
        Misconception("the greater of the two", _mean(
                          lambda r, a, c: -torch.maximum(r * a, r.clamp(1 - c, 1 + c) * a)),
                      "you took the greater of the two objectives, or the lesser of the two "
                      "losses: it goes on pulling where it should stop, and stops where it went "
                      "wrong."),
        Misconception("clipped above only", _mean(
                          lambda r, a, c: -torch.minimum(r * a, r.clamp(max=1 + c) * a)),
                      "you clipped above only. A bad token that has become much less likely is to "
                      "stop the pull, too: 1 - clip."),
        Misconception("the advantage outside", _mean(
                          lambda r, a, c: -torch.minimum(r, r.clamp(1 - c, 1 + c)) * a),
                      "you took the lesser of the two *ratios* and then multiplied. For an "
                      "advantage below 0 that is the greater objective: first multiply each with "
                      "the advantage, then take the lesser."),
        Misconception("one over 1 + clip", _mean(
                          lambda r, a, c: -torch.minimum(r * a, r.clamp(1 / (1 + c), 1 + c) * a)),
                      "your lower bound is 1 / (1 + clip), the same way in logarithms. PPO's is "
                      "1 - clip."),
        Misconception("whitened once more", _again(lambda held: held.std()),
                      "you whitened the advantages. They come as they are to be taken.",
                      also=(_again(lambda held: held.std(correction=0)),)),
        Misconception("the ratio upside down", _mean(
                          _both, ratio=lambda now, before: (before - now).exp()),
                      "your ratio is before over now. How much likelier is it *now*?"),
        Misconception("the sign", _mean(lambda r, a, c: -_both(r, a, c)),
                      "yours is the objective, which one wants to be large. A loss is minimised: "
                      "the other sign."),
        Misconception("the logarithm for the ratio", _mean(
                          _both, ratio=lambda now, before: now - before),
                      "now - before is the logarithm of the ratio: take its exp.",
                      also=(_mean(_both, ratio=lambda now, before: 1 + now - before),)),
        Misconception("the logarithms divided", _mean(
                          _both, ratio=lambda now, before: now / before),
                      "you divided the logarithms. The ratio is of probabilities: "
                      "exp(now - before).", also=(_divided(_both), _divided(_plain))),
        Misconception("the clip around zero", _mean(
                          lambda r, a, c: -torch.minimum(r * a, r.clamp(-c, c) * a)),
                      "you clipped the ratio around 0. It stands at 1 where nothing has moved.",
                      also=(_mean(lambda r, a, c: -torch.minimum(r * a,
                                                                 (r.clamp(-c, c) + 1) * a)),)),
        Misconception("the product clipped", _mean(
                          lambda r, a, c: -torch.minimum(r * a, (r * a).clamp(1 - c, 1 + c))),
                      "you clipped ratio times advantage. The clip is on the ratio alone."),
        Misconception("the clip in logarithms", _mean(
                          lambda r, a, c: -torch.minimum(r * a, r.log().clamp(-c, c).exp() * a)),
                      "you clipped the difference of logarithms at +-clip. The ratio itself is "
                      "held between 1 - clip and 1 + clip."),
        Misconception("log p for the ratio", lambda now, before, advantages, acts, clip: (
                          -(now * advantages * acts).sum() / acts.sum()),
                      "that is the plain policy gradient, log p times the advantage. After the "
                      "first step the answers are not the policy's own any more: weigh them by the "
                      "ratio."),
        Misconception("the mean of answers", _of_rows,
                      "you averaged over each answer first: tokens of short answers then count "
                      "more. Here every token drawn counts alike."),
        Misconception("the mean over all places", _of_all,
                      "prompt and padding are in your mean. Only what was drawn counts."),
        Misconception("divided by all places", _of_zeros,
                      "you left out what was not drawn, and divided by its number all the same."),
        Misconception("the sum", lambda now, before, advantages, acts, clip: (
                          clipped(now - before, advantages, clip) * acts).sum(),
                      "you summed. The mean over the tokens drawn is asked for."),
        Misconception("a ratio for the answer", _of_answers,
                      "you took one ratio for a whole answer. Each token has its own."),
    ),
    gradients=("now",),
    hints=(
        "Write ratio = exp(now - before). What would the objective be without a clip?",
        "Two objectives, ratio * advantage and clamp(ratio) * advantage: the lesser is a promise "
        "that never says too much. Its negative is the loss.",
        "loss = -torch.minimum(r * a, r.clamp(1 - clip, 1 + clip) * a); then "
        "(loss * acts).sum() / acts.sum().",
    ))

# -- 19.4: groups ----------------------------------------------------------------------------------


def _grouped(rng: Generator, n_groups: int, n: int, *, mean: float = 1.0, flat: bool = False
             ) -> Inputs:
    levels = normal(rng, n_groups, 1, mean=mean, std=3.0)
    sizes = normal(rng, n_groups, 1).abs() + 0.3
    scores = levels + sizes * normal(rng, n_groups, n)
    if flat:
        scores[0] = 2.0
    return {"scores": scores.flatten(), "n": n}


def _by(measure: Callable[[Tensor], Tensor]) -> Callable:
    return lambda scores, n: measure(scores.view(-1, n)).flatten()


def _lead(s: Tensor) -> Tensor:
    return s - s.mean(1, keepdim=True)


def _others(s: Tensor) -> Tensor:
    return s - (s.sum(1, keepdim=True) - s) / (s.shape[1] - 1)


def _columns(scores: Tensor, n: int) -> Tensor:
    by = scores.view(n, -1)
    return ((by - by.mean(0)) / (by.std(0) + LEAST_SPREAD)).flatten()


GROUPS = Exercise(
    "19.4", "What others would have said", "Your turn: what others would have said",
    lambda scores, n: group_advantages(scores, n=n),
    probes=(
        Probe("two groups of four", lambda rng: _grouped(rng, 2, 4)),
        Probe("five groups of three", lambda rng: _grouped(rng, 5, 3)),
        Probe("four groups of eight", lambda rng: _grouped(rng, 4, 8, mean=-2.0)),
        Probe("one group", lambda rng: _grouped(rng, 1, 6)),
        Probe("groups of two", lambda rng: _grouped(rng, 3, 2)),
        Probe("one group all alike", lambda rng: _grouped(rng, 3, 4, flat=True)),
    ),
    misconceptions=(
        Misconception("over the batch", lambda scores, n: (
                          (scores - scores.mean()) / (scores.std() + LEAST_SPREAD)),
                      "you took mean and deviation of the whole batch. Then an easy question "
                      "praises every answer to it, and a hard one blames all."),
        Misconception("the batch's deviation", lambda scores, n: (
                          _lead(scores.view(-1, n)).flatten() / (scores.std() + LEAST_SPREAD)),
                      "the mean is the group's, and the deviation the batch's. Both are the "
                      "group's here.",
                      also=(lambda scores, n: _lead(scores.view(-1, n)).flatten()
                            / (_lead(scores.view(-1, n)).std() + LEAST_SPREAD),)),
        Misconception("the mean alone", _by(_lead),
                      "you took the mean away and did not divide by the deviation. (Some do so on "
                      "purpose, since dividing makes groups that hardly differ as loud as others. "
                      "The paper divides.)"),
        Misconception("of n", _by(lambda s: _lead(s) / (s.std(1, correction=0, keepdim=True)
                                                       + LEAST_SPREAD)),
                      "your deviation divides by n. A sample's divides by n - 1."),
        Misconception("the variance", _by(lambda s: _lead(s) / (s.var(1, keepdim=True)
                                                               + LEAST_SPREAD)),
                      "you divided by the variance: take its root."),
        Misconception("the others' mean", _by(lambda s: _others(s) / (s.std(1, keepdim=True)
                                                                     + LEAST_SPREAD)),
                      "you compared each answer with the mean of the *others*. That baseline is "
                      "unbiased and good, too (leave one out); the paper takes the mean of the "
                      "whole group.", also=(_by(_others),)),
        Misconception("every n-th answer", _columns,
                      "you took every so-many-th answer for a group. Those to one prompt stand "
                      "side by side: view(-1, n)."),
        Misconception("the deviation alone", _by(lambda s: s / (s.std(1, keepdim=True)
                                                               + LEAST_SPREAD)),
                      "you divided and took no mean away: all answers of a good group are "
                      "praised."),
        Misconception("ranks", _by(lambda s: s.argsort(1).argsort(1).float()),
                      "you returned ranks. By how much one is better counts."),
        Misconception("by the median", _by(lambda s: (s - s.median(1, keepdim=True).values)
                                           / (s.std(1, keepdim=True) + LEAST_SPREAD)),
                      "you took the median away; the mean is asked for."),
        Misconception("not finite", _by(lambda s: _lead(s) / s.std(1, keepdim=True)),
                      "where all of a group are alike you divided 0 by 0. Nothing is to be learnt "
                      "from them: 0."),
    ),
    hints=(
        "Write the scores as one row a group. What is each answer compared with?",
        "scores.view(-1, n): then mean and std of each row, keepdim=True.",
        "(s - s.mean(1, keepdim=True)) / (s.std(1, keepdim=True) + 1e-4), and flatten.",
    ))

EXERCISES = [CLIP, GROUPS]
