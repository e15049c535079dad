"""Exercise of chapter 03: attention, with key heads that are shared."""

import math
from collections.abc import Callable

import torch
from einops import rearrange
from torch import Generator, Tensor

from ..layers import attend, causal_mask
from .data import Exercise, Inputs, Misconception, Probe, normal


def heads(rng: Generator, b: int, h: int, k: int, mask: Tensor, d: int,
          std: float = 1.0) -> Inputs:
    t, s = mask.shape
    return {"q": normal(rng, b, h, t, d, mean=0.5, std=std), "k": normal(rng, b, k, s, d, mean=0.5),
            "v": normal(rng, b, k, s, d, mean=2.0), "mask": mask}


def window(t: int, s: int, width: int) -> Tensor:
    return causal_mask(t, s) & ~causal_mask(t, s).tril(s - t - width)


def _scattered(rng: Generator, t: int, s: int) -> Tensor:
    """Any places, the own one and the last one always: no order that one could guess."""
    mask = torch.rand(t, s, generator=rng) < 0.4
    return mask | torch.eye(t, s, dtype=torch.bool) | (torch.arange(s) == s - 1)


def spread(x: Tensor, q: Tensor) -> Tensor:
    return x.repeat_interleave(q.shape[1] // x.shape[1], dim=1)


def tiled(x: Tensor, q: Tensor) -> Tensor:
    return x.repeat(1, q.shape[1] // x.shape[1], 1, 1)


def scores(q: Tensor, k: Tensor) -> Tensor:
    return q @ spread(k, q).mT / math.sqrt(q.shape[-1])


def hide(scores: Tensor, mask: Tensor, value: float = -torch.inf) -> Tensor:
    return scores.masked_fill(~mask, value)


def shared_by(weigh: Callable[[Tensor, Tensor], Tensor]) -> Callable:
    """Attention whose weights are made from scores and mask in another way."""
    return lambda q, k, v, mask: weigh(scores(q, k), mask) @ spread(v, q)


def scaled(factor: Callable[[Tensor, Tensor], float]) -> Callable:
    """Attention with its scores multiplied once more by a factor read off q and k."""
    return lambda q, k, v, mask: attend(q * factor(q, k), k, v, mask)


def with_heads(share: Callable[[Tensor, Tensor], Tensor]) -> Callable:
    """Attention that gives the query heads their key heads in another way."""
    return lambda q, k, v, mask: attend(q, share(k, q), share(v, q), mask)


def with_mask(make: Callable[[int, int], Tensor]) -> Callable:
    """Attention that makes a mask of its own."""
    return lambda q, k, v, mask: attend(q, k, v, make(q.shape[2], k.shape[2]))


def without_maximum(scores: Tensor, mask: Tensor) -> Tensor:
    shares = scores.exp() * mask
    return shares / shares.sum(-1, keepdim=True)


def _back_in_turn(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """The heads of the result in another order: the first of each group, then the second, ..."""
    return rearrange(attend(q, k, v, mask), "b (k g) t d -> b (g k) t d", k=k.shape[1])


def _same_top(scores: Tensor, mask: Tensor) -> Tensor:
    """The softmax by hand, with one maximum for all rows and heads."""
    return without_maximum(scores - scores.max(), mask)


def _in_proportion(scores: Tensor, mask: Tensor) -> Tensor:
    kept = scores * mask
    return kept / kept.sum(-1, keepdim=True)


def _hidden_at(value: float) -> Callable:
    return shared_by(lambda scores, mask: hide(scores, mask, value).softmax(-1))


ATTENTION = Exercise(
    "3.2", "Attention, with key heads that are shared", "The idea", attend,
    probes=(
        Probe("6 query heads, 3 key heads", lambda rng: heads(rng, 2, 6, 3, causal_mask(4, 4), 5)),
        Probe("2 key heads, a cache", lambda rng: heads(rng, 1, 6, 2, causal_mask(3, 7), 4)),
        Probe("one head, two tokens", lambda rng: heads(rng, 1, 1, 1, causal_mask(2, 2), 2)),
        Probe("as many key heads (MHA), large queries",
              lambda rng: heads(rng, 1, 3, 3, causal_mask(3, 4), 7, std=1000.0)),
        Probe("one key head (MQA), one new token",
              lambda rng: heads(rng, 2, 4, 1, causal_mask(1, 5), 3)),
        Probe("a mask that is a window of two", lambda rng: heads(
            rng, 1, 4, 2, window(5, 6, 2), 3)),
        Probe("a mask without an order", lambda rng: heads(
            rng, 2, 4, 2, _scattered(rng, 4, 6), 3)),
        Probe("all may see all", lambda rng: heads(
            rng, 1, 2, 2, torch.ones(3, 5, dtype=torch.bool), 6)),
    ),
    misconceptions=(
        Misconception("softmax over the queries",
                      shared_by(lambda scores, mask: hide(scores, mask).softmax(-2)),
                      "your softmax runs over the queries (dim=-2). Each query shares out its own "
                      "attention among the keys: dim=-1.",
                      also=(shared_by(lambda scores, mask: hide(scores.softmax(-2), mask, 0.0)),
                            shared_by(lambda scores, mask:
                                       hide(scores, mask).softmax(-2).nan_to_num()))),
        Misconception("softmax over the heads",
                      shared_by(lambda scores, mask: hide(scores, mask).softmax(1)),
                      "your softmax runs over the heads (dim=1), so heads take attention from each "
                      "other. Each query of each head shares out its own among the keys: dim=-1.",
                      also=(shared_by(lambda scores, mask:
                                       hide(scores, mask).softmax(1).nan_to_num()),)),
        Misconception("mask after the softmax",
                      shared_by(lambda scores, mask: hide(scores.softmax(-1), mask, 0.0)),
                      "you masked after the softmax. What is hidden has already taken its share, "
                      "so the weights that remain do not add up to 1."),
        Misconception("zero for minus infinity",
                      shared_by(lambda scores, mask: hide(scores, mask, 0.0).softmax(-1)),
                      "you set hidden scores to 0, and exp(0) is 1: the future still gets a "
                      "share. Use -inf, whose exponential is 0."),
        Misconception("hidden at a small number", _hidden_at(-10.0),
                      "what you hide keeps a finite score, so it still gets a share wherever the "
                      "other scores are as low. Put -inf there.",
                      also=tuple(map(_hidden_at, (-1.0, -5.0, -20.0, -50.0, -100.0)))),
        Misconception("no maximum", shared_by(without_maximum),
                      "your softmax is right for small scores, and gives nan for large ones: "
                      "exp(89) is too large for float32. Subtract the row's largest score first, "
                      "as torch.softmax does."),
        Misconception("one maximum for all", shared_by(_same_top),
                      "you subtracted the largest score of all rows. A row whose scores are far "
                      "below it underflows: 0 / 0. Each row has a maximum of its own.",
                      also=(shared_by(lambda scores, mask: without_maximum(
                          scores - scores.amax((-1, -2), keepdim=True), mask)),)),
        Misconception("no exponential", shared_by(_in_proportion),
                      "you divided the scores by their total. A score may be negative: the softmax "
                      "takes its exponential first."),
        Misconception("no softmax", shared_by(lambda scores, mask: hide(scores, mask, 0.0)),
                      "you mixed the values by the scores themselves. The softmax is missing: it "
                      "makes shares of them.",
                      also=(shared_by(hide), shared_by(lambda scores, mask: scores))),
        Misconception("softmax twice", shared_by(
            lambda scores, mask: hide(scores, mask).softmax(-1).softmax(-1)),
                      "you took the softmax twice. The first makes the shares; the second evens "
                      "them out.", also=(shared_by(lambda scores, mask: hide(
                          hide(scores, mask).softmax(-1), mask).softmax(-1)),)),
        Misconception("mask added", shared_by(lambda scores, mask: (scores + mask).softmax(-1)),
                      "you added the mask: True counts as 1, so what is hidden loses 1 and still "
                      "gets a share. Put -inf where the mask is False."),
        Misconception("not normalised", shared_by(
            lambda scores, mask: (scores - scores.amax(-1, keepdim=True)).exp() * mask),
                      "your weights do not add up to 1: a softmax divides by their total.",
                      also=(shared_by(lambda scores, mask: scores.exp() * mask),)),
        Misconception("scale 1/d", scaled(lambda q, k: q.shape[-1] ** -0.5),
                      "you divided the scores by d. Divide by its root: that is how much a sum of "
                      "d random products spreads."),
        Misconception("no scale", scaled(lambda q, k: q.shape[-1] ** 0.5),
                      "you did not divide the scores by the root of d."),
        Misconception("the root of the root", scaled(lambda q, k: q.shape[-1] ** 0.25),
                      "you divided the scores by the fourth root of d. Divide them by its root; or "
                      "queries and keys by the fourth root each."),
        Misconception("multiplied by the root", scaled(lambda q, k: q.shape[-1]),
                      "you multiplied by the root of d. Divide by it: the scores are too spread, "
                      "not too close."),
        Misconception("root of dim", scaled(lambda q, k: q.shape[1] ** -0.5),
                      "you divided by the root of h * d, the width of all heads together. A score "
                      "is a sum over the features of one head: the root of d.",
                      also=(scaled(lambda q, k: k.shape[1] ** -0.5),)),
        Misconception("root of the heads", scaled(
            lambda q, k: math.sqrt(q.shape[-1] / q.shape[1])),
                      "you divided by the root of the number of heads. A score is a sum over the "
                      "d features of one head: the root of d.",
                      also=(scaled(lambda q, k: math.sqrt(q.shape[-1] / k.shape[1])),)),
        Misconception("root of the length", scaled(
            lambda q, k: math.sqrt(q.shape[-1] / k.shape[2])),
                      "you divided by the root of the number of tokens. A score is a sum over the "
                      "d features of a head: the root of d.",
                      also=(scaled(lambda q, k: math.sqrt(q.shape[-1] / q.shape[2])),)),
        Misconception("result divided too",
                      lambda q, k, v, mask: attend(q, k, v, mask) / math.sqrt(q.shape[-1]),
                      "your result is too small by the root of d: it is divided once more after "
                      "the mixing. Only the scores are divided."),
        Misconception("scale after the softmax",
                      lambda q, k, v, mask: scaled(lambda q, k: q.shape[-1] ** 0.5)(q, k, v, mask)
                      / math.sqrt(q.shape[-1]),
                      "you divided the shares, not the scores: they no longer add up to 1. Divide "
                      "before the softmax."),
        Misconception("no mask", shared_by(lambda scores, mask: scores.softmax(-1)),
                      "you never used the mask, so every token sees the future."),
        Misconception("mask inverted", shared_by(
            lambda scores, mask: hide(scores, ~mask).softmax(-1)),
                      "you hid what the mask allows. True means: may look.",
                      also=(shared_by(lambda scores, mask:
                                       hide(scores, ~mask).softmax(-1).nan_to_num()),)),
        Misconception("a causal mask of its own", with_mask(causal_mask),
                      "you made a causal mask, whatever mask is given. Use the argument: other "
                      "masks hide more, or less.",
                      also=(with_mask(lambda t, s: torch.ones(t, s, dtype=torch.bool).tril()),)),
        Misconception("heads tiled", with_heads(tiled),
                      "your key heads come in turn: 0 1 0 1. Neighbouring query heads share one: "
                      "0 0 1 1. That is repeat_interleave, where repeat tiles."),
        Misconception("values tiled", lambda q, k, v, mask: attend(
            q, spread(k, q), tiled(v, q), mask),
                      "your keys are shared rightly, and your value heads come in turn: 0 1 0 1. "
                      "Neighbouring query heads share one: 0 0 1 1, by repeat_interleave."),
        Misconception("keys tiled", lambda q, k, v, mask: attend(
            q, tiled(k, q), spread(v, q), mask),
                      "your values are shared rightly, and the heads of your keys come in turn: "
                      "0 1 0 1. Neighbouring query heads share one: 0 0 1 1, by "
                      "repeat_interleave."),
        Misconception("heads put back in another order", _back_in_turn,
                      "you shared rightly, and put the heads of the result back in another order: "
                      "query head 0 of each group first. They come back as they came in, "
                      "`(k g)`."),
        Misconception("first key head only", with_heads(lambda x, q: x[:, :1]),
                      "every query head got the same key head: that is right for MQA only.",
                      also=(with_heads(lambda x, q: x[:, -1:]),)),
        Misconception("key heads backwards", with_heads(lambda x, q: spread(x.flip(1), q)),
                      "your key heads run from the last to the first. Query head 0 hears key head "
                      "0."),
        Misconception("mean of the heads", with_heads(lambda x, q: x.mean(1, keepdim=True)),
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

EXERCISES = [ATTENTION]
