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
              gather: str = "sum", of_values: str = "shares", of_keys: str = "scores",
              past: bool = False, power: int = 1) -> Callable:
    """The backward pass by hand with one part done wrongly."""
    def backward(q: Tensor, k: Tensor, v: Tensor, shares: Tensor, slope: Tensor) -> Slopes:
        n, root = k.shape[1], math.sqrt(q.shape[-1])
        q, shares, slope = (rearrange(x, "b (k g) ... -> b k g ...", k=n)
                            for x in (q, shares, slope))
        to_shares = einsum(slope, v, "b k g t d, b k s d -> b k g t s")
        to_scores = softmax(shares, to_shares)
        dq = einsum(to_shares if past else to_scores, k, "b k g t s, b k s d -> b k g t d")
        ways = {"shares": shares, "scores": to_scores, "to shares": to_shares}
        dk = einsum(ways[of_keys], q, "b k g t s, b k g t d -> b k g s d")
        dv = einsum(ways[of_values], slope, "b k g t s, b k g t d -> b k g s d")
        root = root**power
        dq, dk = dq / (root if scale_q else 1), dk / (root if scale_k else 1)
        if gather in ("first", "last"):
            one = 0 if gather == "first" else -1
            dk, dv = dk[:, :, one], dv[:, :, one]
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
                      "between them.", also=(_backward(softmax=lambda p, slope: slope),)),
        Misconception("sum over the queries", _backward(
            softmax=lambda p, slope: p * (slope - (p * slope).sum(-2, keepdim=True))),
                      "you summed over the queries (dim=-2). Each query's shares add up to 1, so "
                      "the sum runs over its keys: dim=-1."),
        Misconception("mean not weighted", _backward(
            softmax=lambda p, slope: p * (slope - slope.mean(-1, keepdim=True))),
                      "you subtracted the plain mean of the slopes, or their plain sum. It is "
                      "weighted by the shares.",
                      also=(_backward(softmax=lambda p, slope:
                                      p * (slope - slope.sum(-1, keepdim=True))),)),
        Misconception("mean of the weighted", _backward(
            softmax=lambda p, slope: p * (slope - (p * slope).mean(-1, keepdim=True))),
                      "you took the mean of shares * slopes. The shares add up to 1 already: their "
                      "weighted mean is the sum."),
        Misconception("shares twice", _backward(
            softmax=lambda p, slope: p * (p * slope - (p * slope).sum(-1, keepdim=True))),
                      "you multiplied by the shares twice. Within the brackets the slope stands "
                      "alone: shares * (slope - the sum of shares * slope).",
                      also=(_backward(softmax=lambda p, slope: p * _through_softmax(p, slope)),)),
        Misconception("brackets", _backward(
            softmax=lambda p, slope: p * slope - (p * slope).sum(-1, keepdim=True)),
                      "you multiplied by the shares before you subtracted the sum. The sum is "
                      "multiplied too: shares * (slope - sum).",
                      also=(_backward(softmax=lambda p, slope:
                                      (p * slope - (p * slope).sum(-1, keepdim=True)) * (p > 0)),)),
        Misconception("sign", _backward(softmax=lambda p, slope: -_through_softmax(p, slope)),
                      "the slopes of q and k have the wrong sign: the weighted sum is subtracted "
                      "from the slope, not the slope from the sum."),
        Misconception("sum over all queries", _backward(
            softmax=lambda p, slope: p * (slope - (p * slope).sum((-1, -2), keepdim=True))),
                      "you summed over the queries, too. Each query has a sum of its own, over its "
                      "keys: dim=-1."),
        Misconception("sign of the sum", _backward(
            softmax=lambda p, slope: p * (slope + (p * slope).sum(-1, keepdim=True))),
                      "you added the weighted sum. Shares compete: it is subtracted."),
        Misconception("no scale", _backward(scale_q=False, scale_k=False),
                      "you forgot the root of d on the way back. The scores were divided by it, so "
                      "the slopes of q and k are too."),
        Misconception("multiplied by the root", _backward(power=-1),
                      "you multiplied by the root of d on the way back. The scores were divided by "
                      "it, so the slopes of q and k are divided too."),
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
                      "a key head got the slope of one query head only. It is heard by all of its "
                      "group: the slopes add up.", also=(_backward(gather="last"),)),
        Misconception("a slope for each query head", _backward(gather="none"),
                      "the slopes of k and v have a copy for each query head. There are fewer key "
                      "heads: add up those of a group."),
        Misconception("heads tiled", _tiled(spread=True, gathered=True),
                      "your key heads come in turn: 0 1 0 1. Neighbouring query heads share one: "
                      "0 0 1 1, when it is read and when its slopes are added up.",
                      also=(_tiled(spread=True, gathered=False),
                            _tiled(spread=False, gathered=True))),
        Misconception("values through the softmax", _backward(of_values="scores"),
                      "the slope of v is mixed with the slopes of the scores. The values are mixed "
                      "by the shares themselves.", also=(_backward(of_values="to shares"),)),
        Misconception("keys past the softmax", _backward(of_keys="to shares"),
                      "the slope of k is made from the slopes of the shares. Go through the "
                      "softmax first, for k as for q.", also=(_backward(of_keys="shares"),)),
        Misconception("queries past the softmax", _backward(past=True),
                      "the slope of q is made from the slopes of the shares. Go through the "
                      "softmax first, for q as for k."),
        Misconception("softmax again", _backward(softmax=lambda p, slope: slope.softmax(-1)),
                      "you took the softmax of the slopes. The way back multiplies them by the "
                      "slope of the softmax: shares * (slope - the sum of shares * slope)."),
        Misconception("values averaged", lambda *given: (
            *_backward()(*given)[:2], _backward(gather="mean")(*given)[2]),
                      "you averaged the slope of v over the query heads that share it, and not "
                      "that of k. Both add up."),
        Misconception("keys averaged", lambda *given: tuple(
            _backward(gather="mean" if i == 1 else "sum")(*given)[i] for i in range(3)),
                      "you averaged the slope of k over the query heads that share it, and not "
                      "that of v. Both add up."),
        Misconception("values scaled", lambda *given: (
            *_backward()(*given)[:2], _backward()(*given)[2] / math.sqrt(given[0].shape[-1])),
                      "you divided the slope of v by the root of d. Only the scores were divided "
                      "by it, so only the slopes of q and k are."),
        Misconception("another order", lambda *given: tuple(
            _backward()(*given)[i] for i in (0, 2, 1)),
                      "you returned the slopes of q, v and k. The order is q, k, v."),
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
