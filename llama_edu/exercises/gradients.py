"""Whether gradients flow through an answer as they do through the reference."""

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from .compare import difference
from .data import Exercise, call_plainly
from .probing import Outcome, run

SEED = 3            # for the inputs, and for the directions in which the result is pulled
CUT_OFF = ("returned the right values, but cut off from `{name}`: no gradient flows back, so "
           "nothing before it could learn. Stay with torch's functions from the input to the "
           "result, without .item(), .tolist(), .detach(), .data or torch.tensor(...).")
ANOTHER = ("returned the right values, but another gradient for `{name}`. Is a part of the "
           "computation cut off by .item(), .detach(), .data or torch.no_grad()?")
IN_PLACE = ("returned the right values, but changed one in place that the way back still needs "
            "(`x += ...` and functions that end in `_` do): no gradient can be computed. Make a "
            "new value, as in `x = x + ...`.")
RAISED = "returned the right values; but where a gradient is wanted it raised {name}: {message}"


def wrong_gradient(exercise: Exercise, answer: Callable) -> str:
    """What is wrong with the gradient of an answer whose values are right; empty if nothing is.

    Only the first probe is asked: the others may stand where a right formula has no gradient.
    """
    if not exercise.gradients:
        return ""
    right, got = (_gradients(exercise, each) for each in (exercise.reference, answer))
    if got.raised is not None:
        in_place = re.search(r"in-?place operation", got.message)
        return IN_PLACE if in_place else RAISED.format(name=type(got.raised).__name__,
                                                       message=got.message)
    for name, expected in right.value.items():
        found = got.value[name]
        if found is None:
            return CUT_OFF.format(name=name)
        if difference(expected, found) is not None:
            return ANOTHER.format(name=name)
    return ""


def _gradients(exercise: Exercise, answer: Callable) -> Outcome:
    """For each input that matters, the gradient of the result pulled in a fixed direction.

    Of a module, for each of its parameters. None where there is none.
    """
    inputs = exercise.probes[0].inputs(seed=SEED)
    leaves = {}
    for name in exercise.gradients:
        held = inputs[name]
        leaves |= ({f"{name}.{part}": leaf for part, leaf in held.named_parameters()}
                   if isinstance(held, nn.Module) else {name: held})

    def pulled(*values: Any) -> dict[str, Tensor | None]:
        for leaf in leaves.values():
            leaf.requires_grad_()
        result = exercise.adapt(answer, *values)
        if not result.requires_grad:
            return dict.fromkeys(leaves)
        fixed = torch.Generator("cpu").manual_seed(SEED)
        pull = torch.randn(result.shape, generator=fixed, device="cpu").type_as(result)
        found = torch.autograd.grad(result, list(leaves.values()), pull, allow_unused=True)
        return dict(zip(leaves, found, strict=True))

    return run(replace(exercise, adapt=call_plainly), pulled, inputs)
