"""Exercises of chapter 03: softmax in one pass over blocks, and the bytes of a cache."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor

from ..config import ModelConfig
from ..family.accounting import kv_bytes
from .data import Exercise, Inputs, Misconception, Probe, count, normal, whole

LOWEST = torch.finfo(torch.float32).min

# -- 3.5: online softmax ---------------------------------------------------------------------------


def _online(*, total: bool = True, mixed: bool = True, top: str = "running",
            start: float = LOWEST, shrink: Callable = lambda old, new: (old - new).exp(),
            divide_each: bool = False, short: str = "kept") -> Callable:
    """The loop over blocks with one part done wrongly: which sums are rescaled, to which top."""
    tops = {"running": lambda old, scores: torch.maximum(old, scores.max()),
            "newest": lambda old, scores: scores.max(),
            "first": lambda old, scores: scores.max() if old == start else old,
            "none": lambda old, scores: 0 * scores.nan_to_num(0, 0, 0)[0]}

    def mix_online(scores: Tensor, values: Tensor, block: int) -> Tensor:
        largest, sum_, mix = torch.tensor(start), torch.zeros(()), torch.zeros_like(values[0])
        for part, rows in zip(scores.split(block), values.split(block), strict=True):
            dropped = {"kept": False, "if alone": len(part) < len(scores), "never": True}[short]
            if len(part) < block and dropped:
                continue
            new = tops[top](largest, part)
            keep = shrink(largest, new) if top in ("running", "newest") else 1.0
            weights = (part - new).exp()
            sum_ = sum_ * (keep if total else 1.0) + weights.sum()
            mix = mix * (keep if mixed else 1.0) + weights @ rows
            mix = mix / sum_ if divide_each else mix
            largest = new
        return mix if divide_each else mix / sum_

    return mix_online


def _old_top(scores: Tensor, values: Tensor, block: int) -> Tensor:
    """The sums are rescaled, the new weights still count from the old maximum."""
    largest, sum_, mix = scores[:block].max(), torch.zeros(()), torch.zeros_like(values[0])
    for part, rows in zip(scores.split(block), values.split(block), strict=True):
        new = torch.maximum(largest, part.max())
        keep, weights = (largest - new).exp(), (part - largest).exp()
        sum_, mix = sum_ * keep + weights.sum(), mix * keep + weights @ rows
        largest = new
    return mix / sum_


def _each_block_alone(scores: Tensor, values: Tensor, block: int) -> Tensor:
    parts = zip(scores.split(block), values.split(block), strict=True)
    return torch.stack([part.softmax(0) @ rows for part, rows in parts]).mean(0)


def _each_block_by_size(scores: Tensor, values: Tensor, block: int) -> Tensor:
    parts = zip(scores.split(block), values.split(block), strict=True)
    return sum(part.softmax(0) @ rows * len(rows) for part, rows in parts) / len(scores)


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
        Probe("blocks of one, equal scores", lambda rng: _rows(rng, torch.full((4,), 2.0), 1, 3)),
        Probe("a block that is hidden", lambda rng: _rows(
            rng, normal(rng, 6) + torch.tensor([0.0, 0, -torch.inf, -torch.inf, 0, 0]), 2, 2)),
        Probe("a first block that is hidden", lambda rng: _rows(
            rng, normal(rng, 6) + torch.tensor([-torch.inf, -torch.inf, 0, 0, 0, 0]), 2, 2)),
    ),
    misconceptions=(
        Misconception("nothing rescaled", _online(total=False, mixed=False),
                      "when a larger score arrives, what you have summed so far still counts from "
                      "the old maximum. Multiply it by exp(old - new).",
                      also=(_online(total=False, mixed=False, start=-math.inf),)),
        Misconception("total not rescaled", _online(total=False),
                      "you rescaled the mixed values but not the total they are divided by. Both "
                      "count from the maximum."),
        Misconception("mixed not rescaled", _online(mixed=False),
                      "you rescaled the total but not the mixed values. Both count from the "
                      "maximum."),
        Misconception("maximum of the block", _online(total=False, mixed=False, top="newest"),
                      "each block counts from its own maximum, so blocks do not compare. Keep one "
                      "running maximum for all of them."),
        Misconception("minus infinity less minus infinity", _online(start=-math.inf),
                      "where the first block is hidden you get nan: -inf less -inf, or 0 by 0. "
                      "Let the running maximum begin at the lowest finite number, and "
                      "divide only at the end."),
        Misconception("maximum begins at zero", _online(start=0.0),
                      "your maximum begins at 0. Where all scores are far below, every exponential "
                      "underflows and 0 / 0 is left."),
        Misconception("shrunk the wrong way", _online(
            shrink=lambda old, new: (new - old).exp() if old > LOWEST else torch.zeros(())),
                      "you multiplied the old sums by exp(new - old). When the maximum rises they "
                      "must shrink: exp(old - new)."),
        Misconception("infinite before the first block", _online(
            start=-math.inf, shrink=lambda old, new: (new - old).exp()),
                      "you got nan on every input: where old begins at -inf, or very low, the "
                      "first block's factor is infinite, and infinite times an empty sum is nan. "
                      "Which of exp(new - old) and exp(old - new) shrinks what was summed?"),
        Misconception("shrunk by the ratio", _online(shrink=lambda old, new: old / new),
                      "you multiplied the old sums by old / new. They are sums of exponentials: "
                      "a difference of maxima is a factor exp(old - new)."),
        Misconception("new weights from the old maximum", _old_top,
                      "you rescaled the sums to the new maximum, and the new block's exponentials "
                      "still count from the old one."),
        Misconception("divided at each block", _online(divide_each=True),
                      "you divided by the total after each block, and went on adding to the "
                      "quotient. Keep sums as sums, and divide once, at the end."),
        Misconception("never divided", lambda scores, values, block:
                      (scores - scores.max()).exp() @ values,
                      "you never divided by the total: the weights do not add up to 1."),
        Misconception("short block dropped", _online(short="if alone"),
                      "you left out the last block where it is shorter than the others. Every "
                      "score counts.",
                      also=(_online(short="never"), _online(short="never", start=-math.inf))),
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
                      "must count for more.", also=(_each_block_by_size,)),
        Misconception("blocks added", lambda scores, values, block: sum(
            part.softmax(0) @ rows for part, rows
            in zip(scores.split(block), values.split(block), strict=True)),
                      "you took the softmax of each block and added. Each of them adds up to 1 "
                      "by itself; together they are to add up to 1."),
    ),
    hints=(
        "Two blocks of one score each, 1 and then 3. After the first you hold a total of "
        "exp(1 - 1). What would you hold, had you known that the largest is 3?",
        "When the largest score rises from old to new, every earlier exponential shrinks by "
        "exp(old - new): the total and the mix shrink with it.",
        "old begins at torch.finfo(scores.dtype).min. new = max(old, part.max()); keep = "
        "exp(old - new); total = total * keep + exp(part - new).sum(), and the same for the mix. "
        "Divide at the end.",
    ))

# -- 3.6: the bytes of a cache -------------------------------------------------------------------


def _cache_inputs(rng: Generator, *, n_kv_heads: int, g: int, bits: int,
                  own: int | None = None) -> Inputs:
    n_heads, head_dim = n_kv_heads * g, 2 * count(rng, 5, 9)
    config = ModelConfig(
        dim=n_heads * head_dim, own_head_dim=own, n_layers=count(rng, 22, 29), n_heads=n_heads,
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
    "3.6", "The bytes of a KV cache", "In the Llamas",
    lambda config, tokens, batch, bits: kv_bytes(config, tokens=tokens, batch=batch, bits=bits),
    probes=(
        Probe("bfloat16", lambda rng: _cache_inputs(rng, n_kv_heads=4, g=3, bits=16)),
        Probe("four bits", lambda rng: _cache_inputs(rng, n_kv_heads=2, g=5, bits=4)),
        Probe("MQA", lambda rng: _cache_inputs(rng, n_kv_heads=1, g=6, bits=32)),
        Probe("heads with a width of their own",
              lambda rng: _cache_inputs(rng, n_kv_heads=3, g=2, bits=8, own=22)),
    ),
    misconceptions=(
        _cache_slip("heads for layers", lambda c, tokens, batch:
                    2 * c.n_heads * c.n_kv_heads * c.head_dim * tokens * batch,
                    "you counted heads where layers belong. Every layer keeps its own cache."),
        _cache_slip("heads and no width", lambda c, tokens, batch: 2 * c.n_heads * tokens * batch,
                    "that is the formula with heads for layers and no width: it leaves out the "
                    "layers and the features of a head."),
        _cache_slip("query heads", lambda c, tokens, batch:
                    2 * c.n_layers * c.n_heads * c.head_dim * tokens * batch,
                    "you counted the query heads. Queries are never kept: only key and value "
                    "heads are, n_kv_heads of them."),
        _cache_slip("keys only", lambda c, tokens, batch:
                    c.n_layers * c.n_kv_heads * c.head_dim * tokens * batch,
                    "you counted keys or values. Both are kept: twice as much."),
        _cache_slip("one layer", lambda c, tokens, batch:
                    2 * c.n_kv_heads * c.head_dim * tokens * batch,
                    "you counted one layer. Each of the n_layers keeps its own keys and values."),
        _cache_slip("the stream", lambda c, tokens, batch:
                    2 * c.n_layers * c.dim * tokens * batch,
                    "you counted the whole stream, dim. Of each token only n_kv_heads keys and "
                    "values of head_dim features are kept."),
        _cache_slip("dim over heads", lambda c, tokens, batch:
                    2 * c.n_layers * c.n_kv_heads * (c.dim // c.n_heads) * tokens * batch,
                    "you took dim / n_heads as the width of a head. A config may give heads a "
                    "width of their own: config.head_dim knows."),
        _cache_slip("groups", lambda c, tokens, batch:
                    2 * c.n_layers * (c.n_heads // c.n_kv_heads) * c.head_dim * tokens * batch,
                    "you counted n_heads / n_kv_heads. That is how many queries share a key head, "
                    "not how many key heads are kept."),
        _cache_slip("no width", lambda c, tokens, batch:
                    2 * c.n_layers * c.n_kv_heads * tokens * batch,
                    "you counted heads as one number each. A key has head_dim features."),
        _cache_slip("one sequence", lambda c, tokens, batch:
                    2 * c.n_layers * c.n_kv_heads * c.head_dim * tokens,
                    "you counted one sequence. Each of the batch keeps its own cache."),
        _cache_slip("one token", lambda c, tokens, batch:
                    2 * c.n_layers * c.n_kv_heads * c.head_dim * batch,
                    "you counted one token. Each of them leaves a key and a value."),
        Misconception("whole bytes a number", lambda config, tokens, batch, bits:
                      kv_bytes(config, tokens=tokens, batch=batch, bits=8) * (bits // 8),
                      "you rounded a number to whole bytes first: 4 // 8 is 0. Multiply by the "
                      "bits, and divide by 8 at the end."),
        Misconception("bits taken as bytes", lambda config, tokens, batch, bits:
                      bits * kv_bytes(config, tokens=tokens, batch=batch, bits=8),
                      "you counted bits, not bytes. A byte is 8 bits."),
    ),
    hints=(
        "Count the numbers first, and their bytes last.",
        "In one layer, one token leaves a key and a value, each n_kv_heads * head_dim numbers.",
        "2 * n_layers * n_kv_heads * head_dim * tokens * batch numbers, each bits / 8 bytes.",
    ))

EXERCISES = [ONLINE, CACHE]
