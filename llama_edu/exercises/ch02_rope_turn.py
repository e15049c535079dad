"""The second exercise of chapter 02: 2.2 rotation."""

import math
from collections.abc import Callable

import torch
from einops import repeat
from torch import Generator, Tensor

from ..layers import rope_table, rotate
from .data import Exercise, Inputs, Misconception, Probe, normal


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


def _angle_slip(name: str, angles: Callable[[Tensor, Tensor], Tensor], why: str,
                *also: Callable) -> Misconception:
    """A mistake in the angles, made of positions `t 1` and frequencies."""
    def wrong(angles: Callable) -> Callable:
        def answer(x: Tensor, positions: Tensor, freqs: Tensor) -> Tensor:
            found = angles(positions.float()[:, None], freqs)
            return rotate(x, found.cos(), found.sin())
        return answer
    return Misconception(name, wrong(angles), why, also=tuple(map(wrong, also)))


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


def _signs(x: Tensor) -> Tensor:
    return torch.tensor([1.0, -1.0]).repeat(x.shape[-1] // 2)


def _difference(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    real, imag = _pairs(x)
    return _join(real * cos - imag * sin, imag * cos - real * sin)


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
        _turn_slip("mirrored", _difference,
                   "the second of a pair has a wrong sign: it becomes real * sin + imag * cos, a "
                   "sum.", lambda x, cos, sin: _difference(x, cos, sin) * _signs(x),
                   lambda x, cos, sin: rotate(x, cos, sin) * _signs(x), section="The idea"),
        _turn_slip("half written", lambda x, cos, sin: _join(
                       _pairs(rotate(x, cos, sin))[0], _pairs(x)[1]),
                   "one of the two of each pair is as it was: both turn.",
                   lambda x, cos, sin: _join(_pairs(x)[0], _pairs(rotate(x, cos, sin))[1])),
        _turn_slip("only scaled", lambda x, cos, sin: x * _join(cos, cos),
                   "you multiplied by the cosine, and the sine has no part in it: each of a pair "
                   "also takes from the other.", lambda x, cos, sin: x * _join(cos, sin),
                   lambda x, cos, sin: x * _join(sin, sin), section="The idea"),
        _turn_slip("seconds first", lambda x, cos, sin: _join(*_pairs(rotate(x, cos, sin))[::-1]),
                   "the turning is right, and then the two of each pair are exchanged: the first "
                   "comes first.", lambda x, cos, sin: rotate(_join(*_pairs(x)[::-1]), cos, sin)),
        _turn_slip("reflection", lambda x, cos, sin: rotate(x * _signs(x), cos, sin),
                   "you mirror each pair: the lengths are right, and no angle turns it so. The one "
                   "minus stands before imag * sin.", section="The idea"),
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
        _at_slip("without gaps", lambda p: p[0] + torch.arange(len(p)),
                 "you counted on from the first position. The positions that are given have gaps: "
                 "each token has its own."),
        _at_slip("one for all", lambda p: p[:1].expand(len(p)),
                 "all tokens are turned to one position, the first's or the last's. Each has its "
                 "own.", lambda p: p[-1:].expand(len(p))),
        _at_slip("twice as far", lambda p: 2 * p,
                 "you turn by twice the angle, as if you had turned twice. The angle is position "
                 "times frequency."),
        _at_slip("half as far", lambda p: p / 2,
                 "you turn by half the angle. The angle is position times frequency, once for "
                 "each pair."),
        _at_slip("reversed tokens", lambda p: p.flip(0),
                 "the tokens take the positions in reverse order."),
        _angle_slip("pairs reversed", lambda p, freqs: p * freqs.flip(0),
                    "the pairs take the frequencies in reverse order: pair 0 takes the first."),
        _angle_slip("one frequency", lambda p, freqs: p * freqs[-1].expand(len(freqs)),
                    "all pairs turn at one speed. Each has a frequency of its own.",
                    lambda p, freqs: p * freqs[0].expand(len(freqs)),
                    lambda p, freqs: p * freqs.mean().expand(len(freqs)),
                    lambda p, freqs: p * freqs.sum().expand(len(freqs))),
        _angle_slip("rounded", lambda p, freqs: (p * freqs).round(),
                    "your angles are whole numbers. They are float32; only positions are whole.",
                    lambda p, freqs: (p * freqs).floor()),
        _angle_slip("no frequency", lambda p, freqs: p + 0 * freqs,
                    "all pairs turn by the position itself. The angle is position times "
                    "frequency."),
        _angle_slip("sum", lambda p, freqs: p + freqs,
                    "you added position and frequency. The angle is their product."),
        _angle_slip("divided", lambda p, freqs: p / freqs,
                    "you divided the position by the frequency, as if it were a wavelength. The "
                    "angle is their product.",
                    lambda p, freqs: 2 * math.pi * p / freqs),
        _at_slip("degrees", lambda p: torch.deg2rad(p.double()),
                 "you took the angles for degrees. Frequencies are radians per token, and "
                 "torch.cos wants radians."),
        _at_slip("full turns", lambda p: 2 * math.pi * p.double(),
                 "you multiplied by 2 pi. The frequencies are radians per token already."),
        _at_slip("in turns", lambda p: p.double() / (2 * math.pi),
                 "you divided by 2 pi, which counts whole turns. torch.cos wants radians, and the "
                 "frequencies are radians per token."),
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

EXERCISES = [ROTATION]
