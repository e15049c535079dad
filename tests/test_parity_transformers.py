"""Our model against transformers' LlamaForCausalLM, on small random models with loud weights."""

from dataclasses import replace

import pytest
import torch
from models import (
    STRETCH_8,
    STRETCH_32,
    assert_same,
    cached_logits,
    loud_model,
    some_tokens,
    tiny_config,
)
from oracles import huggingface_config, huggingface_logits, huggingface_twin
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from llama_edu.formats.huggingface import config_fields
from llama_edu.formats.names import translate
from llama_edu.inference.decoding import DecodingLlama
from llama_edu.inference.static import StaticLlama
from llama_edu.layers import rope_frequencies

THETAS, STRETCHES = (1e4, 5e5, 1e6), (None, STRETCH_8, STRETCH_32)
# The sequences have 64 tokens, so the last quarter lies past this context.
SHORT = 48


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("n_kv_heads", [4, 2, 1], ids=["mha", "gqa", "mqa"])
@pytest.mark.parametrize("stretch", STRETCHES, ids=["plain", "by 8", "by 32"])
@pytest.mark.parametrize("theta", THETAS)
def test_logits_equal_those_of_transformers(theta, stretch, n_kv_heads, tied):
    model = loud_model(tiny_config(
        rope_theta=theta, n_kv_heads=n_kv_heads, tied_embeddings=tied,
        rope_scaling=stretch and replace(stretch, original_context=SHORT)))
    tokens = some_tokens(model.config)
    reference = huggingface_logits(huggingface_twin(model), tokens)
    with torch.inference_mode():
        assert_same(model(tokens), reference)
    assert_same(cached_logits(model, tokens, first=40), reference)


@pytest.mark.parametrize("changes", [
    {"own_head_dim": 24}, {"own_head_dim": 8, "n_kv_heads": 4},
    {"own_head_dim": 32, "n_kv_heads": 1},
    {"own_head_dim": 24, "rope_scaling": replace(STRETCH_8, original_context=SHORT)}], ids=str)
def test_logits_are_equal_where_heads_have_a_size_of_their_own(changes):
    model = loud_model(tiny_config(**changes))
    twin = LlamaForCausalLM(LlamaConfig(**config_fields(model.config), attn_implementation="eager"))
    twin.load_state_dict(dict(translate(
        model.state_dict().items(), "meta", "huggingface", head_dim=model.config.head_dim)))
    tokens = some_tokens(model.config)
    reference = huggingface_logits(twin.eval(), tokens)
    for ours in (model, DecodingLlama(model), StaticLlama(model)):
        with torch.inference_mode():
            assert_same(ours(tokens), reference)
        assert_same(cached_logits(ours, tokens, first=40), reference)


@pytest.mark.parametrize("stretch", STRETCHES, ids=["plain", "by 8", "by 32"])
@pytest.mark.parametrize("theta", THETAS)
def test_logits_are_equal_far_beyond_the_original_context(theta, stretch):
    model = loud_model(tiny_config(rope_theta=theta, rope_scaling=stretch, max_seq_len=131_072))
    tokens = some_tokens(model.config, length=48)
    positions = torch.cat([torch.arange(16), 9_000 + torch.arange(16), 99_984 + torch.arange(16)])
    reference = huggingface_logits(huggingface_twin(model), tokens, positions)
    with torch.inference_mode():
        assert_same(model(tokens, positions=positions[None]), reference)


@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("stretch", STRETCHES, ids=["plain", "by 8", "by 32"])
@pytest.mark.parametrize("theta", THETAS)
def test_frequencies_are_those_of_transformers_to_the_last_bit(theta, stretch, head_dim):
    config = tiny_config(dim=4 * head_dim, rope_theta=theta, rope_scaling=stretch,
                         max_seq_len=131_072)
    ours = rope_frequencies(head_dim, theta, stretch)
    assert torch.equal(ours, LlamaRotaryEmbedding(huggingface_config(config)).inv_freq)


def test_bfloat16_stays_as_close_as_bfloat16_allows():
    model = loud_model(tiny_config(rope_scaling=replace(STRETCH_8, original_context=SHORT)))
    tokens = some_tokens(model.config)
    exact = huggingface_logits(huggingface_twin(model), tokens)
    theirs = huggingface_logits(huggingface_twin(model).bfloat16(), tokens).float()
    with torch.inference_mode():
        ours = model.bfloat16()(tokens)
    # 8 bits of mantissa through two layers: both err, ours at most half as much again as theirs.
    assert (ours - exact).square().mean() < 1.5**2 * (theirs - exact).square().mean()
