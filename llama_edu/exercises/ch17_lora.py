"""The exercise of chapter 17 on low-rank adaptation, 17.5: a layer with a path beside it."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn import init

from ..training.lora import LoRALinear
from .data import Exercise, Inputs, Misconception, Probe, normal
from .frugal import by_hand


def linear(weight: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight = nn.Parameter(weight.clone())
    return layer


class _Package(LoRALinear):
    """The package's layer, made as `add_lora` makes it."""

    def __init__(self, weight: Tensor, rank: int, alpha: float):
        a = init.kaiming_uniform_(torch.empty(rank, weight.shape[1]), a=math.sqrt(5))
        super().__init__(linear(weight), a, torch.zeros(len(weight), rank), alpha=alpha)

    def merged(self) -> Tensor:
        return super().merged().weight


TOO_LARGE = ("your `forward` makes a tensor as large as the weight. Go through the rank: x @ a.T "
             "first.")


def _looked_at(answer: Callable[..., nn.Module], weight: Tensor, rank: int, alpha: float, x: Tensor,
               a: Tensor, b: Tensor) -> dict[str, Any]:
    """What a new layer is like, and what it computes once it has learnt these A and B."""
    layer = answer(weight, rank, alpha)
    for name in "ab":
        if not isinstance(getattr(layer, name, None), nn.Parameter):
            raise ValueError(f"the layer has no nn.Parameter called `{name}`; two are needed, `a` "
                             "and `b`")
    shapes = {"a": [*layer.a.shape], "b": [*layer.b.shape]}
    seen = {f"shape of {name}": shape for name, shape in shapes.items()} | {
        "a is zero": not layer.a.any().item(),
        "rows of a differ": len(layer.a.unique(dim=0)) == len(layer.a),
        "b is zero": not layer.b.any().item(),
        "weight in state_dict": any(torch.equal(weight, each) or torch.equal(weight.T, each)
                                    for each in layer.state_dict().values() if each.ndim == 2),
        "numbers to learn": sum(p.numel() for p in layer.parameters() if p.requires_grad)}
    if shapes != {"a": [rank, weight.shape[1]], "b": [len(weight), rank]}:
        return seen | {"changes nothing at first": None, "merged": None, "output": None}
    seen["changes nothing at first"] = torch.allclose(layer(x), x @ weight.T, rtol=1e-3, atol=1e-4)
    layer.a, layer.b = nn.Parameter(a.clone()), nn.Parameter(b.clone())
    with torch.no_grad():
        seen["merged"] = layer.merged().detach().cpu().clone()      # raises for one without values
        seen["output"] = layer(x)
    most = max(x.numel(), seen["output"].numel(), weight.numel() - 1)
    by_hand(lambda: layer(x), most=most, too_large=TOO_LARGE, derive="")
    return seen


def _layer(rng: Generator, out: int, into: int, rank: int, alpha: float, *batch: int) -> Inputs:
    return {"weight": normal(rng, out, into), "rank": rank + int(rng.initial_seed() == 2),
            "alpha": alpha + torch.rand((), generator=rng).item(),
            "x": normal(rng, *batch, into), "a": normal(rng, rank, into),
            "b": normal(rng, out, rank)}


def _lora(*, scale: Callable[[float, int], float] = lambda alpha, rank: alpha / rank,
          merge: Callable[[float], float] = lambda scale: scale, both: bool = False,
          exchanged: bool = False, neither: bool = False, learn_weight: bool = False,
          base: float = 1.0, merged_base: float = 1.0, transposed: bool = False,
          plain: bool = False, alike: bool = False, whole: bool = False, in_place: bool = False
          ) -> Callable[..., nn.Module]:
    """A layer with a path, right unless told otherwise."""

    class Layer(nn.Module):
        def __init__(self, weight: Tensor, rank: int, alpha: float):
            super().__init__()
            own = weight.clone()
            self.weight = own if plain else nn.Parameter(own, requires_grad=learn_weight)
            out, into = weight.shape
            self.a, self.b = (nn.Parameter(torch.randn(shape) if drawn else torch.zeros(shape))
                              for shape, drawn in (((rank, into), not exchanged and not neither),
                                                   ((out, rank), both or exchanged)))
            self.scale = scale(alpha, rank)
            if alike:
                self.a = nn.Parameter(torch.ones(rank, into))

        def forward(self, x: Tensor) -> Tensor:
            if whole:
                return x @ self.merged().T
            straight = x @ (self.weight if transposed else self.weight.T)
            return base * straight + self.scale * x @ self.a.T @ self.b.T

        def merged(self) -> Tensor:
            if in_place:
                return self.weight.add_(self.scale * self.b @ self.a)
            return merged_base * self.weight + merge(self.scale) * self.b @ self.a

    return Layer


def _other_way_round(*, letters: bool) -> Callable[..., nn.Module]:
    """Right, but A goes up and B goes down, or both lie on their sides."""

    class Layer(nn.Module):
        def __init__(self, weight: Tensor, rank: int, alpha: float):
            super().__init__()
            self.weight = nn.Parameter(weight.clone(), requires_grad=False)
            drawn, zero = torch.randn(rank, weight.shape[1]), torch.zeros(len(weight), rank)
            first, second = (zero, drawn) if letters else (drawn.T, zero.T)
            self.a, self.b = nn.Parameter(first), nn.Parameter(second)

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.weight.T

        def merged(self) -> Tensor:
            return self.weight

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
                      "you made A zero and drew B. That would begin as well, but the paper has it "
                      "the other way: A is drawn, and B is zero."),
        Misconception("rows of A alike", _lora(alike=True),
                      "the rows of your A are alike. Then they learn alike, too, and the path has "
                      "rank 1, whatever rank was asked for. Draw A at random."),
        Misconception("A and B on their sides", _other_way_round(letters=False),
                      "your A and B lie on their sides. A is `r in` and B is `out r`, as nn.Linear "
                      "has its weights."),
        Misconception("letters exchanged", _other_way_round(letters=True),
                      "your A is the paper's B, and your B its A. A goes down to the rank, `r in`, "
                      "and is drawn; B goes up, `out r`, and is zero."),
        Misconception("weight not kept", _lora(plain=True),
                      "your weight is a plain attribute: `.to` does not move it, and `state_dict` "
                      "does not hold it. Keep it with `register_buffer`, or as an nn.Parameter "
                      "with requires_grad=False."),
        Misconception("merged at every step", _lora(whole=True),
                      "right, and by way of a matrix as large as the weight at each step. Go "
                      "through the rank: x @ a.T first, and that times b.T."),
        Misconception("merged in place", _lora(in_place=True),
                      "your `merged` changes the layer's own weight, so afterwards the path counts "
                      "twice. Return a new one."),
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

EXERCISES = [LORA]
