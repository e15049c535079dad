"""Exercise 1.7: the slopes of RMSNorm, by hand."""

from collections.abc import Callable

import torch
from torch import Generator, Tensor
from torch.autograd.functional import jacobian

from .ch01_rmsnorm import far, package_rms_norm
from .data import Exercise, Inputs, Misconception, Probe, between, normal, whole


def _by_autograd(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return jacobian(lambda token: package_rms_norm(token, weight, eps), x)


def _inputs(rng: Generator, x: Tensor) -> Inputs:
    return {"x": x, "weight": normal(rng, len(x), mean=2.0), "eps": between(rng, 1, 3)}


# What a mistake is made of: eye, the matrix x xᵀ, r = 1 / root, c, and a column of weights.
Parts = Callable[[Tensor, Tensor, Tensor, int, Tensor], Tensor]


def _answer(build: Parts, scale: Callable[[Tensor, float], Tensor]) -> Callable:
    def answer(x: Tensor, weight: Tensor, eps: float) -> Tensor:
        return build(torch.eye(len(x)), torch.outer(x, x), scale(x, eps), len(x), weight[:, None])

    return answer


def _scale(x: Tensor, eps: float) -> Tensor:
    return torch.rsqrt(x.square().mean() + eps)


def _slip(name: str, build: Parts, why: str, also: tuple[Parts, ...] = ()) -> Misconception:
    """A mistake in how the parts are put together."""
    return Misconception(name, _answer(build, _scale), why,
                         also=tuple(_answer(each, _scale) for each in also))


def _right(eye: Tensor, outer: Tensor, r: Tensor, c: int, w: Tensor) -> Tensor:
    return w * (r * eye - r**3 * outer / c)


def _root_slip(name: str, scale: Callable[[Tensor, float], Tensor], why: str) -> Misconception:
    """A mistake in 1 / root, with all else right."""
    return Misconception(name, _answer(_right, scale), why)


JACOBIAN = Exercise(
    "1.7", "The slopes of RMSNorm", "The way back", _by_autograd,
    probes=(
        Probe("two features", lambda rng: _inputs(rng, whole(rng, 2))),
        Probe("whole numbers", lambda rng: _inputs(rng, whole(rng, 3))),
        Probe("five features", lambda rng: _inputs(rng, far(rng, 5))),
        Probe("a token of zeros", lambda rng: _inputs(rng, torch.zeros(3))),
        Probe("small numbers", lambda rng: _inputs(rng, normal(rng, 4, std=0.5))),
        Probe("one feature", lambda rng: _inputs(rng, whole(rng, 1))),
    ),
    misconceptions=(
        _slip("root held constant", lambda eye, outer, r, c, w: w * r * eye,
              "you took the root for a constant. x stands in it too: each feature changes the "
              "root, and the root changes every output.",
              also=(lambda eye, outer, r, c, w: w * r * torch.ones_like(eye),)),
        _slip("only the feature's own path",
              lambda eye, outer, r, c, w: w * eye * (r - r**3 * outer / c),
              "you let each feature change its own output only, so all is zero beside the "
              "diagonal. Through the root it changes all the others too.",
              also=(lambda eye, outer, r, c, w: w * eye * (r - r**3 * outer),)),
        _slip("direct way off the diagonal",
              lambda eye, outer, r, c, w: w * (r - r**3 * outer / c),
              "you let each feature reach every output directly. The direct way stands on the "
              "diagonal alone: output i holds x[i] and no other.",
              also=(lambda eye, outer, r, c, w: w * (r - r**3 * outer),)),
        _slip("one factor x",
              lambda eye, outer, r, c, w: w * (r * eye - r**3 * outer.diag().sqrt() / c),
              "your second part holds one number of x in each place where two belong: x[i], which "
              "the root divides, times x[j], which moves the root.",
              also=(lambda eye, outer, r, c, w:
                    w * (r * eye - r**3 * outer.diag().sqrt()[:, None] / c),)),
        _slip("squares for products",
              lambda eye, outer, r, c, w: w * (r * eye - r**3 * outer.trace() / c),
              "your second part holds squares of x. In row i and column j stands x[i] times x[j]: "
              "an outer product.",
              also=(lambda eye, outer, r, c, w: w * (r * eye - r**3 * outer.diag() / c),
                    lambda eye, outer, r, c, w: w * (r * eye - r**3 * outer.diag()[:, None] / c),
                    lambda eye, outer, r, c, w: w * eye * (r - r**3 * outer.trace() / c))),
        _slip("root apart from the diagonal",
              lambda eye, outer, r, c, w: w * (r * eye - r**3 * outer * (1 - eye) / c),
              "you left the second part out on the diagonal. x[i] moves its own output in both "
              "ways, and the two add up."),
        _slip("nothing on the diagonal",
              lambda eye, outer, r, c, w: -w * r**3 * outer * (1 - eye) / c,
              "your diagonal is zero. There a feature moves its own output: in both ways."),
        _slip("c - 1", lambda eye, outer, r, c, w: w * (r * eye - r**3 * outer / max(c - 1, 1)),
              "you divided by another number than c. The root holds the mean over all c features.",
              also=(lambda eye, outer, r, c, w: w * (r * eye - r**3 * outer / c**2),
                    lambda eye, outer, r, c, w: w * (r * eye - r**3 * outer) / c,
                    lambda eye, outer, r, c, w: w * (r * eye - r**3 * outer / c**0.5))),
        _slip("sum for mean", lambda eye, outer, r, c, w: w * (r * eye - r**3 * outer),
              "your second part lacks 1/c: the root holds a mean of squares, so each feature's "
              "share in it is one of c."),
        _slip("sign", lambda eye, outer, r, c, w: w * (r * eye + r**3 * outer / c),
              "your second part has the wrong sign: a larger root makes everything smaller.",
              also=(lambda eye, outer, r, c, w: w * (r**3 * outer / c - r * eye),
                    lambda eye, outer, r, c, w: w * (r * eye + r**3 * outer))),
        _slip("half of it", lambda eye, outer, r, c, w: w * (r * eye - r**3 * outer / c / 2),
              "your second part is half of what it should be: the 2 of the square and the 1/2 "
              "of the root cancel."),
        _slip("half, without 1/c", lambda eye, outer, r, c, w: w * (r * eye - r**3 * outer / 2),
              "your second part has 1/2 where 1/c belongs: the 1/2 of the root is cancelled by "
              "the 2 of the square, and the mean leaves 1/c."),
        _slip("twice of it", lambda eye, outer, r, c, w: w * (r * eye - 2 * r**3 * outer / c),
              "your second part is twice what it should be: the 2 of the square and the 1/2 "
              "of the root cancel."),
        _slip("other powers of the root",
              lambda eye, outer, r, c, w: w * (r * eye - r * outer / c),
              "your second part has another power of the root than the third. Test it: with x and "
              "the root ten times as large, all slopes must be ten times smaller.",
              also=(*(lambda eye, outer, r, c, w, n=n: w * (r * eye - r**n * outer / c)
                      for n in (0, 2, 4)),
                    lambda eye, outer, r, c, w: w * (r * eye - r**2 * outer),
                    lambda eye, outer, r, c, w: w * (r * eye - r * outer))),
        _slip("no root in front", lambda eye, outer, r, c, w: w * (eye - r**2 * outer / c),
              "you left out one division by the root: it stands before everything, since the "
              "output is x over the root.",
              also=(lambda eye, outer, r, c, w: w * (eye - r**3 * outer / c),
                    lambda eye, outer, r, c, w: w * (eye - r**2 * outer),
                    lambda eye, outer, r, c, w: w * (eye - outer / c))),
        _slip("multiplied by the root",
              lambda eye, outer, r, c, w: w / r * (eye - r**2 * outer / c),
              "you multiplied by the root where you divide by it."),
        _slip("projection without eps",
              lambda eye, outer, r, c, w:
              w * r * (eye - (outer / outer.trace()).nan_to_num()),
              "you took out all that points along the token. That is right only where eps is 0: "
              "the root holds eps, and your second part divides by the squares without it.",
              also=(lambda eye, outer, r, c, w: w * r * (eye - outer / outer.trace()),)),
        _root_slip("eps forgotten", lambda x, eps: torch.rsqrt(x.square().mean()),
                   "you left eps out. It stands in the same root as on the way there."),
        _root_slip("eps outside the root", lambda x, eps: 1 / (x.square().mean().sqrt() + eps),
                   "you added eps after the root. It belongs inside, next to the mean square."),
        _root_slip("sum in the root", lambda x, eps: torch.rsqrt(x.square().sum() + eps),
                   "your root holds the sum of the squares. It is their mean."),
        _root_slip("no root taken", lambda x, eps: 1 / (x.square().mean() + eps),
                   "you divided by the mean square itself. Take its root."),
        _root_slip("mean in the root", lambda x, eps: torch.rsqrt(x.var(unbiased=False) + eps),
                   "your root measures from the mean: that is LayerNorm's. The root mean square "
                   "measures from zero."),
        _slip("only through the root", lambda eye, outer, r, c, w: -w * r**3 * outer / c,
              "you kept only the way through the root. x[i] reaches output i directly too."),
        _slip("as in LayerNorm",
              lambda eye, outer, r, c, w: w * r * (eye - 1 / c - r**2 * outer / c),
              "you took a mean out as well: that belongs to LayerNorm, which subtracted one on "
              "the way there.", also=(lambda eye, outer, r, c, w: w * r * (eye - 1 / c),)),
        _slip("weight forgotten", lambda eye, outer, r, c, w: r * eye - r**3 * outer / c,
              "you left the weight out: output i is multiplied by weight[i], and so are its "
              "slopes."),
        _slip("weight on the columns",
              lambda eye, outer, r, c, w: w.T * (r * eye - r**3 * outer / c),
              "your weights multiply the columns, or the whole is transposed. Row i belongs to "
              "output i, and weight[i] to that row."),
        _slip("weight on one part only",
              lambda eye, outer, r, c, w: w * r * eye - r**3 * outer / c,
              "you multiplied one part by the weight and not the other. It stands before both.",
              also=(lambda eye, outer, r, c, w: r * eye - w * r**3 * outer / c,)),
        _slip("weight on both sides",
              lambda eye, outer, r, c, w: w * r * eye - w * w.T * r**3 * outer / c,
              "your second part has the weight twice, in its row and in its column. x[j] moves "
              "the root before any weight is met.",
              also=(lambda eye, outer, r, c, w: w * w.T * (r * eye - r**3 * outer / c),)),
    ),
    hints=(
        "Call r = 1 / root, so that output i is weight[i] * r * x[i]. Hold r constant first. Then "
        "hold x[i] constant, and let only the r move. Add the two.",
        "With r constant, only i = j has a slope: weight[i] * r. Through r: moving x[j] changes r "
        "by -r**3 * x[j] / c, and r changes every output.",
        "Row i, column j: weight[i] * (r if i == j else 0) - weight[i] * r**3 * x[i] * x[j] / c. "
        "torch.eye(c) and torch.outer(x, x) hold all of these at once.",
    ))

EXERCISES = [JACOBIAN]
