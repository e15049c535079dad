"""Broken and malicious .pth files: one clear error, and nothing is run."""

import os
import pickle
import shutil
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from meta_folders import (
    FIRST,
    change,
    eight_heads,
    read_all,
    refused,
    write_sound,
    written,
)
from models import loud_model
from oracles import with_output

from llama_edu.formats import meta


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    return write_sound(tmp_path_factory.mktemp("sound"))


@pytest.fixture
def folder(sound, tmp_path) -> Path:
    """A copy to spoil."""
    return shutil.copytree(sound, tmp_path / "folder")


# -- pickles that are not a table of tensors ---------------------------------------------------


class Calls:
    """Pickled as a call of any function."""

    def __init__(self, function, *args):
        self.call = (function, args)

    def __reduce__(self):
        return self.call


def pickled(file: Path, value: object) -> None:
    """A zip like torch's whose pickle is this one."""
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("consolidated/data.pkl", pickle.dumps(value, protocol=2))
        archive.writestr("consolidated/version", "3\n")


@pytest.mark.parametrize("hidden", [False, True], ids=["alone", "beside tensors"])
def test_a_pickle_that_would_run_code_runs_nothing(folder, tmp_path, hidden):
    trace = tmp_path / "it ran"
    evil = Calls(os.system, f"touch '{trace}'")
    torch.save({"norm.weight": torch.ones(16), "evil": evil} if hidden else evil, folder / FIRST)
    refused(folder, r"asks for (posix|nt)\.system; a table of plain tensors needs no such thing")
    assert not trace.exists()
    torch.load(folder / FIRST, weights_only=False)      # the trap is a real one
    assert trace.exists()


@pytest.mark.parametrize("code", [
    b"cos\nsystem\n(S'touch TRACE'\ntR.",           # the old spelling, protocol 0
    b"(S'touch TRACE'\nios\nsystem\n.",             # INST
    b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x0btouch TRACE\x85R.",       # STACK_GLOBAL
], ids=["global", "inst", "stack"])
def test_no_other_spelling_of_a_call_runs_either(folder, tmp_path, monkeypatch, code):
    monkeypatch.chdir(tmp_path)
    with zipfile.ZipFile(folder / FIRST, "w") as archive:
        archive.writestr("consolidated/data.pkl", code)
    refused(folder, FIRST)
    assert not (tmp_path / "TRACE").exists()
    pickle.loads(code)
    assert (tmp_path / "TRACE").exists()


def test_a_short_file_cannot_ask_for_a_terabyte(folder):
    """torch's weights_only lets these calls through; they were not to be made."""
    for greedy in (Calls(bytearray, 10**12), Calls(torch.Size, [10**12])):
        pickled(folder / FIRST, {"norm.weight": greedy})
        refused(folder, r"asks for (builtins|__builtin__|torch)\.\w+; a table of plain tensors")


def test_a_pickle_of_pairs_of_pairs_is_not_spelled_out(folder):
    pairs = b"".join(b"q" + bytes([i]) + b"h" + bytes([i]) + b"\x86" for i in range(60))
    for end in (b")R.", b"Q.", b"."):       # called, loaded, returned: each could print it
        with zipfile.ZipFile(folder / FIRST, "w") as archive:
            archive.writestr("consolidated/data.pkl", b"\x80\x02)" + pairs + end)
        refused(folder, "its pickle uses its parts again and again")


def test_one_tensor_under_two_names_is_read(folder):
    change(folder / FIRST, lambda table: table.update(
        {"output.weight": table["tok_embeddings.weight"]}))
    read_all(folder)


def test_an_archive_behind_other_bytes_is_refused(folder):
    """Readers of zips disagree about such files: one could be shown to us, another to torch."""
    (folder / FIRST).write_bytes(b"PK\x03\x04" * 8 + (folder / FIRST).read_bytes())
    refused(folder, "its directory is not where it says")


@pytest.mark.parametrize(("value", "complaint"), [
    ([torch.ones(3)], "holds a list; a table of names and tensors is needed"),
    (torch.ones(3), "holds a Tensor; a table of names"),
    (7, "holds a int; a table of names"),
    ({"model": {"norm.weight": torch.ones(3)}}, "holds a dict as 'model'; a tensor with a name"),
    ({"norm.weight": 3.0}, "holds a float as 'norm.weight'; a tensor"),
    ({7: torch.ones(3)}, "holds a Tensor as 7; a tensor with a name"),
    ({"norm.weight": torch.ones(3, 3).to_sparse()}, "asks for torch"),
    ({"norm.weight": Calls(torch._utils._rebuild_qtensor)}, "asks for torch._utils._reb"),
    ({"norm.weight": torch.ones(3, dtype=torch.float64)}, r"asks for torch\.DoubleStorage"),
    ({"norm.weight": torch.ones(3, dtype=torch.int8)}, r"asks for torch\.CharStorage"),
    ({"norm.weight": torch.nn.Buffer(torch.ones(3))}, "asks for torch"),
    ({"norm.weight": torch.ones(4, 6).T}, r"strides \(1, 6\)"),
    ({"norm.weight": torch.tensor(1.0)}, r"shape \(\) and strides"),
    ({"norm.weight": torch.ones(1).expand(2**40)}, r"shape \(1099511627776,\) and strides \(0,\)"),
    ({"norm.weight": torch.empty(2**40, device="meta")}, "asks for torch"),
], ids=["list", "tensor", "number", "nested", "a number", "a number's name", "sparse", "quantised",
        "float64", "int8", "buffer", "transposed", "scalar", "expanded", "meta"])
def test_what_is_no_table_of_plain_tensors_is_refused(folder, value, complaint):
    torch.save(value, folder / FIRST)
    refused(folder, complaint)


def test_parameters_and_ordered_tables_are_fine(folder):
    change(folder / FIRST, lambda t: OrderedDict((n, torch.nn.Parameter(w)) for n, w in t.items()))
    before = meta.open_folder(folder).tensors["norm.weight"].read()
    assert type(before) is torch.Tensor
    assert not before.requires_grad


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_what_a_model_saves_by_itself_is_read(tmp_path, tied):
    config = eight_heads(tied_embeddings=tied)
    written(tmp_path, config, n_shards=1)
    model = loud_model(config, seed=5)
    torch.save(with_output(model), tmp_path / FIRST)     # its storage once, its name twice
    read = meta.open_folder(tmp_path)
    assert all(torch.equal(stored.read(), with_output(model)[name])
               for name, stored in read.tensors.items())


# -- files that lie or are broken --------------------------------------------------------------


def test_a_file_cut_short_is_refused(folder):
    content = (folder / FIRST).read_bytes()
    for length in (0, 1, 100, len(content) // 2, len(content) - 1):
        (folder / FIRST).write_bytes(content[:length])
        refused(folder, "is not a file of torch.save since 1.6, a zip")


@pytest.mark.parametrize("content", [b"<html>no</html>", pickle.dumps({"a": 1})],
                         ids=["html", "pickle"])
def test_another_kind_of_file_is_refused(folder, content):
    (folder / FIRST).write_bytes(content)
    refused(folder, "is not a file of torch.save since 1.6, a zip")


def test_the_format_before_1_6_is_refused_with_a_hint(folder):
    torch.save({"norm.weight": torch.ones(3)}, folder / FIRST,
               _use_new_zipfile_serialization=False)
    refused(folder, "is not a file of torch.save since 1.6, a zip")


def test_a_compressed_zip_is_refused_before_it_is_unpacked(folder):
    with zipfile.ZipFile(folder / FIRST) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(folder / FIRST, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in records.items():
            archive.writestr(name, content)
    refused(folder, "its records are compressed, or longer than the file")


def test_a_zip_of_something_else_is_refused(folder):
    with zipfile.ZipFile(folder / FIRST, "w") as archive:
        archive.writestr("hello.txt", "hello")
    refused(folder, "is not a file of torch.save since 1.6, a zip")


def rewritten(file: Path, old: bytes, new: bytes) -> None:
    """Change bytes of the pickle in place."""
    assert len(old) == len(new)
    content = file.read_bytes()
    assert content.count(old) >= 1
    file.write_bytes(content.replace(old, new, 1))


def test_a_storage_that_claims_more_than_the_file_holds_is_refused(folder):
    with zipfile.ZipFile(folder / FIRST) as archive:
        (words,) = (archive.read(n) for n in archive.namelist() if n.endswith("data.pkl"))
    at = words.index(b"X\x03\x00\x00\x00cpu")
    number = at + 10                    # behind the device's name and its memo
    assert words[number:number + 1] == b"K", "one byte says how many numbers the storage has"
    rewritten(folder / FIRST, words[at:number + 2], words[at:number + 1] + b"\xff")
    refused(folder, r"claims 384 of 1020 bytes; the file has 384 there")


@pytest.mark.parametrize(("begin", "shape"), [(0, (10**6,)), (8, (16,)), (10**6, (1,))])
def test_a_tensor_that_reaches_beyond_its_storage_is_refused(folder, begin, shape):
    liar = Calls(torch._utils._rebuild_tensor_v2, torch.ones(16)._typed_storage(), begin, shape,
                 (1,), False, OrderedDict())
    torch.save({"norm.weight": liar}, folder / FIRST)
    refused(folder, r"norm\.weight in .* claims \d+ of \d+ bytes|cannot be read")


def test_tensors_that_share_their_bytes_are_refused(folder):
    def share(table):
        one = torch.zeros(12, 16)
        table["layers.0.attention.wq.weight"] = one[:8]
        table["layers.0.attention_norm.weight"] = one[8]
    change(folder / FIRST, share)
    refused(folder, "share their bytes")


def test_bytes_in_the_order_of_another_machine_are_refused(folder):
    with zipfile.ZipFile(folder / FIRST) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(folder / FIRST, "w") as archive:
        for name, content in records.items():
            archive.writestr(name, b"big" if name.endswith("byteorder") else content)
    refused(folder, "has its bytes in the order b'big'; this machine's is little")


def test_a_file_that_torch_saved_without_checksums_is_read(folder):
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        change(folder / FIRST, lambda table: None)
    finally:
        torch.serialization.set_crc32_options(before)
    read_all(folder)
