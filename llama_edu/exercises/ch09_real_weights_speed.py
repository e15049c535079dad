"""The exercises of chapter 09 on memory: how fast it can be read, and what fits into it."""

from collections.abc import Callable
from functools import partial

from torch import Generator

from ..config import ModelConfig
from ..family.accounting import GIB, kv_bytes, kv_bytes_per_token, parameters, tokens_per_second
from ..family.accounting import weight_bytes as bytes_of_weights
from .data import Exercise, Inputs, Misconception, Probe, count

Answer = Callable[..., float]


def _config(rng: Generator, *, tied: bool, n_kv_heads: int = 2, n_layers: int = 3) -> ModelConfig:
    """A model whose numbers all differ, so that none can stand for another."""
    n_heads = 3 * n_kv_heads
    return ModelConfig(dim=16 * n_heads, n_layers=n_layers, n_heads=n_heads, n_kv_heads=n_kv_heads,
                       hidden_dim=40 * count(rng, 5, 9), vocab_size=1000 + count(rng, 1, 500),
                       norm_eps=1e-5, rope_theta=1e4, max_seq_len=2**20, tied_embeddings=tied)


# -- 9.4: tokens per second ----------------------------------------------------------------------


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
    return {"config": _config(rng, tied=tied), "gb_per_second": 10.0 * count(rng, 20, 400),
            "bits": bits, "context": context + count(rng, 0, 9) if context else 0}


def _compute_bound(config: ModelConfig, gb_per_second: float, bits: int, context: int) -> float:
    return gb_per_second * 1e9 / (2 * parameters(config).total)


SPEED = Exercise(
    "9.4", "Tokens per second, from the data sheet", "Where does the time go", _package_speed,
    probes=(
        Probe("16 bits, no text yet", lambda rng: _speed_inputs(
            rng, bits=16, context=0, tied=False)),
        Probe("8 bits, a long text", lambda rng: _speed_inputs(
            rng, bits=8, context=900, tied=False)),
        Probe("4 bits, shared tables", lambda rng: _speed_inputs(
            rng, bits=4, context=300, tied=True)),
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
                      "you counted keys or values. Both are kept, and both are read."),
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

# -- 9.5: how many texts fit -----------------------------------------------------------------------


def _package_texts(config: ModelConfig, gib: float, bits: int, context: int) -> int:
    room = gib * GIB - bytes_of_weights(config, bits=bits)
    return max(0, int(room // kv_bytes(config, tokens=context, batch=1, bits=16)))


def _texts(config: ModelConfig, gib: float, bits: int, context: int, *,
           gib_bytes: float = GIB, weights: Callable[[ModelConfig, int], float] | None = None,
           one: Callable[[ModelConfig, int, int], float] | None = None,
           count_up: Callable[[float], int] = lambda n: max(0, int(n // 1))) -> int:
    """A way to share out a card's memory, right unless told otherwise."""
    held = bytes_of_weights(config, bits=bits) if weights is None else weights(config, bits)
    each = _cache(config, context, bits) if one is None else one(config, context, bits)
    return count_up((gib * gib_bytes - held) / each)


def _texts_inputs(rng: Generator, *, bits: int, tied: bool, texts: float) -> Inputs:
    """A card with room for so many texts beside the weights."""
    config, context = _config(rng, tied=tied, n_layers=5), 64 + count(rng, 0, 30)
    each = kv_bytes(config, tokens=context, batch=1, bits=16)
    gib = (bytes_of_weights(config, bits=bits) + texts * each) / GIB
    return {"config": config, "gib": gib, "bits": bits, "context": context}


TEXTS = Exercise(
    "9.5", "How many texts fit beside the weights?", "In the Llamas", _package_texts,
    probes=(
        Probe("16 bits", lambda rng: _texts_inputs(
            rng, bits=16, tied=False, texts=40.7 + count(rng, 0, 5))),
        Probe("4 bits, shared tables", lambda rng: _texts_inputs(
            rng, bits=4, tied=True, texts=25.3 + count(rng, 0, 5))),
        Probe("weights that do not fit", lambda rng: _texts_inputs(
            rng, bits=16, tied=False, texts=-3.5)),
    ),
    misconceptions=(
        Misconception("query heads", partial(_texts, one=lambda c, t, bits:
                                             4 * c.n_layers * c.dim * t),
                      "you gave the cache n_heads heads. It keeps n_kv_heads, and so many more "
                      "texts fit."),
        Misconception("keys only", partial(_texts, one=lambda c, t, bits:
                                           _cache(c, t, bits) / 2),
                      "you counted keys or values. Both are kept."),
        Misconception("one layer", partial(_texts, one=lambda c, t, bits:
                                           _cache(c, t, bits) / c.n_layers),
                      "you counted one layer. Each keeps its own keys and values."),
        Misconception("one token", partial(_texts, one=lambda c, t, bits:
                                           _cache(c, 1, bits)),
                      "you counted one token a text. A text has `context` of them."),
        Misconception("cache in the weights' bits", partial(
            _texts, one=lambda c, t, bits: kv_bytes(c, tokens=t, batch=1, bits=bits)),
                      "you stored the cache in as many bits as the weights. It has 16."),
        Misconception("GB for GiB", partial(_texts, gib_bytes=1e9),
                      "you took 10**9 bytes for a GiB. It has 2**30."),
        Misconception("weights forgotten", partial(_texts, weights=lambda c, bits: 0),
                      "you forgot the weights. They lie on the same card."),
        Misconception("weights in bits", partial(_texts, weights=lambda c, bits:
                                                 parameters(c).total * bits),
                      "you counted the weights in bits. A byte is 8 bits."),
        Misconception("embedding left out", partial(
            _texts, weights=lambda c, bits:
            (parameters(c).total - (0 if c.tied_embeddings else parameters(c).embedding))
            * bits / 8),
                      "you left the embedding out. It is hardly read, but it must lie there."),
        Misconception("shared table counted twice", partial(
            _texts, weights=lambda c, bits:
            (parameters(c).non_embedding + 2 * parameters(c).embedding) * bits / 8),
                      "you counted two tables where one is shared. It lies there once."),
        Misconception("rounded to the nearest", partial(
            _texts, count_up=lambda n: max(0, round(n))),
                      "you rounded to the nearest number. Half a text more does not fit."),
        Misconception("rounded up", partial(_texts, count_up=lambda n: max(0, -int(-n // 1))),
                      "you rounded up. The last text would not fit."),
        Misconception("less than nothing", partial(_texts, count_up=lambda n: int(n // 1)),
                      "you returned a negative number where the weights alone do not fit. No text "
                      "fits then: 0."),
    ),
    hints=(
        "What is left beside the weights, divided by what one text needs.",
        "One text: 2 * n_layers * n_kv_heads * head_dim * context numbers of two bytes.",
        "Whole texts only: //, and never less than 0.",
    ))

EXERCISES = [SPEED, TEXTS]
