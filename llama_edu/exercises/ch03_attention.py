"""Exercises of chapter 03: the mask, attention with shared heads, and what may be wrong with it."""

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor

from ..layers import attend, causal_mask
from .data import Exercise, Inputs, Misconception, Probe, count, normal
from .hunts import HEALTHY, Bug, Hunt

# -- 3.1: who may look where --------------------------------------------------------------------


def _ones(t: int, s: int) -> Tensor:
    return torch.ones(t, s, dtype=torch.bool)


MASK = Exercise(
    "3.1", "The causal mask, with a cache", "Your turn: who may look", causal_mask,
    probes=(
        Probe("no cache", lambda rng: {"t": 4, "s": 4}),
        Probe("two new tokens, five in all", lambda rng: {"t": 2, "s": 5}),
        Probe("three new tokens, seven in all", lambda rng: {"t": 3, "s": 7}),
        Probe("one new token", lambda rng: {"t": 1, "s": 6}),
        Probe("other sizes", lambda rng: {"t": count(rng, 2, 4), "s": count(rng, 6, 12)}),
    ),
    misconceptions=(
        Misconception("inverted", lambda t, s: ~causal_mask(t, s),
                      "your mask is True where a token may not look. Here True means: may look.",
                      also=(lambda t, s: _ones(t, s).triu(1),)),
        Misconception("peeks ahead", lambda t, s: _ones(t, s).tril(s - t + 1),
                      "every token sees one token too many: the next one, which is what it has "
                      "to predict."),
        Misconception("not itself", lambda t, s: _ones(t, s).tril(s - t - 1),
                      "no token sees itself. The diagonal belongs to what a token may see."),
        Misconception("aligned at the start", lambda t, s: _ones(t, s).tril(),
                      "you aligned the mask at the first token. With a cache the new tokens are "
                      "the last t of the s, so the first of them sees s - t + 1."),
        Misconception("all of the new", lambda t, s: _ones(t, s),
                      "every token sees every other. A new token must not see the new ones after "
                      "it, for these it is to predict."),
        Misconception("upper triangle", lambda t, s: _ones(t, s).triu(s - t),
                      "each token sees itself and what comes after. Tokens look back: the lower "
                      "triangle."),
        Misconception("old tokens hidden",
                      lambda t, s: causal_mask(t, s) & (torch.arange(s) >= s - t),
                      "your new tokens see only each other. What is in the cache came before "
                      "them: they see all of it."),
        Misconception("new tokens first", lambda t, s: torch.cat([
            causal_mask(t, t), _ones(t, s - t)], dim=1),
                      "you put the new tokens at the start. They are the last t of the s: the "
                      "first columns are the cache, which all may see."),
        Misconception("on its side", lambda t, s: causal_mask(t, s).T,
                      "your mask is `s t`. A row stands for a token that looks, a column for one "
                      "that is looked at: `t s`."),
        Misconception("zeros and infinities",
                      lambda t, s: torch.zeros(t, s).masked_fill(~causal_mask(t, s), -torch.inf),
                      "you made numbers to add to the scores, 0 and -inf. Here a mask is of "
                      "booleans: True where a token may look."),
        Misconception("cache left out", lambda t, s: causal_mask(t, t),
                      "your mask is `t t`, as if there were no cache. A new token also looks at "
                      "what came before: `t s`."),
    ),
    hints=(
        "Draw t = 2, s = 5: two rows, five columns. The last row is all True.",
        "The first new token stands at position s - t. It sees positions 0 to s - t.",
        "torch.ones(t, s, dtype=torch.bool).tril(k) keeps columns up to row + k. Which k?",
    ))

# -- 3.2: attention -----------------------------------------------------------------------------


def _heads(rng: Generator, b: int, h: int, k: int, mask: Tensor, d: int,
           std: float = 1.0) -> Inputs:
    t, s = mask.shape
    return {"q": normal(rng, b, h, t, d, mean=0.5, std=std), "k": normal(rng, b, k, s, d, mean=0.5),
            "v": normal(rng, b, k, s, d, mean=2.0), "mask": mask}


def _window(t: int, s: int, width: int) -> Tensor:
    return causal_mask(t, s) & ~causal_mask(t, s).tril(s - t - width)


def _scattered(rng: Generator, t: int, s: int) -> Tensor:
    """Any places, the own one and the last one always: no order that one could guess."""
    mask = torch.rand(t, s, generator=rng) < 0.4
    return mask | torch.eye(t, s, dtype=torch.bool) | (torch.arange(s) == s - 1)


def _spread(x: Tensor, q: Tensor) -> Tensor:
    return x.repeat_interleave(q.shape[1] // x.shape[1], dim=1)


def _tiled(x: Tensor, q: Tensor) -> Tensor:
    return x.repeat(1, q.shape[1] // x.shape[1], 1, 1)


def _scores(q: Tensor, k: Tensor) -> Tensor:
    return q @ _spread(k, q).mT / math.sqrt(q.shape[-1])


def _hide(scores: Tensor, mask: Tensor, value: float = -torch.inf) -> Tensor:
    return scores.masked_fill(~mask, value)


def _shared_by(weigh: Callable[[Tensor, Tensor], Tensor]) -> Callable:
    """Attention whose weights are made from scores and mask in another way."""
    return lambda q, k, v, mask: weigh(_scores(q, k), mask) @ _spread(v, q)


def _scaled(factor: Callable[[Tensor, Tensor], float]) -> Callable:
    """Attention with its scores multiplied once more by a factor read off q and k."""
    return lambda q, k, v, mask: attend(q * factor(q, k), k, v, mask)


def _with_heads(share: Callable[[Tensor, Tensor], Tensor]) -> Callable:
    """Attention that gives the query heads their key heads in another way."""
    return lambda q, k, v, mask: attend(q, share(k, q), share(v, q), mask)


def _with_mask(make: Callable[[int, int], Tensor]) -> Callable:
    """Attention that makes a mask of its own."""
    return lambda q, k, v, mask: attend(q, k, v, make(q.shape[2], k.shape[2]))


ATTENTION = Exercise(
    "3.2", "Attention, with key heads that are shared", "The idea", attend,
    probes=(
        Probe("6 query heads, 3 key heads", lambda rng: _heads(rng, 2, 6, 3, causal_mask(4, 4), 5)),
        Probe("2 key heads, a cache", lambda rng: _heads(rng, 1, 6, 2, causal_mask(3, 7), 4)),
        Probe("one head, two tokens", lambda rng: _heads(rng, 1, 1, 1, causal_mask(2, 2), 2)),
        Probe("as many key heads (MHA), large queries",
              lambda rng: _heads(rng, 1, 3, 3, causal_mask(3, 4), 7, std=1000.0)),
        Probe("one key head (MQA), one new token",
              lambda rng: _heads(rng, 2, 4, 1, causal_mask(1, 5), 3)),
        Probe("a mask that is a window of two", lambda rng: _heads(
            rng, 1, 4, 2, _window(5, 6, 2), 3)),
        Probe("a mask without an order", lambda rng: _heads(
            rng, 2, 4, 2, _scattered(rng, 4, 6), 3)),
        Probe("all may see all", lambda rng: _heads(
            rng, 1, 2, 2, torch.ones(3, 5, dtype=torch.bool), 6)),
    ),
    misconceptions=(
        Misconception("softmax over the queries",
                      _shared_by(lambda scores, mask: _hide(scores, mask).softmax(-2)),
                      "your softmax runs over the queries (dim=-2). Each query shares out its own "
                      "attention among the keys: dim=-1.",
                      also=(_shared_by(lambda scores, mask: _hide(scores.softmax(-2), mask, 0.0)),
                            _shared_by(lambda scores, mask:
                                       _hide(scores, mask).softmax(-2).nan_to_num()))),
        Misconception("softmax over the heads",
                      _shared_by(lambda scores, mask: _hide(scores, mask).softmax(1)),
                      "your softmax runs over the heads (dim=1), so heads take attention from each "
                      "other. Each query of each head shares out its own among the keys: dim=-1.",
                      also=(_shared_by(lambda scores, mask:
                                       _hide(scores, mask).softmax(1).nan_to_num()),)),
        Misconception("mask after the softmax",
                      _shared_by(lambda scores, mask: _hide(scores.softmax(-1), mask, 0.0)),
                      "you masked after the softmax. What is hidden has already taken its share, "
                      "so the weights that remain do not add up to 1."),
        Misconception("zero for minus infinity",
                      _shared_by(lambda scores, mask: _hide(scores, mask, 0.0).softmax(-1)),
                      "you set hidden scores to 0, and exp(0) is 1: the future still gets a "
                      "share. Use -inf, whose exponential is 0."),
        Misconception("mask added", _shared_by(lambda scores, mask: (scores + mask).softmax(-1)),
                      "you added the mask: True counts as 1, so what is hidden loses 1 and still "
                      "gets a share. Put -inf where the mask is False."),
        Misconception("not normalised", _shared_by(
            lambda scores, mask: (scores - scores.amax(-1, keepdim=True)).exp() * mask),
                      "your weights do not add up to 1: a softmax divides by their total.",
                      also=(_shared_by(lambda scores, mask: scores.exp() * mask),)),
        Misconception("scale 1/d", _scaled(lambda q, k: q.shape[-1] ** -0.5),
                      "you divided the scores by d. Divide by its root: that is how much a sum of "
                      "d random products spreads."),
        Misconception("no scale", _scaled(lambda q, k: q.shape[-1] ** 0.5),
                      "you did not divide the scores by the root of d."),
        Misconception("multiplied by the root", _scaled(lambda q, k: q.shape[-1]),
                      "you multiplied by the root of d. Divide by it: the scores are too spread, "
                      "not too close."),
        Misconception("root of dim", _scaled(lambda q, k: q.shape[1] ** -0.5),
                      "you divided by the root of h * d, the width of all heads together. A score "
                      "is a sum over the features of one head: the root of d."),
        Misconception("root of the length", _scaled(
            lambda q, k: math.sqrt(q.shape[-1] / k.shape[2])),
                      "you divided by the root of s, the number of keys. A score is a sum over the "
                      "d features of a head: the root of d."),
        Misconception("scale after the softmax",
                      lambda q, k, v, mask: _scaled(lambda q, k: q.shape[-1] ** 0.5)(q, k, v, mask)
                      / math.sqrt(q.shape[-1]),
                      "you divided the shares, not the scores: they no longer add up to 1. Divide "
                      "before the softmax."),
        Misconception("no mask", _shared_by(lambda scores, mask: scores.softmax(-1)),
                      "you never used the mask, so every token sees the future."),
        Misconception("mask inverted", _shared_by(
            lambda scores, mask: _hide(scores, ~mask).softmax(-1)),
                      "you hid what the mask allows. True means: may look.",
                      also=(_shared_by(lambda scores, mask:
                                       _hide(scores, ~mask).softmax(-1).nan_to_num()),)),
        Misconception("a causal mask of its own", _with_mask(causal_mask),
                      "you made a causal mask, whatever mask is given. Use the argument: other "
                      "masks hide more, or less.",
                      also=(_with_mask(lambda t, s: torch.ones(t, s, dtype=torch.bool).tril()),)),
        Misconception("heads tiled", _with_heads(_tiled),
                      "your key heads come in turn: 0 1 0 1. Neighbouring query heads share one: "
                      "0 0 1 1. That is repeat_interleave, where repeat tiles."),
        Misconception("first key head only", _with_heads(lambda x, q: x[:, :1]),
                      "every query head got key head 0: that is right for MQA only."),
        Misconception("mean of the heads", _with_heads(lambda x, q: x.mean(1, keepdim=True)),
                      "every query head got the mean of all key heads. Each takes one, whole."),
        Misconception("keys mixed", lambda q, k, v, mask: attend(q, k, k, mask),
                      "you mixed the keys. The keys only say who is heard; what is mixed are the "
                      "values."),
    ),
    hints=(
        "First give each query head its key head: neighbours share one, 0 0 1 1. Then, in this "
        "order: scores, scale, mask, softmax. Then mix the values.",
        "q @ k.mT gives `b h t s`. masked_fill wants True where something is to be replaced.",
        "k = k.repeat_interleave(h // k.shape[1], dim=1), and v too; then "
        "(q @ k.mT / sqrt(d)).masked_fill(~mask, -torch.inf).softmax(-1) @ v",
    ), gradients=("q", "k", "v"))

# -- 3.3: a hunt ---------------------------------------------------------------------------------


def _without_maximum(scores: Tensor, mask: Tensor) -> Tensor:
    shares = scores.exp() * mask
    return shares / shares.sum(-1, keepdim=True)


def _look(suspect: Callable) -> Tensor:
    """Shared heads, a cache, a window, and scores far from zero on both sides."""
    rng = torch.Generator().manual_seed(0)
    shared = _heads(rng, 1, 4, 2, causal_mask(3, 5), 3)
    window = _heads(rng, 1, 2, 2, _window(4, 4, 2), 3)
    far = [_heads(rng, 1, 1, 1, causal_mask(3, 3), 2) for _ in range(2)]
    far = [each | {"q": torch.full((1, 1, 3, 2), size), "k": each["k"] + 4}
           for each, size in zip(far, (-9.0, 40.0), strict=True)]
    return torch.cat([suspect(**each).flatten() for each in (shared, window, *far)])


HUNT = Hunt(
    "3.3", "Five functions that agree, until one looks further", "Prove it",
    lambda: attend,
    bugs={
        "heads tiled": Bug(lambda: _with_heads(_tiled),
                           "gives query head 1 the second key head where two key heads serve four"),
        "aligned at the start": Bug(
            lambda: _with_mask(lambda t, s: torch.ones(t, s, dtype=torch.bool).tril()),
            "uses no mask but its own, and lets one new token see only the first of five"),
        "hidden at -20": Bug(
            lambda: _shared_by(lambda scores, mask: _hide(scores, mask, -20.0).softmax(-1)),
            "lets a hidden token through as soon as all that may be seen scores below -20"),
        "no maximum": Bug(lambda: _shared_by(_without_maximum), "gives nan for scores of 100"),
        "scale forgotten": Bug(lambda: _scaled(lambda q, k: q.shape[-1] ** 0.5),
                               "would already differ on the plain input above, and there all five "
                               "agreed"),
        "mask after the softmax": Bug(
            lambda: _shared_by(lambda scores, mask: _hide(scores.softmax(-1), mask, 0.0)),
            "gives less than 1 where every value is 1 and something is hidden, so it would "
            "differ on the plain input above, and there all five agreed"),
        "softmax over the queries": Bug(
            lambda: _shared_by(lambda scores, mask: _hide(scores.softmax(-2), mask, 0.0)),
            "changes the first token's result when a later query changes, so it would differ on "
            "the plain input above, and there all five agreed"),
    },
    hidden={"a": "hidden at -20", "b": "aligned at the start", "c": HEALTHY, "d": "heads tiled",
            "e": "no maximum"},
    look=_look,
    hints=(
        "One plain input is not enough. Change one thing at a time: fewer key heads, t < s, "
        "another mask, queries a hundred times as large. Compare with attend.",
        "Values of one-hot rows show the shares: who looks where that may not? Which key head "
        "does query head 1 hear?",
        "Make every score the same by q and k that are constant. What happens at +100? And where "
        "all that may be seen scores -100, and the hidden token does too?",
    ))

EXERCISES = [MASK, ATTENTION, HUNT]
