"""The bug hunt of chapter 05: encoders with one vocabulary, and one wrong rule each."""

import re
import unicodedata
import zlib
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from ..data.samples import parallel, sample
from ..tokenizer import BytePairs
from ..tokenizer.base import cut
from ..tokenizer.bpe import ALPHABET, LLAMA3_PATTERN, split
from ..tokenizer.merging import merge_all
from .encoders import longest_first
from .hunts import HEALTHY, Bug, Hunt

TURN = "<|eot_id|>"

Encode = Callable[[str], list[str]]
Pieces = Callable[[bytes], list[bytes]]


@cache
def vocabulary() -> BytePairs:
    """The vocabulary of all suspects: 600 tokens, learnt from our English sentences and digits."""
    text = "\n".join([*parallel()["English"], *[sample("digits")] * 3])
    return BytePairs.train(text, n_vocab=600, special=[TURN])


def _shown(pieces: list[bytes]) -> list[str]:
    """Half a character shows as its bytes, `<0xE7>`."""
    return [re.sub("[\udc80-\udcff]", lambda byte: f"<0x{ord(byte[0]) - 0xDC00:02X}>",
                   piece.decode(errors="surrogateescape")) for piece in pieces]


def _by_rank(chunk: bytes) -> list[bytes]:
    return merge_all([ALPHABET[byte] for byte in chunk], vocabulary().ranks)


def _longest(chunk: bytes) -> list[bytes]:
    return longest_first(chunk, vocabulary().ranks)


def _leftmost(chunk: bytes) -> list[bytes]:
    parts, i = [ALPHABET[byte] for byte in chunk], 0
    while i < len(parts) - 1:
        if parts[i] + parts[i + 1] in vocabulary().ranks:
            parts[i : i + 2], i = [parts[i] + parts[i + 1]], 0
        else:
            i += 1
    return parts


def _encoder(*, change: Callable[[str], str] = str, chunks: Callable[[str], list[str]] = split,
             pieces: Pieces = _by_rank) -> Callable[[], Encode]:
    """A maker of encoders: change the text, cut it into chunks, find the pieces of each."""
    def make() -> Encode:
        return lambda text: _shown([piece for chunk in chunks(change(text))
                                    for piece in pieces(chunk.encode())])
    return make


def _obeying() -> Encode:
    plain = _encoder()()
    return lambda text: [piece for part in cut(text, {TURN})
                         for piece in ([part] if part == TURN else plain(part))]


def _digits_from_the_right(text: str) -> list[str]:
    """Groups of three as in 1,234: what is left over comes first."""
    pattern = LLAMA3_PATTERN.replace(r"\p{N}{1,3}", r"\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))")
    return split(text, pattern)


BUGS = {
    "longest piece first": Bug(_encoder(pieces=_longest), "takes the longest piece that fits, from "
                               "the left: ` mountain` is one piece, as `right` has it, and "
                               "` Monday` is cut otherwise"),
    "leftmost pair first": Bug(_encoder(pieces=_leftmost), "merges the first known pair from the "
                               "left, whatever its rank: ` mountain`, one piece in `right`, falls "
                               "into four"),
    "merges across chunks": Bug(_encoder(chunks=lambda text: [text] if text else []),
                                "never cuts the text, so a piece may form wherever its bytes "
                                "meet: `1234` is cut neither as 123, 4 nor as 1, 234"),
    "digits from the right": Bug(_encoder(chunks=_digits_from_the_right),
                                 "gives 1 and 234 for `1234`"),
    "digits one by one": Bug(_encoder(chunks=lambda text: split(
        text, LLAMA3_PATTERN.replace("{1,3}", ""))), "gives three pieces for `345`"),
    "spaces lost": Bug(_encoder(change=str.strip), "gives nothing for a text of spaces"),
    "normalised": Bug(_encoder(change=lambda text: unicodedata.normalize("NFKC", text)),
                      "gives the same for `²` as for `2`, and for the "
                      "ligature `ﬁ` as for `fi`"),
    "small letters": Bug(_encoder(change=str.lower), "gives the same for `It` as for `it`"),
    "line ends changed": Bug(_encoder(change=lambda text: text.replace("\r\n", "\n")),
                             "gives the same for a line end of Windows as for one of Unix"),
    "special pieces obeyed": Bug(_obeying, "makes one piece of `<|eot_id|>`"),
}

TEXTS = ("It rained all night, and the river is high.", "small llamas call all llamas", "It it",
         "1234", "345 and 12345", "  a ", "x² ﬁ", "a\r\nb", f"a{TURN}b", "好老师🦙",
         "The doctor told him to rest for two weeks. Some questions were answered.",
         "mountain Monday mountain")


def _look(encode: Encode) -> Tensor:
    """A checksum of the pieces of each text."""
    return torch.tensor([float(zlib.crc32("\n".join(encode(text)).encode()) % 100_003)
                         for text in TEXTS], dtype=torch.float64)


HUNT = Hunt(
    "5.6", "Six encoders", "Bug hunt: six encoders", _encoder(), bugs=BUGS,
    hidden={"a": "leftmost pair first", "b": "normalised", "c": "special pieces obeyed",
            "d": HEALTHY, "e": "digits from the right", "f": "longest piece first"},
    look=_look,
    hints=(
        "Join the pieces of a text again: does the text come back? If it does not, what changed?",
        "Where it does come back, look for a text on which a suspect differs from `right`, and "
        "make it shorter until one word, or one number, is left.",
        "Two suspects are odd on ordinary words. For each of these words ask which pair has the "
        "lowest rank, and which piece is the longest: right.ranks knows.",
    ))

EXERCISES = [HUNT]
