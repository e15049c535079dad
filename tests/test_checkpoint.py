"""From a folder to a model, and what is wrong with a folder."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from folders import bytes_tokenizer, change_json, save_folder, text_by_transformers
from models import STRETCH_8, STRETCH_32, assert_same, loud_model, some_tokens, tiny_config
from oracles import huggingface_logits, with_output
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, LlamaForCausalLM

from llama_edu import checkpoint
from llama_edu.config import tensor_shapes
from llama_edu.family import releases
from llama_edu.formats import meta
from llama_edu.formats.convert import convert
from llama_edu.formats.gguf import weights as gguf
from llama_edu.generation import answer
from llama_edu.model import Llama
from llama_edu.sampling import top_k

INDEX = "model.safetensors.index.json"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Two folders, made once: all in one file, and cut into several."""
    folders = {name: tmp_path_factory.mktemp(name) for name in ("one", "several")}
    save_folder(folders["one"])
    save_folder(folders["several"], max_shard_size="100KB")
    return folders


@pytest.fixture
def one(saved, tmp_path):
    """A copy to spoil."""
    return shutil.copytree(saved["one"], tmp_path / "one")


@pytest.fixture
def several(saved, tmp_path):
    return shutil.copytree(saved["several"], tmp_path / "several")


def refused(folder, message):
    with pytest.raises((ValueError, KeyError), match=message) as caught:
        checkpoint.load(folder)
    assert "\n" not in caught.value.args[0]


def change_weights(folder, change):
    """Let `change` edit the table of tensors, as transformers names them."""
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


# -- folders that are right --------------------------------------------------------------------

@pytest.mark.parametrize("name", ["one", "several"])
def test_logits_equal_those_of_transformers_from_the_same_folder(saved, name):
    files = list(saved[name].glob("*.safetensors"))
    assert len(files) == 1 if name == "one" else len(files) > 3
    model, _ = checkpoint.load(saved[name])
    twin = LlamaForCausalLM.from_pretrained(saved[name], dtype=torch.float32).eval()
    tokens = some_tokens(model.config)
    with torch.inference_mode():
        assert_same(model(tokens), huggingface_logits(twin, tokens))
    assert not model.training


@pytest.mark.parametrize("changes", [
    {"tied_embeddings": True}, {"rope_scaling": STRETCH_8, "max_seq_len": 16_384},
    {"rope_scaling": STRETCH_32, "max_seq_len": 16_384, "tied_embeddings": True}],
    ids=["tied", "stretched by 8", "stretched by 32 and tied"])
def test_what_transformers_cut_into_shards_gives_its_logits_here(tmp_path, changes):
    save_folder(tmp_path, max_shard_size="100KB", **changes)
    assert len(list(tmp_path.glob("*.safetensors"))) > 3
    model, _ = checkpoint.load(tmp_path)
    twin = LlamaForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    tokens = some_tokens(model.config)
    with torch.inference_mode():
        assert_same(model(tokens), huggingface_logits(twin, tokens))


@pytest.mark.parametrize("config", [
    tiny_config(), tiny_config(tied_embeddings=True, n_kv_heads=4, n_layers=3),
    releases.release("llama-3.2-1b").config, releases.release("llama-2-70b").config])
def test_the_table_of_shapes_is_that_of_the_model(config):
    with torch.device("meta"):
        built = with_output(Llama(config))
    assert dict(tensor_shapes(config)) == {name: tuple(w.shape) for name, w in built.items()}


def test_a_dtype_that_is_too_narrow_is_named(one):
    change_weights(one, lambda w: w["model.norm.weight"].fill_(1e6))
    checkpoint.load(one)
    with pytest.raises(ValueError, match="norm.weight holds NaN or infinity as torch.float16; .* "
                                         "or load or write it as a wider dtype"):
        checkpoint.load(one, dtype=torch.float16)


def test_weights_come_in_the_dtype_that_was_asked_for(saved):
    model, _ = checkpoint.load(saved["one"], dtype=torch.bfloat16)
    assert {w.dtype for w in model.parameters()} == {torch.bfloat16}


def test_files_in_bfloat16_become_float32_without_loss(tmp_path):
    save_folder(tmp_path, dtype=torch.bfloat16)
    stored = load_file(tmp_path / "model.safetensors")["model.norm.weight"]
    assert stored.dtype == torch.bfloat16
    model, _ = checkpoint.load(tmp_path)
    assert torch.equal(model.norm.weight, stored.float())
    assert {w.dtype for w in model.parameters()} == {torch.float32}


def test_a_tied_model_shares_its_table_after_loading(tmp_path):
    config = save_folder(tmp_path, tied_embeddings=True)
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    model, _ = checkpoint.load(tmp_path)
    assert config.tied_embeddings
    assert model.config == config
    assert model.output is None


def test_a_tied_model_may_store_its_table_twice(tmp_path):
    save_folder(tmp_path, tied_embeddings=True)
    change_weights(tmp_path, lambda w: w.update(
        {"lm_head.weight": w["model.embed_tokens.weight"].clone()}))
    model, _ = checkpoint.load(tmp_path)
    assert model.output is None


def test_old_tables_of_frequencies_are_skipped(one):
    change_weights(one, lambda w: w.update(
        {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": torch.ones(8) for i in range(2)}))
    checkpoint.load(one)


def test_a_model_on_the_meta_device_holds_nothing_before_it_is_filled():
    source = loud_model(tiny_config())
    with torch.device("meta"):
        empty = type(source)(source.config)
    checkpoint.fill(empty, source.state_dict().items(), device="cpu", dtype=torch.float32)
    tokens = some_tokens(source.config)
    assert torch.equal(empty(tokens), source(tokens))


def test_a_stop_token_in_generation_config_ends_the_answer(one):
    model, words = checkpoint.load(one)
    first = text_by_transformers(one, "The llama", max_new=8)
    change_json(one / "generation_config.json", eos_token_id=[2, 7])
    assert checkpoint.load(one)[1].stop_ids == {2, 7}
    whole = "".join(answer(model, words, "The llama", top_k(1), max_new=8))
    assert "The llama" + whole == first


def assert_loads_as(place, one):
    """The same weights, context, tokens and ends as in the folder that transformers saved."""
    (model, words), (twin, theirs) = checkpoint.load(place), checkpoint.load(one)
    assert model.config == twin.config
    for name, w in twin.state_dict().items():
        assert torch.equal(model.state_dict()[name], w), name
    assert words.encode("The llama", bos=True, eos=True) == theirs.encode(
        "The llama", bos=True, eos=True)
    assert words.stop_ids == theirs.stop_ids


def test_a_folder_as_meta_publishes_it_is_recognised(one, tmp_path):
    (tmp_path / "meta").mkdir()
    meta.write(tmp_path / "meta", checkpoint.open_source(one), n_shards=1, dtype=torch.float32)
    assert_loads_as(tmp_path / "meta", one)
    shutil.copy(one / "config.json", tmp_path / "meta")      # some publish it beside params.json
    assert_loads_as(tmp_path / "meta", one)


def test_a_gguf_file_and_a_folder_that_has_one_are_recognised(one, tmp_path):
    (tmp_path / "folder").mkdir()
    gguf.write(tmp_path / "folder" / "llama.gguf", checkpoint.open_source(one), kind="F32")
    assert_loads_as(tmp_path / "folder" / "llama.gguf", one)
    assert_loads_as(tmp_path / "folder", one)


def test_safetensors_are_taken_where_several_formats_lie(one):
    for name in ("params.json", "consolidated.00.pth", "llama.gguf"):
        (one / name).write_bytes(b"not read")
    checkpoint.load(one)


# -- folders that are wrong --------------------------------------------------------------------

def test_no_folder(tmp_path):
    refused(tmp_path / "nowhere", "there is no folder or file '.*nowhere', .* Check the path")
    refused(tmp_path, "holds 0 .gguf files and no other model; .* is needed. Check the path")
    (tmp_path / "file").write_text("")
    refused(tmp_path / "file", "is one file of another kind; .* Give the folder that it lies in")


@pytest.mark.parametrize(("text", "message"), [
    ("{", r"config.json is not JSON \(.*\). Download it again"),
    ("", "config.json is not JSON"),
    ("[1, 2]", "config.json holds a list; a JSON object is needed"),
    ("{}", "config.json has no field 'num_attention_heads'"),
])
def test_a_broken_config(one, text, message):
    (one / "config.json").write_text(text)
    refused(one, message)


def test_a_config_that_is_not_text(one):
    (one / "config.json").write_bytes(b"\xff\xfe\x00")
    refused(one, "config.json is not JSON")


def test_a_config_that_is_a_folder_or_missing(one):
    (one / "config.json").unlink()
    refused(one, "there is no config.json in .*; a folder saved by transformers is needed")
    (one / "config.json").mkdir()
    refused(one, "config.json cannot be opened .*; a file that you may read is needed")


def test_no_weights(one):
    (one / "model.safetensors").unlink()
    refused(one, "has neither model.safetensors nor model.safetensors.index.json")


def test_a_missing_tensor(one):
    change_weights(one, lambda w: w.pop("model.layers.1.mlp.up_proj.weight"))
    refused(one, "the files hold 20 tensors, and layers.1.feed_forward.w3.weight is not one of "
                 "them; a model of 2 layers needs it. A file is missing")


def test_an_output_missing_from_a_model_that_is_not_tied(one):
    change_weights(one, lambda w: w.pop("lm_head.weight"))
    refused(one, "the files hold 20 tensors, and output.weight is not one of them")


@pytest.mark.parametrize("name", ["model.layers.0.self_attn.q_proj.bias", "score.weight"])
def test_an_extra_tensor(one, name):
    change_weights(one, lambda w: w.update({name: torch.ones(3)}))
    refused(one, f"a tensor is called '{name}'; no text Llama has one of that name")


def test_a_layer_too_many(one):
    change_json(one / "config.json", num_hidden_layers=1)
    refused(one, "the files hold layers.1.* which a model of 1 layers does not have")


def test_a_tensor_of_another_shape(one):
    change_weights(one, lambda w: w.update({"model.norm.weight": torch.ones(65)}))
    refused(one, r"norm.weight is \(65,\) in the files; the config needs \(64,\)")


@pytest.mark.parametrize("shape", [(60, 64), (64,), (1, 64, 64), (80, 64)])
def test_a_query_matrix_of_another_shape(one, shape):
    name = "model.layers.0.self_attn.q_proj.weight"
    change_weights(one, lambda w: w.update({name: torch.ones(shape)}))
    refused(one, r"(q_proj|wq).weight is \(.*\) in the files; (the config needs|rows in whole)")


def test_a_tied_config_with_two_different_tables(one):
    change_json(one / "config.json", tie_word_embeddings=True)
    refused(one, "output.weight differs from tok_embeddings.weight.* Set tie_word_embeddings")


@pytest.mark.parametrize("spoil", [
    lambda data: data[:-100], lambda data: data[:4], lambda data: b"", lambda data: b"{}" * 50,
    lambda data: b"<html>not found</html>"])
def test_a_file_that_is_no_safetensors(one, spoil):
    file = one / "model.safetensors"
    file.write_bytes(spoil(file.read_bytes()))
    refused(one, r"model.safetensors cannot be read as safetensors \(.*\). It is cut short")


def test_an_index_that_names_a_missing_file(several):
    gone = sorted(several.glob("*.safetensors"))[1]
    gone.unlink()
    refused(several, f"index.json names {gone.name}, which is not in .*. Download that file again")


@pytest.mark.parametrize("place", ["../model.safetensors", "/etc/passwd", "a/b.safetensors", 3])
def test_an_index_that_points_out_of_the_folder(several, place):
    change_json(several / INDEX, weight_map={"model.norm.weight": place})
    refused(several, "outside the folder; a plain file name is needed. Do not trust this download")


@pytest.mark.parametrize("weight_map", [None, ["model.norm.weight"]])
def test_an_index_without_its_table(several, weight_map):
    change_json(several / INDEX, weight_map=weight_map)
    refused(several, "index.json has no table called weight_map")


def index_of(folder):
    return json.loads((folder / INDEX).read_text())["weight_map"]


def test_an_index_that_names_a_tensor_its_file_does_not_hold(several):
    placed = index_of(several)
    placed["model.norm.weight"] = next(f for f in placed.values()
                                       if f != placed["model.norm.weight"])
    change_json(several / INDEX, weight_map=placed)
    refused(several, "index.json and .* disagree about 1 tensors, first model.norm.weight")


def test_an_index_that_leaves_a_tensor_out(several):
    placed = index_of(several)
    del placed["model.layers.0.input_layernorm.weight"]
    change_json(several / INDEX, weight_map=placed)
    refused(several, "disagree about 1 tensors, first model.layers.0.input_layernorm.weight")


def test_half_a_folder_of_metas(tmp_path):
    (tmp_path / "params.json").write_text("{}")
    refused(tmp_path, "has 0 shards and no consolidated.00.pth")


def test_a_dtype_that_is_no_floating_point(one):
    with pytest.raises(ValueError, match="torch.int8 was asked for; .* Choose torch.bfloat16"):
        checkpoint.load(one, dtype=torch.int8)


def test_an_index_that_names_a_tensor_too_many(several):
    placed = index_of(several)
    placed["model.layers.0.self_attn.rotary_emb.inv_freq"] = placed["model.norm.weight"]
    change_json(several / INDEX, weight_map=placed)
    refused(several, "disagree about 1 tensors, first model.layers.0.self_attn.rotary_emb.inv_freq")


def test_weights_that_are_only_a_pickle(one):
    (one / "model.safetensors").rename(one / "pytorch_model.bin")
    refused(one, r"its weights in pytorch_model.bin, a pickle, .*save_pretrained\('NEW_FOLDER")


def test_a_folder_that_holds_several_models(tmp_path):
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).touch()
    refused(tmp_path, "holds 2 .gguf files and no other model; .* or give the file itself")


def test_no_tokenizer(one):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (one / name).unlink()
    refused(one, "'.*one' has no tokenizer; a tokenizer.json or a tokenizer.model is needed. Put")


def test_a_special_piece_without_a_row_is_known_as_in_transformers(one, tmp_path):
    rows, inner = checkpoint.open_source(one).config.vocab_size, checkpoint.load(one)[1].inner
    inner.add_tokens([f"piece {i}" for i in range(rows - inner.get_vocab_size())])
    inner.add_special_tokens(["<pad>"])
    inner.save(str(one / "tokenizer.json"))
    change_json(one / "tokenizer_config.json", pad_token="<pad>")
    words, theirs = checkpoint.load(one)[1], AutoTokenizer.from_pretrained(one)
    assert words.n_vocab == len(theirs) == rows + 1
    assert words.special["<pad>"] == theirs.pad_token_id == rows
    assert words.encode("The llama") == theirs("The llama", add_special_tokens=False)["input_ids"]
    convert(one, tmp_path / "x.gguf", format="gguf")        # where it has no place
    assert checkpoint.load(tmp_path / "x.gguf")[1].n_vocab == rows


def test_a_tokenizer_larger_than_the_embedding(one):
    words = checkpoint.load(one)[1]
    change_json(one / "config.json", vocab_size=words.n_vocab - 1)

    def cut(w):
        for name in ("model.embed_tokens.weight", "lm_head.weight"):
            w[name] = w[name][:words.n_vocab - 1].clone()
    change_weights(one, cut)
    refused(one, f"knows {words.n_vocab} tokens; the model's embedding has {words.n_vocab - 1} row")


def test_a_tokenizer_far_smaller_than_the_embedding(tmp_path):
    """Rows are added to a table so that it divides well, never so many that it doubles."""
    save_folder(tmp_path, vocab_size=2 * bytes_tokenizer().get_vocab_size() + 1)
    refused(tmp_path, "the model's embedding has 641 rows. They belong to two models")


@pytest.mark.parametrize("token", [-1, 325, 128_009])
def test_a_stop_token_without_a_row(one, token):
    change_json(one / "generation_config.json", eos_token_id=[2, token])
    refused(one, f"token {token} is said to end an answer; the model's embedding has 325 rows")


@pytest.mark.parametrize("ids", ["2", {"a": 2}, [2, "3"], 2.0, True])
def test_stop_tokens_that_are_no_numbers(one, ids):
    change_json(one / "generation_config.json", eos_token_id=ids)
    refused(one, "generation_config.json says eos_token_id = .*; a token's number")


def test_a_name_may_be_a_path():
    assert checkpoint.open_source(Path("tales")).config == checkpoint.open_source("tales").config
