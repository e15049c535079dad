"""The exercises of chapter 06: count the parameters, join the parts, read the logits."""

from collections.abc import Callable
from types import SimpleNamespace

import torch
from torch import Generator, Tensor, nn

from ..config import ModelConfig, swiglu_width
from ..family.accounting import parameters
from ..layers import RMSNorm
from ..model import Block, Llama, Pass
from .data import Exercise, Inputs, Misconception, Probe, count, normal

# -- 6.1: count ---------------------------------------------------------------------------------


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


COUNT = Exercise(
    "6.1", "How many parameters has a Llama?", "By hand", lambda config: parameters(config).total,
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
                      "you gave keys and values as many heads as queries. wk and wv have "
                      "n_kv_heads."),
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
        Misconception("one norm a block", _counted(norms=lambda c: c.n_layers + 1),
                      "you counted one norm a block. There are two."),
        Misconception("one block", _counted(blocks=lambda c: 1, norms=lambda c: 3),
                      "you counted one block. There are n_layers.",
                      also=(_counted(blocks=lambda c: 1),)),
    ),
    hints=(
        "Go through the shapes one by one: tables, wq wk wv wo, w1 w2 w3, norms.",
        "wq and wo are dim x (n_heads * head_dim); wk and wv are dim x (n_kv_heads * head_dim).",
        "Blocks count n_layers times; outside them stand the embedding, one norm and the output "
        "(unless tied).",
    ))

# -- 6.2: join the parts of a block -------------------------------------------------------------


def _package_block(x: Tensor, attention_norm: Callable, attention: Callable, ffn_norm: Callable,
                   feed_forward: Callable) -> Tensor:
    parts = SimpleNamespace(attention_norm=attention_norm, ffn_norm=ffn_norm, layer_id=0,
                            attention=lambda h, *_: attention(h), feed_forward=feed_forward)
    return Block.forward(parts, x, Pass(rope=None, mask=None, cache=None))


def _norm(rng: Generator, c: int) -> RMSNorm:
    norm = RMSNorm(c, eps=0.5)
    norm.weight = nn.Parameter(normal(rng, c, mean=2.0), requires_grad=False)
    return norm


def _block_inputs(rng: Generator, *shape: int) -> Inputs:
    c = shape[-1]
    mixes = [normal(rng, c, c) for _ in range(2)]
    return {"x": normal(rng, *shape, mean=1.0, std=2.0), "attention_norm": _norm(rng, c),
            "attention": lambda h: torch.tanh(h @ mixes[0]), "ffn_norm": _norm(rng, c),
            "feed_forward": lambda h: torch.relu(h @ mixes[1])}


def _from_normed(x: Tensor, n1: Callable, att: Callable, n2: Callable, ffn: Callable) -> Tensor:
    y = n1(x)
    y = y + att(y)
    z = n2(y)
    return z + ffn(z)


BLOCK = Exercise(
    "6.2", "One block", "The idea", _package_block,
    probes=(
        Probe("one token", lambda rng: _block_inputs(rng, 1, 1, 3)),
        Probe("several tokens", lambda rng: _block_inputs(rng, 1, 4, 5)),
        Probe("a batch", lambda rng: _block_inputs(rng, 2, 3, 4)),
    ),
    misconceptions=(
        Misconception("both at once",
                      lambda x, n1, att, n2, ffn: x + att(n1(x)) + ffn(n2(x)),
                      "you fed both halves the same x. The feed-forward layer reads the stream "
                      "after attention has written to it."),
        Misconception("second residual from x",
                      lambda x, n1, att, n2, ffn: x + ffn(n2(x + att(n1(x)))),
                      "what attention wrote is lost from the stream: the second sum must begin "
                      "from the first sum, not from x."),
        Misconception("no second residual",
                      lambda x, n1, att, n2, ffn: ffn(n2(x + att(n1(x)))),
                      "you left out the second residual: add what the feed-forward layer read."),
        Misconception("no first residual",
                      lambda x, n1, att, n2, ffn: att(n1(x)) + ffn(n2(att(n1(x)))),
                      "you left out the first residual: attention adds to x, it does not "
                      "replace it."),
        Misconception("post-norm",
                      lambda x, n1, att, n2, ffn: n2(n1(x + att(x)) + ffn(n1(x + att(x)))),
                      "you normalised after each sum: that is post-norm. A Llama normalises what "
                      "each half reads."),
        Misconception("residual from the norm", _from_normed,
                      "you added to the normed tokens. Add to the stream itself."),
        Misconception("norms exchanged",
                      lambda x, n1, att, n2, ffn:
                      x + att(n2(x)) + ffn(n1(x + att(n2(x)))),
                      "you exchanged the two norms. attention_norm stands before attention."),
        Misconception("feed-forward first",
                      lambda x, n1, att, n2, ffn: x + ffn(n2(x)) + att(n1(x + ffn(n2(x)))),
                      "you ran the feed-forward layer first. Attention comes first."),
    ),
    hints=(
        "Two steps of the same form: stream = stream + part(norm(stream)).",
        "The second step reads what the first one returned.",
    ), gradients=("x",))

# -- 6.3: from the stream to logits -------------------------------------------------------------


def _package_logits(x: Tensor, norm: Callable, output_weight: Tensor) -> Tensor:
    """The end of the package's Llama; its blocks are made to pass the stream through."""
    parts = SimpleNamespace(output=lambda h: nn.functional.linear(h, output_weight))
    return Llama.logits(parts, norm(x))


def _logit_inputs(rng: Generator, *shape: int, dtype: torch.dtype = torch.float32) -> Inputs:
    c = shape[-1]
    return {"x": normal(rng, *shape, mean=1.0, std=2.0).to(dtype), "norm": _norm(rng, c).to(dtype),
            "output_weight": normal(rng, c + 2, c).to(dtype)}


LOGITS = Exercise(
    "6.3", "From the stream to the logits", "Build it", _package_logits,
    probes=(
        Probe("one token", lambda rng: _logit_inputs(rng, 1, 1, 3)),
        Probe("a batch", lambda rng: _logit_inputs(rng, 2, 3, 4)),
        Probe("bfloat16", lambda rng: _logit_inputs(rng, 1, 2, 3, dtype=torch.bfloat16)),
    ),
    misconceptions=(
        Misconception("final norm missing", lambda x, norm, output_weight:
                      (x @ output_weight.T).float(),
                      "you left out the last norm. The stream grows with depth, and without the "
                      "norm the model is far too sure of itself."),
        Misconception("softmax inside", lambda x, norm, output_weight:
                      (norm(x) @ output_weight.T).float().softmax(-1),
                      "you returned probabilities. A model returns logits; the loss and the "
                      "sampler apply the softmax."),
        Misconception("log-softmax inside", lambda x, norm, output_weight:
                      (norm(x) @ output_weight.T).float().log_softmax(-1),
                      "you returned log-probabilities. A model returns logits; the loss and the "
                      "sampler apply the softmax."),
        Misconception("last token only", lambda x, norm, output_weight:
                      (norm(x[:, -1]) @ output_weight.T).float(),
                      "you kept the last token only. Training needs the logits of every "
                      "position: `b t v`."),
        Misconception("norm twice", lambda x, norm, output_weight:
                      (norm(norm(x)) @ output_weight.T).float(),
                      "you normalised twice. Once, before the output."),
        Misconception("cast too early", lambda x, norm, output_weight:
                      norm(x).float() @ output_weight.float().T,
                      "you cast before the product. A Llama multiplies in the type of its weights "
                      "and casts the logits: .float() comes last.",
                      also=(lambda x, norm, output_weight:
                            norm(x.float()) @ output_weight.float().T,
                            lambda x, norm, output_weight: norm(x.float()) @ output_weight.T)),
    ),
    hints=(
        "Two things stand between the last block and the logits.",
        "The last norm, then a matrix `v c`: every token is compared with every row.",
        "Return float32: .float() at the end.",
    ), gradients=("x", "output_weight"))

EXERCISES = [COUNT, BLOCK, LOGITS]
