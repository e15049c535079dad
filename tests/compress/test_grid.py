"""Levels of a group: which they are, how near they come, and what cannot be asked for."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_edu.compress.grid import grid, rounded
from llama_edu.compress.quant import Int4Linear, Int8Linear


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_levels_by_hand():
    w = torch.tensor([[0.0, 0.9, 2.2, 3.0]])
    assert rounded(w, bits=2).tolist() == [[0, 1, 2, 3]]
    assert rounded(w, bits=2, symmetric=True).tolist() == [[0, 0, 3, 3]]
    assert rounded(w, bits=1, group=2).tolist() == [[0, w[0, 1].item(), w[0, 2].item(), 3]]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 99), st.integers(2, 8), st.sampled_from([4, 20, None]), st.booleans())
def test_a_weight_is_off_by_half_a_step_at_most_and_ends_are_kept(seed, bits, group, symmetric):
    w = drawn(3, 40, seed=seed)
    groups = w.unflatten(1, (-1, group or 40))
    levels = grid(groups, bits=bits, symmetric=symmetric)
    made = rounded(w, bits=bits, group=group, symmetric=symmetric).view_as(groups)
    # 1e-6: the quotient and the product are rounded in float32
    assert ((made - groups).abs() <= levels.scale / 2 + 1e-6).all()
    farthest = groups.abs().argmax(-1, keepdim=True)
    torch.testing.assert_close(made.gather(-1, farthest), groups.gather(-1, farthest))
    assert all(len(each.unique()) <= 2**bits - symmetric for each in made.flatten(0, 1))


def test_zero_is_a_level_where_they_are_symmetric():
    w = drawn(4, 32)
    w[:, 5] = 0
    assert (rounded(w, bits=3, symmetric=True)[:, 5] == 0).all()
    assert (rounded(w, bits=3)[:, 5] != 0).all()


def test_the_layers_of_8_and_4_bits_round_as_it_does():
    w = drawn(6, 64)
    torch.testing.assert_close(Int8Linear(w).dequantised(), rounded(w, bits=8, symmetric=True))
    torch.testing.assert_close(Int4Linear(w, group=16).dequantised(), rounded(w, bits=4, group=16))


@pytest.mark.parametrize("symmetric", [False, True])
def test_nothing_but_zeros_stays_so(symmetric):
    assert (rounded(torch.zeros(2, 8), bits=4, group=4, symmetric=symmetric) == 0).all()


@pytest.mark.parametrize(("how", "complaint"), [
    ({"bits": 0}, "0 bits a weight were asked for; 1 to 8 are needed"),
    ({"bits": 1, "symmetric": True}, "1 bits a weight were asked for; 2 to 8 are needed"),
    ({"bits": 9}, "9 bits a weight were asked for"),
    ({"bits": 4, "group": 6}, "groups of 6 were asked for; rows of 8 weights need"),
    ({"bits": 4, "group": 0}, "groups of 0 were asked for")])
def test_what_cannot_be_is_refused(how, complaint):
    with pytest.raises(ValueError, match=complaint):
        rounded(drawn(2, 8), **how)
