"""The layout for generation gives the answers of the model it was made from."""

import pytest
import torch
from models import STRETCH_8, assert_same, cached_logits, loud_model, some_tokens, tiny_config
from torch import nn

from llama_edu.compress.quant import int8
from llama_edu.compress.surgery import replace_linears
from llama_edu.generation import left_pad, stream
from llama_edu.inference.decoding import DecodingLlama, SideBySide, one_linear
from llama_edu.layers import attend, attend_fused
from llama_edu.sampling import top_k


@pytest.mark.parametrize("changes", [
    {}, {"n_kv_heads": 4}, {"n_kv_heads": 1}, {"tied_embeddings": True},
    {"rope_scaling": STRETCH_8}], ids=str)
@pytest.mark.parametrize("join", [SideBySide, one_linear])
def test_the_layout_changes_no_answer(changes, join):
    config = tiny_config(**changes)
    model, tokens = loud_model(config), some_tokens(config)
    quick = DecodingLlama(model, join=join)
    assert_same(quick(tokens), model(tokens))
    assert_same(cached_logits(quick, tokens, first=5), model(tokens))


def test_ragged_prompts_generate_the_same():
    model = loud_model(tiny_config())
    tokens = some_tokens(model.config, length=9)
    prompts = left_pad([tokens[0], tokens[1, :4]])
    plain, quick = (torch.cat(list(stream(m, prompts, top_k(1), max_new=20)), dim=1)
                    for m in (model, DecodingLlama(model)))
    assert torch.equal(plain, quick)


def test_one_token_attends_as_any_other():
    gen = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, *shape, 16, generator=gen) for shape in ((6, 1), (3, 9), (3, 9)))
    mask = torch.rand(2, 1, 1, 9, generator=gen) > 0.3
    torch.testing.assert_close(attend_fused(q, k, v, mask), attend(q, k, v, mask[:, None]))
    torch.testing.assert_close(attend_fused(q, k, v, None), attend(q, k, v, torch.tensor(True)))


def test_layers_side_by_side_give_their_outputs_side_by_side():
    a, b = nn.Linear(6, 4, bias=False), nn.Linear(6, 5, bias=False)
    x = torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(SideBySide(a, b)(x), torch.cat([a(x), b(x)], dim=-1))
    torch.testing.assert_close(one_linear(a, b)(x), torch.cat([a(x), b(x)], dim=-1))
    assert SideBySide(a).weight.is_contiguous()


def test_sixteen_bits_stay_sixteen_bits():
    model = loud_model(tiny_config()).bfloat16()
    quick = DecodingLlama(model)
    assert {part.dtype for part in quick.state_dict().values()} == {torch.bfloat16}
    ours, theirs = quick(some_tokens(model.config)), model(some_tokens(model.config))
    # bfloat16 keeps 8 bits; two layers of sums in another order differ by a few of the last.
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0.05 * theirs.abs().max().item())


def test_a_layer_that_is_alone_keeps_its_weights():
    layer = nn.Linear(6, 4, bias=False)
    assert one_linear(layer) is not layer       # to compile the one must not compile the other
    assert one_linear(layer).weight.data_ptr() == layer.weight.data_ptr()


def test_the_original_is_untouched():
    model, tokens = loud_model(tiny_config()), some_tokens(tiny_config())
    before, names = model(tokens), set(model.state_dict())
    DecodingLlama(model)
    replace_linears(DecodingLlama(model, join=one_linear), ".*", int8)
    assert set(model.state_dict()) == names
    assert torch.equal(model(tokens), before)


def test_layers_of_different_inputs_do_not_lie_side_by_side():
    with pytest.raises(ValueError, match="layers that read 6 and 7 features .*same input"):
        SideBySide(nn.Linear(6, 4, bias=False), nn.Linear(7, 4, bias=False))


def test_a_layer_with_a_bias_is_refused():
    with pytest.raises(ValueError, match="a linear layer with a bias was given"):
        SideBySide(nn.Linear(6, 4))


@pytest.mark.parametrize("join", [SideBySide, one_linear])
def test_a_model_that_is_rounded_already_is_refused(join):
    model = loud_model(tiny_config())
    replace_linears(model, ".*w[qkv]", int8)
    with pytest.raises(ValueError, match="of the kind Int8Linear was given; .*quantise it then"):
        DecodingLlama(model, join=join)
