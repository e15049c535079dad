"""Hugging Face folders as sources: opened without reading, written tensor by tensor."""

import json
from dataclasses import replace

import pytest
import sentencepiece
import torch
from folders import bytes_tokenizer, change_json, save_folder, save_tokenizer
from models import (
    STRETCH_8,
    STRETCH_32,
    assert_same,
    distance,
    loud_model,
    some_tokens,
    tiny_config,
)
from oracles import huggingface_logits
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoTokenizer, LlamaForCausalLM

from llama_edu import checkpoint, tokenizer
from llama_edu.config import tensor_shapes
from llama_edu.formats import generation_config, huggingface, safetensors_file
from llama_edu.formats.source import Source, Stored

INDEX = "model.safetensors.index.json"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("several")
    save_folder(path, max_shard_size="100KB")
    return path


def source_of(model, tokenizer=None, stop_ids=()):
    tensors = {name: Stored(tuple(w.shape), w.dtype, lambda w=w: w)
               for name, w in model.state_dict().items()}
    return Source(model.config, tensors, tokenizer, stop_ids)


# -- opened ------------------------------------------------------------------------------------


def test_a_folder_is_opened_without_reading_a_tensor(folder, monkeypatch):
    monkeypatch.setattr(safetensors_file.Entry, "read", None)
    source = huggingface.open_folder(folder)
    assert (source.config.dim, source.config.n_kv_heads, source.config.hidden_dim) == (64, 2, 192)
    assert {n: s.shape for n, s in source.tensors.items()} == dict(tensor_shapes(source.config))
    assert {s.dtype for s in source.tensors.values()} == {torch.float32}
    assert (source.tokenizer, source.stop_ids) == (folder, (2,))


def test_every_tensor_is_read_as_the_library_reads_it(folder):
    stored = {n: w for file in folder.glob("*.safetensors") for n, w in load_file(file).items()}
    tensors = huggingface.open_folder(folder).tensors
    assert torch.equal(tensors["layers.1.feed_forward.w2.weight"].read(),
                       stored["model.layers.1.mlp.down_proj.weight"])
    rows = stored["model.layers.1.self_attn.k_proj.weight"]     # two heads of 16
    order = [head * 16 + half * 8 + i for head in range(2) for i in range(8) for half in range(2)]
    assert torch.equal(tensors["layers.1.attention.wk.weight"].read(), rows[order])


def test_a_tensor_that_was_read_is_no_window_into_the_file(folder, tmp_path):
    source, file = folder / "model-00001-of-00006.safetensors", tmp_path / "copy.safetensors"
    file.write_bytes(source.read_bytes())
    entry = next(iter(safetensors_file.read_header(file).values()))
    w = entry.read()
    before = w.clone()
    file.write_bytes(b"\xff" * file.stat().st_size)
    assert torch.equal(w, before)
    file.write_bytes(b"")
    with pytest.raises(ValueError, match="cannot be read as safetensors .it ends too early"):
        entry.read()


def test_stop_tokens_are_looked_for_in_two_files(tmp_path):
    assert generation_config.stop_ids(tmp_path) == ()
    for name in ("config.json", "generation_config.json"):
        (tmp_path / name).write_text(json.dumps({}))
    assert generation_config.stop_ids(tmp_path) == ()
    change_json(tmp_path / "config.json", eos_token_id=2)
    assert generation_config.stop_ids(tmp_path) == (2,)
    change_json(tmp_path / "generation_config.json", eos_token_id=[5, 6])
    assert generation_config.stop_ids(tmp_path) == (5, 6)


def test_one_file_is_read_before_an_index_as_transformers_does(tmp_path):
    save_folder(tmp_path, max_shard_size="100KB")
    model = loud_model(huggingface.open_folder(tmp_path).config, seed=5)
    safetensors_file.write(tmp_path / "model.safetensors",
                           huggingface._renamed(source_of(model)), dtype=torch.float32)
    twin = LlamaForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    tokens = some_tokens(model.config)
    ours = checkpoint.load(tmp_path)[0](tokens)
    assert torch.equal(ours, model(tokens))
    assert_same(ours, huggingface_logits(twin, tokens))


# -- written -----------------------------------------------------------------------------------


@pytest.mark.parametrize("n_files", [1, 3])
@pytest.mark.parametrize("changes", [
    {}, {"tied_embeddings": True}, {"rope_scaling": STRETCH_8, "max_seq_len": 16_384},
    {"rope_scaling": STRETCH_32, "max_seq_len": 16_384, "tied_embeddings": True}],
    ids=["plain", "tied", "stretched by 8", "stretched by 32 and tied"])
def test_what_is_written_gives_the_same_logits_in_transformers(tmp_path, n_files, changes):
    model = loud_model(tiny_config(**changes))
    huggingface.write(tmp_path, source_of(model), n_files=n_files, dtype=torch.float32)
    twin = LlamaForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    tokens = some_tokens(model.config)
    with torch.inference_mode():
        assert_same(model(tokens), huggingface_logits(twin, tokens))
    assert len(list(tmp_path.glob("*.safetensors"))) == n_files
    read = huggingface.open_folder(tmp_path)
    assert read.config == model.config
    for name, stored in read.tensors.items():
        assert torch.equal(stored.read(), model.state_dict()[name]), name


def test_the_index_says_where_everything_is(tmp_path):
    model = loud_model(tiny_config())
    huggingface.write(tmp_path, source_of(model), n_files=3, dtype=torch.bfloat16)
    index = json.loads((tmp_path / INDEX).read_text())
    files = sorted(file.name for file in tmp_path.glob("*.safetensors"))
    assert files == [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    held = {file: load_file(tmp_path / file) for file in files}
    assert index["weight_map"] == {name: file for file in files for name in held[file]}
    sizes = [sum(w.nbytes for w in held[file].values()) for file in files]
    assert index["metadata"]["total_size"] == sum(sizes) == 2 * sum(
        w.numel() for w in model.parameters())
    assert max(sizes) < 1.5 * min(sizes)


def test_numbers_begin_where_a_reader_can_map_them(tmp_path):
    huggingface.write(tmp_path, source_of(loud_model(tiny_config())), n_files=1,
                      dtype=torch.bfloat16)
    header = int.from_bytes((tmp_path / "model.safetensors").read_bytes()[:8], "little")
    assert header % 8 == 0
    with safe_open(tmp_path / "model.safetensors", "pt") as stored:
        assert stored.metadata() == {"format": "pt"}
        assert len(stored.keys()) == 21


@pytest.mark.parametrize("n_files", [0, 22, -1])
def test_a_number_of_files_that_cannot_be(tmp_path, n_files):
    with pytest.raises(ValueError, match=f"{n_files} files were asked for; .* Ask for 1 to 21"):
        huggingface.write(tmp_path / "new", source_of(loud_model(tiny_config())),
                          n_files=n_files, dtype=torch.float32)
    assert not (tmp_path / "new").exists()


def test_a_file_for_every_tensor(tmp_path):
    huggingface.write(tmp_path, source_of(loud_model(tiny_config())), n_files=21,
                      dtype=torch.float32)
    held = [load_file(file) for file in sorted(tmp_path.glob("*.safetensors"))]
    assert [len(tensors) for tensors in held] == [1] * 21


def test_files_of_the_model_that_was_there_before_are_taken_away(tmp_path):
    old, new = (loud_model(tiny_config(), seed=seed) for seed in (0, 1))
    for n_files in (3, 2, 1, 2):
        huggingface.write(tmp_path, source_of(old), n_files=3, dtype=torch.float32)
        huggingface.write(tmp_path, source_of(new), n_files=n_files, dtype=torch.float32)
        assert len(list(tmp_path.glob("*.safetensors"))) == n_files
        read = huggingface.open_folder(tmp_path).tensors
        assert torch.equal(read["norm.weight"].read(), new.norm.weight)
    assert {file.name for file in tmp_path.iterdir()} == {
        INDEX, "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
        "config.json", "generation_config.json"}


def test_only_one_tensor_at_a_time_is_alive(tmp_path):
    """What a model of 405 billion parameters needs; counted here, measured elsewhere."""
    model, alive, most = loud_model(tiny_config()), 0, 0

    class Counted(torch.Tensor):
        def __del__(self):
            nonlocal alive
            alive -= 1

    def read(w):
        nonlocal alive, most
        alive += 1
        most = max(most, alive)
        return w.clone().as_subclass(Counted)

    source = source_of(model)
    tensors = {name: replace(s, read=lambda s=s: read(s.read()))
               for name, s in source.tensors.items()}
    huggingface.write(tmp_path, replace(source, tensors=tensors), n_files=2, dtype=torch.float32)
    assert most <= 2                # the last one lives until the next is there


def test_the_tokenizer_and_its_ends_come_along(tmp_path):
    words = save_tokenizer(bytes_tokenizer(), tmp_path / "words")
    (words / "tokenizer.model").write_bytes(b"\x0a")
    model = loud_model(tiny_config(vocab_size=320))
    huggingface.write(tmp_path / "new", source_of(model, words, (2, 7)), n_files=1,
                      dtype=torch.float32)
    assert json.loads((tmp_path / "new" / "generation_config.json").read_text()) == {
        "bos_token_id": 1, "eos_token_id": [2, 7]}
    for name in ("tokenizer.json", "tokenizer_config.json", "tokenizer.model"):
        assert (tmp_path / "new" / name).read_bytes() == (words / name).read_bytes()
    assert checkpoint.load(tmp_path / "new")[1].stop_ids == {2, 7}
    assert AutoTokenizer.from_pretrained(tmp_path / "new").eos_token == "</s>"


def test_a_tokenizer_that_is_one_file_gets_the_name_by_which_it_is_found(tmp_path):
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["once upon a time"] * 9), model_prefix=str(tmp_path / "llama2"),
        vocab_size=300, model_type="bpe", byte_fallback=True, minloglevel=2,
        hard_vocab_limit=False)
    words = tokenizer.load(tmp_path / "llama2.model")
    model = loud_model(tiny_config(vocab_size=words.n_vocab))
    source = source_of(model, tmp_path / "llama2.model")
    huggingface.write(tmp_path / "new", source, n_files=1, dtype=torch.float32)
    assert checkpoint.load(tmp_path / "new")[1].n_vocab == words.n_vocab
    assert json.loads((tmp_path / "new" / "generation_config.json").read_text()) == {
        "bos_token_id": 1, "eos_token_id": 2}


def test_the_distance_of_a_forgotten_order_of_rows_is_seen(tmp_path):
    """The proof by transformers can fail: rows in Meta's own order are not what it expects."""
    model = loud_model(tiny_config())
    huggingface.write(tmp_path, source_of(model), n_files=1, dtype=torch.float32)
    twin = LlamaForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    for i, layer in enumerate(twin.model.layers):
        layer.self_attn.q_proj.weight.data = model.layers[i].attention.wq.weight
    tokens = some_tokens(model.config)
    assert distance(model(tokens), huggingface_logits(twin, tokens)) > 0.01


def test_the_shares_are_as_even_as_their_tensors_allow():
    sizes = {"table": 100, **{str(i): 10 for i in range(20)}}
    assert [len(share) for share in huggingface._shares(sizes, 3)] == [1, 10, 10]
    assert [len(share) for share in huggingface._shares({"a": 9, "b": 1, "c": 1}, 3)] == [1, 1, 1]
