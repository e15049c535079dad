"""Exercise 1.6: six norms, told apart by what they do to tokens that the reader makes up."""

from collections.abc import Callable

import torch
from torch import Tensor

from ..layers import widen
from .ch01_rmsnorm import mean_square, package_rms_norm
from .hunts import HEALTHY, Bug, Hunt

Norm = Callable[[Tensor, Tensor, float], Tensor]
Scale = Callable[[Tensor, float], Tensor]


def _with_scale(scale: Scale) -> Callable[[], Norm]:
    """The same norm with another factor in the place of one over the root."""
    def norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
        wide = widen(x)
        return (wide * scale(wide, eps)).type_as(x) * weight

    return lambda: norm


def _centred(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    wide = widen(x)
    return package_rms_norm((wide - wide.mean(-1, keepdim=True)).type_as(x), weight, eps)


def _narrow(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x * torch.rsqrt(mean_square(x) + eps) * weight


def _weight_first(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return package_rms_norm(x * weight, torch.ones_like(weight), eps)


def _late_cast(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    wide = widen(x)
    return (wide * torch.rsqrt(mean_square(wide) + eps) * weight).type_as(x)


BUGS = {
    "mean subtracted": Bug(
        lambda: _centred, "does not notice when the same number is added to all features"),
    "eps outside the root": Bug(
        _with_scale(lambda x, eps: 1 / (mean_square(x).sqrt() + eps)),
        "gives 0.5 for a token of ones with weights of one and an eps of 1"),
    "eps forgotten": Bug(
        _with_scale(lambda x, eps: torch.rsqrt(mean_square(x))),
        "gives nan for a token of zeros"),
    "root forgotten": Bug(
        _with_scale(lambda x, eps: 1 / (mean_square(x) + eps)),
        "gives smaller numbers for a larger token, with hardly any eps"),
    "sum for mean": Bug(
        _with_scale(lambda x, eps: torch.rsqrt(x.pow(2).sum(-1, keepdim=True) + eps)),
        "gives 0.5 for a token of four ones, with weights of one and hardly any eps"),
    "absolute values": Bug(
        _with_scale(lambda x, eps: torch.rsqrt(x.abs().mean(-1, keepdim=True) ** 2 + eps)),
        "gives numbers whose absolute values have the mean 1, with weights of one and hardly any "
        "eps"),
    "one root for all tokens": Bug(
        _with_scale(lambda x, eps: torch.rsqrt(x.pow(2).mean() + eps)),
        "changes its result for a token when another token of the same call changes"),
    "weight before the division": Bug(
        lambda: _weight_first, "gives the same when all weights are doubled, up to eps"),
    "no float32 inside": Bug(
        lambda: _narrow, "erases a token of 300s in float16"),
    "weight before the cast": Bug(
        lambda: _late_cast, "differs from a healthy norm in a last bit of bfloat16 or float16 here "
                            "and there, and in nothing else: a token of 300s survives float16"),
}  # fmt: skip


def _look(norm: Norm) -> Tensor:
    """Five experiments: ordinary tokens, two alike, small ones, large float16, bits of bfloat16."""
    rng = torch.Generator().manual_seed(1)
    weight = torch.tensor([0.5, 1.0, 1.5, 3.0])
    tokens = torch.randn(3, 4, generator=rng) + 1
    large = torch.full((1, 4), 300.0).half()
    many, scales = torch.randn(64, 4, generator=rng).bfloat16(), weight.bfloat16() / 3
    bits = norm(many, scales, 1e-5) != package_rms_norm(many, scales, 1e-5)
    return torch.cat([norm(tokens, weight, 1e-5).flatten(), norm(tokens / 9, weight, 1.0).flatten(),
                      norm(0 * tokens, weight, 1e-5).flatten(),
                      norm(large, weight.half(), 1e-5).float().flatten(), bits.any()[None].float()])


HUNT = Hunt(
    "1.6", "Which mistake is in which norm?", "Bug hunt", lambda: package_rms_norm, bugs=BUGS,
    hidden={"a": "no float32 inside", "b": "one root for all tokens", "c": HEALTHY,
            "d": "eps outside the root", "e": "weight before the cast", "f": "absolute values"},
    look=_look,
    hints=(
        "Compare each suspect with RMSNorm on ordinary tokens of float32 first. Who passes is "
        "not yet healthy.",
        "Change one thing at a time: a second token beside the first, a large eps with a small "
        "token, 300 in float16.",
        "Two suspects are left that agree in all of this. In bfloat16, with many tokens and "
        "uneven weights, compare with != and not with allclose.",
    ))

EXERCISES = [HUNT]
