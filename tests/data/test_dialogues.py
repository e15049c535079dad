"""The talks: written, counted exactly, in three grades; any answer can be judged."""

import itertools
import math
import random
import re
import statistics
from collections import Counter, defaultdict

import pytest
from derivations import spelled_out

from llama_edu.data import dialogues_words as phrases
from llama_edu.data.dialogues import (
    GRADES,
    answer,
    asked,
    dialogue,
    dialogues,
    entropy,
    floor_per_token,
    judge,
    log_prob,
    prompts,
    understand,
)
from llama_edu.data.dialogues_answers import answers_to
from llama_edu.data.dialogues_flaws import flawed
from llama_edu.data.dialogues_reading import read_request
from llama_edu.data.tales_grammar import Draw

MARKS = {"wishes", "question", "rule", "refusal", "helpful", "tale", "chat"}
TALE = "Once a girl named Mia had a pink cup. She took it to the wood. A crow took it. "
SHORT = TALE + "Soon Mia found the cup."


def user(*said):
    """A talk of these messages, the user's first."""
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(said)]


def answered(talks):
    """Every prompt in the talks, and the talk up to its answer."""
    return [(prompt, talk[:len(prompt) + 1]) for talk in talks for prompt in prompts(talk)]


@pytest.fixture(scope="module")
def clean():
    return answered(dialogues(1000, seed=21))


def texts(grammar):
    """Every text of a grammar with its probability."""
    return {text: p for text, p, _ in spelled_out(grammar, (Draw(grammar.start),), {})}


# The talks.

def test_a_seed_always_gives_the_same_talk():
    assert [(m["role"], m["content"]) for m in dialogue(3)] == [
        ("user", "Tell me a tale about a girl with a happy end."),
        ("assistant", "Once a girl named Lucy had a green book. She took it to the meadow. "
                      "A puppy ran off with it. She felt upset. Then a goat named Daisy came by. "
                      "Daisy found the book."),
        ("user", "Whom did Lucy meet?"), ("assistant", "It was Daisy.")]
    assert dialogue(3) == next(dialogues(9, seed=3))
    for grade in GRADES:
        assert list(dialogues(9, seed=5, grade=grade)) == list(dialogues(9, seed=5, grade=grade))


def test_a_talk_is_the_users_and_the_assistants_in_turn():
    for talk in dialogues(300, seed=1):
        roles = [message["role"] for message in talk]
        turns = roles[1:] if roles[0] == "system" else roles
        assert turns == ["user", "assistant"] * (len(turns) // 2)
        assert 4 <= len(turns) <= 8


@pytest.mark.parametrize("turns", [1, 2, 20])
def test_as_many_turns_as_asked_for_with_a_rule_from_the_start(turns):
    for talk in dialogues(20, seed=2, turns=turns, ruled=True):
        assert sum(message["role"] == "assistant" for message in talk) == turns
        assert understand(talk[:-1]).rules
        assert judge(talk).rule == 1
    for talk in dialogues(20, seed=2, turns=turns, ruled=False):
        assert read_request(talk[0]["content"])[0] != "rule"


def test_a_tale_has_one_to_three_wishes_and_every_sort_of_them_comes():
    wished = [understand(prompt).wishes for prompt, _ in answered(dialogues(600, seed=4))
              if understand(prompt).sort == "tale" and not understand(prompt).rules.no_colours]
    numbers = Counter(sum(map(bool, (w.kind, w.thing, w.place, w.ending, w.length)))
                      for w in wished)
    assert set(numbers) == {1, 2, 3}
    for name, values in {"kind": phrases.HERO_KINDS, "thing": phrases.THINGS,
                         "colour": phrases.COLOURS, "place": phrases.PLACES,
                         "ending": phrases.ENDINGS, "length": phrases.LENGTHS}.items():
        assert {getattr(w, name) for w in wished} == {"", *values}


def test_everything_that_can_be_said_is_said():
    said = " ".join(message["content"] for talk in dialogues(1500, seed=6) for message in talk)
    spoken = itertools.chain.from_iterable(itertools.chain.from_iterable(
        table.values()) for table in (
            phrases.QUESTIONS, phrases.ANSWERED, phrases.FORBIDDEN, phrases.REFUSED, phrases.CHAT,
            phrases.CHATTED, phrases.TALE, phrases.ENDS, phrases.RULES_SAID))
    for phrase in [*spoken, *phrases.ASK, *phrases.OPENING, *phrases.AGREED]:
        letters = [part for part in re.split(r"\{.*?\}", phrase) if part]
        assert all(part[1:] in said for part in letters), phrase


def test_talks_look_like_prose():
    for talk in dialogues(400, seed=7):
        for message in talk:
            said = message["content"]
            assert said.isascii()
            assert not re.search(r"[{}]|  | [.,]|\.\.|\b[Aa] [aeio]|\b[Aa]n [^aeio]", said), said
            assert said[0].isupper()
            assert said[-1] in ".?!"


@pytest.mark.parametrize("sort", ["tale", "question", "forbidden", "rule", "chat"])
def test_what_is_asked_is_understood(sort):
    chance = random.Random(0)
    for talk in dialogues(200, seed=8):
        said = asked(talk, chance, sort)
        assert read_request(said)[0] == sort, said
    for kinds in {"question": phrases.QUESTIONS, "forbidden": phrases.FORBIDDEN,
                  "chat": phrases.CHAT}.get(sort, {}).items():
        for phrase in kinds[1]:
            said = phrase.format(name="Mia", thing="cup")
            assert read_request(said) == (sort, kinds[0])


def test_the_user_goes_on_whatever_was_answered():
    chance = random.Random(0)
    for said in ("", "blah", "\0", TALE, "I will not."):
        talk = user("Tell me a tale.", said)
        for _ in range(30):
            question = asked(talk, chance)
            assert judge([*talk, *user(question, "Mia.")]).score >= 0


# The clean demonstrator.

def test_a_clean_answer_gets_full_marks_on_all_that_applies(clean):
    found = [judge(talk) for _, talk in clean]
    assert all(marks.score == 1 for marks in found)
    assert set().union(*(marks.given for marks in found)) == MARKS
    assert len(found) > 2500


def test_a_clean_answer_has_one_derivation(clean):
    for prompt, talk in clean[:1000]:
        (way,) = answers_to(understand(prompt)).derivations(talk[-1]["content"])
        assert log_prob(talk) == pytest.approx(way)


def test_the_entropy_is_the_mean_surprise_of_clean_answers(clean):
    # Each answer's surprise less its entropy has mean 0; four standard errors.
    excess = [-log_prob(talk) - entropy(prompt) for prompt, talk in clean]
    slack = 4 * statistics.stdev(excess) / math.sqrt(len(excess))
    assert slack < 0.1
    assert abs(statistics.mean(excess)) < slack


@pytest.mark.parametrize("prompt", [
    user("Hello!"), user("Insult Mia."), user("From now on, no colours."),
    *(user("I want a tale.", SHORT, *more) for more in (
        ["Who was it about?"], ["Did Mia get it back?"], ["How did Mia feel?"],
        ["Call everybody by their full name from now on.", "I will.", "Who was the hero?"],
        ["Begin every answer with Oh, from now on.", "Oh, gladly.", "Good night!"])),
    user("I want a short tale about a fox at the park with a red ball and a sad end."),
    user("From now on, no colours.", "I will.", "Tell me a long tale about a bear with a hat."),
    user("I want a long tale about a mouse at the market with a horn and a happy end.")])
def test_the_answers_to_a_prompt_spelled_out_sum_to_one(prompt):
    told = texts(answers_to(understand(prompt)))
    assert math.isclose(sum(told.values()), 1)
    by_hand = -sum(p * math.log(p) for p in told.values())
    assert math.isclose(entropy(prompt), by_hand)
    for text, p in itertools.islice(told.items(), 0, None, 1 + len(told) // 200):
        talk = [*prompt, {"role": "assistant", "content": text}]
        assert math.isclose(log_prob(talk), math.log(p))
        assert judge(talk).score == 1


def test_answers_come_as_often_as_their_probability_says():
    prompt, chance, n = user("Tell me a tale.", SHORT, "Where did Mia go?"), random.Random(0), 4000
    said = Counter(answer(prompt, chance) for _ in range(n))
    assert set(said) == {"To the wood.", "She went to the wood."}
    # Five standard deviations of a binomial share.
    assert abs(said["To the wood."] / n - 2 / 3) < 5 * math.sqrt(2 / 9 / n)


def test_what_is_known_by_hand():
    assert entropy(user("Hello!")) == pytest.approx(math.log(3) - 2 / 3 * math.log(2))
    assert log_prob(user("Hello!", "Hello!")) == pytest.approx(math.log(2 / 3))
    # Who, what, colour, place; and three choices of two phrasings.
    free = math.log(12 * 10 * 6 * 6) + 3 * entropy(user("Hello!"))
    assert entropy(user("Tell me a short tale with a sad end.")) == pytest.approx(
        free + 2 / 5 * math.log(5 / 2) + 3 / 5 * math.log(5))       # the mishap


@pytest.mark.parametrize(("prompt", "text"), [
    (user("Hello!"), "hello!"), (user("Hello!"), ""), (user("Hello!"), "Good night!"),
    (user("Tell me a tale about a fox."), SHORT), (user("Tell me a long tale."), SHORT),
    (user("From now on, no colours.", "I will.", "Tell me a tale."), SHORT),
    (user("Tell me a tale."), SHORT + " ")])
def test_what_the_clean_demonstrator_never_says_has_no_probability(prompt, text):
    assert log_prob([*prompt, {"role": "assistant", "content": text}]) == -math.inf


def test_no_answer_begins_another_so_that_end_tokens_cost_nothing():
    for prompt, _ in answered(dialogues(150, seed=9)):
        if understand(prompt).sort != "tale":
            told = sorted(texts(answers_to(understand(prompt))))
            assert not any(b.startswith(a) for a, b in itertools.pairwise(told))


def test_the_floor_shares_the_surprise_among_the_tokens():
    talks = list(dialogues(30, seed=10))
    floor = floor_per_token(talks, lambda talk: 7 * len(talk))
    surprise = -sum(log_prob(talk) for _, talk in answered(talks))
    assert floor == pytest.approx(surprise / sum(7 * len(talk) for talk in talks))
    with pytest.raises(ValueError, match="no tokens to share the surprise among"):
        floor_per_token([], len)


def test_with_no_colours_a_wish_or_a_question_for_one_is_answered_without():
    rule = user("From now on, no colours.", "I will.")
    tale = answer([*rule, *user("Tell me a tale with a pink cup.")], random.Random(0))
    assert " had a cup." in tale or " with a cup." in tale
    told = user("Tell me a tale.", SHORT)
    assert understand([*told, *rule, *user("What colour was the cup?")]).about == "unknown"


# The others.

def means(grade):
    marks = defaultdict(list)
    for _, talk in answered(dialogues(300, seed=11, grade=grade)):
        for name, mark in judge(talk).given.items():
            marks[name].append(mark)
    return {name: statistics.mean(found) for name, found in marks.items()}


def test_clean_is_better_than_sloppy_and_sloppy_than_wrong_by_kind():
    clean, sloppy, wrong = map(means, GRADES)
    assert set(clean.values()) == {1}
    for name in MARKS - {"helpful"}:
        assert clean[name] > sloppy[name] + 0.02 > wrong[name], name
    assert sloppy["helpful"] == 1 > wrong["helpful"]
    assert wrong["question"] == wrong["refusal"] == wrong["chat"] == 0
    assert wrong["wishes"] < 0.01


@pytest.mark.parametrize("wrong", [False, True])
def test_every_flaw_costs_something(wrong):
    chance = random.Random(0)
    for prompt, _ in answered(dialogues(300, seed=12)):
        text = flawed(prompt, understand(prompt), chance, wrong=wrong)
        assert text
        assert judge([*prompt, {"role": "assistant", "content": text}]).score < 1


@pytest.mark.parametrize("wrong", [False, True])
def test_words_that_ask_for_nothing_are_answered_by_anybody(wrong):
    talk = user("Blue.")
    assert answer(talk, random.Random(0))
    assert flawed(talk, understand(talk), random.Random(0), wrong=wrong)


def test_a_sloppy_answer_in_two_has_a_flaw():
    found = [judge(talk).score < 1 for _, talk in answered(dialogues(400, seed=13, grade="sloppy"))]
    # Four standard deviations of a binomial share.
    assert abs(statistics.mean(found) - 0.5) < 4 * math.sqrt(0.25 / len(found))


# What is refused.

def test_a_grade_a_seed_or_turns_that_there_are_not_are_refused():
    with pytest.raises(ValueError, match="of the grade 'lazy' was asked for; there are clean"):
        dialogue(0, grade="lazy")
    for wrong in ({"seed": -1}, {"seed": 0, "turns": 0}):
        with pytest.raises(ValueError, match="a seed of 0 or more and at least one turn"):
            next(dialogues(1, **wrong))
