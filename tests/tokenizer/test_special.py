"""What all tokenizers share: defaults, and special pieces shown where they stand."""

import pytest
from folders import bytes_tokenizer, save_tokenizer, spaces_tokenizer

from llama_edu import checkpoint, tokenizer
from llama_edu.tokenizer import BytePairs, RebuiltSentencePiece, TiktokenTokenizer, installed
from llama_edu.tokenizer.bpe import ALPHABET
from llama_edu.tokenizer.tiktoken_bpe import LLAMA31_SPECIAL

KINDS = ("bytes", "json bytes", "json spaces", "tiktoken", "sentencepiece", "rebuilt", "tales")


@pytest.fixture(params=KINDS)
def each(request, tmp_path):
    """A tokenizer of each kind."""
    def made(kind):
        if kind == "bytes":
            return BytePairs.train("hi there, llama", n_vocab=262, special=("<s>", "</s>"))
        if kind.startswith("json"):
            inner = bytes_tokenizer() if kind == "json bytes" else spaces_tokenizer()
            return tokenizer.load(save_tokenizer(inner, tmp_path))
        if kind == "rebuilt":
            return RebuiltSentencePiece.read(installed.path("sentencepiece_32k"))
        if kind == "tales":
            return tokenizer.load(checkpoint.TALES)
        name = "sentencepiece_32k" if kind == "sentencepiece" else "llama3"
        return tokenizer.load(installed.path(name))
    return made(request.param)


def test_a_text_alone_can_be_encoded(each):
    assert each.encode("hi") == each.encode("hi", bos=False, eos=False)
    assert each.decode(each.encode("hi")) == "hi"


def test_special_pieces_are_text_where_that_is_asked_for(each):
    first, last = list(each.special)[:1] * 2 if len(each.special) < 2 else list(each.special)[:2]
    text = f"{first}a llama{last}{last}sleeps"
    ids = each.encode(text, allow_special={first, last})
    assert each.decode(ids, special=True) == text
    assert each.decode(ids) == each.decode([i for i in ids if i not in each.special.values()])
    with pytest.raises(ValueError, match="was given; this vocabulary has 0 to"):
        each.decode([each.n_vocab], special=True)


def test_numbers_with_a_gap_are_counted_to_the_last():
    ranks = {piece: i for i, piece in enumerate(ALPHABET)}
    gap = TiktokenTokenizer(ranks, {"<s>": 300, "</s>": 301}, pattern=r"\S+|\s", bos="<s>",
                            eos="</s>", stop_ids=())
    assert gap.n_vocab == 302
    assert gap.decode(gap.encode("hi", bos=True, eos=True), special=True) == "<s>hi</s>"
    with pytest.raises(ValueError, match="token 299 was given; this vocabulary leaves out that n"):
        gap.decode([299])
    assert len(LLAMA31_SPECIAL) == 256
