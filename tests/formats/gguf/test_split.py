"""One model in several GGUF files, as the makers of the format split it."""

import os
import re
import struct

import pytest
import torch
from folders import bytes_tokenizer, save_tokenizer
from gguf_files import matrices, source_of, text, theirs, weights_of, with_count
from models import loud_model, tiny_config

from llama_edu import tokenizer
from llama_edu.formats.gguf import header as gguf_header
from llama_edu.formats.gguf import split
from llama_edu.formats.gguf import weights as gguf

CONFIG = tiny_config(n_layers=1)
N = 12                          # tensors of this model
PARTS = [f"x-0000{i}-of-00003.gguf" for i in (1, 2, 3)]


@pytest.fixture
def parts(tmp_path):
    """The paths of three parts, of five, five and two tensors."""
    theirs(tmp_path / "x.gguf", CONFIG, matrices(CONFIG, "F32", "Q8_0"), split_max_tensors=5)
    assert sorted(path.name for path in tmp_path.iterdir()) == PARTS
    return [tmp_path / name for name in PARTS]


def whole(folder):
    theirs(folder / "whole.gguf", CONFIG, matrices(CONFIG, "F32", "Q8_0"))
    return gguf.open_file(folder / "whole.gguf")


def with_number(file, field: str, value: int, letter: str = "H") -> None:
    """The same part, where a number in the field split.* is another one."""
    content, at = bytearray(file.read_bytes()), text(f"split.{field}")
    assert content.count(at) == 1
    struct.pack_into("<" + letter, content, content.index(at) + len(at) + 4, value)
    file.write_bytes(content)


@pytest.mark.parametrize("given", range(3))
def test_any_part_opens_the_whole_model(tmp_path, parts, given):
    assert [len(gguf_header.read(part).tensors) for part in parts] == [5, 5, 2]
    source, expected = gguf.open_file(parts[given]), whole(tmp_path)
    assert source.config == expected.config == CONFIG
    read = weights_of(source)
    assert set(read) == set(expected.tensors)
    assert all(torch.equal(read[name], w) for name, w in weights_of(expected).items())


def test_the_first_part_has_the_vocabulary(tmp_path):
    words = save_tokenizer(bytes_tokenizer(), tmp_path / "words")
    config = tiny_config(n_layers=1, vocab_size=bytes_tokenizer().get_vocab_size())
    gguf.write(tmp_path / "w.gguf", source_of(loud_model(config), words), kind="F32")
    fields = gguf_header.read(tmp_path / "w.gguf").fields
    adders = dict(tokenizer_model="model", tokenizer_pre="pre", token_list="tokens",
                  token_types="token_type", token_merges="merges", bos_token_id="bos_token_id",
                  eos_token_id="eos_token_id")
    theirs(tmp_path / "x.gguf", config, matrices(config, "F32"), split_max_tensors=5, **{
        adder: fields[f"tokenizer.ggml.{name}"] for adder, name in adders.items()})
    source = gguf.open_file(tmp_path / PARTS[2])
    assert source.tokenizer == tmp_path / PARTS[0]
    assert tokenizer.load(source.tokenizer).encode("a llama", bos=True, eos=False) == (
        tokenizer.load(words).encode("a llama", bos=True, eos=False))


def test_parts_without_tensors_or_behind_links_are_parts(tmp_path, parts):
    # gguf-split can leave the first part without weights; a cache of the hub has links in folders.
    (tmp_path / "blobs").mkdir()
    for i, part in enumerate(parts):
        part.rename(tmp_path / "blobs" / f"{i}")
        part.symlink_to(os.path.join("blobs", f"{i}"))
    assert set(gguf.open_file(parts[0]).tensors) == set(whole(tmp_path).tensors)
    blob = tmp_path / "blobs" / "0"
    blob.write_bytes(with_count(blob.read_bytes(), "tensors", 0))
    for part in parts:
        with_number(part, "tensors.count", N - 5, "i")
    with pytest.raises(ValueError, match="lists 7 tensors and no token_embd.weight"):
        gguf.open_file(parts[0])        # so far the parts were in order


def test_models_are_counted_by_the_names_of_their_parts(tmp_path, parts):
    assert split.models(reversed(parts)) == [parts[0]]
    assert split.models(parts[1:]) == [parts[1]]
    others = [tmp_path / name for name in (
        "x.gguf", "y-00001-of-00003.gguf", "y-00002-of-00003.gguf", "x-00001-of-00002.gguf",
        "x-1-of-3.gguf")]
    assert split.models([*others, *parts]) == sorted(
        [parts[0], others[0], others[1], others[3], others[4]])
    assert split.models([]) == []


# -- parts that do not belong together -------------------------------------------------------------


def refused(file, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        gguf.open_file(file)
    assert len(str(caught.value).replace(str(file.parent), "")) < 400


@pytest.mark.parametrize("missing", range(3))
def test_a_part_that_is_missing_is_named(parts, missing):
    given = parts[missing - 1]
    parts[missing].unlink()
    refused(given, f"{given.name} is one of 3 parts; all are needed, and 1 of them are not beside "
                   f"it, first {parts[missing].name}. Put them there")
    parts[missing].symlink_to("nowhere")
    refused(given, f"first {parts[missing].name}")


@pytest.mark.parametrize("name", ["x.gguf", "x-00001-of-00004.gguf", "x-1-of-3.gguf",
                                  "x-\u0660\u0660\u0660\u0660\u0661-of-00003.gguf"])
def test_a_part_of_another_name_is_refused(tmp_path, parts, name):
    refused(parts[0].rename(tmp_path / name), "says that it is one of 3 parts; the name they were")


@pytest.mark.parametrize("n", [2, 4, 40_000])
def test_parts_that_disagree_on_how_many_they_are_are_refused(parts, n):
    with_number(parts[1], "count", n)
    refused(parts[0], rf"x-00002-of-00003.gguf says .* = \(1, {n}, 12\); .* need \(1, 3, 12\)")
    refused(parts[1], f"x-00002-of-00003.gguf says that it is one of {n} parts")


def test_absurd_counts_are_refused_at_once(tmp_path, parts):
    content = parts[0].read_bytes()
    for kind, value in ((4, struct.pack("<I", 2**32 - 1)), (10, struct.pack("<Q", 2**64 - 1)),
                        (5, struct.pack("<i", -1)), (6, struct.pack("<f", 3)), (8, text("3"))):
        field = text("split.count")
        at = content.index(field) + len(field)
        parts[0].write_bytes(content[:at] + struct.pack("<I", kind) + value + content[at + 6:])
        refused(parts[0], "says that it is one of .* parts; the name")


@pytest.mark.parametrize("total", [11, 13])
def test_a_total_that_disagrees_is_refused(parts, total):
    with_number(parts[2], "tensors.count", total, "i")
    refused(parts[0], rf"x-00003-of-00003.gguf says .* = \(2, 3, {total}\); .* need \(2, 3, 12\)")
    for part in parts:
        with_number(part, "tensors.count", total, "i")
    refused(parts[1], f"x-00001-of-00003.gguf list 12 tensors; they say that there are {total}")


def test_parts_that_changed_places_are_refused(tmp_path, parts):
    with_number(parts[1], "no", 2)
    refused(parts[0], r"x-00002-of-00003.gguf says .* = \(2, 3, 12\); .* need \(1, 3, 12\)")
    with_number(parts[1], "no", 1)
    parts[0].rename(tmp_path / "kept")
    parts[1].rename(parts[0])
    (tmp_path / "kept").rename(parts[1])
    refused(parts[0], r"x-00001-of-00003.gguf says .* = \(1, 3, 12\); .* need \(0, 3, 12\)")


def test_a_link_to_another_part_is_refused(parts):
    parts[2].unlink()
    parts[2].symlink_to(parts[1].name)
    refused(parts[0], r"x-00003-of-00003.gguf says .* = \(1, 3, 12\); .* need \(2, 3, 12\)")


def test_a_tensor_in_two_parts_is_refused(parts):
    content, name, other = parts[1].read_bytes(), "blk.0.ffn_up.weight", "blk.0.attn_q.weight"
    assert content.count(text(name)) == 1
    parts[1].write_bytes(content.replace(text(name), text(other)))
    refused(parts[0], f"x-00002-of-00003.gguf lists {other}, and so does x-00001-of-00003.gguf")


def test_parts_of_another_shape_are_refused(tmp_path, parts):
    (tmp_path / "other").mkdir()
    wide = tiny_config(n_layers=1, hidden_dim=256)
    theirs(tmp_path / "other" / "x.gguf", wide, matrices(wide, "F32"), split_max_tensors=5)
    os.replace(tmp_path / "other" / PARTS[1], parts[1])
    refused(parts[0], r"feed_forward.w.\.weight is \(.*256.*\) in the GGUF file; its fields need")


def test_steps_that_only_the_first_part_names_are_refused(tmp_path):
    # The package writes such parts in steps of 64 and says so in the first alone.
    theirs(tmp_path / "x.gguf", CONFIG, matrices(CONFIG, "F32"), split_max_tensors=5,
           custom_alignment=64)
    refused(tmp_path / PARTS[0], "x-00002-of-00003.gguf has general.alignment 32; .* part, 64, is")


def test_a_part_that_is_cut_is_named(parts):
    content = parts[1].read_bytes()
    for at in (10, 100, len(content) // 2):
        parts[1].write_bytes(content[:at])
        refused(parts[0], re.escape(str(parts[1])))
