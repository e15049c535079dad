"""What every tokenizer of this package can do, and the checks that they share."""

import json
import re
from collections.abc import Callable, Collection, Container, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol

from ..formats.whole_files import read_whole

NOTES = 1 << 24     # bytes of the longest JSON file beside a vocabulary that is read


class Tokenizer(Protocol):
    """Turns text into tokens (numbers) and back."""

    n_vocab: int                    # tokens are 0 .. n_vocab - 1
    bos_id: int | None              # begins a text; None where the vocabulary has none
    eos_id: int | None              # ends a text
    adds_bos: bool                  # whether the model knows texts to begin with bos
    adds_eos: bool                  # whether the model's texts are read with eos behind them
    special: dict[str, int]         # pieces that stand for no text, and their tokens
    stop_ids: frozenset[int]        # tokens after which an answer is finished

    def encode(self, text: str, *, bos: bool = False, eos: bool = False,
               allow_special: Collection[str] = ()) -> list[int]:
        """Tokens of a text, between those that begin (bos) and end it (eos) where asked for.

        Special pieces inside it are ordinary text unless allowed by name. Raises ValueError for
        what is no text, for a piece that is not special, and for a bos or eos that there is not.
        """
        ...

    def decode(self, ids: Sequence[int], *, special: bool = False) -> str:
        """The text of these tokens, special ones left out or, if asked for, spelled in their
        places. Broken UTF-8 shows as U+FFFD. Raises ValueError for a token that there is not."""
        ...

    def pieces(self, text: str) -> list[str]:
        """The text cut where `encode` cuts it, for display. Raises ValueError for what is no
        text."""
        ...


def check_text(text: str) -> str:
    """The same text. Raises ValueError where half of a surrogate pair stands alone in it."""
    try:
        text.encode()
    except UnicodeEncodeError as broken:
        raise ValueError(f"the text has the lone surrogate U+{ord(text[broken.start]):04X} at "
                         f"position {broken.start}; no UTF-8 exists for it. Take it out, or "
                         "put a whole character in its place.") from None
    return text


def check_ids(ids: Sequence[int], n_vocab: int, known: Container[int] | None = None) -> list[int]:
    """The same tokens, as a list. Raises ValueError for one outside the vocabulary, or in a gap of
    its numbers: known are all that there are, where some are missing."""
    ids = list(ids)
    if ids and not (min(ids) >= 0 and max(ids) < n_vocab):
        wrong = next(i for i in ids if not 0 <= i < n_vocab)
        raise ValueError(f"token {wrong} was given; this vocabulary has 0 to {n_vocab - 1}. "
                         "Do model and tokenizer belong together?")
    if known is not None and (gap := next((i for i in ids if i not in known), None)) is not None:
        raise ValueError(f"token {gap} was given; this vocabulary leaves out that number. Do model "
                         "and tokenizer belong together?")
    return ids


def check_special(names: Collection[str], special: Mapping[str, int]) -> None:
    """Raises ValueError where one of these names is not a special piece."""
    if unknown := sorted(set(names) - set(special)):
        has = [*special][:12]
        more = f" and {len(special) - 12} more" if len(special) > 12 else ""
        raise ValueError(f"{unknown[0]!r} is not a special piece of this vocabulary; it has "
                         f"{', '.join(has) or 'none'}{more}. Allow one of these.")


def spelled(ids: Sequence[int], special: Mapping[str, int],
            decode: Callable[[Sequence[int]], str]) -> str:
    """The text of tokens, special ones in their places; `decode` gives that of each run between,
    and raises what it raises."""
    names = {token: piece for piece, token in special.items()}
    return "".join("".join(map(names.__getitem__, run)) if found else decode(list(run))
                   for found, run in groupby(ids, key=names.__contains__))


def needed(token: int | None, place: str) -> int:
    """The same token. Raises ValueError where the vocabulary has none for this place."""
    if token is None:
        raise ValueError(f"this vocabulary names no {place} token of a text; encode with "
                         "bos=False, eos=False, or name it where the vocabulary is made "
                         "(in a folder: in tokenizer_config.json).")
    return token


def cut(text: str, special: Collection[str]) -> list[str]:
    """Cut a text around the special pieces in it, keeping them; no empty parts."""
    if not special:
        return [text] if text else []
    pattern = "|".join(re.escape(s) for s in sorted(special, key=len, reverse=True))
    return [part for part in re.split(f"({pattern})", text) if part]


def show(piece: bytes) -> str:
    """The text of a piece; bytes that are no whole character show as `<0xE2>`."""
    text = piece.decode(errors="surrogateescape")
    return re.sub("[\udc80-\udcff]", lambda byte: f"<0x{ord(byte[0]) - 0xDC00:02X}>", text)


def named(given: object) -> object:
    """The piece that a JSON file gives, by itself or in a table with its content."""
    return given.get("content") if type(given) is dict else given


def beside(file: Path, name: str) -> dict[str, Any]:
    """The object in a JSON file beside this one; empty where there is none. Raises ValueError for
    a file that holds something else."""
    notes = file.with_name(name)
    if not notes.is_file():
        return {}
    content = read_whole(notes, most=NOTES)
    try:
        fields = json.loads(content)
    except (ValueError, RecursionError) as broken:
        raise ValueError(f"{notes} is not JSON ({broken}). Download it again.") from None
    if type(fields) is not dict:
        raise ValueError(f"{notes} holds a {type(fields).__name__}; a JSON object is needed. "
                         "Download it again.")
    return fields
