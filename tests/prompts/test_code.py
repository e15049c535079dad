"""Code Llama: infilling and the turns of the 70B, on a vocabulary with its sixteen pieces."""

import pytest
import sentencepiece
from dialogs import A, S, U, dialog, llama3, spm
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import CodeLlamaTokenizer

from llama_edu import tokenizer
from llama_edu.prompts import Message, dialog_text, dialog_tokens, infill_text, infill_tokens, named
from llama_edu.prompts.code import EOT, FACE, MID, PRE, STEP, SUF, encode_inside
from llama_edu.tokenizer import installed
from llama_edu.tokenizer.vocabulary_files import CONTROL, USER_DEFINED

CODE_70B = named("code-llama-70b")
PIECES = {PRE: "▁<PRE>", SUF: "▁<SUF>", MID: "▁<MID>", EOT: "▁<EOT>", STEP: "<step>"}
PREFIX, SUFFIX = 'def f(s: str) -> str:\n    """ ', "\n    return result\n"


def one_piece(i, kind):
    """A piece as SentencePiece's protobuf spells it: text, score, kind; appended it is the last."""
    text = PIECES.get(i, f"unused{i}").encode()
    inner = b"\x0a" + bytes([len(text)]) + text + b"\x15\x00\x00\x00\x00\x18" + bytes([kind])
    return b"\x0a" + bytes([len(inner)]) + inner


@pytest.fixture(scope="module", params=[CONTROL, USER_DEFINED], ids=["control", "user defined"])
def words(request, tmp_path_factory):
    """32,016 pieces; which kind the sixteen are in Meta's file is not known here, so both."""
    file = tmp_path_factory.mktemp("code") / "tokenizer.model"
    file.write_bytes(installed.path("sentencepiece_32k").read_bytes() + b"".join(
        one_piece(i, request.param) for i in range(32_000, 32_016)))
    made = tokenizer.load(file)
    assert made.n_vocab == 32_016
    assert {i: made.inner.id_to_piece(i) for i in PIECES} == PIECES
    return made


def test_infilling_is_metas_rule(words):
    """Prefix with a dummy prefix, suffix without: the two tokens ▁ and ☺ are cut off."""
    library = words.inner
    before, after = library.encode(PREFIX), library.encode("☺" + SUFFIX)[2:]
    assert infill_tokens(PREFIX, SUFFIX, words) == [1, PRE, *before, SUF, *after, MID]
    assert infill_tokens(PREFIX, SUFFIX, words, suffix_first=True) == [
        1, PRE, SUF, *after, MID, *before]


def test_transformers_puts_the_pieces_in_the_same_order():
    """Its class on one piece a character, so that only the order and the spaces count. Its
    version 5 writes a space before the suffix, which its own documentation does not have."""
    pieces = ["<unk>", "<s>", "</s>", "▁", *"abcd\n", "▁<PRE>", "▁<SUF>", "▁<MID>", "▁<EOT>"]
    theirs = CodeLlamaTokenizer(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[])
    for first in (False, True):
        ids = theirs("ab", suffix="c d", suffix_first=first)["input_ids"]
        spelled = "".join(theirs.convert_ids_to_tokens(ids))
        assert spelled.count("<SUF>▁c▁d") == 1
        assert spelled.replace("<SUF>▁", "<SUF>") == ("<s>▁<PRE>▁<SUF>c▁d▁<MID>▁ab" if first
                           else "<s>▁<PRE>▁ab▁<SUF>c▁d▁<MID>")


def test_our_order_is_that_one(words):
    def spelled(ids):
        return "".join(map(words.inner.id_to_piece, ids))

    assert spelled(infill_tokens("ab", "c d", words)) == "<s>▁<PRE>▁ab▁<SUF>c▁d▁<MID>"
    assert spelled(infill_tokens("ab", "c d", words, suffix_first=True)) == (
        "<s>▁<PRE>▁<SUF>c▁d▁<MID>▁ab")


@settings(max_examples=100, deadline=None)
@given(st.text("ab \n\tü☺🦙(", max_size=9))
def test_a_text_inside_another_comes_back_with_its_spaces(text):
    inside = encode_inside(text, spm())
    library = sentencepiece.SentencePieceProcessor(
        model_file=str(installed.path("sentencepiece_32k")))
    assert inside == library.encode("☺" + text)[2:]
    assert infill_text([*inside, EOT, 5], spm()) == infill_text(inside, spm()) == text


def test_the_face_merges_with_nothing():
    library = spm().inner
    assert not [i for i in range(library.get_piece_size())
                if FACE in library.id_to_piece(i) and library.id_to_piece(i) != FACE]


def test_a_text_that_spells_a_border_is_refused(words):
    if words.special.get("▁<PRE>") is None:     # user defined: text finds them
        for prefix, suffix in (("a <MID>b", "c"), ("a", "b <SUF>")):
            with pytest.raises(ValueError, match="spells the special piece 3200.*another way"):
                infill_tokens(prefix, suffix, words)
    else:                                       # control: text never does
        ids = infill_tokens("a <MID>b", "c", words)
        assert ids.count(MID) == 1


def test_other_vocabularies_cannot_fill_in():
    for other in (spm(), llama3()):
        with pytest.raises(ValueError, match=f"has {other.n_vocab:,} tokens; Code Llama's with"):
            infill_tokens("a", "b", other)


# -- the 70B -----------------------------------------------------------------------------------

def test_the_70b_to_the_byte():
    talk = [*dialog((S, " Be brief. "), (U, "Sort a list.\n")),
            Message(A, "sorted(x)", destination="user"), Message(U, "Why?")]
    assert dialog_text(talk, CODE_70B) == (
        "<s> Source: system\n\n Be brief.<step> Source: user\n\n Sort a list.<step>"
        " Source: assistant\nDestination: user\n\n sorted(x)<step> Source: user\n\n Why?<step>"
        " Source: assistant\nDestination: user\n\n ")


def test_the_70b_gets_an_empty_system_message_where_none_is():
    assert dialog_text(dialog((U, "Hi")), CODE_70B).startswith("<s> Source: system<step> Source: u")


def test_the_tokens_of_the_70b_are_those_of_metas_rule(words):
    """Header and body are encoded apart, so each has a dummy prefix; no body without content."""
    encode = words.inner.encode
    body = "\n\n "
    assert dialog_tokens(dialog((U, " Hi ")), words, CODE_70B).ids == [
        1, *encode(" Source: system"), STEP, *encode(" Source: user"), *encode(body + "Hi"), STEP,
        *encode(" Source: assistant\nDestination: user"), *encode(body)]
