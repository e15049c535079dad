"""The vocabulary of Llama 1, 2 and Code Llama, on the `sentencepiece` library."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import sentencepiece

from .base import beside, check_ids, check_special, check_text, cut, named, needed, spelled
from .vocabulary_files import AGAIN, read_sentencepiece

SPACE = "▁"


class SentencePieceTokenizer:
    """A SentencePiece `.model` behind this package's interface.

    added: special pieces that somebody put behind those of the file, and their tokens. ends: the
    tokens that begin and end a text, if not those of the file. adds_bos, adds_eos: what a text is
    read with; a Llama's begins with bos.
    """

    def __init__(self, inner: sentencepiece.SentencePieceProcessor, *,
                 stop_ids: Sequence[int] = (), added: Mapping[str, int] = MappingProxyType({}),
                 ends: Sequence[int] | None = None, adds_bos: bool = True,
                 adds_eos: bool = False) -> None:
        self.inner, self.n_stored = inner, inner.get_piece_size()
        self.n_vocab = max([self.n_stored, *(i + 1 for i in added.values())])
        bos, eos = ends or (inner.bos_id(), inner.eos_id())
        self.bos_id, self.eos_id = (None if i < 0 else i for i in (bos, eos))
        self.adds_bos = adds_bos and self.bos_id is not None
        self.adds_eos = adds_eos and self.eos_id is not None
        self.stop_ids = frozenset(stop_ids) | ({self.eos_id} - {None})
        self.special = {inner.id_to_piece(i): i for i in range(self.n_stored)
                        if inner.is_control(i)} | dict(added)

    @classmethod
    def read(cls, file: str | Path, *,
             stop_ids: Sequence[int] = ()) -> "SentencePieceTokenizer":
        """Read a `.model` that SentencePiece wrote, and what `transformers` left beside it:
        pieces in `added_tokens.json`, and in `tokenizer_config.json` more of them, what begins and
        ends a text, and whether a text is read with it. Raises ValueError for files that are
        broken."""
        read_sentencepiece(Path(file))      # the library's own errors do not say what is wrong
        try:
            inner = sentencepiece.SentencePieceProcessor(model_file=str(file))
        except RuntimeError as broken:
            raise ValueError(f"{file} is refused by SentencePiece ({str(broken):.200}); a whole "
                             f"model is needed. {AGAIN}") from None
        config, n = beside(Path(file), "tokenizer_config.json"), inner.get_piece_size()
        added = beside(Path(file), "added_tokens.json")
        rows = config.get("added_tokens_decoder")
        for i, row in (rows if type(rows) is dict else {}).items():
            if i.isdecimal() and int(i) >= n and type(row) is dict:
                added.setdefault(row.get("content"), int(i))
        if not all(type(i) is int and i >= 0 for i in added.values()) or (
                n + len(added) - 1 < max(added.values(), default=0)):
            raise ValueError(f"added_tokens.json beside {file} has the tokens "
                             f"{str([*added.values()]):.60}; those from {n} on, without gaps, are "
                             "needed. Do the two files belong together?")
        ends = [_named(config.get(name), added, inner, token) for name, token in (
            ("bos_token", inner.bos_id()), ("eos_token", inner.eos_id()))]
        return cls(inner, stop_ids=stop_ids, added=added, ends=ends,
                   adds_bos=config.get("add_bos_token", True) is True,
                   adds_eos=config.get("add_eos_token", False) is True)

    def encode(self, text: str, *, bos: bool = False, eos: bool = False,
               allow_special: Collection[str] = ()) -> list[int]:
        """Tokens of a text. Special pieces inside it are ordinary text unless allowed by name;
        what stands between two of them is encoded as a text of its own, dummy prefix included.

        Raises ValueError for what is no text, for a piece that is not special, and for a bos or
        eos that there is not.
        """
        check_special(allow_special, self.special)
        ids = [needed(self.bos_id, "first")] if bos else []
        for part in cut(check_text(text), allow_special):
            ids += [self.special[part]] if part in allow_special else self.inner.encode(part)
        return ids + ([needed(self.eos_id, "last")] if eos else [])

    def decode(self, ids: Sequence[int], *, special: bool = False) -> str:
        """The text of these tokens, special ones left out or, if asked for, spelled in their
        places; unknown ones as ⁇. Every byte that belongs to no character shows as U+FFFD.
        Raises ValueError for a token that there is not."""
        if special:
            return spelled(ids, self.special, self.decode)
        return self.inner.decode([i for i in check_ids(ids, self.n_vocab) if i < self.n_stored])

    def pieces(self, text: str) -> list[str]:
        """The text cut where `encode` cuts it, dummy prefix included; bytes show as `<0xE2>`.
        Raises ValueError for what is no text."""
        return [self.inner.id_to_piece(i).replace(SPACE, " ")
                for i in self.inner.encode(check_text(text))]


def _named(given: object, added: Mapping[str, int], inner: sentencepiece.SentencePieceProcessor,
           default: int) -> int:
    """The token that a file names by a string, or by a table with its content; else the default."""
    piece = named(given)
    if type(piece) is not str:
        return default
    token = added.get(piece, inner.piece_to_id(piece))
    return token if piece in added or inner.id_to_piece(token) == piece else default
