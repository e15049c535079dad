"""What rotary positions do, and how far the settings that were published lie apart."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from ...config import LLAMA_3_1_SCALING
from ...family.releases import release
from ...layers import rope_frequencies, rope_table, rotate


def _frequencies(id: str) -> Tensor:
    c = release(id).config
    return rope_frequencies(c.head_dim, c.rope_theta, c.rope_scaling)


def _scores(positions: Tensor, dim: int = 16) -> Tensor:
    """Queries times keys, six of each, all turned as these positions say."""
    q, k = torch.randn(2, 1, 1, 6, dim, generator=torch.Generator().manual_seed(0))
    table = rope_table(rope_frequencies(dim, 1e4), positions)
    return rotate(q, *table) @ rotate(k, *table).mT


def distance_from_orthogonal(position: int) -> float:
    """How far the matrix R that RoPE multiplies with at a position is from R R^T = 1."""
    basis = torch.eye(128)[None, None]
    r = rotate(basis, *rope_table(rope_frequencies(128, 1e4), torch.full((128,), position)))[0, 0]
    return (r @ r.T - torch.eye(128)).abs().max().item()


def cells_between_pairs(position: int) -> int:
    """Non-zero numbers of that matrix outside its blocks of two rows and two columns."""
    basis = torch.eye(128)[None, None]
    r = rotate(basis, *rope_table(rope_frequencies(128, 1e4), torch.full((128,), position)))[0, 0]
    blocks = torch.block_diag(*torch.ones(64, 2, 2)).bool()
    return int((r[~blocks] != 0).sum())


def likeness_of_sinusoids(offset: int, *, dim: int) -> float:
    """The cosine between two classical position vectors so many positions apart."""
    cos, sin = rope_table(rope_frequencies(dim, 1e4), torch.tensor([0, offset]))
    first, second = torch.cat([sin, cos], -1)
    return F.cosine_similarity(first, second, dim=0).item()


def scores_moved_by_a_shift(positions: int) -> float:
    """How much the scores change when query and keys all move on by so many positions."""
    return (_scores(torch.arange(6) + positions) - _scores(torch.arange(6))).abs().max().item()


def scores_moved_without_positions() -> float:
    """How much turning every token by one and the same angle for each pair changes the scores."""
    return (_scores(torch.ones(6)) - _scores(torch.zeros(6))).abs().max().item()


def scores_moved_with_positions() -> float:
    """How much turning each token by its position times that angle changes the scores."""
    return (_scores(torch.arange(6)) - _scores(torch.zeros(6))).abs().max().item()


def work_of_turning(id: str) -> float:
    """Operations of RoPE, as a share of those that make the queries and keys that it turns.

    Four products and two sums for a pair; a projection costs two for each of its weights.
    """
    return 3 / (2 * release(id).config.dim)


def pairs_without_a_full_turn(id: str) -> int:
    """Feature pairs that do not come round once in 8,192 positions: later, their angles are new."""
    return int((2 * math.pi / _frequencies(id) > 8192).sum())


def radians_apart(id: str, *, factor: float | None, position: int) -> float:
    """The largest difference of an angle between a release and itself with another scaling.

    factor: what slow waves are slowed by; None for no scaling at all.
    """
    return (position * (_frequencies(id) - _rescaled(id, factor)).abs().max()).item()


def pairs_apart(id: str, *, factor: float | None) -> int:
    """Feature pairs whose frequency is another one with that scaling."""
    return int((_frequencies(id) != _rescaled(id, factor)).sum())


def _rescaled(id: str, factor: float | None) -> Tensor:
    c, usual = release(id).config, LLAMA_3_1_SCALING
    scaling = None if factor is None else type(usual)(
        factor, usual.low_freq_factor, usual.high_freq_factor, usual.original_context)
    return rope_frequencies(c.head_dim, c.rope_theta, scaling)
