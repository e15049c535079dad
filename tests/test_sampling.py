"""Rules that reshape logits, and the draw."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_edu.sampling import (
    NO_TOKEN,
    min_p,
    no_repeat,
    pick,
    repetition,
    temperature,
    top_k,
    top_p,
)

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


def test_top_p_of_one_is_the_identity():
    logits = torch.randn(2, 32_000, generator=torch.Generator().manual_seed(0)) * 3
    assert torch.equal(top_p(1.0)(logits), logits)      # rounded sums reach 1 before the last token


@pytest.mark.parametrize("value", [1e-6, 1e6])
def test_the_coldest_and_the_hottest_draw_can_be_made(value):
    logits = torch.tensor([[100.0, 99.0, -torch.inf]])
    assert pick(temperature(value)(logits)).item() in (0, 1)


def test_temperature_divides():
    logits = torch.tensor([[1.0, -2.0]])
    assert torch.equal(temperature(0.5)(logits), torch.tensor([[2.0, -4.0]]))


@few
@given(rows, st.floats(0.001, 1.0))
def test_min_p_keeps_what_is_likely_enough(row, p):
    logits = torch.tensor([row], dtype=torch.float64)
    probs = logits.softmax(-1)
    share = probs / probs.max()
    out = kept(min_p(p)(logits))
    sure = (share / p - 1).abs() > 1e-9     # on the edge itself rounding decides
    assert torch.equal(out[sure], (share >= p)[sure])
    assert out[share == 1].all()


def test_min_p_by_hand():
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    assert kept(min_p(0.9)(logits)).sum() == 1
    assert kept(min_p(0.5)(logits)).sum() == 2
    assert kept(min_p(0.09)(logits)).sum() == 4


# -- rules that read the tokens so far ---------------------------------------------------------

LOGITS = torch.tensor([[2.0, -2.0, 1.0, -1.0]] * 2)


def test_repetition_by_hand():
    tokens = torch.tensor([[0, 1, 0], [NO_TOKEN, NO_TOKEN, 2]])
    out = repetition(2.0)(LOGITS, tokens)
    assert out.tolist() == [[1.0, -4.0, 1.0, -1.0], [2.0, -2.0, 0.5, -1.0]]


def test_repetition_equals_that_of_transformers():
    from transformers import RepetitionPenaltyLogitsProcessor
    gen = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 30, generator=gen)
    tokens = torch.randint(30, (4, 12), generator=gen)
    ours = repetition(1.3)(logits, tokens)
    assert torch.equal(ours, RepetitionPenaltyLogitsProcessor(1.3)(tokens, logits))


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_no_repeat_equals_that_of_transformers(n):
    from transformers import NoRepeatNGramLogitsProcessor
    gen = torch.Generator().manual_seed(n)
    tokens = torch.randint(3, (20, 14), generator=gen)      # three tokens repeat themselves soon
    logits = torch.randn(20, 3, generator=gen)
    ours = no_repeat(n)(logits, tokens)
    assert torch.equal(ours, NoRepeatNGramLogitsProcessor(n)(tokens, logits))
    assert not kept(ours).all()


def test_no_repeat_looks_at_no_padding():
    tokens = torch.tensor([[NO_TOKEN, NO_TOKEN, NO_TOKEN, 2], [NO_TOKEN, 0, 1, 0]])
    assert kept(no_repeat(2)(LOGITS, tokens)).tolist() == [[True] * 4, [True, False, True, True]]


def test_a_text_shorter_than_the_run_repeats_nothing():
    assert torch.equal(no_repeat(3)(LOGITS, torch.tensor([[1, 1], [2, 2]])), LOGITS)


@few
@given(rows, st.permutations([0, 1, 2]))
def test_rules_take_the_tokens_whether_they_look_or_not(row, order):
    logits, tokens = torch.tensor([row]), torch.zeros(1, 2, dtype=torch.long)
    for rule in (temperature(0.7), top_k(2), top_p(0.9), min_p(0.1)):
        assert torch.equal(rule(logits, tokens), rule(logits))
    rules = [temperature(0.7), repetition(1.0), top_k(len(row))]    # in any order they commute
    out = logits
    for place in order:
        out = rules[place](out, tokens)
    assert torch.equal(out, logits / 0.7)


@pytest.mark.parametrize("rule", [repetition(1.2), no_repeat(2)])
def test_a_rule_about_repetition_needs_the_tokens(rule):
    with pytest.raises(ValueError, match="was given logits alone; it needs the tokens so far"):
        rule(LOGITS)


@pytest.mark.parametrize("penalty", [0.9, 0.0, float("nan"), float("inf")])
def test_a_penalty_that_rewards_is_refused(penalty):
    with pytest.raises(ValueError, match=r"repetition\(.*\) was given; 1 or more is needed"):
        repetition(penalty)


def test_a_run_of_no_token_is_refused():
    with pytest.raises(ValueError, match=r"no_repeat\(0\) was given; a run of 1 token or more"):
        no_repeat(0)


@pytest.mark.parametrize("p", [0.0, 1.1, float("nan")])
def test_an_impossible_min_p_is_refused(p):
    with pytest.raises(ValueError, match=r"min_p\(.*\) was given; a share above 0"):
        min_p(p)


# -- all rules and the draw --------------------------------------------------------------------

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


@pytest.mark.parametrize("value", [0.0, -1.0, 1e-40, float("nan"), float("inf")])
def test_an_impossible_temperature_is_refused(value):
    with pytest.raises(ValueError, match=r"temperature .* was given; a number from 1e-06 on"):
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
