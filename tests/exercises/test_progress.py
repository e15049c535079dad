"""Hints come one by one; progress is kept safely, and never counts what is no try."""

import json
import os
from pathlib import Path

import pytest
from learner import right, stub, wrong

from llama_edu.exercises import check, hint, progress
from llama_edu.exercises.records import FILE

pytestmark = pytest.mark.usefixtures("folder")


# -- hints ------------------------------------------------------------------------------------


def test_each_call_gives_one_hint_more_until_there_are_none():
    said = [str(hint("1.3")) for _ in range(5)]
    assert [text[:15] for text in said[:3]] == [f"1.3 hint {i} of 3" for i in (1, 2, 3)]
    assert said[3] == said[4]
    assert said[3].startswith("1.3 has no more hints than these 3. Read chapter 1, ")
    assert "<strong>1.4</strong> hint 1 of" in hint("1.4")._repr_html_()


# -- progress ---------------------------------------------------------------------------------


def line(exercise: str) -> str:
    return next(each for each in str(progress()).splitlines() if f" {exercise} " in each)


def test_progress_lies_beside_the_book_and_counts_tries(folder: Path):
    check("1.1", wrong)
    assert line("1.2").endswith("not attempted yet")
    check("1.1", wrong)
    assert line("1.1").startswith("  ✗ 1.1")
    assert line("1.1").endswith("2 tries, not right yet")
    check("1.1", right)
    assert line("1.1").startswith("  ✓ 1.1")
    assert line("1.1").endswith("solved in 3 tries")
    assert (folder / FILE).is_file()
    assert not (folder / "chapters" / FILE).exists()
    assert [path.name for path in folder.iterdir() if path.name.startswith(FILE)] == [FILE]


def test_a_success_is_never_erased():
    check("1.1", right)
    check("1.1", stub)
    check("1.1", wrong)
    assert line("1.1").endswith("solved in 1 try")


def test_neither_stubs_nor_misuse_are_recorded(folder: Path):
    check("1.1", stub)
    check("1.1", None)
    check("9.9", right)
    assert not (folder / FILE).exists()


def test_solutions_are_not_recorded(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(folder / "solutions")
    assert check("1.1", right).passed
    assert not (folder / FILE).exists()


def test_without_a_book_progress_stays_where_one_is(
        tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch):
    alone = tmp_path_factory.mktemp("alone")
    monkeypatch.chdir(alone)
    check("1.1", right)
    assert (alone / FILE).is_file()


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"exercises": 3}', '{"exercises": [1]}',
                                  '{"exercises": {"1.1": 1}}', "\ufeff{}", "[" * 9_999,
                                  '{"exercises": {"1.1": {"solved": true, "tries": "x"}}}',
                                  '{"exercises": {"1.1": {"solved": 1, "tries": 1e999}}}'])
def test_a_broken_progress_file_breaks_nothing(folder: Path, text: str):
    (folder / FILE).write_text(text, encoding="utf-8")
    assert "0 of " in progress().summary
    assert check("1.1", right).passed
    assert json.loads((folder / FILE).read_text())["exercises"]["1.1"]["solved"] is True


def test_progress_that_cannot_be_saved_is_said_and_breaks_nothing(folder: Path):
    (folder / FILE).mkdir()
    report = check("1.1", right)
    assert report.passed
    assert dict(report.details)["progress"].startswith("not saved: ")
    assert os.listdir(folder / FILE) == []
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        [FILE, "book.yml", "chapters", "solutions"])


def test_an_answer_that_is_shown_wrong_on_purpose_is_no_try(folder: Path):
    def wrong_on_purpose(x, weight, eps):
        return wrong(x, weight, eps)

    assert not check("1.1", wrong_on_purpose).passed
    assert not (folder / FILE).exists()


def test_a_chapter_that_was_not_begun_takes_one_line():
    check("1.1", right)
    text = str(progress())
    assert " 1.2 " in text
    assert " 2.1 " not in text
    assert "\nchapter 2: " in text
    assert "exercises, not begun" in text
    assert "exercises, not begun" in progress()._repr_html_()


def test_progress_is_a_table_by_chapter_in_text_and_html():
    check("1.1", right)
    text, html = str(progress()), progress()._repr_html_()
    assert "chapter 1\n  ✓ 1.1 " in text
    assert text.endswith(progress().summary)
    assert progress().summary.startswith("1 of ")
    assert '<th scope="row"' in html
    assert '<th scope="col"' in html
    assert "<caption" in html
