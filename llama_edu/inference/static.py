"""One new token as a pass that never changes its shape, so that a GPU can be handed it whole.

A GPU computes a layer for one token sooner than Python can start its kernels. So the pass is
written over tensors that keep their places: where it is in the text, and what it may see, are
numbers in memory. Its kernels are then recorded once (a CUDA graph) and started with one call per
token; `torch.compile` may fuse them first. On a CPU the same pass runs as it is.
"""

import math
from collections.abc import Callable
from functools import partial

import torch
from einops import einsum, rearrange
from torch import Tensor

from ..cache import KVCache
from ..layers import rope_frequencies, rope_table
from ..model import Llama
from .decoding import DecodingLlama, one_linear

SHORTEST = 1024     # keys that a pass reads at least: of an 8B, under 1 % of what a token reads
MOST = 32           # powers of two that may be compiled for: as many as anyone has room for
PART = 256          # keys of one partial sum over values
TUNED = {"mode": "max-autotune-no-cudagraphs"}      # the graphs are recorded here

Work = Callable[[], Tensor]


class StaticCache(KVCache):
    """A cache whose tensors stay where they are, with the passes that were recorded over them."""

    def __init__(self, batch: int, max_len: int, *, slots: list[tuple[int, int]], like: Tensor):
        """slots: key heads and their features, for each layer."""
        super().__init__(len(slots), batch, max_len)
        size = max(SHORTEST, 1 << (max_len - 1).bit_length())       # few sizes to compile for
        self.recorded: dict[int, Work] = {}     # by the number of keys that are read
        with torch.inference_mode(False):       # or nothing could be written outside of it
            for slot, (k, d) in zip(self.slots, slots, strict=True):
                slot.keys, slot.values = like.new_zeros(2, batch, k, size, d)
            self.tokens, self.positions = like.new_zeros(2, batch, 1, dtype=torch.long)
            self.column = like.new_zeros(1, dtype=torch.long)
            self.mask = like.new_zeros(batch, size, dtype=torch.bool)

    def say(self, tokens: Tensor, positions: Tensor | None, mask: Tensor | None) -> int:
        """Write down what the next pass reads; how many keys it needs."""
        column = self.length
        self.tokens.copy_(tokens)
        self.column.fill_(column)
        self.positions.copy_(self.column if positions is None else positions)
        self.mask.zero_()
        self.mask[:, :column + 1] = True if mask is None else mask[:, 0]
        return min(self.mask.shape[1], max(SHORTEST, 1 << column.bit_length()))


class StaticLlama(DecodingLlama):
    """A model for generation whose one-token passes are recorded: `stream(StaticLlama(...), ...)`.

    A pass reads the first 1024, 2048, 4096 ... keys of a cache, as many as are needed, and is
    recorded once for each; texts that follow one another may share a cache, rewound to 0.

    Quantise it before its first pass. compiled: `torch.compile` fuses and tunes each pass before
    it is recorded, which takes minutes for a large model.
    """

    def __init__(self, model: Llama, *, compiled: bool = False):
        super().__init__(model, join=one_linear)
        self.compiled = compiled
        self.one_token: Callable[..., Tensor] | None = None

    def new_cache(self, batch: int, max_len: int) -> KVCache:
        super().new_cache(batch, max_len)       # or refuse
        return StaticCache(batch, max_len, like=self.tok_embeddings.weight,
                           slots=[(block.n_kv_heads, block.head_dim) for block in self.layers])

    @torch.inference_mode()
    def forward(self, tokens: Tensor, cache: KVCache | None = None, *,
                positions: Tensor | None = None, mask: Tensor | None = None,
                head: bool = True) -> Tensor:
        long = tokens.shape[1] > 1 or type(cache) is not StaticCache
        if long or len(tokens) != cache.batch or cache.length == cache.max_len:
            return super().forward(tokens, cache, positions=positions, mask=mask, head=head)
        n_keys = cache.say(tokens, positions, mask)
        if n_keys not in cache.recorded:
            cache.recorded[n_keys] = record(partial(self.prepared(), cache, n_keys), tokens.device)
        x = cache.recorded[n_keys]().clone()        # the next replay writes over it
        cache.length += 1
        return self.logits(x) if head else x

    def prepared(self) -> Callable[[KVCache, int], Tensor]:
        """The pass, compiled where that was asked for, and the output with it."""
        if self.one_token is None:
            self.one_token = self.next_hidden
            if self.compiled:
                self.output.compile(**TUNED)
                self.one_token = torch.compile(
                    self.next_hidden, fullgraph=True, dynamic=False, isolate_recompiles=True,
                    recompile_limit=MOST, **TUNED)
        return self.one_token

    def next_hidden(self, cache: StaticCache, n_keys: int) -> Tensor:
        """The normed stream `b 1 c` of the tokens that a cache was told, which it then holds."""
        c = self.config
        freqs = rope_frequencies(c.head_dim, c.rope_theta, c.rope_scaling,
                                 device=cache.tokens.device)
        rope = rope_table(freqs, cache.positions[:, None])
        x = self.tok_embeddings(cache.tokens)
        for block, slot in zip(self.layers, cache.slots, strict=True):
            q, k, v = block.heads(x, partial(turn_real, rope=rope))
            slot.keys.index_copy_(2, cache.column, k)
            slot.values.index_copy_(2, cache.column, v)
            x = block.finish(x, attend_static(q, slot.keys[:, :, :n_keys],
                                              slot.values[:, :, :n_keys], cache.mask[:, :n_keys]))
        return self.norm(x)


def turn_real(x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
    """What `layers.rotate` computes, in real numbers: compilers fuse no complex ones."""
    (cos, sin), (real, imag) = rope, x.float().unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack([real * cos - imag * sin, real * sin + imag * cos], dim=-1)
    return turned.flatten(-2).type_as(x)


def attend_static(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """What `attend` gives one token per row: q `b h 1 d`; k, v `b k s d`; mask `b s`.

    The sum over values is taken in parts, which a GPU computes side by side however long the text
    is. What is not seen is multiplied by zero, so no NaN may lie there.
    """
    q = rearrange(q, "b (k g) 1 d -> b k g d", k=k.shape[1])
    scores = einsum(q, k, "b k g d, b k s d -> b k g s").float() / math.sqrt(q.shape[-1])
    weights = scores.masked_fill(~mask[:, None, None], -torch.inf).softmax(-1).type_as(q)
    parts = einsum(weights.unflatten(-1, (-1, PART)), v.unflatten(2, (-1, PART)),
                   "b k g n r, b k n r d -> b k n g d")
    return rearrange(parts.sum(2), "b k g d -> b (k g) 1 d")


def record(work: Work, device: torch.device) -> Work:
    """The same work, its kernels started by one call where the device can: on CUDA, that is.

    It runs twice before it is recorded: compiling, tuning and first allocations must not be.
    """
    if device.type != "cuda":
        return work
    here, aside = torch.cuda.current_stream(), torch.cuda.Stream()
    aside.wait_stream(here)
    with torch.cuda.stream(aside):
        for _ in range(2):
            work()
    here.wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        x = work()

    def replay() -> Tensor:
        graph.replay()
        return x

    return replay
