"""One table of names for three worlds, and the two orders of rows."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models import loud_model, tiny_config
from oracles import huggingface_twin

from llama_edu.formats.names import TABLE, find, halves_to_pairs, pairs_to_halves, translate

WORLDS = ("meta", "huggingface", "gguf")
sizes = st.integers(1, 5)


def test_rows_of_one_head_by_hand():
    rows = torch.arange(8.0)[:, None]
    assert pairs_to_halves(rows, 8).flatten().tolist() == [0, 2, 4, 6, 1, 3, 5, 7]
    assert halves_to_pairs(rows, 8).flatten().tolist() == [0, 4, 1, 5, 2, 6, 3, 7]


@settings(max_examples=30, deadline=None)
@given(sizes, sizes, sizes)
def test_the_two_orders_undo_each_other_and_stay_in_their_head(heads, half, columns):
    head_dim = 2 * half
    w = torch.arange(heads * head_dim * columns).view(heads * head_dim, columns)
    assert torch.equal(halves_to_pairs(pairs_to_halves(w, head_dim), head_dim), w)
    assert torch.equal(pairs_to_halves(halves_to_pairs(w, head_dim), head_dim), w)
    for before, after in zip(w.split(head_dim), pairs_to_halves(w, head_dim).split(head_dim),
                             strict=True):
        assert torch.equal(after, torch.cat([before[0::2], before[1::2]]))


@pytest.mark.parametrize("world", WORLDS)
def test_every_name_of_a_world_finds_its_row(world):
    for row in TABLE:
        general = getattr(row, world)
        number = "17" if "#" in general else ""
        assert find(general.replace("#", "17"), world) == (row, number)
    assert len({getattr(row, world) for row in TABLE}) == len(TABLE)


def test_only_queries_and_keys_change_their_rows():
    assert [row.meta for row in TABLE if row.rope_rows] == [
        "layers.#.attention.wq.weight", "layers.#.attention.wk.weight"]


def test_names_of_ours_and_of_transformers_are_those_of_real_models():
    model = loud_model(tiny_config())
    translated = dict(translate(model.state_dict().items(), "meta", "huggingface", head_dim=16))
    assert set(translated) == set(huggingface_twin(model).state_dict())
    back = dict(translate(translated.items(), "huggingface", "meta", head_dim=16))
    assert all(torch.equal(back[name], w) for name, w in model.state_dict().items())
    assert set(back) == set(model.state_dict())


@pytest.mark.parametrize(("name", "world"), [
    ("rope.freqs", "meta"), ("rope_freqs.weight", "gguf"),
    ("layers.31.attention.inner_attention.rope.freqs", "meta"),     # in Llama 1's own files
    *((f"model.{place}rotary_emb.{name}", "huggingface") for place in ("", "layers.3.self_attn.")
      for name in ("inv_freq", "cos_cached", "sin_cached"))])
def test_what_can_be_recomputed_is_left_out(name, world):
    assert find(name, world) is None
    assert list(translate([(name, torch.ones(1))], world, "meta", head_dim=2)) == []


@pytest.mark.parametrize("name", [
    "model.layers.0.mlp.experts.1.w1.weight", "model.layers.0.self_attn.q_proj.bias",
    "base_model.model.layers.0.self_attn.q_proj.lora_A.weight", "layers.0.attention.wq.weight", ""])
def test_a_name_that_no_llama_has_is_refused(name):
    with pytest.raises(KeyError, match="no text Llama has one of that name in huggingface files"):
        find(name, "huggingface")
