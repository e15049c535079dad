"""Exercise 1.7: the backward pass of RMSNorm, by hand."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor
from torch.func import functional_call

from ..layers import RMSNorm
from .ch01_rmsnorm import far
from .data import Exercise, Inputs, Misconception, Probe, between, normal, whole


def _autograd(grad: Tensor, x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    leaves = x.detach().requires_grad_(), weight.detach().requires_grad_()
    with torch.enable_grad():
        y = functional_call(RMSNorm(x.shape[-1], eps), {"weight": leaves[1]}, leaves[0])
    return torch.autograd.grad(y, leaves, grad)


def _without_autograd(answer: Callable, *values: Any) -> Any:
    with torch.no_grad():
        return answer(*values)


def _by_autograd(grad: Tensor, x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    leaves = x.requires_grad_(), weight.requires_grad_()
    y = functional_call(RMSNorm(x.shape[-1], eps), {"weight": weight}, x)
    return torch.autograd.grad(y, leaves, grad)


def _inputs(rng: Generator, x: Tensor) -> Inputs:
    grad = normal(rng, *x.shape, mean=0.5).to(x.dtype)
    weight = normal(rng, x.shape[-1], mean=2.0).to(x.dtype)
    return {"grad": grad, "x": x, "weight": weight, "eps": between(rng, 1, 3)}


def _zero_row(x: Tensor) -> Tensor:
    x[0] = 0
    return x


def _mean(x: Tensor, dim: int = -1) -> Tensor:
    return x.mean(dim, keepdim=True)


def _over_tokens(x: Tensor) -> Tensor:
    return x.reshape(-1, x.shape[-1]).sum(0)


Path = Callable[[Tensor, Tensor, Tensor, float], Tensor]     # of gw, x, r = 1 / rms, grad


def _x_slip(name: str, path: Path, why: str, also: tuple[Path, ...] = ()) -> Misconception:
    """A mistake in the gradient for x; `gw` is grad times weight."""
    def wrong(path: Path) -> Callable:
        def answer(grad: Tensor, x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
            wide, gw = x.float(), (grad * weight).float()
            r = torch.rsqrt(_mean(wide.pow(2)) + eps)
            return path(gw, wide, r, grad.float()).type_as(x), _autograd(grad, x, weight, eps)[1]

        return answer

    return Misconception(name, wrong(path), why, also=tuple(map(wrong, also)))


def _weight_slip(name: str, path: Callable, why: str) -> Misconception:
    """A mistake in the gradient for weight: `path` of grad, x normalised, x and weight."""
    def wrong(grad: Tensor, x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        y = functional_call(RMSNorm(x.shape[-1], eps), {"weight": torch.ones_like(weight)}, x)
        return _autograd(grad, x, weight, eps)[0], path(grad, y, x, weight).type_as(weight)

    return Misconception(name, wrong, why)


def _narrow(grad: Tensor, x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    gw, r = grad * weight, torch.rsqrt(_mean(x.pow(2)) + eps)
    return r * gw - x * r**3 * _mean(gw * x), _over_tokens(grad * x * r)


BACKWARD = Exercise(
    "1.7", "The backward pass of RMSNorm", "The way back", _autograd,
    probes=(
        Probe("float32", lambda rng: _inputs(rng, far(rng, 3, 5))),
        Probe("one vector", lambda rng: _inputs(rng, whole(rng, 3))),
        Probe("a batch", lambda rng: _inputs(rng, far(rng, 2, 3, 4))),
        Probe("a zero row", lambda rng: _inputs(rng, _zero_row(far(rng, 2, 4)))),
        Probe("small numbers", lambda rng: _inputs(rng, normal(rng, 2, 4, std=0.1))),
        Probe("bfloat16", lambda rng: _inputs(rng, far(rng, 3, 4).bfloat16())),
        Probe("float16 near 300",
              lambda rng: _inputs(rng, normal(rng, 2, 4, mean=300.0, std=50.0).half())),
    ),
    misconceptions=(
        _x_slip("root held constant", lambda gw, x, r, grad: r * gw,
                "you took the root for a constant. x stands in it too: each feature changes the "
                "root, and the root changes every feature."),
        _x_slip("only the feature's own path",
                lambda gw, x, r, grad: r * gw - r**3 * x * x * gw / x.shape[-1],
                "you let each feature change only itself. Through the root it changes all the "
                "others too: sum over them.",
                also=(lambda gw, x, r, grad: r * gw - r**3 * x * x * gw,)),
        _x_slip("sum for mean",
                lambda gw, x, r, grad: r * gw - x * r**3 * (gw * x).sum(-1, keepdim=True),
                "you summed over the features where the mean belongs: the root holds a mean of "
                "squares, so its derivative carries 1/c."),
        _x_slip("sign", lambda gw, x, r, grad: r * gw + x * r**3 * _mean(gw * x),
                "your second part has the wrong sign: a larger root makes everything smaller."),
        _x_slip("half of it", lambda gw, x, r, grad: r * gw - 0.5 * x * r**3 * _mean(gw * x),
                "your second part is half of what it should be: the 2 of the square and the 1/2 "
                "of the root cancel."),
        _x_slip("twice of it", lambda gw, x, r, grad: r * gw - 2 * x * r**3 * _mean(gw * x),
                "your second part is twice what it should be: the 2 of the square and the 1/2 "
                "of the root cancel."),
        _x_slip("too few roots", lambda gw, x, r, grad: r * gw - x * r * _mean(gw * x),
                "your second part is divided by too few roots. It needs the third power: test it "
                "with x ten times as large, which must make the gradient ten times smaller.",
                also=(lambda gw, x, r, grad: r * gw - x * r**2 * _mean(gw * x),)),
        _x_slip("projection without eps",
                lambda gw, x, r, grad: r * (gw - x * (_mean(gw * x) / _mean(x * x)).nan_to_num()),
                "you removed all that points along the token. That is right only where eps is 0: "
                "the root holds eps, and your second part divides by the mean square without it.",
                also=(lambda gw, x, r, grad: r * (gw - x * _mean(gw * x) / _mean(x * x)),)),
        Misconception(
            "eps forgotten",
            lambda grad, x, weight, eps: (_autograd(grad, x, weight, 0.0)[0],
                                          _autograd(grad, x, weight, eps)[1]),
            "you left eps out of the way back. It stands in the same root as on the way there.",
            also=(lambda grad, x, weight, eps: _autograd(grad, x, weight, 0.0),)),
        _x_slip("the root left out in front",
                lambda gw, x, r, grad: gw - x * r**2 * _mean(gw * x),
                "you left out one division by the root: it stands before everything, since y is "
                "x over the root."),
        _x_slip("weight missing in the mean",
                lambda gw, x, r, grad: r * gw - x * r**3 * _mean(grad * x),
                "you left the weight out of the mean. grad meets it on both ways to x."),
        _x_slip("only through the root", lambda gw, x, r, grad: -x * r**3 * _mean(gw * x),
                "you kept only the way through the root. x reaches the output directly too."),
        _x_slip("as in LayerNorm",
                lambda gw, x, r, grad: r * (gw - _mean(gw)) - x * r**3 * _mean(gw * x),
                "you subtracted the mean of the gradient: that belongs to LayerNorm, which "
                "subtracted a mean on the way there."),
        _x_slip("over the tokens",
                lambda gw, x, r, grad: r * gw - x * r**3 * _mean(gw * x, 0),
                "you averaged over more than the token's own features. Its root depends on "
                "these only: the last axis.",
                also=(lambda gw, x, r, grad: r * gw - x * r**3 * (gw * x).mean(),)),
        Misconception(
            "weight forgotten",
            lambda grad, x, weight, eps: (
                _autograd(grad, x, torch.ones_like(weight), eps)[0],
                _autograd(grad, x, weight, eps)[1]),
            "you forgot the weight on the way to x: grad meets the weight first."),
        Misconception(
            "weight at the end",
            lambda grad, x, weight, eps: (
                _autograd(grad, x, torch.ones_like(weight), eps)[0] * weight,
                _autograd(grad, x, weight, eps)[1]),
            "you multiplied by the weight at the end. On the way back it comes first: the mean "
            "must see grad * weight."),
        _weight_slip("not summed over the tokens", lambda grad, y, x, weight: grad * y,
                     "your gradient for weight still has one row a token. All tokens share the "
                     "weight, so their gradients add up."),
        _weight_slip("averaged over the tokens",
                     lambda grad, y, x, weight: _over_tokens(grad * y) * len(weight) / x.numel(),
                     "you averaged the weight's gradient over the tokens. They share the weight, "
                     "so their gradients add up."),
        _weight_slip("summed over one axis",
                     lambda grad, y, x, weight: (grad * y).sum(0) if x.ndim > 1 else grad * y,
                     "you summed the weight's gradient over the first axis only. Sum over all "
                     "axes but the last."),
        _weight_slip("x not normalised", lambda grad, y, x, weight: _over_tokens(grad * x),
                     "your gradient for weight holds x itself. The weight met the normalised x."),
        _weight_slip("the weight in its own gradient",
                     lambda grad, y, x, weight: _over_tokens(grad * weight * y),
                     "your gradient for weight holds the weight. y times weight, derived by "
                     "weight, is y."),
        _weight_slip("grad alone", lambda grad, y, x, weight: _over_tokens(grad),
                     "your gradient for weight is that of a bias: it lacks the normalised x."),
        Misconception("no float32 inside", _narrow,
                      "you squared in the input's own precision, and float16 ends at 65,504. "
                      "Work in float32 inside, and cast back.", section="Why float32 inside?"),
        Misconception("the other order", lambda *given: _autograd(*given)[::-1],
                      "you returned the gradient for weight first. x comes first."),
        Misconception("by autograd", _by_autograd,
                      "you asked autograd for it, and the check has switched that off. Derive the "
                      "two gradients by hand."),
    ),
    hints=(
        "Call r = 1 / root, so that y = x * r * weight. Hold r constant first. Then hold x "
        "constant, and let only the r move. Add the two.",
        "Let gw = grad * weight. By itself: r * gw. Through r: each feature of x changes r by "
        "-r**3 * x / c, and r changes every y: so the sum of gw * x.",
        "x's gradient is r * gw - x * r**3 * mean(gw * x), the mean over the features. weight's "
        "is grad * x * r, summed over all axes but the last.",
    ), adapt=_without_autograd)

EXERCISES = [BACKWARD]
