"""The exercise of chapter 09 on memory: how fast may a text be decoded?"""

from collections.abc import Callable
from functools import partial

from torch import Generator

from ..config import ModelConfig
from ..family.accounting import GIB, kv_bytes, kv_bytes_per_token, parameters, tokens_per_second
from .data import Exercise, Inputs, Misconception, Probe, count

Answer = Callable[..., float]


def _config(rng: Generator, *, tied: bool, n_kv_heads: int = 2, n_layers: int = 3) -> ModelConfig:
    """A model whose numbers all differ, so that none can stand for another."""
    n_heads = 3 * n_kv_heads
    return ModelConfig(dim=16 * n_heads, n_layers=n_layers, n_heads=n_heads, n_kv_heads=n_kv_heads,
                       hidden_dim=40 * count(rng, 5, 9), vocab_size=1000 + count(rng, 1, 500),
                       norm_eps=1e-5, rope_theta=1e4, max_seq_len=2**20, tied_embeddings=tied)


# -- 9.6: tokens per second ----------------------------------------------------------------------


def _package_speed(config: ModelConfig, gb_per_second: float, bits: int, context: int) -> float:
    return tokens_per_second(config, gb_per_second=gb_per_second, bits=bits, context=context)


def _read_weights(config: ModelConfig) -> int:
    """The weights that one token reads: all but the table it takes one row from."""
    p = parameters(config)
    return p.total - (0 if config.tied_embeddings else p.embedding)


def _cache(config: ModelConfig, context: int, bits: int) -> float:
    return kv_bytes(config, tokens=context, batch=1, bits=16)


def _speed(config: ModelConfig, gb_per_second: float, bits: int, context: int, *,
           weights: Callable[[ModelConfig], int] = _read_weights,
           cache: Callable[[ModelConfig, int, int], float] = _cache,
           gb: float = 1e9, bits_a_byte: int = 8) -> float:
    """A way to count what one token reads, right unless told otherwise."""
    return gb_per_second * gb / (weights(config) * bits / bits_a_byte
                                 + cache(config, context, bits))


def _speed_inputs(rng: Generator, *, bits: int, context: int, tied: bool) -> Inputs:
    return {"config": _config(rng, tied=tied), "gb_per_second": count(rng, 20, 400) / 1000,
            "bits": bits, "context": context + count(rng, 0, 9) if context else 0}


def _compute_bound(config: ModelConfig, gb_per_second: float, bits: int, context: int) -> float:
    return gb_per_second * 1e9 / (2 * parameters(config).total)


SPEED = Exercise(
    "9.6", "Tokens per second, from the data sheet", "Where does the time go", _package_speed,
    probes=(
        Probe("16 bits, no text yet", lambda rng: _speed_inputs(
            rng, bits=16, context=0, tied=False)),
        Probe("8 bits, a long text", lambda rng: _speed_inputs(
            rng, bits=8, context=900, tied=False)),
        Probe("4 bits, shared tables", lambda rng: _speed_inputs(
            rng, bits=4, context=30_000, tied=True)),
        Probe("16 bits, shared tables, a text", lambda rng: _speed_inputs(
            rng, bits=16, context=500, tied=True)),
    ),
    misconceptions=(
        Misconception("bits for bytes", partial(_speed, bits_a_byte=1),
                      "you counted bits where the memory's speed counts bytes. A byte is 8 bits."),
        Misconception("GiB for GB", partial(_speed, gb=GIB),
                      "you took 2**30 bytes for a GB. Data sheets of memory's speed mean 10**9."),
        Misconception("cache not read", partial(_speed, cache=lambda c, context, bits: 0),
                      "you forgot the cache. Each new token also reads the keys and values of all "
                      "tokens before it."),
        Misconception("cache in the weights' bits", partial(
            _speed, cache=lambda c, context, bits: kv_bytes(
                c, tokens=context, batch=1, bits=bits)),
                      "you stored the cache in as many bits as the weights. It has 16 here: "
                      "quantising the weights leaves it as it is."),
        Misconception("cache of all query heads", partial(
            _speed, cache=lambda c, context, bits: 4 * c.n_layers * c.dim * context),
                      "you gave the cache n_heads heads. It keeps n_kv_heads."),
        Misconception("keys only", partial(
            _speed, cache=lambda c, context, bits: kv_bytes_per_token(c, bits=16) * context / 2),
                      "you counted half of the cache. Keys and values are both read, and a number "
                      "has two bytes."),
        Misconception("one row counted", partial(
            _speed, weights=lambda c: _read_weights(c) + (0 if c.tied_embeddings else c.dim)),
                      "you counted the one row that is read of the embedding. That is how it is; "
                      "here it is to count as nothing."),
        Misconception("one layer's cache", partial(
            _speed, cache=lambda c, context, bits: 4 * c.n_kv_heads * c.head_dim * context),
                      "you counted the cache of one layer. Each has its own."),
        Misconception("cache of one token", partial(
            _speed, cache=lambda c, context, bits: kv_bytes_per_token(c, bits=16)),
                      "you counted one token of the cache. `context` of them are read."),
        Misconception("the new token read too", lambda config, gb_per_second, bits, context: _speed(
            config, gb_per_second, bits, context + 1),
                      "you counted context + 1 tokens of the cache. The new token's own key and "
                      "value are being made; `context` of them are read."),
        Misconception("giga forgotten", partial(_speed, gb=1),
                      "you divided gigabytes by bytes. A GB has 10**9."),
        Misconception("whole bytes a weight", lambda config, gb_per_second, bits, context: _speed(
            config, gb_per_second, bits // 8 * 8, context),
                      "you rounded the bits of a weight down to whole bytes. Four bits are half a "
                      "byte: `/`, not `//`."),
        Misconception("shared table counted twice", partial(
            _speed, weights=lambda c: parameters(c).non_embedding + parameters(c).embedding
            * (2 if c.tied_embeddings else 1)),
                      "you counted a shared table twice. It is read once, as the output."),
        Misconception("embedding read whole", partial(
            _speed, weights=lambda c: parameters(c).total),
                      "you counted the embedding. A token takes one row from it; only where the "
                      "output shares the table is all of it read."),
        Misconception("shared table left out", partial(
            _speed, weights=lambda c: parameters(c).total - parameters(c).embedding),
                      "you left the table out of a tied model too. There it is the output matrix, "
                      "and every token is compared with all its rows."),
        Misconception("both tables left out", partial(
            _speed, weights=lambda c: parameters(c).non_embedding),
                      "you left out the output matrix as well. It is multiplied for every token; "
                      "only the embedding is looked up."),
        Misconception("seconds for tokens", lambda config, gb_per_second, bits, context: 1 / _speed(
            config, gb_per_second, bits, context),
                      "you returned the seconds of one token. Tokens per second are the inverse."),
        Misconception("operations, not bytes", _compute_bound,
                      "you divided by operations, two a weight. At one token at a time the memory "
                      "is the limit: divide by bytes."),
    ),
    hints=(
        "Bytes per second, divided by the bytes that one token reads.",
        "It reads all weights once, bits / 8 bytes each, but of an embedding that is not shared "
        "only one row; and the whole cache.",
        "The cache: 2 * n_layers * n_kv_heads * head_dim numbers a token, of two bytes each.",
    ))

EXERCISES = [SPEED]
