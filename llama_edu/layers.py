"""RMSNorm, RoPE, attention, SwiGLU: the four parts every Llama block is made of.

Axis letters, used in every shape in this package:

    b  batch          t  new tokens              s  attended tokens (s >= t)
    c  residual width h  query heads             g  query heads per key/value head
    k  kv heads       d  features of one head    f  feed-forward width
"""

import math

import torch
from einops import einsum, rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from .cache import Slot
from .config import ModelConfig, RopeScaling


def widen(x: Tensor) -> Tensor:
    """The same numbers in float32, or in float64 where they are: what sums and roots run in."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


class RMSNorm(nn.Module):
    """Divide by the root mean square of the features, then rescale each one.

    Shapes: `... c` to `... c`. The division runs in float32 or wider, the rescaling in the input's
    dtype. Zhang & Sennrich 2019, eq. 4, with epsilon inside the root.
    """

    def __init__(self, dim: int, eps: float):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        wide = widen(x)
        scale = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return (wide * scale).type_as(x) * self.weight


# -- rotary position embedding ---------------------------------------------------------------


def rope_frequencies(head_dim: int, theta: float, scaling: RopeScaling | None = None, *,
                     device: torch.device | str = "cpu") -> Tensor:
    """Radians that each feature pair turns per position: `d/2`, float32, fastest first.

    Su et al. 2021, eq. 15; the optional stretch is Llama 3.1's.
    """
    freqs = 1.0 / theta ** (torch.arange(0, head_dim, 2, device=device).float() / head_dim)
    if scaling is None:
        return freqs
    turns = scaling.original_context / (2 * math.pi / freqs)    # full turns in the old context
    keep = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    keep = keep.clamp(0, 1)
    return (1 - keep) * freqs / scaling.factor + keep * freqs


def rope_table(freqs: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines of every angle, freqs `d/2` at positions `... t`: two of `... t d/2`,
    float32."""
    angles = einsum(positions.float(), freqs, "... t, d -> ... t d")
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn neighbouring feature pairs of `b h t d` by their angle (Meta's pairing), in float32
    or wider.

    A pair is a complex number, and a turn is a product: Su et al. 2021, eq. 34, in one operation
    where real numbers need six. cos and sin: broadcastable to `b h t d/2`.
    """
    pairs = torch.view_as_complex(rearrange(widen(x), "b h t (d two) -> b h t d two", two=2))
    turned = torch.view_as_real(pairs * torch.complex(cos, sin))
    return rearrange(turned, "b h t d two -> b h t (d two)").type_as(x)


# -- attention ---------------------------------------------------------------------------------


def causal_mask(t: int, s: int, *, device: torch.device | str = "cpu") -> Tensor:
    """`t s`, True where a token may look. The t new tokens are the last of the s."""
    return torch.ones(t, s, dtype=torch.bool, device=device).tril(s - t)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Mix the values by how well each query matches each key; g query heads share a key head.

    q: `b h t d`; k, v: `b k s d`; mask: broadcastable to `b k g t s`; returns `b h t d`.
    The softmax runs in float32 or wider. Keys and values are never copied: sharing is a reshape of
    the queries. Vaswani et al. 2017, eq. 1; Ainslie et al. 2023, section 2.2.
    """
    q = rearrange(q, "b (k g) t d -> b k g t d", k=k.shape[1])
    scores = einsum(q, k, "b k g t d, b k s d -> b k g t s") / math.sqrt(q.shape[-1])
    weights = widen(scores).masked_fill(~mask, -torch.inf).softmax(-1).type_as(q)
    mixed = einsum(weights, v, "b k g t s, b k s d -> b k g t d")
    return rearrange(mixed, "b k g t d -> b (k g) t d")


def attend_fused(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """What `attend` computes, in PyTorch's fused kernel, which never holds all the weights.

    Shapes as in `attend`, except the mask: broadcastable to `b h t s`; or None where each token
    sees itself and all before it, and there is one new token, or no token before the new ones.
    A mask the kernel widens to float32 `t s`; only that still grows with the square of the length.
    """
    if q.shape[2] == 1:     # queries that share a key head are rows of one product; none is ahead
        q = rearrange(q, "b (k g) 1 d -> b k g d", k=k.shape[1])
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return rearrange(mixed, "b k g d -> b (k g) 1 d")
    g = q.shape[1] // k.shape[1]
    if g > 1 and mask is not None and q.device.type == "cuda":
        # CUDA's fused kernels take a mask or shared heads, not both, and the others hold `b h t s`.
        k, v, g = k.repeat_interleave(g, dim=1), v.repeat_interleave(g, dim=1), 1
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None,
                                          enable_gqa=g > 1)


class Attention(nn.Module):
    """Self-attention with rotary positions, grouped heads and an optional cache.

    The number of heads is read off the projected width, never stored, so a layer whose weights
    were sharded over several devices needs no other change.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.head_dim = d = config.head_dim
        self.wq = nn.Linear(config.dim, config.n_heads * d, bias=False)
        self.wk = nn.Linear(config.dim, config.n_kv_heads * d, bias=False)
        self.wv = nn.Linear(config.dim, config.n_kv_heads * d, bias=False)
        self.wo = nn.Linear(config.n_heads * d, config.dim, bias=False)

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor], mask: Tensor | None,
                memory: Slot | None = None) -> Tensor:
        """x: `b t c`; rope, mask: as in `rotate`, `attend_fused`; memory: this layer's slot."""
        q, k, v = (rearrange(project(x), "b t (h d) -> b h t d", d=self.head_dim)
                   for project in (self.wq, self.wk, self.wv))
        q, k = rotate(q, *rope), rotate(k, *rope)
        if memory is not None:
            k, v = memory.append(k, v)
        return self.wo(rearrange(attend_fused(q, k, v, mask), "b h t d -> b t (h d)"))


class FeedForward(nn.Module):
    """SwiGLU: one projection gates another, `b t c` to `b t c` (Shazeer 2020, eq. 6, no biases)."""

    def __init__(self, dim: int, hidden_dim: int):
        super().__init__()
        self.w1 = nn.Linear(dim, hidden_dim, bias=False)    # gate
        self.w2 = nn.Linear(hidden_dim, dim, bias=False)    # down
        self.w3 = nn.Linear(dim, hidden_dim, bias=False)    # up

    def forward(self, x: Tensor) -> Tensor:
        return self.w2(F.silu(self.w1(x)) * self.w3(x))
