"""Answers to chapter 09 that polite probes let through, each named; and unusual right ones."""

import json
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from einops import rearrange
from torch import Tensor

from llama_edu.config import ModelConfig
from llama_edu.exercises import check, suspects
from llama_edu.exercises.ch09_real_weights_rows import THIRD, _scores
from llama_edu.exercises.judge import SEED
from llama_edu.family.accounting import parameters
from llama_edu.formats.safetensors_file import DTYPES
from llama_edu.layers import rotate


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the reader's own progress out of it."""
    monkeypatch.chdir(tmp_path)


def mirrored(mirror: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> Callable:
    """Rows for the third program, by any mirror of evens and odds."""
    def answer(w: Tensor, head_dim: int) -> Tensor:
        evens, odds = rearrange(w, "(h d two) c -> two h d c", two=2, d=head_dim // 2)
        return rearrange(list(mirror(evens, odds)), "two h d c -> (h two d) c")

    return answer


MIRRORS = {
    "odds negated": mirrored(lambda x, y: (x, -y)),
    "evens negated": mirrored(lambda x, y: (-x, y)),
    "exchanged": mirrored(lambda x, y: (y, x)),
    "exchanged and negated": mirrored(lambda x, y: (-y, -x)),
    "at 22.5 degrees": mirrored(lambda x, y: ((x + y) / 2**0.5, (x - y) / 2**0.5)),
}  # fmt: skip


@pytest.mark.parametrize("name", MIRRORS)
def test_any_mirror_serves_the_third_program(name: str):
    assert check("9.4", MIRRORS[name]).passed


def test_the_third_program_is_asked_for_the_scores_of_meta():
    for probe in THIRD.probes:
        wq, wk, head_dim = probe.inputs(seed=SEED).values()
        torch.testing.assert_close(THIRD.adapt(THIRD.reference, wq, wk, head_dim),
                                   _scores(wq, wk, head_dim, rotate), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("mistake", "diagnosis"), [
    (mirrored(lambda x, y: (x, y)), "direction forgotten"),
    (mirrored(lambda x, y: (-y, x)), "direction forgotten"),
    (lambda w, d: rearrange(w, "(n two) c -> n two c", two=2).flip(1).reshape(w.shape),
     "not sorted"),
])  # fmt: skip
def test_what_is_no_mirror_of_sorted_rows_is_named(mistake: Callable, diagnosis: str):
    assert check("9.4", mistake).diagnosis == diagnosis


# -- the files ----------------------------------------------------------------------------------


def test_safetensors_own_reader_passes():
    reader = pytest.importorskip("safetensors.torch")
    assert check("9.1", lambda content, name: reader.load(content)[name]).passed


def test_a_view_into_the_file_passes():
    def view(content: bytes, name: str) -> Tensor:
        n = int.from_bytes(content[:8], "little")
        entry = json.loads(content[8:8 + n])[name]
        size = torch.Size(entry["shape"]).numel()
        return torch.frombuffer(bytearray(content), dtype=DTYPES[entry["dtype"]], count=size,
                                offset=8 + n + entry["data_offsets"][0]).view(entry["shape"])

    assert check("9.1", view).passed


def merged(embedding: Callable[[list[Tensor], int], int]) -> Callable:
    def answer(name: str, pieces: list[Tensor], dim: int) -> Tensor:
        if pieces[0].ndim == 1:
            return torch.stack(pieces).mean(0)
        if name.startswith("tok"):
            return torch.cat(pieces, embedding(pieces, dim))
        return torch.cat(pieces, int(name.split(".")[-2] in ("wo", "w2"))).t().contiguous().t()

    return answer


def test_shards_merged_by_the_sum_of_their_widths_pass():
    by_sum = merged(lambda pieces, dim: int(sum(len(piece.T) for piece in pieces) == dim))
    assert check("9.2", by_sum).passed


def test_the_longer_side_of_an_embedding_proves_nothing():
    by_side = merged(lambda pieces, dim: int(len(pieces[0]) > len(pieces[0].T)))
    assert check("9.2", by_side).diagnosis == "embedding by its longer side"


def test_blocks_read_as_one_table_pass():
    def table(stored: bytes) -> Tensor:
        blocks = np.frombuffer(stored, np.uint8).reshape(-1, 20)
        s, m = blocks[:, :4].copy().view("<f2").astype(np.float32).T[..., None]
        q = np.concatenate([blocks[:, 4:] % 16, blocks[:, 4:] // 16], 1)
        return torch.from_numpy(s * q + m).flatten()

    assert check("9.7", table).passed


@pytest.mark.parametrize(("weight", "diagnosis"), [
    (lambda s, m, q: s * (q - m), "minimum as zero point"),
    (lambda s, m, q: s * (q - 16 * (q > 7)) + m, "q with a sign"),
    (lambda s, m, q: s * q - m, "minimum subtracted"),
])  # fmt: skip
def test_other_rules_for_a_weight_are_named(weight: Callable, diagnosis: str):
    def answer(stored: bytes) -> Tensor:
        made = []
        for s, m, *packed in struct.iter_unpack("<ee16B", stored):
            made += [weight(s, m, byte & 15) for byte in packed]
            made += [weight(s, m, byte >> 4) for byte in packed]
        return torch.tensor(made)

    assert check("9.7", answer).diagnosis == diagnosis


def test_arithmetic_in_float16_is_named():
    def answer(stored: bytes) -> Tensor:
        made = []
        for s, m, *packed in struct.iter_unpack("<ee16B", stored):
            q = torch.tensor([b & 15 for b in packed] + [b >> 4 for b in packed]).half()
            made.append(q * torch.tensor(s).half() + torch.tensor(m).half())
        return torch.cat(made).float()

    assert check("9.7", answer).diagnosis == "computed in float16"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_two_bytes_for_every_file_are_named(dtype: torch.dtype):
    def answer(content: bytes, name: str) -> Tensor:
        n = int.from_bytes(content[:8], "little")
        entry = json.loads(content[8:8 + n])[name]
        start, end = entry["data_offsets"]
        return torch.frombuffer(content[8 + n + start:8 + n + end], dtype=dtype).view(
            *entry["shape"])

    assert check("9.1", answer).diagnosis == "two bytes always"


def test_the_first_dtype_of_a_file_is_not_that_of_all():
    def answer(content: bytes, name: str) -> Tensor:
        n = int.from_bytes(content[:8], "little")
        header = json.loads(content[8:8 + n])
        header.pop("__metadata__", None)
        start, end = header[name]["data_offsets"]
        dtype = DTYPES[next(iter(header.values()))["dtype"]]
        numbers = torch.frombuffer(bytearray(content[8 + n + start:8 + n + end]), dtype=dtype)
        return numbers.view(header[name]["shape"])

    assert check("9.1", answer).diagnosis == "one dtype for the file"


@pytest.mark.parametrize("join", [torch.cat, torch.stack])
@pytest.mark.parametrize("axis", [0, 1])
def test_joined_norms_are_named_whatever_becomes_of_the_embedding(join: Callable, axis: int):
    def answer(name: str, pieces: list[Tensor], dim: int) -> Tensor:
        if pieces[0].ndim == 1:
            return join(pieces)
        by_shape = int(pieces[0].shape[1] != dim) if join is torch.stack else axis
        columns = by_shape if name.startswith("tok") else name.endswith(("wo.weight", "w2.weight"))
        return torch.cat(pieces, int(columns))

    assert check("9.2", answer).diagnosis == "norms joined"


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("fixed", [False, True])
def test_a_head_as_wide_as_the_columns_say_is_named(own: bool, fixed: bool):
    def answer(name: str, w: Tensor, n_heads: int, n_kv_heads: int) -> Tensor:
        letter = name.split(".")[-2][0]
        if letter in "vo":
            return w
        heads = n_heads if letter == "q" else n_kv_heads
        half = w.shape[1] // (heads if own else n_heads) // 2
        return w.view(heads if fixed else -1, 2, half, w.shape[1]).transpose(1, 2).reshape(w.shape)

    assert check("9.3", answer).diagnosis == "width by columns"


@pytest.mark.parametrize("sort", [
    lambda w, d: w,
    lambda w, d: rearrange(w, "(h d two) c -> (h two d) c", two=2, d=d // 2),
    lambda w, d: rearrange(w, "(d two) c -> (two d) c", two=2),
])  # fmt: skip
def test_rows_turned_round_across_the_heads_are_named(sort: Callable):
    said = check("9.4", lambda w, d: sort(w, d).flip(0)).diagnosis
    assert said == "all rows from back to front"


# -- the speed ----------------------------------------------------------------------------------


def speed(config: ModelConfig, gb_per_second: float, bits: int, contexts: list[int]) -> float:
    """Bits for bits: another way to count what a step reads."""
    p, c = parameters(config), config
    weights = p.attention + p.feed_forward + p.norms + c.vocab_size * c.dim
    cached = 2 * c.n_layers * c.n_kv_heads * c.head_dim * sum(contexts)
    return len(contexts) * 8e9 * gb_per_second / (weights * bits + cached * 16)


def test_a_step_counted_in_bits_passes():
    assert check("9.6", speed).passed


@pytest.mark.parametrize(("mistake", "diagnosis"), [
    (lambda *v: sum(speed(*v[:3], [n]) for n in v[3]), "speeds added"),
    (lambda *v: len(v[3]) / sum(1 / speed(*v[:3], [n]) for n in v[3]),
     "weights read for each text"),
    (lambda *v: speed(*v[:3], [max(v[3])] * len(v[3])), "all as long as the longest"),
    (lambda *v: speed(*v) / len(v[3]), "one text's tokens"),
])  # fmt: skip
def test_what_several_texts_share_is_named(mistake: Callable, diagnosis: str):
    assert check("9.6", mistake).diagnosis == diagnosis


# -- the hunt -----------------------------------------------------------------------------------


def test_moved_rows_are_right_where_all_is_moved_and_one_token_hides_the_scores():
    loaders, tokens = suspects("9.5"), torch.arange(100, 140)[None]
    right = loaders["d"](tokens)
    torch.testing.assert_close(loaders["b"](tokens + 1).roll(-1, -1), right)
    hidden = [letter for letter, logits_of in loaders.items()
              if torch.allclose(logits_of(tokens[:, :1]), right[:, :1], atol=1e-4)]
    assert hidden == ["a", "c", "d", "f"]
