"""Files that llama.cpp quantised are read here as it reads them.

Only its own library quantises: these tests run where `make bench` has built it.
"""

import ctypes
from pathlib import Path

import gguf as package
import pytest
import torch
from folders import bytes_tokenizer, save_tokenizer
from gguf_files import model_of, source_of
from llama_cpp_judge import Judge, centred
from models import distance, loud_model, some_tokens, tiny_config

from llama_edu.formats.gguf import header as gguf_header
from llama_edu.formats.gguf import weights as gguf
from llama_edu.formats.gguf.file_types import FILE_TYPES

llama_cpp = pytest.importorskip("llama_cpp")

def quantised(file: Path, target: Path, kind: int) -> None:
    settings = llama_cpp.llama_model_quantize_default_params()
    settings.ftype, settings.nthread = kind, 1
    done = llama_cpp.llama_model_quantize(str(file).encode(), str(target).encode(),
                                          ctypes.byref(settings))
    assert done == 0


def stored(file: Path) -> dict[str, tuple[str, bytes]]:
    """Every tensor's kind and bytes."""
    return {tensor.name: (tensor.tensor_type.name, tensor.data.tobytes())
            for tensor in package.GGUFReader(file).tensors}


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    return save_tokenizer(bytes_tokenizer(), tmp_path_factory.mktemp("words"))


@pytest.mark.parametrize(("name", "kinds"), [
    ("Q4_K_M", {"F32", "Q4_K", "Q6_K"}), ("Q6_K", {"F32", "Q6_K"}), ("Q8_0", {"F32", "Q8_0"}),
    ("Q4_0", {"F32", "Q4_0", "Q6_K"}), ("BF16", {"F32", "BF16"}),
    ("Q5_1", {"F32", "Q5_1", "Q6_K"}), ("Q3_K_M", {"F32", "Q3_K", "Q4_K", "Q5_K", "Q6_K"}),
    ("IQ4_XS", {"F32", "IQ4_XS", "Q6_K"})])
def test_files_that_llama_cpp_quantised_give_its_logits_here(tmp_path, words, name, kinds):
    config = tiny_config(vocab_size=320, dim=256, hidden_dim=512, n_heads=8, n_kv_heads=4)
    gguf.write(tmp_path / "full.gguf", source_of(loud_model(config), words), kind="F32")
    quantised(tmp_path / "full.gguf", tmp_path / "x.gguf",
              getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{name}"))
    listed = gguf_header.read(tmp_path / "x.gguf").tensors.values()
    assert {tensor.kind for tensor in listed} == {gguf.KINDS[kind].number for kind in kinds}
    source, tokens = gguf.open_file(tmp_path / "x.gguf"), some_tokens(config, 1)[0]
    assert source.config == config
    with torch.inference_mode():
        ours, whole = (centred(model(tokens[None])[0])
                       for model in (model_of(tmp_path / "x.gguf"), loud_model(config)))
    # Its own arithmetic rounds what enters each product to 8 bits; without that, float32's error.
    assert distance(ours, Judge(tmp_path / "x.gguf").logits(tokens.tolist())) < 0.1
    gguf.write(tmp_path / "again.gguf", source, kind="F32")
    assert distance(ours, Judge(tmp_path / "again.gguf").logits(tokens.tolist())) < 1e-5
    assert distance(ours, whole) > 1e-3     # rounding did happen


@pytest.mark.parametrize("changes", [{}, dict(tied_embeddings=True), dict(hidden_dim=192),
                                     dict(dim=64, n_heads=4, n_kv_heads=2)], ids=str)
@pytest.mark.parametrize("kind", [kind for kind in FILE_TYPES if kind != "F32"])
def test_our_blocks_are_llama_cpps_to_the_byte(tmp_path, words, kind, changes):
    config = tiny_config(**dict(vocab_size=320, dim=256, hidden_dim=512, n_layers=10) | changes)
    source = source_of(loud_model(config), words)
    gguf.write(tmp_path / "full.gguf", source, kind="F32")
    gguf.write(tmp_path / "ours.gguf", source, kind=kind)
    quantised(tmp_path / "full.gguf", tmp_path / "theirs.gguf", FILE_TYPES[kind].number)
    ours, theirs = (stored(tmp_path / f"{who}.gguf") for who in ("ours", "theirs"))
    assert set(ours) == set(theirs)
    assert {name: each for name, each in ours.items() if each != theirs[name]} == {}
