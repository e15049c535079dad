"""A Llama laid out for generation: the same answers in fewer, quicker steps.

One new token is a row that meets every weight once, so the time goes into reading weights and
into starting operations. A product runs fastest over a matrix with long rows in memory: so those
that read the same input lie side by side as one matrix, stored `in out`. Queries and keys are
turned at once. Nothing here is for training.
"""

from collections.abc import Callable, Sequence

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from ..layers import attend_fused, rotate
from ..model import Block, Llama, Pass


class SideBySide(nn.Module):
    """Several bias-free linear layers of one input as one product; their outputs side by side."""

    def __init__(self, *layers: nn.Linear):
        super().__init__()
        joined = rows(layers)
        self.register_buffer("weight", rearrange(joined, "out into -> into out").contiguous())

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight


def one_linear(*layers: nn.Linear) -> nn.Linear:
    """What `SideBySide` computes as an ordinary layer, stored `out in`.

    A GPU reads its rows just as fast, and `replace_linears` finds it. One layer alone keeps its own
    weights. Raises as `rows` does.
    """
    return linear(rows(layers))


def linear(weight: Tensor) -> nn.Linear:
    """A layer with this weight `out in`, which is not copied."""
    with torch.device("meta"):      # no memory for numbers that are replaced at once
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight = nn.Parameter(weight, requires_grad=False)
    return layer


def rows(layers: Sequence[nn.Linear]) -> Tensor:
    """The weights `out in` of bias-free layers of one input, below each other.

    Raises ValueError for a layer with a bias, of another kind (a quantised one) or another input.
    """
    if others := {type(layer).__name__ for layer in layers} - {nn.Linear.__name__}:
        raise ValueError(f"a layer of the kind {others.pop()} was given; linear layers with "
                         "ordinary weights are needed. Lay the model out first, quantise it then.")
    if any(layer.bias is not None for layer in layers):
        raise ValueError("a linear layer with a bias was given; Llama's have none, and none is "
                         "expected here. Use the layer as it is.")
    if len(widths := {layer.in_features for layer in layers}) > 1:
        raise ValueError(f"layers that read {' and '.join(map(str, sorted(widths)))} features "
                         "were given; the same input is needed for all. Keep them apart.")
    weights = [layer.weight.detach() for layer in layers]
    return torch.cat(weights) if weights[1:] else weights[0]


Join = Callable[..., nn.Module]     # linear layers of one input to a module in their place


class DecodingBlock(nn.Module):
    """What a `Block` computes, with four matrices in place of seven."""

    def __init__(self, block: Block, join: Join = SideBySide):
        super().__init__()
        attention, feed_forward = block.attention, block.feed_forward
        projections = attention.wq, attention.wk, attention.wv
        self.layer_id, self.head_dim = block.layer_id, attention.head_dim
        self.attention_norm, self.ffn_norm = block.attention_norm, block.ffn_norm
        self.wqkv = join(*projections)
        self.n_heads, self.n_kv_heads, _ = (layer.out_features // self.head_dim
                                            for layer in projections)
        self.wo = join(attention.wo)
        self.w13 = join(feed_forward.w1, feed_forward.w3)
        self.w2 = feed_forward.w2       # long rows as it is

    def forward(self, x: Tensor, now: Pass) -> Tensor:
        q, k, v = self.heads(x, lambda qk: rotate(qk, *now.rope))
        if now.cache is not None:
            k, v = now.cache.slot(self.layer_id).append(k, v)
        return self.finish(x, attend_fused(q, k, v, now.mask))

    def heads(self, x: Tensor, turned: Callable[[Tensor], Tensor]) -> tuple[Tensor, ...]:
        """Queries `b h t d`, keys and values `b k t d` of a stream `b t c`; two are turned."""
        qkv = self.wqkv(self.attention_norm(x)).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
        n_turned = self.n_heads + self.n_kv_heads
        qk = turned(qkv[:, :n_turned])
        return qk[:, :self.n_heads], qk[:, self.n_heads:], qkv[:, n_turned:]

    def finish(self, x: Tensor, mixed: Tensor) -> Tensor:
        """The stream `b t c` after the block, from what its heads have mixed, `b h t d`."""
        x = x + self.wo(mixed.transpose(1, 2).flatten(2))
        gate, up = self.w13(self.ffn_norm(x)).chunk(2, -1)
        return x + self.w2(F.silu(gate) * up)


class DecodingLlama(Llama):
    """A copy of a model for generation only. Embedding, norms and w2 are the original's own.

    join: `SideBySide`, quickest on a CPU, or `one_linear`, for layers that are replaced later.
    Raises ValueError for layers that `rows` refuses.
    """

    def __init__(self, model: Llama, *, join: Join = SideBySide):
        nn.Module.__init__(self)        # the parts are another's: nothing is drawn at random
        self.config = model.config
        self.tok_embeddings = model.tok_embeddings
        self.layers = nn.ModuleList(DecodingBlock(block, join) for block in model.layers)
        self.norm = model.norm
        self.output = join(model.output or linear(model.tok_embeddings.weight.detach()))
