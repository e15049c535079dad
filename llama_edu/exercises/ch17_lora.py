"""The exercises of chapter 17 on low-rank adaptation: 17.5 the layer, 17.7 its gradient."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn import init

from ..training.lora import LoRALinear
from .data import Exercise, Inputs, Misconception, Probe, normal
from .frugal import by_hand

# -- 17.5: the layer -----------------------------------------------------------------------------


def _linear(weight: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight = nn.Parameter(weight.clone())
    return layer


class _Package(LoRALinear):
    """The package's layer, made as `add_lora` makes it."""

    def __init__(self, weight: Tensor, rank: int, alpha: float):
        a = init.kaiming_uniform_(torch.empty(rank, weight.shape[1]), a=math.sqrt(5))
        super().__init__(_linear(weight), a, torch.zeros(len(weight), rank), alpha=alpha)

    def merged(self) -> Tensor:
        return super().merged().weight


def _looked_at(answer: Callable[..., nn.Module], weight: Tensor, rank: int, alpha: float, x: Tensor,
               a: Tensor, b: Tensor) -> dict[str, Any]:
    """What a new layer is like, and what it computes once it has learnt these A and B."""
    layer = answer(weight, rank, alpha)
    for name in "ab":
        if not isinstance(getattr(layer, name, None), nn.Parameter):
            raise ValueError(f"the layer has no nn.Parameter called `{name}`; two are needed, `a` "
                             "and `b`")
    seen = {"output at first": layer(x),
            "shapes of a and b": [list(layer.a.shape), list(layer.b.shape)],
            "a is drawn at random": len(layer.a.unique()) > 1,
            "b is zero": not layer.b.any().item(),
            "numbers to learn": sum(p.numel() for p in layer.parameters() if p.requires_grad)}
    layer.a, layer.b = nn.Parameter(a.clone()), nn.Parameter(b.clone())
    with torch.no_grad():
        return seen | {"output": layer(x), "merged": layer.merged().detach()}


def _layer(rng: Generator, out: int, into: int, rank: int, alpha: float, *batch: int) -> Inputs:
    return {"weight": normal(rng, out, into), "rank": rank + int(rng.initial_seed() == 2),
            "alpha": alpha + torch.rand((), generator=rng).item(),
            "x": normal(rng, *batch, into), "a": normal(rng, rank, into),
            "b": normal(rng, out, rank)}


def _lora(*, scale: Callable[[float, int], float] = lambda alpha, rank: alpha / rank,
          merge: Callable[[float], float] = lambda scale: scale, both: bool = False,
          exchanged: bool = False, neither: bool = False, learn_weight: bool = False,
          base: float = 1.0, merged_base: float = 1.0, transposed: bool = False
          ) -> Callable[..., nn.Module]:
    """A layer with a path, right unless told otherwise."""

    class Layer(nn.Module):
        def __init__(self, weight: Tensor, rank: int, alpha: float):
            super().__init__()
            self.weight = nn.Parameter(weight.clone(), requires_grad=learn_weight)
            out, into = weight.shape
            self.a, self.b = (nn.Parameter(torch.randn(shape) if drawn else torch.zeros(shape))
                              for shape, drawn in (((rank, into), not exchanged and not neither),
                                                   ((out, rank), both or exchanged)))
            self.scale = scale(alpha, rank)

        def forward(self, x: Tensor) -> Tensor:
            plain = x @ (self.weight if transposed else self.weight.T)
            return base * plain + self.scale * x @ self.a.T @ self.b.T

        def merged(self) -> Tensor:
            return merged_base * self.weight + merge(self.scale) * self.b @ self.a

    return Layer


LORA = Exercise(
    "17.5", "A layer with a narrow path", "Your turn: a narrow path",
    _Package, adapt=_looked_at,
    probes=(
        Probe("rank 2", lambda rng: _layer(rng, 5, 4, 2, 3.0, 3)),
        Probe("rank 1", lambda rng: _layer(rng, 3, 6, 1, 2.0, 2)),
        Probe("a square layer, rank 3", lambda rng: _layer(rng, 4, 4, 3, 0.5, 2, 3)),
        Probe("alpha 16, rank 4", lambda rng: _layer(rng, 7, 6, 4, 16.0, 1)),
    ),
    misconceptions=(
        Misconception("alpha not divided by the rank", _lora(scale=lambda alpha, rank: alpha),
                      "you scale by alpha and not by alpha / rank. A rank of 64 would then walk "
                      "with steps that are 8 times as long as those of a rank of 8."),
        Misconception("no scale", _lora(scale=lambda alpha, rank: 1.0),
                      "your path has no scale. It is multiplied by alpha / rank."),
        Misconception("divided by alpha", _lora(scale=lambda alpha, rank: rank / alpha),
                      "your scale is the wrong way round: alpha / rank, not rank / alpha."),
        Misconception("root of the rank", _lora(scale=lambda alpha, rank: alpha / rank**0.5),
                      "you divide by the root of the rank. That is a later proposal (rsLoRA); in "
                      "the paper it is the rank."),
        Misconception("one over the rank", _lora(scale=lambda alpha, rank: 1 / rank),
                      "you divide by the rank and forget alpha."),
        Misconception("alpha times rank", _lora(scale=lambda alpha, rank: alpha * rank),
                      "you multiply by the rank. Divide: a path of rank 8 is a sum of 8 terms."),
        Misconception("B drawn at random", _lora(both=True),
                      "you drew B at random, so the layer begins with noise. B is zero, and at "
                      "first the layer computes what it did."),
        Misconception("A zero and B drawn", _lora(exchanged=True),
                      "you made A zero and drew B. That would begin as well, but the paper, and "
                      "every file of adapters, has it the other way: B is zero."),
        Misconception("both zero", _lora(neither=True),
                      "you made A and B zero. Then the gradient of each is zero, for each is "
                      "multiplied by the other, and nothing is ever learnt.",
                      section="Harder: the way back, without the large matrix"),
        Misconception("weight learnt, too", _lora(learn_weight=True),
                      "your weight learns, too. It is frozen: only A and B are learnt."),
        Misconception("the path alone", _lora(base=0.0),
                      "your output is the path alone. It is added to what the layer computed."),
        Misconception("merged without the scale", _lora(merge=lambda scale: 1.0),
                      "you merged B A without the scale: the merged layer is another one."),
        Misconception("scaled twice in the merge", _lora(merge=lambda scale: scale * scale),
                      "you scaled twice when you merged."),
        Misconception("merged path alone", _lora(merged_base=0.0),
                      "you merged nothing: the result is the path alone. Add it to the weight."),
        Misconception("merged without the path", _lora(merge=lambda scale: 0.0),
                      "your merged weight is the old one. Add scale * B A."),
        Misconception("path subtracted in the merge", _lora(merge=lambda scale: -scale),
                      "you subtracted the path when you merged. That is how one takes it out "
                      "again."),
        Misconception("weight not transposed", _lora(transposed=True),
                      "you multiply by the weight as it stands. Its shape is `out in`, so it is "
                      "x @ weight.T."),
    ),
    hints=(
        "A goes from `in` down to the rank: `rank in`. B goes up to `out`: `out rank`.",
        "Two nn.Parameters, a drawn (torch.randn is good enough), b zero. The weight is none that "
        "learns: keep it as a buffer or with requires_grad=False.",
        "x @ weight.T + alpha / rank * (x @ a.T @ b.T), and merged: weight + alpha / rank * b @ a.",
    ))

# -- 17.7: the way back --------------------------------------------------------------------------

Three = tuple[Tensor, Tensor, Tensor]
TOO_LARGE = "that matrix is as large as the weight; nothing larger than x, g, a and b is needed."
DERIVE = ("this check runs without autograd. Derive the gradients by hand: name what goes through "
          "the rank, and go back one product at a time.")


def _package_gradients(x: Tensor, g: Tensor, weight: Tensor, a: Tensor, b: Tensor, alpha: float
                       ) -> Three:
    x = x.clone().requires_grad_()
    layer = LoRALinear(_linear(weight), a.clone(), b.clone(), alpha=alpha)
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
        dx=lambda x, g, w, a, b, **of: g @ w + factor(x=x, **of) * (g @ b) @ a,
        da=lambda x, g, b, **of: factor(x=x, **of) * (g @ b).T @ x,
        db=lambda x, g, a, **of: factor(x=x, **of) * g.T @ (x @ a.T))


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

EXERCISES = [LORA, GRADIENTS]
