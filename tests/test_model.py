"""The model as a whole: shapes, ties, invariances and errors."""

import pytest
import torch
from models import STRETCH_8, assert_same, loud_model, roomy_cache, some_tokens, tiny_config

from llama_edu.config import tensor_shapes
from llama_edu.family.accounting import kv_bytes, parameters
from llama_edu.layers import causal_mask
from llama_edu.model import Llama

CONFIG = tiny_config(rope_scaling=STRETCH_8)


def test_tokens_go_in_and_float32_logits_come_out():
    tokens = some_tokens(CONFIG, batch=3, length=5)
    for dtype in (torch.float32, torch.bfloat16):
        logits = loud_model(CONFIG).to(dtype)(tokens)
        assert logits.shape == (3, 5, 96)
        assert logits.dtype == torch.float32


@pytest.mark.parametrize("changes", [{}, {"own_head_dim": 24}, {"dim": 70, "own_head_dim": 16}],
                         ids=str)
def test_the_parameters_are_those_that_the_config_announces(changes):
    config = tiny_config(**changes)
    model = Llama(config)
    assert {name: tuple(w.shape) for name, w in model.state_dict().items()} == dict(
        tensor_shapes(config))
    assert sum(w.numel() for w in model.parameters()) == parameters(config).total
    cache = roomy_cache(model, 1)
    model(some_tokens(config, 1, 3), cache)
    held = sum(w.nbytes for slot in cache.slots for w in (slot.keys, slot.values))
    assert held == kv_bytes(config, tokens=config.max_seq_len, batch=1, bits=32)


def test_a_later_token_changes_no_earlier_answer():
    model, tokens = loud_model(CONFIG), some_tokens(CONFIG)
    other = tokens.clone()
    other[:, 40:] = (other[:, 40:] + 1) % 96
    before, after = model(tokens), model(other)
    # Row by row the arithmetic is the same; the kernel may add in another order.
    torch.testing.assert_close(after[:, :40], before[:, :40], rtol=1e-5, atol=1e-5)
    assert ((after - before)[:, 40:].abs().amax(-1) > 1e-2).all()


def test_texts_of_a_batch_do_not_touch():
    model, tokens = loud_model(CONFIG), some_tokens(CONFIG, batch=3)
    for row, logits in zip(tokens, model(tokens), strict=True):
        torch.testing.assert_close(model(row[None])[0], logits, rtol=1e-5, atol=1e-5)


def test_two_documents_in_one_row_answer_as_if_each_were_alone():
    model, tokens = loud_model(CONFIG), some_tokens(CONFIG, batch=2, length=30)
    positions = torch.cat([torch.arange(12), torch.arange(18)]).expand(2, 30)
    mask = torch.block_diag(causal_mask(12, 12), causal_mask(18, 18)).bool().expand(2, 30, 30)
    packed = model(tokens, positions=positions, mask=mask)
    assert_same(packed[:, :12], model(tokens[:, :12]))
    assert_same(packed[:, 12:], model(tokens[:, 12:]))


def test_padding_on_the_left_changes_no_answer():
    """Rows of 20 and 13 tokens in one batch, then one more token for each, with a cache."""
    model, tokens = loud_model(CONFIG), some_tokens(CONFIG, batch=2, length=20)
    pads, cache = torch.tensor([0, 7]), roomy_cache(model, 2)
    positions = (torch.arange(21) - pads[:, None]).clamp(min=0)
    mask = causal_mask(21, 21) & (torch.arange(21) >= pads[:, None, None])
    mask |= torch.eye(21, dtype=torch.bool)     # a padding token sees itself, so nothing is NaN
    model(tokens, cache, positions=positions[:, :20], mask=mask[:, :20, :20])
    more = some_tokens(CONFIG, length=1, seed=2)
    after = model(more, cache, positions=positions[:, 20:], mask=mask[:, 20:])
    for row, pad in enumerate(pads.tolist()):
        alone = torch.cat([tokens[row, pad:], more[row]])
        assert_same(after[row, -1], model(alone[None])[0, -1])


def test_the_output_is_the_embedding_where_they_are_tied():
    tied, untied = (Llama(tiny_config(tied_embeddings=t)) for t in (True, False))
    assert tied.output is None
    assert "output.weight" not in tied.state_dict()
    assert untied.output.weight is not untied.tok_embeddings.weight


@pytest.mark.parametrize("change", [
    lambda model: model.to_empty(device="cpu"),
    lambda model: model.load_state_dict(
        {name: torch.zeros_like(w) for name, w in model.state_dict().items()}, assign=True)],
    ids=["to_empty", "assign"])
def test_a_tied_model_stays_tied(change):
    model = Llama(tiny_config(tied_embeddings=True))
    change(model)
    with torch.no_grad():
        for w in model.parameters():
            w.normal_(generator=torch.Generator().manual_seed(0))
    x = torch.randn(1, 64)
    assert torch.equal(model.logits(x), x @ model.tok_embeddings.weight.T)


def test_hidden_is_what_logits_read():
    model, tokens = loud_model(CONFIG), some_tokens(CONFIG, length=6)
    assert torch.equal(model.logits(model.hidden(tokens)), model(tokens))


def test_gradients_reach_every_parameter():
    model = loud_model(CONFIG).requires_grad_(True)
    model(some_tokens(CONFIG)).square().mean().backward()
    for name, w in model.named_parameters():
        assert w.grad is not None, name
        assert w.grad.isfinite().all(), name
        assert w.grad.abs().max() > 0, name


def test_parameters_carry_the_names_of_meta():
    names = [name for name, _ in Llama(tiny_config(n_layers=1)).named_parameters()]
    block = ["attention.wq", "attention.wk", "attention.wv", "attention.wo", "feed_forward.w1",
             "feed_forward.w2", "feed_forward.w3", "attention_norm", "ffn_norm"]
    assert sorted(names) == sorted(["tok_embeddings.weight", "norm.weight", "output.weight",
                                    *(f"layers.0.{part}.weight" for part in block)])


def test_a_prompt_longer_than_the_context_is_refused():
    model = loud_model(tiny_config(max_seq_len=16))
    with pytest.raises(ValueError, match="17 tokens were given; this model's context is 16. Short"):
        model(some_tokens(CONFIG, length=17))


def test_tokens_in_the_cache_count_towards_the_context():
    model = loud_model(tiny_config(max_seq_len=16))
    cache = roomy_cache(model, 2)
    model(some_tokens(CONFIG, length=16), cache)
    with pytest.raises(ValueError, match="17 tokens were given; this model's context is 16"):
        model(some_tokens(CONFIG, length=1), cache)
