"""The tokenizer in a `tokenizer.json`, on Hugging Face's `tokenizers` library."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from .base import check_ids, check_special, check_text, cut, needed, spelled


def over_bytes(vocab: Mapping[str, int], merges: Sequence[tuple[str, str]], *, pattern: str,
               whole_words: bool) -> tokenizers.Tokenizer:
    """Pieces over bytes, as in Llama 3, on the `tokenizers` library; special pieces come later.

    pattern: how text is cut into words. whole_words: whether a word that is a piece stays whole
    even where merging would not arrive at it. Raises the library's plain Exception for merges that
    do not fit the pieces.
    """
    inner = tokenizers.Tokenizer(models.BPE(vocab, merges, ignore_merges=whole_words))
    inner.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    inner.decoder = decoders.ByteLevel()
    inner.encode_special_tokens = True      # special text from a user stays text
    return inner


@dataclass(frozen=True)
class JsonTokenizer:
    """A `tokenizers.Tokenizer` behind this package's interface."""

    inner: tokenizers.Tokenizer
    bos_id: int | None
    eos_id: int | None
    stop_ids: frozenset[int]

    @classmethod
    def read(cls, file: Path, *, stop_ids: tuple[int, ...] = ()) -> "JsonTokenizer":
        """Read `tokenizer.json`, and which tokens begin and end a text from the
        `tokenizer_config.json` beside it, where there is one. Raises ValueError for files that
        are broken or contradict each other."""
        try:
            inner = tokenizers.Tokenizer.from_file(str(file))
        except Exception as broken:     # the library raises plain Exception for every bad file
            raise ValueError(f"{file} is not a tokenizer.json that can be read ({broken}). "
                             "Download it again.") from None
        if (top := max(inner.get_vocab().values(), default=0)) >= inner.get_vocab_size():
            raise ValueError(f"{file} gives a piece the token {top}; its {inner.get_vocab_size()} "
                             "pieces must have the tokens from 0 on, without gaps. Download it "
                             "again.")
        inner.encode_special_tokens = True      # special text from a user stays text
        bos, eos = (_end(file.with_name("tokenizer_config.json"), name, inner)
                    for name in ("bos_token", "eos_token"))
        return cls(inner, bos, eos, frozenset(stop_ids) | ({eos} - {None}))

    @property
    def special(self) -> dict[str, int]:
        """The pieces that stand for no text, and their tokens."""
        added = self.inner.get_added_tokens_decoder()
        return {piece.content: i for i, piece in added.items() if piece.special}

    @property
    def n_vocab(self) -> int:
        """Tokens are 0 .. n_vocab - 1, special ones included."""
        return self.inner.get_vocab_size()

    def encode(self, text: str, *, bos: bool = False, eos: bool = False,
               allow_special: Collection[str] = ()) -> list[int]:
        """Tokens of a text. Special pieces inside it are ordinary text unless allowed by name.

        Raises ValueError for what is no text, for a piece that is not special, and for a bos or
        eos that there is not.
        """
        special = {t.content: i for i, t in self.inner.get_added_tokens_decoder().items()}
        check_special(allow_special, special)
        ids = [needed(self.bos_id, "first")] if bos else []
        for part in cut(check_text(text), allow_special):
            if part in allow_special:
                ids.append(special[part])
            else:
                ids += self.inner.encode(part, add_special_tokens=False).ids
        return ids + ([needed(self.eos_id, "last")] if eos else [])

    def decode(self, ids: Sequence[int], *, special: bool = False) -> str:
        """The text of these tokens, special ones left out or, if asked for, spelled in their
        places. Broken UTF-8 shows as U+FFFD. Raises ValueError for a token that there is not."""
        if special:
            return spelled(ids, self.special, self.decode)
        return self.inner.decode(check_ids(ids, self.n_vocab))

    def pieces(self, text: str) -> list[str]:
        """The text cut where `encode` cuts it, in the vocabulary's own spelling. Raises ValueError
        for what is no text."""
        return self.inner.encode(check_text(text), add_special_tokens=False).tokens


def _end(file: Path, name: str, inner: tokenizers.Tokenizer) -> int | None:
    """The token that tokenizer_config.json names, by a string or by a table with its content."""
    if not file.is_file():
        return None
    try:
        fields = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as broken:
        raise ValueError(f"{file} is not JSON ({broken}). Download it again.") from None
    if type(fields) is not dict:
        raise ValueError(f"{file} holds a {type(fields).__name__}; a JSON object is needed. "
                         "Download it again.")
    given = fields.get(name)
    piece = given.get("content") if type(given) is dict else given
    if piece is None:
        return None
    if type(piece) is not str:
        raise ValueError(f"{file} says {name} = {given!r}; a piece is needed. Download it again.")
    if (token := inner.token_to_id(piece)) is None:
        raise ValueError(f"{file} names {piece!r} as {name}; tokenizer.json has no such piece. "
                         "Do the two files belong together?")
    return token
