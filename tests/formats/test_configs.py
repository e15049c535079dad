"""Configs that people have: a config.json is read as transformers reads it, or refused by name."""

import json
from dataclasses import replace

import pytest
import torch
from folders import bytes_tokenizer, save_tokenizer
from gguf_files import source_of
from llama_cpp_judge import Judge, centred
from models import assert_same, cached_logits, loud_model, some_tokens, tiny_config
from oracles import huggingface_logits
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from llama_edu import checkpoint
from llama_edu.config import RopeScaling
from llama_edu.formats import huggingface, meta_params, shards
from llama_edu.formats.convert import convert
from llama_edu.formats.gguf import config as gguf_config
from llama_edu.formats.gguf import weights as gguf
from llama_edu.formats.huggingface_config import from_huggingface

SMOLLM2 = {     # 135M-Instruct
    "architectures": ["LlamaForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
    "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu", "hidden_size": 576,
    "initializer_range": 0.041666666666666664, "intermediate_size": 1536, "is_llama_config": True,
    "max_position_embeddings": 8192, "mlp_bias": False, "model_type": "llama",
    "num_attention_heads": 9, "num_hidden_layers": 30, "num_key_value_heads": 3, "pad_token_id": 2,
    "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_interleaved": False, "rope_scaling": None,
    "rope_theta": 100000, "tie_word_embeddings": True, "torch_dtype": "bfloat16",
    "transformers.js_config": {"kv_cache_dtype": {"q4f16": "float16", "fp16": "float16"}},
    "transformers_version": "4.42.3", "use_cache": True, "vocab_size": 49152}
UNSLOTH = {     # Llama-3.2-1B-Instruct
    "_attn_implementation_autoset": True, "_name_or_path": "meta-llama/Llama-3.2-1B-Instruct",
    "architectures": ["LlamaForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
    "bos_token_id": 128000, "eos_token_id": 128009, "head_dim": 64, "hidden_act": "silu",
    "hidden_size": 2048, "initializer_range": 0.02, "intermediate_size": 8192,
    "max_position_embeddings": 131072, "mlp_bias": False, "model_type": "llama",
    "num_attention_heads": 32, "num_hidden_layers": 16, "num_key_value_heads": 8,
    "pad_token_id": 128004, "pretraining_tp": 1, "quantization_config": None, "rms_norm_eps": 1e-05,
    "rope_scaling": {"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
                     "original_max_position_embeddings": 8192, "rope_type": "llama3"},
    "rope_theta": 500000.0, "tie_word_embeddings": True, "torch_dtype": "bfloat16",
    "transformers_version": "4.47.1", "unsloth_fixed": True, "unsloth_version": "2025.1.5",
    "use_cache": True, "vocab_size": 128256}
HUGGYLLAMA = {  # llama-7b
    "architectures": ["LlamaForCausalLM"], "bos_token_id": 1, "eos_token_id": 2,
    "hidden_act": "silu", "hidden_size": 4096, "initializer_range": 0.02,
    "intermediate_size": 11008, "max_position_embeddings": 2048, "max_sequence_length": 2048,
    "model_type": "llama", "num_attention_heads": 32, "num_hidden_layers": 32, "pad_token_id": 0,
    "rms_norm_eps": 1e-06, "tie_word_embeddings": False, "torch_dtype": "float16",
    "transformers_version": "4.28.0.dev0", "use_cache": True, "vocab_size": 32000}
MINITRON = {    # Llama-3.1-Minitron-4B-Width-Base: 32 heads of 128 features in a stream of 3072
    "architectures": ["LlamaForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
    "bos_token_id": 128000, "eos_token_id": 128001, "head_dim": 128, "hidden_act": "silu",
    "hidden_size": 3072, "initializer_range": 0.02, "intermediate_size": 9216,
    "max_position_embeddings": 131072, "mlp_bias": False, "model_type": "llama",
    "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8,
    "pretraining_tp": 1, "rms_norm_eps": 1e-05,
    "rope_scaling": {"factor": 8.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
                     "original_max_position_embeddings": 8192, "rope_type": "llama3"},
    "rope_theta": 500000.0, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
    "transformers_version": "4.45.0.dev0", "use_cache": True, "vocab_size": 128256}
SMALL = {
    "model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 192, "vocab_size": 96, "rms_norm_eps": 1e-5,
    "max_position_embeddings": 128}
OWN = [{"own_head_dim": 24}, {"own_head_dim": 8}, {"dim": 70, "own_head_dim": 16}]


def by_transformers(fields):
    """The shape as transformers understands it, in the words of our config."""
    theirs = LlamaConfig(**json.loads(json.dumps(fields)))
    rope = theirs.rope_parameters
    return dict(
        dim=theirs.hidden_size, n_layers=theirs.num_hidden_layers,
        n_heads=theirs.num_attention_heads, n_kv_heads=theirs.num_key_value_heads,
        hidden_dim=theirs.intermediate_size, vocab_size=theirs.vocab_size,
        norm_eps=theirs.rms_norm_eps, max_seq_len=theirs.max_position_embeddings,
        tied_embeddings=theirs.tie_word_embeddings, head_dim=theirs.head_dim,
        rope_theta=rope["rope_theta"], rope_scaling=None if rope["rope_type"] == "default" else (
            RopeScaling(rope["factor"], rope["low_freq_factor"], rope["high_freq_factor"],
                        rope["original_max_position_embeddings"])))


def as_we_read_it(fields):
    config = from_huggingface(fields)
    return {name: getattr(config, name) for name in by_transformers(SMALL)}


# -- whole files -----------------------------------------------------------------------------------


@pytest.mark.parametrize("fields", [SMOLLM2, UNSLOTH, HUGGYLLAMA, MINITRON],
                         ids=["SmolLM2", "unsloth", "huggyllama", "Minitron"])
def test_a_config_that_people_have_is_read_as_transformers_reads_it(fields):
    assert as_we_read_it(fields) == by_transformers(fields)


def test_a_stretch_and_a_size_of_heads_arrive():
    assert from_huggingface(UNSLOTH).rope_scaling == RopeScaling(32.0, 1.0, 4.0, 8192)
    assert from_huggingface(MINITRON).own_head_dim == 128
    assert from_huggingface(UNSLOTH).own_head_dim is None


# -- single fields ---------------------------------------------------------------------------------

OLD_DRAWS = {   # what configs of transformers 4 said about the draw of tokens
    "temperature", "top_k", "top_p", "typical_p", "do_sample", "num_beams", "num_beam_groups",
    "max_length", "min_length", "early_stopping", "repetition_penalty", "length_penalty",
    "diversity_penalty", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "bad_words_ids",
    "num_return_sequences", "output_scores", "return_dict_in_generate", "forced_bos_token_id",
    "forced_eos_token_id", "remove_invalid_values", "exponential_decay_length_penalty",
    "suppress_tokens", "begin_suppress_tokens", "max_new_tokens"}


@pytest.mark.parametrize("changes", [
    dict.fromkeys(sorted(OLD_DRAWS), 1),
    {"pruned_heads": {}, "torchscript": False, "use_bfloat16": False},
    {"tie_encoder_decoder": False, "task_specific_params": {}, "cross_attention_hidden_size": None},
    {"unsloth_fixed": True, "unsloth_something_new": [1]}, {"pretraining_tp": 4},
    {"layer_types": ["full_attention"] * 2}, {"sliding_window": None, "use_sliding_window": False},
    {"partial_rotary_factor": 1.0, "rope_interleaved": False}, {"a_field_of_tomorrow": None},
    {"tie_word_embeddings": None, "head_dim": None}, {"is_encoder_decoder": False},
    {"quantization_config": None, "auto_map": None}], ids=lambda changes: next(iter(changes)))
def test_fields_that_change_nothing_are_read_over(changes):
    assert from_huggingface(SMALL | changes) == from_huggingface(SMALL)


def test_transformers_too_takes_the_old_draws_for_no_part_of_the_shape():
    assert set(GenerationConfig().to_dict()) >= OLD_DRAWS


@pytest.mark.parametrize(("changes", "message"), [
    ({"quantization_config": {"bits": 4, "group_size": 128, "quant_method": "gptq"}},
     "quantization_config.quant_method = 'gptq'; the weights are stored in that form, which"),
    ({"quantization": {"group_size": 64, "bits": 4}}, "quantization = {'group_size': 64, 'bits'"),
    ({"compression_config": {"format": "int-quantized"}}, "compression_config = .*cannot read"),
    ({"rope_interleaved": True}, "rope_interleaved = True; .* pair of features is half a head"),
    ({"partial_rotary_factor": 0.5}, "partial_rotary_factor = 0.5; .* turns all features"),
    ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor = 0.5; .* turns"),
    ({"sliding_window": 4096}, "sliding_window = 4096; in every layer .* sees all before it"),
    ({"use_sliding_window": True}, "use_sliding_window = True; "),
    ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types = 'sliding_attention'"),
    ({"layer_types": 3}, "layer_types = 3"), ({"pruned_heads": {"0": [1]}}, ".* one shape"),
    ({"add_cross_attention": True}, "add_cross.* alone"), ({"is_encoder_decoder": 1}, "is.* alone"),
    ({"auto_map": {"AutoModel": "modeling.Own"}}, "auto_map = .*brings code of its own"),
    ({"model_type": "mistral"}, "model_type = 'mistral'; a Llama has 'llama'"),
])
def test_a_field_that_asks_for_other_arithmetic_is_refused_by_name(changes, message):
    with pytest.raises(ValueError, match=f"config.json says {message}") as refusal:
        from_huggingface(SMALL | changes)
    assert "run this one with transformers" in refusal.value.args[0]


def test_an_unknown_field_is_refused_and_not_to_be_taken_out_blindly():
    with pytest.raises(ValueError, match="that no Llama has: logits_scaling, num_experts. They may "
                                         "change what the model computes; run it with") as refusal:
        from_huggingface(SMALL | {"num_experts": 8, "logits_scaling": 0.5})
    assert "Remove" not in refusal.value.args[0]


# -- RoPE ------------------------------------------------------------------------------------------

LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 64}
SPELLINGS = {
    "nothing": {}, "old theta": {"rope_theta": 5e5}, "whole theta": {"rope_theta": 500000},
    "null tables": {"rope_theta": 5e5, "rope_scaling": None, "rope_parameters": None},
    "empty tables": {"rope_theta": 5e5, "rope_scaling": {}, "rope_parameters": {}},
    "type": {"rope_scaling": {"type": "llama3", **LLAMA3}, "rope_theta": 5e5},
    "rope_type": {"rope_scaling": {"rope_type": "llama3", **LLAMA3}, "rope_theta": 5e5},
    "both types": {"rope_scaling": {"type": "llama3", "rope_type": "llama3", **LLAMA3}},
    "no theta": {"rope_scaling": {"rope_type": "llama3", **LLAMA3}},
    "new": {"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5, **LLAMA3}},
    "default": {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}},
    "no type": {"rope_parameters": {"rope_theta": 5e5}},
    "theta outside": {"rope_parameters": {"rope_type": "default"}, "rope_theta": 5e5},
    "theta twice": {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5},
                    "rope_theta": 500000},
    "old and new": {"rope_scaling": {"type": "llama3", **LLAMA3}, "rope_theta": 5e5,
                    "rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5, **LLAMA3}},
    "default, with its context": {"rope_parameters": {
        "rope_type": "default", "rope_theta": 5e5, "original_max_position_embeddings": 64}},
    "default, by 1": {"rope_scaling": {"type": "default", "factor": 1.0}, "rope_theta": 5e5},
}


@pytest.mark.parametrize("changes", SPELLINGS.values(), ids=SPELLINGS)
def test_every_spelling_of_rope_means_what_it_means_to_transformers(changes):
    assert as_we_read_it(SMALL | changes) == by_transformers(SMALL | changes)


@pytest.mark.parametrize(("changes", "message"), [
    ({"rope_scaling": {"type": "llama3", **LLAMA3},
      "rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}, "gives theta and stretch"),
    ({"rope_scaling": {"type": "llama3", **LLAMA3}, "rope_theta": 5e5,
      "rope_parameters": {"rope_type": "llama3", **LLAMA3, "factor": 32.0}},
     r"as \(500000.0, .*factor=8.0.* and as \(500000.0, .*factor=32.0.*only one can be true"),
    ({"rope_scaling": {"type": "default"},      # transformers would take 10,000 here
      "rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}, r"as \(10000.0, None\) and"),
    ({"rope_parameters": {"rope_theta": 5e5}, "rope_theta": 1e4},
     "gives rope_theta as 10000.0 and as 500000.0; only one can be true"),
    ({"rope_scaling": {"type": "llama3", "rope_type": "default", **LLAMA3}},
     "gives the rope type as 'default' and as 'llama3'"),
    ({"rope_scaling": {"type": "default", "factor": 8.0}}, "of a .default. RoPE as 1.0 and as"),
    ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope type 'linear'; this package comp"),
    ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rope type 'dynamic'; "),
    ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, "rope type 'yarn'; .*transformers"),
    ({"rope_scaling": {"rope_type": ["yarn"]}}, r"rope type \['yarn'\]"),
    ({"rope_scaling": {"rope_type": "llama3", **LLAMA3}, "original_max_position_embeddings": 32},
     "no Llama has: original_max_position_embeddings"),
    ({"rope_scaling": {"type": "default", "beta_fast": 32}}, "no Llama has: beta_fast"),
])
def test_rope_that_contradicts_itself_or_is_no_llamas_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        from_huggingface(SMALL | changes)


# -- heads of a size of their own ------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{}, *OWN], ids=str)
def test_the_size_of_a_head_comes_back_from_what_we_write(changes):
    config = tiny_config(**changes)
    assert from_huggingface(huggingface.config_fields(config)) == config
    written = gguf_config.config_fields(config) | {"general.architecture": "llama"}
    assert gguf_config.read_config(written, vocab_size=96, tied=False, n_tensors=99) == config


@pytest.mark.parametrize(("changes", "message"), [
    ({"attention.value_length": 16}, "llama.attention.value_length = 16; attention.key_length g"),
    ({"attention.value_length": None}, "llama.attention.value_length = 16; "),
    ({"rope.dimension_count": 12}, "rope.dimension_count = 12; attention.key_length gives 24"),
    ({"attention.key_length": None}, "= 24; embedding_length / attention.head_count gives 16"),
    ({"attention.key_length": 0}, "own_head_dim is 0"), ({"attention.key_length": "24"}, "'24'")])
def test_a_gguf_file_whose_sizes_of_heads_disagree_is_refused(changes, message):
    written = gguf_config.config_fields(tiny_config(own_head_dim=24)) | {
        f"llama.{name}": value for name, value in changes.items()}
    given = {name: value for name, value in written.items() if value is not None}
    with pytest.raises(ValueError, match=message):
        gguf_config.read_config(given | {"general.architecture": "llama"}, vocab_size=96,
                                tied=False, n_tensors=99)


def test_metas_files_cannot_say_the_size_of_a_head():
    with pytest.raises(ValueError, match="heads have 24 features.*params.json has no field"):
        shards.layout(tiny_config(own_head_dim=24), 1, embedding="v")
    assert shards.layout(tiny_config(own_head_dim=16), 1, embedding="v")
    with pytest.raises(AssertionError):
        meta_params.params_fields(tiny_config(own_head_dim=24), 1)


@pytest.mark.parametrize("changes", OWN, ids=str)
def test_such_a_model_is_the_same_in_every_format_that_can_say_it(tmp_path, changes):
    model = loud_model(tiny_config(**changes))
    tokens = some_tokens(model.config)
    assert_same(cached_logits(model, tokens, first=40), expected := model(tokens))
    gguf.write(tmp_path / "x.gguf", source_of(model), kind="F32")
    convert(tmp_path / "x.gguf", tmp_path / "hf", format="hf")
    convert(tmp_path / "hf", tmp_path / "y.gguf", format="gguf")
    for name in ("x.gguf", "hf", "y.gguf"):
        read = checkpoint.load_model(tmp_path / name)
        assert read.config == model.config
        assert torch.equal(read.requires_grad_(False)(tokens), expected)
    if model.config.dim % model.config.n_heads == 0:    # transformers demands that even so
        twin = LlamaForCausalLM.from_pretrained(tmp_path / "hf", dtype=torch.float32).eval()
        assert_same(expected, huggingface_logits(twin, tokens))
    with pytest.raises(ValueError, match="params.json has no field for that. Write another format"):
        convert(tmp_path / "hf", tmp_path / "meta", format="meta")
    assert not (tmp_path / "meta").exists()


@pytest.mark.parametrize("changes", OWN, ids=str)
def test_llama_cpp_computes_the_same_with_heads_of_that_size(tmp_path, changes):
    (tmp_path / "words").mkdir()
    words = save_tokenizer(bytes_tokenizer(), tmp_path / "words")
    model = loud_model(tiny_config(**{"vocab_size": 320} | changes))
    gguf.write(tmp_path / "x.gguf", source_of(model, words), kind="F32")
    tokens = some_tokens(model.config, 1)
    with torch.inference_mode():
        assert_same(centred(model(tokens)[0]),
                    Judge(tmp_path / "x.gguf").logits(tokens[0].tolist()))


def test_a_config_keeps_its_size_of_heads_where_another_number_changes():
    config = from_huggingface(MINITRON)
    assert replace(config, n_layers=1).head_dim == config.head_dim == 128
