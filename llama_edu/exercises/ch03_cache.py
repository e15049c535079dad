"""Exercise of chapter 03: the bytes of a cache."""

from collections.abc import Callable
from typing import Any

from torch import Generator

from ..config import ModelConfig
from ..family.accounting import kv_bytes
from .data import Exercise, Inputs, Misconception, Probe, count


def _cache_inputs(rng: Generator, *, n_kv_heads: int, g: int, bits: int, batch: int,
                  own: int | None = None) -> Inputs:
    n_heads, head_dim = n_kv_heads * g, 2 * count(rng, 5, 9)
    config = ModelConfig(
        dim=n_heads * head_dim, own_head_dim=own, n_layers=count(rng, 22, 29), n_heads=n_heads,
        n_kv_heads=n_kv_heads, hidden_dim=7, vocab_size=11, norm_eps=1e-5, rope_theta=1e4,
        max_seq_len=4096)
    return {"config": config, "tokens": count(rng, 100, 900), "batch": batch,
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
        Probe("bfloat16", lambda rng: _cache_inputs(rng, n_kv_heads=4, g=3, bits=16, batch=3)),
        Probe("four bits", lambda rng: _cache_inputs(rng, n_kv_heads=2, g=5, bits=4, batch=5)),
        Probe("MQA", lambda rng: _cache_inputs(rng, n_kv_heads=1, g=6, bits=32, batch=7)),
        Probe("heads with a width of their own",
              lambda rng: _cache_inputs(rng, n_kv_heads=3, g=2, bits=8, batch=6, own=22)),
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
        _cache_slip("queries too", lambda c, tokens, batch: c.n_layers * (
            2 * c.n_kv_heads + c.n_heads) * c.head_dim * tokens * batch,
                    "you counted the queries as well. A query is used once, when its token is new: "
                    "only keys and values are kept."),
        _cache_slip("dim for a head", lambda c, tokens, batch:
                    2 * c.n_layers * c.n_kv_heads * c.dim * tokens * batch,
                    "you gave every head dim features. One head has head_dim."),
        _cache_slip("query heads, keys only", lambda c, tokens, batch:
                    c.n_layers * c.n_heads * c.head_dim * tokens * batch,
                    "you counted the query heads, and one number where a key and a value are kept. "
                    "Only key and value heads are kept, n_kv_heads of each."),
        _cache_slip("the stream, once", lambda c, tokens, batch:
                    c.n_layers * c.dim * tokens * batch,
                    "you counted the whole stream, dim, and once. Of each token n_kv_heads keys "
                    "and as many values of head_dim features are kept."),
        _cache_slip("width squared", lambda c, tokens, batch:
                    2 * c.n_layers * c.n_kv_heads * c.head_dim**2 * tokens * batch,
                    "you multiplied by the width of a head twice. A key is one row of head_dim "
                    "numbers."),
        _cache_slip("both kinds of heads", lambda c, tokens, batch: 2 * c.n_layers * c.n_heads
                    * c.n_kv_heads * c.head_dim * tokens * batch,
                    "you multiplied by the query heads and by the key heads. The key heads alone "
                    "are kept, n_kv_heads of them."),
        _cache_slip("every pair of tokens", lambda c, tokens, batch:
                    2 * c.n_layers * c.n_kv_heads * c.head_dim * tokens**2 * batch,
                    "you counted every pair of tokens. Scores are made and forgotten: of each "
                    "token one key and one value are kept."),
        _cache_slip("doubled twice", lambda c, tokens, batch:
                    4 * c.n_layers * c.n_kv_heads * c.head_dim * tokens * batch,
                    "your bytes are twice too many. A 2 stands for key and value, once; and a byte "
                    "is 8 bits."),
        Misconception("group as well", lambda config, tokens, batch, bits:
                      kv_bytes(config, tokens=tokens, batch=batch, bits=bits)
                      // (config.n_heads // config.n_kv_heads),
                      "you divided by the size of a group as well. n_kv_heads is what sharing "
                      "leaves: n_heads divided by it.",
                      also=(lambda config, tokens, batch, bits:
                            kv_bytes(config, tokens=tokens, batch=batch, bits=8)
                            // (config.n_heads // config.n_kv_heads) * bits // 8,
                            lambda config, tokens, batch, bits:
                            kv_bytes(config, tokens=tokens, batch=batch, bits=bits)
                            * config.n_kv_heads // config.n_heads)),
        Misconception("16 bits, whatever is asked", lambda config, tokens, batch, bits:
                      kv_bytes(config, tokens=tokens, batch=batch, bits=16),
                      "you took 2 bytes a number. It is `bits` bits, 8 of them a byte.",
                      also=(lambda config, tokens, batch, bits:
                            kv_bytes(config, tokens=tokens, batch=batch, bits=32),)),
        Misconception("numbers, not bytes", lambda config, tokens, batch, bits:
                      kv_bytes(config, tokens=tokens, batch=batch, bits=8),
                      "you counted the numbers. Each takes `bits` bits, 8 of them a byte."),
        Misconception("as long as it can be", lambda config, tokens, batch, bits:
                      kv_bytes(config, tokens=config.max_seq_len, batch=batch, bits=bits),
                      "you took the config's max_seq_len. The cache is to hold `tokens` tokens."),
        Misconception("whole bytes a number", lambda config, tokens, batch, bits:
                      kv_bytes(config, tokens=tokens, batch=batch, bits=8) * (bits // 8),
                      "you rounded a number to whole bytes first: 4 // 8 is 0. Multiply by the "
                      "bits, and divide by 8 at the end."),
        Misconception("rounded up to bytes", lambda config, tokens, batch, bits:
                      kv_bytes(config, tokens=tokens, batch=batch, bits=8) * -(-bits // 8),
                      "you gave every number whole bytes. Two numbers of 4 bits share one byte: "
                      "multiply by the bits, and divide by 8 at the end."),
        Misconception("bits taken as bytes", lambda config, tokens, batch, bits:
                      bits * kv_bytes(config, tokens=tokens, batch=batch, bits=8),
                      "you counted bits, not bytes. A byte is 8 bits."),
    ),
    hints=(
        "Count the numbers first, and their bytes last.",
        "In one layer, one token leaves a key and a value, each n_kv_heads * head_dim numbers.",
        "2 * n_layers * n_kv_heads * head_dim * tokens * batch numbers, each bits / 8 bytes.",
    ))

EXERCISES = [CACHE]
