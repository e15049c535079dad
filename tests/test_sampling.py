"""Rules that reshape logits, and the draw."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_edu.sampling import pick, temperature, top_k, top_p

few = settings(max_examples=60, deadline=None)
# A few round numbers, so that ties are common.
rows = st.lists(st.sampled_from([-3.0, -1.0, 0.0, 0.5, 2.0, 4.0]), min_size=1, max_size=12)


def kept(logits):
    return logits > -torch.inf


@few
@given(rows, st.integers(1, 15))
def test_top_k_keeps_exactly_k_of_the_best(row, k):
    logits = torch.tensor([row, row[::-1]])
    out = top_k(k)(logits)
    best = logits.sort(-1, descending=True).values[:, :k]
    assert kept(out).sum(-1).tolist() == [min(k, len(row))] * 2
    assert torch.equal(out.sort(-1, descending=True).values[:, :k], best)
    assert torch.equal(out[kept(out)], logits[kept(out)])


@few
@given(rows, st.floats(0.01, 1.0))
def test_top_p_keeps_the_smallest_set_that_reaches_p(row, p):
    logits = torch.tensor([row], dtype=torch.float64)
    out, probs = top_p(p)(logits), logits.softmax(-1)
    inside = probs[kept(out)].sort().values
    slack = 1e-9        # sums of float64 in two orders
    assert inside.sum() >= p - slack
    assert inside[1:].sum() < p + slack         # without its least member it falls short
    if not kept(out).all():
        assert probs[~kept(out)].max() <= inside[0]


def test_top_p_by_hand():
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    assert kept(top_p(0.5)(logits)).sum() == 1
    assert kept(top_p(0.7)(logits)).sum() == 2
    assert kept(top_p(0.9)(logits)).sum() == 3
    assert kept(top_p(1.0)(logits)).sum() == 4


def test_top_p_keeps_the_likeliest_token_however_small_p_is():
    assert kept(top_p(1e-9)(torch.tensor([[1.0, 3.0, 2.0]]))).tolist() == [[False, True, False]]


def test_temperature_divides():
    logits = torch.tensor([[1.0, -2.0]])
    assert torch.equal(temperature(0.5)(logits), torch.tensor([[2.0, -4.0]]))


def test_rules_compose():
    logits = torch.tensor([[3.0, 2.0, 1.0, 0.0]])
    out = top_p(0.9)(top_k(2)(temperature(0.5)(logits)))
    assert torch.equal(out, torch.tensor([[6.0, 4.0, -torch.inf, -torch.inf]]))


def test_top_1_always_draws_the_best():
    logits = torch.randn(50, 20, generator=torch.Generator().manual_seed(0))
    assert torch.equal(pick(top_k(1)(logits)), logits.argmax(-1, keepdim=True))


def test_draws_follow_the_probabilities_and_the_generator():
    logits = torch.tensor([0.7, 0.2, 0.1]).log().expand(20_000, 3)
    one, two = (pick(logits, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(one, two)
    share = one.flatten().bincount(minlength=3) / 20_000
    # Four standard deviations of a share of 20,000 draws are at most 0.013.
    torch.testing.assert_close(share, torch.tensor([0.7, 0.2, 0.1]), rtol=0, atol=0.013)


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_an_impossible_temperature_is_refused(value):
    with pytest.raises(ValueError, match=r"temperature .* was given; a positive number is needed"):
        temperature(value)


@pytest.mark.parametrize("p", [0.0, -0.1, 1.1, float("nan")])
def test_an_impossible_p_is_refused(p):
    with pytest.raises(ValueError, match=r"top_p\(.*\) was given; a probability above 0"):
        top_p(p)


@pytest.mark.parametrize("k", [0, -1])
def test_top_k_of_nothing_is_refused(k):
    with pytest.raises(ValueError, match=rf"top_k\({k}\) would keep no token; 1 or more"):
        top_k(k)


@pytest.mark.parametrize("row", [[float("nan"), 0.0], [float("inf"), 0.0], [-float("inf")] * 2])
def test_a_draw_from_logits_that_are_no_numbers_is_refused(row):
    with pytest.raises(ValueError, match="the logits hold NaN or infinity, or no token is left"):
        pick(torch.tensor([[0.0, 1.0], row]))
