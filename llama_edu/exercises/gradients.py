"""Whether gradients flow through an answer as they do through the reference."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from .compare import difference
from .data import Exercise, call_plainly
from .probing import run


class InPlaceError(Exception):
    """A value that the gradient needs was overwritten."""


SEED = 3            # for the inputs, and for the directions in which the result is pulled
CUT_OFF = ("returned the right values, but cut off from `{name}`: no gradient flows back, so "
           "nothing before it could learn. Stay with torch's functions from the input to the "
           "result, without .item(), .tolist(), .detach(), .data or torch.tensor(...).")
ANOTHER = ("returned the right values, but another gradient for `{name}`. Is a part of the "
           "computation cut off by .item(), .detach(), .data or torch.no_grad()?")
IN_PLACE = ("returned the right values, but changed one in place that the way back still needs "
            "(`x += ...` and functions that end in `_` do): no gradient can be computed. Make a "
            "new value, as in `x = x + ...`.")


def wrong_gradient(exercise: Exercise, answer: Callable) -> str:
    """What is wrong with the gradient of an answer whose values are right; empty if nothing is.

    Only the first probe is asked: the others may stand where a right formula has no gradient.
    """
    if not exercise.gradients:
        return ""
    try:
        right, got = (_gradients(exercise, each) for each in (exercise.reference, answer))
    except InPlaceError:
        return IN_PLACE
    for name, expected in right.items():
        found = got.get(name)
        if found is None:
            return CUT_OFF.format(name=name)
        if difference(expected, found) is not None:
            return ANOTHER.format(name=name)
    return ""


def _gradients(exercise: Exercise, answer: Callable) -> dict[str, Tensor | None]:
    """For each input that matters, the gradient of the result pulled in a fixed direction.

    Of a module, for each of its parameters. None where there is none, for all of them where the
    answer refuses inputs that ask for one.
    """
    inputs = exercise.probes[0].inputs(seed=SEED)
    leaves = {}
    for name in exercise.gradients:
        held = inputs[name]
        leaves |= ({f"{name}.{part}": leaf for part, leaf in held.named_parameters()}
                   if isinstance(held, nn.Module) else {name: held})

    def pulled(*values: Any) -> list[Tensor | None]:
        for leaf in leaves.values():
            leaf.requires_grad_()
        result = exercise.adapt(answer, *values)
        if not result.requires_grad:
            return [None] * len(leaves)
        fixed = torch.Generator("cpu").manual_seed(SEED)
        pull = torch.randn(result.shape, generator=fixed, device="cpu").type_as(result)
        return list(torch.autograd.grad(result, list(leaves.values()), pull, allow_unused=True))

    outcome = run(replace(exercise, adapt=call_plainly), pulled, inputs)
    if "in-place operation" in outcome.message or "inplace operation" in outcome.message:
        raise InPlaceError
    return {} if outcome.raised else dict(zip(leaves, outcome.value, strict=True))
