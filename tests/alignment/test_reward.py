"""Scores are read at the last real token, and nowhere else; two rewards become one."""

import copy
import math

import pytest
import torch
from models import loud_model, loud_reward, tiny_config

from llama_edu.alignment.reward import RewardModel, combined, right_pad, scores, whitened
from llama_edu.sampling import NO_TOKEN

END = 7                         # ends every turn, the prompt's too, and fills up, where it is a pad
PROMPT = [1, 20, 21, 22, END]
ANSWERS = [30, 31, 32, 33, END], [34, END], [35, 36, END]
TEXTS = [torch.tensor(PROMPT + answer) for answer in ANSWERS]


def by_hand(model, text):
    """The score of one text that stands alone."""
    hidden = model.trunk.hidden(text[None])[0]
    return (hidden[-1] * model.head.weight[0]).sum()


# -- where the score is read -------------------------------------------------------------------

def everywhere(model, tokens):
    """The head at every position, `b t`, the rows filled up with END."""
    tokens = torch.where(tokens == NO_TOKEN, END, tokens)
    return tokens, (model.trunk.hidden(tokens) @ model.head.weight[0])


def at_the_last_position(model, tokens, ends):
    return everywhere(model, tokens)[1][:, -1]


def at_the_first_end_token(model, tokens, ends):
    filled, found = everywhere(model, tokens)
    first = (filled == END).int().argmax(1)
    return found.gather(1, first[:, None])[:, 0]


def before_the_last_token(model, tokens, ends):
    return everywhere(model, tokens)[1].gather(1, ends[:, None] - 1)[:, 0]


def mean_over_tokens(model, tokens, ends):
    real = torch.arange(tokens.shape[1]) <= ends[:, None]
    return (everywhere(model, tokens)[1] * real).sum(1) / real.sum(1)


def negated(model, tokens, ends):
    return -model(tokens, ends)


WRONG = [at_the_last_position, at_the_first_end_token, before_the_last_token, mean_over_tokens,
         negated]


def check_scores(read):
    model = loud_reward()
    alone = torch.stack([by_hand(model, text) for text in TEXTS])
    torch.testing.assert_close(read(model, *right_pad(TEXTS)), alone, rtol=1e-4, atol=1e-5)


def test_a_score_is_that_of_the_text_alone():
    check_scores(lambda model, tokens, ends: model(tokens, ends))


@pytest.mark.parametrize("read", WRONG)
def test_a_score_read_elsewhere_is_noticed(read):
    with pytest.raises(AssertionError):
        check_scores(read)


def test_a_pad_that_is_also_the_end_token_does_no_harm():
    model = loud_reward()
    tokens, ends = right_pad(TEXTS)
    filled = torch.where(tokens == NO_TOKEN, END, tokens)
    assert torch.equal(model(filled, ends), model(tokens, ends))
    # Whoever looks for it by its id finds the prompt's: all answers then score alike.
    alike = at_the_first_end_token(model, tokens, ends)
    assert alike.max() - alike.min() < 1e-5 < model(tokens, ends).diff().abs().min()


def test_what_stands_behind_the_end_is_not_seen():
    model = loud_reward()
    tokens, ends = right_pad(TEXTS)
    longer = torch.cat([tokens, torch.full((3, 9), 50)], dim=1)
    torch.testing.assert_close(model(longer, ends), model(tokens, ends))


def test_texts_are_scored_in_batches_and_stay_in_order():
    model = loud_reward()
    whole = model(*right_pad(TEXTS))
    for size in (1, 2, 3, 64):
        torch.testing.assert_close(scores(model, TEXTS, size=size), whole)


def test_right_pad_says_where_texts_end():
    tokens, ends = right_pad([torch.tensor([3, 4]), torch.tensor([5])])
    assert tokens.tolist() == [[3, 4], [5, NO_TOKEN]]
    assert ends.tolist() == [1, 0]


@pytest.mark.parametrize("texts", [[], [torch.tensor([3]), torch.tensor([], dtype=torch.long)]])
def test_no_text_and_an_empty_one_are_refused(texts):
    with pytest.raises(ValueError, match="one text or more, each with a token"):
        right_pad(texts)
    with pytest.raises(ValueError, match="one text or more, each with a token"):
        scores(loud_reward(), texts, size=8)


@pytest.mark.parametrize("end", [-1, 2])
def test_a_place_outside_the_row_is_refused(end):
    with pytest.raises(ValueError, match=rf"said to be at \[{end}\]; places from 0 to 1"):
        loud_reward()(torch.tensor([[3, 4]]), torch.tensor([end]))


# -- how it begins -----------------------------------------------------------------------------

def test_it_begins_as_a_copy_with_scores_of_0():
    base = loud_model(tiny_config())
    before = copy.deepcopy(base.state_dict())
    model = RewardModel.of(base)
    assert scores(model, TEXTS, size=3).tolist() == [0, 0, 0]
    torch.testing.assert_close(model.trunk.hidden(TEXTS[0][None]), base.hidden(TEXTS[0][None]))
    assert model.trunk.output is None
    assert base.output is not None
    model.trunk.tok_embeddings.weight.zero_()
    assert all(torch.equal(base.state_dict()[name], w) for name, w in before.items())


def test_scores_are_wide_whatever_the_trunk_is():
    for dtype, wide in ((torch.bfloat16, torch.float32), (torch.float64, torch.float64)):
        model = RewardModel.of(loud_model(tiny_config()).to(dtype))
        assert model.head.weight.dtype == model(*right_pad(TEXTS)).dtype == wide


# -- one reward of two -------------------------------------------------------------------------

def as_in_the_paper(helpful, safe, tagged):
    """Touvron et al. 2023b, section 3.2.3, on probabilities, one by one."""
    found = []
    for h, s, is_tagged in zip(helpful.sigmoid(), safe.sigmoid(), tagged, strict=True):
        chosen = s if is_tagged or s < 0.15 else h
        found.append(math.log(chosen / (1 - chosen)))
    return torch.tensor(found, dtype=helpful.dtype)


def test_the_combination_is_the_papers():
    chance = torch.Generator().manual_seed(4)
    helpful, safe = 3 * torch.randn(2, 200, generator=chance, dtype=torch.float64)
    tagged = torch.rand(200, generator=chance) < 0.3
    found = combined(helpful, safe, tagged)
    torch.testing.assert_close(found, as_in_the_paper(helpful, safe, tagged))
    for part in (tagged, ~tagged & (safe.sigmoid() < 0.15), ~tagged & (safe.sigmoid() > 0.15)):
        assert part.sum() > 10      # so that every branch was asked


def test_a_score_whose_probability_rounds_to_1_stays_a_number():
    sure, tagged = torch.tensor([40.0]), torch.tensor([False])
    assert sure.sigmoid().logit().isinf()
    assert combined(sure, sure, tagged).tolist() == [40.0]


def test_whitened_rewards_have_mean_0_and_variance_1():
    rewards = torch.tensor([3.0, 5.0, 10.0, -2.0])
    found = whitened(rewards)
    assert found.mean().abs() < 1e-6
    assert found.var() == pytest.approx(1)
    torch.testing.assert_close(whitened(7 * rewards + 100), found, rtol=1e-4, atol=1e-5)
    assert whitened(torch.full((3,), 4.0)).tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match="1 rewards were given; two or more"):
        whitened(torch.tensor([4.0]))
