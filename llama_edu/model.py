"""One class for every text Llama, from 1 to 3.3. What differs is in the config."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .cache import KVCache
from .config import ModelConfig
from .layers import Attention, FeedForward, RMSNorm, causal_mask, rope_frequencies, rope_table


@dataclass(frozen=True)
class Pass:
    """What any block may read while one forward pass runs."""

    rope: tuple[Tensor, Tensor]         # cos and sin, each broadcastable to `b h t d/2`
    mask: Tensor | None                 # as `attend_fused` takes it, True where a token may look
    cache: KVCache | None


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
        memory = None if now.cache is None else now.cache[self.layer_id]
        x = x + self.attention(self.attention_norm(x), now.rope, now.mask, memory)
        return x + self.feed_forward(self.ffn_norm(x))


class Llama(nn.Module):
    """Tokens `b t` in, logits `b t v` in float32 out.

    The parameter names are Meta's, so a `consolidated.00.pth` fits without renaming.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.tok_embeddings = nn.Embedding(config.vocab_size, config.dim)
        self.layers = nn.ModuleList(Block(config, i) for i in range(config.n_layers))
        self.norm = RMSNorm(config.dim, config.norm_eps)
        self.output = nn.Linear(config.dim, config.vocab_size, bias=False)
        if config.tied_embeddings:
            self.output.weight = self.tok_embeddings.weight

    def blocks(self) -> Iterator[nn.Module]:
        """The layers in running order. The vision model overrides this, and nothing else."""
        return iter(self.layers)

    def hidden(self, tokens: Tensor, cache: KVCache | None = None, *,
               positions: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """The normed residual stream, `b t c`: what heads other than `output` build on.

        A row's tokens count on from those in the cache, and each sees all before it. Where that
        is not so (packed documents, padding on the left), say it: positions `b t`, and mask
        `b t s`, True where a token may look. Raises ValueError when the tokens, with those
        already in the cache, are more than `config.max_seq_len`.
        """
        start = 0 if cache is None else cache.length
        end = start + tokens.shape[1]
        if end > self.config.max_seq_len:
            raise ValueError(f"{end} tokens were given; this model's context is "
                             f"{self.config.max_seq_len}. Shorten the prompt.")
        device = tokens.device
        if positions is None:
            positions = torch.arange(start, end, device=device)[None]
        if mask is None and start > 0:      # else attend_fused knows: each sees all before it
            mask = causal_mask(tokens.shape[1], end, device=device)[None]
        freqs = rope_frequencies(self.config.head_dim, self.config.rope_theta,
                                 self.config.rope_scaling, device=device)
        now = Pass(rope_table(freqs, positions[:, None]),
                   None if mask is None else mask[:, None], cache)
        x = self.tok_embeddings(tokens)
        for block in self.blocks():
            x = block(x, now)
        if cache is not None:
            cache.length = end
        return self.norm(x)

    def forward(self, tokens: Tensor, cache: KVCache | None = None, *,
                positions: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        return self.output(self.hidden(tokens, cache, positions=positions, mask=mask)).float()
