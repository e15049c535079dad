"""Mixtures of kinds, checked against what llama.cpp prints of files that people published."""

import gguf as package
import pytest
import torch
from gguf_files import source_of, weights_of
from models import STRETCH_8, loud_model, tiny_config

from llama_edu.family.releases import release
from llama_edu.formats.gguf import header as gguf_header
from llama_edu.formats.gguf import weights as gguf
from llama_edu.formats.gguf.blocks import KINDS, decode
from llama_edu.formats.gguf.encode import WRITERS, encode
from llama_edu.formats.gguf.file_types import FILE_TYPES, data_bytes, kinds_of
from llama_edu.formats.names import find

MIB, GIB = 2**20, 2**30
WIDE = dict(dim=256, hidden_dim=512, n_heads=8, n_kv_heads=4, n_layers=8)
SHAPES = {"wide": WIDE, "tied": WIDE | dict(tied_embeddings=True),
          "rows of 192": WIDE | dict(hidden_dim=192),
          "tied, rows of 64": dict(tied_embeddings=True, rope_scaling=STRETCH_8),
          "rows of 36": dict(dim=36, n_heads=2, n_kv_heads=1)}


def test_the_numbers_are_those_of_the_gguf_package():
    for name, (number, *_) in FILE_TYPES.items():
        assert package.LlamaFileType(number).name in (f"ALL_{name}", f"MOSTLY_{name}")


@pytest.mark.parametrize(("model", "file_type", "printed", "unit"), [
    ("llama-2-7b", "Q4_K_M", 3.80, GIB), ("llama-2-13b", "Q4_K_M", 7.33, GIB),
    ("llama-2-70b", "Q4_K_M", 38.58, GIB), ("llama-3-70b", "Q4_K_M", 39.59, GIB),
    ("llama-3.1-8b", "Q4_K_M", 4.58, GIB), ("llama-3.2-1b", "Q4_K_M", 762.81, MIB),
    ("llama-3.2-3b", "Q4_K_M", 1.87, GIB), ("llama-2-7b", "Q4_0", 3.56, GIB),
    ("llama-3.1-8b", "Q5_K_M", 5.33, GIB), ("llama-3.1-8b", "Q6_K", 6.14, GIB),
    ("llama-3.1-8b", "Q8_0", 7.95, GIB), ("llama-3.1-8b", "F16", 14.96, GIB)])
def test_published_models_have_the_size_that_llama_cpp_prints(model, file_type, printed, unit):
    assert round(data_bytes(release(model).config, file_type) / unit, 2) == printed


def test_a_mixture_spends_bits_where_llama_cpp_does():
    kinds = kinds_of(release("llama-2-7b").config, "Q4_K_M")
    better = {int(name.split(".")[1]) for name, kind in kinds.items()
              if kind == "Q6_K" and name.startswith("layers")}
    assert better == {0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31}
    assert {name.split(".", 2)[2] for name, kind in kinds.items() if kind == "Q6_K"
            and name.startswith("layers")} == {"attention.wv.weight", "feed_forward.w2.weight"}
    assert (kinds["output.weight"], kinds["tok_embeddings.weight"]) == ("Q6_K", "Q4_K")
    assert kinds["norm.weight"] == kinds["layers.0.ffn_norm.weight"] == "F32"


@pytest.mark.parametrize(("file_type", "row", "kind", "output"), [
    ("Q4_K_M", 192, "Q5_0", "Q8_0"), ("Q5_K_M", 192, "Q5_1", "Q8_0"),
    ("Q6_K", 192, "Q8_0", "Q8_0"), ("Q4_0", 192, "Q4_0", "Q8_0"), ("Q4_0", 256, "Q4_0", "Q6_K"),
    ("Q4_K_M", 48, "F16", "F16"), ("Q8_0", 48, "F16", "F16"), ("Q4_1", 48, "F16", "F16"),
    ("BF16", 48, "BF16", "BF16"), ("Q8_0", 256, "Q8_0", "Q8_0")])
def test_rows_that_are_not_whole_blocks_get_shorter_ones(file_type, row, kind, output):
    kinds = kinds_of(tiny_config(dim=row, n_heads=2, n_kv_heads=1), file_type)
    assert (kinds["layers.0.attention.wq.weight"], kinds["output.weight"]) == (kind, output)


@pytest.mark.parametrize("changes", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("file_type", FILE_TYPES)
def test_a_file_holds_each_tensor_in_its_kind_and_is_as_long_as_predicted(tmp_path, file_type,
                                                                         changes):
    model, file = loud_model(tiny_config(**changes)), tmp_path / "x.gguf"
    gguf.write(file, source_of(model), kind=file_type)
    header, kinds = gguf_header.read(file), kinds_of(model.config, file_type)
    assert file.stat().st_size == header.start + data_bytes(model.config, file_type)
    assert header.fields["general.file_type"] == FILE_TYPES[file_type].number
    read = weights_of(gguf.open_file(file))
    assert set(read) == set(kinds)
    for name, kind in kinds.items():
        row, number = find(name, "meta")
        assert header.tensors[row.gguf.replace("#", number)].kind == KINDS[kind].number
        expected = model.get_parameter(name)
        if kind in WRITERS:
            blocks, expected = encode(expected.view(-1), kind), torch.empty_like(expected)
            decode(blocks.numpy(), kind, expected.view(-1))
        else:
            expected = expected.to(gguf.PLAIN[kind][0])
        assert torch.equal(read[name].float(), expected.float())
