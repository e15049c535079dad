"""A Llama laid out for generation: the same answers in fewer, quicker steps.

One new token is a row that meets every weight once, so the time goes into reading weights and
into starting operations. A product runs fastest over a matrix with long rows in memory: so those
that read the same input lie side by side as one matrix, stored `in out`. And a rotation is one
product of complex numbers. Nothing here is for training.
"""

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from .layers import attend_fused
from .model import Block, Llama, Pass


class SideBySide(nn.Module):
    """Several bias-free linear layers of one input as one product; their outputs side by side."""

    def __init__(self, *layers: nn.Linear):
        super().__init__()
        if any(layer.bias is not None for layer in layers):
            raise ValueError("a linear layer with a bias was given; Llama's have none, and none is "
                             "expected here. Use the layer as it is.")
        if len(widths := {layer.in_features for layer in layers}) > 1:
            raise ValueError(f"layers that read {' and '.join(map(str, sorted(widths)))} features "
                             "were given; the same input is needed for all. Keep them apart.")
        joined = torch.cat([layer.weight.detach() for layer in layers])
        self.register_buffer("weight", rearrange(joined, "out into -> into out").contiguous())

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight


class DecodingBlock(nn.Module):
    """What a `Block` computes, with four matrices in place of seven."""

    def __init__(self, block: Block):
        super().__init__()
        attention, feed_forward = block.attention, block.feed_forward
        self.layer_id, self.head_dim = block.layer_id, attention.head_dim
        self.widths = [layer.out_features // self.head_dim
                       for layer in (attention.wq, attention.wk, attention.wv)]
        self.attention_norm, self.ffn_norm = block.attention_norm, block.ffn_norm
        self.wqkv = SideBySide(attention.wq, attention.wk, attention.wv)
        self.wo = SideBySide(attention.wo)
        self.w13 = SideBySide(feed_forward.w1, feed_forward.w3)
        self.w2 = feed_forward.w2       # long rows as it is

    def forward(self, x: Tensor, now: Pass) -> Tensor:
        x = x + self.wo(self.attend(self.wqkv(self.attention_norm(x)), now))
        gate, up = self.w13(self.ffn_norm(x)).chunk(2, -1)
        return x + self.w2(F.silu(gate) * up)

    def attend(self, qkv: Tensor, now: Pass) -> Tensor:
        """Queries, keys and values `b t (heads d)` of all kinds of heads to `b t (h d)`."""
        qkv = qkv.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
        n_heads, n_kv_heads, _ = self.widths
        turned = turn(qkv[:, :n_heads + n_kv_heads], torch.complex(*now.rope))
        q, k, v = turned[:, :n_heads], turned[:, n_heads:], qkv[:, n_heads + n_kv_heads:]
        if now.cache is not None:
            k, v = now.cache[self.layer_id].append(k, v)
        return attend_fused(q, k, v, now.mask).transpose(1, 2).flatten(2)


def turn(x: Tensor, angles: Tensor) -> Tensor:
    """What `layers.rotate` computes, as one product of complex numbers: x `b h t d`, angles
    `b h t d/2`, each of length 1."""
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * angles).flatten(-2).type_as(x)


class DecodingLlama(Llama):
    """A copy of a model for generation only. Embedding, norms and w2 are the original's own."""

    def __init__(self, model: Llama):
        nn.Module.__init__(self)        # the parts are another's: nothing is drawn at random
        self.config = model.config
        self.tok_embeddings = model.tok_embeddings
        self.layers = nn.ModuleList(DecodingBlock(block) for block in model.layers)
        self.norm = model.norm
        self.output = SideBySide(model.output)
