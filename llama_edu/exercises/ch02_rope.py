"""The first exercise of chapter 02: 2.1 frequencies."""

import math

import torch
from einops import repeat
from torch import Generator, Tensor

from ..layers import rope_frequencies
from .data import Exercise, Inputs, Misconception, Probe, between


def _power(exponents: Tensor, theta: float) -> Tensor:
    return theta ** -exponents


def _even(d: int) -> Tensor:
    return torch.arange(0, d, 2).float()


def _theta_inputs(rng: Generator, head_dim: int, low: float, high: float) -> Inputs:
    return {"head_dim": head_dim, "theta": between(rng, low, high)}


FREQUENCIES = Exercise(
    "2.1", "The frequencies", "The idea", rope_frequencies,
    probes=(
        Probe("head_dim 6", lambda rng: _theta_inputs(rng, 6, 50, 200)),
        Probe("head_dim 8, theta near 1e4", lambda rng: _theta_inputs(rng, 8, 9_000, 11_000)),
        Probe("one pair", lambda rng: _theta_inputs(rng, 2, 50, 200)),
        Probe("the size of Llama 3", lambda rng: _theta_inputs(rng, 128, 4e5, 6e5)),
    ),
    misconceptions=(
        Misconception("i / d", lambda d, theta: _power(torch.arange(d // 2) / d, theta),
                      "your exponent is i/d, so the slowest pair stops at the square root of "
                      "theta. With pairs counted i = 0, 1, 2 it is 2i/d."),
        Misconception("by feature", lambda d, theta: _power(torch.arange(d) / d, theta),
                      "you made one frequency for each feature. The two features of a pair turn "
                      "together: d/2 frequencies, exponents 0, 2/d, 4/d.",
                      also=(lambda d, theta: _power(2 * torch.arange(d) / d, theta),)),
        Misconception("each twice",
                      lambda d, theta: repeat(_power(_even(d) / d, theta), "i -> (i two)", two=2),
                      "the values are right, and each stands twice. One number a pair is enough.",
                      also=(lambda d, theta: _power(_even(d) / d, theta).repeat(2),)),
        Misconception("counted from one", lambda d, theta: _power((_even(d) + 2) / d, theta),
                      "you count pairs from one. The first pair has i = 0 and turns one radian "
                      "per token."),
        Misconception("one too few", lambda d, theta: _power((_even(d) - 2) / d, theta),
                      "your first pair turns faster than one radian per token: with i - 1 in the "
                      "exponent, i must begin at 1, as it does in the paper."),
        Misconception("straight line", lambda d, theta: torch.linspace(1, 1 / theta, d // 2),
                      "your frequencies fall in a straight line. From pair to pair they fall by "
                      "one factor: theta raised to -2i/d.",
                      also=(lambda d, theta: torch.linspace(
                          1, theta ** (2 / d - 1), d // 2),)),
        Misconception("whole-number division",
                      lambda d, theta: _power((torch.arange(0, d, 2) // d).float(), theta),
                      "`//` rounds every exponent to a whole number, so that pairs turn at one "
                      "speed: divide with `/`.",
                      also=(lambda d, theta: theta ** (-torch.arange(0, d, 2) // d).float(),)),
        Misconception("theta / exponent", lambda d, theta: 1 / (theta * _even(d) / d),
                      "you multiplied theta by the exponent. Raise it: `theta ** exponent`."),
        Misconception("last pair forgotten",
                      lambda d, theta: _power(_even(d) / d, theta)[:-1],
                      "the last pair is missing: a head of d features has d/2 pairs."),
        Misconception("inverted", lambda d, theta: _power(-_even(d) / d, theta),
                      "the sign of your exponent is wrong: later pairs must turn more slowly."),
        Misconception("wavelengths", lambda d, theta: 2 * math.pi / _power(_even(d) / d, theta),
                      "you returned wavelengths, tokens per turn. Asked for are radians per "
                      "token."),
        Misconception("turns", lambda d, theta: _power(_even(d) / d, theta) / (2 * math.pi),
                      "you returned turns per token. Asked for are radians per token: without "
                      "the division by 2 pi."),
        Misconception("degrees", lambda d, theta: torch.rad2deg(_power(_even(d) / d, theta)),
                      "you returned degrees per token. Sine and cosine want radians."),
        Misconception("ends at 1 / theta",
                      lambda d, theta: _power(_even(d) / max(d - 2, 1), theta),
                      "your exponents run from 0 to 1. They stop one step short of 1: divide by "
                      "d, not by d - 2."),
        Misconception("odd exponents", lambda d, theta: _power((_even(d) + 1) / d, theta),
                      "your exponents are the odd numbers over d. The first pair has i = 0 and "
                      "turns one radian per token; then 2/d, 4/d."),
        Misconception("divided by d - 1", lambda d, theta: _power(_even(d) / (d - 1), theta),
                      "you divide by one feature too few: 2i is divided by the whole head_dim, d."),
        Misconception("logarithm", lambda d, theta: -_even(d) / d * math.log(theta),
                      "you returned the logarithm of the frequencies: take `torch.exp` of it.",
                      also=(lambda d, theta: _even(d) / d * math.log(theta),)),
        Misconception("theta left out", lambda d, theta: torch.exp(-_even(d) / d),
                      "you raised e to the exponents. The base is theta.",
                      also=(lambda d, theta: 10 ** (-_even(d) / d), lambda d, theta: -_even(d) / d,
                            lambda d, theta: _even(d) / d)),
        Misconception("a turn per token",
                      lambda d, theta: 2 * math.pi * _power(_even(d) / d, theta),
                      "you multiplied by 2 pi, so the first pair makes a whole turn per token. "
                      "It makes one radian: nothing is to be multiplied."),
        Misconception("by half", lambda d, theta: _power(_even(d) / (d / 2), theta),
                      "your exponents run to 2: the 2 is in them twice. Twice the pair's number is "
                      "divided by the whole head_dim."),
        Misconception("slowest first", lambda d, theta: _power(_even(d) / d, theta).flip(0),
                      "your frequencies are in reverse order: pair 0 is the fastest."),
        Misconception("exponents from the end", lambda d, theta: _power((d - _even(d)) / d, theta),
                      "your exponents fall from 1. They begin at 0, so that the first pair turns "
                      "one radian per token, and grow by 2/d."),
    ),
    hints=(
        "There are d/2 pairs. The first turns one radian per token.",
        "torch.arange(0, head_dim, 2) is 0, 2, 4, ...: already twice the pair's number.",
        "Divide that by head_dim, raise theta to it, and take one over the result.",
    ))

EXERCISES = [FREQUENCIES]
