"""`llama-edu perplexity`: numbers on stdout, one sentence for every mistake."""

import re

import pytest
from folders import CORPUS, save_folder

from llama_edu.checkpoint import load
from llama_edu.cli import main
from llama_edu.evaluation.perplexity import perplexity

TEXT = " ".join(CORPUS * 3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("folder")
    save_folder(path)
    return path


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "wiki.test.raw"
    path.write_text(TEXT + "\n", encoding="utf-8")
    return path


def test_it_prints_what_is_measured(folder, file, capsys):
    assert main(["perplexity", str(folder), str(file)]) == 0
    out, err = capsys.readouterr()
    found = perplexity(*load(folder), TEXT)         # the line end of a file does not count
    assert out == (f"perplexity      {found.perplexity:.4f} +/- {found.error:.4f}\n"
                   f"nats per token  {found.nats_per_token:.4f}\n"
                   f"nats per byte   {found.nats_per_byte:.4f} "
                   f"({found.nats_per_byte * 1.442695:.4f} bits)\n"
                   f"counted         {63 * found.n_windows} tokens in {found.n_windows} windows\n")
    assert err == ""


def test_it_gives_the_same_of_every_format(folder, file, tmp_path, capsys):
    said = set()
    for format, place in (("gguf", tmp_path / "x.gguf"), ("meta", tmp_path / "meta")):
        assert main(["convert", str(folder), str(place), "--format", format]) == 0
        capsys.readouterr()
        assert main(["perplexity", str(place), str(file), "--context", "40"]) == 0
        said.add(capsys.readouterr().out)
    assert len(said) == 1
    assert "tokens in" in said.pop()


@pytest.mark.parametrize(("content", "message"), [
    (b"", "holds nothing but spaces; some text is needed"),
    (b" \n ", "holds nothing but spaces"),
    (b"caf\xe9 " * 999, r"is not text in UTF-8 \(its byte 0xE9\)"),
    (b"llama\0" * 999, "is binary"),
    (b"A llama.", r"the text has \d tokens; 256 or more, .*Give a longer text, or .*--context N")])
def test_a_text_that_cannot_be_measured(folder, file, capsys, content, message):
    file.write_bytes(content)
    assert main(["perplexity", str(folder), str(file)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.search(message, err)
    assert err.count("\n") == 1


@pytest.mark.parametrize(("options", "message"), [
    (["nowhere.txt"], "there is no file 'nowhere.txt'; one with text is needed. Check the path"),
    (["FILE", "--context", "129"], "a context of 129 tokens was asked for; one from 3 to 128"),
    (["FILE", "--device", "toaster"], "device 'toaster' cannot be used on this machine")])
def test_an_impossible_wish_is_answered_in_one_sentence(folder, file, capsys, options, message):
    typed = [str(file) if each == "FILE" else each for each in options]
    assert main(["perplexity", str(folder), *typed]) == 2
    assert message in capsys.readouterr().err
