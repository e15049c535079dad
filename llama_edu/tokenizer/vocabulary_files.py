"""Three kinds of vocabulary file: Llama 3's ranks, tekken's JSON, SentencePiece's protobuf."""

import base64
import io
import json
import math
import re
import struct
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import regex

from ..formats.whole_files import first_bytes, read_whole

RANK_LINE = re.compile(rb"[A-Za-z0-9+/]+={0,2} [0-9]+\r?\n")
KINDS = NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6     # of pieces
AGAIN = "Is it the right file? If so, it was cut short: download it again."
# No vocabulary of a Llama comes near these, the last being the bytes in place of one character.
MAX_BYTES, MAX_PIECES, MAX_SPECIAL, MAX_GROWTH = 1 << 26, 1 << 20, 1 << 12, 1 << 6
BYTE_PIECE = re.compile("<0x[0-9A-F]{2}>")


def kind(file: Path) -> str:
    """What a file holds, by its first bytes: "gguf", "json", "tekken", "ranks" or
    "sentencepiece". Raises ValueError for anything else."""
    head = first_bytes(file, 4096)
    if head[:4] == b"GGUF":
        return "gguf"
    if b'"default_num_special_tokens"' in head:
        return "tekken"
    if file.suffix == ".json" or head.lstrip()[:1] == b"{":
        return "json"
    if RANK_LINE.match(head):
        return "ranks"
    if head[:1] == b"\x0a":     # protobuf: field 1, a message, which is the first piece
        return "sentencepiece"
    raise ValueError(f"{file} begins with {head[:24]!r}, as no vocabulary does; ranks in base64, "
                     "a SentencePiece model or a tokenizer.json is needed. If this is a note of "
                     "Git LFS or a page of HTML, download the file itself.")


@contextmanager
def in_the_library(what: str) -> Iterator[None]:
    """Raises ValueError for whatever a library raises inside over rules that it cannot follow: a
    panic of Rust is not even an Exception."""
    try:
        yield
    except BaseException as broken:
        if not isinstance(broken, Exception) and type(broken).__name__ != "PanicException":
            raise
        reason = " ".join(str(broken).split())
        raise ValueError(f"{what} ({reason:.200}). Download it again.") from None


def read_ranks(file: Path) -> dict[bytes, int]:
    """Pieces and their ranks: on every line a piece in base64 and its number, 0, 1, 2, ...

    Raises ValueError for a line that is something else, and where a byte is no piece.
    """
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(io.BytesIO(read_whole(file, most=MAX_BYTES))):
        try:
            piece, rank = line.split()
            ranks[base64.b64decode(piece, validate=True)] = int(rank)
        except ValueError:
            raise ValueError(f"line {number + 1} of {file} is {line[:40]!r}; a piece in base64 and "
                             f"its rank are needed. {AGAIN}") from None
        if len(ranks) != number + 1 or int(rank) != number or number == MAX_PIECES:
            raise ValueError(f"line {number + 1} of {file} gives rank {rank.decode():.20}; "
                             f"{min(number, MAX_PIECES - 1)} and a new piece are needed. {AGAIN}")
    return check_alphabet(ranks, str(file))


def write_ranks(file: Path, ranks: dict[bytes, int]) -> None:
    """Write what `read_ranks` reads; the same bytes that Meta publishes for Llama 3. Raises
    ValueError for ranks that it would refuse."""
    pieces = sorted(ranks, key=ranks.__getitem__)
    if sorted(ranks.values()) != [*range(len(ranks))] or missing_bytes(ranks):
        raise ValueError(f"{len(ranks)} ranks with a gap, or without some byte, cannot be saved; "
                         "pieces from 0 on, all 256 bytes among them, are needed. Number them so.")
    lines = (base64.b64encode(piece) + b" %d\n" % rank for rank, piece in enumerate(pieces))
    file.write_bytes(b"".join(lines))


@dataclass(frozen=True)
class Notes:
    """What a file of ranks has no place for."""

    special: dict[str, int]         # piece: token
    pattern: str | None             # how text is cut; None for Llama 3's


def read_notes(file: Path) -> Notes:
    """The notes in a file, or none where it is not there. Raises ValueError for a broken one."""
    if not file.exists():
        return Notes({}, None)
    try:
        notes = Notes(**json.loads(read_whole(file, most=MAX_BYTES)))
        fine = (notes.pattern is None or regex.compile(notes.pattern).groups == 0) and all(
            type(token) is int and 0 <= token < 2 * MAX_PIECES for token in notes.special.values())
    except (ValueError, TypeError, AttributeError, RecursionError, regex.error):
        fine = False
    if not fine:
        raise ValueError(f"{file} is not what BytePairs.save notes beside its ranks: an object "
                         "with special (pieces and their tokens) and pattern. Save them again, or "
                         "remove the file and name both when you load.")
    return notes


def write_notes(file: Path, notes: Notes) -> None:
    """Write what `read_notes` reads; nothing, and no file, where there is nothing to note."""
    if notes == Notes({}, None):
        file.unlink(missing_ok=True)
    else:
        file.write_text(json.dumps(asdict(notes), indent=1), encoding="utf-8")


def missing_bytes(ranks: dict[bytes, int]) -> list[int]:
    """The bytes that are no pieces."""
    return [byte for byte in range(256) if bytes([byte]) not in ranks]


def check_alphabet(ranks: dict[bytes, int], source: str) -> dict[bytes, int]:
    """The same ranks. Raises ValueError unless all 256 bytes are pieces: no text is unknown."""
    if missing := missing_bytes(ranks):
        raise ValueError(f"{source} has {len(ranks)} pieces, and the byte 0x{missing[0]:02X} is "
                         f"none of them; all 256 bytes are needed. {AGAIN}")
    return ranks


@dataclass(frozen=True)
class Tekken:
    """A tiktoken-style vocabulary in one JSON: special tokens come first, then the ranks."""

    ranks: dict[bytes, int]         # piece: token, the special ones counted in
    special: dict[str, int]
    pattern: str


def read_tekken(file: Path) -> Tekken:
    """The vocabulary of a `tekken.json`, cut to the size that its models use.

    Raises ValueError for a file that is broken.
    """
    content = read_whole(file, most=MAX_BYTES)
    try:
        fields = json.loads(content)
        config = fields["config"]
        first, n, pattern = (config[name] for name in (
            "default_num_special_tokens", "default_vocab_size", "pattern"))
        if {type(first), type(n)} != {int} or not 0 <= first <= min(n, MAX_SPECIAL):
            raise ValueError(f"it claims {first} special pieces of {n}")
        rows = fields["vocab"][: n - first]
        if [row["rank"] for row in rows] != [*range(len(rows))]:
            raise ValueError("its ranks are not 0, 1, 2, ...")
        ranks = {base64.b64decode(row["token_bytes"], validate=True): i
                 for i, row in enumerate(rows, first)}
        names = dict(enumerate(["<unk>", "<s>", "</s>"]))   # older files do not name them
        names |= {row["rank"]: row["token_str"] for row in fields.get("special_tokens") or []}
        special = {names.get(i, f"<SPECIAL_{i}>"): i for i in range(first)}
        if len(special) != first or not all(type(s) is str and 0 < len(s) < 1000 for s in special):
            raise ValueError("its special pieces have no names, or one name twice")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as broken:
        raise ValueError(f"{file} is not a tekken.json that can be read ({repr(broken):.200}). "
                         f"{AGAIN}") from None
    if len(ranks) != n - first:
        raise ValueError(f"{file} has {len(ranks)} pieces; its config needs {n - first}. {AGAIN}")
    return Tekken(check_alphabet(ranks, str(file)), special, pattern)


@dataclass(frozen=True)
class SentencePieceFile:
    """What a SentencePiece `.model` says: pieces in the order of their ids, and the rules."""

    pieces: list[tuple[str, float, int]] = field(repr=False)    # text, score, kind
    model_type: int             # 1 is unigram, 2 is BPE
    split_digits: bool          # in training: no piece may hold two digits
    byte_fallback: bool         # what no piece covers becomes bytes
    bos_id: int
    eos_id: int
    unk_surface: str            # how an unknown token is shown
    charsmap: bytes             # a table that changes characters; empty in the Llamas
    add_dummy_prefix: bool      # a text begins with a space, given or not
    remove_extra_whitespaces: bool
    escape_whitespaces: bool    # a space is written ▁


def read_sentencepiece(file: Path) -> SentencePieceFile:
    """Read a `.model`, which is a protobuf message of three parts that matter here.

    Raises ValueError for a file that is broken, or has a piece twice.
    """
    content = read_whole(file, most=MAX_BYTES)
    try:
        parts = list(_fields(content))
        pieces = [_piece(part) for number, part in parts if number == 1]
        trainer, rules, back = (        # of several values the last one counts
            dict(_fields(b"".join(part for i, part in parts if i == n))) for n in (2, 3, 5))
        unk_surface = trainer.get(44, " ⁇ ".encode()).decode()
        _check_growth(unk_surface.encode(), rules.get(2, b""), back.get(2, b""))
        bos_id, eos_id = _signed(trainer.get(41, 1)), _signed(trainer.get(42, 2))
        n_bytes = sum(kind == BYTE for _, _, kind in pieces)
        if not (trainer and rules) or max(bos_id, eos_id) >= len(pieces) or n_bytes != (
                256 if trainer.get(35) else 0):
            raise ValueError("its settings are missing, or do not fit its pieces")
        piece, n = Counter(text for text, _, _ in pieces).most_common(1)[0]
    except (ValueError, IndexError, TypeError, AttributeError, struct.error):
        raise ValueError(f"{file} is not a SentencePiece model that can be read; a protobuf with "
                         f"pieces, trainer and normalizer is needed. {AGAIN}") from None
    if n > 1:
        raise ValueError(f"{file} has the piece {piece!r} twice; each is needed once. {AGAIN}")
    return SentencePieceFile(
        pieces=pieces, model_type=trainer.get(3, 1), split_digits=bool(trainer.get(25, 0)),
        byte_fallback=bool(trainer.get(35, 0)), bos_id=bos_id, eos_id=eos_id,
        unk_surface=unk_surface, charsmap=rules.get(2, b""), add_dummy_prefix=bool(rules.get(3, 1)),
        remove_extra_whitespaces=bool(rules.get(4, 1)), escape_whitespaces=bool(rules.get(5, 1)))


def _check_growth(unknown: bytes, *charsmaps: bytes) -> None:
    """Raises ValueError where one character or piece could become a text of any length."""
    strings = [unknown]
    for table in filter(None, charsmaps):       # a size, a trie of that size, and strings
        strings += table[4 + struct.unpack_from("<I", table)[0] :].split(b"\0")
    if max(map(len, strings)) > MAX_GROWTH:
        raise ValueError("a character becomes a long text")


def _piece(message: bytes) -> tuple[str, float, int]:
    fields = dict(_fields(message))
    text, score, kind = fields.get(1, b"").decode(), fields.get(2, 0.0), fields.get(3, NORMAL)
    if type(score) is not float or not math.isfinite(score) or not text or kind not in KINDS or (
            kind == BYTE and not BYTE_PIECE.fullmatch(text)):
        raise ValueError(f"{text!r:.40} has the score {score!r:.40} and the kind {kind!r:.40}")
    return text, score, kind


def _fields(message: bytes) -> Iterator[tuple[int, int | float | bytes]]:
    """Protobuf's wire format: a key (field number, how it is stored) and the value, repeated."""
    at = n = 0
    while at < len(message):
        if (n := n + 1) > MAX_PIECES:
            raise ValueError("there are more fields than any vocabulary has")
        key, at = _varint(message, at)
        if key & 7 == 0:
            value, at = _varint(message, at)
        elif key & 7 == 5:
            (value,), at = struct.unpack_from("<f", message, at), at + 4
        elif key & 7 == 2:
            size, at = _varint(message, at)
            value, at = message[at : at + size], at + size
            if at > len(message):
                raise ValueError("a field reaches beyond the end")
        else:
            raise ValueError(f"no field is stored in way {key & 7}")
        yield key >> 3, value


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """A whole number in groups of seven bits, the lowest first; and where the next field is."""
    value = 0
    for shift in range(0, 70, 7):       # 64 bits fill ten bytes at most
        byte = message[at]
        value |= (byte & 127) << shift
        at += 1
        if byte < 128 and value < 1 << 64:
            return value, at
    raise ValueError("a number has more than 64 bits")


def _signed(value: int) -> int:
    """Protobuf writes −1 as 2⁶⁴ − 1."""
    return value - (1 << 64) if value >> 63 else value
