"""Bug hunt of chapter 03: what may be wrong with attention."""

from collections.abc import Callable

import torch
from torch import Tensor

from ..layers import attend, causal_mask
from .ch03_attention import (
    heads,
    hide,
    scaled,
    shared_by,
    tiled,
    window,
    with_heads,
    with_mask,
    without_maximum,
)
from .hunts import HEALTHY, Bug, Hunt


def _look(suspect: Callable) -> Tensor:
    """Shared heads, a cache, a window, and scores far from zero on both sides."""
    rng = torch.Generator().manual_seed(0)
    shared = heads(rng, 1, 4, 2, causal_mask(3, 5), 3)
    narrow = heads(rng, 1, 2, 2, window(4, 4, 2), 3)
    far = [heads(rng, 1, 1, 1, causal_mask(3, 3), 2) for _ in range(2)]
    far = [each | {"q": torch.full((1, 1, 3, 2), size), "k": each["k"] + 4}
           for each, size in zip(far, (-9.0, 40.0), strict=True)]
    return torch.cat([suspect(**each).flatten() for each in (shared, narrow, *far)])


HUNT = Hunt(
    "3.3", "Five functions that agree, until one looks further", "Prove it",
    lambda: attend,
    bugs={
        "heads tiled": Bug(lambda: with_heads(tiled),
                           "gives query head 1 the second key head where two key heads serve four"),
        "aligned at the start": Bug(
            lambda: with_mask(lambda t, s: torch.ones(t, s, dtype=torch.bool).tril()),
            "uses no mask but its own, and lets one new token see only the first of five"),
        "hidden at -20": Bug(
            lambda: shared_by(lambda scores, mask: hide(scores, mask, -20.0).softmax(-1)),
            "lets a hidden token through as soon as all that may be seen scores below -20"),
        "no maximum": Bug(lambda: shared_by(without_maximum), "gives nan for scores of 100"),
        "scale forgotten": Bug(lambda: scaled(lambda q, k: q.shape[-1] ** 0.5),
                               "would already differ on the plain input above, and there all five "
                               "agreed"),
        "mask after the softmax": Bug(
            lambda: shared_by(lambda scores, mask: hide(scores.softmax(-1), mask, 0.0)),
            "gives less than 1 where every value is 1 and something is hidden, so it would "
            "differ on the plain input above, and there all five agreed"),
        "softmax over the queries": Bug(
            lambda: shared_by(lambda scores, mask: hide(scores.softmax(-2), mask, 0.0)),
            "changes the first token's result when a later query changes, so it would differ on "
            "the plain input above, and there all five agreed"),
    },
    hidden={"a": "hidden at -20", "b": "aligned at the start", "c": HEALTHY, "d": "heads tiled",
            "e": "no maximum"},
    look=_look,
    hints=(
        "One plain input is not enough. Change one thing at a time: fewer key heads, t < s, "
        "another mask, queries a hundred times as large. Compare with attend.",
        "Values of one-hot rows show the shares: who looks where that may not? Which key head "
        "does query head 1 hear?",
        "Make every score the same by q and k that are constant. What happens at +100? And where "
        "all that may be seen scores -100, and the hidden token does too?",
    ))

EXERCISES = [HUNT]
