"""Meta's folders: written in any number of shards, read back bit for bit, taken by Meta's code."""

import json
import os
import subprocess
import sys
import zipfile
from itertools import product
from pathlib import Path

import pytest
import torch
import torch.multiprocessing
from folders import bytes_tokenizer, save_tokenizer
from meta_folders import (
    BY_FEATURE,
    BY_TOKEN,
    change,
    eight_heads,
    shard_files,
    source_of,
    written,
)
from meta_ranks import RANKS, one_rank
from models import assert_same, loud_model, some_tokens

from llama_edu.config import RopeScaling
from llama_edu.formats import meta, pth, shards
from llama_edu.formats.convert import convert
from llama_edu.formats.meta_params import PARAMS
from llama_edu.formats.source import Source, Stored

# -- there and back ----------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("n_kv_heads", [8, 2, 1], ids=["mha", "gqa", "mqa"])
@pytest.mark.parametrize("n_shards", [1, 2, 4, 8])
def test_what_was_written_is_read_bit_for_bit(tmp_path, n_shards, n_kv_heads, tied):
    cases = product((BY_TOKEN, BY_FEATURE), (torch.float32, torch.bfloat16, torch.float16))
    for i, (theta, dtype) in enumerate(cases):
        model = loud_model(eight_heads(n_kv_heads=n_kv_heads, tied_embeddings=tied,
                                       rope_theta=theta))
        given = source_of(model, dtype)
        (tmp_path / str(i)).mkdir()
        meta.write(tmp_path / str(i), given, n_shards=n_shards, dtype=dtype)
        read = meta.open_folder(tmp_path / str(i))
        assert (read.config, list(read.tensors)) == (given.config, list(given.tensors))
        for name, stored in read.tensors.items():
            w = stored.read()
            assert (tuple(w.shape), w.dtype) == (stored.shape, stored.dtype)
            assert w.dtype == dtype
            assert torch.equal(w, given.tensors[name].read())
            assert w.untyped_storage().nbytes() == w.nbytes     # its own, no part of a larger one


def test_from_shards_to_other_shards_and_back_is_exact(tmp_path):
    model = written(tmp_path / "8", eight_heads(), n_shards=8, dtype=torch.bfloat16)
    for before, after in (("8", "2"), ("2", "4"), ("4", "1")):
        (tmp_path / after).mkdir()
        meta.write(tmp_path / after, meta.open_folder(tmp_path / before), n_shards=int(after),
                   dtype=torch.bfloat16)
    read = meta.open_folder(tmp_path / "1")
    for name, w in model.state_dict().items():
        assert torch.equal(read.tensors[name].read(), w.bfloat16())


def test_a_shard_is_an_ordinary_file_of_torch_and_an_ordinary_zip(tmp_path):
    written(tmp_path, eight_heads(), n_shards=2)
    for file in shard_files(tmp_path):
        assert zipfile.ZipFile(file).testzip() is None      # every checksum is right
        mapped = torch.load(file, weights_only=True, mmap=True)
        for name, w in torch.load(file, weights_only=True).items():
            assert torch.equal(w, mapped[name])
            assert w.is_contiguous()


@pytest.mark.parametrize(("n_shards", "theta", "tables"), [
    (1, BY_TOKEN, 1), (4, BY_TOKEN, 1), (1, BY_FEATURE, 1), (2, BY_FEATURE, 2)])
def test_a_tied_table_lies_in_a_file_once_where_it_is_cut_once(tmp_path, n_shards, theta, tables):
    """Meta's own 3B of Llama 3.2 has 6,425,585,114 bytes: two for each of 3,212,749,824 weights,
    the table counted once, and some hundred for each tensor's name and place."""
    config = eight_heads(tied_embeddings=True, rope_theta=theta, vocab_size=4096)
    model = written(tmp_path, config, n_shards=n_shards, dtype=torch.bfloat16)
    weights = sum(w.numel() for w in model.state_dict().values())
    table, norms = config.vocab_size * config.dim, (2 * config.n_layers + 1) * config.dim
    for file in shard_files(tmp_path):
        shared = (weights - norms + (tables - 1) * table) // n_shards + norms
        assert 0 < file.stat().st_size - 2 * shared < 500 * shards.count(config.n_layers)
        assert zipfile.ZipFile(file).testzip() is None
        loaded = torch.load(file, weights_only=True)
        first, last = (loaded[name] for name in pth.TABLES)
        assert (first.data_ptr() == last.data_ptr()) == (tables == 1)
        assert first is not last
    read = meta.open_folder(tmp_path)
    assert read.config == config
    for name, w in model.state_dict().items():
        assert torch.equal(read.tensors[name].read(), w.bfloat16())


def test_a_tied_folder_with_two_equal_tables_is_read_too(tmp_path):
    model = written(tmp_path, eight_heads(tied_embeddings=True), n_shards=2)
    before = sum(file.stat().st_size for file in shard_files(tmp_path))
    for file in shard_files(tmp_path):
        change(file, lambda table: None)        # which gives each tensor bytes of its own
    assert sum(file.stat().st_size for file in shard_files(tmp_path)) > before
    read = meta.open_folder(tmp_path)
    assert read.config.tied_embeddings
    table = read.tensors["tok_embeddings.weight"].read()
    assert torch.equal(table, model.tok_embeddings.weight)


def test_one_table_in_the_file_is_not_read_to_be_compared_with_itself(tmp_path, monkeypatch):
    written(tmp_path, eight_heads(tied_embeddings=True), n_shards=2)
    monkeypatch.setattr(pth.Piece, "read_into", lambda *_: pytest.fail("it was read"))
    assert meta.open_folder(tmp_path).config.tied_embeddings


def test_a_tied_model_goes_to_hugging_faces_format_and_back(tmp_path):
    model = written(tmp_path / "0", eight_heads(tied_embeddings=True), n_shards=1)
    convert(tmp_path / "0", tmp_path / "hf", format="hf")
    convert(tmp_path / "hf", tmp_path / "1", format="meta", shards=2)
    read = meta.open_folder(tmp_path / "1")
    assert list(read.tensors) == list(model.state_dict())
    for name, w in model.state_dict().items():
        assert torch.equal(read.tensors[name].read(), w)


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_every_tensor_is_read_once(tmp_path, tied):
    given, reads = source_of(loud_model(eight_heads(tied_embeddings=tied))), []
    watched = {name: Stored(stored.shape, stored.dtype,
                            lambda name=name, stored=stored: reads.append(name) or stored.read())
               for name, stored in given.tensors.items()}
    meta.write(tmp_path, Source(given.config, watched, None, ()), n_shards=2, dtype=torch.float32)
    assert reads == list(given.tensors)


def test_weights_are_converted_as_torch_does(tmp_path):
    model = written(tmp_path, eight_heads(), n_shards=2, dtype=torch.float16)
    w = meta.open_folder(tmp_path).tensors["layers.1.attention.wo.weight"].read()
    assert torch.equal(w, model.layers[1].attention.wo.weight.half())


def test_weights_that_float16_cannot_hold_are_refused(tmp_path):
    model = loud_model(eight_heads())
    model.layers[1].feed_forward.w2.weight[3, 5] = 1e6
    with pytest.raises(ValueError, match=r"layers\.1\.feed_forward\.w2\.weight holds NaN or inf"):
        meta.write(tmp_path, source_of(model), n_shards=2, dtype=torch.float16)


def test_the_tokenizer_and_the_stop_tokens_travel_along(tmp_path):
    words = save_tokenizer(bytes_tokenizer(), tmp_path / "words")
    model = loud_model(eight_heads())
    for name, given in (("folder", words), ("file", words / "tokenizer.json")):
        (tmp_path / name).mkdir()
        meta.write(tmp_path / name, source_of(model, tokenizer=given, stop_ids=(2, 7)),
                   n_shards=1, dtype=torch.float32)
        read = meta.open_folder(tmp_path / name)
        assert (read.tokenizer, read.stop_ids) == (tmp_path / name, (2, 7))
        copy, original = (f / "tokenizer.json" for f in (tmp_path / name, words))
        assert copy.read_bytes() == original.read_bytes()


@pytest.mark.parametrize(("n_shards", "complaint"), [
    (3, "8 query heads cannot be shared out to 3 shards"),
    (0, "8 query heads cannot be shared out to 0 shards"),
    (16, "8 query heads cannot be shared out to 16 shards"),
])
def test_heads_that_cannot_be_shared_out_are_refused(tmp_path, n_shards, complaint):
    with pytest.raises(ValueError, match=complaint):
        written(tmp_path, eight_heads(), n_shards=n_shards)
    assert list(tmp_path.iterdir()) == []


def test_shards_are_those_of_the_published_code_that_merges_and_cuts(tmp_path, meta_transformer):
    from llama_models.checkpoint import reshard_mp

    for n in (1, 2, 4, 8):
        written(tmp_path / str(n), eight_heads(), n_shards=n)
    tables = {n: [torch.load(f, weights_only=True) for f in shard_files(tmp_path / str(n))]
              for n in (1, 2, 4, 8)}
    # One shard cut into two; two into four and into eight, where heads are repeated.
    for few, many, repeats in ((1, 2, 1), (2, 4, 2), (2, 8, 4)):
        for rank in range(many):
            theirs = reshard_mp([tables[few][rank * few // many]], many // few,
                                rank % (many // few), repeat_qk_qv=repeats)
            assert {n: w.shape for n, w in theirs.items()} == {
                n: w.shape for n, w in tables[many][rank].items()}
            assert all(torch.equal(w, tables[many][rank][name]) for name, w in theirs.items())
    merged = reshard_mp(tables[2], 1, 0)
    assert all(torch.equal(w, tables[1][0][name]) for name, w in merged.items())


# -- Meta's own class --------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [
    {}, dict(tied_embeddings=True), dict(hidden_dim=100), dict(n_kv_heads=1),
    dict(rope_scaling=RopeScaling(8.0, 1.0, 4.0, 8192))],
    ids=["gqa", "tied", "narrow", "mqa", "scaled"])
def test_metas_class_loads_one_shard_with_equal_logits(tmp_path, meta_transformer, changes):
    model = written(tmp_path, eight_heads(**changes), n_shards=1)
    params = json.loads((tmp_path / PARAMS).read_text())
    args = meta_transformer.ModelArgs(**params, max_batch_size=2, max_seq_len=64)
    assert set(params) <= set(vars(type(args))) | set(vars(args))   # it drops unknown keys silently
    twin = meta_transformer.Transformer(args).eval()
    twin.load_state_dict(torch.load(tmp_path / "consolidated.00.pth", weights_only=True))
    tokens = some_tokens(model.config)
    with torch.inference_mode():
        assert_same(model(tokens), twin(tokens, 0))


def test_metas_class_runs_on_our_shards_one_process_a_shard(tmp_path):
    cases = {"two": (2, BY_TOKEN), "two by feature": (2, BY_FEATURE),
             "four, heads repeated": (4, BY_TOKEN)}
    models = {}
    for name, (n_shards, theta) in cases.items():
        models[name] = written(tmp_path / name, eight_heads(rope_theta=theta), n_shards=n_shards)
        torch.save(some_tokens(models[name].config), tmp_path / name / "tokens.pt")
    torch.multiprocessing.spawn(one_rank, nprocs=RANKS, args=(
        str(tmp_path), [(name, n, theta == BY_FEATURE) for name, (n, theta) in cases.items()]))
    for name, model in models.items():
        with torch.inference_mode():
            ours = model(some_tokens(model.config))
        for rank in range(RANKS):
            assert_same(ours, torch.load(tmp_path / name / f"logits.{rank}.pt"))


# -- memory ------------------------------------------------------------------------------------

MEASURE = """
import resource, sys, torch
from pathlib import Path
from llama_edu.formats import meta, shards
from llama_edu.formats.source import Source, Stored
torch.set_num_threads(1)
config = meta.ModelConfig(dim=1024, n_layers=3, n_heads=16, n_kv_heads=4, hidden_dim=4096,
                          vocab_size=24576, norm_eps=1e-5, rope_theta=1e4, max_seq_len=8192)
folder = Path(sys.argv[1])
def fill(shape):
    return torch.zeros(shape, dtype=torch.float32).add_(1)
layout = shards.layout(config, 1, embedding="v")
source = Source(config, {n: Stored(p.whole, torch.float32, lambda p=p: fill(p.whole))
                         for n, p in layout.items()}, None, ())
if sys.argv[2] == "read":
    for stored in meta.open_folder(folder).tensors.values():
        stored.read()
elif sys.argv[2] == "write":
    meta.write(folder, source, n_shards=4, dtype=torch.float32)
else:
    (folder / "small").mkdir()
    small = meta.ModelConfig(dim=64, n_layers=3, n_heads=16, n_kv_heads=4, hidden_dim=64,
                             vocab_size=96, norm_eps=1e-5, rope_theta=1e4, max_seq_len=8192)
    meta.write(folder / "small", Source(small, {n: Stored(p.whole, torch.float32,
               lambda p=p: fill(p.whole)) for n, p in
               shards.layout(small, 1, embedding="v").items()}, None, ()),
               n_shards=4, dtype=torch.float32)
    for stored in meta.open_folder(folder / "small").tensors.values():
        stored.read()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def peak(folder: Path, what: str) -> int:
    """Peak memory of a process of its own that writes or reads the folder, in bytes."""
    run = subprocess.run([sys.executable, "-c", MEASURE, str(folder), what], check=True,
                         capture_output=True, text=True)
    return int(run.stdout) * (1 if sys.platform == "darwin" else 1024)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not tell the peak")
def test_writing_and_reading_hold_one_tensor_and_not_the_model(tmp_path):
    """Four shards with the embedding cut by feature: its pieces must be woven."""
    largest = 24576 * 1024 * 4
    nothing = peak(tmp_path, "nothing")     # a model of some KB, through the same code
    writing, reading = peak(tmp_path, "write"), peak(tmp_path, "read")
    files = shard_files(tmp_path)
    assert sum(f.stat().st_size for f in files) > 3 * largest
    # The tensor, one chunk of it on its way to the file, and a sixth of the tensor for chance.
    assert writing - nothing < largest + pth.CHUNK + largest // 6
    # The tensor, and the piece of one shard.
    assert reading - nothing < largest * 1.25 + largest // 6


@pytest.mark.skipif(not os.path.isdir("/dev/fd"), reason="open files are listed in /dev/fd")
def test_nothing_is_kept_open(tmp_path):
    written(tmp_path, eight_heads(), n_shards=2)
    before = len(os.listdir("/dev/fd"))
    read = meta.open_folder(tmp_path)
    tensors = [stored.read() for stored in read.tensors.values()]
    assert len(os.listdir("/dev/fd")) == before
    assert len(tensors) == len(read.tensors)
