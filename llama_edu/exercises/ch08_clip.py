"""The exercise of chapter 08 on clipping, 8.5."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor, nn

from ..training_loop import mean_and_clip
from .data import Exercise, Inputs, Misconception, Probe, between, normal


def _package_clip(gradients: list[Tensor], max_norm: float) -> list[Tensor]:
    model = nn.ParameterList(torch.zeros_like(gradient) for gradient in gradients)
    for parameter, gradient in zip(model, gradients, strict=True):
        parameter.grad = gradient.clone()
    try:
        mean_and_clip(model, 1, max_norm)
    except FloatingPointError as error:
        raise ValueError(str(error)) from error
    return [parameter.grad for parameter in model]


def _clip_inputs(rng: Generator, *sizes: float, most: tuple[float, float] = (0.9, 1.2)) -> Inputs:
    shapes = ((3, 2), (4,), (2, 2))
    gradients = [normal(rng, *shape, mean=1.0) for shape in shapes]
    return {"gradients": [size * g / g.norm() for size, g in zip(sizes, gradients, strict=True)],
            "max_norm": between(rng, *most)}


def _exactly(rng: Generator) -> Inputs:
    return {"gradients": [torch.tensor([[3.0], [0.0]]), torch.tensor([0.0, -4.0])], "max_norm": 5.0}


def _not_finite(rng: Generator, number: float) -> Inputs:
    inputs = _clip_inputs(rng, 0.5, 0.5, 0.5)
    inputs["gradients"][1][2] = number
    inputs["gradients"].append(normal(rng, 5, 6))      # not the smallest probe: others tell more
    return inputs


def _clip(norm: Callable[[list[Tensor]], Any], *, always: bool = False, refuse: bool = False
          ) -> Callable:
    """Clipping with another idea of how long all gradients together are."""

    def answer(gradients: list[Tensor], max_norm: float) -> list[Tensor]:
        if refuse:
            _refuse(gradients)
        scale = max_norm / norm(gradients)
        return [g * (scale if always else min(1.0, scale)) for g in gradients]

    return answer


def _refuse(gradients: list[Tensor]) -> None:
    if not all(g.isfinite().all() for g in gradients):
        raise ValueError("a finite gradient is needed.")


def _refusing(answer: Callable) -> Callable:
    """The same mistake by one who refuses what is not finite."""

    def refusing(gradients: list[Tensor], max_norm: float) -> list[Tensor]:
        _refuse(gradients)
        return answer(gradients, max_norm)

    return refusing


def _or_one(norm: Callable[[list[Tensor]], Any]) -> Callable[[list[Tensor]], float]:
    return lambda gradients: float(norm(gradients)) or 1.0


def _length_slip(name: str, norm: Callable[[list[Tensor]], Any], why: str, *, always: bool = False
                 ) -> Misconception:
    """Another length, as a tensor or as a Python number: the latter raises where it is zero."""
    ways = [_clip(each, always=always, refuse=refuse) for refuse in (False, True)
            for each in (norm, lambda gs: float(norm(gs)), _or_one(norm))]
    return Misconception(name, ways[0], why, also=tuple(ways[1:]))


def _together(gradients: list[Tensor]) -> Tensor:
    return torch.cat([g.flatten() for g in gradients]).norm()


def _only_infinity(gradients: list[Tensor], max_norm: float) -> list[Tensor]:
    length = _together(gradients)
    if length.isinf():
        raise ValueError("a finite gradient is needed.")
    return [g * (max_norm / length) if length > max_norm else g.clone() for g in gradients]


def _only_nan(answer: Callable) -> Callable:
    """Right but for infinity, which `isnan` does not find."""

    def refusing(gradients: list[Tensor], max_norm: float) -> list[Tensor]:
        if any(g.isnan().any() for g in gradients):
            raise ValueError("a number is needed.")
        return answer(gradients, max_norm)

    return refusing


def _each_alone(gradients: list[Tensor], max_norm: float) -> list[Tensor]:
    return [g * min(1.0, max_norm / g.norm()) for g in gradients]


def _clamped(gradients: list[Tensor], max_norm: float) -> list[Tensor]:
    return [g.clamp(-max_norm, max_norm) for g in gradients]


def _bare_division(gradients: list[Tensor], max_norm: float) -> list[Tensor]:
    return [g / _together(gradients) * min(_together(gradients), max_norm) for g in gradients]


def _shortened_to_one(gradients: list[Tensor], max_norm: float) -> list[Tensor]:
    length = _together(gradients)
    return [g / length if length > max_norm else g.clone() for g in gradients]


def _rescaled(scale: Callable[[float], float]) -> Callable:
    """Clipping by another scale where the gradients are too long; right in all else."""

    def answer(gradients: list[Tensor], max_norm: float) -> list[Tensor]:
        _refuse(gradients)
        length = float(_together(gradients))
        by = scale(max_norm / length) if length > max_norm else 1.0
        return [g * by for g in gradients]

    return answer


def _spread(name: str, length: Callable[[Tensor], Tensor], why: str) -> Misconception:
    """Each part clipped by a length of its own."""

    def answer(gradients: list[Tensor], max_norm: float) -> list[Tensor]:
        return [g * (max_norm / length(g).clamp(min=1e-12)).clamp(max=1.0) for g in gradients]

    return Misconception(name, _refusing(answer), why, also=(answer,))


def _subtracted(gradients: list[Tensor], max_norm: float) -> list[Tensor]:
    over = (_together(gradients) - max_norm).clamp(min=0)
    return [g - over * g.sign() for g in gradients]


CLIP = Exercise(
    "8.5", "Clip the gradient", "Your turn: a gradient that is too long", _package_clip,
    probes=(
        Probe("too long", lambda rng: _clip_inputs(rng, 3.0, 4.0, 0.5)),
        Probe("short enough", lambda rng: _clip_inputs(rng, 0.3, 0.4, 0.1)),
        Probe("long only together", lambda rng: _clip_inputs(rng, 0.8, 0.8, 0.8)),
        Probe("short, but not if added", lambda rng: _clip_inputs(rng, 0.5, 0.5, 0.3)),
        Probe("exactly as long as allowed", _exactly),
        Probe("a small limit", lambda rng: _clip_inputs(rng, 50.0, 9.0, 70.0, most=(0.1, 0.3))),
        Probe("a large limit", lambda rng: _clip_inputs(rng, 9.0, 2.0, 7.0, most=(4.0, 6.0))),
        Probe("all zero", lambda rng: _clip_inputs(rng, 0.0, 0.0, 0.0)),
        Probe("an infinite number", lambda rng: _not_finite(rng, torch.inf)),
        Probe("a number that is none", lambda rng: _not_finite(rng, torch.nan)),
    ),
    misconceptions=(
        Misconception("NaN let through", _only_infinity,
                      "you refuse infinity and let NaN through, which is not finite either: every "
                      "weight would be NaN after the step."),
        Misconception("each on its own", _each_alone,
                      "you clipped each tensor on its own, which bends the direction of the step. "
                      "Measure all gradients together and scale them by one number.",
                      also=(_refusing(_each_alone),
                            lambda gradients, max_norm:
                            [g * min(1.0, max_norm / g.norm().item()) for g in gradients],
                            _refusing(lambda gradients, max_norm:
                                      [g * min(1.0, max_norm / (g.norm().item() or 1.0))
                                       for g in gradients]))),
        _length_slip("always", _together,
                     "you scaled every gradient to max_norm, short ones too. Clipping only ever "
                     "shortens.", always=True),
        Misconception("numbers clamped", _clamped,
                      "you clamped single numbers, which bends the direction of the step. Scale "
                      "all of them by one number.", also=(_refusing(_clamped),)),
        _length_slip("norms added", lambda gs: sum(g.norm() for g in gs),
                     "you added the tensors' norms. Lengths add in squares: the root of the sum "
                     "of all squares."),
        _length_slip("no root", lambda gs: _together(gs) ** 2,
                     "you compared the squared length with max_norm. Take the root."),
        _length_slip("sizes added", lambda gs: sum(g.abs().sum() for g in gs),
                     "you added sizes where the length needs squares and a root."),
        _length_slip("the longest", lambda gs: max(g.norm() for g in gs),
                     "you took the longest tensor for the whole. All of them count together."),
        _length_slip("the largest number", lambda gs: max(g.abs().max() for g in gs),
                     "you took the largest number for the length. All numbers count, in squares."),
        _length_slip("root mean square",
                     lambda gs: torch.cat([g.flatten() for g in gs]).pow(2).mean().sqrt(),
                     "you took the root of the mean square. The length has a sum under the root."),
        _length_slip("means of squares added",
                     lambda gs: sum(g.pow(2).mean() for g in gs).sqrt(),
                     "you added the mean squares of the tensors. The length has all squares under "
                     "one root."),
        _length_slip("the first tensor", lambda gs: gs[0].norm(),
                     "you measured the first tensor. All of them count together."),
        _length_slip("the last tensor", lambda gs: gs[-1].norm(),
                     "you measured the last tensor. All of them count together."),
        _length_slip("root of the norms", lambda gs: sum(g.norm() for g in gs).sqrt(),
                     "you took the root of the sum of the norms. Under the root stand the squares "
                     "of all numbers."),
        _length_slip("divided by the tensors", lambda gs: _together(gs) * len(gs),
                     "you divided the limit by the number of tensors. They may be max_norm long "
                     "together."),
        _length_slip("times the root of the tensors", lambda gs: _together(gs) / len(gs)**0.5,
                     "you averaged over the tensors. Add up all squares, and take one root."),
        _spread("per row", lambda g: g.norm(dim=-1, keepdim=True),
                "you clipped each row on its own, which bends the direction of the step. Scale all "
                "numbers by one."),
        Misconception("the square of the scale", _rescaled(lambda scale: scale**2),
                      "you multiplied by the scale twice: what is too long becomes too short."),
        Misconception("the root of the scale", _rescaled(lambda scale: scale**0.5),
                      "you multiplied by the root of max_norm / norm. Take the ratio itself."),
        Misconception("half a scale", _rescaled(lambda scale: (1 + scale) / 2),
                      "what is too long stays too long. Multiply by max_norm / norm."),
        Misconception("thrown away", _rescaled(lambda scale: 0.0),
                      "you threw away what is too long. Shorten it: the direction is worth "
                      "keeping."),
        Misconception("divided by the scale", _rescaled(lambda scale: 1 / scale),
                      "you divided where you should multiply: what is too long becomes longer."),
        Misconception("an amount subtracted", _refusing(_subtracted),
                      "you subtracted from each number, which bends the direction. Multiply all by "
                      "one number.", also=(_subtracted,)),
        Misconception("shortened to 1", _shortened_to_one,
                      "you shortened what is too long to a length of 1. It is to be max_norm long.",
                      also=(_refusing(_shortened_to_one),)),
        Misconception("limit of 1", lambda gradients, max_norm: _clip(_together)(gradients, 1.0),
                      "you clip at a length of 1, whatever max_norm is.",
                      also=(lambda gradients, max_norm:
                            _clip(_or_one(_together), refuse=True)(gradients, 1.0),)),
        Misconception("divided by zero", _refusing(_clip(lambda gs: _together(gs).item())),
                      "all gradients were zero and you divided by their length. Leave them as they "
                      "are.", also=(_clip(lambda gs: _together(gs).item()),
                                    _bare_division, _refusing(_bare_division))),
        Misconception("infinity let through", _clip(_together),
                      "you let an infinite gradient through. Scaled by max_norm / inf = 0 it "
                      "becomes NaN, and one step later every weight is. Raise a ValueError.",
                      also=(_clip(_or_one(_together)), *map(_only_nan, (
                          _clip(_together), _clip(_or_one(_together)))))),
        Misconception("nothing done", lambda gradients, max_norm: list(gradients),
                      "you returned the gradients as they were.",
                      also=(_refusing(lambda gradients, max_norm: list(gradients)),)),
    ),
    hints=(
        "One number for the whole model: how long is the gradient if all tensors are one vector?",
        "The root of the sum of all squares. If it is not finite, raise a ValueError.",
        "Never lengthen: min(1.0, max_norm / norm) if norm is above 0, the same for every tensor.",
    ))

EXERCISES = [CLIP]
