"""The tokenizer in a tokenizer.json, against transformers' reading of the same file."""

import json

import pytest
from folders import bytes_tokenizer, change_json, save_tokenizer, spaces_tokenizer
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from llama_edu import tokenizer

TEXTS = ["Once upon a time", "  two  spaces ", "Süße Träume, été", "日本語 🦙", "a\n\tb", "",
         "a</s>b", "<s>"]


@pytest.fixture(scope="module", params=[bytes_tokenizer, spaces_tokenizer], ids=["bytes", "spaces"])
def folder(request, tmp_path_factory):
    return save_tokenizer(request.param(), tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def words(folder):
    return tokenizer.load(folder)


@pytest.mark.parametrize("text", TEXTS[:-2])
def test_tokens_and_text_are_those_of_transformers(folder, words, text):
    theirs = PreTrainedTokenizerFast.from_pretrained(folder)
    ids = words.encode(text, bos=False, eos=False)
    assert ids == theirs(text, add_special_tokens=False)["input_ids"]
    assert words.decode(ids) == theirs.decode(ids, clean_up_tokenization_spaces=False)


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="▁"), max_size=30))
def test_every_text_comes_back(words, text):
    assert words.decode(words.encode(text, bos=True, eos=True)) == text


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
@example("▁")
def test_what_stands_for_a_space_comes_back_as_one(folder, words, text):
    """U+2581, in a vocabulary over characters; one over bytes knows it from a space."""
    over_bytes = json.loads((folder / "tokenizer.json").read_text())["pre_tokenizer"] is not None
    text = f"{text}▁"
    assert words.decode(words.encode(text)) == (text if over_bytes else text.replace("▁", " "))


def test_ends_are_added_where_asked(words):
    middle = words.encode("llama", bos=False, eos=False)
    assert words.encode("llama", bos=True, eos=True) == [words.bos_id, *middle, words.eos_id]
    assert (words.bos_id, words.eos_id) == (1, 2)
    assert words.decode([1, *middle, 2]) == "llama"


@pytest.mark.parametrize("text", TEXTS[-2:])
def test_special_text_from_a_user_stays_text(words, text):
    ids = words.encode(text, bos=False, eos=False)
    assert not {1, 2} & set(ids)
    assert words.decode(ids) == text


def test_special_text_is_special_where_allowed(words):
    ids = words.encode("a</s>b<s>", bos=False, eos=False, allow_special={"</s>"})
    assert ids.count(2) == 1
    assert 1 not in ids
    both = words.encode("</s><s>", bos=False, eos=False, allow_special=["</s>", "<s>"])
    assert both == [2, 1]


def test_only_special_pieces_can_be_allowed(words):
    with pytest.raises(ValueError, match="'llama' is not a special piece.*it has <unk>, <s>, </s>"):
        words.encode("a llama", bos=False, eos=False, allow_special={"llama"})


def test_pieces_are_as_many_as_tokens(words):
    for text in TEXTS:
        assert len(words.pieces(text)) == len(words.encode(text, bos=False, eos=False))


@pytest.mark.parametrize("token", [-1, 100_000])
def test_a_token_outside_the_vocabulary_is_refused(words, token):
    with pytest.raises(ValueError, match=f"token {token} was given; this vocabulary has 0 to"):
        words.decode([token])


def test_stop_tokens_are_those_given_and_the_end(folder):
    assert tokenizer.load(folder, stop_ids=(7,)).stop_ids == {2, 7}
    assert tokenizer.load(folder / "tokenizer.json").stop_ids == {2}


def test_a_file_that_is_no_tokenizer_is_refused(tmp_path):
    for text in ("", "{", "{}", "[1]", '{"model": {"type": "BPE"}}'):
        (tmp_path / "tokenizer.json").write_text(text)
        with pytest.raises(ValueError, match=r"is not a tokenizer.json that can be read \(.*\)"):
            tokenizer.load(tmp_path)


def test_a_missing_tokenizer_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"there is no tokenizer at '.*'; a tokenizer.json"):
        tokenizer.load(tmp_path)


def test_ends_may_be_tables_or_unnamed(tmp_path):
    save_tokenizer(bytes_tokenizer(), tmp_path)
    file = tmp_path / "tokenizer_config.json"
    change_json(file, bos_token={"content": "<s>"}, eos_token=None)
    words = tokenizer.load(tmp_path)
    assert (words.bos_id, words.eos_id, words.stop_ids) == (1, None, frozenset())
    with pytest.raises(ValueError, match="this vocabulary names no last token of a text"):
        words.encode("a", bos=True, eos=True)
    file.unlink()
    assert tokenizer.load(tmp_path).bos_id == 1     # which the rule for whole texts says
    change_json(tmp_path / "tokenizer.json", post_processor=None)
    assert tokenizer.load(tmp_path).bos_id is None
    (tmp_path / "special_tokens_map.json").write_text('{"bos_token": "<s>", "eos_token": "</s>"}')
    words = tokenizer.load(tmp_path)
    assert (words.bos_id, words.eos_id, words.adds_bos) == (1, 2, False)


def test_a_text_is_never_cut_or_filled_up(tmp_path):
    inner = bytes_tokenizer()
    whole = inner.encode("the llama " * 20, add_special_tokens=False).ids
    inner.enable_truncation(4)
    inner.enable_padding(length=300)
    save_tokenizer(inner, tmp_path)
    assert tokenizer.load(tmp_path).encode("the llama " * 20) == whole


@pytest.mark.parametrize(("text", "message"), [
    ("{", "tokenizer_config.json is not JSON"),
    ("[]", "tokenizer_config.json holds a list; a JSON object is needed"),
    ('{"bos_token": 5}', "tokenizer_config.json says bos_token = 5; a piece is needed"),
    ('{"eos_token": "<end>"}', "names '<end>' as eos_token; tokenizer.json has no such piece")])
def test_a_broken_tokenizer_config_is_refused(tmp_path, text, message):
    save_tokenizer(bytes_tokenizer(), tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        tokenizer.load(tmp_path)


def test_transformers_reads_these_folders_itself(folder):
    assert AutoTokenizer.from_pretrained(folder).bos_token_id == 1
