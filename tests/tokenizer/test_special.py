"""What all tokenizers share: defaults, and special pieces shown where they stand."""

import pytest
from folders import bytes_tokenizer, save_tokenizer, spaces_tokenizer
from gguf_files import source_of
from hypothesis import given, settings
from hypothesis import strategies as st
from models import loud_model, tiny_config

from llama_edu import checkpoint, tokenizer
from llama_edu.formats.gguf import weights as gguf
from llama_edu.tokenizer import BytePairs, RebuiltSentencePiece, TiktokenTokenizer, installed
from llama_edu.tokenizer.bpe import ALPHABET

OVER_BYTES = ("bytes", "json bytes", "gguf bytes", "llama3", "tekken_131k")
OVER_CHARACTERS = ("json spaces", "gguf spaces", "sentencepiece_32k", "rebuilt")
KINDS = (*OVER_BYTES, *OVER_CHARACTERS, "tales")


@pytest.fixture(scope="module")
def each(request, tmp_path_factory):
    """A tokenizer of each kind."""
    if request.param == "bytes":
        return BytePairs.train("hi there, llama", n_vocab=262, special=("<s>", "</s>"))
    if request.param == "rebuilt":
        return RebuiltSentencePiece.read(installed.path("sentencepiece_32k"))
    if request.param == "tales":
        return tokenizer.load(checkpoint.TALES)
    if request.param in installed.SOURCES:
        return tokenizer.load(installed.path(request.param))
    stored, pieces = request.param.split()
    inner = bytes_tokenizer() if pieces == "bytes" else spaces_tokenizer()
    folder = save_tokenizer(inner, tmp_path_factory.mktemp("words"))
    if stored == "json":
        return tokenizer.load(folder)
    source = source_of(loud_model(tiny_config(vocab_size=380)), folder)
    gguf.write(folder / "x.gguf", source, kind="F16")
    return tokenizer.load(folder / "x.gguf")


@pytest.mark.parametrize("each", KINDS, indirect=True)
def test_a_text_alone_can_be_encoded(each):
    assert each.encode("hi") == each.encode("hi", bos=False, eos=False)
    assert each.decode(each.encode("hi")) == "hi"


@pytest.mark.parametrize("each", KINDS, indirect=True)
def test_special_pieces_are_text_where_that_is_asked_for(each):
    first, last = list(each.special)[:1] * 2 if len(each.special) < 2 else list(each.special)[:2]
    text = f"{first}a llama{last}{last}sleeps"
    ids = each.encode(text, allow_special={first, last})
    assert each.decode(ids, special=True) == text
    assert each.decode(ids) == each.decode([i for i in ids if i not in each.special.values()])
    with pytest.raises(ValueError, match="was given; this vocabulary has 0 to"):
        each.decode([each.n_vocab], special=True)


@pytest.mark.parametrize("each", OVER_BYTES, indirect=True)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_every_text_with_special_pieces_in_it_comes_back(each, data):
    names = list(each.special)
    parts = data.draw(st.lists(st.sampled_from(names) | st.text(max_size=8), max_size=6))
    text = "".join(parts)
    assert each.decode(each.encode(text, allow_special=names), special=True) == text


@pytest.mark.parametrize("each", OVER_CHARACTERS, indirect=True)
def test_every_part_between_special_pieces_has_a_dummy_prefix_of_its_own(each):
    ids = each.encode("hi</s> two 🦙", bos=True, eos=True, allow_special={"</s>"})
    assert [i for i in ids if i in each.special.values()] == [1, 2, 2]
    assert each.decode(ids, special=True) == "<s>hi</s> two 🦙</s>"
    assert each.decode(ids[ids.index(2) + 1 :]) == " two 🦙"


def test_numbers_with_a_gap_are_counted_to_the_last():
    ranks = {piece: i for i, piece in enumerate(ALPHABET)}
    gap = TiktokenTokenizer(ranks, {"<s>": 300, "</s>": 301}, pattern=r"\S+|\s", bos="<s>",
                            eos="</s>", stop_ids=())
    assert gap.n_vocab == 302
    assert gap.decode(gap.encode("hi", bos=True, eos=True), special=True) == "<s>hi</s>"
    with pytest.raises(ValueError, match="token 299 was given; this vocabulary leaves out that n"):
        gap.decode([299])


def test_a_vocabulary_may_name_no_first_and_no_last_token():
    ranks = {piece: i for i, piece in enumerate(ALPHABET)}
    bare = TiktokenTokenizer(ranks, {"<pad>": 256}, pattern=r"\S+|\s", bos="<s>", eos="</s>",
                             stop_ids=(256,))
    assert (bare.bos_id, bare.eos_id, bare.stop_ids) == (None, None, {256})
    with pytest.raises(ValueError, match="this vocabulary names no first token of a text"):
        bare.encode("hi", bos=True)


DOCUMENTED = [getattr(made, name) for made in (
    BytePairs, tokenizer.JsonTokenizer, RebuiltSentencePiece, tokenizer.SentencePieceTokenizer,
    TiktokenTokenizer, tokenizer.Tokenizer) for name in ("encode", "decode", "pieces")]


@pytest.mark.parametrize("method", DOCUMENTED, ids=lambda method: method.__qualname__)
def test_every_tokenizer_says_what_it_refuses(method):
    assert "Raises ValueError" in method.__doc__
