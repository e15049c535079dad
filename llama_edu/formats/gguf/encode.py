"""Numbers rounded to the blocks that GGUF files store: the other way of `blocks`.

To decode a block is arithmetic; to encode one is a search. Whole numbers q times a scale, plus an
offset in some kinds, shall be near the weights, and any scale can be tried. The plain kinds take
the scale that the largest number asks for. Kinds of 256 numbers (K) try about twenty near it,
each with the whole numbers that it rounds to, and keep the one with the least weighted error.

The bytes are those of llama.cpp's reference (`quantize_row_*_ref` in ggml-quants.c, without an
importance matrix), so the arithmetic is, too: float32, one rounding per operation, and sums in
order. A processor that multiplies and adds in one rounding may choose another neighbour, rarely.
"""

from functools import partial, reduce

import torch
from einops import rearrange
from torch import Tensor

NOTHING = 1e-15     # Q6_K takes numbers below it for zeros


def encode(w: Tensor, kind: str) -> Tensor:
    """The bytes of these numbers, flat and float32, in blocks of a kind in `WRITERS`.

    >>> encode(torch.arange(32.0) - 16, "Q4_0")[:3]     # scale 2.0 as float16, then -8 and 0, + 8
    tensor([  0,  64, 128], dtype=torch.uint8)
    """
    return WRITERS[kind](w).flatten()


# -- 32 numbers: the scale follows from the largest ------------------------------------------------


def _q8_0(w: Tensor) -> Tensor:
    """The largest of 32 becomes 127 or -127; halves are rounded away from zero."""
    x = w.view(-1, 32)
    scale = x.abs().amax(1, keepdim=True) / 127
    q = x * _inverse(scale)
    whole = q.trunc()
    q = whole.add_(q.sub_(whole).mul_(2).trunc_()).to(torch.int8)
    return torch.cat([_half(scale), q.view(torch.uint8)], 1)


def _without_offset(w: Tensor, *, bits: int) -> Tensor:
    """The number farthest from zero becomes the least whole number: of 4 bits, -8.

    They reach from -8 to 7, so a scale with the sign of that number, turned, wastes none of them.
    """
    x, least = w.view(-1, 32), 2 ** (bits - 1)
    scale = _farthest(x, 1) / -least
    q = _floor(x * _inverse(scale) + (least + 0.5), bits)
    return torch.cat([_half(scale), *_bits_of_32(q, bits)], 1)


def _with_offset(w: Tensor, *, bits: int) -> Tensor:
    """The least of 32 becomes 0, the largest 15 or 31."""
    x = w.view(-1, 32)
    low, high = (x.gather(1, place(1, keepdim=True)) for place in (x.argmin, x.argmax))
    scale = (high - low) / (2**bits - 1)
    q = _floor((x - low) * _inverse(scale) + 0.5, bits)
    return torch.cat([_half(scale), _half(low), *_bits_of_32(q, bits)], 1)


def _floor(q: Tensor, bits: int) -> Tensor:
    return q.int().to(torch.uint8).clamp_(max=2**bits - 1)


def _bits_of_32(q: Tensor, bits: int) -> tuple[Tensor, ...]:
    """`blocks 32`: the four lower bits, and before them the fifth where there is one."""
    low = _packed(q & 15, 4)
    return (low,) if bits == 4 else (_packed(rearrange(q >> 4, "n (j i) -> n (i j)", i=8), 1), low)


# -- 256 numbers: the scale of each group is searched for ------------------------------------------


def _with_offsets(w: Tensor, *, bits: int, first: float, n: int) -> Tensor:
    """8 groups of 32, each a line: scales and offsets of 6 bits, times one of each for all.

    When those are rounded, every number is rounded anew to the lines that were stored.
    """
    x = rearrange(w, "(groups i) -> i groups", i=32).contiguous()
    top = 2**bits - 1
    q, scale, low = _best_line(x, top=top, aims=top + (first + 0.1 * torch.arange(float(n))))
    scale, small_scales = _in_6_bits(scale.view(-1, 8))
    offset, small_offsets = _in_6_bits(-low.view(-1, 8))
    step, lowered = (scale.float() * small_scales).view(-1), offset.float() * small_offsets
    again = _nearest((x + lowered.view(-1)) / step).clamp_(0, top)
    q = torch.where(step == 0, q.int(), again).T.reshape(-1, 256).to(torch.uint8)
    low_bits = _packed((q & 15).unflatten(1, (4, 64)), 4).flatten(1)
    return torch.cat([_half(scale), _half(offset), _bits_of_scales(small_scales, small_offsets),
                      *([] if bits == 4 else [_packed(q >> 4, 1)]), low_bits], 1)


def _best_line(x: Tensor, *, top: int, aims: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """q from 0 to `top`, scale and low for which scale * q + low is nearest to x: `32 groups`.

    An aim is how many steps shall lie between the lowest and the highest number. It gives whole
    numbers; for them the best line is known (least squares with two unknowns). The low of the
    best line so far is where the next aim begins. Large numbers weigh more, and low is 0 at most:
    a group that does not reach below zero needs no offset.
    """
    # PyTorch's own square root is sometimes the neighbour of the nearest float32.
    weight = (_total(x * x) / 32).double().sqrt().float() + x.abs()
    sum_w, sum_x = _total(weight), _total(weight * x)
    low, high = x.amin(0).clamp(max=0), x.amax(0)

    def rounded(aim: Tensor) -> Tensor:
        return _nearest(aim / (high - low) * (x - low)).clamp_(0, top).float()

    def error(q: Tensor, scale: Tensor, low: Tensor) -> Tensor:
        return _total((scale * q + low - x).square_().mul_(weight))

    q, scale = rounded(torch.tensor(float(top))), 1 / _over(top, high - low)
    least = error(q, scale, low)
    for aim in aims:
        tried = rounded(aim)
        weighted = weight * tried
        sum_q, sum_qq, sum_qx = (_total(weighted * by) for by in (1, tried, x))
        determinant = sum_w * sum_qq - sum_q * sum_q
        slope = (sum_w * sum_qx - sum_x * sum_q) / determinant
        start = (sum_qq * sum_x - sum_q * sum_qx) / determinant
        slope, start = torch.where(start > 0, sum_qx / sum_qq, slope), start.clamp(max=0)
        off = error(tried, slope, start)
        better = (determinant > 0) & (off < least)
        q, scale, low, least = (torch.where(better, *pair) for pair in (
            (tried, q), (slope, scale), (start, low), (off, least)))
    return q, scale, low


def _in_6_bits(sizes: Tensor) -> tuple[Tensor, Tensor]:
    """`blocks 8` as a common scale in float16, `blocks 1`, times whole numbers to 63."""
    most = sizes.amax(1, keepdim=True).clamp(min=0) + 0     # for -0.0
    inverse = torch.where(most > 0, _over(63, most), 0)
    return (most / 63).half(), _nearest(inverse * sizes).to(torch.uint8).clamp_(max=63)


def _bits_of_scales(scales: Tensor, offsets: Tensor) -> Tensor:
    """8 scales and 8 offsets in 12 bytes, as `blocks` takes them apart."""
    both = torch.stack([scales, offsets])
    first, rest = rearrange(both, "what n (half group) -> half n (what group)", half=2)
    return torch.cat([first | rest >> 4 << 6, _packed(rest & 15, 4)], 1)


def _q6_k(w: Tensor) -> Tensor:
    """16 groups of 16: scales of 8 bits with signs, times one for all; no offsets.

    When the scales are rounded, every number is rounded anew to those that were stored.
    """
    x = rearrange(w, "(groups i) -> i groups", i=16).contiguous()
    q, scale = _best_scale(x)
    scales = scale.view(-1, 16)
    inverse = -128 / _farthest(scales, 1)
    small, scale = _nearest(inverse * scales).clamp_(max=127), (1 / inverse).half()
    step = (scale.float() * small).view(-1)
    q = torch.where(step == 0, q.int(), _nearest(x / step).clamp_(-32, 31) + 32)
    q = rearrange(q.to(torch.uint8), "i (n half group) -> n half (group i)", half=2, group=8)
    blocks = torch.cat([_packed(q & 15, 4).flatten(1), _packed(q >> 4, 2).flatten(1),
                        small.to(torch.int8).view(torch.uint8), _half(scale)], 1)
    return blocks * (scales.abs().amax(1, keepdim=True) >= NOTHING)


def _best_scale(x: Tensor) -> tuple[Tensor, Tensor]:
    """q from 0 to 63 and the scale for which scale * (q - 32) is nearest to x: `16 groups`.

    An aim is what the number farthest from zero shall become: -32, or up to 0.9 more or less. For
    the whole numbers that it gives, sum(w x q) / sum(w q^2) is the best scale, and the error is
    the less, the larger sum(w x q)^2 / sum(w q^2). A number weighs as much as its square.
    """
    weight, farthest = x * x, _farthest(x, 0)
    q, scale = torch.zeros_like(x), torch.zeros_like(x[0])
    most = torch.full_like(scale, -torch.inf)       # so that -32 is taken, whatever underflows
    for aim in -(32 + 0.1 * torch.tensor([0.0, *range(-9, 0), *range(1, 10)])):
        tried = _nearest(aim / farthest * x).clamp_(-32, 31).float()
        sum_qx, sum_qq = _total(weight * x * tried), _total(weight * tried * tried)
        better = (sum_qq > 0) & (sum_qx * sum_qx > most * sum_qq)
        found = sum_qx / sum_qq
        q, scale, most = (torch.where(better, *pair) for pair in (
            (tried + 32, q), (found, scale), (found * sum_qx, most)))
    something = farthest[0].abs() >= NOTHING
    return q * something, torch.where(something, scale, 0)


WRITERS = {
    "Q8_0": _q8_0,
    "Q4_0": partial(_without_offset, bits=4), "Q5_0": partial(_without_offset, bits=5),
    "Q4_1": partial(_with_offset, bits=4), "Q5_1": partial(_with_offset, bits=5),
    "Q4_K": partial(_with_offsets, bits=4, first=-1, n=21),
    "Q5_K": partial(_with_offsets, bits=5, first=-0.5, n=16), "Q6_K": _q6_k}


# -- what they share -------------------------------------------------------------------------------


def _total(terms: Tensor) -> Tensor:
    """The sum over the first axis, one after another: in another order, another rounding."""
    return reduce(torch.add, terms)


def _nearest(x: Tensor) -> Tensor:
    """Whole numbers in int32; a half goes to the even one.

    Next to 1.5 * 2^23 a float32 has no bits for fractions, and its lowest 22 hold the whole number.
    Beyond them it turns over, and NaN becomes 0: the reference shows both where scales vanish.
    """
    return (x + 12_582_912).view(torch.int32).bitwise_and_(0x7FFFFF).sub_(0x400000)


def _over(number: float, x: Tensor) -> Tensor:
    """number / x in one rounding; PyTorch takes `number / x` for number * (1 / x), which is two
    unless the number is a power of 2."""
    return torch.full_like(x, number).div_(x)


def _inverse(scale: Tensor) -> Tensor:
    return torch.where(scale == 0, 0, 1 / scale)


def _farthest(x: Tensor, dim: int) -> Tensor:
    """The first of the numbers farthest from zero, the axis kept; zeros lose their signs."""
    return x.gather(dim, x.abs().argmax(dim, keepdim=True)) + 0


def _half(x: Tensor) -> Tensor:
    return x.half().view(torch.uint8)


def _packed(q: Tensor, bits: int) -> Tensor:
    """Numbers of few bits in bytes: in the lowest bits the first of them, then the next as many."""
    layers = q.unflatten(-1, (8 // bits, -1)).unbind(-2)
    return reduce(torch.bitwise_or, (layer << bits * i for i, layer in enumerate(layers)))
