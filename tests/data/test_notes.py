"""Notes and their records: what they say is what is written, and answers are judged exactly."""

import json

import pytest

from llama_edu.alignment.message_files import parse
from llama_edu.data.notes import FOLDER, KEYS, NUMBERS, asked, is_json, is_right, lines, notes


def test_a_record_says_what_its_note_says():
    for note, record in notes(200, seed=3):
        assert list(record) == list(KEYS)
        assert all(str(record[key]) in note for key in ("who", "colour", "where"))
        assert f"{record['what']}s" in note
        assert NUMBERS[record["number"] - 2] in note


def test_a_seed_always_gives_the_same_notes():
    assert list(notes(5, seed=1)) == list(notes(9, seed=1))[:5]
    assert list(notes(5, seed=1)) != list(notes(5, seed=2))


def test_the_shipped_lines_are_made_by_the_package():
    shipped = (FOLDER / "notes.jsonl").read_text(encoding="utf-8").splitlines()
    assert shipped == list(lines(len(shipped), seed=0))
    assert [said.role for said in parse(shipped[0].encode())] == ["user", "assistant"]


@pytest.mark.parametrize(("answer", "expected"), [
    ('{"number": 2, "who": "Mia", "what": "kite", "colour": "red", "where": "park"}', (1, 1)),
    ('{"who": "Mia", "what": "kite", "colour": "red", "number": "2", "where": "park"}', (1, 0)),
    ('{"who": "Mia", "what": "kites", "colour": "red", "number": 2, "where": "park"}', (1, 0)),
    ('Here it is: {"who": "Mia"}', (0, 0)), ("[1]", (0, 0)), ("", (0, 0))])
def test_an_answer_is_judged(answer, expected):
    record = {"who": "Mia", "what": "kite", "colour": "red", "number": 2, "where": "park"}
    assert (is_json(answer), is_right(answer, record)) == expected


def test_the_question_names_the_keys():
    note, record = next(notes(1, seed=5))
    assert asked(note).endswith(note)
    assert all(key in asked(note) for key in json.loads(json.dumps(record)))
