"""Letters and their news: what they say is in them, and answers are measured exactly."""

import json

import pytest

from llama_edu.alignment.pair_files import parse
from llama_edu.data.brief import FOLDER, asked, brief, keeps, letters, lines, n_words

NEWS = {"who": "Mia", "what": "kite", "colour": "red", "number": 2, "where": "park"}


def test_the_brief_answer_has_every_fact_of_the_letter_and_few_words():
    for letter, news in letters(200, seed=3):
        answer = brief(letter, news)
        assert keeps(answer, news) == keeps(letter, news) == 1
        assert n_words(answer) in (8, 9)
        assert n_words(letter) > n_words(answer) + 5


def test_a_seed_always_gives_the_same_letters():
    assert list(letters(5, seed=1)) == list(letters(9, seed=1))[:5]
    assert list(letters(5, seed=1)) != list(letters(5, seed=2))


def test_the_shipped_pairs_are_those_of_the_package():
    shipped = (FOLDER / "pairs.jsonl").read_text(encoding="utf-8").splitlines()
    rejected = [json.loads(line)["rejected"] for line in shipped]
    assert shipped == list(lines(list(letters(200, seed=0)), rejected))
    pair = parse(shipped[0].encode())
    assert [said.role for said in (*pair.prompt, *pair.chosen, *pair.rejected)] == [
        "user", "assistant", "assistant"]


@pytest.mark.parametrize(("answer", "words", "kept"), [
    ("Mia found two red kites at the park.", 8, 1), ("MIA: 2 red kites, park!", 5, 1),
    ("Mia found twelve red kites at the parking place.", 9, 0.6),
    ("Somebody found something.", 3, 0), ("", 0, 0)])
def test_an_answer_is_measured(answer, words, kept):
    assert (n_words(answer), keeps(answer, NEWS)) == (words, pytest.approx(kept))


def test_the_question_holds_the_letter():
    letter, _ = next(letters(1, seed=5))
    assert asked(letter).endswith(letter)
