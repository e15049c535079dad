"""The memory of a generation: keys and values already computed.

A model makes a cache, the caller hands it to every pass and may rewind it. The model keeps none.
"""

import torch
from torch import Tensor


class KVCache:
    """Room for `max_len` tokens of each of `batch` texts in every layer; `length` are filled.

    Raises ValueError where that is room for nothing.
    """

    def __init__(self, n_layers: int, batch: int, max_len: int):
        if min(batch, max_len) < 1:
            raise ValueError(f"a cache for {batch} texts of {max_len} tokens was asked for; 1 or "
                             "more of both is needed.")
        self.batch, self.max_len, self.length = batch, max_len, 0
        self.slots = [Slot(self) for _ in range(n_layers)]

    def slot(self, layer_id: int) -> "Slot":
        """One layer's part. Raises IndexError for a layer that the model does not have."""
        if not 0 <= layer_id < len(self.slots):
            raise IndexError(f"layer {layer_id} was asked for; this cache has layers 0 to "
                             f"{len(self.slots) - 1}. Let the model make its own: new_cache.")
        return self.slots[layer_id]

    def rewind(self, length: int) -> None:
        """Forget every token from position `length` on. Raises ValueError where it has fewer."""
        if not 0 <= length <= self.length:
            raise ValueError(f"cannot rewind a cache of {self.length} tokens to {length}; "
                             f"a length from 0 to {self.length} is needed.")
        self.length = length

    def take(self, other: "KVCache") -> None:
        """Begin with what another cache of the same model holds."""
        self.length = 0
        for mine, theirs in zip(self.slots, other.slots, strict=True):
            if theirs.keys is not None:
                mine.append(theirs.keys[:, :, :other.length], theirs.values[:, :, :other.length])
        self.length = other.length


class Slot:
    """One layer's part of a cache: keys and values `b k max_len d`.

    They are made when the first arrive, so they have the heads, dtype and device of these.
    """

    def __init__(self, cache: KVCache):
        self.cache = cache
        self.keys: Tensor | None = None
        self.values: Tensor | None = None

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Write keys and values `b k t d` after what is there; return everything: `b k s d`.

        The length moves once per pass, in the model, not here: every layer writes the same rows.
        Gradients flow through all that was written. Raises ValueError where there is no room.
        """
        start, end = self.cache.length, self.cache.length + k.shape[2]
        if end > self.cache.max_len:
            raise ValueError(f"the cache holds {self.cache.max_len} tokens; {end} were asked for. "
                             "Make a longer one with new_cache, or rewind this one.")
        if len(k) != self.cache.batch:
            raise ValueError(f"the cache was made for {self.cache.batch} texts; {len(k)} were "
                             "given. Make a new one for this batch.")
        if self.keys is None:
            self.keys, self.values = self._room(k), self._room(v)
        self.keys[:, :, start:end] = k
        self.values[:, :, start:end] = v
        keys, values = self.keys[:, :, :end], self.values[:, :, :end]
        if keys.requires_grad:      # what a backward pass will read must not be written over
            return keys.clone(), values.clone()
        return keys, values

    def _room(self, like: Tensor) -> Tensor:
        b, k, _, d = like.shape
        with torch.inference_mode(False):       # or nothing could be written outside of it
            return torch.zeros(b, k, self.cache.max_len, d, dtype=like.dtype, device=like.device)
