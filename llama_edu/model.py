"""One class for every text Llama, from 1 to 3.3. What differs is in the config."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .cache import KVCache
from .config import ModelConfig
from .layers import (
    Attention,
    FeedForward,
    RMSNorm,
    causal_mask,
    rope_frequencies,
    rope_table,
    widen,
)


@dataclass(frozen=True)
class Pass:
    """What any block may read while one forward pass runs."""

    rope: tuple[Tensor, Tensor]         # cos and sin, each broadcastable to `b h t d/2`
    mask: Tensor | None                 # as `attend_fused` takes it, True where a token may look
    cache: KVCache | None


def begin(c: ModelConfig, tokens: Tensor, cache: KVCache | None, positions: Tensor | None,
          mask: Tensor | None) -> Pass:
    """What all blocks read when tokens `b t` follow those in a cache; see `Llama.forward`.

    Raises ValueError where both together are more than the context.
    """
    start = 0 if cache is None else cache.length
    t, end = tokens.shape[1], start + tokens.shape[1]
    if end > c.max_seq_len:
        raise ValueError(f"{end} tokens were given; this model's context is {c.max_seq_len}. "
                         "Shorten the prompt.")
    if positions is None:
        positions = torch.arange(start, end, device=tokens.device)[None]
    if mask is None and start > 0 and t > 1:    # else `attend_fused` needs none
        mask = causal_mask(t, end, device=tokens.device)[None]
    freqs = rope_frequencies(c.head_dim, c.rope_theta, c.rope_scaling, device=tokens.device)
    return Pass(rope_table(freqs, positions[:, None]),
                None if mask is None else mask[:, None], cache)


class Block(nn.Module):
    """x + attention, then x + feed-forward, each behind its own norm."""

    def __init__(self, config: ModelConfig, layer_id: int):
        super().__init__()
        self.layer_id = layer_id
        self.attention_norm = RMSNorm(config.dim, config.norm_eps)
        self.attention = Attention(config)
        self.ffn_norm = RMSNorm(config.dim, config.norm_eps)
        self.feed_forward = FeedForward(config.dim, config.hidden_dim)

    def forward(self, x: Tensor, now: Pass) -> Tensor:
        memory = None if now.cache is None else now.cache.slot(self.layer_id)
        x = x + self.attention(self.attention_norm(x), now.rope, now.mask, memory)
        return x + self.feed_forward(self.ffn_norm(x))


class Llama(nn.Module):
    """Tokens `b t` in, logits `b t v` out, in float32 or wider.

    The parameter names are Meta's, so a `consolidated.00.pth` fits without renaming. A tied model
    has no `output`: its embedding's table is used twice.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.tok_embeddings = nn.Embedding(config.vocab_size, config.dim)
        self.layers = nn.ModuleList(Block(config, i) for i in range(config.n_layers))
        self.norm = RMSNorm(config.dim, config.norm_eps)
        self.output = None if config.tied_embeddings else nn.Linear(
            config.dim, config.vocab_size, bias=False)

    def blocks(self) -> Iterator[nn.Module]:
        """The layers in running order. The vision model overrides this, and nothing else."""
        return iter(self.layers)

    def new_cache(self, batch: int, max_len: int) -> KVCache:
        """Room for `batch` texts of `max_len` tokens. Raises ValueError beyond the context."""
        if max_len > self.config.max_seq_len:
            raise ValueError(f"a cache of {max_len} tokens was asked for; this model's context is "
                             f"{self.config.max_seq_len} tokens. Make the cache that long at most.")
        return KVCache(len(self.layers), batch, max_len)

    def forward(self, tokens: Tensor, cache: KVCache | None = None, *,
                positions: Tensor | None = None, mask: Tensor | None = None,
                head: bool = True) -> Tensor:
        """Logits, or without the head the normed residual stream, `b t c`.

        A row's tokens count on from those in the cache, and each sees all before it. Where that
        is not so (packed documents, padding on the left), say it: positions `b t`, and mask
        `b t s`, True where a token may look. Raises ValueError when the tokens, with those
        already in the cache, are more than `config.max_seq_len`.
        """
        now = begin(self.config, tokens, cache, positions, mask)
        x = self.tok_embeddings(tokens)
        for block in self.blocks():
            x = block(x, now)
        if cache is not None:
            cache.length += tokens.shape[1]
        x = self.norm(x)
        return self.logits(x) if head else x

    def hidden(self, tokens: Tensor, cache: KVCache | None = None, *,
               positions: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """The normed residual stream, `b t c`: what other heads build on. A call of the whole
        model, so that what wraps one (sharding, hooks) sees it; arguments as in `forward`, which is
        the one to override."""
        return self(tokens, cache, positions=positions, mask=mask, head=False)

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits `... v` of a normed stream `... c`, in float32 or wider."""
        if self.output is None:
            return widen(F.linear(hidden, self.tok_embeddings.weight))
        return widen(self.output(hidden))
