"""The exercise of chapter 06 on counting, 6.1: how many parameters has a Llama?"""

from collections.abc import Callable

from torch import Generator

from ..config import ModelConfig, swiglu_width
from ..family.accounting import parameters
from .data import Exercise, Inputs, Misconception, Probe, count


def _config(rng: Generator, *, n_layers: int, tied: bool, n_kv_heads: int = 2) -> Inputs:
    n_heads = n_kv_heads * count(rng, 2, 4)
    dim = 8 * n_heads
    return {"config": ModelConfig(
        dim=dim, n_layers=n_layers + count(rng, 0, 3), n_heads=n_heads, n_kv_heads=n_kv_heads,
        hidden_dim=swiglu_width(dim, multiple_of=24) + 24, vocab_size=count(rng, 200, 900),
        norm_eps=1e-5, rope_theta=1e4, max_seq_len=64, tied_embeddings=tied)}


def _counted(*, tables: Callable[[ModelConfig], int] = lambda c: 1 if c.tied_embeddings else 2,
             kv_heads: Callable[[ModelConfig], int] = lambda c: c.n_kv_heads,
             matrices: int = 3, hidden: Callable[[ModelConfig], int] = lambda c: c.hidden_dim,
             norms: Callable[[ModelConfig], int] = lambda c: 2 * c.n_layers + 1,
             blocks: Callable[[ModelConfig], int] = lambda c: c.n_layers,
             ) -> Callable[[ModelConfig], int]:
    """A way to count, right unless told otherwise."""

    def answer(config: ModelConfig) -> int:
        c = config
        attention = 2 * c.dim * c.head_dim * (c.n_heads + kv_heads(c))
        return (tables(c) * c.vocab_size * c.dim + norms(c) * c.dim
                + blocks(c) * (attention + matrices * c.dim * hidden(c)))

    return answer


def _off(by: Callable[[ModelConfig], int]) -> Callable[[ModelConfig], int]:
    """The right count and so many more."""
    return lambda config: parameters(config).total + by(config)


def _matrix(c: ModelConfig, n_heads: int = 1) -> int:
    """A matrix between the stream and so many heads."""
    return c.dim * c.head_dim * n_heads


def _attention(c: ModelConfig) -> int:
    return 2 * _matrix(c, c.n_heads + c.n_kv_heads)


def _tables(c: ModelConfig) -> int:
    return (1 if c.tied_embeddings else 2) * c.vocab_size * c.dim


COUNT = Exercise(
    "6.1", "How many parameters has a Llama?", "By hand: count a Llama that fits on a napkin",
    lambda config: parameters(config).total,
    probes=(
        Probe("a tiny model", lambda rng: _config(rng, n_layers=1, tied=False)),
        Probe("shared embeddings", lambda rng: _config(rng, n_layers=2, tied=True)),
        Probe("a deep one", lambda rng: _config(rng, n_layers=40, tied=False, n_kv_heads=4)),
    ),
    misconceptions=(
        Misconception("shared table counted twice", _counted(tables=lambda c: 2),
                      "you counted the shared table twice. Where embeddings are tied, the output "
                      "uses the same numbers again."),
        Misconception("output forgotten", _counted(tables=lambda c: 1),
                      "you counted one table of vocabulary size. Unless they are tied there are "
                      "two: the embedding and the output."),
        Misconception("kv heads ignored", _counted(kv_heads=lambda c: c.n_heads),
                      "you gave keys and values as many heads as queries, or took dim / n_kv_heads "
                      "for the width of a head: both give this number. wk and wv have n_kv_heads "
                      "heads of head_dim features."),
        Misconception("two feed-forward matrices", _counted(matrices=2),
                      "you counted two matrices in the feed-forward layer. SwiGLU has three."),
        Misconception("hidden of 4 dim", _counted(hidden=lambda c: 4 * c.dim),
                      "you took 4 * dim for the width of the feed-forward layer. The config says "
                      "what it is: hidden_dim."),
        Misconception("hidden of 8/3 dim", _counted(hidden=lambda c: 8 * c.dim // 3),
                      "you took 8/3 of dim for the width of the feed-forward layer, without "
                      "rounding. The config says what it is: hidden_dim."),
        Misconception("norms forgotten", _counted(norms=lambda c: 0),
                      "you forgot the norms: two a block and one at the end, dim weights each."),
        Misconception("final norm forgotten", _counted(norms=lambda c: 2 * c.n_layers),
                      "you forgot the last norm, between the blocks and the output."),
        Misconception("norms of the blocks forgotten", _counted(norms=lambda c: 1),
                      "you forgot the two norms inside each block."),
        Misconception("no table where tied",
                      _counted(tables=lambda c: 0 if c.tied_embeddings else 2),
                      "where the tables are tied you counted none. There is one, used twice."),
        Misconception("one norm a block", _counted(norms=lambda c: c.n_layers + 1),
                      "you counted one norm a block. There are two."),
        Misconception("one block", _counted(blocks=lambda c: 1, norms=lambda c: 3),
                      "you counted one block. There are n_layers.",
                      also=(_counted(blocks=lambda c: 1),)),
        Misconception("wo forgotten", _off(lambda c: -c.n_layers * _matrix(c, c.n_heads)),
                      "a matrix from all query heads is missing in each block: attention has wq at "
                      "the beginning and wo at the end."),
        Misconception("one of wk and wv", _off(lambda c: -c.n_layers * _matrix(c, c.n_kv_heads)),
                      "you counted wk or wv, and not both. Each has n_kv_heads * head_dim rows."),
        Misconception("one key/value head",
                      _off(lambda c: -2 * c.n_layers * _matrix(c, c.n_kv_heads - 1)),
                      "you counted one head of keys and one of values. There are n_kv_heads of "
                      "each."),
        Misconception("attention in one block", _off(lambda c: (1 - c.n_layers) * _attention(c)),
                      "you counted attention once. Every block has its own."),
        Misconception("attention forgotten", _off(lambda c: -c.n_layers * _attention(c)),
                      "attention is missing: wq, wk, wv and wo in each block."),
        Misconception("feed-forward in one block",
                      _off(lambda c: 3 * (1 - c.n_layers) * c.dim * c.hidden_dim),
                      "you counted the feed-forward layer once. Every block has its own."),
        Misconception("wo as narrow as wk", _off(lambda c: -c.n_layers * _matrix(
                          c, c.n_heads - c.n_kv_heads)),
                      "you gave wq or wo the heads of keys and values. Both have n_heads."),
        Misconception("groups for heads", _counted(kv_heads=lambda c: c.n_heads // c.n_kv_heads),
                      "you gave keys and values n_heads / n_kv_heads heads: that is how many "
                      "queries share one. There are n_kv_heads."),
        Misconception("heads without the stream", _off(
                          lambda c: c.n_layers * (c.head_dim - c.dim) * 2 * c.head_dim
                          * (c.n_heads + c.n_kv_heads)),
                      "your matrices of attention read one head's features. They read the whole "
                      "stream: dim."),
        Misconception("norms in one block", _counted(norms=lambda c: 3),
                      "you counted the two norms of one block. Every block has two of its own."),
        Misconception("four feed-forward matrices", _counted(matrices=4),
                      "you counted four matrices in the feed-forward layer. SwiGLU has three."),
        Misconception("hidden to hidden", _off(lambda c: c.n_layers * c.hidden_dim * (
                          c.hidden_dim - c.dim)),
                      "one of your feed-forward matrices is hidden_dim x hidden_dim. All three "
                      "stand between dim and hidden_dim."),
        Misconception("one feed-forward matrix", _counted(matrices=1),
                      "you counted one matrix in the feed-forward layer. SwiGLU has three."),
        Misconception("tied the wrong way round",
                      _counted(tables=lambda c: 2 if c.tied_embeddings else 1),
                      "you exchanged the two cases. Tied means shared: one table; else two."),
        Misconception("no tables", _off(lambda c: -_tables(c)),
                      "the tables of vocabulary size are missing: the embedding, and the output "
                      "where it is not tied."),
        Misconception("a last norm in every block", _counted(norms=lambda c: 3 * c.n_layers),
                      "you counted the last norm once for each block. It stands once, behind all "
                      "of them."),
        Misconception("norms with two numbers", _counted(norms=lambda c: 4 * c.n_layers + 2),
                      "you gave each norm two numbers a feature. RMSNorm has a weight and no "
                      "bias."),
        Misconception("norms of one number",
                      _off(lambda c: (1 - c.dim) * (2 * c.n_layers + 1)),
                      "you counted one number for each norm. It has a weight for each feature: "
                      "dim."),
        Misconception("a block too many", _off(lambda c: _attention(c) + 2 * c.dim
                                               + 3 * c.dim * c.hidden_dim),
                      "you counted one block more than n_layers."),
        Misconception("biases", _off(lambda c: c.n_layers * (
                          c.head_dim * (c.n_heads + 2 * c.n_kv_heads) + 2 * c.dim
                          + 2 * c.hidden_dim)),
                      "you counted biases. A Llama has none.", also=(
                          _off(lambda c: c.n_layers * (
                              c.head_dim * (c.n_heads + 2 * c.n_kv_heads) + c.dim)),
                          _off(lambda c: c.n_layers * (c.dim + 2 * c.hidden_dim)))),
        Misconception("positions", _off(lambda c: c.max_seq_len * c.dim),
                      "you counted a table of positions. Rotations are computed, not learnt.",
                      also=(_off(lambda c: c.max_seq_len * c.head_dim),
                            _off(lambda c: c.max_seq_len * c.head_dim // 2),
                            _off(lambda c: c.head_dim // 2))),
    ),
    hints=(
        "Go through the shapes one by one: tables, wq wk wv wo, w1 w2 w3, norms.",
        "wq and wo are dim x (n_heads * head_dim); wk and wv are dim x (n_kv_heads * head_dim).",
        "Blocks count n_layers times; outside them stand the embedding, one norm and the output "
        "(unless tied).",
    ))

EXERCISES = [COUNT]
