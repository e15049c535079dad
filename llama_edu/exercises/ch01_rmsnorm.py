"""Exercise 1.1: RMSNorm by hand."""

from collections.abc import Callable

import torch
from torch import Generator, Tensor
from torch.func import functional_call

from ..layers import RMSNorm
from .data import Exercise, Inputs, Misconception, Probe, between, normal, whole


def package_rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMSNorm as the package has it: x is `... c`, weight `c`."""
    return functional_call(RMSNorm(x.shape[-1], eps), {"weight": weight}, x)


def _rms_inputs(rng: Generator, x: Tensor) -> Inputs:
    weight = normal(rng, x.shape[-1], mean=2.0).to(x.dtype)
    return {"x": x, "weight": weight, "eps": between(rng, 1, 3)}


def far(rng: Generator, *shape: int) -> Tensor:
    """Numbers whose mean is far from zero, so that subtracting it shows."""
    return normal(rng, *shape, mean=2.0, std=3.0)


def _with_row(x: Tensor, value: float) -> Tensor:
    x[0] = value
    return x


def mean_square(x: Tensor, dim: int = -1) -> Tensor:
    """The mean of the squares; the axis stays."""
    return x.pow(2).mean(dim, keepdim=True)


def _centred(x: Tensor, dim: int = -1) -> Tensor:
    return x - x.mean(dim, keepdim=True)


def _variance(x: Tensor, dim: int = -1) -> Tensor:
    return x.var(dim, keepdim=True, unbiased=False)


def _rms_slip(name: str, divide: Callable[[Tensor, float], Tensor], why: str,
              also: tuple[Callable[[Tensor, float], Tensor], ...] = ()) -> Misconception:
    """A mistake in the division, made in float32 or in the input's own precision."""
    return Misconception(
        name, lambda x, weight, eps: divide(x.float(), eps).type_as(x) * weight, why,
        also=(lambda x, weight, eps: divide(x, eps) * weight,
              *(lambda x, weight, eps, other=other: other(x.float(), eps).type_as(x) * weight
                for other in also)))


RMS_NORM = Exercise(
    "1.1", "RMSNorm by hand", "The idea", package_rms_norm,
    probes=(
        Probe("float32", lambda rng: _rms_inputs(rng, far(rng, 3, 5))),
        Probe("bfloat16", lambda rng: _rms_inputs(rng, far(rng, 3, 4).bfloat16())),
        Probe("a batch", lambda rng: _rms_inputs(rng, far(rng, 2, 3, 5))),
        Probe("a zero row", lambda rng: _rms_inputs(rng, _with_row(far(rng, 2, 5), 0.0))),
        Probe("one vector", lambda rng: _rms_inputs(rng, whole(rng, 3))),
        Probe("small numbers", lambda rng: _rms_inputs(rng, normal(rng, 2, 4, std=0.1))),
        Probe("float16 near 300",
              lambda rng: _rms_inputs(rng, normal(rng, 2, 4, mean=300.0, std=5.0).half())),
    ),
    misconceptions=(
        _rms_slip("mean subtracted",
                  lambda x, eps: _centred(x) * torch.rsqrt(_variance(x) + eps),
                  "you subtracted the mean: that is LayerNorm. RMSNorm leaves the mean where it "
                  "is."),
        _rms_slip("mean subtracted above only",
                  lambda x, eps: _centred(x) * torch.rsqrt(mean_square(x) + eps),
                  "you subtracted the mean from what is divided. RMSNorm leaves it where it is, "
                  "above and below."),
        _rms_slip("squared above", lambda x, eps: x.pow(2) * torch.rsqrt(mean_square(x) + eps),
                  "you divided the squares. The squares are for the root alone: x itself is "
                  "divided by it."),
        _rms_slip("standard deviation",
                  lambda x, eps: x * torch.rsqrt(_variance(x) + eps),
                  "you divided by the standard deviation, which measures from the mean. The root "
                  "mean square measures from zero.",
                  also=(lambda x, eps: x * torch.rsqrt(x.var(-1, keepdim=True) + eps),
                        lambda x, eps: x / (x.std(-1, keepdim=True) + eps))),
        _rms_slip("mean of the sizes", lambda x, eps: x / (x.abs().mean(-1, keepdim=True) + eps),
                  "you took the mean of absolute values. Square, take the mean, take the root.",
                  also=(lambda x, eps: x * torch.rsqrt(x.abs().mean(-1, keepdim=True) + eps),
                        lambda x, eps: x * torch.rsqrt(x.abs().mean(-1, keepdim=True) ** 2
                                                       + eps))),
        _rms_slip("eps outside the root", lambda x, eps: x / (mean_square(x).sqrt() + eps),
                  "you added eps after the root. It belongs inside, next to the mean square.",
                  also=(lambda x, eps: x * (torch.rsqrt(mean_square(x)) + eps),
                        lambda x, eps: x / mean_square(x).sqrt() + eps,
                        lambda x, eps: x * torch.rsqrt(mean_square(x) + eps) + eps)),
        _rms_slip("eps as a floor", lambda x, eps: x / mean_square(x).sqrt().clamp(min=eps),
                  "you took eps for the least divisor. It is added to the mean square, always.",
                  also=(lambda x, eps: x * torch.rsqrt(mean_square(x).clamp(min=eps)),)),
        _rms_slip("eps squared", lambda x, eps: x * torch.rsqrt(mean_square(x) + eps**2),
                  "you squared eps, too. It is added to the mean of the squares as it is.",
                  also=(lambda x, eps: x * torch.rsqrt(mean_square(x + eps)),)),
        _rms_slip("length", lambda x, eps: x / (x.norm(dim=-1, keepdim=True) + eps),
                  "you divided by the token's length, the root of a sum. The root mean square is "
                  "the root of a mean.",
                  also=(lambda x, eps: x / x.norm(dim=-1, keepdim=True),
                        lambda x, eps: x / x.norm(dim=-1, keepdim=True).clamp(min=eps))),
        _rms_slip("square of the mean",
                  lambda x, eps: x * torch.rsqrt(x.mean(-1, keepdim=True).pow(2) + eps),
                  "you took the mean first and squared it. Square each feature, then take the "
                  "mean.", also=(lambda x, eps: x / (x.mean(-1, keepdim=True).abs() + eps),
                                 lambda x, eps: x / (x.mean(-1, keepdim=True) + eps))),
        _rms_slip("c - 1", lambda x, eps: x * torch.rsqrt(
                      x.pow(2).sum(-1, keepdim=True) / (x.shape[-1] - 1) + eps),
                  "you divided the sum by c - 1. That is for a variance around a mean that was "
                  "estimated; here it is c."),
        _rms_slip("the largest for the mean",
                  lambda x, eps: x / (x.abs().amax(-1, keepdim=True) + eps),
                  "you divided by the largest feature. It is the root of the mean square.",
                  also=(lambda x, eps: x * torch.rsqrt(x.pow(2).amax(-1, keepdim=True) + eps),)),
        _rms_slip("no eps", lambda x, eps: x / mean_square(x).sqrt(),
                  "you left eps out, so a row of zeros is divided by zero."),
        _rms_slip("sum for mean",
                  lambda x, eps: x * torch.rsqrt(x.pow(2).sum(-1, keepdim=True) + eps),
                  "you summed the squares. Take their mean, or the result shrinks as the width "
                  "grows."),
        _rms_slip("no root", lambda x, eps: x / (mean_square(x) + eps),
                  "you divided by the mean square itself. Take its root, or doubling x halves "
                  "the result."),
        _rms_slip("multiplied by the root",
                  lambda x, eps: x * torch.sqrt(mean_square(x) + eps),
                  "you multiplied by the root mean square. Divide by it: rsqrt is already one "
                  "over the root."),
        _rms_slip("over the tokens", lambda x, eps: x * torch.rsqrt(mean_square(x, -2) + eps),
                  "you averaged over the tokens (dim=-2). Each token is normalised alone, over "
                  "its own features: dim=-1."),
        _rms_slip("over the first axis", lambda x, eps: x * torch.rsqrt(mean_square(x, 0) + eps),
                  "you averaged over the first axis (dim=0). The features are the last axis: "
                  "dim=-1."),
        _rms_slip("over the whole tensor",
                  lambda x, eps: x * torch.rsqrt(x.pow(2).mean() + eps),
                  "you averaged over the whole tensor, so one token changes another. Average "
                  "over the last axis only."),
        _rms_slip("no keepdim", lambda x, eps: x * torch.rsqrt(x.pow(2).mean(-1) + eps),
                  "your mean has lost the axis it averaged over, so it does not line up with x. "
                  "Keep it: mean(-1, keepdim=True)."),
        _rms_slip("over axis 1", lambda x, eps: x * torch.rsqrt(mean_square(x, 1) + eps),
                  "you averaged over axis 1. That is the last axis of a matrix only: write "
                  "dim=-1."),
        _rms_slip("two roots", lambda x, eps: x * (mean_square(x) + eps) ** -0.25,
                  "you took the root twice. Square, mean, one root."),
        Misconception("weight forgotten",
                      lambda x, weight, eps: package_rms_norm(x, torch.ones_like(weight), eps),
                      "you forgot the weight: multiply each feature by its own."),
        Misconception("weight not multiplied",
                      lambda x, weight, eps:
                      package_rms_norm(x, torch.ones_like(weight), eps) + weight,
                      "you did something else with the weight than to multiply each feature by "
                      "its own.",
                      also=(lambda x, weight, eps: package_rms_norm(x, 1 / weight, eps),
                            lambda x, weight, eps: package_rms_norm(x, weight * weight, eps),
                            lambda x, weight, eps: package_rms_norm(
                                x, weight.sum().expand(weight.shape), eps),
                            lambda x, weight, eps: package_rms_norm(
                                x, weight.mean().expand(weight.shape), eps))),
        Misconception("one plus weight",
                      lambda x, weight, eps: package_rms_norm(x, 1 + weight, eps),
                      "you multiplied by 1 + weight, as Gemma does. Llama multiplies by weight."),
        Misconception("weight first",
                      lambda x, weight, eps:
                      package_rms_norm(x * weight, torch.ones_like(weight), eps),
                      "you multiplied by the weight before normalising, so it changes the root "
                      "mean square. Normalise first."),
        Misconception("no float32 inside",
                      lambda x, weight, eps: x * torch.rsqrt(mean_square(x) + eps) * weight,
                      "you squared in the input's own precision. In float16, 300 squared is "
                      "infinite and the result zero: work in float32 inside, and cast back.",
                      section="Why float32 inside?"),
    ),
    hints=(
        "The root mean square is read from right to left: square, mean, root.",
        "Square x, take the mean over the last axis with keepdim=True, add eps, then divide x by "
        "the root.",
        "Do this on x.float(), cast the quotient back with .type_as(x), and multiply by weight "
        "last.",
    ), gradients=("x", "weight"))

EXERCISES = [RMS_NORM]
