"""GPTQ is the least-squares answer, column by column; and it is calibrated with what arrives."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models import loud_model, some_tokens, tiny_config
from torch import Tensor

from llama_edu.compress.gptq import calibrate, gptq, inverse_factor
from llama_edu.compress.grid import grid, rounded


def drawn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def moment_of(n: int, *, seed: int = 0, rows: int = 200) -> Tensor:
    """Of inputs whose features have much in common."""
    x = drawn(rows, n, seed=seed) @ (drawn(n, n, seed=seed + 1) + torch.eye(n))
    return x.T @ x / rows


def spoiled(w: Tensor, made: Tensor, moment: Tensor) -> float:
    """tr(D H D^T), what the product is off by."""
    return ((made - w) @ moment @ (made - w).T).trace().item()


def by_least_squares(w: Tensor, moment: Tensor, *, bits: int, group: int, damping: float,
                     symmetric: bool = False) -> Tensor:
    """Fix column by column; after each, solve anew for all weights that are free."""
    n = w.shape[1]
    h = moment + damping * moment.diagonal().mean() * torch.eye(n)
    now = w.clone()
    for i in range(n):
        if i % group == 0:
            levels = grid(now[:, i:i + group], bits=bits, symmetric=symmetric)
        now[:, i] = levels.nearest(now[:, i:i + 1])[:, 0]
        fixed, free = slice(0, i + 1), slice(i + 1, n)
        off = now[:, fixed] - w[:, fixed]
        now[:, free] = w[:, free] - off @ h[fixed, free] @ torch.linalg.inv(h[free, free])
    return now


@pytest.mark.parametrize(("bits", "group", "symmetric"), [
    (4, 12, False), (3, 4, False), (2, 1, False), (3, 6, True)])
def test_it_is_the_least_squares_answer_after_every_column(bits, group, symmetric):
    w, moment = drawn(5, 12), moment_of(12)
    made = gptq(w, moment, bits=bits, group=group, symmetric=symmetric, damping=0.02)
    slow = by_least_squares(w, moment, bits=bits, group=group, damping=0.02, symmetric=symmetric)
    torch.testing.assert_close(made, slow, rtol=0, atol=1e-6)
    assert (made - rounded(w, bits=bits, group=group, symmetric=symmetric)).abs().max() > 0.1 or \
        group == 1


def test_without_a_group_a_row_has_one_grid():
    w, moment = drawn(5, 12), moment_of(12)
    torch.testing.assert_close(gptq(w, moment, bits=3), gptq(w, moment, bits=3, group=12))
    assert all(len(row.unique()) <= 8 for row in gptq(w, moment, bits=3).round(decimals=9))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 999), st.sampled_from([2, 3, 4]), st.sampled_from([8, None]))
def test_what_the_layer_computes_is_never_further_off_than_by_rounding(seed, bits, group):
    """No theorem for one row: each step is greedy. Of 32 rows together it is safe to say."""
    w, moment = drawn(32, 24, seed=seed), moment_of(24, seed=seed + 7)
    made, plain = gptq(w, moment, bits=bits, group=group), rounded(w, bits=bits, group=group)
    assert spoiled(w, made, moment) < spoiled(w, plain, moment)


def test_where_inputs_have_nothing_in_common_it_is_round_to_nearest():
    w = drawn(4, 16)
    made = gptq(w, drawn(16).square().diag(), bits=3, group=8)
    torch.testing.assert_close(made, rounded(w, bits=3, group=8))


def test_columns_are_taken_from_the_left():
    w, moment = drawn(4, 10), moment_of(10)
    made, plain = gptq(w, moment, bits=3), rounded(w, bits=3)
    torch.testing.assert_close(made[:, 0], plain[:, 0])       # nothing to make up for yet
    assert not torch.allclose(made[:, 1:], plain[:, 1:])
    turned = gptq(w.flip(1), moment.flip(0, 1), bits=3).flip(1)
    torch.testing.assert_close(turned[:, -1], plain[:, -1])
    assert not torch.allclose(turned, made)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_neither_argument_is_changed_and_the_dtype_is_kept(dtype):
    w, moment = drawn(4, 8).to(dtype), moment_of(8).float()
    before = w.clone(), moment.clone()
    assert gptq(w, moment, bits=4, group=4).dtype == dtype
    assert torch.equal(w, before[0])
    assert torch.equal(moment, before[1])


def test_the_factor_is_of_the_damped_inverse():
    moment = moment_of(6)
    factor = inverse_factor(moment, 6, damping=0.1)
    damped = moment + 0.1 * moment.diagonal().mean() * torch.eye(6)
    torch.testing.assert_close(factor.T @ factor @ damped, torch.eye(6, dtype=torch.float64))
    assert (factor.tril(-1) == 0).all()


def test_too_few_rows_and_numbers_that_are_not_finite_are_refused():
    few = moment_of(12, rows=5)
    gptq(drawn(3, 12), few, bits=4)                           # the usual damping is enough
    with pytest.raises(ValueError, match="the inputs span fewer than 12 directions, .* of 0 "):
        gptq(drawn(3, 12), few - 1e-9 * torch.eye(12), bits=4, damping=0)
    with pytest.raises(ValueError, match=r"shape \(12, 12\) was given; finite numbers of shape"):
        gptq(drawn(3, 12), few * torch.nan, bits=4)
    with pytest.raises(ValueError, match=r"of shape \(12, 12\) was given; .* of shape \(8, 8\)"):
        gptq(drawn(3, 8), few, bits=4)
    with pytest.raises(ValueError, match="9 bits a weight were asked for"):
        gptq(drawn(3, 12), few, bits=9)
    with pytest.raises(ValueError, match="groups of 5 were asked for"):
        gptq(drawn(3, 12), few, bits=4, group=5)


# -- a whole model -----------------------------------------------------------------------------


def test_every_matrix_of_the_blocks_is_asked_for_in_running_order():
    model, asked = loud_model(tiny_config()), []

    def keep(name: str, weight: Tensor, moment: Tensor) -> Tensor:
        assert moment.shape == (weight.shape[1], weight.shape[1])
        asked.append(name)
        return weight

    tokens = some_tokens(model.config, 2, 9)
    before = model(tokens)
    calibrate(model, tokens, keep)
    assert torch.equal(model(tokens), before)
    first = "attention.wq attention.wk attention.wv attention.wo"
    rest = "feed_forward.w1 feed_forward.w3 feed_forward.w2"
    assert asked == [f"layers.{i}.{name}" for i in (0, 1) for name in f"{first} {rest}".split()]


def test_a_block_is_calibrated_with_what_the_changed_blocks_before_it_make():
    model = loud_model(tiny_config())
    tokens, moments = some_tokens(model.config, 2, 9), {}

    def rougher(name: str, weight: Tensor, moment: Tensor) -> Tensor:
        moments[name] = moment
        return rounded(weight, bits=3)

    calibrate(model, tokens, rougher)
    seen = []
    hook = model.layers[1].attention.wq.register_forward_pre_hook(
        lambda layer, given: seen.append(given[0].flatten(0, 1)))
    model(tokens)
    hook.remove()
    x = seen[0]
    torch.testing.assert_close(moments["layers.1.attention.wq"], x.T @ x / len(x))
    for name in moments:
        assert len(model.get_parameter(f"{name}.weight")[0].unique()) <= 8


def test_no_hook_stays_behind_when_a_pass_fails():
    model = loud_model(tiny_config())
    with pytest.raises(ZeroDivisionError):
        calibrate(model, some_tokens(model.config, 1, 4), lambda *given: 1 / 0)
    assert not any(part._forward_pre_hooks for part in model.modules())
