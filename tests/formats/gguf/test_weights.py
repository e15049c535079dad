"""GGUF files, checked against the package of their makers and against numbers made by hand."""

import struct
from dataclasses import replace

import gguf as package
import numpy as np
import pytest
import torch
from folders import bytes_tokenizer, save_tokenizer, spaces_tokenizer
from gguf_files import matrices, source_of, theirs, weights_of
from models import STRETCH_8, STRETCH_32, loud_model, tiny_config

from llama_edu.config import RopeScaling
from llama_edu.formats.gguf import header as gguf_header
from llama_edu.formats.gguf import weights as gguf
from llama_edu.formats.gguf.config import find_scaling, rope_factors
from llama_edu.formats.source import Stored

KIND = package.GGMLQuantizationType
SHAPES = {"mha": dict(n_kv_heads=4), "gqa": {}, "tied": dict(tied_embeddings=True),
          "stretched by 8": dict(rope_scaling=STRETCH_8),
          "stretched by 32": dict(rope_scaling=STRETCH_32)}
PLAIN = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@pytest.fixture(scope="module")
def model():
    return loud_model(tiny_config())


@pytest.fixture(scope="module", params=["over bytes", "over characters"])
def words(request, tmp_path_factory):
    """A folder with a tokenizer of Llama 3's or of Llama 2's kind."""
    make = {"over bytes": bytes_tokenizer, "over characters": spaces_tokenizer}[request.param]
    return save_tokenizer(make(), tmp_path_factory.mktemp("words"))


# -- there and back --------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("kind", PLAIN)
def test_plain_numbers_come_back_exactly(tmp_path, changes, kind):
    dtype = PLAIN[kind]
    source = source_of(loud_model(tiny_config(**changes)), dtype=dtype)
    gguf.write(tmp_path / "x.gguf", source, kind=kind)
    again = gguf.open_file(tmp_path / "x.gguf")
    assert again.config == source.config
    assert (again.tokenizer, again.stop_ids) == (None, ())
    expected, read = weights_of(source), weights_of(again)
    assert set(read) == set(expected)
    for name, w in read.items():
        assert w.dtype == again.tensors[name].dtype == (dtype if w.ndim == 2 else torch.float32)
        assert w.shape == again.tensors[name].shape
        assert torch.equal(w.float(), expected[name].float())


def test_the_numbers_of_a_config_come_back_to_the_digit(tmp_path):
    for norm_eps, theta in ((1e-5, 5e5), (1e-6, 1e4), (1.5e-6, 1e6), (3e-5, 12345.0)):
        config = tiny_config(norm_eps=norm_eps, rope_theta=theta)
        gguf.write(tmp_path / "x.gguf", source_of(loud_model(config)), kind="F32")
        assert gguf.open_file(tmp_path / "x.gguf").config == config


def test_a_second_rounding_to_q8_0_changes_no_byte(tmp_path, model):
    first, second = tmp_path / "1.gguf", tmp_path / "2.gguf"
    gguf.write(first, source_of(model), kind="Q8_0")
    gguf.write(second, gguf.open_file(first), kind="Q8_0")
    assert first.read_bytes() == second.read_bytes()
    listed = gguf_header.read(first).tensors
    assert {t.kind for t in listed.values() if len(t.shape) == 2} == {KIND.Q8_0}


def test_q8_0_is_off_by_half_a_step_at_most(tmp_path, model):
    gguf.write(tmp_path / "x.gguf", source_of(model), kind="Q8_0")
    read = weights_of(gguf.open_file(tmp_path / "x.gguf"))
    for name, w in model.state_dict().items():
        blocks = w.reshape(-1, 32 if w.ndim == 2 else 1)
        # Half of a step of a 127th; the step itself is rounded to float16, by 2^-11 of it.
        half = blocks.abs().amax(1, keepdim=True) / 127 * (0.5 + 127 * 2**-11)
        assert ((read[name].reshape(blocks.shape) - blocks).abs() <= half).all()


def test_a_block_made_by_hand_is_read_as_scale_times_whole_numbers(tmp_path, model):
    gguf.write(tmp_path / "x.gguf", source_of(model), kind="Q8_0")
    whole = [*range(-16, 15), -127]
    block = struct.pack("<e32b", 0.25, *whole)      # a float16 and 32 bytes with signs
    header = gguf_header.read(tmp_path / "x.gguf")
    start = header.start + header.tensors["blk.1.ffn_down.weight"].offset
    content = bytearray((tmp_path / "x.gguf").read_bytes())
    content[start : start + 34] = block
    (tmp_path / "x.gguf").write_bytes(content)
    w = gguf.open_file(tmp_path / "x.gguf").tensors["layers.1.feed_forward.w2.weight"].read()
    assert w[0, :32].tolist() == [0.25 * i for i in whole]
    assert w.shape == (64, 192)


def test_large_tensors_are_converted_piece_by_piece(tmp_path, model, monkeypatch):
    for kind in ("Q8_0", "F16"):
        gguf.write(tmp_path / f"whole {kind}", source_of(model), kind=kind)
    expected = weights_of(gguf.open_file(tmp_path / "whole Q8_0"))
    monkeypatch.setattr(gguf, "CHUNK", 256)
    gguf.write(tmp_path / "pieces", source_of(model), kind="Q8_0")
    assert (tmp_path / "pieces").read_bytes() == (tmp_path / "whole Q8_0").read_bytes()
    read = weights_of(gguf.open_file(tmp_path / "pieces"))
    assert all(torch.equal(read[name], w) for name, w in expected.items())


def test_rows_that_are_not_whole_blocks_become_f16(tmp_path):
    config = tiny_config(dim=48, n_heads=2, n_kv_heads=1)
    gguf.write(tmp_path / "x.gguf", source_of(loud_model(config)), kind="Q8_0")
    listed = gguf_header.read(tmp_path / "x.gguf").tensors
    assert listed["blk.0.ffn_up.weight"].kind == KIND.F16       # rows of 48
    assert listed["blk.0.ffn_down.weight"].kind == KIND.Q8_0    # rows of 192
    assert gguf.open_file(tmp_path / "x.gguf").config == config


# -- the package of the makers of the format -------------------------------------------------------


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0"])
def test_the_gguf_package_reads_what_we_write(tmp_path, model, kind):
    gguf.write(tmp_path / "x.gguf", source_of(model), kind=kind)
    reader = package.GGUFReader(tmp_path / "x.gguf")
    read = weights_of(gguf.open_file(tmp_path / "x.gguf"))
    assert len(reader.tensors) == len(read)
    for tensor in reader.tensors:
        theirs = package.dequantize(tensor.data, tensor.tensor_type)
        row, number = gguf.find(tensor.name, "gguf")
        ours = read[row.meta.replace("#", number)]
        assert torch.equal(torch.from_numpy(theirs.copy()).view(ours.shape), ours.float())


def test_every_field_is_what_the_gguf_package_finds(tmp_path, words):
    config = tiny_config(vocab_size=400)
    gguf.write(tmp_path / "x.gguf", source_of(loud_model(config), words), kind="F16")
    reader, header = package.GGUFReader(tmp_path / "x.gguf"), gguf_header.read(tmp_path / "x.gguf")
    theirs = {name: field.contents() for name, field in reader.fields.items()
              if not name.startswith("GGUF.")}
    assert header.fields == theirs
    assert {name: (list(t.shape), t.kind, header.start + t.offset)
            for name, t in header.tensors.items()} == {
        t.name: (t.shape.tolist()[::-1], t.tensor_type, t.data_offset) for t in reader.tensors}


@pytest.mark.parametrize("name", ["rope.freqs", "model.layers.0.self_attn.rotary_emb.inv_freq"])
def test_a_tensor_that_the_config_gives_as_well_is_left_out(tmp_path, name):
    config = tiny_config(n_layers=1)
    weights = matrices(config, "F32") | {name: (np.ones(4, np.float32), None)}
    theirs(tmp_path / "x.gguf", config, weights)
    assert gguf_header.read(tmp_path / "x.gguf").tensors[name].shape == (4,)
    read = gguf.open_file(tmp_path / "x.gguf")
    assert set(read.tensors) == set(loud_model(config).state_dict())
    assert read.config == config


def test_fields_that_old_files_lack_have_their_old_meaning(tmp_path):
    model = loud_model(tiny_config(n_kv_heads=4, rope_theta=1e4))
    gguf.write(tmp_path / "x.gguf", source_of(model), kind="F32")
    content = (tmp_path / "x.gguf").read_bytes()
    for field in ("attention.head_count_kv", "rope.freq_base", "vocab_size"):
        assert content.count(f"llama.{field}".encode()) == 1
        content = content.replace(f"llama.{field}".encode(), f"other.{field}".encode())
    (tmp_path / "x.gguf").write_bytes(content.replace(b"GGUF\x03", b"GGUF\x02", 1))
    config = gguf.open_file(tmp_path / "x.gguf").config
    assert (config.n_kv_heads, config.rope_theta, config.vocab_size) == (4, 1e4, 96)


# -- the stretch of RoPE ---------------------------------------------------------------------------


def test_the_stretch_is_found_in_its_factors():
    for scaling in (None, STRETCH_8, STRETCH_32):
        for head_dim, theta in ((128, 5e5), (64, 5e5), (16, 1e4)):
            config = tiny_config(dim=4 * head_dim, rope_theta=theta, rope_scaling=scaling)
            factors = rope_factors(config)
            noise = 1 + 1e-6 * torch.randn(len(factors), generator=torch.Generator().manual_seed(0))
            stored = Stored(tuple(factors.shape), torch.float32, lambda f=factors * noise: f)
            assert find_scaling(stored, replace(config, rope_scaling=None)) == scaling


def test_the_factors_are_those_that_llama_cpp_writes():
    # Its rule, pair by pair: 1 for short waves, 8 for long ones, between them a blend of speeds.
    config, expected = tiny_config(dim=512, rope_scaling=STRETCH_8), []
    for i in range(64):
        wave = 2 * np.pi * 5e5 ** (i / 64)
        smooth = (8192 / wave - 1) / 3
        expected.append(1 if wave < 2048 else 8 if wave > 8192 else 1 / ((1 - smooth) / 8 + smooth))
    # 1e-4, as some pairs lie at the edge of the blend and float32 has 7 digits
    assert torch.allclose(rope_factors(config), torch.tensor(expected).float(), rtol=1e-4)
    assert rope_factors(config).max() == 8


def test_a_stretch_that_cannot_be_read_back_is_not_written(tmp_path):
    odd = RopeScaling(8.0, low_freq_factor=1.0, high_freq_factor=2.0, original_context=4096)
    with pytest.raises(ValueError, match=r"cannot be read back from a GGUF file, which has only"):
        gguf.write(tmp_path / "x.gguf", source_of(loud_model(tiny_config(rope_scaling=odd))),
                   kind="F16")
    assert [*tmp_path.iterdir()] == []
