"""Answers to chapter 11: unusual right ones, wrong ones that nobody foresaw, and the hunt."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from llama_edu.compress.grid import grid
from llama_edu.config import ModelConfig
from llama_edu.exercises import check, suspects
from llama_edu.exercises.ch11_hunt import _setup
from llama_edu.family.releases import release
from llama_edu.formats.gguf.encode import encode
from llama_edu.formats.gguf.file_types import data_bytes


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the reader's own progress out of it."""
    monkeypatch.chdir(tmp_path)


def by_a_list_of_levels(w: Tensor, bits: int) -> Tensor:
    low, high = w.amin(-1, keepdim=True), w.amax(-1, keepdim=True)
    levels = low + (high - low) * torch.linspace(0, 1, 2**bits)
    place = (w[..., None] - levels[..., None, :]).abs().argmin(-1)
    return levels.gather(-1, place)


def byte_by_byte(w: Tensor) -> Tensor:
    made = []
    for block in w.split(32):
        d = max(block.tolist(), key=abs) / -8
        scale = torch.tensor([d], dtype=torch.float16).view(torch.uint8).tolist()
        q = [min(15, int(x / d + 8.5)) if d else 8 for x in block.tolist()]
        made += scale + [low + 16 * high for low, high in zip(q[:16], q[16:], strict=True)]
    return torch.tensor(made, dtype=torch.uint8)


def by_parts(c: ModelConfig) -> int:
    def up(n: int) -> int:
        return n + -n % 32

    kv = c.n_kv_heads * c.head_dim
    q = c.n_heads * c.head_dim
    layer = 2 * up(4 * c.dim) + 2 * up(q * c.dim * 9 // 16) + 2 * up(kv * c.dim * 9 // 16)
    layer += 3 * up(c.dim * c.hidden_dim * 9 // 16)
    n = c.vocab_size * c.dim
    last = up(n * 34 // 32 if c.dim % 256 else n * 210 // 256)
    return c.n_layers * layer + up(4 * c.dim) + last + (0 if c.tied_embeddings else up(n * 9 // 16))


def by_the_surgeon(w: Tensor, moment: Tensor, bits: int) -> Tensor:
    """The inverse of what is left, found by elimination."""
    now, levels, inverse = w.clone(), grid(w, bits=bits), torch.linalg.inv(moment)
    for i in range(w.shape[1]):
        fixed = levels.nearest(now[:, i:i + 1])
        now = now - (now[:, i:i + 1] - fixed) * inverse[i] / inverse[i, i]
        now[:, i:i + 1] = fixed
        inverse = inverse - torch.outer(inverse[:, i], inverse[i]) / inverse[i, i]
    return now


@pytest.mark.parametrize(("id", "answer"), [
    ("11.1", by_a_list_of_levels), ("11.2", byte_by_byte), ("11.3", by_parts),
    ("11.4", by_the_surgeon)])
def test_other_ways_to_the_same_end_pass(id: str, answer: Callable):
    assert check(id, answer).passed


@pytest.mark.parametrize(("id", "answer", "name"), [
    ("11.1", lambda w, bits: w.min() + ((w - w.min()) / ((w.max() - w.min()) / (2**bits - 1))
                                        ).round() * (w.max() - w.min()) / (2**bits - 1),
     "one scale for all"),
    ("11.2", lambda w: byte_by_byte(-w), None),
    ("11.3", lambda c: by_parts(c) - 32 * (c.n_layers > 0), None),
    ("11.3", lambda c: c.n_layers, None),
    ("11.4", lambda w, h, bits: grid(w.T.contiguous(), bits=bits).nearest(w.T).T, None),
    ("11.4", lambda w, h, bits: torch.zeros_like(w), None)])
def test_wrong_answers_that_nobody_foresaw_fail(id: str, answer: Callable, name: str | None):
    report = check(id, answer)
    assert report.status == "wrong"
    assert report.diagnosis == name


def test_a_file_of_llama_2_7b_is_as_large_as_llama_cpp_says():
    """Its README's table of 7B models: 3.56G for Q4_0, 3.80G for Q4_K_M."""
    sizes = [data_bytes(release("llama-2-7b").config, kind) / 2**30 for kind in ("Q4_0", "Q4_K_M")]
    assert [round(size, 2) for size in sizes] == [3.56, 3.80]


def test_the_healthy_store_writes_the_bytes_of_q4_1():
    w = torch.randn(4, 64, generator=torch.Generator().manual_seed(3))
    size, read = _setup()(w)
    assert size == len(encode(w.flatten(), "Q4_1")) == 160
    low, high = w.view(-1, 32).amin(1), w.view(-1, 32).amax(1)
    torch.testing.assert_close(read.view(-1, 32).amin(1), low, rtol=1e-3, atol=0)
    torch.testing.assert_close(read.view(-1, 32).amax(1), high, rtol=2e-3, atol=0)


def test_the_stores_of_the_hunt_show_what_the_chapter_says_of_them():
    found = suspects("11.5")
    assert {name: each(torch.rand(2, 32))[0] for name, each in found.items()} == {
        name: 48 if name == "f" else 40 for name in "abcdef"}
    line = torch.arange(64.0).view(2, 32)
    off = {name: (each(line)[1] - line).abs()[0].max() > 1.1 for name, each in found.items()}
    assert off["b"]
    assert not off["d"]
    above = torch.linspace(0.31, 1, 32)[None]
    off = {name: (each(above)[1] - above)[0, 0].abs() for name, each in found.items()}
    assert off["c"] > 0.01
    assert all(off[name] < 0.001 for name in "adf")
    two = torch.rand(2, 32)
    low = two.clone()
    low[1, 0] = -1000
    assert (found["a"](low)[1] - two)[0].abs().max() > 0.5
    assert all((found[name](low)[1] - two)[0].abs().max() < 0.1 for name in "cdf")
    many = torch.rand(32, 32)
    high = many.clone()
    high[3, 5] = 1000
    off = (found["e"](high)[1] - high).abs()
    assert off[:, 5].max() > 0.3
    assert off[3, :5].max() < 0.1
    off = (found["d"](high)[1] - high).abs()
    assert off[3].max() > 0.3
    assert off[:3, 5].max() < 0.1
