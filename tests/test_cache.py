"""The cache: the same answer by another road, and no room for mistakes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models import (
    STRETCH_8,
    assert_same,
    cached_logits,
    loud_model,
    roomy_cache,
    some_tokens,
    tiny_config,
)

from llama_edu.cache import KVCache

CONFIG = tiny_config(rope_scaling=STRETCH_8, max_seq_len=32)
MODEL = loud_model(CONFIG)
TOKENS = some_tokens(CONFIG, length=24)


def whole():
    with torch.inference_mode():
        return MODEL(TOKENS)


@pytest.mark.parametrize("first", [1, 7, 23, 24])
def test_cached_generation_equals_full_forward(first):
    assert_same(cached_logits(MODEL, TOKENS, first=first), whole())


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 8), min_size=1, max_size=6), st.data())
def test_any_cuts_with_any_rewinds_give_the_same_answer(sizes, data):
    cache = roomy_cache(MODEL, 2)
    with torch.inference_mode():
        for size in sizes:
            back = data.draw(st.integers(0, cache.length))
            cache.rewind(back)
            part = TOKENS[:, back:back + size]
            if part.shape[1]:
                assert_same(MODEL(part, cache), whole()[:, back:back + size])
            assert cache.length == back + part.shape[1]


def test_what_lies_behind_the_length_is_never_read():
    cache = roomy_cache(MODEL, 2)
    with torch.inference_mode():
        MODEL(TOKENS[:, :8], cache)
        for slot in cache.slots:
            slot.keys[:, :, 8:] = slot.values[:, :, 8:] = torch.nan
        assert_same(MODEL(TOKENS[:, 8:12], cache), whole()[:, 8:12])


def test_a_slot_has_the_heads_and_the_dtype_of_its_keys():
    """As in a layer that was sharded over devices, which projects to half of the heads."""
    cache = KVCache(2, 3, 5)
    k, v = torch.randn(2, 3, 1, 4, 16, dtype=torch.bfloat16)
    keys, values = cache.slot(1).append(k, v)
    assert torch.equal(keys, k)
    assert torch.equal(values, v)
    assert cache.slot(1).keys.shape == (3, 1, 5, 16)
    assert cache.slot(1).keys.dtype == torch.bfloat16


def test_a_layer_with_half_of_its_heads_fits_its_cache():
    model, half = loud_model(CONFIG), loud_model(CONFIG)
    for block in half.layers:       # as a device has it that keeps the first half
        for name, keep in (("wq", 32), ("wk", 16), ("wv", 16)):
            layer = getattr(block.attention, name)
            layer.weight = torch.nn.Parameter(layer.weight[:keep])
        block.attention.wo.weight = torch.nn.Parameter(block.attention.wo.weight[:, :32])
    with torch.inference_mode():
        whole = half(TOKENS)
    assert_same(cached_logits(half, TOKENS, first=3), whole)
    assert not torch.allclose(whole, model(TOKENS))


def test_gradients_flow_through_a_cache():
    """Through every pass that filled it: the same gradients as in one whole pass."""
    model, cache = loud_model(CONFIG).requires_grad_(), roomy_cache(MODEL, 2)
    model(TOKENS).square().sum().backward()
    expected = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    parts = [model(part, cache) for part in TOKENS.split([5, 1, 1, 17], dim=1)]
    torch.cat(parts, dim=1).square().sum().backward()
    for p, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, gradient, rtol=1e-4, atol=1e-4 * gradient.abs().max())


def test_a_cache_that_was_filled_in_inference_mode_may_be_used_outside_of_it():
    cache = roomy_cache(MODEL, 2)
    with torch.inference_mode():
        MODEL(TOKENS[:, :8], cache)
    assert_same(MODEL(TOKENS[:, 8:12], cache), whole()[:, 8:12])


def test_a_cache_has_an_end_and_layers_that_it_has_not_are_refused():
    cache = roomy_cache(MODEL, 2)
    with pytest.raises(TypeError):
        iter(cache)
    for layer_id in (-1, 2, 99):
        with pytest.raises(IndexError, match=f"layer {layer_id} was asked for; this cache has lay"):
            cache.slot(layer_id)


def test_a_cache_takes_over_what_another_holds():
    first, second = roomy_cache(MODEL, 2, max_len=8), roomy_cache(MODEL, 2)
    with torch.inference_mode():
        MODEL(TOKENS[:, :8], first)
        first.rewind(6)
        second.take(first)
        assert_same(MODEL(TOKENS[:, 6:12], second), whole()[:, 6:12])


def test_a_full_cache_refuses_the_next_token():
    cache = roomy_cache(MODEL, 2, max_len=8)
    MODEL(TOKENS[:, :8], cache)
    with pytest.raises(ValueError, match="the cache holds 8 tokens; 9 were asked for. Make a long"):
        MODEL(TOKENS[:, 8:9], cache)
    assert cache.length == 8


def test_a_cache_longer_than_the_context_is_refused():
    with pytest.raises(ValueError, match="a cache of 33 tokens was asked for.*context is 32"):
        roomy_cache(MODEL, 1, max_len=33)


@pytest.mark.parametrize(("batch", "max_len"), [(0, 8), (1, 0), (1, -1)])
def test_a_cache_without_room_is_refused(batch, max_len):
    with pytest.raises(ValueError, match=rf"a cache for {batch} texts of {max_len} tokens"):
        MODEL.new_cache(batch, max_len)


@pytest.mark.parametrize("length", [-1, 9])
def test_a_cache_rewinds_only_to_where_it_was(length):
    cache = roomy_cache(MODEL, 2)
    MODEL(TOKENS[:, :8], cache)
    with pytest.raises(ValueError, match=f"cannot rewind a cache of 8 tokens to {length}"):
        cache.rewind(length)


def test_a_cache_for_another_batch_is_refused():
    with pytest.raises(ValueError, match="the cache was made for 3 texts; 2 were given"):
        MODEL(TOKENS, roomy_cache(MODEL, 3))
