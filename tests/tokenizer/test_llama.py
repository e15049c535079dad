"""The two production tokenizers on real vocabularies, against Meta's own code and known facts."""

import random

import pytest
import sentencepiece
from llama_models.llama3.tokenizer import Tokenizer as MetaTokenizer

from llama_edu import tokenizer
from llama_edu.data import samples
from llama_edu.tokenizer import installed
from llama_edu.tokenizer.tiktoken_bpe import (
    LLAMA3_SPECIAL,
    LLAMA31_SPECIAL,
    TiktokenTokenizer,
    cut_long,
)
from llama_edu.tokenizer.vocabulary_files import NORMAL, read_ranks, read_sentencepiece, write_ranks

IDEOGRAPHS = {chr(i) for i in range(0x4E00, 0x9FA6)}


@pytest.fixture(scope="module")
def llama3():
    return tokenizer.load(installed.path("llama3"))


@pytest.fixture(scope="module")
def meta():
    return MetaTokenizer(installed.path("llama3"))


@pytest.fixture(scope="module")
def spm():
    return tokenizer.load(installed.path("sentencepiece_32k"))


@pytest.fixture(scope="module")
def all_texts():
    texts = ["\n".join(lines) for lines in samples.parallel().values()]
    return texts + [samples.sample(name) for name in samples.SAMPLES]


def test_llama_3_is_metas_tokenizer(llama3, meta, all_texts):
    for text in all_texts:
        ids = llama3.encode(text, bos=True, eos=True)
        assert ids == meta.encode(text, bos=True, eos=True)
        assert llama3.decode(ids) == text
    assert (llama3.n_vocab, llama3.bos_id, llama3.eos_id) == (
        meta.n_words, meta.bos_id, meta.eos_id)
    assert llama3.stop_ids == set(meta.stop_tokens)
    assert llama3.special == meta.special_tokens


def test_special_text_from_a_user_is_seven_ordinary_tokens(llama3, meta):
    ids = llama3.encode("<|eot_id|>", bos=False, eos=False)
    assert len(ids) == 7
    assert llama3.decode(ids) == "<|eot_id|>"
    for allowed in ({"<|eot_id|>"}, ["<|eot_id|>", "<|image|>"]):
        text = "Hi<|eot_id|> there<|image|>"
        assert llama3.encode(text, bos=True, eos=False, allow_special=allowed) == meta.encode(
            text, bos=True, eos=False, allowed_special=set(allowed))


def test_the_names_of_special_pieces_changed_with_llama_31():
    # Read off the tables that Meta published with 3.0 and with 3.1.
    old, new = ({128_000 + i: name for i, name in enumerate(names)}
                for names in (LLAMA3_SPECIAL, LLAMA31_SPECIAL))
    assert len(old) == len(new) == 256
    same = {128_000: "<|begin_of_text|>", 128_001: "<|end_of_text|>",
            128_006: "<|start_header_id|>", 128_007: "<|end_header_id|>", 128_009: "<|eot_id|>"}
    assert {i: old[i] for i in same} == {i: new[i] for i in same} == same
    assert {i: new[i] for i in (128_004, 128_005, 128_008, 128_010, 128_011)} == {
        128_004: "<|finetune_right_pad_id|>", 128_005: "<|step_id|>", 128_008: "<|eom_id|>",
        128_010: "<|python_tag|>", 128_011: "<|image|>"}
    assert [old[i] for i in (128_004, 128_008, 128_010, 128_255)] == [
        f"<|reserved_special_token_{n}|>" for n in (2, 4, 5, 250)]


def test_llama_30_stops_at_its_own_tokens():
    words = TiktokenTokenizer.read(installed.path("llama3"), special=LLAMA3_SPECIAL, stop_ids=(7,))
    assert words.stop_ids == {7, 128_001, 128_009}
    with pytest.raises(ValueError, match=r"'<\|eom_id\|>' is not a special piece of this voc.*244"):
        words.encode("x", bos=False, eos=False, allow_special={"<|eom_id|>"})


@pytest.mark.parametrize("text", [
    "a" * 60_000, " " * 60_000, "word " * 90_000, ("b" * 30_000 + " " * 30_000) * 2,
    "x" * 399_999 + " y" * 10], ids=["letters", "spaces", "words", "both", "border"])
def test_long_texts_are_cut_as_meta_cuts_them(llama3, meta, text):
    assert llama3.encode(text, bos=False, eos=False) == meta.encode(text, bos=False, eos=False)


def test_runs_are_cut_as_meta_cuts_them():
    for seed in range(500):
        draw = random.Random(seed)
        parts = ["a", "b ", " ", "\n", "c" * 7, " " * 9, "é\u3000"]
        text = "x" + "".join(draw.choices(parts, k=draw.randrange(12)))
        n = draw.randrange(1, 6)
        ours = list(cut_long(text, max_chars=10_000, max_run=n))
        assert ours == list(MetaTokenizer._split_whitespaces_or_nonwhitespaces(text, n))


def test_the_file_of_llama_3_comes_back_byte_for_byte(tmp_path):
    file = installed.path("llama3")
    write_ranks(tmp_path / "again", read_ranks(file))
    assert (tmp_path / "again").read_bytes() == file.read_bytes()


def test_how_llama_3_cuts_the_20902_ideographs(llama3):
    n_tokens = [len(llama3.encode(c, bos=False, eos=False)) for c in IDEOGRAPHS]
    assert [n_tokens.count(n) for n in (1, 2, 3)] == [2_314, 18_095, 493]
    pieces = [p.decode() for p in llama3.ranks if "\ufffd" not in p.decode(errors="replace")]
    n_in_piece = [sum(c in IDEOGRAPHS for c in piece) for piece in pieces if not piece.isascii()]
    assert sum(n >= 1 for n in n_in_piece) == 4_387
    assert sum(n >= 2 for n in n_in_piece) == 1_442


def test_digits_are_one_each_or_three_together(llama3, spm):
    assert llama3.pieces("1234") == ["123", "4"]
    assert spm.pieces("1234") == [" ", "1", "2", "3", "4"]
    pieces = read_sentencepiece(installed.path("sentencepiece_32k")).pieces
    assert not [p for p, _, kind in pieces if kind == NORMAL and sum(map(str.isdigit, p)) > 1]


def test_sentencepiece_is_the_library_behind_the_interface(spm, all_texts):
    library = sentencepiece.SentencePieceProcessor(
        model_file=str(installed.path("sentencepiece_32k")))
    for text in all_texts:
        ids = spm.encode(text, bos=True, eos=True)
        assert ids == [1, *library.encode(text), 2]
        assert spm.decode(ids) == text
    assert (spm.n_vocab, spm.bos_id, spm.eos_id, spm.stop_ids) == (32_000, 1, 2, {2})


def test_a_text_has_a_dummy_prefix_and_unknown_characters_are_bytes(spm):
    assert spm.pieces("the llama") == [" the", " ll", "ama"]
    assert spm.pieces("🦙") == [" ", "<0xF0>", "<0x9F>", "<0xA6>", "<0x99>"]
    assert spm.decode(spm.encode(" two", bos=False, eos=False)) == " two"


@pytest.mark.parametrize("make", [tokenizer.SentencePieceTokenizer.read,
                                  tokenizer.RebuiltSentencePiece.read], ids=["library", "rebuilt"])
def test_special_text_in_sentencepiece_is_ordinary_unless_allowed(make):
    words = make(installed.path("sentencepiece_32k"))
    ids = words.encode("a</s>b", bos=False, eos=False)
    assert 2 not in ids
    assert words.decode(ids) == "a</s>b"
    a, b = (words.encode(x, bos=False, eos=False) for x in "ab")
    assert words.encode("a</s>b", bos=True, eos=False, allow_special={"</s>"}) == [1, *a, 2, *b]
    with pytest.raises(ValueError, match="'<unk>' is not a special piece.*it has <s>, </s>"):
        words.encode("a", bos=False, eos=False, allow_special={"<unk>"})


def test_tekken_puts_its_special_pieces_first():
    words = tokenizer.load(installed.path("tekken_131k"))
    assert (words.n_vocab, words.bos_id, words.eos_id) == (131_072, 1, 2)
    assert words.encode("A", bos=True, eos=True) == [1, 1000 + ord("A"), 2]
    assert words.decode(words.encode("नमस्ते 🦙", bos=True, eos=True)) == "नमस्ते 🦙"


def test_pieces_are_as_many_as_tokens_and_their_text(llama3, spm, all_texts):
    for text in all_texts:
        for words in (llama3, spm):
            n_tokens = len(words.encode(text, bos=False, eos=False))
            assert len(words.pieces(text)) == n_tokens
    assert "".join(llama3.pieces("Guten Morgen, wie hast du geschlafen?")) == (
        "Guten Morgen, wie hast du geschlafen?")
    assert llama3.pieces("🦙") == ["<0xF0><0x9F>", "<0xA6>", "<0x99>"]
