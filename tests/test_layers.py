"""The four parts of a block against formulas written another way, and their properties."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models import STRETCH_8, STRETCH_32, tiny_config
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from llama_edu import layers
from llama_edu.layers import (
    Attention,
    FeedForward,
    RMSNorm,
    attend,
    attend_fused,
    causal_mask,
    rope_frequencies,
    rope_table,
    rotate,
)

few = settings(max_examples=40, deadline=None)
seeds = st.integers(0, 10_000)


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# -- RMSNorm -----------------------------------------------------------------------------------

def test_rmsnorm_of_four_numbers_by_hand():
    norm = RMSNorm(4, eps=1e-5)
    x = torch.tensor([1.0, -1.0, 3.0, 5.0])     # mean square 9, root 3
    expected = torch.tensor([1.0, -1.0, 3.0, 5.0]) / math.sqrt(9 + 1e-5)
    torch.testing.assert_close(norm(x), expected, rtol=1e-6, atol=0)    # float32 rounding


def test_rmsnorm_agrees_with_the_one_of_pytorch():
    norm, x = RMSNorm(32, eps=1e-5), noise(2, 3, 32)
    with torch.no_grad():
        norm.weight.copy_(noise(32, seed=1))
    # The same sums in another order.
    torch.testing.assert_close(norm(x), F.rms_norm(x, (32,), norm.weight, eps=1e-5))


@few
@given(seeds, st.floats(0.1, 1000))
def test_rmsnorm_forgets_the_scale_of_its_input(seed, scale):
    norm, x = RMSNorm(16, eps=1e-12), noise(4, 16, seed=seed)
    torch.testing.assert_close(norm(scale * x), norm(x), rtol=1e-5, atol=1e-6)  # float32 rounding


def test_rmsnorm_in_float16_survives_numbers_whose_squares_do_not():
    x = torch.full((8,), 300.0, dtype=torch.float16)
    assert x.pow(2).isinf().all()
    assert torch.equal(RMSNorm(8, eps=1e-5).half()(x), torch.ones(8, dtype=torch.float16))


def test_epsilon_keeps_a_zero_vector_finite():
    assert torch.equal(RMSNorm(8, eps=1e-5)(torch.zeros(8)), torch.zeros(8))


# -- RoPE --------------------------------------------------------------------------------------

def test_the_first_pair_turns_one_radian_and_the_last_almost_theta_times_slower():
    freqs = rope_frequencies(128, 5e5)
    assert freqs[0] == 1
    assert freqs[-1].item() == pytest.approx(5e5 ** (-126 / 128), rel=1e-6)     # float32 power


@pytest.mark.parametrize("stretch", [STRETCH_8, STRETCH_32], ids=["by 8", "by 32"])
def test_the_stretch_leaves_fast_waves_slows_slow_ones_and_blends_between(stretch):
    plain, slowed = rope_frequencies(128, 5e5), rope_frequencies(128, 5e5, stretch)
    waves = 2 * math.pi / plain
    fast, slow = waves < 8192 / 4, waves > 8192
    assert torch.equal(slowed[fast], plain[fast])
    assert torch.equal(slowed[slow], plain[slow] / stretch.factor)
    between = ~fast & ~slow
    assert fast.any()
    assert slow.any()
    assert between.any()
    assert (slowed[between] < plain[between]).all()
    assert (slowed[between] > plain[between] / stretch.factor).all()
    assert (slowed.diff() < 0).all()


def test_a_stretch_by_one_changes_nothing():
    none = type(STRETCH_8)(1.0, 1.0, 4.0, original_context=8192)
    # (1 - keep) x + keep x is x up to the last bit.
    torch.testing.assert_close(rope_frequencies(64, 5e5, none), rope_frequencies(64, 5e5),
                               rtol=2e-7, atol=0)


def turned(x, position, *, theta=1e4):
    """One vector `d`, turned as at one position."""
    table = rope_table(rope_frequencies(len(x), theta), torch.tensor([position]))
    return rotate(x.view(1, 1, 1, -1), *table).flatten()


def test_rotation_turns_neighbours_by_their_angle():
    x = torch.tensor([1.0, 0.0, 0.0, 1.0])
    slow = 1e4 ** -0.5
    expected = torch.tensor([math.cos(3), math.sin(3), -math.sin(3 * slow), math.cos(3 * slow)])
    torch.testing.assert_close(turned(x, 3), expected)


def test_position_zero_is_not_turned():
    x = noise(16)
    assert torch.equal(turned(x, 0), x)


@few
@given(seeds, st.integers(0, 131_071))
def test_rotation_keeps_the_length_of_every_pair(seed, position):
    x = noise(16, seed=seed)
    before, after = (v.view(8, 2).norm(dim=-1) for v in (x, turned(x, position)))
    torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-6)     # float32 sines


@few
@given(seeds, st.integers(0, 500), st.integers(0, 500), st.integers(0, 500))
def test_a_score_depends_on_the_distance_alone(seed, one, two, shift):
    q, k = noise(2, 16, seed=seed)
    here = turned(q, one) @ turned(k, two)
    there = turned(q, one + shift) @ turned(k, two + shift)
    # An angle of 1,000 radians is off by 6e-5 in float32, times the length of q and k (about 16).
    torch.testing.assert_close(here, there, rtol=0, atol=2e-3)


def test_rotation_works_in_float32_and_returns_what_it_got():
    x = noise(1, 2, 5, 16)
    table = rope_table(rope_frequencies(16, 1e4), torch.arange(5))
    ours = rotate(x.bfloat16(), *table)
    assert torch.equal(ours, rotate(x.bfloat16().float(), *table).bfloat16())


# -- attention ---------------------------------------------------------------------------------

def test_the_mask_lets_new_tokens_see_all_before_them_and_themselves():
    assert causal_mask(2, 4).tolist() == [[True, True, True, False], [True, True, True, True]]
    assert causal_mask(3, 3).tolist() == [
        [True, False, False], [True, True, False], [True, True, True]]


def attend_in_loops(q, k, v, mask):
    """Head by head and token by token, in float64."""
    q, k, v = q.double(), k.double(), v.double()
    mixed, group = torch.zeros_like(q), q.shape[1] // k.shape[1]
    for b in range(q.shape[0]):
        for h in range(q.shape[1]):
            for t in range(q.shape[2]):
                seen = mask[t]
                scores = k[b, h // group, seen] @ q[b, h, t] / math.sqrt(q.shape[-1])
                mixed[b, h, t] = scores.softmax(0) @ v[b, h // group, seen]
    return mixed.float()


@pytest.mark.parametrize("n_kv_heads", [1, 2, 4])
@pytest.mark.parametrize("function", [attend, attend_fused])
def test_attention_equals_plain_loops(function, n_kv_heads):
    q = noise(2, 4, 3, 8)
    k, v = noise(2, 2, n_kv_heads, 5, 8, seed=1)
    mask = causal_mask(3, 5)
    # float32 against float64.
    torch.testing.assert_close(function(q, k, v, mask), attend_in_loops(q, k, v, mask),
                               rtol=1e-5, atol=1e-6)


@few
@given(seeds, st.integers(1, 9), st.integers(0, 9), st.sampled_from([1, 2, 4]))
def test_the_two_ways_to_attend_agree(seed, t, before, n_kv_heads):
    q = 3 * noise(2, 4, t, 8, seed=seed)
    k, v = noise(2, 2, n_kv_heads, t + before, 8, seed=seed + 1)
    mask = causal_mask(t, t + before)
    # The fused kernel adds in another order.
    torch.testing.assert_close(attend(q, k, v, mask), attend_fused(q, k, v, mask),
                               rtol=1e-5, atol=1e-5)


def test_equal_keys_give_the_mean_of_the_values_seen():
    q, v = noise(1, 1, 3, 4), noise(1, 1, 3, 4, seed=1)
    mixed = attend(q, torch.ones(1, 1, 3, 4), v, causal_mask(3, 3))
    for t in range(3):
        torch.testing.assert_close(mixed[0, 0, t], v[0, 0, :t + 1].mean(0))


def test_attention_has_the_projections_that_its_config_says():
    layer = Attention(tiny_config(n_kv_heads=1))
    shapes = {name: tuple(w.shape) for name, w in layer.named_parameters()}
    assert shapes == {"wq.weight": (64, 64), "wk.weight": (16, 64), "wv.weight": (16, 64),
                      "wo.weight": (64, 64)}


def test_attention_runs_with_fewer_heads_when_its_weights_are_sharded():
    """The first of two shards holds two query heads and one key head: half of the sum."""
    config = tiny_config()
    layer = Attention(config).requires_grad_(False)
    x, mask = noise(1, 5, 64), causal_mask(5, 5)
    rope = rope_table(rope_frequencies(16, 5e5), torch.arange(5))
    whole = layer(x, rope, mask)
    parts = []
    for rank in range(2):
        part = Attention(config).requires_grad_(False)
        for name in ("wq", "wk", "wv"):
            rows = getattr(layer, name).weight.chunk(2, dim=0)[rank]
            getattr(part, name).weight = torch.nn.Parameter(rows, requires_grad=False)
        part.wo.weight = torch.nn.Parameter(layer.wo.weight.chunk(2, dim=1)[rank],
                                            requires_grad=False)
        parts.append(part(x, rope, mask))
    torch.testing.assert_close(sum(parts), whole)


# -- feed-forward ------------------------------------------------------------------------------

def test_feed_forward_gates_with_w1():
    layer, x = FeedForward(8, 12).requires_grad_(False), noise(3, 8)
    gate = x @ layer.w1.weight.T
    up = x @ layer.w3.weight.T
    expected = (gate / (1 + torch.exp(-gate)) * up) @ layer.w2.weight.T
    torch.testing.assert_close(layer(x), expected)
    assert layer(torch.zeros(8)).abs().max() == 0


# -- what arithmetic and kernels are used ------------------------------------------------------

def rope(t, d):
    return rope_table(rope_frequencies(d, 100.0), torch.arange(3, 3 + t))


@pytest.mark.parametrize("function", [
    lambda x, _: RMSNorm(6, 1e-3).double()(x),
    lambda x, _: rotate(x, *rope(5, 6)),
    lambda x, y: attend(x, y, y.sin(), causal_mask(5, 5)),
    lambda x, y: attend_fused(x, y, y.sin(), None),
    lambda x, _: FeedForward(6, 8).double()(x)],
    ids=["RMSNorm", "rotate", "attend", "attend_fused", "FeedForward"])
def test_gradients_are_those_of_finite_differences_in_float64(function):
    gen = torch.Generator().manual_seed(0)
    x, y = (torch.randn(2, h, 5, 6, dtype=torch.float64, generator=gen) for h in (4, 2))
    torch.manual_seed(0)
    assert torch.autograd.gradcheck(lambda *given: (torch.manual_seed(0), function(*given))[1],
                                    (x.requires_grad_(), y.requires_grad_()))


def asked_of_the_kernel(monkeypatch, t, s, mask, *, device, n_kv_heads=3):
    """How many key heads the fused kernel gets, and how it is called, on a device that need not be
    there."""
    calls = []

    def kernel(q, k, v, **options):
        calls.append((k.shape[1], options))
        return q

    monkeypatch.setattr(layers.F, "scaled_dot_product_attention", kernel)
    with FakeTensorMode():
        q, k = (torch.empty(2, heads, n, 16, device=device)
                for heads, n in ((6, t), (n_kv_heads, s)))
        mask = torch.ones(2, 1, t, s, dtype=torch.bool, device=device) if mask else None
        assert attend_fused(q, k, k, mask).shape == q.shape
    (call,) = calls
    return call


@pytest.mark.parametrize(("t", "s", "mask", "device", "n_heads", "causal", "shared"), [
    (5, 5, False, "cuda", 3, True, True),       # flash shares heads, and takes no mask
    (5, 9, True, "cuda", 6, False, False),      # so with one every head has keys of its own
    (5, 9, True, "cpu", 3, False, True),
    (1, 9, False, "cuda", 3, None, None),       # queries of a key head are rows: nothing to share
    (1, 9, True, "cuda", 3, None, None)])
def test_the_fused_kernel_is_asked_for_what_it_can(monkeypatch, t, s, mask, device, n_heads,
                                                   causal, shared):
    heads, options = asked_of_the_kernel(monkeypatch, t, s, mask, device=device)
    assert heads == n_heads
    assert (options["attn_mask"] is not None) == mask
    assert options.get("is_causal") == causal
    assert options.get("enable_gqa") == shared


def test_where_every_head_has_its_own_keys_none_are_copied(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "repeat_interleave", lambda *_, **__: pytest.fail("copied"))
    heads, options = asked_of_the_kernel(monkeypatch, 5, 9, True, device="cuda", n_kv_heads=6)
    assert (heads, options["enable_gqa"]) == (6, False)


@pytest.mark.parametrize("mask", [None, torch.rand(2, 1, 1, 9) > 0.3])
def test_one_new_token_attends_as_any_other(mask):
    gen = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, *shape, 16, generator=gen) for shape in ((6, 1), (3, 9), (3, 9)))
    sees = torch.tensor(True) if mask is None else mask[:, None]
    torch.testing.assert_close(attend_fused(q, k, v, mask), attend(q, k, v, sees))
