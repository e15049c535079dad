"""The layout for generation gives the answers of the model it was made from."""

import pytest
import torch
from models import STRETCH_8, assert_same, cached_logits, loud_model, some_tokens, tiny_config
from torch import nn

from llama_edu.decoding import DecodingLlama, SideBySide, turn
from llama_edu.generate import left_pad, stream
from llama_edu.layers import rope_frequencies, rope_table, rotate
from llama_edu.sampling import top_k


@pytest.mark.parametrize("changes", [
    {}, {"n_kv_heads": 4}, {"n_kv_heads": 1}, {"tied_embeddings": True},
    {"rope_scaling": STRETCH_8}], ids=str)
def test_the_layout_changes_no_answer(changes):
    config = tiny_config(**changes)
    model, tokens = loud_model(config), some_tokens(config)
    quick = DecodingLlama(model)
    assert_same(quick(tokens), model(tokens))
    assert_same(cached_logits(quick, tokens, first=5), model(tokens))


def test_ragged_prompts_generate_the_same():
    model = loud_model(tiny_config())
    tokens = some_tokens(model.config, length=9)
    prompts = left_pad([tokens[0], tokens[1, :4]])
    plain, quick = (torch.cat(list(stream(m, prompts, top_k(1), max_new=20)), dim=1)
                    for m in (model, DecodingLlama(model)))
    assert torch.equal(plain, quick)


def test_turning_is_rotating():
    x = torch.randn(2, 3, 5, 8, generator=torch.Generator().manual_seed(0))
    rope = rope_table(rope_frequencies(8, 1e4), torch.arange(7, 12))
    torch.testing.assert_close(turn(x, torch.complex(*rope)), rotate(x, *rope))
    assert turn(x.bfloat16(), torch.complex(*rope)).dtype == torch.bfloat16


def test_layers_side_by_side_give_their_outputs_side_by_side():
    a, b = nn.Linear(6, 4, bias=False), nn.Linear(6, 5, bias=False)
    x = torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(SideBySide(a, b)(x), torch.cat([a(x), b(x)], dim=-1))
    assert SideBySide(a).weight.is_contiguous()


def test_sixteen_bits_stay_sixteen_bits():
    model = loud_model(tiny_config()).bfloat16()
    quick = DecodingLlama(model)
    assert {part.dtype for part in quick.state_dict().values()} == {torch.bfloat16}
    ours, theirs = quick(some_tokens(model.config)), model(some_tokens(model.config))
    # bfloat16 keeps 8 bits; two layers of sums in another order differ by a few of the last.
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0.05 * theirs.abs().max().item())


def test_the_original_is_untouched():
    model, tokens = loud_model(tiny_config()), some_tokens(tiny_config())
    before, names = model(tokens), set(model.state_dict())
    DecodingLlama(model)
    assert set(model.state_dict()) == names
    assert torch.equal(model(tokens), before)


def test_layers_of_different_inputs_do_not_lie_side_by_side():
    with pytest.raises(ValueError, match="layers that read 6 and 7 features .*same input"):
        SideBySide(nn.Linear(6, 4, bias=False), nn.Linear(7, 4, bias=False))


def test_a_layer_with_a_bias_is_refused():
    with pytest.raises(ValueError, match="a linear layer with a bias was given"):
        SideBySide(nn.Linear(6, 4))
