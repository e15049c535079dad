"""SentencePiece's BPE from nothing, as the vocabulary of Llama 1 and 2 is used:

    tokenizer = RebuiltSentencePiece.read("tokenizer.model")
    tokenizer.encode("Hello 1234", bos=True, eos=False)

It gives the tokens of the `sentencepiece` library, which `sentencepiece_bpe` uses.
"""

from collections.abc import Collection, Sequence
from pathlib import Path

from .base import check_ids, check_special, check_text, cut, needed, spelled
from .merging import merge_all
from .vocabulary_files import (
    BYTE,
    CONTROL,
    NORMAL,
    UNKNOWN,
    SentencePieceFile,
    read_sentencepiece,
)

SPACE = "▁"     # U+2581; a text that has it already gets a space back


class RebuiltSentencePiece:
    """Pieces with scores; what no piece covers is spelled in bytes.

    Raises ValueError for a vocabulary that needs rules which no Llama has.
    """

    def __init__(self, file: SentencePieceFile) -> None:
        check_rules(file)
        self.file, self.n_vocab = file, len(file.pieces)
        kinds = [kind for _, _, kind in file.pieces]
        self.kinds = kinds
        self.ids = {text: i for i, (text, _, kind) in enumerate(file.pieces) if kind == NORMAL}
        self.special = {text: i for i, (text, _, kind) in enumerate(file.pieces) if kind == CONTROL}
        self.bytes = {int(text[1:-1], 16): i for i, (text, _, kind) in enumerate(file.pieces)
                      if kind == BYTE}
        # The best score merges first; `merge_all` takes the lowest rank.
        self.ranks = {text: -file.pieces[i][1] for text, i in self.ids.items()}
        self.bos_id = file.bos_id if file.bos_id >= 0 else None
        self.eos_id = file.eos_id if file.eos_id >= 0 else None
        self.adds_bos, self.adds_eos = self.bos_id is not None, False
        self.stop_ids = frozenset({self.eos_id} - {None})

    @classmethod
    def read(cls, file: str | Path) -> "RebuiltSentencePiece":
        """Read a `.model` that SentencePiece wrote. Raises ValueError for one that is broken, or
        foreign to the Llamas."""
        return cls(read_sentencepiece(Path(file)))

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
            ids += [self.special[part]] if part in allow_special else self._encode(part)
        return ids + ([needed(self.eos_id, "last")] if eos else [])

    def _encode(self, text: str) -> list[int]:
        ids = []
        for piece in merge_all(self._normal(text), self.ranks):
            known = self.ids.get(piece)
            ids += [self.bytes[byte] for byte in piece.encode()] if known is None else [known]
        return ids

    def _normal(self, text: str) -> str:
        """The text with its spaces visible, and one more in front: "the" at the start of a text
        is then the same piece as " the" inside it."""
        prefix = " " if self.file.add_dummy_prefix and text else ""
        return (prefix + text).replace(" ", SPACE)

    def decode(self, ids: Sequence[int], *, special: bool = False) -> str:
        """The text of these tokens, special ones left out or, if asked for, spelled in their
        places; unknown ones as ⁇. Every byte that belongs to no character shows as U+FFFD.
        Raises ValueError for a token that there is not."""
        if special:
            return spelled(ids, self.special, self.decode)
        text, run, at_start = "", b"", self.file.add_dummy_prefix
        for i in check_ids(ids, self.n_vocab):
            piece, _, kind = self.file.pieces[i]
            if kind == BYTE:
                run += bytes([int(piece[1:-1], 16)])
                continue
            text, run = text + spell(run), b""
            at_start = at_start and not text
            if kind == UNKNOWN:
                text += self.file.unk_surface
            elif kind == NORMAL:        # the dummy prefix goes, once
                stripped = piece.removeprefix(SPACE) if at_start else piece
                at_start = at_start and stripped == piece
                text += stripped.replace(SPACE, " ")
        return text + spell(run)

    def pieces(self, text: str) -> list[str]:
        """The text cut where `encode` cuts it, dummy prefix included; bytes show as `<0xE2>`.
        Raises ValueError for what is no text."""
        ids = self._encode(check_text(text))
        return [self.file.pieces[i][0].replace(SPACE, " ") for i in ids]


def spell(run: bytes) -> str:
    """The characters of a run of bytes. Python would show a broken one once, this byte by byte."""
    text, at = "", 0
    while at < len(run):
        size = next((n for n in (1, 2, 3, 4) if _is_character(run[at : at + n])), 0)
        text += run[at : at + size].decode() if size else "\ufffd"
        at += size or 1
    return text


def _is_character(run: bytes) -> bool:
    try:
        return len(run.decode()) == 1
    except UnicodeDecodeError:
        return False


def check_rules(file: SentencePieceFile, *, own_pieces: bool = False) -> None:
    """Raises ValueError for a vocabulary that needs rules which no Llama has.

    own_pieces: whether pieces that its users defined are fine.
    """
    wrong = [what for what, found in (
        ("it is not a BPE model", file.model_type != 2),
        ("it changes characters", bool(file.charsmap)),
        ("it removes spaces", file.remove_extra_whitespaces),
        ("it keeps spaces as they are", not file.escape_whitespaces),
        ("it has no bytes for unknown characters", not file.byte_fallback),
        ("it has pieces that users defined", not own_pieces and any(
            kind not in (NORMAL, UNKNOWN, CONTROL, BYTE) for _, _, kind in file.pieces)),
    ) if found]
    if wrong:
        raise ValueError(f"this SentencePiece model is foreign: {wrong[0]}; a vocabulary with the "
                         "rules of Llama 1 and 2 is needed. Read it with SentencePieceTokenizer.")
