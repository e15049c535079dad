"""A `consolidated.NN.pth`: a zip with one pickle, which names the tensors, and their bytes.

Read without running anything that the pickle asks for; written one tensor at a time. Bytes are
read into place rather than mapped: mapped pages would count as memory beside the tensors.
"""

import errno
import os
import pickletools
import struct
import sys
import warnings
import zipfile
import zlib
from collections import OrderedDict, deque
from collections.abc import Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from .source import finite

# -- reading -----------------------------------------------------------------------------------

# A table of plain tensors is spelled with these words; torch's weights_only knows some fifty
# more, and with one of them (bytearray) a file of 1 KiB can ask for a terabyte.
WORDS = {"collections OrderedDict", "torch._utils _rebuild_tensor_v2",
         "torch._utils _rebuild_parameter",
         "torch FloatStorage", "torch HalfStorage", "torch BFloat16Storage"}
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
NUMBERS = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"}
TUPLES = {"TUPLE1": 1, "TUPLE2": 2}
SIMPLE = {"BINUNICODE", "SHORT_BINSTRING", "GLOBAL", "SHAPE"}   # may be used again in a pickle
MAX_PICKLE = 2**23              # bytes; the pickle of a shard of the 405B has 0.2 MB
TABLES = ("tok_embeddings.weight", "output.weight")     # one table in a tied model
AGAIN = "It is cut short, damaged or of another kind; download it again."


@dataclass(frozen=True)
class Piece:
    """A tensor in a file: where its bytes lie. The file is opened only while they are read."""

    file: Path
    offset: int
    shape: tuple[int, ...]
    dtype: torch.dtype

    def read_into(self, w: Tensor) -> None:
        """Fill `w`, which may be a part of a larger tensor.

        Raises ValueError where the file cannot be read any more, or ends inside the tensor.
        """
        own = w if w.is_contiguous() else torch.empty_like(w, memory_format=torch.contiguous_format)
        try:
            with self.file.open("rb") as opened:
                opened.seek(self.offset)
                got = opened.readinto(own.flatten().view(torch.uint8).numpy())
        except OSError as unreadable:
            raise ValueError(f"{self.file} cannot be read any more ({unreadable.strerror}); the "
                             "file that was opened is needed. Leave it in its place.") from None
        if got < own.nbytes:
            raise ValueError(f"{self.file} ends inside a tensor. {AGAIN}")
        if own is not w:
            w.copy_(own)


def read_header(file: Path) -> dict[str, Piece]:
    """Every tensor in a .pth, its place and shape; no weight is read and no code is run.

    Raises ValueError for a file that is no table of plain float tensors.
    """
    places = records(file, WORDS)
    try:
        with warnings.catch_warnings(action="ignore"):
            table = torch.load(file, map_location="meta", weights_only=True)
    except Exception as broken:     # on broken bytes torch raises a dozen kinds of error
        raise ValueError(f"{file} cannot be read ({_line(broken)}). {AGAIN}") from None
    if type(table) not in (dict, OrderedDict):
        raise ValueError(f"{file} holds a {type(table).__name__}; a table of names and tensors is "
                         "needed. Save the model's state_dict.")
    owners: dict[int, str] = {}
    header = {}
    for name, w in table.items():
        header[name] = _piece(file, name, w, places)
        owner = owners.setdefault(w.untyped_storage()._checkpoint_offset, name)
        if owner != name and {owner, name} != {*TABLES}:
            raise ValueError(f"{name} and {owner} share their bytes in {file}; each tensor needs "
                             f"its own. {AGAIN}")
    return header


def _piece(file: Path, name: Any, w: Any, places: Mapping[int, int]) -> Piece:
    if type(name) is not str or type(w) not in (Tensor, torch.nn.Parameter):
        raise ValueError(f"{file} holds a {type(w).__name__} as {name!r}; a tensor with a name is "
                         "needed. Save the model's state_dict, without anything around it.")
    if w.layout != torch.strided or w.dtype not in DTYPES or not w.is_contiguous() or not w.ndim:
        raise ValueError(f"{name} in {file} has {w.dtype}, shape {tuple(w.shape)} and strides "
                         f"{w.stride()}; float32, float16 or bfloat16 in plain order is needed. "
                         "Save it with .float().contiguous().")
    try:
        return Piece(file, offset(w, places), tuple(w.shape), w.dtype)
    except ValueError as lie:
        raise ValueError(f"{name} in {file} {lie}. {AGAIN}") from None


def offset(w: Tensor, places: Mapping[int, int]) -> int:
    """Where the bytes of a contiguous tensor begin that was loaded as "meta".

    Raises ValueError, in a few words, where it claims more than lies at one of these places.
    """
    stored, begin = w.untyped_storage(), w.storage_offset() * w.itemsize
    start = stored._checkpoint_offset
    if places.get(start) != stored.nbytes() or begin + w.nbytes > stored.nbytes():
        raise ValueError(f"claims {begin + w.nbytes} of {stored.nbytes()} bytes; the file has "
                         f"{places.get(start, 0)} there")
    return start + begin


def records(file: Path, allowed: Set[str], content: BinaryIO | None = None) -> dict[int, int]:
    """Where a file's records begin, and how long they are; its pickle was looked through.

    allowed: the functions and classes that the pickle may name. content: what is read in place of
    the file. Raises ValueError where it is no such zip, or asks for more.
    """
    try:
        with content or file.open("rb") as opened, zipfile.ZipFile(opened) as archive:
            infos, held = archive.infolist(), opened.seek(0, os.SEEK_END)
            if archive.start_dir != _said_start(opened):    # else torch may see another archive
                raise ValueError("its directory is not where it says")
            places = {_data_offset(opened, info): info.file_size for info in infos}
            if not all(i.compress_type == zipfile.ZIP_STORED and not i.flag_bits & 1
                       for i in infos) or any(at + n > held for at, n in places.items()):
                raise ValueError("its records are compressed, or longer than the file")
            (words,) = _contents(opened, infos, "/data.pkl", MAX_PICKLE)
            orders = _contents(opened, infos, "/byteorder", 8)
            asked = _asked_for(words)
    except Exception as broken:     # the two libraries raise many kinds of error on broken bytes
        raise ValueError(f"{file} is not a file of torch.save since 1.6, a zip ({_line(broken)}). "
                         f"{AGAIN}") from None
    if odd := sorted(asked - allowed):
        raise ValueError(f"{file} asks for {odd[0].replace(' ', '.'):.60}; a table of plain "
                         "tensors needs no such thing, and it was not run. Do not trust this file.")
    if orders not in ([], [sys.byteorder.encode()]):
        raise ValueError(f"{file} has its bytes in the order {orders[0]!r}; this machine's is "
                         f"{sys.byteorder}. Save it again on a machine of this kind.")
    return places


def _asked_for(words: bytes) -> set[str]:
    """The functions and classes that a pickle names.

    Raises ValueError where it uses a tuple or a list again, other than a shape: sixty pairs, each
    twice the one before, would fill any memory once spelled out. A tied table is one tensor twice.
    """
    asked, kept, again, last = set(), {}, [], deque(maxlen=3)
    for code, value, _ in pickletools.genops(words):
        n_items = TUPLES.get(code.name, 0)
        if code.name in ("BINPUT", "LONG_BINPUT"):
            kept[value] = last[-1]
            continue
        if code.name in ("GLOBAL", "INST"):
            asked.add(value)
        if code.name in ("BINGET", "LONG_BINGET"):
            again.append(kept.get(value))
        of_numbers = n_items and {*list(last)[-n_items:]} <= NUMBERS
        last.append("SHAPE" if of_numbers else code.name)
    if [made for made in again if made not in SIMPLE] not in ([], ["REDUCE"]):
        raise ValueError("its pickle uses its parts again and again")
    return asked


def _said_start(opened: BinaryIO) -> int:
    """Where the archive's last bytes say that its directory begins."""
    opened.seek(-22, os.SEEK_END)
    start, = struct.unpack("<16xI2x", opened.read(22))
    if start == 0xFFFFFFFF:                 # from 4 GiB on it is said in a longer record before
        opened.seek(-98, os.SEEK_END)
        start, = struct.unpack("<48xQ", opened.read(56))
    return start


def _contents(opened: BinaryIO, infos: list[zipfile.ZipInfo], ending: str, longest: int
              ) -> list[bytes]:
    """Records whose names end so. Their checksums do not count: torch can save without."""
    found = []
    for info in infos:
        if info.filename.endswith(ending):
            if info.file_size > longest:
                raise ValueError(f"{info.filename:.60} has {info.file_size} bytes")
            opened.seek(_data_offset(opened, info))
            found.append(opened.read(info.file_size))
    return found


def _data_offset(opened: BinaryIO, info: zipfile.ZipInfo) -> int:
    """Where a record's bytes begin: behind its own header, its name and its padding."""
    opened.seek(info.header_offset)
    name, extra = struct.unpack("<26xHH", opened.read(30))
    return info.header_offset + 30 + name + extra


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:120]


# -- writing -----------------------------------------------------------------------------------

CHUNK = 2**26                   # bytes that are converted and written at a time


def write_header(file: Path, shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype, *,
                 one_table: bool = False) -> dict[str, Piece]:
    """Write a .pth whose tensors are holes, and say where their bytes belong.

    one_table: the two TABLES have one place. Raises OSError where the system refuses.
    """
    with FakeTensorMode():
        table = {name: torch.empty(shape, dtype=dtype) for name, shape in shapes.items()}
        if one_table:       # two tensors on the same bytes, as in the state of a tied model
            table[TABLES[1]] = table[TABLES[0]].detach()
    try:
        with torch.serialization.skip_data(materialize_fake_tensors=True):
            torch.save(table, file)
    except RuntimeError:        # all that torch says of a full disk
        raise OSError(errno.EIO, "torch could not write it", str(file)) from None
    return read_header(file)


def write_piece(opened: BinaryIO, piece: Piece, w: Tensor, name: str) -> int:
    """Write a tensor into its place, as the place's dtype; returns the checksum of its bytes.

    Raises ValueError for numbers that are not finite as that dtype.
    """
    checksum, rows = 0, max(1, CHUNK * len(w) // max(1, w.numel() * piece.dtype.itemsize))
    opened.seek(piece.offset)
    for some in w.split(rows):
        some = finite(some.to(piece.dtype).contiguous(), name)
        content = memoryview(some.flatten().view(torch.uint8).numpy())
        checksum = zlib.crc32(content, checksum)
        opened.write(content)
    return checksum


def seal(file: Path, checksums: Mapping[int, int]) -> None:
    """Give the records at these offsets their checksums, as in any zip; torch wrote none."""
    with zipfile.ZipFile(file) as archive, file.open("r+b") as opened:
        entry = archive.start_dir
        for info in archive.infolist():
            opened.seek(entry)
            lengths = struct.unpack("<28xHHH12x", opened.read(46))
            at = _data_offset(opened, info)
            if at in checksums:
                for place in (entry + 16, at + info.file_size + 4):     # directory, record's end
                    opened.seek(place)
                    opened.write(struct.pack("<I", checksums[at]))
            entry += 46 + sum(lengths)
