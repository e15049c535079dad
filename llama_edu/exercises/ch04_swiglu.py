"""The exercises of chapter 04: SiLU, the gated layer, its width and its parameters."""

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Generator, Tensor
from torch.func import functional_call
from torch.nn import functional as F

from ..config import ModelConfig, swiglu_width
from ..family.accounting import parameters
from ..family.releases import release
from ..layers import FeedForward
from .data import Exercise, Inputs, Misconception, Probe, count, normal, whole

# -- 4.1 -----------------------------------------------------------------------------------------

SILU = Exercise(
    "4.1", "SiLU by hand", "The idea", F.silu,
    probes=(
        Probe("three whole numbers", lambda rng: {"x": whole(rng, 3) - 5}),
        Probe("a batch", lambda rng: {"x": normal(rng, 2, 3, 4, std=2.0)}),
        Probe("far below zero", lambda rng: {"x": normal(rng, 4, mean=-200.0, std=5.0)}),
        Probe("far above zero", lambda rng: {"x": normal(rng, 4, mean=200.0, std=5.0)}),
    ),
    misconceptions=(
        Misconception("sigmoid only", torch.sigmoid,
                      "you returned the gate itself. SiLU is x times its sigmoid.",
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
        Misconception("exp overflows", lambda x: x * torch.exp(x) / (1 + torch.exp(x)),
                      "the formula is right, but exp(x) overflows for large x and infinity over "
                      "infinity is NaN. Use torch.sigmoid."),
    ),
    hints=(
        "SiLU is x times a gate, and the gate is a number between 0 and 1.",
        "The gate is torch.sigmoid(x): nearly 1 for large x, nearly 0 far below zero.",
    ), gradients=("x",))

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
    "4.2", "SwiGLU from its weights", "Build it", _package_swiglu,
    probes=(
        Probe("one token", lambda rng: _swiglu_inputs(rng, dim=2, hidden_dim=3)),
        Probe("a batch", lambda rng: _swiglu_inputs(rng, 2, 3, dim=4, hidden_dim=6)),
        Probe("a square layer", lambda rng: _swiglu_inputs(rng, 2, dim=3, hidden_dim=3)),
        Probe("wide", lambda rng: _swiglu_inputs(rng, 3, dim=4, hidden_dim=11)),
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
                      "you took w2 for the second projection. In Meta's names w2 is the last one, "
                      "back down to `c`; w3 goes up.",
                      also=(lambda x, w1, w2, w3: (F.silu(x @ w1.T) * (x @ w2.T)) @ w3.T,)),
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

# -- 4.3 -----------------------------------------------------------------------------------------


def _meta_width(dim: int, multiple_of: int, multiplier: float) -> int:
    return swiglu_width(dim, multiple_of=multiple_of, multiplier=multiplier)


def _up(width: float, multiple_of: int) -> int:
    return multiple_of * math.ceil(width / multiple_of)


def _two_thirds(dim: int) -> int:
    return int(2 * 4 * dim / 3)


def _published(id: str) -> Probe:
    row = release(id)
    return Probe(row.name, lambda rng: {"dim": row.config.dim, "multiple_of": row.multiple_of,
                                        "multiplier": row.ffn_dim_multiplier or 1.0})


def _drawn(low: int, high: int, multiplier: float) -> Callable[[Generator], Inputs]:
    return lambda rng: {"dim": count(rng, low, high), "multiple_of": count(rng, 20, 30),
                        "multiplier": round(multiplier + count(rng, 1, 9) / 10, 1)}


WIDTH = Exercise(
    "4.3", "The width rule", "Why eight thirds", _meta_width,
    probes=(
        Probe("a small layer", _drawn(100, 200, 1.0)),
        Probe("a wide one", _drawn(1000, 2000, 1.5)),
        Probe("nothing to round up", lambda rng: {"dim": 96, "multiple_of": 64, "multiplier": 1.0}),
        Probe("two fractions", lambda rng: {"dim": 10, "multiple_of": 1, "multiplier": 1.5}),
        *map(_published, ("llama-1-7b", "llama-1-13b", "llama-2-70b", "llama-3-8b",
                          "llama-3.1-405b", "llama-3.2-1b")),
    ),
    misconceptions=(
        Misconception("2/3 of dim", lambda dim, multiple_of, multiplier:
                      _up(int(multiplier * int(2 * dim / 3)), multiple_of),
                      "you took two thirds of dim. It is two thirds of 4 * dim, the classic "
                      "width."),
        Misconception("4 dim", lambda dim, multiple_of, multiplier:
                      _up(int(multiplier * 4 * dim), multiple_of),
                      "you kept the classic width of 4 * dim. Three matrices of that width hold "
                      "half as much again; take two thirds of it."),
        Misconception("rounded down", lambda dim, multiple_of, multiplier:
                      multiple_of * (int(multiplier * _two_thirds(dim)) // multiple_of),
                      "you rounded down to a multiple. Meta rounds up."),
        Misconception("rounded to nearest", lambda dim, multiple_of, multiplier:
                      multiple_of * round(int(multiplier * _two_thirds(dim)) / multiple_of),
                      "you rounded to the nearest multiple. That agrees for the 7B and the 70B, "
                      "and is one multiple short for the 13B. Meta rounds up."),
        Misconception("one multiple too many", lambda dim, multiple_of, multiplier:
                      multiple_of * (int(multiplier * _two_thirds(dim)) // multiple_of + 1),
                      "you added a multiple even where nothing was left over. `//` rounds down: "
                      "add multiple_of - 1 before you divide."),
        Misconception("multiplier after rounding", lambda dim, multiple_of, multiplier:
                      int(multiplier * _up(_two_thirds(dim), multiple_of)),
                      "you rounded first and multiplied afterwards, so the result is no multiple "
                      "any more. The rounding comes last.",
                      also=(lambda dim, multiple_of, multiplier:
                            _up(int(multiplier * _up(_two_thirds(dim), multiple_of)),
                                multiple_of),)),
        Misconception("fraction kept", lambda dim, multiple_of, multiplier:
                      _up(int(multiplier * 8 * dim / 3), multiple_of),
                      "you carried the fraction of 8 * dim / 3 into the multiplication. Meta cuts "
                      "it off first: int, then the multiplier, then int again.",
                      also=(lambda dim, multiple_of, multiplier:
                            _up(multiplier * 8 * dim / 3, multiple_of),)),
        Misconception("multiplier forgotten", lambda dim, multiple_of, multiplier:
                      _up(_two_thirds(dim), multiple_of), "you left the multiplier out."),
        Misconception("not rounded", lambda dim, multiple_of, multiplier:
                      int(multiplier * _two_thirds(dim)),
                      "you did not round up to a multiple of multiple_of."),
    ),
    hints=(
        "Four steps in this order: two thirds of 4 * dim, the multiplier, and a whole number "
        "after each; then the rounding up.",
        "int() cuts the fraction off, twice: int(multiplier * int(8 * dim / 3)).",
        "To round up in whole numbers: multiple_of * ((width + multiple_of - 1) // multiple_of).",
    ))

# -- 4.4 -----------------------------------------------------------------------------------------


def _feed_forward_parameters(config: ModelConfig) -> int:
    return parameters(config).feed_forward


def _drawn_config(rng: Generator) -> Inputs:
    return {"config": replace(release("llama-3.2-1b").config, n_layers=count(rng, 2, 9),
                              hidden_dim=count(rng, 2000, 9000))}


PARAMETERS = Exercise(
    "4.4", "The parameters of all feed-forward layers", "Why eight thirds",
    _feed_forward_parameters,
    probes=(
        Probe("a made-up shape", _drawn_config),
        *(Probe(release(id).name, lambda rng, id=id: {"config": release(id).config})
          for id in ("llama-1-7b", "llama-2-70b", "llama-3.2-3b")),
    ),
    misconceptions=(
        Misconception("two matrices", lambda config:
                      config.n_layers * 2 * config.dim * config.hidden_dim,
                      "you counted two matrices. The gated layer has three: w1, w2 and w3."),
        Misconception("4 dim", lambda config: config.n_layers * 3 * config.dim * 4 * config.dim,
                      "you took 4 * dim for the width. It is hidden_dim, and the config says it."),
        Misconception("8 dim squared", lambda config: config.n_layers * 8 * config.dim**2,
                      "you counted 8 * dim**2, the rule before rounding and before any "
                      "multiplier. Count what is there: hidden_dim."),
        Misconception("biases", lambda config:
                      config.n_layers * (3 * config.dim * config.hidden_dim
                                         + 2 * config.hidden_dim + config.dim),
                      "you counted biases. No linear layer of a Llama has one."),
        Misconception("the norm too", lambda config:
                      config.n_layers * (3 * config.dim * config.hidden_dim + config.dim),
                      "you counted ffn_norm as well. It stands before the layer and is no part "
                      "of it."),
        Misconception("one layer", lambda config: 3 * config.dim * config.hidden_dim,
                      "you counted one layer. There are n_layers of them."),
    ),
    hints=(
        "One layer has three matrices. Two are `f c` and one is `c f`: the same number of entries.",
        "Multiply dim, hidden_dim, the number of matrices and the number of layers.",
    ))

# -- 4.5 -----------------------------------------------------------------------------------------


def _plain_width(hidden_dim: int) -> int:
    gated = FeedForward(1, hidden_dim)
    return sum(weight.numel() for weight in gated.parameters()) // 2


PLAIN_WIDTH = Exercise(
    "4.5", "A fair rival", "Why eight thirds", _plain_width,
    probes=(
        Probe("an even width", lambda rng: {"hidden_dim": 2 * count(rng, 10, 90)}),
        Probe("an odd width", lambda rng: {"hidden_dim": 4 * count(rng, 5, 45) + 1}),
        Probe("another odd width", lambda rng: {"hidden_dim": 4 * count(rng, 5, 45) + 3}),
        Probe("the Llama 1 7B", lambda rng: {"hidden_dim": 11_008}),
        Probe("the Llama 3.2 1B", lambda rng: {"hidden_dim": 8192}),
    ),
    misconceptions=(
        Misconception("the same width", lambda hidden_dim: hidden_dim,
                      "you gave both the same width, so the rival has a third fewer parameters "
                      "and would lose for that reason alone."),
        Misconception("two thirds", lambda hidden_dim: 2 * hidden_dim // 3,
                      "you went the wrong way. Fewer matrices may be wider: three halves, not two "
                      "thirds."),
        Misconception("eight thirds", lambda hidden_dim: 8 * hidden_dim // 3,
                      "you multiplied by 8/3. That is the step from dim to hidden_dim, not the "
                      "step between two widths."),
        Misconception("rounded up", lambda hidden_dim: -(-3 * hidden_dim // 2),
                      "you rounded up, and an odd width then gives the rival more parameters than "
                      "the gated layer has. Round down."),
        Misconception("float kept", lambda hidden_dim: 3 * hidden_dim / 2,
                      "you returned a float. A width counts features: `//` keeps it whole."),
    ),
    hints=(
        "Write both counts down: 3 * dim * hidden_dim for the gated layer, 2 * dim * w for the "
        "plain one. dim falls out.",
        "w is at most 3 * hidden_dim / 2, and it is a whole number.",
    ))

EXERCISES = [SILU, SWIGLU, WIDTH, PARAMETERS, PLAIN_WIDTH]
