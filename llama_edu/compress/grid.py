"""Round to nearest: each group of neighbours in a row has evenly spaced levels of its own.

    rounded(weight, bits=4, group=32)           16 levels from a group's least weight to its largest
    rounded(weight, bits=4, symmetric=True)     15 levels around zero, for a whole row

Both return the weights that one would compute with, in the dtype that was given.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Grid(NamedTuple):
    """The levels of some groups: scale * q + offset for whole numbers q from `least` to `most`."""

    scale: Tensor       # `... 1`
    offset: Tensor      # `... 1`
    least: int
    most: int

    def nearest(self, w: Tensor) -> Tensor:
        """The level next to each weight; those beyond the ends become the ends."""
        q = ((w - self.offset) / self.scale).round().clamp(self.least, self.most)
        return self.scale * q + self.offset


def grid(w: Tensor, *, bits: int, symmetric: bool = False) -> Grid:
    """The levels of groups `... group`: 2^bits of them from the least weight to the largest, or,
    symmetric, one fewer around zero, at one end of them the weight that is farthest from it.

    Raises ValueError for fewer than 1 bit, or 2 where they are symmetric, and for more than 8.
    """
    if not 1 + symmetric <= bits <= 8:
        raise ValueError(f"{bits} bits a weight were asked for; {1 + symmetric} to 8 are needed. "
                         "Choose another number.")
    smallest = torch.finfo(w.dtype).tiny        # one can divide by it: of nothing but one weight
    if symmetric:
        most = 2**(bits - 1) - 1
        scale = (w.abs().amax(-1, keepdim=True) / most).clamp(min=smallest)
        return Grid(scale, torch.zeros_like(scale), -most, most)
    low, high = (end(-1, keepdim=True) for end in (w.amin, w.amax))
    most = 2**bits - 1
    return Grid(((high - low) / most).clamp(min=smallest), low, 0, most)


def grouped(w: Tensor, group: int | None) -> Tensor:
    """Rows `out in` as `out groups group`; None is a group for the whole row.

    Raises ValueError where groups of this length do not fill the rows.
    """
    size = w.shape[1] if group is None else group
    if size < 1 or w.shape[1] % size:
        raise ValueError(f"groups of {group} were asked for; rows of {w.shape[1]} weights need a "
                         "length that divides them. Choose another, or None for whole rows.")
    return w.unflatten(1, (-1, size))


def rounded(w: Tensor, *, bits: int, group: int | None = None, symmetric: bool = False) -> Tensor:
    """Weights `out in`, each as the nearest level of its group. Raises as `grid` and `grouped`."""
    groups = grouped(w, group)
    return grid(groups, bits=bits, symmetric=symmetric).nearest(groups).flatten(1)
