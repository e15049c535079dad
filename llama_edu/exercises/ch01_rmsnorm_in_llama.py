"""Exercises 1.3 and 1.4: the norms inside a whole Llama."""

from types import SimpleNamespace

import torch
from torch import Generator, Tensor, nn

from ..config import ModelConfig
from ..family.accounting import parameters
from ..layers import RMSNorm
from ..model import Block, Pass
from .ch01_rmsnorm import far
from .data import Exercise, Inputs, Misconception, Probe, between, count, normal, whole

# -- 1.3: where the norm stands -----------------------------------------------------------------


def _package_block(x: Tensor, norm: nn.Module, sublayer: nn.Module) -> Tensor:
    """The first half of the package's Block; its second half is made to add nothing."""
    parts = SimpleNamespace(attention_norm=norm, attention=lambda h, *_: sublayer(h),
                            ffn_norm=norm, feed_forward=torch.zeros_like)
    return Block.forward(parts, x, Pass(rope=None, mask=None, cache=None))


class _Mix(nn.Module):
    """Stands for attention or the feed-forward layer: a matrix, then tanh."""

    def __init__(self, mix: Tensor):
        super().__init__()
        self.mix = nn.Parameter(mix)

    def forward(self, h: Tensor) -> Tensor:
        return torch.tanh(h @ self.mix)


def _block_inputs(rng: Generator, x: Tensor, scale: float = 1.0) -> Inputs:
    c = x.shape[-1]
    norm = RMSNorm(c, eps=between(rng, 1, 3))
    norm.weight.data = normal(rng, c, mean=2.0)
    return {"x": x, "norm": norm, "sublayer": _Mix(scale * normal(rng, c, c))}


PRE_NORM = Exercise(
    "1.3", "Where the norm stands", "Your turn: where does the norm stand?", _package_block,
    probes=(
        Probe("float32", lambda rng: _block_inputs(rng, far(rng, 3, 5))),
        Probe("a batch", lambda rng: _block_inputs(rng, far(rng, 2, 3, 4))),
        Probe("one vector", lambda rng: _block_inputs(rng, whole(rng, 2))),
        Probe("a sublayer that returns zeros",
              lambda rng: _block_inputs(rng, far(rng, 2, 3), scale=0.0)),
    ),
    misconceptions=(
        Misconception("post-norm", lambda x, norm, sublayer: norm(x + sublayer(x)),
                      "you normalised the sum: that is post-norm, as in the first transformer. A "
                      "Llama normalises what the sublayer reads, and never the stream itself."),
        Misconception("post-norm on top", lambda x, norm, sublayer: norm(x + sublayer(norm(x))),
                      "you normalised the sum as well. The stream itself is never normalised."),
        Misconception("residual from the norm",
                      lambda x, norm, sublayer: norm(x) + sublayer(norm(x)),
                      "you added to norm(x). Add to x itself, or the stream is normalised at "
                      "every block."),
        Misconception("no residual", lambda x, norm, sublayer: sublayer(norm(x)),
                      "you left out the residual: add x to what the sublayer returns."),
        Misconception("norm after the sublayer",
                      lambda x, norm, sublayer: x + norm(sublayer(x)),
                      "you normalised what the sublayer returns. Normalise what it reads."),
        Misconception("norm on both sides",
                      lambda x, norm, sublayer: x + norm(sublayer(norm(x))),
                      "you normalised twice, before and after the sublayer, as Gemma 2 does. A "
                      "Llama normalises before only."),
        Misconception("norm on the stream only",
                      lambda x, norm, sublayer: norm(x) + sublayer(x),
                      "you normalised the stream, and not what the sublayer reads. It is the "
                      "other way round."),
        Misconception("no norm", lambda x, norm, sublayer: x + sublayer(x),
                      "you never normalised: the sublayer reads norm(x)."),
        Misconception("no residual, norm behind", lambda x, norm, sublayer: norm(sublayer(x)),
                      "you left out the residual, and normalised what the sublayer returns. Add x, "
                      "and normalise what it reads.",
                      also=(lambda x, norm, sublayer: norm(sublayer(norm(x))),)),
        Misconception("no residual, no norm", lambda x, norm, sublayer: sublayer(x),
                      "you handed x to the sublayer and did no more: norm and residual are "
                      "missing."),
        Misconception("residual inside", lambda x, norm, sublayer: sublayer(x + norm(x)),
                      "you added before the sublayer. The residual goes around it: its sum comes "
                      "after.", also=(lambda x, norm, sublayer: sublayer(norm(x) + x) + x,
                                      lambda x, norm, sublayer: sublayer(norm(x + x)))),
        Misconception("no sum with x", lambda x, norm, sublayer: x - sublayer(norm(x)),
                      "you did something else with the two parts than to add them: it is x plus "
                      "what the sublayer returns.",
                      also=(lambda x, norm, sublayer: sublayer(norm(x)) - x,
                            lambda x, norm, sublayer: x * sublayer(norm(x)),
                            lambda x, norm, sublayer: torch.maximum(x, sublayer(norm(x))))),
        Misconception("averaged", lambda x, norm, sublayer: (x + sublayer(norm(x))) / 2,
                      "you gave the two parts other shares than one each. Requirement 1: with "
                      "zeros from the sublayer x goes on as it came. Requirement 3: what the "
                      "sublayer returns arrives at its own size.",
                      also=(lambda x, norm, sublayer: (x + sublayer(norm(x))) / 2**0.5,
                            *(lambda x, norm, sublayer, k=k: x + k * sublayer(norm(x))
                              for k in (0.5, 2, 2**-0.5)),
                            lambda x, norm, sublayer: 2 * x + sublayer(norm(x)))),
        Misconception("the norm added too",
                      lambda x, norm, sublayer: x + norm(x) + sublayer(norm(x)),
                      "you added norm(x) to the stream as well. The sum has two parts: x, and what "
                      "the sublayer returns."),
        Misconception("multiplied by the norm",
                      lambda x, norm, sublayer: x + norm(x) * sublayer(norm(x)),
                      "you multiplied by norm(x). The sublayer reads it, and what it returns is "
                      "added as it is.",
                      also=(lambda x, norm, sublayer: x + norm(x) * sublayer(x),
                            lambda x, norm, sublayer: x * sublayer(norm(x)) + x)),
        Misconception("all parts added", lambda x, norm, sublayer: x + sublayer(x) + norm(x),
                      "you added norm(x) to the stream, and the sublayer reads x. It is the "
                      "other way round: x is added, and norm(x) is read.",
                      also=(lambda x, norm, sublayer: norm(x) + norm(sublayer(x)),)),
        Misconception("norm around all, and x", lambda x, norm, sublayer:
                      x + norm(x + sublayer(norm(x))),
                      "you normalised a sum. What is normalised is only what the sublayer reads.",
                      also=(lambda x, norm, sublayer: x + norm(x + sublayer(x)),)),
        Misconception("done twice", lambda x, norm, sublayer: x + sublayer(norm(norm(x))),
                      "you called the norm or the sublayer twice. One step calls each once.",
                      also=(lambda x, norm, sublayer: x + sublayer(sublayer(norm(x))),
                            lambda x, norm, sublayer: x + sublayer(norm(x) + sublayer(norm(x))),
                            lambda x, norm, sublayer: x + sublayer(norm(x + sublayer(norm(x)))),
                            lambda x, norm, sublayer: x + sublayer(norm(x))
                            + sublayer(norm(x + sublayer(norm(x)))))),
        Misconception("norm and no sublayer", lambda x, norm, sublayer: x + norm(x),
                      "you never called the sublayer: it reads norm(x), and what it returns is "
                      "added to x.", also=(lambda x, norm, sublayer: norm(x),)),
        Misconception("norm behind, sum behind it",
                      lambda x, norm, sublayer: sublayer(x) + norm(sublayer(x)),
                      "you added what the sublayer returns to itself, normalised. Add x, and "
                      "normalise what the sublayer reads."),
    ),
    hints=(
        "Two things meet in a sum: the stream as it came in, and what the sublayer adds.",
        "The norm stands before the sublayer, and nowhere else.",
        "One line: x plus the sublayer of the norm of x.",
    ), gradients=("x",))

# -- 1.4: the weights of the norms --------------------------------------------------------------


def _config(rng: Generator, *, n_layers: int, head_dim: int, own: int | None = None) -> Inputs:
    n_heads = 2 * count(rng, 2, 9)
    return {"config": ModelConfig(
        dim=n_heads * head_dim, n_layers=n_layers + count(rng, 1, 5), n_heads=n_heads,
        n_kv_heads=2, hidden_dim=3 * n_heads * head_dim + 8, vocab_size=count(rng, 100, 900),
        norm_eps=1e-5, rope_theta=10_000.0, max_seq_len=64, own_head_dim=own)}


COUNT_NORMS = Exercise(
    "1.4", "How many weights do a Llama's norms have?", "In the Llamas",
    lambda config: parameters(config).norms,
    probes=(
        Probe("a tiny model", lambda rng: _config(rng, n_layers=1, head_dim=4)),
        Probe("a larger one", lambda rng: _config(rng, n_layers=11, head_dim=16)),
        Probe("a deep one", lambda rng: _config(rng, n_layers=80, head_dim=6)),
        Probe("heads with a width of their own",
              lambda rng: _config(rng, n_layers=7, head_dim=8, own=22)),
    ),
    misconceptions=(
        Misconception("final norm forgotten", lambda config: 2 * config.n_layers * config.dim,
                      "you forgot one norm: the last, between the blocks and the output layer."),
        Misconception("one norm a block", lambda config: (config.n_layers + 1) * config.dim,
                      "you counted one norm a block. There are two: before attention and before "
                      "the feed-forward layer.",
                      also=(lambda config: config.n_layers * config.dim,)),
        Misconception("one norm too many", lambda config: 2 * (config.n_layers + 1) * config.dim,
                      "you counted one norm too many. The embeddings are read as they are: each "
                      "block has two norms, and one stands at the end."),
        Misconception("norms of queries and keys",
                      lambda config: (2 * config.n_layers + 1) * config.dim
                      + 2 * config.n_layers * config.head_dim,
                      "you counted norms on queries and keys. Some other families have them; the "
                      "Llamas of this course do not."),
        Misconception("three norms a block",
                      lambda config: (3 * config.n_layers + 1) * config.dim,
                      "you counted three norms a block. There are two, and one more after the "
                      "last block.", also=(lambda config: 3 * config.n_layers * config.dim,)),
        Misconception("three at the ends", lambda config: (2 * config.n_layers + 3) * config.dim,
                      "you counted two norms too many. Each layer has two, and one more stands "
                      "after the last: none before the first."),
        Misconception("a bias too", lambda config: 2 * (2 * config.n_layers + 1) * config.dim,
                      "you counted a bias as well. That is LayerNorm; RMSNorm has a weight only."),
        Misconception("norms, not weights", lambda config: 2 * config.n_layers + 1,
                      "you counted the norms. Each has one weight per feature: multiply by dim.",
                      also=(lambda config: 2 * config.n_layers,)),
        Misconception("dim added", lambda config: 2 * config.n_layers + config.dim,
                      "you added dim where it multiplies all of the norms: mind the brackets.",
                      also=(lambda config: 2 * config.n_layers + 1 + config.dim,
                            lambda config: 2 * config.n_layers + 1 * config.dim + 1)),
        Misconception("one weight for the last norm",
                      lambda config: 2 * config.n_layers * config.dim + 1,
                      "you gave the last norm a single weight. It has one per feature, like the "
                      "others: mind the brackets."),
        Misconception("a norm too few", lambda config: (2 * config.n_layers - 1) * config.dim,
                      "you counted two norms too few. Each layer has two, the first one as well, "
                      "and one more stands after the last."),
        Misconception("two more at the ends", lambda config: (config.n_layers + 2) * config.dim,
                      "you counted one norm a layer and two more. Each layer has two, one before "
                      "each sublayer, and one more stands after the last layer."),
        Misconception("four norms a block",
                      lambda config: (4 * config.n_layers + 1) * config.dim,
                      "you counted four norms a block, before and after each sublayer, as Gemma 2 "
                      "has them. A Llama has two."),
        Misconception("twice the blocks", lambda config: 4 * config.n_layers * config.dim,
                      "you counted twice what the blocks have, and no last norm. Four norms a "
                      "block, or a bias for each weight? A block has two norms, without a bias, "
                      "and one more stands after the last."),
        Misconception("one layer", lambda config: 3 * config.dim,
                      "you counted one layer. A Llama has n_layers of them, and two norms in "
                      "each.", also=(lambda config: 2 * config.dim, lambda config: config.dim)),
        Misconception("no layers in it", lambda config: (2 * config.n_heads + 1) * config.dim,
                      "you counted heads where layers belong: heads share the norm of their "
                      "layer.",
                      also=(lambda config: (2 * config.n_layers + 1) * config.dim * config.n_heads,
                            lambda config: config.n_layers * (config.n_heads + 1) * config.dim
                            + config.dim,
                            lambda config: (config.n_layers * (config.n_heads + 1) + 1)
                            * config.dim)),
        Misconception("a number more a norm",
                      lambda config: (2 * config.n_layers + 1) * (config.dim + 1),
                      "you gave each norm a number more than dim. Epsilon is a setting and no "
                      "weight."),
        Misconception("the width of one head",
                      lambda config: (2 * config.n_layers + 1) * config.head_dim,
                      "you used the width of a head, or of all queries or keys together. A norm "
                      "spans the whole residual stream: dim.",
                      also=(lambda config: (2 * config.n_layers + 1) * config.head_dim
                            * config.n_kv_heads,
                            lambda config: (2 * config.n_layers + 1) * config.head_dim
                            * config.n_heads)),
        Misconception("another width",
                      lambda config: (2 * config.n_layers + 1) * config.hidden_dim,
                      "one of your norms, or all, have the width of something else. All of them "
                      "read the residual stream: dim.",
                      also=(lambda config: config.n_layers * (config.dim + config.hidden_dim)
                            + config.dim,
                            lambda config: 2 * config.n_layers * config.dim + config.vocab_size,
                            lambda config: (2 * config.n_layers + 1) * config.vocab_size,
                            lambda config: (2 * config.n_layers + 1) * config.n_heads,
                            lambda config: (2 * config.n_layers + 1) * config.max_seq_len)),
        Misconception("a square", lambda config: (2 * config.n_layers + 1) * config.dim**2,
                      "you gave each norm a matrix. Its weight is a vector: dim numbers."),
        Misconception("embeddings too",
                      lambda config: (2 * config.n_layers + 1) * config.dim
                      + config.vocab_size * config.dim,
                      "you counted the embeddings, or the vocabulary, too. The norms alone are "
                      "asked for.", also=(lambda config: (2 * config.n_layers + 1) * config.dim
                                          + config.vocab_size,)),
    ),
    hints=(
        "A norm has one weight per feature of the stream.",
        "Each block has a norm before attention and one before the feed-forward layer.",
        "One more norm stands after the last block: an odd number of norms, times dim.",
    ))


EXERCISES = [PRE_NORM, COUNT_NORMS]
