"""The exercises of chapter 07, continued: 7.4, ragged prompts."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..generation import places
from ..layers import causal_mask
from .data import Exercise, Misconception, Probe, count

# -- 7.4: ragged prompts --------------------------------------------------------------------------


def _package_places(pads: Tensor, t: int) -> tuple[Tensor, Tensor]:
    return places(pads, 0, t)


def _any_integers(answer: Callable, pads: Tensor, t: int) -> Any:
    """The answer, its positions as int64: any kind of integer will do."""
    made = answer(pads, t)
    if type(made) is not tuple or len(made) != 2 or not isinstance(made[0], Tensor):
        return made
    kinds = (torch.int32, torch.int16, torch.int8, torch.uint8)
    return (made[0].long() if made[0].dtype in kinds else made[0], made[1])


def _places_slip(name: str, why: str, *,
                 positions: Callable = lambda pads, t: places(pads, 0, t)[0],
                 mask: Callable = lambda pads, t: places(pads, 0, t)[1],
                 also: tuple[Callable, ...] = ()) -> Misconception:
    """One of the two done wrongly."""
    return Misconception(name, lambda pads, t: (positions(pads, t), mask(pads, t)), why, also=also)


def _real(pads: Tensor, t: int) -> Tensor:
    """`b t`, True where a column has a token."""
    return torch.arange(t) >= pads[:, None]


def _seen(pads: Tensor, t: int) -> Tensor:
    """The right mask, before empty places see themselves."""
    return causal_mask(t, t) & _real(pads, t)[:, None]


def _eye(t: int) -> Tensor:
    return torch.eye(t, dtype=torch.bool)


def _on_the_right(pads: Tensor, t: int) -> tuple[Tensor, Tensor]:
    """Positions and mask of rows whose empty places are on the right."""
    real = torch.arange(t) < t - pads[:, None]
    return torch.arange(t) * real, causal_mask(t, t) & real[:, None] | _eye(t)


PLACES = Exercise(
    "7.4", "Positions and mask of ragged prompts", "Many prompts at once", _package_places,
    probes=(
        Probe("two rows", lambda rng: {"pads": torch.tensor([0, 2]), "t": 4}),
        Probe("three rows", lambda rng: {"pads": torch.tensor([3, 0, 1]), "t": 5}),
        Probe("drawn", lambda rng: {"pads": torch.randint(1, 5, (3,), generator=rng),
                                    "t": count(rng, 6, 8)}),
        Probe("one token", lambda rng: {"pads": torch.tensor([2, 0]), "t": 3}),
        Probe("nothing empty", lambda rng: {"pads": torch.tensor([0]), "t": 1}),
        Probe("short integers", lambda rng: {"pads": torch.tensor([1, 3], dtype=torch.int32),
                                             "t": 4}),
    ),
    misconceptions=(
        _places_slip("positions by column",
                     "you numbered the columns. A row's first token stands at 0, wherever its "
                     "column is.", positions=lambda pads, t: torch.arange(t).repeat(len(pads), 1),
                     also=(lambda pads, t: (torch.arange(t) * _real(pads, t),
                                            places(pads, 0, t)[1]),)),
        _places_slip("clamped from above",
                     "your tokens stand at 0 or below: clamp(min=0), not max; and columns minus "
                     "pads, not the reverse.",
                     positions=lambda pads, t: (torch.arange(t) - pads[:, None]).clamp(max=0),
                     also=(lambda pads, t: ((pads[:, None] - torch.arange(t)).clamp(min=0),
                                            places(pads, 0, t)[1]),)),
        _places_slip("positions from one",
                     "your first token stands at 1. Positions start at 0: a cumsum of ones has to "
                     "lose one.", positions=lambda pads, t: _real(pads, t).long().cumsum(1)),
        _places_slip("empty places at one",
                     "your empty places stand at position 1. Here they stand at 0.",
                     positions=lambda pads, t: places(pads, 0, t)[0].masked_fill(
                         ~_real(pads, t), 1)),
        _places_slip("positions not below one",
                     "your smallest position is 1, so a row's first two tokens share it. The first "
                     "stands at 0.",
                     positions=lambda pads, t: (torch.arange(t) - pads[:, None]).clamp(min=1)),
        _places_slip("positions one early",
                     "your first two tokens stand both at 0: the second stands at 1.",
                     positions=lambda pads, t: (torch.arange(t) - pads[:, None] - 1).clamp(min=0)),
        _places_slip("distances",
                     "your empty places have the distance to the first token as their position. "
                     "They stand at 0: clamp(min=0), not abs.",
                     positions=lambda pads, t: (torch.arange(t) - pads[:, None]).abs()),
        _places_slip("positions wrapped around",
                     "your empty places wrap around to the end of the row. They stand at 0: "
                     "clamp(min=0).",
                     positions=lambda pads, t: (torch.arange(t) - pads[:, None]) % t),
        _places_slip("all tokens at one",
                     "your positions say which places are real. Say where each token stands: 0, 1, "
                     "2, ... from the row's first.",
                     positions=lambda pads, t: _real(pads, t).long()),
        _places_slip("positions back to front",
                     "your positions fall along the row. They rise from a row's first token on.",
                     positions=lambda pads, t: places(pads, 0, t)[0].flip(1),
                     also=(lambda pads, t: ((t - 1 - torch.arange(t)).expand(len(pads), t)
                                            .masked_fill(~_real(pads, t), 0),
                                            places(pads, 0, t)[1]),)),
        _places_slip("pads added",
                     "you added `pads` to the columns. A row's first token is in column `pads` and "
                     "stands at 0: subtract.",
                     positions=lambda pads, t: torch.arange(t) + pads[:, None]),
        _places_slip("the first row's positions", "every row has the positions of the first.",
                     positions=lambda pads, t: places(pads[:1], 0, t)[0].repeat(len(pads), 1)),
        _places_slip("the first token hidden",
                     "you hide a row's first token too: it stands in column `pads`, and columns "
                     "count from 0.", mask=lambda pads, t: causal_mask(t, t)
                     & (torch.arange(t) > pads[:, None])[:, None] | _eye(t)),
        _places_slip("the first row's mask", "every row has the mask of the first.",
                     mask=lambda pads, t: places(pads[:1], 0, t)[1].repeat(len(pads), 1, 1)),
        _places_slip("negative positions",
                     "your empty places have negative positions. Set them to 0: clamp(min=0).",
                     positions=lambda pads, t: torch.arange(t) - pads[:, None],
                     also=(lambda pads, t: ((torch.arange(t) - pads[:, None]).clamp(min=-1),
                                            places(pads, 0, t)[1]),)),
        _places_slip("positions as on the right",
                     "you counted as if the empty places were on the right. They are on the left.",
                     positions=lambda pads, t: torch.arange(t).expand(len(pads), t).masked_fill(
                         torch.arange(t) >= t - pads[:, None], 0),
                     also=(lambda pads, t: (torch.minimum(torch.arange(t), t - 1 - pads[:, None]),
                                            places(pads, 0, t)[1]),)),
        _places_slip("padding visible", "tokens see the empty places before them. Hide those "
                     "columns.", mask=lambda pads, t: causal_mask(t, t).repeat(len(pads), 1, 1)),
        _places_slip("padding sees nothing",
                     "your empty places see nothing at all, and a softmax over nothing is NaN. Let "
                     "each see itself.", mask=_seen),
        _places_slip("padding sees all",
                     "your empty places see each other. Each sees itself only.",
                     mask=lambda pads, t: causal_mask(t, t)
                     & (_real(pads, t)[:, None] | ~_real(pads, t)[:, :, None]),
                     also=(lambda pads, t: (places(pads, 0, t)[0],
                                            _seen(pads, t) | ~_real(pads, t)[:, :, None]),
                           lambda pads, t: (places(pads, 0, t)[0], _seen(pads, t)
                                            | ~_real(pads, t)[:, :, None]
                                            & (torch.arange(t) == 0)))),
        _places_slip("rows hidden",
                     "you silenced the rows of the empty places. It is their columns that nobody "
                     "may see.", mask=lambda pads, t: causal_mask(t, t)
                     & _real(pads, t)[:, :, None] | _eye(t)),
        _places_slip("not causal", "tokens see the future: the causal mask is missing.",
                     mask=lambda pads, t: _real(pads, t)[:, None].repeat(1, t, 1) | _eye(t),
                     also=(lambda pads, t: (places(pads, 0, t)[0],
                                            _real(pads, t)[:, None].repeat(1, t, 1)),)),
        _places_slip("the mask transposed",
                     "your tokens see what follows them and not what is before. Row i looks, "
                     "column j is looked at: j <= i.",
                     mask=lambda pads, t: causal_mask(t, t).T & _real(pads, t)[:, None] | _eye(t),
                     also=(lambda pads, t: (places(pads, 0, t)[0],
                                            places(pads, 0, t)[1].transpose(1, 2)),
                           lambda pads, t: (places(pads, 0, t)[0], causal_mask(t, t).T
                                            & _real(pads, t)[:, None]),
                           lambda pads, t: (places(pads, 0, t)[0],
                                            causal_mask(t, t).T.repeat(len(pads), 1, 1)))),
        _places_slip("tokens that do not see themselves",
                     "your tokens do not see themselves, only those before. A row's first token "
                     "sees nothing then, and a softmax over nothing is NaN.",
                     mask=lambda pads, t: _seen(pads, t) & ~_eye(t)
                     | _eye(t) & ~_real(pads, t)[:, None],
                     also=(lambda pads, t: (places(pads, 0, t)[0], _seen(pads, t) & ~_eye(t)),)),
        _places_slip("one token ahead", "your tokens see one place too far: the one that follows.",
                     mask=lambda pads, t: torch.ones(t, t, dtype=torch.bool).tril(1)
                     & _real(pads, t)[:, None] | _eye(t)),
        _places_slip("the empty ones for the real",
                     "your comparison is the wrong way round: the empty places are seen and the "
                     "tokens hidden.",
                     mask=lambda pads, t: causal_mask(t, t) & ~_real(pads, t)[:, None] | _eye(t),
                     also=(lambda pads, t: (places(pads, 0, t)[0], causal_mask(t, t) & (
                               torch.arange(t) <= pads[:, None])[:, None] | _eye(t)),
                           lambda pads, t: (places(pads, 0, t)[0],
                                            causal_mask(t, t) & ~_real(pads, t)[:, None]))),
        _places_slip("or for and",
                     "you joined with | what has to hold together: a column is seen if it is real "
                     "*and* does not lie ahead.",
                     mask=lambda pads, t: causal_mask(t, t) | _real(pads, t)[:, None]),
        _places_slip("padded on the right",
                     "you placed the empty columns on the right. They are on the left: a row's "
                     "first token stands in column `pads`.",
                     positions=lambda pads, t: _on_the_right(pads, t)[0],
                     mask=lambda pads, t: _on_the_right(pads, t)[1],
                     also=(lambda pads, t: (torch.arange(t).repeat(len(pads), 1),
                                            _on_the_right(pads, t)[1]),
                           lambda pads, t: (torch.minimum(torch.arange(t), t - 1 - pads[:, None]),
                                            _on_the_right(pads, t)[1]),
                           lambda pads, t: (_on_the_right(pads, t)[0], causal_mask(t, t)
                                            & (torch.arange(t) < t - pads[:, None])[:, None]))),
        _places_slip("hidden on the right",
                     "you hid the last columns. The empty places are on the left.",
                     mask=lambda pads, t: causal_mask(t, t)
                     & (torch.arange(t) < t - pads[:, None])[:, None] | _eye(t)),
        _places_slip("inverted", "your mask is True where a column may not look. Here True means: "
                     "may look.", mask=lambda pads, t: ~places(pads, 0, t)[1],
                     also=(lambda pads, t: (places(pads, 0, t)[0], ~_seen(pads, t)),)),
    ),
    hints=(
        "columns = torch.arange(t); a column is real in a row if columns >= pads[:, None].",
        "Positions are columns - pads[:, None], not below 0. Row i sees column j if "
        "pads <= j <= i, or if i == j.",
        "For the mask, pads[:, None, None] stands against the columns, and columns[:, None] are "
        "the rows that look. Or: causal_mask(t, t), and the real columns, or torch.eye.",
    ),
    adapt=_any_integers)

EXERCISES = [PLACES]
