"""One new token as a pass that never changes its shape, so that a GPU can be handed it whole.

A GPU computes a layer for one token sooner than Python can start its kernels. So the pass is
written as a pure function of tensors that keep their places: where it is in the text, and what it
may see, are numbers in memory. Its kernels are then recorded once (a CUDA graph) and started with
one call per token; `torch.compile` may fuse them first. On a CPU the same pass runs as it is.
"""

import math
import weakref
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
NextHidden = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


class StaticLlama(DecodingLlama):
    """A model for generation whose one-token passes are recorded: `stream(StaticLlama(...), ...)`.

    It has room for one batch of texts of up to `max_len` tokens; a batch of another size gets a
    new room. A cache moves in when it is used, and out when another does. A pass reads the first
    1024, 2048, 4096 ... keys, as many as are needed, and is recorded once for each.

    Quantise it before its first pass. compiled: `torch.compile` fuses and tunes each pass before
    it is recorded, which takes minutes for a large model.
    """

    def __init__(self, model: Llama, *, max_len: int, compiled: bool = False):
        super().__init__(model, join=one_linear)
        if not 1 <= max_len <= self.config.max_seq_len:
            raise ValueError(f"room for {max_len} tokens was asked for; 1 to this model's context, "
                             f"{self.config.max_seq_len}, is needed. Choose another max_len.")
        self.max_len, self.compiled = max_len, compiled
        self.room: Room | None = None

    @torch.inference_mode()
    def hidden(self, tokens: Tensor, cache: KVCache | None = None, *,
               positions: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        if cache is None:
            return super().hidden(tokens, positions=positions, mask=mask)
        self.make_room(cache)
        one_each = tokens.shape == (self.room.batch, 1)
        if not one_each or cache.length == cache.max_len:
            return super().hidden(tokens, cache, positions=positions, mask=mask)
        x = self.room.step(tokens, cache.length, positions, mask)
        cache.length += 1
        return x

    def make_room(self, cache: KVCache) -> None:
        """Let a cache live where recorded passes read and write."""
        if cache.max_len > self.max_len:
            raise ValueError(f"a cache of {cache.max_len} tokens was given; this StaticLlama has "
                             f"room for {self.max_len}. Make one with a larger max_len.")
        batch = cache.store.shape[2]
        if self.room is None or self.room.batch != batch:
            self.room = None        # its memory is free before the next one is made
            self.room = Room(self.next_pass(), *cache.store.shape[:4], max_len=self.max_len,
                             like=cache.store)
        self.room.admit(cache)

    def next_pass(self) -> NextHidden:
        """`next_hidden`, compiled where that was asked for, and the output with it."""
        if not self.compiled:
            return self.next_hidden
        self.output.compile(**TUNED)
        return torch.compile(self.next_hidden, fullgraph=True, dynamic=False,
                             isolate_recompiles=True, recompile_limit=MOST, **TUNED)

    def next_hidden(self, tokens: Tensor, positions: Tensor, mask: Tensor, store: Tensor
                    ) -> tuple[Tensor, Tensor]:
        """The normed stream `b 1 c` of one token per row, and its keys and values `n 2 b k 1 d`.

        store: those of the tokens before it, `n 2 b k s d`, which is only read; mask: `b s`, True
        where a row may see them; positions: `b 1`.
        """
        c, new = self.config, []
        freqs = rope_frequencies(c.head_dim, c.rope_theta, c.rope_scaling, device=tokens.device)
        rope = rope_table(freqs, positions[:, None])
        x = self.tok_embeddings(tokens)
        for block, (keys, values) in zip(self.layers, store, strict=True):
            q, k, v = block.heads(x, partial(turn_real, rope=rope))
            x = block.finish(x, attend_next(q, k, v, keys, values, mask))
            new.append(torch.stack([k, v]))
        return self.norm(x), torch.stack(new)


def turn_real(x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
    """What `layers.rotate` computes, in real numbers: compilers fuse no complex ones."""
    (cos, sin), (real, imag) = rope, x.float().unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack([real * cos - imag * sin, real * sin + imag * cos], dim=-1)
    return turned.flatten(-2).type_as(x)


def attend_next(q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor, mask: Tensor
                ) -> Tensor:
    """What `attend` gives one token per row, q `b h 1 d`, that sees itself and those before it.

    Its own k, v: `b k 1 d`; theirs: `b k s d`; mask: `b s`. The sum over values is taken in parts,
    which a GPU computes side by side however long the text is.
    """
    q = rearrange(q, "b (k g) 1 d -> b k g d", k=k.shape[1])
    before = einsum(q, keys, "b k g d, b k s d -> b k g s").masked_fill(
        ~mask[:, None, None], -torch.inf)
    own = einsum(q, k, "b k g d, b k one d -> b k g one")
    scores = torch.cat([before, own], dim=-1).float() / math.sqrt(q.shape[-1])
    weights, own_weight = scores.softmax(-1).type_as(q).split([mask.shape[1], 1], dim=-1)
    parts = einsum(weights.unflatten(-1, (-1, PART)), values.unflatten(2, (-1, PART)),
                   "b k g n r, b k n r d -> b k n g d")
    return rearrange(parts.sum(2) + own_weight * v, "b k g d -> b (k g) 1 d")


class Room:
    """Places in memory that stay: recorded passes read and write here, and one cache lives here."""

    def __init__(self, next_hidden: NextHidden, n_layers: int, two: int, batch: int,
                 n_kv_heads: int, *, max_len: int, like: Tensor):
        size = math.ceil(max_len / PART) * PART
        self.next_hidden, self.batch = next_hidden, batch
        self.recorded: dict[int, Work] = {}     # by the number of keys that are read
        self.tenant: Callable[[], KVCache | None] = lambda: None
        with torch.inference_mode(False):       # or nothing could be written outside of it
            self.store = like.new_zeros(n_layers, two, batch, n_kv_heads, size, like.shape[-1])
            self.mask = like.new_zeros(batch, size, dtype=torch.bool)
            self.tokens, self.positions = like.new_zeros(2, batch, 1, dtype=torch.long)
            self.column = like.new_zeros(1, dtype=torch.long)

    def admit(self, cache: KVCache) -> None:
        """Move a cache in, with what it holds, and who lives here out."""
        before = self.tenant()
        if before is cache:
            return
        if before is not None:
            before.store = before.store.clone()
        self.store.zero_()      # what is not seen is multiplied by zero: NaN must not stay there
        here = self.store[..., :cache.max_len, :]
        here[..., :cache.length, :] = cache.store[..., :cache.length, :]
        cache.store, self.tenant = here, weakref.ref(cache)

    def step(self, tokens: Tensor, start: int, positions: Tensor | None, mask: Tensor | None
             ) -> Tensor:
        """The stream `b 1 c` of tokens `b 1` at column `start`, which are added to the cache."""
        self.tokens.copy_(tokens)
        self.column.fill_(start)
        self.positions.copy_(self.column if positions is None else positions)
        self.mask.zero_()
        self.mask[:, :start] = True if mask is None else mask[:, 0, :start]
        n_keys = min(self.store.shape[4], max(SHORTEST, 1 << (start - 1).bit_length()))
        if n_keys not in self.recorded:
            self.recorded[n_keys] = record(partial(self.work, n_keys), self.store.device)
        return self.recorded[n_keys]().clone()      # the next replay writes over it

    def work(self, n_keys: int) -> Tensor:
        """What is recorded: the pass over so many keys, and its own key and value beside them."""
        x, new = self.next_hidden(self.tokens, self.positions, self.mask[:, :n_keys],
                                  self.store[..., :n_keys, :])
        self.store.index_copy_(4, self.column, new)
        return x


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
