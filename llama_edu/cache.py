"""The memory of a generation: keys and values already computed.

The caller makes a cache, hands it to the model, and may rewind it. The model keeps nothing.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from .config import ModelConfig


class KVCache:
    """Room for `max_len` tokens in every layer; `length` of them are filled.

    store: `n_layers 2 b k max_len d`, of the dtype and on the device of `like`.
    """

    def __init__(self, config: ModelConfig, batch: int, *, max_len: int, like: Tensor):
        if max_len > config.max_seq_len:
            raise ValueError(
                f"a cache of {max_len} tokens was asked for; this model's context is "
                f"{config.max_seq_len} tokens. Make the cache that long at most.")
        if min(batch, max_len) < 1:
            raise ValueError(f"a cache for {batch} texts of {max_len} tokens was asked for; 1 or "
                             "more of both is needed.")
        shape = (config.n_layers, 2, batch, config.n_kv_heads, max_len, config.head_dim)
        self.store = torch.zeros(shape, dtype=like.dtype, device=like.device)
        self.max_len = max_len
        self.length = 0

    def __getitem__(self, layer_id: int) -> "Slot":
        return Slot(self, layer_id)

    def rewind(self, length: int) -> None:
        """Forget every token from position `length` on."""
        if not 0 <= length <= self.length:
            raise ValueError(f"cannot rewind a cache of {self.length} tokens to {length}; "
                             f"a length from 0 to {self.length} is needed.")
        self.length = length


@dataclass(frozen=True)
class Slot:
    """One layer's part of the cache."""

    cache: KVCache
    layer_id: int

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Write keys and values `b k t d` after what is there; return everything: `b k s d`.

        The length moves once per pass, in the model, not here: every layer writes the same rows.
        """
        start, end = self.cache.length, self.cache.length + k.shape[2]
        if end > self.cache.max_len:
            raise ValueError(
                f"the cache holds {self.cache.max_len} tokens; {end} were asked for. "
                "Make a longer KVCache, or rewind this one.")
        keys, values = self.cache.store[self.layer_id]
        if len(keys) != len(k):
            raise ValueError(f"the cache was made for {len(keys)} texts; {len(k)} were given. "
                             "Make a new KVCache for this batch.")
        keys[:, :, start:end] = k
        values[:, :, start:end] = v
        return keys[:, :, :end], values[:, :, :end]
