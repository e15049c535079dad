"""The exercises of chapter 02: 2.1 frequencies, 2.2 rotation."""

import math
from collections.abc import Callable

import torch
from einops import repeat
from torch import Generator, Tensor

from ..layers import rope_frequencies, rope_table, rotate
from .data import Exercise, Inputs, Misconception, Probe, between, normal

# -- 2.1: frequencies ----------------------------------------------------------------------------


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
                      "all your pairs turn at one speed. `//` rounds every exponent down to 0: "
                      "divide with `/`."),
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
        Misconception("by half", lambda d, theta: _power(_even(d) / (d / 2), theta),
                      "your exponents run to 2. Twice the pair's number is divided by the whole "
                      "head_dim."),
        Misconception("slowest first", lambda d, theta: _power(_even(d) / d, theta).flip(0),
                      "your frequencies are in reverse order: pair 0 is the fastest."),
    ),
    hints=(
        "There are d/2 pairs. The first turns one radian per token.",
        "torch.arange(0, head_dim, 2) is 0, 2, 4, ...: already twice the pair's number.",
        "Divide that by head_dim, raise theta to it, and take one over the result.",
    ))

# -- 2.2: rotation -------------------------------------------------------------------------------


def turn(x: Tensor, positions: Tensor, freqs: Tensor) -> Tensor:
    """The package's rotation of `b h t d` to the positions `t`."""
    return rotate(x, *rope_table(freqs, positions))


def _rotation_inputs(rng: Generator, x: Tensor, *, first: int = 0) -> Inputs:
    """Positions that do not begin at zero and have gaps; frequencies of no particular theta."""
    steps = torch.randint(2, 5, (x.shape[2],), generator=rng)
    freqs = 0.05 + torch.rand(x.shape[-1] // 2, generator=rng)
    return {"x": x, "positions": first + steps.cumsum(0), "freqs": freqs}


def _turn_slip(name: str, turn: Callable[[Tensor, Tensor, Tensor], Tensor],
               why: str, *also: Callable, section: str | None = None) -> Misconception:
    """A mistake made on x in float32 with the right cosines and sines."""
    def wrong(turn: Callable) -> Callable:
        return lambda x, positions, freqs: turn(
            x.float(), *rope_table(freqs, positions)).type_as(x)
    return Misconception(name, wrong(turn), why, also=tuple(map(wrong, also)), section=section)


def _at_slip(name: str, place: Callable[[Tensor], Tensor], why: str,
             *also: Callable) -> Misconception:
    """A mistake in the positions."""
    def wrong(place: Callable[[Tensor], Tensor]) -> Callable:
        return lambda x, positions, freqs: turn(x, place(positions), freqs)
    return Misconception(name, wrong(place), why, also=tuple(map(wrong, also)))


def _pairs(x: Tensor) -> tuple[Tensor, Tensor]:
    return x[..., 0::2], x[..., 1::2]


def _join(real: Tensor, imag: Tensor) -> Tensor:
    return torch.stack([real, imag], -1).flatten(-2)


def _by_halves(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    real, imag = x.chunk(2, -1)
    return torch.cat([real * cos - imag * sin, real * sin + imag * cos], -1)


def _mixed_layouts(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    cos, sin = (repeat(part, "t d -> t (d two)", two=2) for part in (cos, sin))
    return x * cos + torch.cat([-second, first], -1) * sin


def _first_half(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = cos.shape[-1] // 2 * 2
    turned = rotate(x[..., :half], cos[..., :half // 2], sin[..., :half // 2])
    return torch.cat([turned, x[..., half:]], -1)


def _overwritten(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    real, imag = _pairs(x)
    real = real * cos - imag * sin
    return _join(real, real * sin + imag * cos)


def _no_minus(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    real, imag = _pairs(x)
    return _join(real * cos + imag * sin, real * sin + imag * cos)


def _second_row(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    real, imag = _pairs(x)
    return _join(real * cos - imag * sin, real * cos + imag * sin)


def _by_feature(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Neighbours are paired, and each feature has an angle of its own."""
    real, imag = _pairs(x)
    return x * cos.repeat(1, 2) + _join(-imag, real) * sin.repeat(1, 2)


def _narrow(rounded: str, dtype: torch.dtype | None) -> Callable:
    """Positions ("p"), frequencies ("f") or angles ("a") in a narrow dtype, or in that of x."""
    def answer(x: Tensor, positions: Tensor, freqs: Tensor) -> Tensor:
        def cut(name: str, value: Tensor) -> Tensor:
            return value.to(dtype or x.dtype).float() if name in rounded else value.float()

        angles = cut("a", cut("p", positions)[:, None] * cut("f", freqs))
        return rotate(x, angles.cos(), angles.sin())
    return answer


NARROW = [_narrow(rounded, dtype) for dtype in (None, torch.bfloat16, torch.float16)
          for rounded in ("pfa", "p", "f", "a", "pf", "pa", "fa")]

ROTATION = Exercise(
    "2.2", "Turn the pairs", "Your turn", turn,
    probes=(
        Probe("float32", lambda rng: _rotation_inputs(rng, normal(rng, 2, 3, 4, 6, mean=2.0))),
        Probe("two features", lambda rng: _rotation_inputs(rng, normal(rng, 1, 1, 2, 2, mean=2.0))),
        Probe("one token, as with a cache",
              lambda rng: _rotation_inputs(rng, normal(rng, 1, 2, 1, 8, mean=2.0))),
        Probe("float32, position 1,000",
              lambda rng: _rotation_inputs(rng, normal(rng, 1, 1, 3, 4), first=1_001)),
        Probe("bfloat16, position 4,000",
              lambda rng: _rotation_inputs(rng, normal(rng, 1, 2, 3, 4).bfloat16(), first=4_001)),
    ),
    misconceptions=(
        _turn_slip("halves", _by_halves,
                   "you paired feature i with i + d/2, as Hugging Face does. These rows are in "
                   "Meta's order: 2i with 2i + 1."),
        _turn_slip("layouts mixed", _mixed_layouts,
                   "the angles are laid out for neighbours and the features for halves: two "
                   "codes in one. Use pairs 2i and 2i + 1 for both."),
        _turn_slip("clockwise", lambda x, cos, sin: rotate(x, cos, -sin),
                   "you turned the other way. The minus belongs to the first of the pair.",
                   section="The idea"),
        _turn_slip("cos and sin swapped", lambda x, cos, sin: rotate(x, sin, cos),
                   "cosine and sine are swapped. At angle zero nothing may move.",
                   section="The idea"),
        _turn_slip("no minus", _no_minus,
                   "one minus is missing, so pairs change their length. The first of a pair "
                   "becomes real * cos - imag * sin.", section="The idea"),
        _turn_slip("second row", _second_row,
                   "the second of a pair becomes real * sin + imag * cos: the sine belongs to the "
                   "first of the pair here.", section="The idea"),
        _turn_slip("by feature", _by_feature,
                   "your neighbours turn together, and by different angles: one for each feature. "
                   "Both features of a pair take the angle of the pair."),
        _turn_slip("overwritten", _overwritten,
                   "you overwrote the first of each pair and then used it for the second. Compute "
                   "both from the old values."),
        _turn_slip("pairs torn apart", lambda x, cos, sin: torch.cat(
                       _pairs(rotate(x, cos, sin)), -1),
                   "the turning is right, and then you put all first features before all second "
                   "ones. Interleave them again: stack, then flatten."),
        _turn_slip("only the first half", _first_half,
                   "you turned only the first half of the features. Llama turns all of them."),
        _turn_slip("added", lambda x, cos, sin: x + _join(sin, cos),
                   "you added sines and cosines, as in the first transformer. RoPE adds nothing: "
                   "it turns.",
                   lambda x, cos, sin: x + _join(cos, sin),
                   lambda x, cos, sin: x + torch.cat([sin, cos], -1),
                   lambda x, cos, sin: x + torch.cat([cos, sin], -1), section="The idea"),
        _at_slip("positions from zero", lambda p: torch.arange(len(p)),
                 "you counted positions from zero. Use those that are given: with a cache the "
                 "first new token is not at zero.", lambda p: torch.arange(1, len(p) + 1)),
        _at_slip("one place off", lambda p: p + 1,
                 "every token stands one place too far, or too near. The positions are given; add "
                 "nothing.", lambda p: p - 1),
        _at_slip("from the first", lambda p: p - p[0],
                 "you subtracted the first position. Use the positions as they are given."),
        _at_slip("degrees", lambda p: torch.deg2rad(p.double()),
                 "you took the angles for degrees. Frequencies are radians per token, and "
                 "torch.cos wants radians."),
        _at_slip("full turns", lambda p: 2 * math.pi * p.double(),
                 "you multiplied by 2 pi. The frequencies are radians per token already."),
        _at_slip("no position", torch.ones_like,
                 "every token is turned by the same angle. The angle is position times "
                 "frequency."),
        Misconception("narrow angles", NARROW[0],
                      "your angles, or what they are made of, are rounded to 16 bits. bfloat16 "
                      "cannot tell position 4,001 from 4,007: keep them in float32.",
                      also=tuple(NARROW[1:])),
    ),
    hints=(
        "Angles first: one for each position and each pair, `t d/2`.",
        "x[..., 0::2] and x[..., 1::2] are the firsts and the seconds of all pairs.",
        "New firsts: real * cos - imag * sin. New seconds: real * sin + imag * cos. Then "
        "torch.stack(..., -1).flatten(-2), and back to the dtype of x.",
    ), gradients=("x",))

EXERCISES = [FREQUENCIES, ROTATION]
