"""The config reads Meta's and Hugging Face's files, and refuses what no Llama is."""

import json
from dataclasses import FrozenInstanceError, replace

import pytest
from models import tiny_config
from oracles import huggingface_config

from llama_edu.config import (
    LLAMA_3_1_SCALING,
    ModelConfig,
    RopeScaling,
    from_meta,
    swiglu_width,
    tensor_shapes,
)
from llama_edu.formats.huggingface_config import from_huggingface

PARAMS = {"dim": 4096, "n_layers": 32, "n_heads": 32, "n_kv_heads": 8, "vocab_size": 128_256,
          "multiple_of": 1024, "ffn_dim_multiplier": 1.3, "norm_eps": 1e-5, "rope_theta": 5e5,
          "use_scaled_rope": True}
SCALED = tiny_config(rope_scaling=RopeScaling(32.0, 1.0, 4.0, original_context=64))


def fields(config=SCALED, **changes):
    """What transformers writes into config.json for this config, some fields changed."""
    given = json.loads(huggingface_config(config).to_json_string()) | changes
    return {name: value for name, value in given.items() if value != "left out"}


def old_fields(config=SCALED, **changes):
    """The style before transformers 5: rope_theta beside a rope_scaling table."""
    given = fields(config)
    table = given.pop("rope_parameters")
    given["rope_theta"] = table.pop("rope_theta")
    given["rope_scaling"] = table if config.rope_scaling else None
    given.pop("dtype", None)
    return given | {"torch_dtype": "bfloat16", "pretraining_tp": 1} | changes


# -- the dataclasses ---------------------------------------------------------------------------

def test_a_config_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        tiny_config().dim = 8


@pytest.mark.parametrize("name", [
    "dim", "n_layers", "n_heads", "n_kv_heads", "hidden_dim", "vocab_size", "max_seq_len"])
@pytest.mark.parametrize("value", [0, -1, 2.0, "64", None, True])
def test_a_size_that_is_no_whole_number_is_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} is .*; a whole number of 1 or more is needed"):
        tiny_config(**{name: value})


@pytest.mark.parametrize("name", ["norm_eps", "rope_theta"])
@pytest.mark.parametrize("value", [0, -1e-5, float("nan"), float("inf"), "1e-5", None, True])
def test_a_scale_that_is_not_positive_is_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} is .*; a positive number is needed"):
        tiny_config(**{name: value})


def test_heads_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="dim 64 does not split into 5 heads"):
        tiny_config(n_heads=5)
    with pytest.raises(ValueError, match="4 query heads cannot share 3 key/value heads"):
        tiny_config(n_kv_heads=3)
    with pytest.raises(ValueError, match="head_dim is 15, an odd number"):
        tiny_config(dim=60)
    with pytest.raises(ValueError, match="head_dim is 5, an odd number"):
        tiny_config(own_head_dim=5)


@pytest.mark.parametrize("value", [0, -2, 2.0, "16", True])
def test_heads_of_no_size_are_refused(value):
    with pytest.raises(ValueError, match="own_head_dim is .*; a whole number of 1 or more"):
        tiny_config(own_head_dim=value)


def test_a_head_may_have_a_size_of_its_own():
    config = tiny_config(own_head_dim=24)
    assert (config.head_dim, tiny_config().head_dim) == (24, 16)
    assert replace(config, dim=60) == tiny_config(dim=60, own_head_dim=24) != tiny_config()
    shapes = dict(tensor_shapes(config))
    assert shapes["layers.1.attention.wq.weight"] == (96, 64)
    assert shapes["layers.1.attention.wk.weight"] == (48, 64)
    assert shapes["layers.1.attention.wo.weight"] == (64, 96)


def test_a_size_of_its_own_that_is_dim_over_heads_is_none():
    config = tiny_config(own_head_dim=16)
    assert config == tiny_config()
    assert hash(config) == hash(tiny_config())
    assert replace(config, dim=128).head_dim == 32


def test_tied_embeddings_are_true_or_false():
    with pytest.raises(ValueError, match="tied_embeddings is 'yes'; True or False is needed"):
        tiny_config(tied_embeddings="yes")


def test_a_stretch_that_speeds_up_is_refused():
    with pytest.raises(ValueError, match=r"factor 0.5 would speed rotations up"):
        replace(LLAMA_3_1_SCALING, factor=0.5)


@pytest.mark.parametrize(("low", "high"), [(4.0, 1.0), (1.0, 1.0)])
def test_swapped_bands_are_refused(low, high):
    with pytest.raises(ValueError, match="leave no band to blend.*perhaps they are swapped"):
        RopeScaling(8.0, low, high, original_context=8192)


@pytest.mark.parametrize("name", ["factor", "low_freq_factor", "high_freq_factor"])
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), None, "8"])
def test_a_stretch_with_an_impossible_number_is_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} is .*; a positive number is needed"):
        replace(LLAMA_3_1_SCALING, **{name: value})


def test_a_stretch_needs_a_context_in_whole_tokens():
    with pytest.raises(ValueError, match="original_context is 8192.0; a whole number"):
        replace(LLAMA_3_1_SCALING, original_context=8192.0)


# -- the width rule ----------------------------------------------------------------------------

@pytest.mark.parametrize(("dim", "multiple_of", "multiplier", "width"), [
    (4096, 256, 1.0, 11_008), (5120, 256, 1.0, 13_824), (6656, 256, 1.0, 17_920),
    (8192, 256, 1.0, 22_016), (8192, 4096, 1.3, 28_672), (4096, 1024, 1.3, 14_336),
    (16_384, 4096, 1.2, 53_248), (2048, 256, 1.5, 8192), (3072, 256, 1.0, 8192)])
def test_the_width_rule_gives_the_published_widths(dim, multiple_of, multiplier, width):
    assert swiglu_width(dim, multiple_of=multiple_of, multiplier=multiplier) == width


# -- params.json -------------------------------------------------------------------------------

def test_params_of_llama_3_1_are_read():
    config = from_meta(PARAMS, vocab_size=1, max_seq_len=131_072)
    assert config == ModelConfig(4096, 32, 32, 8, 14_336, 128_256, 1e-5, 5e5, 131_072,
                                 LLAMA_3_1_SCALING)


def test_params_of_llama_2_take_the_vocabulary_of_the_tokenizer():
    params = {"dim": 4096, "multiple_of": 256, "n_heads": 32, "n_layers": 32, "norm_eps": 1e-5,
              "vocab_size": -1}
    config = from_meta(params, vocab_size=32_000, max_seq_len=4096)
    assert config == ModelConfig(4096, 32, 32, 32, 11_008, 32_000, 1e-5, 1e4, 4096)


@pytest.mark.parametrize("name", ["dim", "n_heads", "n_layers", "multiple_of", "norm_eps"])
def test_params_without_a_needed_field_are_refused(name):
    params = {n: v for n, v in PARAMS.items() if n != name}
    with pytest.raises(ValueError, match=f"params.json has no field '{name}'"):
        from_meta(params, vocab_size=1, max_seq_len=8)


def test_params_with_an_unknown_field_are_refused():
    with pytest.raises(ValueError, match="params.json has fields that no Llama has: n_experts"):
        from_meta(PARAMS | {"n_experts": 8}, vocab_size=1, max_seq_len=8)


@pytest.mark.parametrize(("name", "value"), [
    ("dim", "4096"), ("dim", None), ("multiple_of", 0), ("n_kv_heads", 0), ("n_kv_heads", 5)])
def test_params_with_an_impossible_number_are_refused(name, value):
    with pytest.raises(ValueError, match=r"is needed|must be a multiple"):
        from_meta(PARAMS | {name: value}, vocab_size=1, max_seq_len=8)


# -- config.json -------------------------------------------------------------------------------

@pytest.mark.parametrize("config", [
    SCALED, tiny_config(), tiny_config(tied_embeddings=True, n_kv_heads=4, rope_theta=1e4)])
def test_config_json_is_read_in_both_styles(config):
    assert from_huggingface(fields(config)) == config
    assert from_huggingface(old_fields(config)) == config


def test_an_old_file_without_theta_or_key_heads_means_llama_1():
    given = old_fields(tiny_config(n_kv_heads=4, rope_theta=1e4))
    for name in ("rope_theta", "rope_scaling", "num_key_value_heads", "head_dim",
                 "attention_bias", "mlp_bias"):
        given.pop(name)
    assert from_huggingface(given) == tiny_config(n_kv_heads=4, rope_theta=1e4)


def test_the_oldest_spelling_of_the_rope_type_is_read():
    given = old_fields()
    given["rope_scaling"]["type"] = given["rope_scaling"].pop("rope_type")
    assert from_huggingface(given) == SCALED


@pytest.mark.parametrize("name", [
    "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size",
    "rms_norm_eps", "max_position_embeddings"])
def test_a_missing_field_is_named(name):
    with pytest.raises(ValueError, match=f"config.json has no field '{name}'"):
        from_huggingface(fields(**{name: "left out"}))


@pytest.mark.parametrize(("changes", "message"), [
    ({"model_type": "mistral"}, "model_type = 'mistral'; a Llama has 'llama'.*run this one"),
    ({"hidden_act": "gelu"}, "hidden_act = 'gelu'; .* have 'silu'"),
    ({"attention_bias": True}, "attention_bias = True"),
    ({"mlp_bias": True}, "mlp_bias = True"),
    ({"head_dim": 15}, "head_dim is 15, an odd number"),
    ({"head_dim": "16"}, "own_head_dim is '16'; a whole number"),
    ({"hidden_size": 66, "head_dim": None}, "dim 66 does not split into 4 heads"),
    ({"tie_word_embeddings": "no"}, "tied_embeddings is 'no'"),
    ({"rms_norm_eps": "1e-5"}, "norm_eps is '1e-5'"),
    ({"num_key_value_heads": 0}, "n_kv_heads is 0"),
    ({"vocab_size": 0}, "vocab_size is 0"),
    ({"max_position_embeddings": None}, "has no field 'max_position_embeddings'"),
    ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "rope type 'yarn'"),
    ({"rope_parameters": {"rope_theta": 0}}, "rope_theta is 0"),
    ({"rope_parameters": {"rope_theta": "5e5"}}, "rope_theta is '5e5'"),
    ({"rope_parameters": [8]}, r"says \[8\] about RoPE"),
    ({"rope_parameters": {"rope_theta": 1e4, "attention_factor": 2}},
     "the rope table of config.json has fields that no Llama has: attention_factor"),
    ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4}}, "has no field 'factor'"),
])
def test_a_config_that_is_no_llama_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        from_huggingface(fields() | changes)


def test_swapped_factors_in_a_file_are_refused():
    table = fields()["rope_parameters"] | {"low_freq_factor": 4.0, "high_freq_factor": 1.0}
    with pytest.raises(ValueError, match="perhaps they are swapped"):
        from_huggingface(fields(rope_parameters=table))


@pytest.mark.parametrize("name", ["factor", "low_freq_factor", "high_freq_factor",
                                  "original_max_position_embeddings"])
def test_a_stretch_with_a_missing_number_is_refused(name):
    table = fields()["rope_parameters"]
    table.pop(name)
    with pytest.raises(ValueError, match=f"the rope table of config.json has no field '{name}'"):
        from_huggingface(fields(rope_parameters=table))
