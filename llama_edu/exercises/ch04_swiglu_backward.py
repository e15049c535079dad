"""The exercise of chapter 04 that goes backwards: gradients of the gated layer, by hand."""

from collections.abc import Callable

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from ..layers import FeedForward
from .data import Exercise, Inputs, Misconception, Probe, normal

Gradients = tuple[Tensor, Tensor, Tensor, Tensor]


def _by_autograd(x: Tensor, w1: Tensor, w2: Tensor, w3: Tensor, grad: Tensor) -> Gradients:
    layer = FeedForward(w1.shape[1], w1.shape[0]).to(x.dtype)
    layer.load_state_dict({"w1.weight": w1, "w2.weight": w2, "w3.weight": w3})
    x = x.clone().requires_grad_()
    wanted = (x, layer.w1.weight, layer.w2.weight, layer.w3.weight)
    return torch.autograd.grad(layer(x), wanted, grad)


def _slope(z: Tensor) -> Tensor:
    z = z.clone().requires_grad_()
    return torch.autograd.grad(F.silu(z).sum(), z)[0]


def _backward(*, slope: Callable[[Tensor], Tensor] = _slope,
              down: Callable[[Tensor, Tensor, Tensor], Tensor] = lambda act, up, gate: act * up,
              to_gate: Callable[[Tensor, Tensor], Tensor] = lambda pulled, up: pulled * up,
              to_up: Callable[[Tensor, Tensor, Tensor], Tensor] = lambda pulled, act, gate:
              pulled * act) -> Callable:
    """The four gradients, with one step replaced."""
    def gradients(x: Tensor, w1: Tensor, w2: Tensor, w3: Tensor, grad: Tensor) -> Gradients:
        gate, up = x @ w1.T, x @ w3.T
        act, pulled = F.silu(gate), grad @ w2
        for_gate = to_gate(pulled, up) * slope(gate)
        for_up = to_up(pulled, act, gate)
        return (for_gate @ w1 + for_up @ w3, for_gate.T @ x, grad.T @ down(act, up, gate),
                for_up.T @ x)

    return gradients


def _then(change: Callable[..., Gradients]) -> Callable:
    """The right gradients, changed at the end; `change` gets them and the inputs."""
    return lambda x, w1, w2, w3, grad: change(_by_autograd(x, w1, w2, w3, grad), x, w1, w3)


def _one_way(side: int) -> Callable:
    """The gradient for x through one projection alone."""
    def gradients(x: Tensor, w1: Tensor, w2: Tensor, w3: Tensor, grad: Tensor) -> Gradients:
        gate, up, pulled = x @ w1.T, x @ w3.T, grad @ w2
        ways = (pulled * up * _slope(gate)) @ w1, (pulled * F.silu(gate)) @ w3
        return (ways[side], *_by_autograd(x, w1, w2, w3, grad)[1:])

    return gradients


def _ways_exchanged(x: Tensor, w1: Tensor, w2: Tensor, w3: Tensor, grad: Tensor) -> Gradients:
    gate, up, pulled = x @ w1.T, x @ w3.T, grad @ w2
    right = _by_autograd(x, w1, w2, w3, grad)
    return (pulled * up * _slope(gate)) @ w3 + (pulled * F.silu(gate)) @ w1, *right[1:]


def _residual(x: Tensor, w1: Tensor, w2: Tensor, w3: Tensor, grad: Tensor) -> Gradients:
    right = _by_autograd(x, w1, w2, w3, grad)
    return right[0] + grad, *right[1:]


def _subtracted(*given: Tensor) -> Gradients:
    one, other = _one_way(0)(*given), _one_way(1)(*given)
    return one[0] - other[0], *one[1:]


def _multiplied(*given: Tensor) -> Gradients:
    one, other = _one_way(0)(*given), _one_way(1)(*given)
    return one[0] * other[0], *one[1:]


def _inputs(rng: Generator, n: int, *, dim: int, hidden_dim: int) -> Inputs:
    return {"x": normal(rng, n, dim, std=2.0), "w1": normal(rng, hidden_dim, dim),
            "w2": normal(rng, dim, hidden_dim), "w3": normal(rng, hidden_dim, dim),
            "grad": normal(rng, n, dim)}


def _sigmoid_slope(z: Tensor) -> Tensor:
    return torch.sigmoid(z) * torch.sigmoid(-z)


BACKWARD = Exercise(
    "4.7", "The way back", "One more", _by_autograd,
    probes=(
        Probe("one token, one feature", lambda rng: _inputs(rng, 1, dim=1, hidden_dim=1)),
        Probe("four tokens", lambda rng: _inputs(rng, 4, dim=3, hidden_dim=5)),
        Probe("a square layer", lambda rng: _inputs(rng, 3, dim=3, hidden_dim=3)),
        Probe("no tokens", lambda rng: _inputs(rng, 0, dim=2, hidden_dim=3)),
        Probe("float64", lambda rng: {name: value.double() for name, value in
                                      _inputs(rng, 2, dim=3, hidden_dim=4).items()}),
        Probe("gates far open and far shut", lambda rng: {
            **_inputs(rng, 3, dim=2, hidden_dim=4), "x": normal(rng, 3, 2, std=60.0)}),
    ),
    misconceptions=(
        Misconception("slope: sigmoid only", _backward(slope=torch.sigmoid),
                      "you took the sigmoid for the slope of SiLU. SiLU is a product of two things "
                      "that depend on z, so its slope has two terms."),
        Misconception("slope: the other term only",
                      _backward(slope=lambda z: z * _sigmoid_slope(z)),
                      "your slope of SiLU has only the term in which the sigmoid changes. The z "
                      "in front changes too."),
        Misconception("slope of the sigmoid", _backward(slope=_sigmoid_slope),
                      "you took the slope of the sigmoid. The gate is SiLU, z times the sigmoid."),
        Misconception("no slope", _backward(slope=torch.ones_like),
                      "you went back past SiLU as if it were not there: its slope is missing."),
        Misconception("SiLU for its slope", _backward(slope=F.silu),
                      "you multiplied by SiLU where its slope belongs."),
        Misconception("SiLU as a sigmoid", _backward(slope=lambda z: F.silu(z) * (1 - F.silu(z))),
                      "you used the sigmoid's rule, s (1 - s), on SiLU. It holds for the sigmoid; "
                      "SiLU is z times that."),
        Misconception("slope of ReLU", _backward(slope=lambda z: (z > 0).to(z.dtype)),
                      "you took the slope of ReLU, 0 or 1. SiLU's is soft."),
        Misconception("slope with 1 + sigmoid",
                      _backward(slope=lambda z: torch.sigmoid(z) * (1 + z * torch.sigmoid(z))),
                      "your slope has sigmoid(z) where 1 - sigmoid(z) belongs."),
        Misconception("slope without a sigmoid", _backward(
                          slope=lambda z: torch.sigmoid(z) + z * torch.sigmoid(-z)),
                      "one sigmoid is missing in your slope of SiLU. The z in front, derived, "
                      "leaves sigmoid(z); the sigmoid, derived, leaves z times sigmoid(z) times "
                      "1 - sigmoid(z).", also=tuple(_backward(slope=slope) for slope in (
                          lambda z: 1 + z * torch.sigmoid(-z),
                          lambda z: 1 + z * _sigmoid_slope(z),
                          lambda z: torch.sigmoid(z) + z * torch.sigmoid(z),
                          lambda z: torch.sigmoid(z) + _sigmoid_slope(z),
                          lambda z: torch.sigmoid(z) + torch.sigmoid(-z) * torch.sigmoid(z) / 2,
                          lambda z: torch.sigmoid(z) * (z + torch.sigmoid(-z)),
                          lambda z: torch.sigmoid(z) * (1 + torch.sigmoid(-z))))),
        Misconception("slope with 1 - SiLU", _backward(
                          slope=lambda z: torch.sigmoid(z) + F.silu(z) * (1 - F.silu(z))),
                      "your slope of SiLU has 1 - SiLU(z) where 1 - sigmoid(z) belongs.",
                      also=(_backward(slope=lambda z: torch.sigmoid(z)
                                      * (1 + z * (1 - F.silu(z)))),)),
        Misconception("slope with a minus", _backward(
                          slope=lambda z: torch.sigmoid(z) * (1 - z * torch.sigmoid(-z))),
                      "the two terms of your slope of SiLU are subtracted. They are added.",
                      also=tuple(_backward(slope=slope) for slope in (
                          lambda z: torch.sigmoid(z) * (1 - z * torch.sigmoid(z)),
                          lambda z: torch.sigmoid(z) * (z * torch.sigmoid(-z) - 1)))),
        Misconception("slope at another place", lambda x, w1, w2, w3, grad: _backward(
                          slope=lambda z: _slope(F.silu(z)))(x, w1, w2, w3, grad),
                      "you took the slope of SiLU at SiLU(x W1), where it has been applied "
                      "already. It is taken at x W1."),
        Misconception("up by the sigmoid",
                      _backward(to_up=lambda pulled, act, gate: pulled * torch.sigmoid(gate)),
                      "on the way back to w3 you multiplied by the sigmoid. The gate is SiLU, z "
                      "times that."),
        Misconception("up by the slope",
                      _backward(to_up=lambda pulled, act, gate: pulled * _slope(gate)),
                      "on the way back to w3 you multiplied by the slope of SiLU. What multiplied "
                      "x W3 is SiLU(x W1) itself.",
                      also=(_backward(to_up=lambda pulled, act, gate: pulled * act * _slope(gate)),
                            )),
        Misconception("a residual", _residual,
                      "you added grad to the gradient for x. The residual sum stands outside of "
                      "the layer."),
        Misconception("w2 sees up only", _backward(down=lambda act, up, gate: up),
                      "your gradient for w2 used up alone. What w2 reads is gate times up.",
                      also=(_backward(down=lambda act, up, gate: act + up),
                            _backward(down=lambda act, up, gate: torch.sigmoid(gate) * up),
                            _backward(down=lambda act, up, gate: gate))),
        Misconception("ways exchanged", _ways_exchanged,
                      "on the way to x you took w3 for the gate and w1 for up. Each goes back "
                      "through the matrix that made it."),
        Misconception("averaged ways",
                      _then(lambda right, x, w1, w3: (right[0] / 2, *right[1:])),
                      "you took the mean of the two ways to x. They are added."),
        Misconception("ways subtracted", _subtracted,
                      "you subtracted one way to x from the other. They are added."),
        Misconception("ways multiplied", _multiplied,
                      "you multiplied the two ways to x. They are added, as each moves the result "
                      "by itself."),
        Misconception("x through the gate only", _one_way(0),
                      "your gradient for x came through w1 alone. x feeds both projections, so "
                      "both ways back are added."),
        Misconception("x through up only", _one_way(1),
                      "your gradient for x came through w3 alone. x feeds both projections, so "
                      "both ways back are added."),
        Misconception("product forgotten", _backward(to_gate=lambda pulled, up: pulled,
                                                     to_up=lambda pulled, act, gate: pulled),
                      "you forgot that the two sides multiply each other: each gets what came back "
                      "times the other."),
        Misconception("gate not multiplied by up",
                      _backward(to_gate=lambda pulled, up: pulled),
                      "you forgot that the gate multiplies: what flows back to the gate is "
                      "multiplied by what it let through."),
        Misconception("up not multiplied by the gate",
                      _backward(to_up=lambda pulled, act, gate: pulled),
                      "you forgot that the gate multiplies: what flows back to the up side is "
                      "multiplied by the gate."),
        Misconception("up by the bare gate",
                      _backward(to_up=lambda pulled, act, gate: pulled * gate),
                      "on the way back to w3 you multiplied by x W1. The gate is SiLU of it."),
        Misconception("w2 sees the gate only", _backward(down=lambda act, up, gate: act),
                      "your gradient for w2 used the gate alone. What w2 reads is gate times up."),
        Misconception("w2 sees no SiLU", _backward(down=lambda act, up, gate: gate * up),
                      "your gradient for w2 used x W1 without SiLU. What w2 reads is SiLU(x W1) "
                      "times up."),
        Misconception("w1 and w3 exchanged",
                      _then(lambda right, x, w1, w3: (right[0], right[3], right[2], right[1])),
                      "you exchanged the gradients of w1 and w3."),
        Misconception("order: w1, w3, w2",
                      _then(lambda right, x, w1, w3: (right[0], right[1], right[3], right[2])),
                      "you returned w3's gradient before w2's. The order is x, w1, w2, w3, that "
                      "of the inputs."),
        Misconception("averaged over tokens", _then(
            lambda right, x, w1, w3: (right[0], *(each / max(len(x), 1) for each in right[1:]))),
                      "you averaged the weights' gradients over the tokens. Each token adds its "
                      "own: they are summed."),
        Misconception("transposed", _then(
            lambda right, x, w1, w3: (right[0], *(each.T for each in right[1:]))),
                      "you returned the weights' gradients transposed. Each has the shape of its "
                      "weight."),
    ),
    hints=(
        "Work backwards through y = (SiLU(g) * u) w2ᵀ: what flows back to the product, then to "
        "each of its factors, then through SiLU's slope.",
        "To the product flows `grad @ w2`. To u it comes multiplied by SiLU(g); to g, multiplied "
        "by u and by the slope of SiLU at g.",
        "A gradient that reaches g sends `for_gate @ w1` to x and `for_gate.T @ x` to w1; u does "
        "the same with w3, and x adds both.",
    ))

EXERCISES = [BACKWARD]
