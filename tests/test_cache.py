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
        cache.store[..., 8:, :] = torch.nan
        assert_same(MODEL(TOKENS[:, 8:12], cache), whole()[:, 8:12])


def test_the_store_has_the_dtype_of_the_weights():
    cache = KVCache(CONFIG, 3, max_len=5, like=torch.zeros(1, dtype=torch.bfloat16))
    assert cache.store.shape == (2, 2, 3, 2, 5, 16)
    assert cache.store.dtype == torch.bfloat16


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
        KVCache(CONFIG, batch, max_len=max_len, like=torch.zeros(1))


@pytest.mark.parametrize("length", [-1, 9])
def test_a_cache_rewinds_only_to_where_it_was(length):
    cache = roomy_cache(MODEL, 2)
    MODEL(TOKENS[:, :8], cache)
    with pytest.raises(ValueError, match=f"cannot rewind a cache of 8 tokens to {length}"):
        cache.rewind(length)


def test_a_cache_for_another_batch_is_refused():
    with pytest.raises(ValueError, match="the cache was made for 3 texts; 2 were given"):
        MODEL(TOKENS, roomy_cache(MODEL, 3))
