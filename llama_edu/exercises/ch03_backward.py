"""Exercise of chapter 03: attention backwards, with key heads that are shared."""

import math
from collections.abc import Callable

import torch
from einops import einsum, rearrange, reduce
from torch import Generator, Tensor

from ..layers import attend, causal_mask
from .data import Exercise, Inputs, Misconception, Probe, normal

Slopes = tuple[Tensor, Tensor, Tensor]


def _package(q: Tensor, k: Tensor, v: Tensor, shares: Tensor, slope: Tensor) -> Slopes:
    """The package's attention, differentiated by PyTorch. Where a share is 0, it was hidden."""
    with torch.enable_grad():
        inputs = [each.detach().requires_grad_() for each in (q, k, v)]
        return torch.autograd.grad(attend(*inputs, shares[0, 0] > 0), inputs, slope)


def _through_softmax(shares: Tensor, slope: Tensor) -> Tensor:
    return shares * (slope - (shares * slope).sum(-1, keepdim=True))


def _backward(*, softmax: Callable = _through_softmax, scale_q: bool = True, scale_k: bool = True,
              gather: str = "sum", shares_again: bool = False, power: int = 1) -> Callable:
    """The backward pass by hand with one part done wrongly."""
    def backward(q: Tensor, k: Tensor, v: Tensor, shares: Tensor, slope: Tensor) -> Slopes:
        n, root = k.shape[1], math.sqrt(q.shape[-1])
        q, shares, slope = (rearrange(x, "b (k g) ... -> b k g ...", k=n)
                            for x in (q, shares, slope))
        to_shares = einsum(slope, v, "b k g t d, b k s d -> b k g t s")
        to_scores = softmax(shares, to_shares)
        dq = einsum(to_scores, k, "b k g t s, b k s d -> b k g t d")
        dk = einsum(to_scores, q, "b k g t s, b k g t d -> b k g s d")
        dv = einsum(to_scores if shares_again else shares, slope,
                    "b k g t s, b k g t d -> b k g s d")
        root = root**power
        dq, dk = dq / (root if scale_q else 1), dk / (root if scale_k else 1)
        if gather == "first":
            dk, dv = dk[:, :, 0], dv[:, :, 0]
        elif gather == "none":
            dk, dv = (rearrange(x, "b k g s d -> b (k g) s d") for x in (dk, dv))
        else:
            dk, dv = (reduce(x, "b k g s d -> b k s d", gather) for x in (dk, dv))
        return rearrange(dq, "b k g t d -> b (k g) t d"), dk, dv

    return backward


def _tiled(*, spread: bool, gathered: bool) -> Callable:
    """The backward pass with the key heads in turn, 0 1 0 1: when read, when added up, or both."""
    def backward(q: Tensor, k: Tensor, v: Tensor, shares: Tensor, slope: Tensor) -> Slopes:
        g, root = q.shape[1] // k.shape[1], math.sqrt(q.shape[-1])
        keys, values = (x.repeat(1, g, 1, 1) if spread else x.repeat_interleave(g, 1)
                        for x in (k, v))
        to_scores = _through_softmax(shares, slope @ values.mT) / root
        pattern = f"b {'(g k)' if gathered else '(k g)'} s d -> b k s d"
        dk, dv = (reduce(a.mT @ b, pattern, "sum", g=g)
                  for a, b in ((to_scores, q), (shares, slope)))
        return to_scores @ keys, dk, dv

    return backward


def _inputs(rng: Generator, b: int, h: int, k: int, mask: Tensor, d: int) -> Inputs:
    t, s = mask.shape
    q, keys = normal(rng, b, h, t, d, mean=0.3), normal(rng, b, k, s, d)
    return {"q": q, "k": keys, "v": normal(rng, b, k, s, d, mean=1.0),
            "shares": attend(q, keys, torch.eye(s).expand(b, k, s, s), mask),
            "slope": normal(rng, b, h, t, d, mean=0.5)}


BACKWARD = Exercise(
    "3.7", "Attention backwards", "Your turn: the way back", _package,
    probes=(
        Probe("one head", lambda rng: _inputs(rng, 1, 1, 1, causal_mask(3, 3), 2)),
        Probe("3 heads with keys of their own", lambda rng: _inputs(
            rng, 2, 3, 3, causal_mask(4, 4), 5)),
        Probe("6 query heads, 2 key heads", lambda rng: _inputs(
            rng, 1, 6, 2, causal_mask(3, 5), 4)),
        Probe("all may see all", lambda rng: _inputs(
            rng, 2, 4, 2, torch.ones(2, 3, dtype=torch.bool), 6)),
        Probe("one new token", lambda rng: _inputs(rng, 1, 4, 1, causal_mask(1, 4), 3)),
    ),
    misconceptions=(
        Misconception("softmax without its sum", _backward(softmax=lambda p, slope: p * slope),
                      "you multiplied by the shares and stopped. A share that grows takes from all "
                      "others: subtract, in each row, the mean of the slopes weighted by the "
                      "shares."),
        Misconception("softmax feature by feature",
                      _backward(softmax=lambda p, slope: p * (1 - p) * slope),
                      "p (1 - p) is only the diagonal of the softmax's slope: how one score moves "
                      "its own share. It moves the others too."),
        Misconception("softmax passed over", _backward(softmax=lambda p, slope: slope * (p > 0)),
                      "you took the slopes of the shares as those of the scores. The softmax lies "
                      "between them."),
        Misconception("sum over the queries", _backward(
            softmax=lambda p, slope: p * (slope - (p * slope).sum(-2, keepdim=True))),
                      "you summed over the queries (dim=-2). Each query's shares add up to 1, so "
                      "the sum runs over its keys: dim=-1."),
        Misconception("mean not weighted", _backward(
            softmax=lambda p, slope: p * (slope - slope.mean(-1, keepdim=True))),
                      "you subtracted the plain mean of the slopes. It is weighted by the shares."),
        Misconception("sign of the sum", _backward(
            softmax=lambda p, slope: p * (slope + (p * slope).sum(-1, keepdim=True))),
                      "you added the weighted sum. Shares compete: it is subtracted."),
        Misconception("no scale", _backward(scale_q=False, scale_k=False),
                      "you forgot the root of d on the way back. The scores were divided by it, so "
                      "the slopes of q and k are too."),
        Misconception("scale twice", _backward(power=2),
                      "you divided by d. The scores were divided by its root, once, so the slopes "
                      "of q and k are too."),
        Misconception("shares left out", _backward(
            softmax=lambda p, slope: (slope - (p * slope).sum(-1, keepdim=True)) * (p > 0)),
                      "you subtracted the weighted mean and did not multiply by the shares: a "
                      "score moves the result only as far as its token has a share.",
                      also=(_backward(softmax=lambda p, slope:
                                      slope - (p * slope).sum(-1, keepdim=True)),)),
        Misconception("scale for q only", _backward(scale_k=False),
                      "you divided the slope of q by the root of d, and not that of k."),
        Misconception("scale for k only", _backward(scale_q=False),
                      "you divided the slope of k by the root of d, and not that of q."),
        Misconception("mean over the group", _backward(gather="mean"),
                      "you averaged over the query heads that share a key head. Each of them moves "
                      "the loss: the slopes add up."),
        Misconception("first of the group", _backward(gather="first"),
                      "a key head got the slope of its first query head only. It is heard by all "
                      "of its group: the slopes add up."),
        Misconception("a slope for each query head", _backward(gather="none"),
                      "the slopes of k and v have a copy for each query head. There are fewer key "
                      "heads: add up those of a group."),
        Misconception("heads tiled", _tiled(spread=True, gathered=True),
                      "your key heads come in turn: 0 1 0 1. Neighbouring query heads share one: "
                      "0 0 1 1, when it is read and when its slopes are added up.",
                      also=(_tiled(spread=True, gathered=False),
                            _tiled(spread=False, gathered=True))),
        Misconception("values through the softmax", _backward(shares_again=True),
                      "the slope of v is mixed with the slopes of the scores. The values are mixed "
                      "by the shares themselves."),
    ),
    hints=(
        "Go back step by step: result = shares @ v, so the slope of the shares is slope @ v.mT, "
        "and that of v is shares.mT @ slope.",
        "Through the softmax, row by row: shares * (their slope - the sum of shares * slope). "
        "What is hidden has the share 0, and so the slope 0.",
        "scores = q @ k.mT / root: the slope of q is to_scores @ k / root, that of k is "
        "to_scores.mT @ q / root. A shared key head adds up what its query heads send.",
    ))

EXERCISES = [BACKWARD]
