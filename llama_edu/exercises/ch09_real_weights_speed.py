"""The exercise of chapter 09 on memory: how fast may texts be decoded?"""

from collections.abc import Callable
from functools import partial

from torch import Generator

from ..config import ModelConfig
from ..family.accounting import GIB, kv_bytes, kv_bytes_per_token, parameters, tokens_per_second
from .data import Exercise, Inputs, Misconception, Probe, count

Contexts = list[int]


def _config(rng: Generator, *, tied: bool, n_kv_heads: int = 2, n_layers: int = 3) -> ModelConfig:
    """A model whose numbers all differ, so that none can stand for another."""
    n_heads = 3 * n_kv_heads
    return ModelConfig(dim=16 * n_heads, n_layers=n_layers, n_heads=n_heads, n_kv_heads=n_kv_heads,
                       hidden_dim=40 * count(rng, 5, 9), vocab_size=1000 + count(rng, 1, 500),
                       norm_eps=1e-5, rope_theta=1e4, max_seq_len=2**20, tied_embeddings=tied)


# -- 9.6: tokens per second ----------------------------------------------------------------------


def _package_speed(config: ModelConfig, gb_per_second: float, bits: int, contexts: Contexts
                   ) -> float:
    """The weights are read once for all texts, so a step is that of one text with all caches."""
    steps = tokens_per_second(config, gb_per_second=gb_per_second, bits=bits,
                              context=sum(contexts))
    return len(contexts) * steps


def _read_weights(config: ModelConfig) -> int:
    """The weights that a step reads: all but the table from which it takes single rows."""
    p = parameters(config)
    return p.total - (0 if config.tied_embeddings else p.embedding)


def _cache(config: ModelConfig, contexts: Contexts, bits: int) -> float:
    return kv_bytes(config, tokens=sum(contexts), batch=1, bits=16)


def _per_token(numbers: Callable[[ModelConfig], float]) -> Callable:
    """A cache of so many bytes a token."""
    return lambda config, contexts, bits: numbers(config) * sum(contexts)


def _so_long(tokens: Callable[[Contexts], float]) -> Callable:
    """A cache of so many tokens in all."""
    return lambda config, contexts, bits: kv_bytes_per_token(config, bits=16) * tokens(contexts)


def _speed(config: ModelConfig, gb_per_second: float, bits: int, contexts: Contexts, *,
           weights: Callable[[ModelConfig], int] = _read_weights,
           cache: Callable[[ModelConfig, Contexts, int], float] = _cache,
           gb: float = 1e9, bits_a_byte: int = 8, made: Callable[[Contexts], float] = len,
           readings: Callable[[Contexts], float] = lambda contexts: 1) -> float:
    """A way to count what a step makes and reads, right unless told otherwise."""
    read = (readings(contexts) * weights(config) * bits / bits_a_byte
            + cache(config, contexts, bits))
    return made(contexts) * gb_per_second * gb / read


def _speed_inputs(rng: Generator, *, bits: int, contexts: Contexts, tied: bool) -> Inputs:
    return {"config": _config(rng, tied=tied), "gb_per_second": count(rng, 20, 400) / 1000,
            "bits": bits, "contexts": [n + count(rng, 0, 9) if n else 0 for n in contexts]}


def _alone(config: ModelConfig, gb_per_second: float, bits: int, contexts: Contexts) -> list[float]:
    """The speed of each text if it had the memory for itself."""
    return [_speed(config, gb_per_second, bits, [context]) for context in contexts]


def _slip(name: str, why: str, *also: Callable, **how: object) -> Misconception:
    return Misconception(name, partial(_speed, **how), why, also)


SPEED = Exercise(
    "9.6", "Tokens per second, from the data sheet", "Where does the time go", _package_speed,
    probes=(
        Probe("16 bits, one text, nothing yet", lambda rng: _speed_inputs(
            rng, bits=16, contexts=[0], tied=False)),
        Probe("8 bits, one long text", lambda rng: _speed_inputs(
            rng, bits=8, contexts=[900], tied=False)),
        Probe("4 bits, shared tables", lambda rng: _speed_inputs(
            rng, bits=4, contexts=[30_000], tied=True)),
        Probe("three texts", lambda rng: _speed_inputs(
            rng, bits=16, contexts=[300, 2000, 700], tied=False)),
        Probe("16 bits, shared tables, two texts", lambda rng: _speed_inputs(
            rng, bits=16, contexts=[500, 90], tied=True)),
    ),
    misconceptions=(
        _slip("bits for bytes", "you counted bits where the memory's speed counts bytes. A byte is "
              "8 bits.", bits_a_byte=1),
        _slip("cache in bits", "you counted the cache in bits. 16 bits are 2 bytes a number.",
              cache=_per_token(lambda c: 8 * kv_bytes_per_token(c, bits=16))),
        _slip("all in bits", "you counted bits, of weights and cache, where the memory's speed "
              "counts bytes. A byte is 8 bits.", bits_a_byte=1,
              cache=_per_token(lambda c: 8 * kv_bytes_per_token(c, bits=16))),
        _slip("GiB for GB", "you took 2**30 bytes for a GB. Data sheets of memory's speed mean "
              "10**9.", gb=GIB),
        _slip("MB for GB", "you took a million bytes for a GB. It is 10**9.", gb=1e6),
        _slip("two for each weight", "you counted every weight twice. Two operations are made with "
              "it; it is read once.", weights=lambda c: 2 * _read_weights(c)),
        _slip("output of its own left out", "you left out the output where it is a matrix of its "
              "own. It is multiplied for every token; only the embedding is looked up.",
              weights=lambda c: parameters(c).non_embedding
              + (parameters(c).embedding if c.tied_embeddings else 0)),
        _slip("giga forgotten", "you divided gigabytes by bytes. A GB has 10**9.", gb=1),
        _slip("cache not read", "you forgot the cache. Each new token also reads the keys and "
              "values of all tokens before it.", cache=lambda c, contexts, bits: 0),
        _slip("cache in the weights' bits", "you stored the cache in as many bits as the weights. "
              "It has 16 here: quantising the weights leaves it as it is.",
              cache=lambda c, contexts, bits: kv_bytes(
                  c, tokens=sum(contexts), batch=1, bits=bits)),
        _slip("cache of all query heads", "you gave the cache n_heads heads. It keeps n_kv_heads.",
              cache=_per_token(lambda c: 4 * c.n_layers * c.dim)),
        _slip("keys only", "you counted half of the cache. Keys and values are both read, and a "
              "number has two bytes.",
              cache=_per_token(lambda c: kv_bytes_per_token(c, bits=16) / 2)),
        _slip("cache counted twice", "you counted the cache twice. `kv_bytes` has keys and values "
              "in it, and two bytes a number.",
              cache=_per_token(lambda c: kv_bytes_per_token(c, bits=16) * 2)),
        _slip("one layer's cache", "you counted the cache of one layer. Each has its own.",
              cache=_per_token(lambda c: 4 * c.n_kv_heads * c.head_dim)),
        _slip("a head's width forgotten", "you counted heads of the cache as if each had one "
              "number. A head is head_dim wide.",
              cache=_per_token(lambda c: 4 * c.n_layers * c.n_kv_heads)),
        _slip("cache of one token", "you counted one token of each cache. All of its tokens are "
              "read.", partial(_speed, cache=_so_long(lambda contexts: 1)),
              cache=_so_long(len)),
        _slip("the new token read too", "you counted one token more of each cache. The new "
              "token's own key and value are being made; those before it are read.",
              partial(_speed, cache=_so_long(lambda contexts: sum(contexts) + 1)),
              cache=_so_long(lambda contexts: sum(contexts) + len(contexts))),
        _slip("all as long as the longest", "you read as much for each text as for the longest. "
              "Each has a cache of its own length: add them up.",
              cache=_so_long(lambda contexts: len(contexts) * max(contexts))),
        _slip("one text's cache", "you read one cache. Each text has its own, and all of them are "
              "read: add up their lengths.",
              partial(_speed, cache=_so_long(lambda contexts: contexts[0])),
              partial(_speed, cache=_so_long(lambda contexts: contexts[-1])),
              partial(_speed, cache=_so_long(max)),
              cache=_so_long(lambda contexts: sum(contexts) / len(contexts))),
        _slip("caches times texts", "you multiplied the caches by the number of texts. Their "
              "lengths are added already.",
              cache=_so_long(lambda contexts: len(contexts) * sum(contexts))),
        _slip("weights read for each text", "you count as if the weights were read again for each "
              "text. One reading serves all: that is why they are decoded together.",
              partial(_speed, readings=len, made=lambda contexts: 1), readings=len),
        _slip("one text's tokens", "you counted one token a step. Each step makes one token of "
              "every text, len(contexts) in all.", made=lambda contexts: 1),
        Misconception("speeds added", lambda *values: sum(_alone(*values)),
                      "you added up what each text would reach alone. The memory is shared: a step "
                      "reads the weights once and all the caches."),
        Misconception("mean of speeds", lambda *values: sum(_alone(*values)) / len(values[-1]),
                      "you took the mean of the speeds that the texts would reach alone. A step "
                      "reads the weights once and all the caches, and makes a token of each."),
        Misconception("the slowest text's speed", lambda *values: min(_alone(*values)),
                      "you took the speed of the slowest text alone. All of them are decoded "
                      "together, and their tokens count together.",
                      also=(lambda *values: max(_alone(*values)),)),
        Misconception("rounded", lambda *values: float(int(_speed(*values))),
                      "you rounded. A speed need not be a whole number: keep the fraction.",
                      also=(lambda *values: float(round(_speed(*values))),)),
        _slip("one layer's weights", "you counted the weights of one layer. All of them are read "
              "for each token.", weights=lambda c: parameters(c).embedding
              + parameters(c).non_embedding // c.n_layers),
        _slip("attention forgotten", "you left out the weights of attention: wq, wk, wv and wo are "
              "read as well.", weights=lambda c: _read_weights(c) - parameters(c).attention),
        _slip("feed-forward forgotten", "you left out the feed-forward weights: w1, w2 and w3 are "
              "most of what is read.",
              weights=lambda c: _read_weights(c) - parameters(c).feed_forward),
        _slip("norms forgotten", "you left out the norms. They are small, and read like every "
              "weight.", weights=lambda c: _read_weights(c) - parameters(c).norms),
        _slip("tokens of the contexts counted", "you counted the tokens that stand in the caches. "
              "They are read; a step makes one new token of each text.", made=sum),
        _slip("one row counted", "you counted the rows that are read of the embedding. That is how "
              "it is; here they are to count as nothing.",
              weights=lambda c: _read_weights(c) + (0 if c.tied_embeddings else c.dim)),
        Misconception("whole bytes a weight", lambda config, gb_per_second, bits, contexts: _speed(
            config, gb_per_second, bits // 8 * 8, contexts),
                      "you rounded the bits of a weight down to whole bytes. Four bits are half a "
                      "byte: `/`, not `//`."),
        _slip("shared table counted twice", "you counted a shared table twice. It is read once, as "
              "the output.", weights=lambda c: parameters(c).non_embedding
              + parameters(c).embedding * (2 if c.tied_embeddings else 1)),
        _slip("embedding read whole", "you counted the embedding. A text takes one row from it; "
              "only where the output shares the table is all of it read.",
              weights=lambda c: parameters(c).total),
        _slip("two tables always", "you counted two tables for every model. The embedding is not "
              "read whole, and a shared table is one.",
              weights=lambda c: parameters(c).non_embedding + 2 * parameters(c).embedding),
        _slip("tied the wrong way round", "you took the embedding off where it is shared, and left "
              "it where it is not. A shared table is the output, and is read whole.",
              weights=lambda c: parameters(c).total
              - (parameters(c).embedding if c.tied_embeddings else 0)),
        _slip("shared table left out", "you left the table out of a tied model too. There it is "
              "the output matrix, and every token is compared with all its rows.",
              weights=lambda c: parameters(c).total - parameters(c).embedding),
        _slip("both tables left out", "you left out the output matrix as well. It is multiplied "
              "for every token; only the embedding is looked up.",
              weights=lambda c: parameters(c).non_embedding),
        Misconception("seconds for tokens", lambda *values: 1 / _speed(*values),
                      "you returned the seconds of one token. Tokens per second are the inverse.",
                      also=(lambda *values: len(values[-1]) / _speed(*values),
                            lambda *values: 1000 / _speed(*values))),
        Misconception("operations, not bytes", lambda config, gb_per_second, bits, contexts:
                      gb_per_second * 1e9 / (2 * parameters(config).total),
                      "you divided by operations, two a weight. At a few tokens at a time the "
                      "memory is the limit: divide by bytes.",
                      also=(lambda config, gb_per_second, bits, contexts: len(contexts)
                            * gb_per_second * 1e9 / (2 * parameters(config).total),)),
    ),
    hints=(
        "A step makes one token of each text. Bytes per second, divided by the bytes that a step "
        "reads, are steps per second.",
        "A step reads the weights once, bits / 8 bytes each, but of an embedding that is not "
        "shared only single rows; and every cache.",
        "kv_bytes(config, tokens=sum(contexts), batch=1, bits=16) are all caches. The weights: "
        "p.non_embedding and one table, the output's.",
    ))

EXERCISES = [SPEED]
