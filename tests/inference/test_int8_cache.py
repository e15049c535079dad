"""A cache in 8 bits: nearly the same keys and values, in fewer bytes."""

import pytest
import torch
from models import distance, loud_model, some_tokens, tiny_config

from llama_edu.compress.quant import in_8_bits
from llama_edu.generation import stream
from llama_edu.inference.decoding import DecodingLlama
from llama_edu.inference.int8_cache import Int8Cache
from llama_edu.sampling import top_k

MODEL = loud_model(tiny_config())
TOKENS = some_tokens(MODEL.config, length=20)


def made(max_len=32):
    return Int8Cache(MODEL.config.n_layers, len(TOKENS), max_len)


def n_bytes(cache):
    return sum(part.nbytes for slot in cache.slots for part in (slot.keys, slot.values))


@torch.inference_mode()
def one_by_one(model, cache, tokens=TOKENS):
    return torch.cat([model(token, cache) for token in tokens.split(1, dim=1)], dim=1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_number_is_off_by_half_a_scale_at_most(dtype):
    x = (3 * torch.randn(2, 2, 9, 16, generator=torch.Generator().manual_seed(0))).to(dtype)
    numbers, scale = in_8_bits(x)
    assert (numbers.dtype, scale.dtype, scale.shape) == (torch.int8, dtype, (2, 2, 9, 1))
    off = (numbers.float() * scale.float() - x.float()).abs()
    # bfloat16 keeps 8 bits of the scale, so a row's largest number may lie beyond 127 of it
    spare = 1e-5 if dtype is torch.float32 else 127 * 2**-8
    assert (off <= (0.5 + spare) * scale.float()).all()
    assert (off > 0.4 * scale.float()).any()


def test_each_row_has_a_scale_of_its_own_and_zeros_have_one_too():
    rows = torch.tensor([[127.0, -63.6, 0.4], [0.0, 0.5, 0.1], [0.0, 0.0, 0.0]])
    numbers, scale = in_8_bits(rows)
    assert numbers.tolist() == [[127, -64, 0], [0, 127, 25], [0, 0, 0]]
    assert scale[:2, 0].tolist() == pytest.approx([1, 0.5 / 127])
    assert scale.all()


@pytest.mark.parametrize("model", [MODEL, DecodingLlama(MODEL)], ids=["as it is", "laid out"])
def test_the_logits_are_nearly_those_of_a_whole_cache(model):
    whole = one_by_one(model, model.new_cache(2, 20))
    far = distance(one_by_one(model, made()), whole)
    assert 1e-4 < far < 0.03        # 8 bits are seen, and do little


def test_it_takes_a_quarter_of_the_bytes_and_a_scale():
    cache, whole = made(), MODEL.new_cache(2, 32)
    one_by_one(MODEL, cache)
    one_by_one(MODEL, whole)
    d = MODEL.config.head_dim
    assert n_bytes(cache) * 4 * d == n_bytes(whole) * (d + 4)


def test_after_a_rewind_it_goes_on_as_if_nothing_had_been():
    cache, text = made(), TOKENS.roll(1, dims=1)
    one_by_one(MODEL, cache)
    cache.rewind(5)
    again = one_by_one(MODEL, cache, text)
    fresh = made()
    one_by_one(MODEL, fresh, TOKENS[:, :5])
    assert torch.equal(again, one_by_one(MODEL, fresh, text))
    assert cache.length == 25


def test_another_takes_what_it_holds():
    short, longer = made(20), made(40)
    one_by_one(MODEL, short)
    longer.take(short)
    assert longer.length == 20
    short.rewind(19)
    longer.rewind(19)
    last = TOKENS[:, -1:]
    assert torch.equal(one_by_one(MODEL, longer, last), one_by_one(MODEL, short, last))


def test_a_stream_uses_it():
    told = torch.cat(list(stream(MODEL, TOKENS, top_k(1), max_new=8, cache=made())), 1)
    assert told.shape == (2, 8)


def test_it_is_full_as_any_cache_is():
    with pytest.raises(ValueError, match="the cache holds 8 tokens; 9 were asked for"):
        one_by_one(MODEL, made(8))
