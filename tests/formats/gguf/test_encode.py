"""Encoders, checked against llama.cpp's own and against what a search has to find."""

import ctypes
import importlib.util
import platform

import gguf as package
import numpy as np
import pytest
import torch
from gguf_files import KIND
from torch import Tensor

from llama_edu.formats.gguf.blocks import KINDS, decode
from llama_edu.formats.gguf.encode import WRITERS, encode

OF_32 = [kind for kind in WRITERS if KINDS[kind].block == 32]
OF_256 = [kind for kind in WRITERS if KINDS[kind].block == 256]
CHANCE = torch.Generator().manual_seed(0)
PLAIN = torch.randn(64, 256, generator=CHANCE)


def with_one(number: float) -> Tensor:
    w = 0.01 * PLAIN
    w[:, 17] = number
    return w


def scaled(group: int, *, spread: float = 6.0) -> Tensor:
    """Groups as loud as whispers and as shouts beside each other."""
    loudness = torch.exp(spread * torch.randn(64, 256 // group, 1, generator=CHANCE)).clamp(max=1e3)
    return (PLAIN.view(64, -1, group) * loudness).flatten(1)


def on_halves(group: int, low: int, top: int, most: int) -> Tensor:
    """Groups whose scales are the block's largest times (odd + 1/2) / `most`: when those are made
    whole numbers, the last bit of a quotient decides."""
    q = torch.arange(256).view(-1, group) % (top - low + 1) + low
    q[:, 0], q[:, 1] = low, top
    part = torch.tensor([most, *(2 * i + 1.5 for i in range(256 // group - 1))]) / most
    return (torch.rand(64, 1, 1, generator=CHANCE) * part[:, None] * q).flatten(1)


INPUTS = {
    "normal": PLAIN, "as a model's": 0.02 * PLAIN, "as bfloat16": (0.02 * PLAIN).bfloat16().float(),
    **{f"{scale:.0e}": scale * PLAIN for scale in (
        1e-5, 1e-9, 1e-14, 1e-15, 1e-20, 1e-30, 1e-38, 1e-42, 3e-45)},      # the last are denormal
    "one huge": with_one(6e4), "one huge below zero": with_one(-3e4), "one tiny": with_one(1e-40),
    "scales of 32": scaled(32), "scales of 16": scaled(16),
    "scales near nothing": 1e-15 * scaled(16, spread=2.0),
    "scales on halves": on_halves(32, 0, 15, 63),
    "scales with signs on halves": on_halves(16, -32, 31, 128),
    "zeros": 0 * PLAIN.abs(), "zeros with a sign": -0.0 * PLAIN.abs(), "zeros of both": 0 * PLAIN,
    "constant": 0 * PLAIN + 0.3, "constant below zero": 0 * PLAIN - 0.3,
    "nearly constant": 1e-6 * PLAIN - 1000, "positive": PLAIN.abs(), "negative": -PLAIN.abs(),
    "mostly zeros": PLAIN * (PLAIN > 1.5), "halves of steps": (8 * PLAIN).round() / 2,
    "three values": PLAIN.sign() * (PLAIN.abs() > 0.5), "outliers": PLAIN * (1 + 300 * (PLAIN > 2))}


@pytest.fixture(scope="module")
def by_llama_cpp():
    """Its own encoder, where it rounds every product before it adds."""
    pytest.importorskip("xllamacpp")
    if platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("llama.cpp is built here to multiply and add in one rounding")
    quantise = ctypes.CDLL(importlib.util.find_spec("xllamacpp.xllamacpp").origin)
    try:
        quantise = quantise.ggml_quantize_chunk
    except AttributeError:
        pytest.skip("this xllamacpp does not export ggml_quantize_chunk")
    quantise.restype = ctypes.c_size_t
    quantise.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p,
                         *[ctypes.c_int64] * 3, ctypes.c_void_p]

    def run(w: Tensor, kind: str) -> Tensor:
        made = torch.empty(KINDS[kind].size(w.shape), dtype=torch.uint8)
        n = quantise(KINDS[kind].number, w.data_ptr(), made.data_ptr(), 0, *w.shape, None)
        assert n == len(made)
        return made

    return run


def decoded(blocks: Tensor, kind: str) -> Tensor:
    w = torch.empty(len(blocks) // KINDS[kind].n_bytes * KINDS[kind].block)
    decode(blocks.numpy(), kind, w)
    return w


# -- the bytes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", INPUTS)
@pytest.mark.parametrize("kind", WRITERS)
def test_the_bytes_are_llama_cpps(by_llama_cpp, kind, given):
    w = INPUTS[given].contiguous()
    assert torch.equal(encode(w.view(-1), kind), by_llama_cpp(w, kind))


@pytest.mark.parametrize("kind", WRITERS)
def test_the_bytes_of_half_a_million_numbers_are_llama_cpps(by_llama_cpp, kind):
    w = 0.02 * torch.randn(2048, 256, generator=torch.Generator().manual_seed(1))
    assert torch.equal(encode(w.view(-1), kind), by_llama_cpp(w, kind))


@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1.0, 1e4])
@pytest.mark.parametrize("kind", OF_32)
def test_blocks_of_32_are_the_gguf_packages_to_the_byte(kind, scale):
    w = scale * torch.randn(4096, 32, generator=torch.Generator().manual_seed(0))
    w[0] = 0
    w[3], w[3, 0] = torch.arange(32) + 0.5, 127     # halves, with a scale of 1 in Q8_0
    w[4] = -w[3]
    w[5], w[5, 0] = 0.49999997, -127
    expected = package.quantize(w.numpy(), KIND[kind]).reshape(-1)
    assert np.array_equal(encode(w.view(-1), kind).numpy(), expected)


# -- what they mean --------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "scale", "low", "top"), [
    ("Q8_0", 0.25, -127, 127), ("Q4_0", 0.25, -8, 7), ("Q5_0", 0.25, -16, 15),
    ("Q4_1", 0.25, 0, 15), ("Q5_1", 0.25, 0, 31), ("Q6_K", 0.25, -32, 31)])
def test_numbers_that_a_kind_has_come_back_exactly(kind, scale, low, top):
    q = torch.randint(low, top + 1, (64, 16, 16), generator=torch.Generator().manual_seed(0))
    q[..., 0], q[..., 1] = low, top         # in every group
    w = (scale * q).view(-1)
    assert torch.equal(decoded(encode(w, kind), kind), w)


@pytest.mark.parametrize(("kind", "top"), [("Q4_K", 15), ("Q5_K", 31)])
def test_a_line_that_a_kind_has_comes_back_exactly(kind, top):
    gen = torch.Generator().manual_seed(0)
    q = torch.randint(top + 1, (64, 8, 32), generator=gen)
    scales, offsets = (torch.randint(1, 64, (64, 8, 1), generator=gen) for _ in range(2))
    scales[:, 0] = offsets[:, 0] = 63       # the largest decides on what is common to all
    q[..., 0], q[..., 1] = 0, top
    w = (scales * q / 8 - offsets / 4).view(-1)
    assert (decoded(encode(w, kind), kind) - w).abs().max() < 1e-6 * w.abs().max()


@pytest.mark.parametrize("kind", OF_256)
def test_a_search_beats_the_scale_that_the_largest_number_asks_for(kind):
    w = torch.randn(512, 256, generator=torch.Generator().manual_seed(0))
    off = (decoded(encode(w.view(-1), kind), kind) - w.view(-1)).square().mean()
    groups = w.view(-1, 16 if kind == "Q6_K" else 32)
    if kind == "Q6_K":
        step = groups.abs().amax(1, keepdim=True) / 32
        plain = (groups / step).round().clamp(-32, 31) * step
    else:
        low = groups.amin(1, keepdim=True).clamp(max=0)
        step = (groups.amax(1, keepdim=True) - low) / (15 if kind == "Q4_K" else 31)
        plain = ((groups - low) / step).round() * step + low
    # although its scales are rounded, to 6 or 8 bits, and these are not
    assert off < 0.95 * (plain - groups).square().mean()


def test_more_bits_err_less():
    w = torch.randn(512 * 256, generator=torch.Generator().manual_seed(0))
    off = [(decoded(encode(w, kind), kind) - w).square().mean().item() for kind in (
        "Q4_0", "Q4_1", "Q4_K", "Q5_0", "Q5_1", "Q5_K", "Q6_K", "Q8_0")]
    assert off == sorted(off, reverse=True)


@pytest.mark.parametrize("kind", WRITERS)
def test_a_block_knows_nothing_of_its_neighbours(kind):
    parts = torch.cat([encode(row.view(-1), kind) for row in PLAIN])
    assert torch.equal(encode(PLAIN.view(-1), kind), parts)


@pytest.mark.parametrize("kind", WRITERS)
def test_the_numbers_given_are_left_as_they_are(kind):
    w = PLAIN.flatten()
    encode(w, kind)
    assert torch.equal(w, PLAIN.view(-1))
