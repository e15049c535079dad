"""The best of n: drawn, chosen, kept from round to round, and what it is worth on average."""

import itertools
import math
from functools import partial

import pytest
import torch
from models import loud_model, loud_reward, tiny_config

from llama_edu.alignment.rejection import (
    best_of,
    choose,
    expected_best,
    kl_bound,
    rounds,
    samples,
)
from llama_edu.alignment.reward import scores
from llama_edu.losses import next_token
from llama_edu.sampling import temperature, top_k

PROMPTS = [torch.tensor(ids) for ids in ([1, 20, 21, 22], [1, 9], [1, 33, 34])]
STOPS = {*range(60, 80)}        # so many that some answers end early, and some do not


def chance(seed=0):
    return torch.Generator().manual_seed(seed)


def n_small(texts):
    """A score that needs no model: how many tokens are below 30."""
    return torch.tensor([(text < 30).float().sum() for text in texts])


# -- drawing and choosing ----------------------------------------------------------------------

def test_samples_are_what_the_model_says_to_each_prompt_alone():
    model = loud_model(tiny_config())
    for prompt, answers in zip(PROMPTS, samples(model, PROMPTS, top_k(1), n=2, max_new=6,
                                                stop_ids=STOPS), strict=True):
        text = prompt
        while len(text) < len(prompt) + 6 and (len(text) == len(prompt) or int(text[-1]) not in
                                               STOPS):
            text = torch.cat([text, model(text[None])[0, -1].argmax()[None]])
        assert [answer.tolist() for answer in answers] == [text[len(prompt):].tolist()] * 2


def test_answers_stop_after_their_end_token():
    drawn = samples(loud_model(tiny_config()), PROMPTS, temperature(1.0), n=8, max_new=6,
                    stop_ids=STOPS, generator=chance())
    assert [len(answers) for answers in drawn] == [8, 8, 8]
    flat = [answer.tolist() for answers in drawn for answer in answers]
    assert {len(answer) for answer in flat} > {1, 6}
    assert all(not STOPS & {*answer[:-1]} for answer in flat)
    assert all(len(answer) == 6 or answer[-1] in STOPS for answer in flat)


def test_the_best_of_n_is_the_best_of_the_very_samples():
    model, reward = loud_model(tiny_config()), partial(scores, loud_reward(seed=3), size=4)
    drawn = samples(model, PROMPTS, n=5, max_new=6, stop_ids=STOPS, generator=chance())
    found = best_of(model, PROMPTS, reward, n=5, max_new=6, stop_ids=STOPS, generator=chance())
    for prompt, answers, choice in zip(PROMPTS, drawn, found, strict=True):
        given = reward([torch.cat([prompt, answer]) for answer in answers])
        assert choice.score == given.max().item() > given.min().item()
        assert torch.equal(choice.text, torch.cat([prompt, answers[given.argmax()]]))


def test_what_was_chosen_can_be_learnt():
    """Tokens drawn without gradients still go through a model with them."""
    model = loud_model(tiny_config()).requires_grad_(True)
    choice, = best_of(model, PROMPTS[:1], n_small, n=2, max_new=4, stop_ids=(), generator=chance())
    next_token(model, {"tokens": choice.text[None]}).total.backward()
    assert model.norm.weight.grad.abs().max() > 0


def test_of_equal_scores_the_first_is_taken_and_nan_is_refused():
    answers = [torch.tensor([i]) for i in (40, 5, 6)]
    assert choose(PROMPTS[0], answers, n_small).answer.tolist() == [5]
    with pytest.raises(ValueError, match="1 of 3 scores are NaN"):
        choose(PROMPTS[0], answers, lambda texts: torch.tensor([1.0, torch.nan, 2.0]))
    with pytest.raises(ValueError, match="no prompts were given"):
        best_of(loud_model(tiny_config()), [], n_small, n=2, max_new=3, stop_ids=())


# -- rounds ------------------------------------------------------------------------------------

def three_rounds(model, score=n_small, *, keep=True, between=lambda: None):
    found = []
    for choices in rounds(model, PROMPTS, score, temperature(1.0), n=2, n_rounds=3, max_new=6,
                          stop_ids=(), generator=chance(), keep=keep):
        found.append(choices)
        between()
    return found


def test_with_the_earlier_best_no_score_ever_falls():
    kept = [[choice.score for choice in found] for found in three_rounds(loud_model(tiny_config()))]
    assert sum(kept[0]) < sum(kept[2])
    assert all(old <= new for before, now in itertools.pairwise(kept)
               for old, new in zip(before, now, strict=True))
    alone = [[choice.score for choice in found]
             for found in three_rounds(loud_model(tiny_config()), keep=False)]
    assert any(old > new for before, now in itertools.pairwise(alone)
               for old, new in zip(before, now, strict=True))
    assert kept == [list(map(max, zip(*alone[:i], strict=True))) for i in (1, 2, 3)]


def test_a_round_draws_from_what_the_model_has_become():
    model = loud_model(tiny_config())

    calm = three_rounds(loud_model(tiny_config()), keep=False)
    changed = three_rounds(model, keep=False, between=model.output.weight.zero_)
    assert torch.equal(calm[0][0].answer, changed[0][0].answer)
    assert not torch.equal(calm[1][0].answer, changed[1][0].answer)


def test_what_was_kept_is_scored_again_by_a_reward_model_that_has_learnt():
    sign = [1.0]
    three = three_rounds(loud_model(tiny_config()), lambda texts: sign[0] * n_small(texts),
                         between=lambda: sign.__setitem__(0, -1.0))
    assert all(choice.score >= 0 for choice in three[0])
    assert all(choice.score <= 0 for choice in three[1])
    assert [c.score for c in three[1]] == [-n_small([c.text]).item() for c in three[1]]


# -- what it is worth --------------------------------------------------------------------------

def test_the_kl_is_that_of_many_different_answers():
    """The best of n of m answers equally likely is the i-th with (i/m)^n - ((i-1)/m)^n."""
    m = 5_000
    for n in (1, 2, 4, 16):
        p = [(i / m) ** n - ((i - 1) / m) ** n for i in range(1, m + 1)]
        exact = sum(q * math.log(q * m) for q in p if q)
        assert exact <= kl_bound(n) + 1e-12
        assert exact == pytest.approx(kl_bound(n), abs=1e-2)
    assert kl_bound(1) == 0
    with pytest.raises(ValueError, match="best of 0 was asked for; 1 or more"):
        kl_bound(0)


def test_the_kl_of_few_answers_stays_below_the_bound():
    p = [(i / 2) ** 8 - ((i - 1) / 2) ** 8 for i in (1, 2)]
    assert sum(q * math.log(2 * q) for q in p) < 0.6 * kl_bound(8)


@pytest.mark.parametrize("given", [
    (3.0, -1.0, 4.0, 1.5, -5.0, 9.0), (1.0, 2.0, 2.0, 0.0, 1.0, 2.0)])
def test_the_expected_best_is_the_mean_over_all_subsets(given):
    found = expected_best(torch.tensor(given))
    for n in range(1, 7):
        best = [max(subset) for subset in itertools.combinations(given, n)]
        assert found[n - 1].item() == pytest.approx(sum(best) / len(best))
    assert found[0].item() == pytest.approx(sum(given) / 6)
    assert found[-1].item() == max(given)


def test_another_measure_of_the_best_is_the_mean_over_all_subsets_and_ties():
    proxy, truth = [3.0, 1.0, 3.0, 2.0, 1.0], [0.1, 0.9, 0.5, 0.3, 0.2]
    found = expected_best(torch.tensor(proxy), torch.tensor(truth))
    for n in range(1, 6):
        means = []
        for subset in itertools.combinations(range(5), n):
            top = max(proxy[i] for i in subset)
            # Every order of drawing is equally likely, and the first of the equals is taken.
            means.append(sum(truth[order[0]] for order in (
                [i for i in order if proxy[i] == top] for order in itertools.permutations(subset)))
                / math.factorial(n))
        assert found[n - 1].item() == pytest.approx(sum(means) / len(means))


def test_many_prompts_and_many_answers_at_once():
    given = torch.randn(3, 300, generator=chance())
    found = expected_best(given)
    assert found.shape == (3, 300)
    torch.testing.assert_close(found[1], expected_best(given[1]))
    assert (found.diff(dim=-1) > 0).all()
    # A normal score gains about what theory says: 0.564 and 1.539 deviations for n = 2 and 10.
    assert found[:, [1, 9]].mean(0).tolist() == pytest.approx([0.564, 1.539], abs=0.15)
