"""An exercise of chapter 07: 7.2, top-p."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor

from ..sampling import top_p
from .data import Exercise, Inputs, Misconception, Probe, between, normal

# -- 7.2: top-p ------------------------------------------------------------------------------------


def _whichever_tie(answer: Callable, logits: Tensor, *settings: float) -> Any:
    """The answer with tied tokens in order of what they got: any of them may be kept."""
    probs = answer(logits, *settings)
    if type(probs) is not Tensor or probs.shape != logits.shape:
        return probs
    by_share = probs.sort(-1, descending=True).indices
    by_logit = logits.gather(-1, by_share).sort(dim=-1, descending=True, stable=True).indices
    return probs.gather(-1, by_share.gather(-1, by_logit))


def _package_top_p(logits: Tensor, p: float) -> Tensor:
    return top_p(p)(logits)


def _cut(decide: Callable[[Tensor, float], Tensor], descending: bool = True) -> Callable:
    """Top-p that decides from the sorted probabilities which to cut."""
    def rule(logits: Tensor, p: float) -> Tensor:
        ordered, order = logits.sort(dim=-1, descending=descending)
        cut = decide(ordered.softmax(-1), p)
        return logits.masked_fill(cut.scatter(-1, order, cut), -torch.inf)
    return rule


def _before(probs: Tensor) -> Tensor:
    return probs.cumsum(-1) - probs


def _but_first(cut: Tensor) -> Tensor:
    return torch.cat([torch.zeros_like(cut[:, :1]), cut[:, 1:]], -1)


def _unsorted(logits: Tensor, p: float) -> Tensor:
    return logits.masked_fill(_before(logits.softmax(-1)) >= p, -torch.inf)


def _left_sorted(logits: Tensor, p: float) -> Tensor:
    return top_p(p)(logits.sort(dim=-1, descending=True).values)


def _cut_in_place_of_sorted(logits: Tensor, p: float) -> Tensor:
    cut = _before(logits.sort(dim=-1, descending=True).values.softmax(-1)) >= p
    return logits.masked_fill(cut, -torch.inf)


def _gathered(logits: Tensor, p: float) -> Tensor:
    ordered, order = logits.sort(dim=-1, descending=True)
    cut = _before(ordered.softmax(-1)) >= p
    return logits.masked_fill(cut.gather(-1, order), -torch.inf)


def _sorted_twice(logits: Tensor, p: float) -> Tensor:
    return _left_sorted(logits, p).gather(-1, logits.argsort(dim=-1, descending=True))


def _from_shares(rng: Generator, p: float, *rows: list[float]) -> Inputs:
    """Logits of given probabilities; the constant on top changes none of them."""
    return {"logits": torch.tensor(rows).log() + between(rng, 1, 2), "p": p}


def _drawn_shares(rng: Generator, b: int, v: int, p: float) -> Inputs:
    return {"logits": normal(rng, b, v, std=2.0), "p": p}


def _quarters(rng: Generator, p: float) -> Inputs:
    """Four tokens of a quarter each, exact in any precision, among two that are cut already."""
    level = between(rng, 1, 2)
    return {"logits": torch.tensor([[level, -torch.inf, level, level, -torch.inf, level]]), "p": p}


def _until_above(logits: Tensor, p: float) -> Tensor:
    return _cut(lambda probs, p: _before(probs) > p)(logits, p)


def _over_the_batch(softmax: bool) -> Callable:
    def rule(logits: Tensor, p: float) -> Tensor:
        ordered, order = logits.sort(dim=-1, descending=True)
        probs = ordered.softmax(0) if softmax else ordered.softmax(-1)
        cut = (_before(probs) if softmax else probs.cumsum(0) - probs) >= p
        return logits.masked_fill(cut.scatter(-1, order, cut), -torch.inf)
    return rule


def _n_kept(logits: Tensor, p: float) -> Tensor:
    return _package_top_p(logits, p).isfinite().sum(-1, keepdim=True)


def _keeping(logits: Tensor, n: Tensor) -> Tensor:
    """Each row's n likeliest, for n `b 1` or one number."""
    rank = logits.argsort(dim=-1, descending=True, stable=True).argsort(-1)
    return logits.masked_fill(rank >= n, -torch.inf)


def _from_level(logits: Tensor, p: float, keeps: Callable) -> Tensor:
    """The tokens that compare well with the least likely of the set."""
    lowest = top_p(p)(logits).nan_to_num(neginf=torch.inf).amin(-1, keepdim=True)
    return logits.masked_fill(~keeps(logits, lowest), -torch.inf)


def _flattened(logits: Tensor, p: float) -> Tensor:
    probs, order = logits.softmax(-1).flatten().sort(descending=True, stable=True)
    cut = _before(probs) >= p
    return logits.masked_fill(cut.scatter(-1, order, cut).view_as(logits), -torch.inf)


TOP_P = Exercise(
    "7.2", "Top-p, with the token that crosses", "Which token?", _package_top_p,
    probes=(
        Probe("five tokens", lambda rng: _from_shares(rng, 0.7, [0.1, 0.42, 0.05, 0.3, 0.13])),
        Probe("a sure row", lambda rng: _from_shares(rng, 0.9, [0.01, 0.03, 0.95, 0.01])),
        Probe("a batch", lambda rng: _from_shares(
            rng, 0.6, [0.05, 0.15, 0.3, 0.5], [0.31, 0.19, 0.28, 0.22], [0.02, 0.9, 0.05, 0.03])),
        Probe("random rows", lambda rng: _drawn_shares(rng, 3, 9, between(rng, 0.8, 0.95))),
        Probe("a small p", lambda rng: _drawn_shares(rng, 2, 6, between(rng, 0.05, 0.1))),
        Probe("a token exactly at p", lambda rng: _quarters(rng, 0.5)),
        Probe("a tie that crosses", lambda rng: _quarters(rng, 0.6)),
    ),
    misconceptions=(
        Misconception("the crossing one dropped", _cut(lambda probs, p: probs.cumsum(-1) > p),
                      "you dropped the token that crosses p, so what is left does not reach p; "
                      "where the model is sure, nothing is left. Ask whether those before a token "
                      "reach p.",
                      also=(_cut(lambda probs, p: probs.cumsum(-1) >= p),
                            lambda x, p: _from_level(x, p, torch.gt))),
        Misconception("the crossing one dropped, the first kept",
                      _cut(lambda probs, p: _but_first(probs.cumsum(-1) > p)),
                      "you dropped the token that crosses p, and saved only the first one. Ask "
                      "whether those before a token reach p.",
                      also=(_cut(lambda probs, p: _but_first(probs.cumsum(-1) >= p)),)),
        Misconception("over the batch", _over_the_batch(True),
                      "you took the softmax or the sum over the batch (dim 0). Each row is a "
                      "distribution of its own: the last dimension.",
                      also=(_over_the_batch(False), _flattened)),
        Misconception("the first row's cut", _cut(lambda probs, p: (
                          _before(probs) >= p)[:1].expand_as(probs)),
                      "all rows keep as many tokens as the first. Each row is sure or unsure for "
                      "itself."),
        Misconception("one number for all rows", lambda x, p: _keeping(
                          x, _n_kept(x, p).max().expand(len(x), 1)),
                      "all your rows keep the same number of tokens. Each row is sure or unsure "
                      "for itself: one number a row, with keepdim=True.",
                      also=(lambda x, p: _keeping(x, _n_kept(x, p).min().expand(len(x), 1)),)),
        Misconception("a share of the vocabulary",
                      lambda x, p: _keeping(x, torch.tensor(max(1, int(p * x.shape[-1])))),
                      "you kept a share p of the tokens, whatever their probabilities. It is the "
                      "probabilities that have to reach p.",
                      also=(lambda x, p: _keeping(x, torch.tensor(math.ceil(p * x.shape[-1]))),
                            lambda x, p: _keeping(x, torch.tensor(round(p * x.shape[-1]))))),
        Misconception("p for 1 - p", _cut(lambda probs, p: probs.cumsum(-1) <= p,
                                          descending=False),
                      "you cut a share of p away. It is what is kept that has to reach p.",
                      also=(_cut(lambda probs, p: probs.cumsum(-1) < p, descending=False),
                            _cut(lambda probs, p: _before(probs) >= 1 - p))),
        Misconception("softmax twice", _cut(lambda probs, p: _before(probs.softmax(-1)) >= p),
                      "you took a softmax of probabilities: they come out nearly equal, and too "
                      "many are kept. Once is enough."),
        Misconception("only the likeliest", lambda x, p: _cut(lambda _, p: _before(
                          x.sort(-1, descending=True).values.exp()) >= p)(x, p),
                      "you keep the likeliest token alone, at any p. (So do exponentials that are "
                      "no probabilities yet: take the softmax.)",
                      also=(lambda x, p: _keeping(x, torch.tensor(1)),)),
        Misconception("a low number for minus infinity",
                      lambda x, p: _package_top_p(x, p).clamp(min=-1e9),
                      "you cut with a low number. -inf is asked for: a rule that follows counts on "
                      "it.",
                      also=(lambda x, p: _package_top_p(x, p).clamp(min=-1e4),)),
        Misconception("log-probabilities", lambda x, p: _package_top_p(x, p).log_softmax(-1),
                      "you returned log-probabilities. What is kept keeps its logit: the rule "
                      "changes nothing else."),
        Misconception("the rest kept", _cut(lambda probs, p: _before(probs) < p),
                      "you kept what has to go, and cut what has to stay.",
                      also=(_cut(lambda probs, p: probs.cumsum(-1) - probs < p),
                            _cut(lambda probs, p: _before(probs) - torch.cat(
                                [torch.zeros_like(probs[:, :1]), probs[:, :-1]], -1) < p))),
        Misconception("one too many",
                      _cut(lambda probs, p: _before(probs) - torch.cat(
                          [torch.zeros_like(probs[:, :1]), probs[:, :-1]], -1) >= p),
                      "you kept one token too many, behind the one that crosses p."),
        Misconception("goes on at p", _until_above,
                      "you go on where the sum is p exactly. It has reached p then: the set is "
                      "complete.",
                      also=(_cut(lambda probs, p: ~(_before(probs) <= p)),)),
        Misconception("ties kept", lambda x, p: _from_level(x, p, torch.ge),
                      "you keep every token that is as likely as the last of the set. The smallest "
                      "set that reaches p holds no more of them than it needs."),
        Misconception("not scattered back", _cut_in_place_of_sorted,
                      "your cut belongs to the sorted order, and you applied it to the unsorted "
                      "one. Bring it back with scatter."),
        Misconception("sorted twice", _gathered,
                      "gather(-1, order) sorts: on a row that is sorted already, or on its cut, it "
                      "mixes once more. Back to the old places goes scatter(-1, order, ...), or "
                      "gather with order.argsort(-1).",
                      also=(_sorted_twice,)),
        Misconception("left sorted", _left_sorted,
                      "your logits come back sorted, so they belong to other tokens. Bring them "
                      "back to their places."),
        Misconception("not sorted", _unsorted,
                      "you summed in the order of the vocabulary. Sort first: the likeliest count "
                      "first.",
                      also=(lambda x, p: x.where(x.softmax(-1).cumsum(-1) < p, -torch.inf),
                            lambda x, p: x.where(x.softmax(-1).cumsum(-1) <= p, -torch.inf))),
        Misconception("ascending", _cut(lambda probs, p: _before(probs) >= p, descending=False),
                      "you sorted upwards, so the least likely tokens are kept. Sort with "
                      "descending=True."),
        Misconception("logits moved", lambda x, p: _package_top_p(
                          x - x.amax(-1, keepdim=True), p),
                      "you subtracted something from the logits that are kept. What is kept keeps "
                      "its logit: the rule changes nothing else."),
        Misconception("a threshold", lambda x, p: x.masked_fill(x.softmax(-1) < p, -torch.inf),
                      "you compared each probability with one number. It is their sum, from the "
                      "likeliest on, that has to reach p.",
                      also=(lambda x, p: x.masked_fill(x.softmax(-1) < 1 - p, -torch.inf),)),
        Misconception("min-p", lambda x, p: x.masked_fill(
                          x.softmax(-1) < p * x.softmax(-1).amax(-1, keepdim=True), -torch.inf),
                      "that is min-p: it compares with the likeliest token. Top-p sums."),
        Misconception("zero for minus infinity",
                      lambda x, p: _package_top_p(x, p).nan_to_num(neginf=0.0),
                      "you set cut logits to 0, whose exponential is 1: they still get a share. "
                      "Use -inf."),
        Misconception("probabilities cut", lambda x, p: x.softmax(-1).where(
                          _package_top_p(x, p).isfinite(), 0),
                      "you cut probabilities. The rule returns logits, with -inf for what is cut, "
                      "so that another rule can follow.",
                      also=(lambda x, p: x.softmax(-1).where(_package_top_p(x, p).isfinite(),
                                                             -torch.inf),)),
        Misconception("probabilities", lambda x, p: _package_top_p(x, p).softmax(-1),
                      "you returned probabilities. The rule returns logits, so that another rule "
                      "can follow."),
        Misconception("logits summed",
                      lambda x, p: _cut(lambda _, p: x.sort(-1, descending=True).values.cumsum(-1)
                                        - x.sort(-1, descending=True).values >= p)(x, p),
                      "you summed logits. Sum probabilities: take the softmax first."),
    ),
    hints=(
        "By hand: 0.42, 0.3, 0.13, ... with p = 0.7. Which one crosses?",
        "Sort the probabilities, likeliest first, and sum them up. A token is kept if those before "
        "it do not reach p: how many are that?",
        "What you know in sorted order has to go back to the tokens' places: order.argsort(-1) is "
        "each token's rank, and cut.scatter(-1, order, cut) puts a cut back in place.",
    ),
    adapt=_whichever_tie)

EXERCISES = [TOP_P]
