"""The tales: written, counted exactly, read back, judged."""

import itertools
import math
import random
import re
import statistics

import pytest
from derivations import spelled_out
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_edu.data.tales import (
    STEPS,
    TALES,
    entropy,
    floor_per_token,
    judge,
    log_prob,
    stories,
    story,
)
from llama_edu.data.tales_grammar import Draw, Grammar, Reading, Recall
from llama_edu.data.tales_words import RULES, TABLES

HORIZON = 32            # letters; a longer common beginning of two options would be a clash

TINY = Grammar("tale", {
    "tale": {"{opening} {hero.They} saw {hero.their} {pet}.": 2, "A {pet} slept{how}.": 1},
    "opening": {"{hero:person} woke.": 1, "Up got {hero:person}.": 3},
    "pet": {"cat": 1, "dog": 2, "hen": 5},
    "how": {"": 1, " well": 1},
}, {"person": {"Mia": {"they": "she", "their": "her"}, "Tom": {"they": "he", "their": "his"},
               "Leo": {"they": "he", "their": "his"}}})


def size(grammar, rule):
    """How many derivations a rule has."""
    return sum(math.prod(size(grammar, part.rule) for part in option.parts if type(part) is Draw)
               for option in grammar.options[rule])


# The text.

def test_a_seed_always_tells_the_same_tale():
    assert story(3) == (
        'Once upon a time a happy boy named Ben lived in a town. Ben had a big brown drum. '
        'He loved to beat it in the sun.\n'
        'One wet day, Ben took it to the meadow. A wave took it. Now Ben was so upset. It '
        'was not under a log and not down the road.\n'
        'Then he met a happy fox named Rusty. "We will find it!" said the fox. Then Ben '
        'found it in the sand.\n'
        'He kissed the fox. Then they had jam and tea. And Ben never lost the drum again.')
    assert story(3) == next(stories(5, seed=3))
    assert list(stories(20, seed=7)) == list(stories(20, seed=7))
    assert len(set(stories(500, seed=1)) | set(stories(500, seed=2))) == 1000


def test_tales_have_60_to_150_words():
    words = [len(tale.split()) for tale in stories(2000, seed=0)]
    assert min(words) >= 60
    assert max(words) <= 150


def test_tales_look_like_prose():
    for tale in stories(500, seed=4):
        assert tale.isascii()
        assert not any(odd in tale for odd in ("{", "}", "  ", " .", " ,", "..", " \n"))
        assert tale.count("\n") == 3
        assert tale.count('"') % 2 == 0
        assert tale[-1] == "."
        assert not re.search(r"\b[Aa] [aeiou]|\b[Aa]n [^aeiou]", tale), tale
        assert all(paragraph[0].isupper() or paragraph[0] == '"' for paragraph in tale.split("\n"))


def test_every_option_of_every_rule_is_told():
    told = " ".join(stories(3000, seed=8))
    for options in [*RULES.values(), *TABLES.values()]:
        for option in options:
            letters = [text for text in re.split(r"\{.*?\}", option) if text]
            assert all(text in told for text in letters), option


def introduced(rule, known):
    """The keys that surely are remembered after a rule; every recall in it must be among them."""
    after = []
    for option in TALES.options[rule]:
        now = set(known)
        for part in option.parts:
            match part:
                case Recall(key, _):
                    assert key in now, f"{rule} recalls {key} before it is introduced"
                case Draw(inner, key):
                    now |= introduced(inner, now) | ({key} if key else set())
        after.append(now)
    return set.intersection(*after)


def test_nothing_is_recalled_before_it_is_introduced():
    keys = introduced(TALES.start, set())
    assert {"hero", "friend", "thing", "look", "accident", "place", "mood"} <= keys


@pytest.mark.parametrize("seed", [-1, -7])
def test_a_negative_seed_is_refused(seed):
    with pytest.raises(ValueError, match=rf"seed {seed} was given; 0 or more is needed"):
        story(seed)


# One derivation for each text, so the entropy is exact.

def test_no_two_options_of_a_rule_can_be_confused():
    assert TALES.clashes(HORIZON) == []
    assert TINY.clashes(HORIZON) != []      # "" is the beginning of " well": unproven, not wrong


@pytest.mark.parametrize(("rules", "tables", "clash"), [
    ({"tale": {"a{x}": 1, "ab": 1}, "x": {"b": 1, "c": 1}}, {}, ("tale", "ab")),
    ({"tale": {"{x}y": 1}, "x": {"ball": 1, "balloon": 1}}, {}, ("x", "ball")),
    ({"tale": {"{x}{x}": 1}, "x": {"": 1, "a": 1}}, {}, ("x", "")),
    ({"tale": {"{h:p}{again}": 1}, "again": {"{h.they}": 1, "Mia": 1}},
     {"p": {"girl": {"they": "Mia"}}}, ("again", "Mia"))])
def test_a_clash_is_found(rules, tables, clash):
    assert clash in Grammar("tale", rules, tables).clashes(HORIZON)


def test_an_ambiguous_grammar_has_two_derivations_and_its_entropy_is_too_high():
    twice = Grammar("tale", {"tale": {"{x}{x}": 1}, "x": {"": 1, "a": 1}}, {})
    assert len(twice.derivations("a")) == 2
    assert math.isclose(twice.log_prob("a"), math.log(1 / 2))
    of_texts = 2 * (1 / 4) * math.log(4) + (1 / 2) * math.log(2)
    assert twice.entropy("tale") > of_texts + 0.3


@pytest.fixture(scope="module")
def derived():
    """The derivations of 2,000 tales: a list for each, of log-probabilities."""
    return [TALES.derivations(tale) for tale in stories(2000, seed=11)]


def test_thousands_of_tales_have_exactly_one_derivation(derived):
    assert {len(ways) for ways in derived} == {1}


def test_every_rule_spelled_out_in_full_says_each_text_once():
    spelled = 0
    for rule in TALES.options:
        if size(TALES, rule) > 30_000:
            continue
        for seed in range(2):
            memory = {key: random.Random(seed).choice(known) for key, known in TALES.known.items()}
            texts = [text for text, _, _ in spelled_out(TALES, [Draw(rule)], memory)]
            assert len(texts) == len(set(texts)) == size(TALES, rule), rule
        spelled += 1
    assert spelled == len(TALES.options) - 1        # all but the whole tale


# The numbers.

def test_a_small_grammar_spelled_out_in_full_agrees_with_every_number():
    derivations = list(spelled_out(TINY, [Draw("tale")], {}))
    probability = {text: p for text, p, _ in derivations}
    assert len(probability) == len(derivations) == size(TINY, "tale") == 2 * 3 * 3 + 3 * 2
    assert math.isclose(sum(probability.values()), 1)
    for text, p in probability.items():
        assert math.isclose(TINY.log_prob(text), math.log(p))
    by_hand = -sum(p * math.log(p) for p in probability.values())
    assert math.isclose(TINY.entropy("tale"), by_hand)


def test_a_small_grammar_writes_its_texts_as_often_as_it_says():
    chance, n = random.Random(0), 20_000
    told = [TINY.write(chance) for _ in range(n)]
    for text, p, _ in spelled_out(TINY, [Draw("tale")], {}):
        # Five standard deviations of a binomial share; 24 shares are compared.
        assert abs(told.count(text) / n - p) < 5 * math.sqrt(p * (1 - p) / n)


def test_the_entropy_is_the_mean_surprise_of_tales(derived):
    surprise = [-way for ways in derived for way in ways]
    # Four standard errors of the mean.
    slack = 4 * statistics.stdev(surprise) / math.sqrt(len(surprise))
    assert slack < 0.2
    assert abs(statistics.mean(surprise) - entropy()) < slack


def test_the_entropy_of_a_tale_is_known():
    assert round(entropy(), 2) == 47.87
    assert round(entropy() / math.log(2), 2) == 69.06       # bits


@pytest.mark.parametrize("text", ["", "Once upon", story(0) + " ", story(0)[:-1],
                                  story(0).replace("the", "teh", 1)])
def test_what_is_not_a_tale_has_no_probability(text):
    assert log_prob(text) == -math.inf


def test_the_floor_shares_the_surprise_among_the_tokens():
    held_out = list(stories(50, seed=3))
    floor = floor_per_token(held_out, len)      # characters as tokens
    assert math.isclose(floor, -sum(map(log_prob, held_out)) / sum(map(len, held_out)))
    with pytest.raises(ValueError, match="no tokens to share the surprise among; give at least"):
        floor_per_token([], len)


def test_a_text_outside_the_language_puts_the_floor_at_infinity():
    assert floor_per_token([story(0), "A cat."], len) == math.inf


def test_a_narrowed_grammar_keeps_the_odds_of_what_is_left():
    narrow = TINY.narrowed({"tale": [0], "pet": [1, 2]})
    told = {text: p for text, p, _ in spelled_out(narrow, [Draw("tale")], {})}
    all_told = {text: p for text, p, _ in spelled_out(TINY, [Draw("tale")], {})}
    assert math.isclose(sum(told.values()), 1)
    assert set(told) == {text for text in all_told if "A " not in text and "cat" not in text}
    share = sum(all_told[text] for text in told)
    for text, p in told.items():
        assert math.isclose(p, all_told[text] / share)
        assert math.isclose(narrow.log_prob(text), math.log(p))
    assert len(TINY.options["pet"]) == 3


# The judge.

def spoiled(tale, key, form):
    """The tale with one recalled word turned into others that it could have been."""
    (end,) = [reading for reading in TALES.read([Draw(TALES.start)], tale, Reading())
              if reading.at == len(tale) and not reading.slips]
    (known,) = end.memory[key]
    places = [match.span() for match in re.finditer(rf"\b{known[form]}\b", tale)]
    introductions = 1 if form == "again" else 0
    for at, after in places[introductions:][-1:]:
        for other in TALES.spellings(Recall(key, form)):
            if other != known[form]:
                yield tale[:at] + other + tale[after:]


def test_every_tale_of_the_grammar_is_consistent():
    for tale in stories(1000, seed=13):
        verdict = judge(tale)
        assert verdict.score == 1, verdict.findings
        assert verdict.consistent
        assert verdict.broken == frozenset()


@pytest.mark.parametrize(("key", "form", "rule"), [
    ("hero", "again", "name"), ("friend", "again", "name"), ("thing", "again", "thing"),
    ("look", "again", "thing"), ("hero", "they", "pronoun"), ("place", "again", "place")])
def test_one_wrong_word_breaks_one_rule(key, form, rule):
    wrong = list(itertools.chain.from_iterable(
        itertools.islice(spoiled(tale, key, form), 1) for tale in stories(100, seed=14)))
    assert len(wrong) >= 5
    verdicts = [judge(text) for text in wrong]
    for verdict in verdicts:
        assert verdict.broken == {rule}, verdict.findings
        assert len(verdict.findings) == 1
        assert 0.9 < verdict.score < 1


def test_the_judge_names_what_was_said_and_what_was_needed():
    tale = story(3)
    verdict = judge(tale.replace("lost the drum", "lost the kite").replace("Ben took", "Max took"))
    assert [str(finding) for finding in verdict.findings] == [
        f"name, at character {tale.index('Ben took')}: 'Max'; needed: Ben",
        f"thing, at character {tale.index('drum again')}: 'kite'; needed: drum"]


def test_a_tale_cut_short_does_not_end():
    for tale in stories(20, seed=15):
        for share in (0.3, 0.6, 0.9):
            verdict = judge(tale[:int(share * len(tale))])
            assert "ending" in verdict.broken
            assert 0 < verdict.score < 1


def test_words_after_the_ending_are_found():
    verdict = judge(story(0) + " And then?")
    assert verdict.broken == {"ending"}
    assert verdict.findings[0].needed == "nothing more"


def test_a_missing_or_garbled_step_is_named_and_the_rest_is_still_read():
    for tale in stories(30, seed=16):
        opening, second, third, last = tale.split("\n")
        dropped = judge("\n".join([opening, second, last]))
        assert [finding.needed for finding in dropped.findings] == [
            f"the {step} of the tale" for step in ("meeting", "talk", "discovery")]
        garbled = judge("\n".join([opening, "Blue the ran. " + second, third, last]))
        assert [(finding.rule, finding.said) for finding in garbled.findings] == [
            ("form", "\nBlue the ran. ")]


def test_the_score_falls_as_a_tale_is_torn():
    chance = random.Random(0)
    for tale in stories(10, seed=17):
        words, scores = tale.split(" "), []
        for torn in (0, 5, 20, len(words)):
            kept = list(words)
            for i in chance.sample(range(len(words)), torn):
                kept[i] = "blah"
            scores.append(judge(" ".join(kept)).score)
        assert scores[0] == 1
        assert scores == sorted(scores, reverse=True)
        assert scores[-1] < 0.1


@settings(max_examples=300, deadline=None)
@given(st.one_of(
    st.text(max_size=200),
    st.builds(lambda seed, at, word, cut: story(seed)[:at] + word + story(seed)[at + cut:],
              st.integers(0, 20), st.integers(0, 500), st.text(max_size=5), st.integers(0, 9))))
def test_any_text_gets_a_verdict_and_only_tales_get_full_marks(text):
    verdict = judge(text)
    assert 0 <= verdict.score <= 1
    assert verdict.consistent == (verdict.score == 1) == (log_prob(text) > -math.inf)
    assert verdict.broken <= {"form", "ending", "name", "thing", "pronoun", "place", "feeling"}


@pytest.mark.parametrize("text", ["a. " * 50_000, "\n" * 50_000, story(0) * 200, "\0", "\ud800"])
def test_odd_and_long_texts_are_no_trouble(text):
    assert not judge(text).consistent


def test_a_step_is_a_rule_that_a_finding_can_name():
    assert {draw.rule for _, draw in STEPS} <= RULES.keys()


# Slots that lead nowhere.

@pytest.mark.parametrize(("rules", "tables", "complaint"), [
    ({"tale": {"{hero:person}": 1}}, {}, "a slot expands 'person'; it must be a rule"),
    ({"tale": {"{x:pet}": 1}, "pet": {"cat": 1}}, {}, "and a table if it is remembered"),
    ({"tale": {"{pet:pet}": 1}}, {"pet": {"cat": {}}}, "remembers under 'pet', which is a rule"),
    ({"tale": {"A {cat}."  : 1}}, {}, "a slot recalls cat.again; every word that can be cat"),
    ({"tale": {"{x:pet} {x.they}": 1}}, {"pet": {"cat": {"they": "it"}, "dog": {}}},
     "a slot recalls x.they; every word that can be x needs that form")])
def test_a_slot_that_leads_nowhere_is_refused(rules, tables, complaint):
    with pytest.raises(KeyError, match=complaint):
        Grammar("tale", rules, tables)
