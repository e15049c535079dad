"""The exercises of chapter 11 on levels and bytes: 11.1, round to nearest, and 11.2, Q4_0."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Generator, Tensor

from ..compress.grid import grid
from ..formats.gguf.encode import encode
from .data import Exercise, Inputs, Misconception, Probe, count, normal

# -- 11.1: round to nearest ------------------------------------------------------------------------


def _package_nearest(w: Tensor, bits: int) -> Tensor:
    return grid(w, bits=bits).nearest(w)


def _groups(rng: Generator, *shape: int, mean: float = 0.0, bits: int | None = None) -> Inputs:
    """Each group a different size; bits from 2 to 6, or as given."""
    sizes = 2.0 ** torch.arange(shape[0]).view(-1, *[1] * (len(shape) - 1))
    return {"w": sizes * normal(rng, *shape, mean=mean),
            "bits": bits or count(rng, 2, 6)}


def _flat(rng: Generator) -> Inputs:
    w = normal(rng, 3, 8)
    w[1] = w[1, 0].clone()
    return {"w": w, "bits": 3}


def _rule(*, low: Callable[[Tensor, int], Tensor] = lambda w, top: w.amin(-1, keepdim=True),
          scale: Callable[[Tensor, int], Tensor] = lambda w, top: (
              w.amax(-1, keepdim=True) - w.amin(-1, keepdim=True)) / top,
          top: Callable[[int], int] = lambda bits: 2**bits - 1,
          whole: Callable[[Tensor], Tensor] = torch.round,
          back: Callable[[Tensor, Tensor, Tensor], Tensor] = lambda q, s, m: s * q + m) -> Callable:
    """A way to round, right unless told otherwise."""

    def answer(w: Tensor, bits: int) -> Tensor:
        n = top(bits)
        s, m = scale(w, n).clamp(min=1e-30), low(w, n)
        return back(whole((w - m) / s).clamp(0, n), s, m)

    return answer


def _zero_point(w: Tensor, bits: int) -> Tensor:
    low, high = w.amin(-1, keepdim=True), w.amax(-1, keepdim=True)
    s = ((high - low) / (2**bits - 1)).clamp(min=1e-30)
    zero = (-low / s).round()
    return s * (((w / s).round() + zero).clamp(0, 2**bits - 1) - zero)


def _around_zero(w: Tensor, bits: int, *, less: int) -> Tensor:
    top = 2**(bits - 1) - less
    s = (w.abs().amax(-1, keepdim=True) / max(top, 1)).clamp(min=1e-30)
    return s * (w / s).round().clamp(-2**(bits - 1), 2**(bits - 1) - 1)


NEAREST = Exercise(
    "11.1", "Round to nearest", "Your turn: the nearest level", _package_nearest,
    probes=(
        Probe("three groups", lambda rng: _groups(rng, 3, 8)),
        Probe("two bits", lambda rng: _groups(rng, 4, 16, bits=2)),
        Probe("far from zero", lambda rng: _groups(rng, 3, 8, mean=5.0, bits=3)),
        Probe("rows of groups", lambda rng: _groups(rng, 3, 4, 6, bits=3)),
        Probe("one weight over and over", _flat),
        Probe("one bit", lambda rng: _groups(rng, 2, 5, bits=1)),
    ),
    misconceptions=(
        Misconception("around zero", partial(_around_zero, less=1),
                      "your levels lie around zero, and one of them is never used. They go from "
                      "each group's least weight to its largest.",
                      also=(partial(_around_zero, less=0),)),
        Misconception("the zero point rounded", _zero_point,
                      "you rounded the zero point: the place of zero among the levels as a whole "
                      "number. Then the least weight is no level any more. Keep it as it is."),
        Misconception("one step too many", _rule(top=lambda bits: 2**bits),
                      "you divided the span by 2^bits. Between 2^bits levels lie 2^bits - 1 steps.",
                      also=(_rule(scale=lambda w, n: (w.amax(-1, keepdim=True)
                                                      - w.amin(-1, keepdim=True)) / (n + 1)),)),
        Misconception("half of the levels", _rule(top=lambda bits: 2**(bits - 1) - 1 or 1),
                      "you have 2^(bits - 1) levels, as if one bit were a sign."),
        Misconception("rounded down", _rule(whole=torch.floor),
                      "you rounded down. The nearest level may be the one above.",
                      also=(_rule(whole=torch.trunc),)),
        Misconception("rounded up", _rule(whole=torch.ceil),
                      "you rounded up. The nearest level may be the one below."),
        Misconception("the whole numbers", _rule(back=lambda q, s, m: q),
                      "you returned which level each weight is. What is its value?"),
        Misconception("the offset forgotten", _rule(back=lambda q, s, m: s * q),
                      "on the way back you left the offset out: the least weight came out as 0."),
        Misconception("the offset in steps", _rule(back=lambda q, s, m: s * (q + m)),
                      "on the way back you scaled the offset too. It is a weight already."),
        Misconception("one scale for all", _rule(
                          low=lambda w, n: w.amin(), scale=lambda w, n: (w.amax() - w.amin()) / n),
                      "one scale serves all your groups. Each has its own: the last axis alone is "
                      "a group."),
        Misconception("groups over the first axis", _rule(
                          low=lambda w, n: w.amin(0, keepdim=True),
                          scale=lambda w, n: (w.amax(0, keepdim=True)
                                              - w.amin(0, keepdim=True)) / n),
                      "your groups run over the first axis. A group is the last one."),
        Misconception("the least of the first axis", _rule(
                          low=lambda w, n: w.amin(0, keepdim=True)),
                      "your scale is that of a group, and your offset the least over the first "
                      "axis."),
        Misconception("the largest for the span", _rule(
                          scale=lambda w, n: w.abs().amax(-1, keepdim=True) / n),
                      "you divided the largest size by the number of steps. They have to span from "
                      "the least weight to the largest."),
        Misconception("from the top", _rule(
                          low=lambda w, n: w.amax(-1, keepdim=True)),
                      "you counted up from the largest weight. All others lie below it."),
        Misconception("nothing rounded", _rule(whole=lambda q: q),
                      "nothing was rounded: your weights came back as they were."),
    ),
    hints=(
        "How many steps lie between 2^bits levels? One fewer than there are levels.",
        "scale = (high - low) / (2**bits - 1), with low and high over the last axis, keepdim=True. "
        "Which whole number q is a weight nearest to?",
        "q = ((w - low) / scale).round(), and back: scale * q + low. Where high equals low there "
        "is nothing to round.",
    ))

# -- 11.2: Q4_0, byte by byte ----------------------------------------------------------------------


def _package_blocks(w: Tensor) -> Tensor:
    return encode(w, "Q4_0")


def _farthest(x: Tensor) -> Tensor:
    return x.gather(1, x.abs().argmax(1, keepdim=True))


def _half(scale: Tensor) -> Tensor:
    return scale.half().view(torch.uint8)


def _halves(q: Tensor) -> Tensor:
    """Numbers 0 to 15 in the lower halves of 16 bytes, 16 to 31 in the upper."""
    return q[:, :16] | q[:, 16:] << 4


def _writer(*, scale: Callable[[Tensor], Tensor] = lambda x: _farthest(x) / -8,
            stored: Callable[[Tensor], Tensor] = _half,
            whole: Callable[[Tensor], Tensor] = lambda q: (q + 8.5).floor().clamp(0, 15),
            packed: Callable[[Tensor], Tensor] = _halves,
            divided: Callable[[Tensor], Tensor] = lambda s: s,
            joined: Callable[[Tensor, Tensor], Tensor] = lambda s, q: torch.cat([s, q], 1)
            ) -> Callable:
    """A way to write blocks, right unless told otherwise."""

    def answer(w: Tensor) -> Tensor:
        x = w.view(-1, 32)
        s = scale(x)
        by = divided(s)
        q = whole(torch.where(by == 0, 0, x / by)).int().remainder(256).to(torch.uint8)
        return joined(stored(s), packed(q)).flatten()

    return answer


def _blocks(rng: Generator, n: int, *, size: float = 1.0, flip: bool = False) -> Inputs:
    """Blocks of growing size; the farthest number of each is below zero, or, flipped, above."""
    x = size * normal(rng, n, 32) * 1.5 ** torch.arange(n)[:, None]
    x = x * _farthest(x).sign() * (1 if flip else -1)
    return {"w": x.flatten()}


def _one_of_zeros(rng: Generator) -> Inputs:
    w = normal(rng, 2, 32)
    w[0] = 0
    return {"w": w.flatten()}


BYTES = Exercise(
    "11.2", "Q4_0, byte by byte", "Your turn: eighteen bytes", _package_blocks,
    probes=(
        Probe("one block", lambda rng: _blocks(rng, 1, size=0.05)),
        Probe("three blocks", lambda rng: _blocks(rng, 3)),
        Probe("the farthest number is above zero", lambda rng: _blocks(rng, 2, flip=True)),
        Probe("a block of zeros", _one_of_zeros),
        Probe("many blocks", lambda rng: _blocks(rng, 12, size=0.01, flip=True)),
        Probe("tiny numbers", lambda rng: _blocks(rng, 40, size=1e-6)),
    ),
    misconceptions=(
        Misconception("neighbours share a byte", _writer(
                          packed=lambda q: q[:, ::2] | q[:, 1::2] << 4),
                      "you put neighbours into one byte. The lower halves are numbers 0 to 15 of "
                      "the block, the upper halves 16 to 31.",
                      also=(_writer(packed=lambda q: q[:, 1::2] | q[:, ::2] << 4),)),
        Misconception("halves exchanged", _writer(packed=lambda q: q[:, 16:] | q[:, :16] << 4),
                      "your lower halves are numbers 16 to 31. They are 0 to 15."),
        Misconception("from -7 to 7", _writer(scale=lambda x: x.abs().amax(1, keepdim=True) / 7),
                      "you divided by 7, so -8 is never used. The farthest number becomes -8, "
                      "whatever its sign: the scale has the sign to match.",
                      also=(_writer(scale=lambda x: _farthest(x) / -7),)),
        Misconception("a scale without sign", _writer(
                          scale=lambda x: x.abs().amax(1, keepdim=True) / 8),
                      "your scale is never below zero. A farthest number above zero would have to "
                      "become +8, and there is no +8: it is cut to 7."),
        Misconception("the other sign", _writer(scale=lambda x: _farthest(x) / 8),
                      "you divided the farthest number by 8. Divide by -8: it must become -8, for "
                      "there is no +8."),
        Misconception("the scale in float32", _writer(stored=lambda s: s.view(torch.uint8)),
                      "your scale takes four bytes. It is a float16: eighteen bytes a block."),
        Misconception("the scale in bfloat16", _writer(
                          stored=lambda s: s.bfloat16().view(torch.uint8)),
                      "your scale is a bfloat16. It has two bytes as well; float16 is meant."),
        Misconception("the higher byte first", _writer(stored=lambda s: _half(s).flip(1)),
                      "you wrote the higher byte of the scale first. The file is little-endian."),
        Misconception("eight not added", _writer(
                          whole=lambda q: (q + 0.5).floor().clamp(-8, 7) % 16),
                      "you stored numbers below zero as they are (-1 as 15). Add 8 to each: -8 is "
                      "0, and 7 is 15."),
        Misconception("seven added", _writer(whole=lambda q: (q + 7.5).floor().clamp(0, 15)),
                      "you added 7. From -8 to 7 becomes 0 to 15 by adding 8."),
        Misconception("not rounded", _writer(whole=lambda q: (q + 8).floor().clamp(0, 15)),
                      "you cut fractions off. Round to the nearest: add a half before you do.",
                      also=(_writer(whole=lambda q: (q.trunc() + 8).clamp(0, 15)),)),
        Misconception("sixteen", _writer(whole=lambda q: (q + 8.5).floor() % 16),
                      "a number that rounds to +8 came out as 0, which means -8. Cut it to 15."),
        Misconception("the scale last", _writer(joined=lambda s, q: torch.cat([q, s], 1)),
                      "your scale stands behind the numbers. It comes first."),
        Misconception("all scales first", _writer(
                          joined=lambda s, q: torch.cat([s.flatten(), q.flatten()])),
                      "you wrote all scales before all numbers. A block is whole: eighteen bytes, "
                      "then the next."),
        Misconception("divided by what is stored", _writer(divided=lambda s: s.half().float()),
                      "you divided by the scale after it had become a float16. llama.cpp divides "
                      "by the one in float32, and the bytes differ where a number lies between two "
                      "levels."),
        Misconception("one scale for all", _writer(scale=lambda x: (
                          _farthest(x.view(1, -1)) / -8).expand(len(x), 1).contiguous()),
                      "all your blocks have one scale. Each has its own."),
        Misconception("the largest for the farthest", _writer(
                          scale=lambda x: x.amax(1, keepdim=True) / -8),
                      "you took the largest number. The one farthest from zero may be below it."),
        Misconception("a byte a number", _writer(packed=lambda q: q),
                      "each of your numbers has a byte of its own. Two share one."),
    ),
    hints=(
        "Which number of a block is farthest from zero, and with which sign? (abs().argmax, then "
        "gather.) It must become -8.",
        "q = floor(x / scale + 8.5), cut to 15; a scale of 0 makes every q an 8. "
        "scale.half().view(torch.uint8) are the two bytes.",
        "q[:, :16] | q[:, 16:] << 4 are the sixteen others.",
    ))

EXERCISES = [NEAREST, BYTES]
