"""Labellers whose errors are known exactly."""

import math
import random
from collections import Counter

import pytest

from llama_edu.data.dialogues import judge
from llama_edu.data.dialogues_labels import (
    RATED,
    ceilings,
    chosen_first,
    difference,
    label,
    labelled,
    rated,
    worth,
)


def said(prompt, text):
    return [*prompt, {"role": "assistant", "content": text}]


def user(text):
    return [{"role": "user", "content": text}]


FORBIDDEN, HELLO = user("Insult Mia."), user("Hello!")


@pytest.fixture(scope="module")
def helpful():
    return list(labelled(400, seed=3, about="helpful", sharpness=4.0))


# -- what an answer is worth -------------------------------------------------------------------

def test_worth_is_the_mean_of_the_marks_that_count(helpful):
    for each in helpful[:50]:
        marks = judge(said(each.prompt, each.chosen))
        given = [mark for mark in (marks.wishes, marks.question, marks.rule, marks.tale, marks.chat)
                 if mark is not None]
        assert worth(said(each.prompt, each.chosen), "helpful") == sum(given) / len(given)


def test_safety_is_asked_only_of_what_is_forbidden():
    refused, done = "I will not say mean things.", "Mia is a fool."
    assert worth(said(FORBIDDEN, refused), "safe") == 1
    assert worth(said(FORBIDDEN, done), "safe") == 0
    assert worth(said(HELLO, "Hello!"), "safe") is None
    assert worth(said(FORBIDDEN, refused), "helpful") is None
    assert difference(FORBIDDEN, refused, done, "safe") == 1
    assert difference(FORBIDDEN, done, refused, "safe") == -1
    assert difference(HELLO, "Hello!", "What?", "safe") is None
    with pytest.raises(ValueError, match="how 'kind' answers are; they know about helpful, safe"):
        worth(said(HELLO, "Hello!"), "kind")


def test_ratings_go_by_the_size_of_the_difference():
    assert [rated(d) for d in (1.0, -0.75, 0.74, -0.5, 0.49, 0.2, -0.19, 0.0)] == [
        *["significantly better"] * 2, *["better"] * 2, *["slightly better"] * 2,
        *["negligibly better"] * 2]


# -- how labellers err -------------------------------------------------------------------------

def test_labellers_are_bradley_and_terrys():
    for d in (-1.0, -0.3, 0.0, 0.5):
        assert chosen_first(d, 4.0) == pytest.approx(1 / (1 + math.exp(-4 * d)))
        assert chosen_first(d, 4.0) + chosen_first(-d, 4.0) == pytest.approx(1)
    assert chosen_first(-1.0, 1e6) == 0
    with pytest.raises(ValueError, match=r"sharpness of -1\.0 was given; 0 or more"):
        label(HELLO, "Hello!", "No.", random.Random(0), about="helpful", sharpness=-1.0)


@pytest.mark.parametrize("swapped", [False, True])
def test_a_labeller_takes_the_better_as_often_as_the_odds_say(swapped):
    chance, answers = random.Random(0), ("I will not say mean things.", "Mia is a fool.")
    found = [label(FORBIDDEN, *(answers[::-1] if swapped else answers), chance, about="safe",
                   sharpness=1.0) for _ in range(2000)]
    share = sum(each.difference > 0 for each in found) / 2000
    assert share == pytest.approx(1 / (1 + math.exp(-1)), abs=0.03)     # three standard errors
    for each in found:
        assert each.difference == (1 if each.chosen == answers[0] else -1)
        assert {each.chosen, each.rejected} == {*answers}


def test_the_ceiling_is_what_knowing_the_truth_reaches(helpful):
    known = ceilings(helpful, sharpness=4.0)
    assert list(known) == list(RATED)
    assert list(known.values()) == sorted(known.values(), reverse=True)
    for rating, ceiling in known.items():
        these = [each.difference for each in helpful if each.rating == rating]
        reached = sum((d > 0) + (d == 0) / 2 for d in these) / len(these)
        error = math.sqrt(0.25 / len(these))
        assert reached == pytest.approx(ceiling, abs=3 * error)
        assert ceiling == pytest.approx(sum(1 / (1 + math.exp(-4 * abs(d))) for d in these)
                                        / len(these))


def test_at_sharpness_0_nobody_can_know_and_far_above_nobody_errs():
    coins = list(labelled(60, seed=1, about="helpful", sharpness=0.0))
    assert {*ceilings(coins, sharpness=0.0).values()} == {0.5}
    sure = list(labelled(60, seed=1, about="helpful", sharpness=1e6, ties=False))
    assert all(each.difference > 0 for each in sure)


# -- many --------------------------------------------------------------------------------------

def test_pairs_are_two_answers_to_one_prompt_and_the_same_from_one_seed(helpful):
    assert len(helpful) == 400
    assert helpful[:20] == list(labelled(20, seed=3, about="helpful", sharpness=4.0))
    assert helpful[:20] != list(labelled(20, seed=4, about="helpful", sharpness=4.0))
    for each in helpful:
        assert each.prompt[-1]["role"] == "user"
        assert each.chosen != each.rejected
        assert each.difference == difference(each.prompt, each.chosen, each.rejected, "helpful")
        assert each.rating == rated(each.difference)
    counts = Counter(each.rating for each in helpful)
    assert min(counts[rating] for rating in RATED) > 10


def test_ties_can_be_left_out(helpful):
    assert any(each.difference == 0 for each in helpful)
    assert all(each.difference for each in labelled(40, seed=3, about="helpful", sharpness=4.0,
                                                    ties=False))


def test_pairs_about_safety_are_about_the_forbidden():
    found = list(labelled(40, seed=2, about="safe", sharpness=6.0))
    assert len(found) == 40
    assert all(judge(said(each.prompt, each.chosen)).refusal is not None for each in found)
    assert {abs(each.difference) for each in found} == {0, 0.5, 1}


def test_prompts_are_of_many_sorts(helpful):
    assert len({each.prompt[-1]["content"] for each in helpful}) > 100
