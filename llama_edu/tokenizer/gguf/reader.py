"""The vocabulary that a GGUF file carries among its fields."""

import math
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import sentencepiece

from ...formats.gguf.header import read as read_header
from .. import json_made
from ..base import Tokenizer
from ..json_file import JsonTokenizer, add_ends, add_pieces, over_bytes
from ..sentencepiece_bpe import SentencePieceTokenizer
from ..vocabulary_files import CONTROL, NORMAL, UNUSED, USER_DEFINED
from .cuts import CUTS

FIELD = "tokenizer.ggml."       # begins the name of every field about the vocabulary
BOS, EOS, EOT, EOM, PAD = (f"{FIELD}{name}_token_id" for name in (
    "bos", "eos", "eot", "eom", "padding"))
ADD_BOS, ADD_EOS = FIELD + "add_bos_token", FIELD + "add_eos_token"
# These end an answer whatever the fields say, as in llama.cpp: the end of a turn, of a text, and
# what stands between the files of a repository.
TURN_ENDS = frozenset({"<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<EOT>", "_<EOT>",
                       "[EOT]", "<end_of_utterance>"})
END_PIECES = TURN_ENDS | {
    "<|eom_id|>", "<|end_of_text|>", "<|endoftext|>", "</s>", "[EOS]", "<｜end▁of▁sentence｜>",
    "<reponame>", "<|repo_name|>", "<|fim_repo|>", "<fim-repo>", "<REPO>", "<|file_sep|>",
    "<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"}


def read(file: Path, *, stop_ids: tuple[int, ...] = ()) -> Tokenizer:
    """The tokenizer that a GGUF file describes: pieces over characters, as in Llama 1 and 2, or
    over bytes, as in Llama 3. Raises ValueError for a file that is broken or describes another."""
    fields = read_header(file).fields
    make = _choose(MAKERS, fields, "model")
    return make(fields, (*stop_ids, *stops(fields)))


def stops(fields: Mapping[str, Any]) -> tuple[int, ...]:
    """The tokens that end an answer: those that the fields name, and those with the spelling of an
    end. Raises ValueError for one that there is not."""
    named = [_token(fields, name) for name in (EOS, EOT, EOM)]
    spelled = [i for i, piece in enumerate(_pieces(fields)) if piece in END_PIECES]
    return tuple(dict.fromkeys(i for i in [*named, *spelled] if i is not None))


def n_pieces(fields: Mapping[str, Any]) -> int:
    """How many pieces a vocabulary has, without those that only fill the embedding up. Raises
    ValueError where the fields list none."""
    pieces, kinds = _pieces(fields), _kinds(fields)
    n = len(pieces)
    while n and kinds[n - 1] == UNUSED and pieces[n - 1].startswith("[PAD"):
        n -= 1
    return n


# -- pieces over characters ------------------------------------------------------------------------


def rows(fields: Mapping[str, Any]) -> list[tuple[str, float, int]]:
    """Pieces over characters with their scores and kinds. Raises ValueError for lists that are
    missing, broken or of different lengths."""
    pieces, kinds, scores = _pieces(fields), _kinds(fields), fields.get(FIELD + "scores")
    if type(scores) is not list or len(scores) != len(kinds) or not all(map(_finite, scores)):
        raise _wrong(f"it has no list of {len(kinds)} scores, one for each piece")
    return [*zip(pieces, scores, kinds, strict=True)][: n_pieces(fields)]


def begins_with_space(fields: Mapping[str, Any]) -> bool:
    """Whether pieces over characters see one more space before a text."""
    return fields.get(FIELD + "add_space_prefix", True) is True


def _over_characters(fields: Mapping[str, Any], stop_ids: tuple[int, ...]) -> Tokenizer:
    stored = rows(fields)
    ends = [_token(fields, f"{FIELD}{name}_token_id", default) for name, default in
            (("unknown", 0), ("bos", 1), ("eos", 2))]
    message = _model(stored, [None if i is None else stored[i][0] for i in ends],
                     prefix=begins_with_space(fields))
    inner = sentencepiece.SentencePieceProcessor()
    try:
        inner.LoadFromSerializedProto(message)
    except RuntimeError as broken:
        raise _wrong(f"SentencePiece refuses its pieces ({str(broken):.200})") from None
    made = SentencePieceTokenizer(inner, stop_ids=stop_ids,
                                  adds_bos=fields.get(ADD_BOS, True) is True,
                                  adds_eos=fields.get(ADD_EOS, False) is True)
    if all(kind != USER_DEFINED for _, _, kind in stored):
        return made
    # llama.cpp cuts such pieces out before anything else, as only the other library does.
    return json_made.over_characters(stored, made, prefix=begins_with_space(fields))


def _finite(score: object) -> bool:
    return type(score) is float and math.isfinite(score)


def _model(pieces: Iterable[tuple[str, float, int]], ends: list[str | None], *, prefix: bool
           ) -> bytes:
    """SentencePiece's own file of this vocabulary, a protobuf of pieces, trainer and normalizer."""
    listed = [_part(1, _part(1, piece.encode()) + b"\x15" + struct.pack("<f", score)
                    + _number(3, kind)) for piece, score, kind in pieces]
    named = [b"" if piece is None else _part(field, piece.encode())
             for field, piece in zip((45, 46, 47), ends, strict=True)]
    trainer = _number(3, 2) + _number(35, 1) + b"".join(named)      # BPE, unknown text as bytes
    rules = _number(3, int(prefix)) + _number(4, 0) + _number(5, 1)
    return b"".join([*listed, _part(2, trainer), _part(3, rules)])


def _part(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _varint(value: int) -> bytes:
    """Groups of seven bits, the lowest first; all but the last have the high bit set."""
    groups = [value >> shift & 127 for shift in range(0, max(value.bit_length(), 1), 7)]
    return bytes([*(group | 128 for group in groups[:-1]), groups[-1]])


# -- pieces over bytes -----------------------------------------------------------------------------


def _over_bytes(fields: Mapping[str, Any], stop_ids: tuple[int, ...]) -> Tokenizer:
    pieces, kinds = _pieces(fields)[: n_pieces(fields)], _kinds(fields)
    vocab = {piece: i for i, piece in enumerate(pieces)}
    if len(vocab) < len(pieces):
        twice = next(piece for i, piece in enumerate(pieces) if vocab[piece] != i)
        raise _wrong(f"it has the piece {twice!r:.40} twice")
    merges, how = _merges(fields), _choose(CUTS, fields, "pre")
    try:
        inner = over_bytes(vocab, merges, patterns=how.patterns, whole_words=how.whole_words)
    except Exception as broken:     # the library raises plain Exception
        raise _wrong(f"its merges do not fit its pieces ({str(broken):.200})") from None
    special, own = ([piece for piece, kind in zip(pieces, kinds, strict=False) if kind == wanted]
                    for wanted in (CONTROL, USER_DEFINED))
    add_pieces(inner, special, own)
    bos, eos = _token(fields, BOS), _token(fields, EOS)
    try:
        add_ends(inner, bos if fields.get(ADD_BOS, how.adds_bos) is True else None,
                 eos if fields.get(ADD_EOS) is True else None)
    except Exception as broken:     # the library raises plain Exception
        raise _wrong(f"no text can stand between its tokens {bos} and {eos} "
                     f"({str(broken):.200})") from None
    return JsonTokenizer(inner, bos, eos, frozenset(stop_ids) | ({eos} - {None}))


def _merges(fields: Mapping[str, Any]) -> list[tuple[str, str]]:
    merges = fields.get(FIELD + "merges", [])
    if type(merges) is not list or (merges and type(merges[0]) is not str):
        raise _wrong("its merges are not a list of strings")
    pairs = [tuple(merge.split(" ")) for merge in merges]
    if odd := [merge for merge, pair in zip(merges, pairs, strict=True) if len(pair) != 2]:
        raise _wrong(f"its merge {odd[0]!r:.40} is not two pieces with a space between")
    return pairs


# -- what both need --------------------------------------------------------------------------------


MAKERS = {"llama": _over_characters, "gpt2": _over_bytes}


def _choose(table: Mapping[str, Any], fields: Mapping[str, Any], name: str) -> Any:
    """The row of a table that a field names."""
    given = fields.get(FIELD + name)
    if type(given) is not str or given not in table:
        raise _wrong(f"{FIELD}{name} is {given!r:.40}; one of {', '.join([*table][:12])} is needed"
                     + f", or of {len(table) - 12} others" * (len(table) > 12))
    return table[given]


def _pieces(fields: Mapping[str, Any]) -> list[str]:
    pieces = fields.get(FIELD + "tokens")
    if type(pieces) is not list or not pieces or type(pieces[0]) is not str:
        raise _wrong("it has no list of pieces")
    return pieces


def _kinds(fields: Mapping[str, Any]) -> list[int]:
    """Which pieces are ordinary, special, bytes: the same numbers as SentencePiece's."""
    pieces = _pieces(fields)
    kinds = fields.get(FIELD + "token_type", [NORMAL] * len(pieces))
    if type(kinds) is not list or len(kinds) != len(pieces) or not set(kinds) <= {*range(1, 7)}:
        raise _wrong(f"it has no list of {len(pieces)} kinds from 1 to 6, one for each piece")
    return kinds


def _token(fields: Mapping[str, Any], name: str, default: int | None = None) -> int | None:
    token = fields.get(name, default)
    if token is not None and (type(token) is not int or not 0 <= token < len(_pieces(fields))):
        raise _wrong(f"{name} is {token!r:.40}, and there are {len(_pieces(fields))} pieces")
    return token


def _wrong(what: str) -> ValueError:
    return ValueError(f"the vocabulary in the GGUF file cannot be used: {what}. Download the file "
                      "again, or bring the tokenizer that the model was published with: "
                      "load(..., tokenizer=FOLDER), --tokenizer FOLDER.")
