"""Our model against Meta's official `Transformer`, on small random models with loud weights."""

import inspect
from itertools import pairwise

import pytest
import torch
from models import (
    STRETCH_8,
    STRETCH_32,
    assert_same,
    cached_logits,
    loud_model,
    roomy_cache,
    some_tokens,
    tiny_config,
)
from oracles import meta_twin, stretch_by_32, with_output

from llama_edu.layers import RMSNorm, rope_frequencies, rope_table, rotate

THETAS, STRETCHES = (1e4, 5e5, 1e6), (None, STRETCH_8, STRETCH_32)


@pytest.fixture
def official(meta_transformer, monkeypatch):
    """Meta's module, by the stretch that a test needs."""
    def module(stretch):
        found = inspect.getmodule(meta_transformer.Transformer)
        if stretch is STRETCH_32:
            stretch_by_32(found, monkeypatch)
        return found
    return module


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("n_kv_heads", [4, 2, 1], ids=["mha", "gqa", "mqa"])
@pytest.mark.parametrize("stretch", STRETCHES, ids=["plain", "by 8", "by 32"])
@pytest.mark.parametrize("theta", THETAS)
def test_logits_equal_those_of_meta(meta_transformer, official, theta, stretch, n_kv_heads, tied):
    official(stretch)
    model = loud_model(tiny_config(rope_theta=theta, rope_scaling=stretch, n_kv_heads=n_kv_heads,
                                   tied_embeddings=tied))
    tokens = some_tokens(model.config)
    twin = meta_twin(meta_transformer, model, max_seq_len=64)
    with torch.inference_mode():
        assert_same(model(tokens), twin(tokens, 0))
    assert_same(cached_logits(model, tokens, first=40), twin(tokens, 0))


@pytest.mark.parametrize("stretch", STRETCHES, ids=["plain", "by 8", "by 32"])
@pytest.mark.parametrize("theta", THETAS)
def test_logits_are_equal_beyond_the_original_context(meta_transformer, official, theta, stretch):
    official(stretch)
    model = loud_model(tiny_config(rope_theta=theta, rope_scaling=stretch, max_seq_len=10_000))
    twin = meta_twin(meta_transformer, model, max_seq_len=10_000)
    tokens = some_tokens(model.config, length=64)
    cache = roomy_cache(model, 2)
    # Two pieces of text with an empty stretch between: both caches hold zeros there.
    with torch.inference_mode():
        for start, part in zip((0, 9_000), tokens.split(32, dim=1), strict=True):
            cache.length = start
            assert_same(model(part, cache), twin(part, start))


@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("stretch", STRETCHES, ids=["plain", "by 8", "by 32"])
@pytest.mark.parametrize("theta", THETAS)
def test_frequencies_are_those_of_meta_to_the_last_bit(official, theta, stretch, head_dim):
    module = official(stretch)
    turn = module.precompute_freqs_cis(head_dim, 2, theta, stretch is not None)[1]
    plain, freqs = rope_frequencies(head_dim, theta), rope_frequencies(head_dim, theta, stretch)
    assert torch.equal(torch.polar(torch.ones_like(freqs), freqs), turn)
    if stretch is not None:
        assert torch.equal(freqs, module.apply_scaling(plain))
        assert not torch.equal(freqs, plain)


@pytest.mark.parametrize("stretch", STRETCHES, ids=["plain", "by 8", "by 32"])
def test_the_table_is_equal_at_a_hundred_thousand_positions(official, stretch):
    table = official(stretch).precompute_freqs_cis(128, 131_072, 5e5, stretch is not None)
    positions = torch.tensor([0, 1, 8_191, 8_192, 100_000, 131_071])
    cos, sin = rope_table(rope_frequencies(128, 5e5, stretch), positions)
    # The angles are the same floats; two cosines of one float may differ in the last bit.
    torch.testing.assert_close(torch.complex(cos, sin), table[positions], rtol=0, atol=2e-7)


def test_rotation_equals_multiplication_of_complex_numbers(official):
    x = torch.randn(2, 3, 20, 16, generator=torch.Generator().manual_seed(0))
    table = official(STRETCH_8).precompute_freqs_cis(16, 20, 1e4, True)
    cos, sin = rope_table(rope_frequencies(16, 1e4, STRETCH_8), torch.arange(20))
    theirs, _ = official(STRETCH_8).apply_rotary_emb(
        x.transpose(1, 2), x.transpose(1, 2), freqs_cis=table)
    # Two products and a sum of float32 numbers of size 1.
    torch.testing.assert_close(rotate(x, cos, sin), theirs.transpose(1, 2), rtol=0, atol=2e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rmsnorm_is_that_of_meta_to_the_last_bit(official, dtype):
    x = 300 * torch.randn(4, 64, generator=torch.Generator().manual_seed(0))
    ours, theirs = RMSNorm(64, 1e-5).to(dtype), official(None).RMSNorm(64, 1e-5).to(dtype)
    with torch.no_grad():
        for norm in (ours, theirs):
            norm.weight.copy_(torch.linspace(-1, 2, 64))
    assert torch.equal(ours(x.to(dtype)), theirs(x.to(dtype)))
    assert ours(x.to(dtype)).dtype == dtype


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_the_state_dicts_have_the_same_names_and_shapes(meta_transformer, tied):
    model = loud_model(tiny_config(tied_embeddings=tied))
    twin = meta_twin(meta_transformer, model, max_seq_len=8)
    weights = twin.state_dict()
    assert {name: w.shape for name, w in with_output(model).items()} == {
        name: w.shape for name, w in weights.items()}
    if tied:        # it has two tables, we have one
        del weights["output.weight"]
    other = loud_model(model.config, seed=1)
    other.load_state_dict(weights, strict=True)
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)


def test_generation_step_by_step_equals_that_of_meta(meta_transformer):
    model = loud_model(tiny_config(rope_scaling=STRETCH_8))
    twin = meta_twin(meta_transformer, model, max_seq_len=64)
    tokens, cache = some_tokens(model.config), roomy_cache(model, 2)
    with torch.inference_mode():
        for start, end in pairwise((0, 7, 8, 9, 30, 31, 64)):
            part = tokens[:, start:end]
            assert_same(model(part, cache), twin(part, start))
    assert cache.length == 64
