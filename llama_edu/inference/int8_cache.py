"""A cache in a quarter of the bytes of float32, half of those of 16 bits.

Every row of a head, one token's key or value `d`, becomes whole numbers from -127 to 127 and one
scale; what is read back are floats, each off by half a scale at most. A token is rounded once.
"""

from torch import Tensor

from ..cache import KVCache, Slot
from ..compress.quant import in_8_bits


class Int8Cache(KVCache):
    """A cache for `stream(..., cache=)` whose slots hold numbers and, in as many more, scales."""

    def __init__(self, n_layers: int, batch: int, max_len: int):
        super().__init__(2 * n_layers, batch, max_len)
        self.n_layers = n_layers

    def slot(self, layer_id: int) -> "Int8Slot":
        return Int8Slot(super().slot(layer_id), super().slot(self.n_layers + layer_id))


class Int8Slot:
    """One layer's part: numbers `b k max_len d` in one slot, their scales `b k max_len 1` in
    another."""

    def __init__(self, numbers: Slot, scales: Slot):
        self.numbers, self.scales = numbers, scales

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """What `Slot.append` does, but for rounding. No gradient flows through it."""
        (k, k_scale), (v, v_scale) = in_8_bits(k.detach()), in_8_bits(v.detach())
        k, v = self.numbers.append(k, v)
        k_scale, v_scale = self.scales.append(k_scale, v_scale)
        return k * k_scale, v * v_scale
