"""Blocks of small whole numbers with common scales, as GGUF files store matrices.

A block is 32 or 256 numbers of a row. Each is a whole number q of 2 to 8 bits, and with the scale
of its group of 16 or 32, in some kinds with an offset too, it becomes

    w = scale * q + offset

The layouts are those of llama.cpp's ggml-common.h; 2 bytes are a float16. The kinds without a
reader here are rare, and most of them need large tables: the `gguf` package reads them.
`encode` has the writers.
"""

import math
from types import ModuleType
from typing import NamedTuple

import numpy as np
import torch
from einops import rearrange
from torch import Tensor


class Kind(NamedTuple):
    """How the numbers of a tensor are stored."""

    number: int                 # in the list of tensors
    block: int                  # numbers that share their scales
    n_bytes: int                # of a block

    def size(self, shape: tuple[int, ...]) -> int:
        """The bytes of a tensor whose rows are whole blocks."""
        return math.prod(shape) // self.block * self.n_bytes


KINDS = {
    "F32": Kind(0, 1, 4), "F16": Kind(1, 1, 2), "BF16": Kind(30, 1, 2),
    "Q8_0": Kind(8, 32, 34), "Q4_0": Kind(2, 32, 18), "Q4_1": Kind(3, 32, 20),
    "Q5_0": Kind(6, 32, 22), "Q5_1": Kind(7, 32, 24), "Q2_K": Kind(10, 256, 84),
    "Q3_K": Kind(11, 256, 110), "Q4_K": Kind(12, 256, 144), "Q5_K": Kind(13, 256, 176),
    "Q6_K": Kind(14, 256, 210), "IQ4_NL": Kind(20, 32, 18), "IQ4_XS": Kind(23, 256, 136),
    "IQ1_S": Kind(19, 256, 50), "IQ1_M": Kind(29, 256, 56), "IQ2_XXS": Kind(16, 256, 66),
    "IQ2_XS": Kind(17, 256, 74), "IQ2_S": Kind(22, 256, 82), "IQ3_XXS": Kind(18, 256, 98),
    "IQ3_S": Kind(21, 256, 110), "TQ1_0": Kind(34, 256, 54), "TQ2_0": Kind(35, 256, 66),
    "MXFP4": Kind(39, 32, 17), "NVFP4": Kind(40, 64, 36)}
UNREAD = {9: "Q8_1", 15: "Q8_K", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64", 41: "Q1_0"}
STEPS = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)     # of IQ4


def package() -> ModuleType:
    """The `gguf` package. It imports every tokenizer library that it finds, which takes seconds,
    so nobody should wait for it who does not need it."""
    import gguf
    return gguf


def decode(stored: np.ndarray, kind: str, w: Tensor) -> None:
    """Fill w, flat and float32, with the numbers of these blocks, given as bytes.

    Raises ValueError for a rare kind that the installed `gguf` package does not know.
    """
    if kind not in READERS:
        w.copy_(torch.from_numpy(_by_the_package(stored, kind)))
        return
    q, scale, offset = READERS[kind](torch.from_numpy(stored).view(-1, KINDS[kind].n_bytes))
    groups = w.view(*scale.shape, -1)
    groups.copy_(q.view_as(groups)).mul_(scale[..., None])
    if offset is not None:
        groups.add_(offset[..., None])


def _by_the_package(stored: np.ndarray, kind: str) -> np.ndarray:
    gguf = package()
    try:
        with np.errstate(all="ignore"):     # a broken scale shows when the numbers are checked
            return gguf.dequantize(stored, gguf.GGMLQuantizationType(KINDS[kind].number))
    except (ValueError, NotImplementedError):
        raise ValueError(f"the weights are stored as {kind}; a `gguf` package that reads it is "
                         "needed. Run: pip install --upgrade gguf.") from None


# -- 32 numbers, one group -------------------------------------------------------------------------


class Parts(NamedTuple):
    """Blocks taken apart."""

    q: Tensor                       # `blocks 32` or `blocks 256`
    scale: Tensor                   # `blocks groups`, float32
    offset: Tensor | None = None    # likewise


def _q8_0(blocks: Tensor) -> Parts:
    """Bytes: scale 2, q 32, with signs."""
    scale, q = blocks.split((2, 32), 1)
    return Parts(q.view(torch.int8), _float(scale))


def _q4_0(blocks: Tensor) -> Parts:
    """Bytes: scale 2, q 16. A byte holds the numbers i and i + 16, each with 8 added."""
    scale, q = blocks.split((2, 16), 1)
    return Parts(_signed(_layers(q, 4), 8), _float(scale))


def _q4_1(blocks: Tensor) -> Parts:
    """Bytes: scale 2, offset 2, q 16."""
    scale, offset, q = blocks.split((2, 2, 16), 1)
    return Parts(_layers(q, 4), _float(scale), _float(offset))


def _q5_0(blocks: Tensor) -> Parts:
    """Bytes: scale 2, the fifth bits 4, the four lower bits 16; 16 were added to each number."""
    scale, high, low = blocks.split((2, 4, 16), 1)
    return Parts(_signed(_layers(low, 4) | _in_turn(high, 1) << 4, 16), _float(scale))


def _q5_1(blocks: Tensor) -> Parts:
    """Bytes: scale 2, offset 2, the fifth bits 4, the four lower bits 16."""
    scale, offset, high, low = blocks.split((2, 2, 4, 16), 1)
    return Parts(_layers(low, 4) | _in_turn(high, 1) << 4, _float(scale), _float(offset))


def _iq4_nl(blocks: Tensor) -> Parts:
    """Bytes: scale 2, q 16. Each number is a place in a table, finer near zero."""
    scale, q = blocks.split((2, 16), 1)
    return Parts(_steps(_layers(q, 4)), _float(scale))


# -- 256 numbers: a scale of few bits for each group, times one for all ----------------------------


def _q2_k(blocks: Tensor) -> Parts:
    """Bytes: 16 scales and 16 offsets of 4 bits 16, q 64, scale 2, offset 2, to be subtracted.

    32 bytes of q hold 128 numbers: the lowest two bits of all, then the next two.
    """
    small, q, scale, offset = blocks.split((16, 64, 2, 2), 1)
    return Parts(_layers(q.unflatten(1, (2, 32)), 2), _float(scale) * (small & 15),
                 -_float(offset) * (small >> 4))


def _q3_k(blocks: Tensor) -> Parts:
    """Bytes: the third bits 32, the two lower bits 64, 16 scales of 6 bits 12, scale 2.

    4 was added to each number, and 32 to each small scale, whose lower four bits come first.
    """
    high, low, small, scale = blocks.split((32, 64, 12, 2), 1)
    small = _layers(small[:, :8], 4) | _layers(small[:, 8:], 2) << 4
    q = _layers(low.unflatten(1, (2, 32)), 2).flatten(1) | _layers(high, 1) << 2
    return Parts(_signed(q, 4), _float(scale) * _signed(small, 32))


def _q4_k(blocks: Tensor) -> Parts:
    """Bytes: scale 2, offset 2, 8 scales and 8 offsets of 6 bits 12, q 128.

    32 bytes of q hold 64 numbers: the lower four bits of all, then the higher four.
    """
    *scales, q = blocks.split((2, 2, 12, 128), 1)
    return Parts(_layers(q.unflatten(1, (4, 32)), 4), *_of_6_bits(*scales))


def _q5_k(blocks: Tensor) -> Parts:
    """Bytes: scale 2, offset 2, scales and offsets 12, the fifth bits 32, the lower four 128."""
    *scales, high, low = blocks.split((2, 2, 12, 32, 128), 1)
    q = _layers(low.unflatten(1, (4, 32)), 4).flatten(1) | _layers(high, 1) << 4
    return Parts(q, *_of_6_bits(*scales))


def _of_6_bits(scale: Tensor, offset: Tensor, small: Tensor) -> tuple[Tensor, Tensor]:
    """The scales and offsets of 8 groups of 32.

    Bytes 0 to 3 hold the first four scales, 4 to 7 the first four offsets, and in their highest
    two bits those of the other four, whose lower four bits are in bytes 8 to 11.
    """
    first, rest = small.split((8, 4), 1)
    both = torch.stack([first & 63, _layers(rest, 4) | first >> 6 << 4])
    scales, offsets = rearrange(both, "half n (what group) -> what n (half group)", what=2)
    return _float(scale) * scales, -_float(offset) * offsets


def _q6_k(blocks: Tensor) -> Parts:
    """Bytes: the four lower bits 128, the two higher bits 64, 16 scales with signs 16, scale 2.

    Both lie as in Q4_K and Q2_K, by halves of 128 numbers; 32 was added to each.
    """
    low, high, small, scale = blocks.split((128, 64, 16, 2), 1)
    low, high = low.unflatten(1, (2, 64)), high.unflatten(1, (2, 32))
    return Parts(_signed(_layers(low, 4) | _layers(high, 2) << 4, 32),
                 _float(scale) * small.view(torch.int8))


def _iq4_xs(blocks: Tensor) -> Parts:
    """Bytes: scale 2, 8 scales of 6 bits: the two higher 2, the four lower 4; q 128.

    16 bytes of q are 32 numbers as in IQ4_NL; 32 was added to each small scale.
    """
    scale, high, low, q = blocks.split((2, 2, 4, 128), 1)
    small = _in_turn(low, 4) | _in_turn(high, 2) << 4
    return Parts(_steps(_layers(q.unflatten(1, (8, 16)), 4)), _float(scale) * _signed(small, 32))


READERS = {"Q8_0": _q8_0, "Q4_0": _q4_0, "Q4_1": _q4_1, "Q5_0": _q5_0, "Q5_1": _q5_1,
           "Q2_K": _q2_k, "Q3_K": _q3_k, "Q4_K": _q4_k, "Q5_K": _q5_k, "Q6_K": _q6_k,
           "IQ4_NL": _iq4_nl, "IQ4_XS": _iq4_xs}


# -- what they share -------------------------------------------------------------------------------


def _float(stored: Tensor) -> Tensor:
    return stored.view(torch.float16).float()


def _signed(q: Tensor, added: int) -> Tensor:
    return q.view(torch.int8).sub_(added)


def _steps(places: Tensor) -> Tensor:
    steps = torch.tensor(STEPS, dtype=torch.int8)
    return steps.index_select(0, places.flatten().int()).view_as(places)


def _layers(stored: Tensor, bits: int, turn: int = -2) -> Tensor:
    """Bytes as numbers of few bits: the lowest bits of every byte, then the next of every byte."""
    stored = stored.contiguous()
    cut = [stored >> shift & (1 << bits) - 1 for shift in range(0, 8, bits)]
    return torch.stack(cut, turn).flatten(-2)


def _in_turn(stored: Tensor, bits: int) -> Tensor:
    """The same numbers in another order: all of the first byte, then those of the next."""
    return _layers(stored, bits, turn=-1)
