"""What stands before the weights in a GGUF file: named fields, and a list of tensors.

The `gguf` package has a reader too. It trusts the counts in a file, so a false one keeps it busy
for ever, and the vocabulary of Llama 3 takes it ten seconds. This one asks of every count first
whether the file is long enough for it.
"""

import mmap
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MAGIC, VERSIONS = b"GGUF", (2, 3)
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q",
           12: "d"}             # the number of a type, and its letter in `struct`
STRING, ARRAY = 8, 9
LENGTH = struct.Struct("<Q")    # of a string, before its bytes
MAX_ENTRIES = 1 << 22           # of all lists together; those of Llama 3 have half a million
MAX_BYTES = 1 << 28             # of a header; Llama 3's has 8 million
MAX_NAME = 64                   # letters of a tensor's name, as in llama.cpp
MAX_DIMS = 4


@dataclass(frozen=True)
class Listed:
    """A tensor as the file lists it."""

    shape: tuple[int, ...]      # slowest first, as PyTorch counts; the file has it the other way
    kind: int                   # how its numbers are stored; gguf.GGMLQuantizationType names them
    offset: int                 # bytes after the start of all weights


@dataclass(frozen=True)
class Header:
    """All of a file but the weights."""

    fields: dict[str, Any] = field(repr=False)
    tensors: dict[str, Listed] = field(repr=False)
    alignment: int
    start: int                  # where the weights begin, in bytes
    size: int                   # of the file, in bytes


def read(file: Path) -> Header:
    """The header of a GGUF file of version 2 or 3. Raises ValueError for one that lies."""
    try:
        with file.open("rb") as opened:
            size = os.fstat(opened.fileno()).st_size
            if size < 24:
                raise _wrong(file, f"it has {size} bytes; a header alone has 24")
            with mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
                return _read(_Cursor(file, content, size))
    except OSError as refused:
        raise ValueError(f"{file} cannot be read ({refused.strerror}); a GGUF file that you may "
                         "read is needed. Check its path and its rights.") from None


def begins(file: Path) -> bool:
    """Whether a file begins as GGUF does, whatever its name."""
    with file.open("rb") as opened:
        return opened.read(len(MAGIC)) == MAGIC


class _Cursor:
    """A place in the file that only moves forward, and never beyond the end."""

    def __init__(self, file: Path, content: mmap.mmap, size: int) -> None:
        self.file, self.content, self.at = file, content, 0
        self.size, self.end, self.n_entries = size, min(size, MAX_BYTES), MAX_ENTRIES

    def numbers(self, letter: str, count: int = 1) -> tuple[Any, ...]:
        width = struct.calcsize("<" + letter)
        start = self.skip(count * width, f"{count} numbers")
        return struct.unpack_from(f"<{count}{letter}", self.content, start)

    def number(self, letter: str) -> Any:
        return self.numbers(letter)[0]

    def strings(self, count: int = 1) -> list[str]:
        """The next strings: a vocabulary has half a million, so this loop calls little."""
        content, end, at, found = self.content, self.end, self.at, []
        try:
            for _ in range(count):
                start = at + LENGTH.size
                at = start + (LENGTH.unpack_from(content, at)[0] if start <= end else 0)
                if at > end:
                    raise self.wrong(f"it promises a string of {at - start} bytes at byte {start}, "
                                     f"and the header must end by {end}")
                found.append(str(content[start:at], "utf-8"))
        except UnicodeDecodeError:
            raise self.wrong(f"the string at byte {start} is not UTF-8") from None
        self.at = at
        return found

    def skip(self, n_bytes: int, what: str) -> int:
        if n_bytes > self.end - self.at:
            raise self.wrong(f"it promises {what} at byte {self.at}, and the header must end by "
                             f"{self.end}")
        self.at += n_bytes
        return self.at - n_bytes

    def count(self, what: str, smallest: int) -> int:
        """How many follow, where each takes at least `smallest` bytes of what is left."""
        n, left = self.number("Q"), self.end - self.at
        if n > min(self.n_entries, left // smallest):
            raise self.wrong(f"it claims {n} {what}, and has {left} bytes for them")
        self.n_entries -= n
        return n

    def wrong(self, what: str) -> ValueError:
        return _wrong(self.file, what)


def _read(cursor: _Cursor) -> Header:
    _check_start(cursor)
    n_tensors = cursor.count("tensors", 32)
    fields = dict(_fields(cursor, cursor.count("fields", 13)))
    tensors = dict(_tensors(cursor, n_tensors))
    alignment = fields.get("general.alignment", 32)
    if type(alignment) is not int or alignment not in {1 << bit for bit in range(3, 17)}:
        raise cursor.wrong(f"general.alignment is {alignment!r}; a power of two from 8 to 65536 "
                           "is possible")
    return Header(fields, tensors, alignment, cursor.at + -cursor.at % alignment, cursor.size)


def _check_start(cursor: _Cursor) -> None:
    if (magic := bytes(cursor.numbers("B", 4))) != MAGIC:
        raise cursor.wrong(f"it begins with {magic!r}, not {MAGIC!r}")
    if (version := cursor.number("I")) not in VERSIONS:
        turned = int.from_bytes(version.to_bytes(4, "little"), "big")
        if turned in VERSIONS:
            raise cursor.wrong("its numbers are big-endian, which no file for today's machines is")
        raise cursor.wrong(f"it has version {version}; versions 2 and 3 can be read")


def _fields(cursor: _Cursor, n: int) -> Iterator[tuple[str, Any]]:
    names: set[str] = set()
    for _ in range(n):
        name = _new(cursor, names, "field")
        yield name, _value(cursor, cursor.number("I"), name)


def _new(cursor: _Cursor, names: set[str], what: str) -> str:
    """The name of the next field or tensor, which none before it had."""
    name, = cursor.strings()
    if name in names:
        raise cursor.wrong(f"it has two {what}s called {name!r:.80}")
    names.add(name)
    return name


def _value(cursor: _Cursor, kind: int, name: str) -> Any:
    if kind == STRING:
        return cursor.strings()[0]
    if kind == ARRAY:
        return _list(cursor, cursor.number("I"), name)
    if kind not in SCALARS:
        raise cursor.wrong(f"the field {name!r:.80} is of type {kind}, which does not exist")
    return cursor.number(SCALARS[kind])


def _list(cursor: _Cursor, kind: int, name: str) -> list[Any]:
    if kind == STRING:
        return cursor.strings(cursor.count(f"strings in {name!r:.80}", LENGTH.size))
    if kind not in SCALARS:
        raise cursor.wrong(f"the field {name!r:.80} is a list of type {kind}; lists of numbers or "
                           "strings are possible")
    width = struct.calcsize("<" + SCALARS[kind])
    return list(cursor.numbers(SCALARS[kind], cursor.count(f"numbers in {name!r:.80}", width)))


def _tensors(cursor: _Cursor, n: int) -> Iterator[tuple[str, Listed]]:
    names: set[str] = set()
    for _ in range(n):
        name = _new(cursor, names, "tensor")
        if len(name) > MAX_NAME or not (name.isascii() and name.isprintable()):
            raise cursor.wrong(f"a tensor is called {name!r:.80}; up to {MAX_NAME} letters of "
                               "ASCII are possible")
        n_dims = cursor.number("I")
        if not 1 <= n_dims <= MAX_DIMS:
            raise cursor.wrong(f"{name} has {n_dims} dimensions; 1 to {MAX_DIMS} are possible")
        shape = cursor.numbers("Q", n_dims)[::-1]
        yield name, Listed(shape, cursor.number("I"), cursor.number("Q"))


def _wrong(file: Path, what: str) -> ValueError:
    return ValueError(f"{file} is not a GGUF file that can be read: {what}. It is damaged or cut "
                      "short; download it again.")
