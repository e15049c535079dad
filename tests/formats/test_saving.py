"""From a model to a folder: what is written is read back, by this package and by transformers."""

import json
from dataclasses import replace

import pytest
import torch
from models import STRETCH_8, assert_same, loud_model, some_tokens, tiny_config
from oracles import huggingface_logits
from safetensors.torch import load_file
from transformers import LlamaForCausalLM

from llama_edu import checkpoint
from llama_edu.family import releases
from llama_edu.formats import huggingface, safetensors_file
from llama_edu.formats.huggingface_config import from_huggingface
from llama_edu.tokenizer import BytePairs
from llama_edu.tokenizer.json_made import to_json


@pytest.fixture(scope="module")
def words():
    return to_json(BytePairs.train("once upon a time " * 3, n_vocab=262,
                                   special=("<|begin_of_text|>", "<|end_of_text|>")))


@pytest.mark.parametrize("changes", [
    {}, {"tied_embeddings": True}, {"rope_scaling": STRETCH_8, "max_seq_len": 16_384},
    {"n_kv_heads": 4}], ids=["plain", "tied", "stretched", "every head its own keys"])
def test_a_saved_model_is_the_same_for_us_and_for_transformers(tmp_path, words, changes):
    model = loud_model(tiny_config(vocab_size=270, **changes))
    checkpoint.save(tmp_path, model, words, dtype=torch.float32)
    read, _ = checkpoint.load(tmp_path)
    assert read.config == model.config
    for name, w in model.state_dict().items():
        assert torch.equal(w, read.state_dict()[name]), name
    twin = LlamaForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    tokens = some_tokens(model.config)
    with torch.inference_mode():
        assert_same(model(tokens), huggingface_logits(twin, tokens))


@pytest.mark.parametrize("r", releases.RELEASES, ids=lambda r: r.id)
def test_the_config_of_every_release_comes_back(r):
    written = json.loads(json.dumps(huggingface.config_fields(r.config)))
    assert from_huggingface(written) == r.config


def test_weights_are_rounded_to_the_dtype_asked_for(tmp_path, words):
    model = loud_model(tiny_config(vocab_size=270))
    checkpoint.save(tmp_path, model, words, dtype=torch.bfloat16)
    stored = load_file(tmp_path / "model.safetensors")
    assert torch.equal(stored["lm_head.weight"], model.output.weight.bfloat16())
    assert json.loads((tmp_path / "config.json").read_text())["torch_dtype"] == "bfloat16"


def test_a_shared_table_is_stored_once(tmp_path, words):
    model = loud_model(tiny_config(vocab_size=270, tied_embeddings=True))
    checkpoint.save(tmp_path, model, words, dtype=torch.float32)
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")


def test_saving_over_another_model_replaces_it(tmp_path, words):
    for seed in (0, 1):
        model = loud_model(tiny_config(vocab_size=270, n_layers=2 - seed), seed=seed)
        checkpoint.save(tmp_path, model, words, dtype=torch.float32)
    assert checkpoint.load(tmp_path)[0].config.n_layers == 1


def test_a_folder_that_was_being_replaced_is_no_model_and_not_a_mixture(tmp_path, words,
                                                                        monkeypatch):
    model = loud_model(tiny_config(vocab_size=270))
    checkpoint.save(tmp_path, model, words, dtype=torch.float32)

    def full(file, tensors, *, dtype):
        raise ValueError("the disk is full")

    monkeypatch.setattr(safetensors_file, "write", full)
    with pytest.raises(ValueError, match="the disk is full"):
        checkpoint.save(tmp_path, loud_model(model.config, seed=1), words, dtype=torch.float32)
    with pytest.raises(ValueError, match="there is no config.json in"):
        checkpoint.load(tmp_path)


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(tmp_path, words):
    model = loud_model(tiny_config(vocab_size=200))
    with pytest.raises(ValueError, match="the tokenizer knows 262 tokens; the model's embedding "
                                         "has 200 rows. Save it with its own tokenizer"):
        checkpoint.save(tmp_path, model, words, dtype=torch.float32)
    assert list(tmp_path.iterdir()) == []


def test_a_place_where_nothing_can_be_written(tmp_path, words):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="file cannot be written .* Choose another"):
        checkpoint.save(tmp_path / "file", loud_model(tiny_config(vocab_size=270)), words,
                        dtype=torch.float32)


def test_the_tokens_that_end_an_answer_are_saved_too(tmp_path, words):
    model = loud_model(tiny_config(vocab_size=270))
    checkpoint.save(tmp_path, model, replace(words, stop_ids=frozenset({261, 7})),
                    dtype=torch.float32)
    assert json.loads((tmp_path / "generation_config.json").read_text()) == {
        "bos_token_id": 260, "eos_token_id": [7, 261]}
    assert checkpoint.load(tmp_path)[1].stop_ids == {7, 261}


def test_a_config_that_no_longer_fits_its_weights_is_seen(tmp_path, words):
    model = loud_model(tiny_config(vocab_size=270))
    checkpoint.save(tmp_path, model, words, dtype=torch.float32)
    other = huggingface.config_fields(replace(model.config, hidden_dim=96))
    (tmp_path / "config.json").write_text(json.dumps(other))
    with pytest.raises(ValueError, match="feed_forward.w[123].weight is .* the config needs"):
        checkpoint.load(tmp_path)
