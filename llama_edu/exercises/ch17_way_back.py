"""The exercise of chapter 17 on the gradients of a low-rank path, 17.7."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor

from ..training.lora import LoRALinear
from .ch17_lora import linear
from .data import Exercise, Inputs, Misconception, Probe, normal
from .frugal import by_hand

Three = tuple[Tensor, Tensor, Tensor]
TOO_LARGE = "that matrix is as large as the weight; nothing larger than x, g, a and b is needed."
DERIVE = ("this check runs without autograd. Derive the gradients by hand: name what goes through "
          "the rank, and go back one product at a time.")


def _package_gradients(x: Tensor, g: Tensor, weight: Tensor, a: Tensor, b: Tensor, alpha: float
                       ) -> Three:
    x = x.clone().requires_grad_()
    layer = LoRALinear(linear(weight), a.clone(), b.clone(), alpha=alpha)
    layer(x).backward(g)
    return x.grad, layer.a.grad, layer.b.grad


def _without_the_large_matrix(answer: Callable, x: Tensor, g: Tensor, weight: Tensor, a: Tensor,
                              b: Tensor, alpha: float) -> Any:
    if answer is _package_gradients:        # it has gradients made
        return answer(x, g, weight, a, b, alpha)
    most = max(each.numel() for each in (x, g, a, b))
    return by_hand(lambda: answer(x, g, weight, a, b, alpha), most=most, too_large=TOO_LARGE,
                   derive=DERIVE)


def _way_back(rng: Generator, t: int, out: int, into: int, rank: int, *, first: bool = False
              ) -> Inputs:
    b = torch.zeros(out, rank) if first else normal(rng, out, rank)
    return {"x": normal(rng, t, into), "g": normal(rng, t, out), "weight": normal(rng, out, into),
            "a": normal(rng, rank, into), "b": b,
            "alpha": 3.0 + torch.rand((), generator=rng).item()}


def _back(*, dx: Callable[..., Tensor] | None = None, da: Callable[..., Tensor] | None = None,
          db: Callable[..., Tensor] | None = None) -> Callable[..., Three]:
    """The three gradients, right unless one is made otherwise, from all that there is and s."""

    def answer(x: Tensor, g: Tensor, weight: Tensor, a: Tensor, b: Tensor, alpha: float) -> Three:
        s = alpha / len(a)
        right = (g @ weight + s * (g @ b) @ a, s * (g @ b).T @ x, s * g.T @ (x @ a.T))
        made = (each and each(x=x, g=g, w=weight, a=a, b=b, s=s, alpha=alpha)
                for each in (dx, da, db))
        return tuple(right[i] if each is None else each for i, each in enumerate(made))

    return answer


def _all_times(factor: Callable[..., float]) -> Callable[..., Three]:
    """The gradients of A and B, and the path's share of x's, with another scale."""
    return _back(
        dx=lambda x, g, w, a, b, **of: g @ w + factor(x=x, b=b, **of) * (g @ b) @ a,
        da=lambda x, g, b, **of: factor(x=x, b=b, **of) * (g @ b).T @ x,
        db=lambda x, g, a, b, **of: factor(x=x, b=b, **of) * g.T @ (x @ a.T))


def _in_full(x: Tensor, g: Tensor, weight: Tensor, a: Tensor, b: Tensor, alpha: float) -> Three:
    """By way of the gradient that the large matrix would have."""
    s, whole = alpha / len(a), g.T @ x
    return g @ (weight + s * b @ a), s * b.T @ whole, s * whole @ a.T


GRADIENTS = Exercise(
    "17.7", "The way back", "Harder: the way back, without the large matrix",
    _package_gradients, adapt=_without_the_large_matrix,
    probes=(
        Probe("rank 2", lambda rng: _way_back(rng, 3, 7, 6, 2)),
        Probe("rank 1", lambda rng: _way_back(rng, 2, 5, 8, 1)),
        Probe("the first step, B is zero", lambda rng: _way_back(rng, 4, 8, 7, 3, first=True)),
        Probe("one token", lambda rng: _way_back(rng, 1, 6, 9, 2)),
    ),
    misconceptions=(
        Misconception("the large matrix made", _in_full,
                      "right, and by way of a matrix as large as the weight. Go through the rank: "
                      "g @ b first, and x @ a.T.",
                      also=(_back(dx=lambda g, w, a, b, s, **_: g @ (w + s * (b @ a))),
                            _back(da=lambda x, g, b, s, **_: s * b.T @ (g.T @ x)),
                            _back(db=lambda x, g, a, s, **_: s * (g.T @ x) @ a.T))),
        Misconception("no scale", _all_times(lambda **_: 1.0),
                      "your path has no scale on the way back. What was multiplied by alpha / rank "
                      "on the way there is so on the way back."),
        Misconception("alpha not divided", _all_times(lambda alpha, **_: alpha),
                      "you scale by alpha. It is alpha / rank."),
        Misconception("divided by the rows of B", _all_times(lambda b, alpha, **_: alpha / len(b)),
                      "you divide by the rows of b, and these are `out`. The rank is the number of "
                      "a's rows, or of b's columns."),
        Misconception("A and B not scaled", _back(da=lambda x, g, b, **_: (g @ b).T @ x,
                                                  db=lambda x, g, a, **_: g.T @ (x @ a.T)),
                      "your gradients of A and B lack alpha / rank. The path is multiplied by it "
                      "on the way there, so its gradients are, too."),
        Misconception("scaled twice", _all_times(lambda s, **_: s * s),
                      "you scaled twice."),
        Misconception("averaged over the tokens", _all_times(lambda x, s, **_: s / len(x)),
                      "you averaged over the tokens. Their gradients add up."),
        Misconception("no path for x", _back(dx=lambda g, w, **_: g @ w),
                      "the gradient of x goes through the weight alone. It also goes back through "
                      "the path."),
        Misconception("no weight for x", _back(dx=lambda g, a, b, s, **_: s * (g @ b) @ a),
                      "the gradient of x goes through the path alone. A frozen weight has no "
                      "gradient of its own, but hands one on."),
        Misconception("path of x not scaled", _back(dx=lambda g, w, a, b, **_: g @ w + (g @ b) @ a),
                      "the path's part in the gradient of x lacks alpha / rank."),
        Misconception("weight scaled", _back(dx=lambda g, w, a, b, s, **_: s * (
                          g @ w + (g @ b) @ a)),
                      "you scaled the weight's part in the gradient of x, too. Only the path has a "
                      "scale."),
        Misconception("no gradient of A", _back(da=lambda a, **_: torch.zeros_like(a)),
                      "your gradient of A is always zero. It is so while B is zero, not longer."),
        Misconception("A as if B were one", _back(da=lambda x, g, b, s, **_: s * (
                          g @ torch.ones_like(b)).T @ x),
                      "your gradient of A does not ask B. What flows into A has gone back through "
                      "B: while B is zero, so is it."),
        Misconception("A not scaled", _back(da=lambda x, g, b, **_: (g @ b).T @ x),
                      "your gradient of A lacks alpha / rank."),
        Misconception("B not scaled", _back(db=lambda x, g, a, **_: g.T @ (x @ a.T)),
                      "your gradient of B lacks alpha / rank."),
        Misconception("A uphill", _back(da=lambda x, g, b, s, **_: -s * (g @ b).T @ x),
                      "your gradient of A has the wrong sign."),
        Misconception("B uphill", _back(db=lambda x, g, a, s, **_: -s * g.T @ (x @ a.T)),
                      "your gradient of B has the wrong sign."),
        Misconception("A and B transposed", _back(da=lambda x, g, b, s, **_: s * x.T @ (g @ b),
                                                  db=lambda x, g, a, s, **_: s * (x @ a.T).T @ g),
                      "your gradients of A and B are transposed. Each has the shape of what it is "
                      "the gradient of."),
        Misconception("A and B exchanged", lambda *values: (lambda dx, da, db: (dx, db, da))(
                          *_back()(*values)),
                      "you returned the gradient of B before that of A. Wanted is x, A, B."),
    ),
    hints=(
        "Name what goes through the rank: h = x A^T. Then y = x W^T + s h B^T. Go back one product "
        "at a time.",
        "y = h B^T gives h the gradient g B and B the gradient g^T h. Do the same for h = x A^T.",
        "dB = s g^T (x A^T), dA = s (g B)^T x, dx = g W + s (g B) A. In this order nothing is as "
        "large as W.",
    ))

EXERCISES = [GRADIENTS]
