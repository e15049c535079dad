"""The exercises of chapter 04: SiLU, and the gated layer."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor
from torch.func import functional_call
from torch.nn import functional as F

from ..layers import FeedForward
from .data import Exercise, Inputs, Misconception, Probe, normal, whole

# -- 4.1 -----------------------------------------------------------------------------------------


def _value_or_slope(answer: Callable, x: Tensor, backward: bool) -> Any:
    """The answer itself, or the slope that training would get from it.

    A result cut off from x has none; it passes here, and the gradients of the exercise name it.
    """
    if not backward:
        return answer(x)
    leaf = x.clone().requires_grad_()
    for silu in (answer, F.silu):
        result = silu(leaf + 0.0)
        if isinstance(result, Tensor) and result.requires_grad and result.shape == leaf.shape:
            return torch.autograd.grad(result.sum(), leaf)[0]
    raise AssertionError("F.silu has a gradient")


def _asks(name: str, make: Callable[[Generator], Tensor], *, backward: bool = False) -> Probe:
    return Probe(name, lambda rng: {"x": make(rng), "backward": backward})


def _beside(ordinary: float, far: Tensor) -> Tensor:
    """One ordinary value and far ones, whose tiny results are measured by it."""
    return torch.cat([far.new_tensor([ordinary]), far])


SILU = Exercise(
    "4.1", "SiLU by hand", "The idea", F.silu,
    probes=(
        _asks("three whole numbers", lambda rng: whole(rng, 3) - 5),
        _asks("a batch", lambda rng: normal(rng, 2, 3, 4, std=2.0)),
        _asks("float64", lambda rng: normal(rng, 2, 3).double() * 2),
        _asks("far below zero", lambda rng: _beside(1.0, normal(rng, 4, mean=-200.0, std=5.0))),
        _asks("far above zero", lambda rng: normal(rng, 4, mean=200.0, std=5.0)),
        _asks("its gradient near zero", lambda rng: normal(rng, 5, std=2.0), backward=True),
        _asks("its gradient far below zero",
              lambda rng: _beside(1.0, normal(rng, 3, mean=-150.0, std=5.0)), backward=True),
        _asks("its gradient far above zero", lambda rng: normal(rng, 3, mean=150.0, std=5.0),
              backward=True),
    ),
    misconceptions=(
        Misconception("sigmoid only", torch.sigmoid,
                      "you returned the sigmoid alone. SiLU is x times it.",
                      also=(lambda x: 1 / (1 + torch.exp(-x)),)),
        Misconception("wrong sign", lambda x: x * torch.sigmoid(-x),
                      "you took the sigmoid of -x, so the gate closes where it has to open.",
                      also=(lambda x: x / (1 + torch.exp(x)),)),
        Misconception("tanh", lambda x: x * torch.tanh(x),
                      "you gated with tanh, which runs from -1 to 1. The sigmoid runs from 0 to "
                      "1, so that a closed gate lets nothing through."),
        Misconception("beta of GELU", lambda x: x * torch.sigmoid(1.702 * x),
                      "you steepened the sigmoid by 1.702, as some do to imitate GELU. SiLU has "
                      "a beta of 1."),
        Misconception("GELU", F.gelu,
                      "that is GELU, whose gate is the normal distribution. SiLU's is the "
                      "sigmoid.", also=(lambda x: F.gelu(x, approximate="tanh"),)),
        Misconception("ReLU", F.relu,
                      "that is ReLU, whose gate is 0 or 1. SiLU's is the sigmoid."),
        Misconception("softplus", F.softplus,
                      "that is softplus, the integral of the sigmoid. SiLU is x times the "
                      "sigmoid, and dips below zero."),
        Misconception("tanh-shaped gate", lambda x: x * (1 + torch.tanh(x)) / 2,
                      "you gated with (1 + tanh(x)) / 2, which is the sigmoid of 2x. For the "
                      "sigmoid of x, take the tanh of x / 2."),
        Misconception("minus", lambda x: -x * torch.sigmoid(x),
                      "you turned the sign. SiLU of large numbers is that number, with its own "
                      "sign."),
        Misconception("sigmoid twice", lambda x: x * torch.sigmoid(x) ** 2,
                      "you applied a gate twice. SiLU is x times one sigmoid of x.",
                      also=(lambda x: torch.sigmoid(F.silu(x)), lambda x: F.silu(F.silu(x)),
                            *(lambda x, gate=gate: x * torch.sigmoid(gate(x))
                              for gate in (F.silu, torch.sigmoid)))),
        Misconception("x twice", lambda x: x * x * torch.sigmoid(x),
                      "you multiplied by x twice. SiLU is x times one sigmoid of x."),
        Misconception("added", lambda x: x + torch.sigmoid(x),
                      "you added the sigmoid. SiLU is x times it."),
        Misconception("the slope", lambda x: torch.sigmoid(x) * (1 + x * torch.sigmoid(-x)),
                      "that is a slope, of SiLU or of the sigmoid. SiLU itself is asked for.",
                      also=(lambda x: torch.sigmoid(x) * torch.sigmoid(-x),
                            lambda x: x * torch.sigmoid(x) * torch.sigmoid(-x))),
        Misconception("Mish", F.mish,
                      "that is Mish, x times the tanh of the softplus. SiLU's gate is the "
                      "sigmoid of x.",
                      also=(lambda x: x * F.softplus(x), lambda x: torch.tanh(F.softplus(x)))),
        Misconception("a straight sigmoid", F.hardswish,
                      "you gated with straight pieces, which imitate the sigmoid and end at 0 and "
                      "1. SiLU's gate is the sigmoid itself.",
                      also=(F.hardsigmoid, lambda x: x * (x / 4 + 0.5).clamp(0, 1))),
        Misconception("another activation", F.elu,
                      "that is another activation. SiLU is x times its sigmoid.",
                      also=(F.logsigmoid, F.leaky_relu, F.selu, torch.tanh,
                            lambda x: x / (1 + x.abs()))),
        Misconception("other beta", lambda x: x * torch.sigmoid(x / 2),
                      "you changed the sigmoid's input. SiLU's gate is the sigmoid of x itself, "
                      "with a beta of 1.",
                      also=(lambda x: x * torch.sigmoid(x + 1), lambda x: x * torch.sigmoid(x - 1),
                            lambda x: x * torch.sigmoid(x.abs()))),
        Misconception("the size of x", lambda x: x.abs() * torch.sigmoid(x),
                      "you took the size of x. Below zero SiLU is below zero, too."),
        Misconception("softmax", lambda x: x * torch.softmax(x, -1),
                      "you gated with softmax, in which the numbers compete. Each gate of SiLU "
                      "looks at its own number only.", also=(lambda x: torch.softmax(x, -1),)),
        Misconception("clamped", lambda x: x.clamp(-20, 20) * torch.sigmoid(x),
                      "you clamped x itself. Far above zero SiLU goes on growing; only the "
                      "exponent may be clamped.",
                      also=tuple(lambda x, far=far: x.clamp(-far, far)
                                 / (1 + torch.exp(-x.clamp(-far, far)))
                                 for far in (10, 20, 30, 50, 80, 88, 100))),
        Misconception("exp overflows", lambda x: x * torch.exp(x) / (1 + torch.exp(x)),
                      "the formula is right, but exp(x) overflows for large x and infinity over "
                      "infinity is NaN. Use torch.sigmoid.",
                      also=(lambda x: x * (torch.exp(x) / (1 + torch.exp(x))),)),
        Misconception("nan replaced", lambda x: torch.nan_to_num(
                          x * torch.exp(x) / (1 + torch.exp(x))),
                      "you put a number where the result is NaN. Far above zero SiLU is x, and "
                      "exp(x) is infinite there, in the gradient too. Use torch.sigmoid.",
                      also=(lambda x: x * torch.nan_to_num(torch.exp(x) / (1 + torch.exp(x))),)),
        Misconception("gradient overflows", lambda x: x / (1 + torch.exp(-x)),
                      "the values are right, but the gradient far below zero is NaN. There "
                      "exp(-x) is infinite; dividing by it hides that, and the backward pass "
                      "multiplies the infinity by zero. Use torch.sigmoid, whose gradient torch "
                      "computes without it.",
                      also=(lambda x: x * (1 / (1 + torch.exp(-x))),
                            lambda x: x * (1 + torch.exp(-x)) ** -1)),
        Misconception("where overflows", lambda x: torch.where(
                          x > 0, x / (1 + torch.exp(-x)), x * torch.exp(x) / (1 + torch.exp(x))),
                      "the values are right, but beyond 88 on either side the gradient is NaN: an "
                      "exp there is infinite, and the backward pass multiplies it by zero, also in "
                      "the branch that torch.where does not choose. Use torch.sigmoid."),
        Misconception("gate detached", lambda x: x * torch.sigmoid(x).detach(),
                      "the values are right, but the gate is cut off from x: when x changes, the "
                      "gate changes too, and the gradient has to know.",
                      also=(lambda x: x * torch.sigmoid(x.detach()),)),
        Misconception("x detached", lambda x: x.detach() * torch.sigmoid(x),
                      "the values are right, but the x in front is cut off: the gradient knows "
                      "the gate's change alone."),
    ),
    hints=(
        "SiLU is x times a share of it, a number between 0 and 1.",
        "The formula of `silu` above holds for tensors too. What is exp(-x) at x = -150, in "
        "float32, and what becomes of it when gradients flow back?",
        "torch.sigmoid is written so that neither happens.",
    ), adapt=_value_or_slope, gradients=("x",))

# -- 4.2 -----------------------------------------------------------------------------------------

def _package_swiglu(x: Tensor, w1: Tensor, w2: Tensor, w3: Tensor) -> Tensor:
    layer = FeedForward(w1.shape[1], w1.shape[0])
    return functional_call(layer, {"w1.weight": w1, "w2.weight": w2, "w3.weight": w3}, x)


def _swiglu_inputs(rng: Generator, *leading: int, dim: int, hidden_dim: int) -> Inputs:
    return {"x": normal(rng, *leading, dim, std=2.0), "w1": normal(rng, hidden_dim, dim),
            "w2": normal(rng, dim, hidden_dim), "w3": normal(rng, hidden_dim, dim)}


def _gated_by(gate: Callable[[Tensor], Tensor]) -> Callable:
    return lambda x, w1, w2, w3: (gate(x @ w1.T) * (x @ w3.T)) @ w2.T


SWIGLU = Exercise(
    "4.2", "SwiGLU from its weights", "The idea", _package_swiglu,
    probes=(
        Probe("one token", lambda rng: _swiglu_inputs(rng, dim=2, hidden_dim=3)),
        Probe("a batch", lambda rng: _swiglu_inputs(rng, 2, 3, dim=4, hidden_dim=6)),
        Probe("a square layer", lambda rng: _swiglu_inputs(rng, 2, dim=3, hidden_dim=3)),
        Probe("wide", lambda rng: _swiglu_inputs(rng, 3, dim=4, hidden_dim=11)),
        Probe("narrow", lambda rng: _swiglu_inputs(rng, 3, dim=7, hidden_dim=2)),
        Probe("one feature", lambda rng: _swiglu_inputs(rng, 2, dim=1, hidden_dim=1)),
    ),
    misconceptions=(
        Misconception("gate on w3",
                      lambda x, w1, w2, w3: _package_swiglu(x, w3, w2, w1),
                      "you put the SiLU on w3. In Meta's naming w1 is the gate and w3 is what it "
                      "lets through; a checkpoint loaded the other way round runs and is wrong."),
        Misconception("sigmoid", _gated_by(torch.sigmoid),
                      "you gated with the sigmoid: that is the GLU of 2016. SwiGLU gates with "
                      "SiLU, the sigmoid times its own input."),
        Misconception("GELU gate", _gated_by(F.gelu),
                      "you gated with GELU: that is GEGLU, from the same paper. The Llamas use "
                      "SiLU.", also=(_gated_by(lambda x: F.gelu(x, approximate="tanh")),)),
        Misconception("ReLU gate", _gated_by(F.relu),
                      "you gated with ReLU: that is ReGLU, from the same paper. The Llamas use "
                      "SiLU."),
        Misconception("tanh gate", _gated_by(torch.tanh),
                      "you gated with another function. SwiGLU gates with SiLU.",
                      also=tuple(map(_gated_by, (F.softplus, F.mish, F.elu, F.leaky_relu,
                                                 lambda gate: torch.softmax(gate, -1),
                                                 lambda gate: gate.relu().square(),
                                                 lambda gate: gate.square())))),
        Misconception("sigmoid on w3",
                      lambda x, w1, w2, w3: ((x @ w1.T) * torch.sigmoid(x @ w3.T)) @ w2.T,
                      "you gated with the sigmoid, and on w3's side. SwiGLU gates with SiLU, and "
                      "w1 feeds the gate."),
        Misconception("another gate on w3",
                      lambda x, w1, w2, w3: ((x @ w1.T) * F.gelu(x @ w3.T)) @ w2.T,
                      "you gated with another function, and on w3's side. It is SiLU, of x W1.",
                      also=(lambda x, w1, w2, w3: ((x @ w1.T) * F.relu(x @ w3.T)) @ w2.T,)),
        Misconception("SiLU twice", _gated_by(lambda gate: F.silu(F.silu(gate))),
                      "you applied SiLU once more than once. It is applied to x W1, and nowhere "
                      "else.",
                      also=(lambda x, w1, w2, w3:
                            F.silu((F.silu(x @ w1.T) * (x @ w3.T)) @ w2.T),
                            lambda x, w1, w2, w3:
                            F.silu(F.silu(x @ w1.T) * (x @ w3.T)) @ w2.T)),
        Misconception("divided or subtracted",
                      lambda x, w1, w2, w3: (F.silu(x @ w1.T) / (x @ w3.T)) @ w2.T,
                      "the two projections meet in another way than by a product, feature by "
                      "feature.",
                      also=(lambda x, w1, w2, w3: (F.silu(x @ w1.T) - x @ w3.T) @ w2.T,
                            lambda x, w1, w2, w3: (x @ w3.T - F.silu(x @ w1.T)) @ w2.T,
                            lambda x, w1, w2, w3: (torch.maximum(F.silu(x @ w1.T), x @ w3.T))
                            @ w2.T)),
        Misconception("one projection twice",
                      lambda x, w1, w2, w3: (F.silu(x @ w1.T) * (x @ w1.T)) @ w2.T,
                      "both factors come from one matrix. w1 feeds the gate, and w3 what it lets "
                      "through.",
                      also=(lambda x, w1, w2, w3: (F.silu(x @ w3.T) * (x @ w3.T)) @ w2.T,)),
        Misconception("scaled", lambda x, w1, w2, w3:
                      (F.silu(x @ w1.T) * (x @ w3.T)) @ w2.T / w1.shape[0] ** 0.5,
                      "you scaled or normalised. Nothing in this layer does: that is attention, "
                      "or the norm.",
                      also=(lambda x, w1, w2, w3:
                            (F.silu(x @ w1.T) * (x @ w3.T)) @ w2.T / w1.shape[0],
                            lambda x, w1, w2, w3:
                            (F.silu(x @ w1.T) * (x @ w3.T)) @ w2.T / 2,
                            lambda x, w1, w2, w3:
                            (F.silu(x @ w1.T / w1.shape[1] ** 0.5) * (x @ w3.T)) @ w2.T)),
        Misconception("residual added",
                      lambda x, w1, w2, w3: x + (F.silu(x @ w1.T) * (x @ w3.T)) @ w2.T,
                      "you added x. The residual sum stands outside of the layer."),
        Misconception("no SiLU", _gated_by(lambda x: x),
                      "you multiplied the two projections and left the SiLU out. That is the "
                      "bilinear layer of the same paper."),
        Misconception("added",
                      lambda x, w1, w2, w3: (F.silu(x @ w1.T) + x @ w3.T) @ w2.T,
                      "you added the gate to what it should multiply. Adding cannot say no."),
        Misconception("SiLU on the product",
                      lambda x, w1, w2, w3: F.silu((x @ w1.T) * (x @ w3.T)) @ w2.T,
                      "you applied SiLU to the product. Only w1's side goes through it."),
        Misconception("SiLU on both",
                      lambda x, w1, w2, w3: (F.silu(x @ w1.T) * F.silu(x @ w3.T)) @ w2.T,
                      "you applied SiLU to both projections. w3's side stays as it is, so that it "
                      "can carry either sign."),
        Misconception("w2 before gating",
                      lambda x, w1, w2, w3: (F.silu(x @ w1.T) @ w2.T) * (x @ w3.T @ w2.T),
                      "you went back to the narrow side before the two met. Multiply in the wide "
                      "space, then apply w2 once."),
        Misconception("no gate",
                      lambda x, w1, w2, w3: F.silu(x @ w1.T) @ w2.T,
                      "you left w3 out: that is the classic layer of two matrices, with SiLU."),
        Misconception("w2 for up",
                      lambda x, w1, w2, w3: F.linear(F.silu(x @ w1.T) * F.linear(x, w2), w3),
                      "you took w2 for the second projection. In Meta's names w2 goes down, back "
                      "to `c`, and w3 goes up.",
                      also=(lambda x, w1, w2, w3: (F.silu(x @ w1.T) * (x @ w2)) @ w3,
                            lambda x, w1, w2, w3: (F.silu(x @ w1.T) * (x @ w2)) @ w3.T,
                            lambda x, w1, w2, w3: (F.silu(x @ w1.T) * (x @ w2.T)) @ w3,
                            lambda x, w1, w2, w3: (F.silu(x @ w1) * (x @ w2)) @ w3)),
        Misconception("sigmoid of the gate twice",
                      _gated_by(lambda gate: F.silu(gate) * torch.sigmoid(gate)),
                      "you applied the sigmoid twice: F.silu has it already. Its result "
                      "multiplies the other projection as it is."),
        Misconception("SiLU of x", lambda x, w1, w2, w3:
                      ((F.silu(x) @ w1.T) * (x @ w3.T)) @ w2.T,
                      "you applied SiLU to x, before w1. The gate is SiLU of what w1 gives.",
                      also=(lambda x, w1, w2, w3:
                            ((F.silu(x) @ w1.T) * (F.silu(x) @ w3.T)) @ w2.T,)),
        Misconception("SiLU after w2", lambda x, w1, w2, w3:
                      F.silu(((x @ w1.T) * (x @ w3.T)) @ w2.T),
                      "you applied SiLU to the result. It belongs on w1's side, before the two "
                      "projections meet."),
        Misconception("weights not transposed",
                      lambda x, w1, w2, w3: (F.silu(x @ w1) * (x @ w3)) @ w2,
                      "you multiplied by the weights as they are stored. A linear layer keeps "
                      "`out in`, so it is x @ w.T, or F.linear(x, w)."),
    ),
    hints=(
        "Two projections of the same x meet in the wide space, feature by feature.",
        "The gate is F.silu(F.linear(x, w1)). It multiplies F.linear(x, w3).",
        "w2 comes last, once: F.linear(product, w2).",
    ), gradients=("x", "w1", "w2", "w3"))

EXERCISES = [SILU, SWIGLU]
