"""Conversion: every direction exact, one tensor at a time, and never half a model."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from folders import save_folder
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

from llama_edu import checkpoint
from llama_edu.formats import convert, huggingface
from llama_edu.formats.convert import DTYPES
from llama_edu.formats.gguf import weights as gguf

SHAPES = {
    "MHA": dict(n_heads=8, n_kv_heads=8),
    "GQA": dict(n_heads=8, n_kv_heads=2),
    "MQA, tied": dict(n_heads=8, n_kv_heads=1, tied_embeddings=True),
}
FIRST = [("hf", 3), ("meta", 1), ("meta", 2), ("meta", 8), ("gguf", 1)]     # files
SECOND = [("hf", 1), ("meta", 4), ("gguf", 1)]


@pytest.fixture(scope="module", params=SHAPES)
def published(request, tmp_path_factory):
    """A folder that transformers wrote, in bfloat16."""
    folder = tmp_path_factory.mktemp("published")
    save_folder(folder, vocab_size=328, dtype=torch.bfloat16, **SHAPES[request.param])
    return folder


def assert_same_model(one, other):
    a, b = checkpoint.open_source(one), checkpoint.open_source(other)
    assert a.config == b.config
    assert a.stop_ids == b.stop_ids
    assert a.tensors.keys() == b.tensors.keys()
    for name, stored in a.tensors.items():
        w, reference = stored.read(), b.tensors[name].read()
        assert w.dtype == reference.dtype or (w.ndim == 1 and w.dtype == torch.float32)   # in GGUF
        assert torch.equal(w.to(reference.dtype), reference), name


@pytest.mark.parametrize("second", SECOND, ids=str)
@pytest.mark.parametrize("first", FIRST, ids=str)
def test_there_and_back_is_exact_in_every_direction(published, tmp_path, first, second):
    place = published
    for i, (format, shards) in enumerate((first, second, ("hf", 1))):
        target = tmp_path / (f"{i}.gguf" if format == "gguf" else f"{i}")
        convert.convert(place, target, format=format, shards=shards)
        assert_same_model(target, published)
        place = target
    words, before = (checkpoint.load(p)[1] for p in (place, published))
    text = "The llama counted 12 sheep, déjà."
    assert words.encode(text, bos=True, eos=True) == before.encode(text, bos=True, eos=True)
    logits = [LlamaForCausalLM.from_pretrained(p, dtype=torch.float32)(
        torch.arange(40)[None]).logits for p in (place, published)]
    assert torch.equal(*logits)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("format", convert.FORMATS)
def test_another_dtype_is_what_rounding_gives(published, tmp_path, format, dtype):
    convert.convert(published, tmp_path / "to.gguf", format=format, dtype=dtype)
    given, made = (checkpoint.open_source(p).tensors for p in (published, tmp_path / "to.gguf"))
    for name, stored in made.items():
        if stored.dtype != DTYPES[dtype]:
            assert (format, stored.dtype) == ("gguf", torch.float32)    # norms keep their digits
        assert torch.equal(stored.read(), given[name].read().to(DTYPES[dtype]).to(stored.dtype))


def test_eight_bits_are_off_by_half_a_step_at_most(published, tmp_path):
    convert.convert(published, tmp_path / "q.gguf", format="gguf", dtype="q8_0")
    given, made = (checkpoint.open_source(p).tensors for p in (published, tmp_path / "q.gguf"))
    for name, stored in made.items():
        w = given[name].read().float()
        off = (stored.read() - w).abs()
        if w.ndim == 2:     # a block of 32 has 127 steps to its largest; its scale is a float16
            blocks = w.unflatten(-1, (-1, 32)).abs().amax(-1, keepdim=True).expand(*w.shape[:-1],
                                                                                   -1, 32)
            assert (off <= blocks.flatten(-2) * (0.5 / 127 + 2**-10) + 1e-9).all(), name
        else:
            assert not off.any()


@pytest.mark.parametrize("dtype", ["Q4_K_M", "q4_k_m"])
def test_a_file_of_few_bits_is_called_as_llama_cpp_calls_it(published, tmp_path, dtype):
    convert.convert(published, tmp_path / "q.gguf", format="gguf", dtype=dtype)
    given, made = (checkpoint.open_source(p) for p in (published, tmp_path / "q.gguf"))
    gguf.write(tmp_path / "again.gguf", given, kind="Q4_K_M")
    assert (tmp_path / "q.gguf").read_bytes() == (tmp_path / "again.gguf").read_bytes()
    for name, stored in made.tensors.items():
        w = given.tensors[name].read().float()
        # A step is a fifteenth of a block at least, and blocks of a random matrix are much alike.
        assert (stored.read() - w).abs().max() <= w.abs().max() * (w.ndim == 2) / 15, name


def test_each_tensor_is_told_once(published, tmp_path):
    told, source = [], checkpoint.open_source(published)
    convert.convert(published, tmp_path / "to", format="meta", shards=2,
                    after_each=lambda: told.append(1))
    assert len(told) == len(source.tensors)


# -- what cannot be done -----------------------------------------------------------------------

@pytest.mark.parametrize(("options", "message"), [
    (dict(format="onnx"), "format 'onnx' was asked for; there are hf, meta, gguf"),
    (dict(format="gguf", shards=2), "2 shards of GGUF were asked for; it is one file"),
    (dict(format="hf", dtype="q8_0"), "dtype 'q8_0' was asked for; hf has float32, bfloat16"),
    (dict(format="meta", dtype="Q4_K_M"), "dtype 'q4_k_m' was asked for; meta has float32, bfl"),
    (dict(format="gguf", dtype="Q4_K"), "dtype 'q4_k' was asked for; gguf has .*, q4_k_m, q4_1"),
    (dict(format="hf", shards=1000), "1000 files were asked for; the model has"),
    (dict(format="meta", shards=3), "cannot be shared out to 3 shards"),
])
def test_a_wish_that_cannot_be_met_is_one_sentence_and_leaves_nothing(published, tmp_path, options,
                                                                      message):
    with pytest.raises(ValueError, match=message):
        convert.convert(published, tmp_path / "to", **options)
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_never_overwritten(published, tmp_path):
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / "precious").write_text("x")
    with pytest.raises(ValueError, match="exists already; a new name is needed, and nothing was"):
        convert.convert(published, tmp_path / "to", format="hf")
    assert [p.name for p in (tmp_path / "to").iterdir()] == ["precious"]


def test_a_disk_that_is_too_small_is_noticed_before_writing(published, tmp_path, monkeypatch):
    usage = type("usage", (), {"free": 1000})
    monkeypatch.setattr(convert.shutil, "disk_usage", lambda folder: usage)
    for format in convert.FORMATS:
        with pytest.raises(ValueError, match=r"needs 0 MiB; .* has 0 MiB free"):
            convert.convert(published, tmp_path / "new" / "to", format=format)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("format", convert.FORMATS)
def test_a_file_that_breaks_in_the_middle_leaves_nothing(published, tmp_path, monkeypatch, format):
    read, left = huggingface.safetensors_file.Entry.read, [5]

    def breaking(self):
        left[0] -= 1
        if left[0] < 0:
            raise ValueError("it ends too early")
        return read(self)

    monkeypatch.setattr(huggingface.safetensors_file.Entry, "read", breaking)
    with pytest.raises(ValueError, match="too early"):
        convert.convert(published, tmp_path / "to.gguf", format=format)
    assert list(tmp_path.iterdir()) == []


KILLED = """
import os, signal, sys
from llama_edu.formats import convert
done = []
def after_each():
    done.append(1)
    if len(done) == 6:
        os.kill(os.getpid(), signal.SIGKILL)
convert.convert(sys.argv[1], sys.argv[2], format=sys.argv[3], after_each=after_each)
"""


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is POSIX's")
@pytest.mark.parametrize("format", convert.FORMATS)
def test_a_kill_leaves_no_half_model_and_the_next_run_makes_it_whole(published, tmp_path, format):
    target = tmp_path / "to.gguf"
    dead = subprocess.run([sys.executable, "-c", KILLED, published, target, format])
    assert dead.returncode == -signal.SIGKILL
    assert not target.exists()
    convert.convert(published, target, format=format)
    assert_same_model(target, published)
    assert list(tmp_path.iterdir()) == [target]


# -- memory ------------------------------------------------------------------------------------

PEAK = """
import json, resource, sys
from pathlib import Path
import torch
from llama_edu import checkpoint
from llama_edu.formats import convert
folder = Path(sys.argv[1])
torch.set_num_threads(1)
convert.convert(checkpoint.TALES, folder / "warm", format=sys.argv[3])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
convert.convert(sys.argv[2], folder / "to", format=sys.argv[3], shards=int(sys.argv[4]))
print(json.dumps((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024))
"""
LARGEST, WHOLE = 3072 * 1024 * 4, 12 * 13 * 1024**2 * 4     # bytes of a matrix, and of all layers


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """0.6 GiB in float32, no tensor of it larger than 13 MB."""
    folder = tmp_path_factory.mktemp("large")
    save_folder(folder, dim=1024, n_heads=8, n_kv_heads=8, hidden_dim=3072, n_layers=12,
                vocab_size=328)
    return folder


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux")
@pytest.mark.parametrize(("format", "shards"), [("hf", 2), ("meta", 4), ("gguf", 1)])
def test_memory_holds_a_few_tensors_and_never_the_model(large, tmp_path, format, shards):
    said = subprocess.run([sys.executable, "-c", PEAK, tmp_path, large, format, str(shards)],
                          check=True, capture_output=True, text=True).stdout
    # Twice the largest tensor, and the buffers of the writers; a copy of the model is 400 MB.
    assert json.loads(said) < 2 * LARGEST + 100e6 < WHOLE / 2


def test_the_target_may_lie_in_folders_that_are_not_there_yet(published, tmp_path):
    for format in convert.FORMATS:
        target = Path(tmp_path, "some", "where", format)
        convert.convert(published, target, format=format)
        assert target.exists()


# -- what conversion alone can spoil ---------------------------------------------------------------

@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a").mkdir()
    save_folder(tmp_path / "a", vocab_size=328, dim=64, n_layers=1, hidden_dim=96)
    return tmp_path / "a"


def changed(folder, change):
    tensors = load_file(folder / "model.safetensors")
    save_file(change(tensors), folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("format", convert.FORMATS)
def test_a_matrix_that_overflows_in_float16_is_refused_in_every_format(folder, tmp_path, format):
    def large(tensors):
        tensors["model.layers.0.mlp.up_proj.weight"][0, 0] = 1e6
        return tensors
    changed(folder, large)
    with pytest.raises(ValueError, match="w3.weight holds|up_proj.weight holds|between -6.55e"):
        convert.convert(folder, tmp_path / "out", format=format, dtype="float16")
    assert not (tmp_path / "out").exists()


def test_float64_becomes_float32_when_no_dtype_is_named(folder, tmp_path):
    changed(folder, lambda tensors: {name: w.double() for name, w in tensors.items()})
    convert.convert(folder, tmp_path / "out", format="hf")
    held = load_file(tmp_path / "out" / "model.safetensors")
    assert {w.dtype for w in held.values()} == {torch.float32}


def test_a_gguf_file_is_known_by_its_first_bytes(folder, tmp_path):
    convert.convert(folder, tmp_path / "no_ending", format="gguf")
    assert checkpoint.open_source(tmp_path / "no_ending").config.dim == 64


def test_a_shard_that_vanishes_is_blamed_itself(folder, tmp_path):
    convert.convert(folder, tmp_path / "meta", format="meta")
    source = checkpoint.open_source(tmp_path / "meta")
    (tmp_path / "meta" / "consolidated.00.pth").unlink()
    with pytest.raises(ValueError, match="consolidated.00.pth cannot be read any more"):
        source.tensors["norm.weight"].read()
