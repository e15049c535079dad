"""Readers of one's own text, and the one clear error for each file that cannot be read."""

import io
import json
import sys

import pytest
import tqdm as tqdm_package

from llama_edu.training import text_files
from llama_edu.training.text_files import documents

TALES = ["Once upon a time.", "Es war einmal – ein Lama.", "Zwei\nZeilen 🦙"]


def json_lines(*rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


@pytest.fixture
def folder(tmp_path):
    """Files of each kind that needs no further package, in folders inside folders."""
    (tmp_path / "b" / "deep").mkdir(parents=True)
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "a.txt").write_text(TALES[0], encoding="utf-8")
    (tmp_path / "b" / "deep" / "c.md").write_text(TALES[1], encoding="utf-8")
    (tmp_path / "d.jsonl").write_text(json_lines({"text": TALES[2], "id": 3}), encoding="utf-8")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\0")
    (tmp_path / ".hidden" / "x.txt").write_text("not read")
    return tmp_path


def refused(path, message, **options):
    with pytest.raises(ValueError, match=message) as caught:
        list(documents(path, **options))
    assert "\n" not in caught.value.args[0]


def test_a_folder_gives_every_document_in_the_order_of_names(folder):
    assert list(documents(folder)) == TALES


def test_one_file_can_be_read_alone(folder):
    assert list(documents(str(folder / "a.txt"))) == TALES[:1]


def test_the_field_of_a_json_line_can_be_named(tmp_path):
    file = tmp_path / "x.jsonl"
    file.write_text(json_lines({"story": "one"}, {"story": "two"}) + "\n\n")
    assert list(documents(file, field="story")) == ["one", "two"]


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path):
    (tmp_path / "x.txt").write_bytes(b"\xef\xbb\xbfOnce")
    assert list(documents(tmp_path)) == ["Once"]


def test_documents_come_one_by_one(tmp_path):
    (tmp_path / "x.jsonl").write_text(json_lines({"text": "one"}) + "{broken\n")
    source = documents(tmp_path)
    assert next(source) == "one"
    with pytest.raises(ValueError, match="line 2 of .*x.jsonl is not JSON"):
        next(source)


# -- progress ----------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(("stderr", "shown"), [(Terminal(), True), (io.StringIO(), False)])
def test_the_bar_is_shown_in_a_terminal_only(folder, monkeypatch, stderr, shown):
    monkeypatch.setattr(sys, "stderr", stderr)
    assert list(documents(folder)) == TALES
    assert ("reading: 100%" in stderr.getvalue()) is shown
    if not shown:
        assert stderr.getvalue() == ""


def test_the_bar_arrives_at_the_size_of_all_files(folder, monkeypatch):
    bars = []

    class Bar(tqdm_package.tqdm):
        def __init__(self, **options):
            super().__init__(**options | {"disable": False, "file": io.StringIO()})
            bars.append(self)

    monkeypatch.setattr(text_files, "tqdm", Bar)
    list(documents(folder))
    read = [p for p in folder.rglob("*.*")
            if p.suffix in text_files.READERS and ".hidden" not in p.parts]
    assert bars[0].n == bars[0].total == sum(p.stat().st_size for p in read)


# -- files that cannot be read -----------------------------------------------------------------


def test_a_missing_path(tmp_path):
    refused(tmp_path / "nowhere", "there is no file or folder '.*nowhere'; one with text is needed")


def test_a_folder_without_text(tmp_path):
    (tmp_path / "picture.png").write_bytes(b"x")
    refused(tmp_path, "the folder .* has no file with text in it; one or more of .txt, .md, .jsonl")


def test_a_file_of_another_kind(tmp_path):
    (tmp_path / "x.docx").write_bytes(b"x")
    refused(tmp_path / "x.docx", "x.docx is no kind of file that can be read; .txt, .md, .jsonl")


@pytest.mark.parametrize("name", ["x.txt", "x.jsonl", "x.parquet"])
def test_an_empty_file(tmp_path, name):
    (tmp_path / name).touch()
    refused(tmp_path, f"{name} is empty; some text is needed")
    refused(tmp_path / name, f"{name} is empty")


@pytest.mark.parametrize(("name", "message"), [
    ("x.txt", "holds nothing but spaces"), ("x.jsonl", "holds nothing but empty lines")])
def test_a_file_of_spaces(tmp_path, name, message):
    (tmp_path / name).write_text(" \n\n ")
    refused(tmp_path, message)


@pytest.mark.parametrize("name", ["x.txt", "x.md", "x.jsonl"])
@pytest.mark.parametrize(("content", "message"), [
    (b"\x89PNG\r\n\x1a\n", r"is not text in UTF-8 \(its byte 0x89\)"),
    (b"abc\0def", "is binary .it has zero bytes.")])
def test_a_binary_file(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    refused(tmp_path, f"{name} {message}")


@pytest.mark.parametrize(("row", "message"), [
    ({"txt": "a"}, "line 1 of .* has no text under 'text', but txt; a string is needed. Name the"),
    ({}, "has no text under 'text', but nothing"),
    ({"text": 3}, "has no text under 'text', but int"),
    ({"text": None}, "has no text under 'text', but NoneType"),
    (["a"], "has no text under 'text'"),
    ("a", "has no text under 'text'")])
def test_a_json_line_without_text(tmp_path, row, message):
    (tmp_path / "x.jsonl").write_text(json_lines(row))
    refused(tmp_path, message)


# -- Parquet -----------------------------------------------------------------------------------


def test_parquet_without_pyarrow_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)       # an import of it now fails
    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    refused(tmp_path, "x.parquet is a Parquet file; the package pyarrow, which reads them, is not "
                      "installed. Get it with: pip install pyarrow")


@pytest.fixture
def parquet(tmp_path):
    """Write a table to a file; the tests that need it are skipped where pyarrow is missing."""
    pyarrow = pytest.importorskip("pyarrow", reason="optional: pip install pyarrow")
    import pyarrow.parquet as writer

    def write(**columns):
        writer.write_table(pyarrow.table(columns), tmp_path / "x.parquet", row_group_size=2)
        return tmp_path / "x.parquet"
    return write


def test_parquet_rows_are_documents(parquet):
    assert list(documents(parquet(text=TALES, id=[1, 2, 3]))) == TALES


@pytest.mark.parametrize(("columns", "message"), [
    ({"story": ["a"]}, "row 1 of .*x.parquet has no text under 'text', but story; a string"),
    ({"text": ["a", None]}, "row 2 of .* has no text under 'text', but NoneType"),
    ({"text": [1]}, "row 1 of .* has no text under 'text', but int")])
def test_a_parquet_row_without_text(parquet, columns, message):
    refused(parquet(**columns), message)


def test_a_parquet_file_without_rows(parquet):
    pyarrow = pytest.importorskip("pyarrow")
    refused(parquet(text=pyarrow.array([], pyarrow.string())), "x.parquet has no rows")


def test_a_torn_parquet_file(parquet):
    file = parquet(text=TALES)
    file.write_bytes(file.read_bytes()[:-20])
    refused(file, r"x.parquet cannot be read as Parquet \(.*\). It is cut short")
