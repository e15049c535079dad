"""Pairs, the loss with its margins, and how often and how surely a reward model is right."""

import math
from itertools import islice

import pytest
import torch
from models import loud_model, loud_reward, tiny_config

from llama_edu.alignment.preferences import (
    LARGE,
    NONE,
    RATINGS,
    SMALL,
    Bin,
    Pair,
    Share,
    accuracy,
    batches,
    calibration,
    gaps,
    pair,
    preference,
    together,
)
from llama_edu.alignment.reward import RewardModel
from llama_edu.data.dialogues_labels import RATED
from llama_edu.data.dialogues_tokenizer import tokenizer
from llama_edu.losses import Loss
from llama_edu.prompts import Message, dialog_tokens, named
from llama_edu.training_loop import train

END = 7


def some_pairs(n, *, seed=0):
    """Pairs of texts of unequal lengths after a common prompt; ratings in turn."""
    chance = torch.Generator().manual_seed(seed)

    def text():
        length = int(torch.randint(1, 9, (), generator=chance))
        return torch.cat([torch.tensor([1, 20, END]),
                          torch.randint(30, 90, (length,), generator=chance), torch.tensor([END])])

    return [Pair(text(), text(), RATINGS[i % 4]) for i in range(n)]


# -- the loss ----------------------------------------------------------------------------------

def by_hand(model, pairs, margins):
    """log(1 + exp(-(gap - margin))), pair by pair, each text alone: no padding, no batch."""
    total = 0.0
    for each in pairs:
        chosen, rejected = (model(text[None], torch.tensor([len(text) - 1])).item()
                            for text in (each.chosen, each.rejected))
        total += math.log1p(math.exp(-(chosen - rejected - margins[each.rating])))
    return total


def check_loss(objective):
    model, pairs = loud_reward(), some_pairs(8)
    for margins in (NONE, SMALL, LARGE):
        found = objective(model, together(pairs, margins))
        assert found.count == 8
        assert found.total.item() == pytest.approx(by_hand(model, pairs, margins), rel=1e-4)


def with_loss(loss):
    """An objective that sums `loss` of chosen scores, rejected scores and margins."""
    def objective(model, batch):
        chosen, rejected = model(batch["tokens"], batch["ends"]).chunk(2)
        return Loss(loss(chosen, rejected, batch["margins"]).sum(), len(chosen))
    return objective


WRONG = {
    "the sign": lambda c, r, m: -(r - c - m).sigmoid().log(),
    "the margin outside": lambda c, r, m: -(c - r).sigmoid().log() - m,
    "the margin added": lambda c, r, m: -(c - r + m).sigmoid().log(),
    "the margin as a factor": lambda c, r, m: -m * (c - r).sigmoid().log(),
    "a mean": lambda c, r, m: -(c - r - m).sigmoid().log() / len(c),
}


def test_the_loss_is_bradley_and_terrys_with_the_margin_inside():
    check_loss(preference)


@pytest.mark.parametrize("loss", WRONG.values(), ids=WRONG)
def test_another_loss_is_noticed(loss):
    with pytest.raises(AssertionError):
        check_loss(with_loss(loss))


def test_cutting_a_batch_changes_neither_the_sum_nor_the_notes():
    model, pairs = loud_reward(), some_pairs(8)
    whole = preference(model, together(pairs, SMALL))
    parts = [preference(model, together(part, SMALL)) for part in (pairs[:3], pairs[3:])]
    assert sum(part.total.item() for part in parts) == pytest.approx(whole.total.item(), rel=1e-5)
    assert sum(part.notes["accuracy"] for part in parts) == whole.notes["accuracy"]


def test_the_loss_of_a_new_model_is_log_2_and_it_is_half_right():
    found = preference(RewardModel.of(loud_model(tiny_config())), together(some_pairs(8), NONE))
    assert found.total.item() / 8 == pytest.approx(math.log(2))
    assert found.notes == {"accuracy": 4.0}


def test_margins_are_the_papers():
    assert [SMALL[rating] for rating in RATINGS] == [1, 2 / 3, 1 / 3, 0]
    assert [LARGE[rating] for rating in RATINGS] == [3, 2, 1, 0]
    assert tuple(RATED) == RATINGS      # what the labellers of the talks say


def test_a_reward_model_learns_what_is_preferred():
    """That token 40 is somewhere in the answer, here."""
    pairs = [Pair(torch.where(each.chosen == each.chosen[3], 40, each.chosen), each.rejected,
                  each.rating) for each in some_pairs(200) if 40 not in each.rejected]
    torch.manual_seed(0)
    model = RewardModel.of(loud_model(tiny_config())).requires_grad_(True)
    learnt = batches(pairs[40:], size=16, seed=0, margins=NONE)
    steps = list(train(model, learnt, preference, lr=lambda index: 3e-3, steps=40))
    assert steps[0].loss == pytest.approx(math.log(2))
    assert steps[-1].notes["accuracy"] > 0.9
    assert (gaps(model.eval(), pairs[:40], size=64) > 0).float().mean() > 0.9


# -- pairs -------------------------------------------------------------------------------------

def test_a_pair_is_the_talk_with_each_answer_and_its_end():
    words, form = tokenizer(), named("llama-3.1")
    prompt = [Message("user", "Who are you?")]
    found = pair(prompt, "I tell tales.", "I will not say that.", "better", words, form)
    for text, said in ((found.chosen, "I tell tales."), (found.rejected, "I will not say that.")):
        talk = [*prompt, Message("assistant", said)]
        assert text.tolist() == dialog_tokens(talk, words, form).ids
        assert text[-1] == words.special["<|eot_id|>"]


def test_a_pair_of_one_text_and_a_strange_rating_are_refused():
    one, other = torch.tensor([3, 4]), torch.tensor([3, 5])
    with pytest.raises(ValueError, match="the same 2 tokens; two that differ"):
        Pair(one, one.clone(), "better")
    with pytest.raises(ValueError, match="rated 'best'; the ratings are significantly better,"):
        Pair(one, other, "best")


def test_every_pair_comes_once_an_epoch_in_another_order():
    pairs = some_pairs(10)
    marks = {(tuple(each.chosen.tolist()), tuple(each.rejected.tolist())) for each in pairs}

    def read(batch):
        rows = [tuple(t for t in row if t >= 0) for row in batch["tokens"].tolist()]
        return list(zip(rows[:5], rows[5:], strict=True))

    found = [read(b) for b in islice(batches(pairs, size=5, seed=1, margins=SMALL), 4)]
    assert {*found[0], *found[1]} == {*found[2], *found[3]} == marks
    assert found[:2] != found[2:]
    with pytest.raises(ValueError, match="10 pairs were given; a batch needs 11"):
        next(batches(pairs, size=11, seed=1, margins=SMALL))


def test_gaps_do_not_depend_on_what_is_read_together():
    model, pairs = loud_reward(), some_pairs(7)
    one = gaps(model, pairs, size=1)
    assert one.abs().min() > 1e-3
    torch.testing.assert_close(gaps(model, pairs, size=64), one, rtol=1e-4, atol=1e-5)
    swapped = [Pair(each.rejected, each.chosen, each.rating) for each in pairs]
    torch.testing.assert_close(gaps(model, swapped, size=3), -one, rtol=1e-4, atol=1e-5)


# -- how good it is ----------------------------------------------------------------------------

def test_accuracy_is_counted_by_rating_and_a_draw_is_half_right():
    ratings = ["better", "better", RATINGS[3], "better", RATINGS[0], RATINGS[3]]
    found = accuracy(torch.tensor([1.0, -2.0, 0.0, 3.0, 0.1, 0.2]), ratings)
    assert found == {RATINGS[0]: Share(1.0, 1), "better": Share(pytest.approx(2 / 3), 3),
                     RATINGS[3]: Share(0.75, 2)}
    assert list(found) == [RATINGS[0], RATINGS[1], RATINGS[3]]


def test_calibration_by_hand():
    logit = torch.tensor([0.55, 0.58, 0.95, 0.97]).logit()
    found = calibration(logit * torch.tensor([1, -1, 1, 1]), n_bins=2)
    assert found == [Bin(2, pytest.approx(0.565), 0.5), Bin(2, pytest.approx(0.96), 1.0)]
    assert calibration(torch.tensor([0.0, 99.0]), n_bins=4) == [Bin(1, 0.5, 0.5), Bin(1, 1.0, 1.0)]


def test_whoever_knows_the_odds_is_calibrated_and_whoever_doubles_them_is_not():
    chance = torch.Generator().manual_seed(0)
    odds = 2 * torch.randn(40_000, generator=chance)
    won = torch.where(torch.rand(40_000, generator=chance) < odds.sigmoid(), odds, -odds)
    for each in calibration(won, n_bins=5):
        noise = 4 * math.sqrt(0.25 / each.count)        # four standard errors at most
        assert each.observed == pytest.approx(each.predicted, abs=noise)
    far = max(each.predicted - each.observed for each in calibration(2 * won, n_bins=5))
    assert far > 0.1
