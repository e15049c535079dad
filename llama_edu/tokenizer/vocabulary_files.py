"""Three kinds of vocabulary file: Llama 3's ranks, tekken's JSON, SentencePiece's protobuf."""

import base64
import binascii
import json
import re
import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

RANK_LINE = re.compile(rb"[A-Za-z0-9+/]+={0,2} [0-9]+\r?\n")
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6     # kinds of piece
AGAIN = "Is it the right file? If so, it was cut short: download it again."


def kind(file: Path) -> str:
    """What a file holds, by its first bytes: "gguf", "json", "tekken", "ranks" or
    "sentencepiece". Raises ValueError for anything else."""
    try:
        with file.open("rb") as opened:
            head = opened.read(4096)
    except OSError as unreadable:
        raise ValueError(f"{file} cannot be opened ({unreadable.strerror}); a file that you may "
                         "read is needed. Check its rights.") from None
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


def read_ranks(file: Path) -> dict[bytes, int]:
    """Pieces and their ranks: on every line a piece in base64 and its number, 0, 1, 2, ...

    Raises ValueError for a line that is something else, and where a byte is no piece.
    """
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(file.read_bytes().splitlines()):
        try:
            piece, rank = line.split()
            ranks[base64.b64decode(piece, validate=True)] = int(rank)
        except (ValueError, binascii.Error):
            raise ValueError(f"line {number + 1} of {file} is {line[:40]!r}; a piece in base64 and "
                             f"its rank are needed. {AGAIN}") from None
        if len(ranks) != number + 1 or int(rank) != number:
            raise ValueError(f"line {number + 1} of {file} gives rank {int(rank)}; {number} and a "
                             f"new piece are needed. {AGAIN}")
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
        notes = Notes(**json.loads(file.read_text(encoding="utf-8")))
        fine = type(notes.pattern) in (str, type(None)) and all(
            type(token) is int and token >= 0 for token in notes.special.values())
    except (ValueError, TypeError, AttributeError, RecursionError):
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
    try:
        fields = json.loads(file.read_text(encoding="utf-8"))
        config = fields["config"]
        first = config["default_num_special_tokens"]
        rows = fields["vocab"][: config["default_vocab_size"] - first]
        ranks = {base64.b64decode(row["token_bytes"]): first + row["rank"] for row in rows}
        names = dict(enumerate(["<unk>", "<s>", "</s>"]))   # older files do not name them
        names |= {row["rank"]: row["token_str"] for row in fields.get("special_tokens") or []}
        special = {names.get(i, f"<SPECIAL_{i}>"): i for i in range(first)}
        pattern = config["pattern"]
    except (ValueError, KeyError, TypeError) as broken:
        raise ValueError(f"{file} is not a tekken.json that can be read ({broken!r}). "
                         f"{AGAIN}") from None
    if len(ranks) != config["default_vocab_size"] - first:
        raise ValueError(f"{file} has {len(ranks)} pieces; its config needs "
                         f"{config['default_vocab_size'] - first}. {AGAIN}")
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
    try:
        parts = list(_fields(file.read_bytes()))
        pieces = [_piece(part) for number, part in parts if number == 1]
        trainer = dict(_fields(next(part for number, part in parts if number == 2)))
        rules = dict(_fields(next(part for number, part in parts if number == 3)))
        unk_surface = trainer.get(44, " ⁇ ".encode()).decode()
        piece, n = Counter(text for text, _, _ in pieces).most_common(1)[0]
    except (ValueError, IndexError, TypeError, AttributeError, StopIteration, struct.error):
        raise ValueError(f"{file} is not a SentencePiece model that can be read; a protobuf with "
                         f"pieces, trainer and normalizer is needed. {AGAIN}") from None
    if n > 1:
        raise ValueError(f"{file} has the piece {piece!r} twice; each is needed once. {AGAIN}")
    return SentencePieceFile(
        pieces=pieces, model_type=trainer.get(3, 1), split_digits=bool(trainer.get(25, 0)),
        byte_fallback=bool(trainer.get(35, 0)), bos_id=_signed(trainer.get(41, 1)),
        eos_id=_signed(trainer.get(42, 2)), unk_surface=unk_surface,
        charsmap=rules.get(2, b""), add_dummy_prefix=bool(rules.get(3, 1)),
        remove_extra_whitespaces=bool(rules.get(4, 1)), escape_whitespaces=bool(rules.get(5, 1)))


def _piece(message: bytes) -> tuple[str, float, int]:
    fields = dict(_fields(message))
    return fields.get(1, b"").decode(), fields.get(2, 0.0), fields.get(3, NORMAL)


def _fields(message: bytes) -> Iterator[tuple[int, int | float | bytes]]:
    """Protobuf's wire format: a key (field number, how it is stored) and the value, repeated."""
    at = 0
    while at < len(message):
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
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at


def _signed(value: int) -> int:
    """Protobuf writes −1 as 2⁶⁴ − 1."""
    return value - (1 << 64) if value >> 63 else value
