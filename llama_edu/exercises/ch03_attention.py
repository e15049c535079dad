"""The exercises of chapter 03: the mask, attention, shared heads, the cache, online softmax."""

import math
from collections.abc import Callable
from typing import Any

import torch
from einops import rearrange
from torch import Generator, Tensor

from ..config import ModelConfig
from ..family.accounting import kv_bytes
from ..layers import attend, causal_mask
from .data import Exercise, Inputs, Misconception, Probe, count, normal, whole

# -- 3.1: who may look where --------------------------------------------------------------------


def _ones(t: int, s: int) -> Tensor:
    return torch.ones(t, s, dtype=torch.bool)


MASK = Exercise(
    "3.1", "The causal mask, with a cache", "Build it", causal_mask,
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


def _heads(rng: Generator, b: int, h: int, t: int, s: int, d: int, std: float = 1.0) -> Inputs:
    return {"q": normal(rng, b, h, t, d, mean=0.5, std=std), "k": normal(rng, b, h, s, d, mean=0.5),
            "v": normal(rng, b, h, s, d, mean=2.0), "mask": causal_mask(t, s)}


def _scores(q: Tensor, k: Tensor) -> Tensor:
    return q @ k.mT / math.sqrt(q.shape[-1])


def _hide(scores: Tensor, mask: Tensor, value: float = -torch.inf) -> Tensor:
    return scores.masked_fill(~mask, value)


def _scaled(factor: Callable[[Tensor], float]) -> Callable:
    """Attention with its scores multiplied once more by a factor read off q."""
    return lambda q, k, v, mask: attend(q * factor(q), k, v, mask)


ATTENTION = Exercise(
    "3.2", "Attention for any number of heads", "Build it", attend,
    probes=(
        Probe("three heads", lambda rng: _heads(rng, 2, 3, 4, 4, 5)),
        Probe("a cache", lambda rng: _heads(rng, 1, 2, 3, 6, 4)),
        Probe("one head, two tokens", lambda rng: _heads(rng, 1, 1, 2, 2, 2)),
        Probe("large queries", lambda rng: _heads(rng, 1, 3, 3, 4, 7, std=30.0)),
        Probe("one new token", lambda rng: _heads(rng, 2, 2, 1, 5, 3)),
    ),
    misconceptions=(
        Misconception("softmax over the queries",
                      lambda q, k, v, mask: _hide(_scores(q, k), mask).softmax(-2) @ v,
                      "your softmax runs over the queries (dim=-2). Each query shares out its own "
                      "attention among the keys: dim=-1.",
                      also=(lambda q, k, v, mask:
                            _hide(_scores(q, k).softmax(-2), mask, 0.0) @ v,)),
        Misconception("mask after the softmax",
                      lambda q, k, v, mask: _hide(_scores(q, k).softmax(-1), mask, 0.0) @ v,
                      "you masked after the softmax. What is hidden has already taken its share, "
                      "so the weights that remain do not add up to 1."),
        Misconception("zero for minus infinity",
                      lambda q, k, v, mask: _hide(_scores(q, k), mask, 0.0).softmax(-1) @ v,
                      "you set hidden scores to 0, and exp(0) is 1: the future still gets a "
                      "share. Use -inf, whose exponential is 0.",
                      also=(lambda q, k, v, mask: (_scores(q, k) * mask).softmax(-1) @ v,)),
        Misconception("scale 1/d", _scaled(lambda q: q.shape[-1] ** -0.5),
                      "you divided the scores by d. Divide by its root: that is how much a sum of "
                      "d random products spreads."),
        Misconception("no scale", _scaled(lambda q: q.shape[-1] ** 0.5),
                      "you did not divide the scores by the root of d."),
        Misconception("root of dim", _scaled(lambda q: q.shape[1] ** -0.5),
                      "you divided by the root of h * d, the width of all heads together. A score "
                      "is a sum over the features of one head: the root of d."),
        Misconception("no mask", lambda q, k, v, mask: _scores(q, k).softmax(-1) @ v,
                      "you never used the mask, so every token sees the future."),
        Misconception("mask inverted", lambda q, k, v, mask: _hide(_scores(q, k), ~mask).softmax(-1)
                      @ v, "you hid what the mask allows. True means: may look."),
    ),
    hints=(
        "Four steps, in this order: scores, scale, mask, softmax. Then mix the values.",
        "q @ k.mT gives `b h t s`. masked_fill wants True where something is to be replaced.",
        "(scores / sqrt(d)).masked_fill(~mask, -torch.inf).softmax(-1) @ v",
    ), gradients=("q", "k", "v"))

# -- 3.3: which key head belongs to which query head ---------------------------------------------


def _package_spread(x: Tensor, n_heads: int) -> Tensor:
    """What each query head of `attend` receives when there is one value to receive."""
    b, k, s, d = x.shape
    one_key_each = rearrange(x, "b k s d -> (b s) k 1 d")
    q = torch.zeros(b * s, n_heads, 1, d)
    received = attend(q, torch.zeros_like(one_key_each), one_key_each, causal_mask(1, 1))
    return rearrange(received, "(b s) h 1 d -> b h s d", b=b)


def _spread_inputs(rng: Generator, n_heads: int, *shape: int) -> Inputs:
    return {"x": whole(rng, *shape) + 10 * torch.arange(shape[1])[:, None, None],
            "n_heads": n_heads}


SHARE = Exercise(
    "3.3", "Give each query head its key head", "Build it", _package_spread,
    probes=(
        Probe("2 key heads, 4 query heads", lambda rng: _spread_inputs(rng, 4, 1, 2, 1, 1)),
        Probe("2 key heads, 6 query heads", lambda rng: _spread_inputs(rng, 6, 1, 2, 3, 2)),
        Probe("3 key heads, 6 query heads", lambda rng: _spread_inputs(rng, 6, 2, 3, 4, 5)),
        Probe("one key head (MQA)", lambda rng: _spread_inputs(rng, 3, 2, 1, 2, 4)),
        Probe("as many as query heads (MHA)", lambda rng: _spread_inputs(rng, 3, 1, 3, 2, 2)),
    ),
    misconceptions=(
        Misconception("repeat", lambda x, n_heads: x.repeat(1, n_heads // x.shape[1], 1, 1),
                      "your key heads come in turn: 0 1 0 1. Neighbouring query heads share one: "
                      "0 0 1 1. That is repeat_interleave, where repeat tiles."),
        Misconception("mean of the heads",
                      lambda x, n_heads: x.mean(1, keepdim=True).repeat(1, n_heads, 1, 1),
                      "every query head got the mean of all key heads. Each takes one, whole."),
        Misconception("first head only", lambda x, n_heads: x[:, :1].repeat(1, n_heads, 1, 1),
                      "every query head got key head 0: that is right for MQA only."),
    ),
    hints=(
        "With 2 key heads and 6 query heads, each key head serves 3 query heads. Which 3?",
        "Neighbours: query heads 0, 1, 2 take key head 0, and 3, 4, 5 take key head 1.",
        'x.repeat_interleave(g, dim=1), or repeat(x, "b k s d -> b (k g) s d", g=g).',
    ), gradients=("x",))

# -- 3.4: the bytes of a cache -------------------------------------------------------------------


def _cache_inputs(rng: Generator, *, n_kv_heads: int, g: int, bits: int) -> Inputs:
    n_heads, head_dim = n_kv_heads * g, 2 * count(rng, 5, 9)
    config = ModelConfig(
        dim=n_heads * head_dim, n_layers=count(rng, 22, 29), n_heads=n_heads,
        n_kv_heads=n_kv_heads, hidden_dim=7, vocab_size=11, norm_eps=1e-5, rope_theta=1e4,
        max_seq_len=4096)
    return {"config": config, "tokens": count(rng, 100, 900), "batch": count(rng, 3, 5),
            "bits": bits}


def _cache_slip(name: str, change: Callable[[ModelConfig, int, int], Any], why: str,
                ) -> Misconception:
    """A wrong number of stored values, made into bytes rightly."""
    return Misconception(
        name, lambda config, tokens, batch, bits: change(config, tokens, batch) * bits // 8, why)


CACHE = Exercise(
    "3.4", "The bytes of a KV cache", "In the Llamas",
    lambda config, tokens, batch, bits: kv_bytes(config, tokens=tokens, batch=batch, bits=bits),
    probes=(
        Probe("bfloat16", lambda rng: _cache_inputs(rng, n_kv_heads=4, g=3, bits=16)),
        Probe("four bits", lambda rng: _cache_inputs(rng, n_kv_heads=2, g=5, bits=4)),
        Probe("MQA", lambda rng: _cache_inputs(rng, n_kv_heads=1, g=6, bits=32)),
    ),
    misconceptions=(
        _cache_slip("heads for layers", lambda c, tokens, batch:
                    2 * c.n_heads * c.n_kv_heads * c.head_dim * tokens * batch,
                    "you counted heads where layers belong. Every layer keeps its own cache."),
        _cache_slip("heads and no width", lambda c, tokens, batch: 2 * c.n_heads * tokens * batch,
                    "that is the formula with heads for layers and no width: it leaves out the "
                    "layers and the features of a head."),
        _cache_slip("query heads", lambda c, tokens, batch:
                    2 * c.n_layers * c.dim * tokens * batch,
                    "you counted the query heads. Queries are never kept: only key and value "
                    "heads are, n_kv_heads of them."),
        _cache_slip("keys only", lambda c, tokens, batch:
                    c.n_layers * c.n_kv_heads * c.head_dim * tokens * batch,
                    "you counted keys or values. Both are kept: twice as much."),
        _cache_slip("one layer", lambda c, tokens, batch:
                    2 * c.n_kv_heads * c.head_dim * tokens * batch,
                    "you counted one layer. Each of the n_layers keeps its own keys and values."),
        Misconception("bits taken as bytes", lambda config, tokens, batch, bits:
                      bits * kv_bytes(config, tokens=tokens, batch=batch, bits=8),
                      "you counted bits, not bytes. A byte is 8 bits."),
    ),
    hints=(
        "Count the numbers first, and their bytes last.",
        "In one layer, one token leaves a key and a value, each n_kv_heads * head_dim numbers.",
        "2 * n_layers * n_kv_heads * head_dim * tokens * batch numbers, each bits / 8 bytes.",
    ))

# -- 3.5: online softmax ---------------------------------------------------------------------------


def _online(*, total: bool = True, mixed: bool = True, top: str = "running") -> Callable:
    """The loop over blocks with one part done wrongly: which sums are rescaled, to which top."""
    tops = {"running": lambda old, scores: torch.maximum(old, scores.max()),
            "block": lambda old, scores: scores.max(),
            "newest": lambda old, scores: scores.max(), "first": lambda old, scores: old,
            "none": lambda old, scores: 0 * scores[0]}

    def mix_online(scores: Tensor, values: Tensor, block: int) -> Tensor:
        largest, sum_, mix = scores[:block].max(), torch.zeros(()), torch.zeros_like(values[0])
        for part, rows in zip(scores.split(block), values.split(block), strict=True):
            new = tops[top](largest, part)
            keep = (largest - new).exp() if top in ("running", "newest") else 1.0
            weights = (part - new).exp()
            sum_ = sum_ * (keep if total else 1.0) + weights.sum()
            mix = mix * (keep if mixed else 1.0) + weights @ rows
            largest = new
        return mix / sum_

    return mix_online


def _each_block_alone(scores: Tensor, values: Tensor, block: int) -> Tensor:
    parts = zip(scores.split(block), values.split(block), strict=True)
    return torch.stack([part.softmax(0) @ rows for part, rows in parts]).mean(0)


def _rows(rng: Generator, scores: Tensor, block: int, d: int) -> Inputs:
    return {"scores": scores, "values": normal(rng, len(scores), d, mean=2.0, std=3.0),
            "block": block}


ONLINE = Exercise(
    "3.5", "Softmax in one pass over blocks", "Online softmax",
    lambda scores, values, block: scores.softmax(0) @ values,
    probes=(
        Probe("rising scores", lambda rng: _rows(rng, normal(rng, 6).sort().values, 2, 3)),
        Probe("falling scores",
              lambda rng: _rows(rng, normal(rng, 6).sort(descending=True).values, 2, 3)),
        Probe("a short last block", lambda rng: _rows(rng, 2 * normal(rng, 7), 3, 2)),
        Probe("scores near 200", lambda rng: _rows(rng, normal(rng, 4, mean=200.0), 2, 2)),
        Probe("scores near -200", lambda rng: _rows(rng, normal(rng, 4, mean=-200.0), 2, 2)),
        Probe("a rise from 0 to 200", lambda rng: _rows(
            rng, normal(rng, 4) + torch.tensor([0.0, 0.0, 200.0, 200.0]), 2, 2)),
        Probe("a fall from 200 to 0", lambda rng: _rows(
            rng, normal(rng, 4) + torch.tensor([200.0, 200.0, 0.0, 0.0]), 2, 2)),
        Probe("one block", lambda rng: _rows(rng, whole(rng, 3), 5, 2)),
    ),
    misconceptions=(
        Misconception("nothing rescaled", _online(total=False, mixed=False),
                      "when a larger score arrives, what you have summed so far still counts from "
                      "the old maximum. Multiply it by exp(old - new)."),
        Misconception("total not rescaled", _online(total=False),
                      "you rescaled the mixed values but not the total they are divided by. Both "
                      "count from the maximum."),
        Misconception("mixed not rescaled", _online(mixed=False),
                      "you rescaled the total but not the mixed values. Both count from the "
                      "maximum."),
        Misconception("maximum of the block", _online(top="block"),
                      "each block counts from its own maximum, so blocks do not compare. Keep one "
                      "running maximum for all of them."),
        Misconception("maximum of the newest block", _online(top="newest"),
                      "you rescale to the newest block's maximum even where it is the smaller "
                      "one: exp(old - new) then overflows. The running maximum never falls."),
        Misconception("maximum of the first block", _online(top="first"),
                      "you count from the first block's maximum for ever: when later scores are "
                      "far larger, exp overflows. Raise the maximum as you go."),
        Misconception("no maximum", _online(top="none"),
                      "you never subtracted the maximum: exp(200) is infinite in float32."),
        Misconception("blocks averaged", _each_block_alone,
                      "you took the softmax of each block and averaged. A block with large scores "
                      "must count for more."),
    ),
    hints=(
        "Keep three things: the largest score so far, the total of the exponentials, the mix.",
        "When the largest score rises from old to new, every earlier exponential shrinks by "
        "exp(old - new): the total and the mix shrink with it.",
        "new = max(old, part.max()); keep = exp(old - new); weights = exp(part - new); then "
        "total = total * keep + weights.sum(), and the same for the mix. Divide at the end.",
    ))

EXERCISES = [MASK, ATTENTION, SHARE, CACHE, ONLINE]
