"""The bug hunt of chapter 11, 11.5: six ways to store a matrix, told apart by what comes back."""

from collections.abc import Callable

import torch
from torch import Tensor

from .hunts import HEALTHY, Bug, Hunt

Stored = tuple[int, Tensor]     # bytes, and the weights that are read again


def _least(x: Tensor) -> Tensor:
    return x.amin(1, keepdim=True)


def _span(x: Tensor) -> Tensor:
    return (x.amax(1, keepdim=True) - x.amin(1, keepdim=True)) / 15


def _halves(q: Tensor) -> Tensor:
    return q[:, :16] | q[:, 16:] << 4


def _setup(*, offset: Callable[[Tensor], Tensor] = _least,
           scale: Callable[[Tensor], Tensor] = _span, number: torch.dtype = torch.float16,
           packed: Callable[[Tensor], Tensor] = _halves, columns: bool = False,
           kept: Callable[[Tensor, Tensor], Tensor] = lambda low, s: low, half: float = 0.5
           ) -> Callable[[Tensor], Stored]:
    """Writes a matrix in blocks of Q4_1 and reads it again, healthy unless told otherwise."""

    def suspect(w: Tensor) -> Stored:
        given = w.T if columns else w
        x = given.float().reshape(-1, 32)
        s, low = scale(x), offset(x)
        q = (torch.where(s == 0, 0, (x - low) / s) + half).floor().clamp(0, 15).to(torch.uint8)
        head = torch.cat([s, kept(low, s)], 1).to(number)
        block = torch.cat([head.view(torch.uint8), packed(q)], 1)
        s, low = block[:, :-16].contiguous().view(number).float().chunk(2, 1)
        read = torch.cat([block[:, -16:] & 15, block[:, -16:] >> 4], 1) * s + low
        read = read.view(given.shape)
        return block.numel(), read.T if columns else read

    return suspect


def _look(suspect: Callable[[Tensor], Stored]) -> Tensor:
    """Two matrices: weights of all sizes, and weights far above zero."""
    rng = torch.Generator().manual_seed(0)
    w = torch.randn(32, 64, generator=rng) * (1 + torch.arange(32.0))[:, None]
    size, read = suspect(w)
    _, above = suspect(w.abs() + 100)
    return torch.cat([torch.tensor([float(size)]), read.flatten(), above.flatten()])


STORES = Hunt(
    "11.5", "Six ways to store a matrix", "Find the bug: six ways to store a matrix",
    healthy=_setup,
    bugs={
        "nibble order": Bug(
            lambda: _setup(packed=lambda q: q[:, ::2] | q[:, 1::2] << 4),
            "gives back weights that are right, in another order"),
        "scale in float32": Bug(
            lambda: _setup(number=torch.float32),
            "takes 24 bytes for 32 weights"),
        "zero point rounded": Bug(
            lambda: _setup(kept=lambda low, s: s * torch.where(s == 0, 0, low / s).round()),
            "does not give back a block's least weight"),
        "symmetric": Bug(
            lambda: _setup(offset=lambda x: -x.abs().amax(1, keepdim=True),
                           scale=lambda x: x.abs().amax(1, keepdim=True) * 2 / 15),
            "is worst where all weights of a block have one sign"),
        "one level unused": Bug(
            lambda: _setup(scale=lambda x: _span(x) * 15 / 14),
            "gives back 15 different weights of a block at most"),
        "group over rows": Bug(
            lambda: _setup(columns=True),
            "spoils the neighbours of a large weight in its column, and not in its row"),
        "least over the wrong axis": Bug(
            lambda: _setup(offset=lambda x: x.amin(0, keepdim=True).expand(len(x), 32)[:, :1]),
            "spoils one block when another one's first weight is moved"),
        "one scale for all": Bug(
            lambda: _setup(scale=lambda x: _span(x)[:1].expand(len(x), 1)),
            "cuts off a block that reaches further than the first one"),
        "rounded down": Bug(
            lambda: _setup(half=0.0),
            "gives back no weight that is larger than it was"),
    },
    hidden={"a": "least over the wrong axis", "b": "nibble order", "c": "zero point rounded",
            "d": HEALTHY, "e": "group over rows", "f": "scale in float32"},
    look=_look,
    hints=(
        "First the number of bytes. Then one block, weights 0 to 31 in turn: what comes back in "
        "which place?",
        "Then a matrix of two rows of 64 in which one weight is very large: which others suffer?",
        "The least and the largest weight of a block are levels of a healthy one. Try weights from "
        "0.31 to 1.",
    ))

EXERCISES = [STORES]
