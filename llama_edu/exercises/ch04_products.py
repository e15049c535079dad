"""The exercises of chapter 04 on products: four squares that multiply, and five sealed layers."""

from collections.abc import Callable

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from .data import Exercise, Misconception, Probe, whole
from .hunts import HEALTHY, Bug, Hunt

# -- 4.3 -----------------------------------------------------------------------------------------

Weights = tuple[Tensor, Tensor]


def _squared_layer(answer: Callable[[], Weights], x: Tensor) -> Tensor:
    """The layer with the answer's weights: squared ReLU between two matrices."""
    made = answer()
    if not isinstance(made, tuple | list) or len(made) != 2:
        raise ValueError("return two matrices, w1 and w2")
    w1, w2 = made
    for name, each in {"w1": w1, "w2": w2}.items():
        kind = each.dtype if isinstance(each, Tensor) else type(each).__name__
        if kind != x.dtype:
            raise ValueError(f"{name} is {str(kind).removeprefix('torch.')}; a tensor of float32 "
                             "is needed, as x is one")
    if w1.ndim != 2 or w1.shape[1] != 2:
        raise ValueError(f"w1 has the shape {tuple(w1.shape)}; `f 2` is needed, one row a unit")
    if w2.shape != (1, len(w1)):
        raise ValueError(f"w2 has the shape {tuple(w2.shape)}; `1 f` is needed, "
                         f"here (1, {len(w1)})")
    return F.linear(F.relu(F.linear(x, w1)).square(), w2)


def _weights(w1: list[list[float]], *w2: float) -> Callable[[], Weights]:
    return lambda: (torch.tensor(w1), torch.tensor([w2], dtype=torch.float32))


SUMS = [[1.0, 1.0], [-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0]]
AXES = [[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]


def _signed(rng: Generator, *signs: int) -> dict[str, Tensor]:
    return {"x": whole(rng, 3, 2) * torch.tensor(signs)}


SQUARES = Exercise(
    "4.3", "A product from squares", "Who else can multiply?",
    _weights(SUMS, 0.25, 0.25, -0.25, -0.25), adapt=_squared_layer,
    probes=(
        Probe("both positive", lambda rng: _signed(rng, 1, 1)),
        Probe("a negative", lambda rng: _signed(rng, -1, 1)),
        Probe("b negative", lambda rng: _signed(rng, 1, -1)),
        Probe("both negative", lambda rng: _signed(rng, -1, -1)),
        Probe("fractions and a zero", lambda rng: {
            "x": torch.stack([whole(rng, 3) / 8, whole(rng, 3) * torch.tensor([1, 0, -1])], -1)}),
    ),
    misconceptions=(
        Misconception("a wrong factor", _weights(SUMS, 1, 1, -1, -1),
                      "your layer gives a fixed multiple of ab, and not ab: scale w2. (A factor in "
                      "w1 is squared.)",
                      also=(*(_weights(SUMS, k, k, -k, -k) for k in (1/2, 1/8, 1/16, 1/64)),
                            *(_weights(SUMS[:2] + AXES, k, k, -k, -k, -k, -k) for k in (1/4, 1)))),
        Misconception("cut to whole numbers", _weights(SUMS, 0, 0, -1, -1),
                      "your w2 was divided in whole numbers, so the quarters are gone. Make it of "
                      "floats: 0.25, or / in place of //.", also=(_weights(SUMS, 0, 0, 0, 0),)),
        Misconception("positive halves", _weights(SUMS[::2], 0.25, -0.25),
                      "a square of yours has one unit only. ReLU cuts off what is below zero: add "
                      "a unit that reads the negative, for each square.",
                      also=(_weights(SUMS[1::2], 0.25, -0.25),
                            *(_weights(three, *signs) for three, signs in (
                                (SUMS[:3], (0.25, 0.25, -0.25)),
                                (SUMS[::2] + SUMS[3:], (0.25, -0.25, -0.25)),
                                (SUMS[1:], (0.25, -0.25, -0.25)))),
                            _weights(SUMS[::3], 0.25, -0.25), _weights(SUMS[1:3], 0.25, -0.25),
                            _weights(SUMS[::2], 1, -1), _weights(SUMS[::2], 0.5, -0.5),
                            *(_weights([SUMS[0], *AXES[::2]], k, -k, -k) for k in (1/2, 1)),
                            *(_weights(SUMS[:2] + AXES[::2], k, k, -k, -k) for k in (1/2, 1)))),
        Misconception("odd halves", _weights(SUMS, 0.25, -0.25, -0.25, 0.25),
                      "you subtracted the half that reads the negative, so that each pair gives "
                      "u times |u|. A square is the sum of its halves.",
                      also=(_weights(SUMS, 1, -1, -1, 1), _weights(SUMS, 0.25, -0.25, 0.25, -0.25),
                            _weights(SUMS, 1, -1, 1, -1))),
        Misconception("unequal shares", _weights(SUMS, 0.5, 0.5, -0.25, -0.25),
                      "your two squares have different shares, so a² and b² stay: they go only if "
                      "both squares have equal ones.",
                      also=(_weights(SUMS, 0.25, 0.25, -0.5, -0.5),
                            _weights(SUMS, 1, 1, -0.25, -0.25))),
        Misconception("all added", _weights(SUMS, 0.25, 0.25, 0.25, 0.25),
                      "you added the two squares: that is (a² + b²) / 2. Their difference holds "
                      "the product.", also=(_weights(SUMS, 1, 1, 1, 1),)),
        Misconception("sign", _weights(SUMS, -0.25, -0.25, 0.25, 0.25),
                      "your layer gives -ab: the square of the difference is the one to "
                      "subtract.", also=(_weights(SUMS, -1, -1, 1, 1),)),
        Misconception("squares of a and b", _weights(AXES, 1, 1, -1, -1),
                      "your units read a and b one at a time, so no square ever sees both. Let "
                      "them read a sum and a difference.",
                      also=(_weights(AXES, 1, 1, 1, 1), _weights(AXES, 0.25, 0.25, -0.25, -0.25),
                            _weights(AXES, 0.25, 0.25, 0.25, 0.25))),
        Misconception("the sum only", _weights(SUMS[:2], 0.5, 0.5),
                      "your layer has the square of the sum alone, which holds the product and two "
                      "squares more. What takes the squares away?",
                      also=(_weights(SUMS[:2], 0.25, 0.25), _weights(SUMS[:2], 1, 1),
                            _weights(SUMS[:1], 0.5), _weights(SUMS[:1], 1))),
    ),
    hints=(
        "A unit that is squared gives the square of a sum, where that is positive. In which "
        "squares does ab occur?",
        "(a + b)² is a² + 2ab + b². Which other square takes a² and b² away again?",
        "ReLU cuts one half of each square off; a second unit, reading the negative, brings it "
        "back. That makes four rows.",
    ))

# -- 4.4 -----------------------------------------------------------------------------------------

WIDE = 5


def _sealed(hidden: Callable[[Tensor, Tensor], Tensor], *, bias: float = 0.0) -> Callable:
    """A layer whose weights nobody sees: `hidden` makes one number of a gate and an up."""
    w1, w3, w2 = torch.randn(3, WIDE, 3, generator=torch.Generator("cpu").manual_seed(4))

    def layer(x: Tensor) -> Tensor:
        gate, up, down = (weight.to(x.dtype) for weight in (w1, w3, w2))
        return hidden(x @ gate.T + bias, x @ up.T + bias) @ down

    return layer


def _bug(hidden: Callable[[Tensor, Tensor], Tensor], shows: str, *, bias: float = 0.0) -> Bug:
    return Bug(lambda: _sealed(hidden, bias=bias), shows)


def _symmetries(layer: Callable[[Tensor], Tensor]) -> Tensor:
    """What becomes of the result at 0, at -x and at 2x."""
    x = torch.tensor([[1.0, -0.5, 0.75], [-1.5, 2.0, 0.25]], dtype=torch.float64)
    return torch.stack([layer(factor * x) for factor in (0, 1, -1, 2, -2)])


SEALED = Hunt(
    "4.4", "Sealed layers", "Sealed layers",
    healthy=lambda: _sealed(lambda gate, up: F.silu(gate) * up),
    bugs={
        "no SiLU": _bug(lambda gate, up: gate * up,
                        "gives the same for x and -x, and four times as much for 2x"),
        "sigmoid for SiLU": _bug(
            lambda gate, up: torch.sigmoid(gate) * up,
            "makes layer(x) - layer(-x) exactly twice as large when x doubles, and layer(2x) is "
            "no fixed multiple of layer(x)"),
        "ReLU for SiLU": _bug(lambda gate, up: F.relu(gate) * up,
                              "gives four times as much for 2x, and not the same for x and -x"),
        "ReLU and no gate": _bug(lambda gate, up: F.relu(gate),
                                 "gives exactly twice as much for 2x"),
        "SiLU on the product": _bug(
            lambda gate, up: F.silu(gate * up),
            "gives the same for x and -x, and not four times as much for 2x"),
        "SiLU on both": _bug(
            lambda gate, up: F.silu(gate) * F.silu(up),
            "gives zero for zero and keeps none of the laws: neither layer(x) + layer(-x) nor "
            "layer(x) - layer(-x) is multiplied by a fixed number when x doubles"),
        "biases": _bug(lambda gate, up: F.silu(gate) * up,
                       "gives something other than zero for zero", bias=0.5),
    },
    hidden={"a": "sigmoid for SiLU", "b": "SiLU on the product", "c": HEALTHY,
            "d": "ReLU for SiLU", "e": "SiLU on both"},
    look=_symmetries,
    hints=(
        "Compare what each gives at x, at -x, at 2x and at 0. Use float64 and more than one x.",
        "SiLU(z) - SiLU(-z) = z. So what is layer(x) + layer(-x) for a healthy layer, and what "
        "becomes of it when x doubles?",
        "For each verdict, work out on paper for a single unit which of layer(x), "
        "layer(x) + layer(-x) and layer(x) - layer(-x) are multiplied by exactly 2, or by "
        "exactly 4.",
    ))

EXERCISES = [SQUARES, SEALED]
