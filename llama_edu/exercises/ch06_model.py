"""The exercise of chapter 06 on the whole model, 6.2: join the parts."""

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from ..config import ModelConfig
from ..layers import causal_mask, rope_frequencies, rope_table
from ..model import Block, Llama, Pass
from .data import Exercise, Inputs, Misconception, Probe, count, normal

Rope = tuple[Tensor, Tensor]


def _small(rng: Generator, *, n_layers: int = 2, tied: bool = False, batch: int = 1, t: int = 4,
           seen: int | None = None, dtype: torch.dtype = torch.float32) -> Inputs:
    """A Llama whose weights are large, so that every mistake shows; `seen` narrows the mask."""
    config = ModelConfig(dim=12, n_layers=n_layers, n_heads=3, n_kv_heads=1, hidden_dim=20,
                         vocab_size=7, norm_eps=0.1, rope_theta=10.0 ** count(rng, 2, 5),
                         max_seq_len=16, tied_embeddings=tied)
    model = Llama(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(normal(rng, *weight.shape, mean=float("norm" in name), std=0.6))
    mask = causal_mask(t, t)
    if seen is not None:
        mask = mask & ~causal_mask(t, t).tril(-seen)
    rope = rope_table(rope_frequencies(4, config.rope_theta), torch.arange(t))
    return {"model": model.to(dtype).eval(), "rope": rope, "mask": mask,
            "tokens": torch.randint(0, 7, (batch, t), generator=rng)}


def _package_forward(model: Llama, rope: Rope, mask: Tensor, tokens: Tensor) -> Tensor:
    x = model.tok_embeddings(tokens)
    for block in model.layers:
        x = block(x, Pass(rope, mask, None))
    return model.logits(model.norm(x))


def attend(block: Block, x: Tensor, rope: Rope, mask: Tensor) -> Tensor:
    """What a block's attention adds to the stream `b t c`."""
    return block.attention(block.attention_norm(x), rope, mask)


def feed(block: Block, x: Tensor) -> Tensor:
    """What a block's feed-forward layer adds to the stream `b t c`."""
    return block.feed_forward(block.ffn_norm(x))


def right_block(block: Block, x: Tensor, rope: Rope, mask: Tensor) -> Tensor:
    x = x + attend(block, x, rope, mask)
    return x + feed(block, x)


def second_from_x(block: Block, x: Tensor, rope: Rope, mask: Tensor) -> Tensor:
    return x + feed(block, x + attend(block, x, rope, mask))


def both_at_once(block: Block, x: Tensor, rope: Rope, mask: Tensor) -> Tensor:
    return x + attend(block, x, rope, mask) + feed(block, x)


def no_second(block: Block, x: Tensor, rope: Rope, mask: Tensor) -> Tensor:
    return feed(block, x + attend(block, x, rope, mask))


def _no_first(block: Block, x: Tensor, rope: Rope, mask: Tensor) -> Tensor:
    x = attend(block, x, rope, mask)
    return x + feed(block, x)


def _post_norm(block: Block, x: Tensor, rope: Rope, mask: Tensor) -> Tensor:
    x = block.attention_norm(x + block.attention(x, rope, mask))
    return block.ffn_norm(x + block.feed_forward(x))


def _from_normed(block: Block, x: Tensor, rope: Rope, mask: Tensor) -> Tensor:
    x = block.attention_norm(x)
    x = block.ffn_norm(x + block.attention(x, rope, mask))
    return x + block.feed_forward(x)


def _no_norms(block: Block, x: Tensor, rope: Rope, mask: Tensor) -> Tensor:
    x = x + block.attention(x, rope, mask)
    return x + block.feed_forward(x)


def norms_exchanged(block: Block, x: Tensor, rope: Rope, mask: Tensor) -> Tensor:
    x = x + block.attention(block.ffn_norm(x), rope, mask)
    return x + block.feed_forward(block.attention_norm(x))


def _one_norm(block: Block, x: Tensor, rope: Rope, mask: Tensor) -> Tensor:
    x = x + attend(block, x, rope, mask)
    return x + block.feed_forward(block.attention_norm(x))


def _no_residuals(block: Block, x: Tensor, rope: Rope, mask: Tensor) -> Tensor:
    return feed(block, attend(block, x, rope, mask))


def _norm_of_what_is_made(block: Block, x: Tensor, rope: Rope, mask: Tensor) -> Tensor:
    x = x + block.attention_norm(block.attention(x, rope, mask))
    return x + block.ffn_norm(block.feed_forward(x))


def _bare_feed_forward(block: Block, x: Tensor, rope: Rope, mask: Tensor) -> Tensor:
    x = x + attend(block, x, rope, mask)
    return x + block.feed_forward(x)


def _bare_attention(block: Block, x: Tensor, rope: Rope, mask: Tensor) -> Tensor:
    x = x + block.attention(x, rope, mask)
    return x + feed(block, x)


def _added_twice(block: Block, x: Tensor, rope: Rope, mask: Tensor) -> Tensor:
    return x + right_block(block, x, rope, mask)


def _subtracted(block: Block, x: Tensor, rope: Rope, mask: Tensor) -> Tensor:
    x = x - attend(block, x, rope, mask)
    return x - feed(block, x)


def _masked(other: Callable[[Tensor], Tensor | None]) -> Callable:
    """A block that attends with another mask."""
    return lambda block, x, rope, mask: right_block(block, x, rope, other(mask))


def _feed_first(block: Block, x: Tensor, rope: Rope, mask: Tensor) -> Tensor:
    x = x + feed(block, x)
    return x + attend(block, x, rope, mask)


def joined(*, block: Callable = right_block, start: Callable = lambda model, x: x,
           after: Callable = lambda model, x: x,
           blocks: Callable = list, end: Callable = lambda model, x: model.norm(x),
           head: Callable = lambda model, x: model.logits(x)) -> Callable:
    """A way to join the parts, right unless told otherwise."""

    def answer(model: Llama, rope: Rope, mask: Tensor, tokens: Tensor) -> Tensor:
        x = start(model, model.tok_embeddings(tokens))
        for each in blocks(model.layers):
            x = after(model, block(each, x, rope, mask))
        return head(model, end(model, x))

    return answer


def _table(model: Llama) -> Tensor:
    return (model.tok_embeddings if model.output is None else model.output).weight


FORWARD = Exercise(
    "6.2", "The whole model", "The idea: a stream that parts write to", _package_forward,
    probes=(
        Probe("one block, one token", lambda rng: _small(rng, n_layers=1, t=1)),
        Probe("two blocks", lambda rng: _small(rng, t=3)),
        Probe("a batch", lambda rng: _small(rng, batch=2)),
        Probe("a tied table", lambda rng: _small(rng, tied=True, n_layers=3)),
        Probe("a mask that is not causal only", lambda rng: _small(rng, t=6, seen=2)),
        Probe("bfloat16", lambda rng: _small(rng, n_layers=1, t=2, dtype=torch.bfloat16)),
    ),
    misconceptions=(
        Misconception("both at once", joined(block=both_at_once),
                      "you fed both halves of a block the same x. The feed-forward layer reads the "
                      "stream after attention has written to it."),
        Misconception("second residual from x", joined(block=second_from_x),
                      "what attention wrote is lost from the stream: the second sum must begin "
                      "from the first sum, not from x."),
        Misconception("no second residual", joined(block=no_second),
                      "you left out the second residual: add to what the feed-forward layer read."),
        Misconception("no first residual", joined(block=_no_first),
                      "you left out the first residual: attention adds to x, it does not "
                      "replace it."),
        Misconception("post-norm", joined(block=_post_norm),
                      "you normalised after each sum: that is post-norm. A Llama normalises what "
                      "each half reads."),
        Misconception("residual from the norm", joined(block=_from_normed),
                      "you added to the normed tokens. Add to the stream itself."),
        Misconception("no norms in the blocks", joined(block=_no_norms),
                      "the halves of your blocks read the stream as it is. Each has a norm of its "
                      "own in front: attention_norm and ffn_norm."),
        Misconception("norms exchanged", joined(block=norms_exchanged),
                      "you exchanged the two norms. attention_norm stands before attention."),
        Misconception("one norm for both", joined(block=_one_norm),
                      "both halves of your blocks read through attention_norm. The feed-forward "
                      "layer has a norm of its own, ffn_norm."),
        Misconception("feed-forward first", joined(block=_feed_first),
                      "you ran the feed-forward layer first. Attention comes first."),
        Misconception("last norm missing", joined(end=lambda model, x: x),
                      "you left out the last norm. The stream grows with depth, and without the "
                      "norm the model is far too sure of itself."),
        Misconception("last norm in every block", joined(after=lambda model, x: model.norm(x)),
                      "you ran model.norm after every block. It stands after the last only.",
                      also=(joined(after=lambda model, x: model.norm(x),
                                   end=lambda model, x: x),)),
        Misconception("no residuals", joined(block=_no_residuals),
                      "each half of your blocks replaces the stream. Both add to it."),
        Misconception("what is made is normed", joined(block=_norm_of_what_is_made),
                      "you normed what each half makes. A Llama norms what each half reads."),
        Misconception("feed-forward not normed", joined(block=_bare_feed_forward),
                      "your feed-forward layers read the stream as it is. They read it through "
                      "ffn_norm."),
        Misconception("attention not normed", joined(block=_bare_attention),
                      "your attention reads the stream as it is. It reads it through "
                      "attention_norm."),
        Misconception("stream added twice", joined(block=_added_twice),
                      "you added x once more at the end of a block. What the second half reads "
                      "holds it already.", also=(
                          joined(block=lambda block, x, rope, mask:
                                 x + attend(block, x, rope, mask) + right_block(
                                     block, x, rope, mask) - attend(block, x, rope, mask)),)),
        Misconception("attention left out", joined(block=lambda block, x, rope, mask:
                                                   x + feed(block, x)),
                      "attention's half is missing: no token learns of another."),
        Misconception("feed-forward left out", joined(block=lambda block, x, rope, mask:
                                                      x + attend(block, x, rope, mask)),
                      "the feed-forward half of your blocks is missing."),
        Misconception("mask the wrong way round", joined(block=_masked(torch.logical_not)),
                      "you inverted the mask. True is where a token may look, as it is handed "
                      "over."),
        Misconception("mask transposed", joined(block=_masked(lambda mask: mask.mT)),
                      "you transposed the mask: tokens look ahead. Hand it over as it is."),
        Misconception("always causal",
                      joined(block=_masked(lambda mask: torch.ones_like(mask).tril())),
                      "you made a causal mask of your own. Use the one that is given: it may hide "
                      "more.", also=(joined(block=_masked(lambda mask: None)),)),
        Misconception("nothing masked", joined(block=_masked(torch.ones_like)),
                      "every token sees all others. Hand the mask over."),
        Misconception("feed-forward reads attention alone",
                      joined(block=lambda block, x, rope, mask: right_block(block, x, rope, mask)
                             - feed(block, x + attend(block, x, rope, mask))
                             + feed(block, attend(block, x, rope, mask))),
                      "your feed-forward layer reads what attention made, without the stream. It "
                      "reads their sum."),
        Misconception("each block twice", joined(block=lambda block, x, rope, mask: right_block(
                          block, right_block(block, x, rope, mask), rope, mask)),
                      "every block ran twice."),
        Misconception("halves subtracted", joined(block=_subtracted),
                      "you subtracted what the halves make. Both add to the stream."),
        Misconception("last norm twice", joined(end=lambda model, x: model.norm(model.norm(x))),
                      "the last norm ran twice."),
        Misconception("another last norm", joined(end=lambda model, x:
                                                  model.layers[-1].ffn_norm(x)),
                      "you took a block's norm for the last one. That is model.norm.",
                      also=(joined(end=lambda model, x: model.layers[-1].attention_norm(x)),)),
        Misconception("last block left out", joined(blocks=lambda layers: layers[:-1]),
                      "the last block did not run."),
        Misconception("every block reads the embeddings", lambda model, rope, mask, tokens:
                      joined(blocks=lambda layers: layers[-1:])(model, rope, mask, tokens),
                      "what your blocks before the last wrote is lost: each began from the "
                      "embeddings. Each reads what the one before it returned."),
        Misconception("first block only", joined(blocks=lambda layers: layers[:1]),
                      "only the first block ran. Each reads what the one before it returned."),
        Misconception("blocks backwards", joined(blocks=lambda layers: layers[::-1]),
                      "the blocks ran from the last to the first."),
        Misconception("embeddings scaled",
                      joined(start=lambda model, x: x * model.config.dim**0.5),
                      "you multiplied the embeddings by the root of dim, as the Transformer of "
                      "2017 did. A Llama takes the rows as they are."),
        Misconception("embeddings normed",
                      joined(start=lambda model, x: model.layers[0].attention_norm(x)),
                      "you normed the embeddings before the first block. They enter as they are."),
        Misconception("softmax inside", joined(head=lambda model, x: model.logits(x).softmax(-1)),
                      "you returned probabilities. A model returns logits; the loss and the "
                      "sampler apply the softmax.", also=(
                          joined(head=lambda model, x: model.logits(x).log_softmax(-1)),)),
        Misconception("last token only", joined(head=lambda model, x: model.logits(x[:, -1])),
                      "you kept the last token only. Training needs the logits of every "
                      "position: `b t v`.", also=(
                          joined(head=lambda model, x: model.logits(x[:, -1:])),)),
        Misconception("cast too early",
                      joined(head=lambda model, x: x.float() @ _table(model).float().T),
                      "you cast before the last product. A Llama multiplies in the type of its "
                      "weights and casts the logits: .float() comes last.", also=(
                          joined(end=lambda model, x: model.norm(x.float()),
                                 head=lambda model, x: x @ _table(model).float().T),
                          joined(start=lambda model, x: x.float(),
                                 head=lambda model, x: x.float() @ _table(model).float().T))),
        Misconception("embedding for output",
                      joined(head=lambda model, x: (x @ model.tok_embeddings.weight.T).float()),
                      "you always used the embedding's table for the logits. Only a tied model "
                      "does; where there is a `model.output`, it is the last matrix."),
    ),
    hints=(
        "Embed, then for each block two steps of the same form, then the last norm and the logits.",
        "Each step is stream = stream + part(norm(stream)); the second reads what the first made.",
        "Where model.output is None, the rows of model.tok_embeddings.weight (`v c`) score the "
        "stream: x @ weight.T. Return float32: .float() at the end.",
    ), gradients=("model",))

EXERCISES = [FORWARD]
