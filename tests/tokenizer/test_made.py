"""Our own vocabulary as a tokenizer.json: the same tokens, for this package and for others."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from llama_edu import tokenizer
from llama_edu.data import tales
from llama_edu.tokenizer import BytePairs
from llama_edu.tokenizer.json_made import files, to_json

SPECIAL = ("<|begin_of_text|>", "<|end_of_text|>")


@pytest.fixture(scope="module")
def words():
    text = "\n".join(tales.stories(60, seed=0)) + " Süße Träume, déjà l'été 🦙🦙 aaaa 12345"
    return BytePairs.train(text, n_vocab=420, special=SPECIAL)


@pytest.fixture(scope="module")
def made(words):
    return to_json(words)


@pytest.fixture(scope="module")
def folder(made, tmp_path_factory):
    path = tmp_path_factory.mktemp("made")
    for name, content in files(made).items():
        (path / name).write_bytes(content)
    return path


# Code points without a letter are left out: the two engines have different releases of Unicode.
ASSIGNED = st.characters(exclude_categories=("Cs", "Cn"))


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.text(ASSIGNED, max_size=40), st.text("ao the.,!\n\"'Süßé🦙12", max_size=60)))
def test_tokens_and_text_are_those_of_the_vocabulary_it_was_made_from(words, made, text):
    ids = words.encode(text, bos=True, eos=True)
    assert made.encode(text, bos=True, eos=True) == ids
    assert made.decode(ids) == words.decode(ids) == text


def test_tales_are_cut_alike(words, made):
    for tale in tales.stories(30, seed=7):
        assert made.encode(tale, bos=False, eos=False) == words.encode(tale)


def test_the_written_files_are_read_back(words, folder):
    read = tokenizer.load(folder)
    assert (read.n_vocab, read.bos_id, read.eos_id, read.stop_ids) == (420, 418, 419, {419})
    tale = tales.story(3)
    assert read.encode(tale, bos=True, eos=True) == words.encode(tale, bos=True, eos=True)


def test_transformers_reads_the_files_and_begins_a_text_as_we_do(words, folder):
    theirs = AutoTokenizer.from_pretrained(folder)
    tale = tales.story(3)
    assert theirs(tale)["input_ids"] == words.encode(tale, bos=True)
    assert (theirs.bos_token, theirs.eos_token) == SPECIAL
    assert theirs.decode(words.encode(tale, bos=True, eos=True), skip_special_tokens=True) == tale


def test_special_pieces_in_a_users_text_stay_text(words, made):
    text = "a<|end_of_text|>b"
    assert made.encode(text, bos=False, eos=False) == words.encode(text)
    assert 419 not in words.encode(text)


def test_special_pieces_that_do_not_come_last_are_refused(words):
    odd = BytePairs(words.ranks, special={"<|begin_of_text|>": 999})
    with pytest.raises(ValueError, match=r"special pieces have the tokens \[999\]; those after"):
        to_json(odd)
