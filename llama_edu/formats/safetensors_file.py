"""A .safetensors file: the length of its header in eight bytes, the header in JSON, the numbers.

Numbers are read with plain reads and not through a memory map: no page of the file stays in
memory, and a file that shrinks meanwhile gives an error and no crash.
"""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import strict_json
from .source import Stored, finite
from .whole_files import whole_file

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
SPELLINGS = {dtype: spelling for spelling, dtype in DTYPES.items()}


@dataclass(frozen=True)
class Entry:
    """Where one tensor lies in a file."""

    file: Path
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int              # bytes, from the beginning of the file

    def read(self) -> Tensor:
        """The tensor, in memory of its own. Raises ValueError where the file is gone or shorter."""
        w = torch.empty(self.shape, dtype=self.dtype)
        try:
            with self.file.open("rb") as opened:
                opened.seek(self.start)
                got = opened.readinto(_bytes(w))
        except OSError as unreadable:
            raise _unreadable(self.file, unreadable.strerror) from None
        if got < w.nbytes:
            raise _unreadable(self.file, "it ends too early")
        return w


def read_header(file: Path) -> dict[str, Entry]:
    """What a file holds, by name. The numbers are not read.

    Raises ValueError unless the tensors are floating-point numbers that lie one behind another,
    from the end of the header to the end of the file, without gap or overlap.
    """
    try:
        with file.open("rb") as opened:
            size = os.fstat(opened.fileno()).st_size
            length = int.from_bytes(opened.read(8), "little")
            if length > min(size - 8, strict_json.LONGEST):
                raise ValueError(f"a header of {length:,} bytes in a file of {size:,}")
            fields = strict_json.parse(opened.read(length))
            return _entries(file, fields, data=8 + length, size=size)
    except OSError as unreadable:
        raise _unreadable(file, unreadable.strerror) from None
    except TypeError as other:
        raise _unreadable(file, f"its header is a {other}") from None
    except ValueError as broken:
        raise _unreadable(file, broken) from None


def _entries(file: Path, fields: Mapping[str, Any], *, data: int, size: int) -> dict[str, Entry]:
    notes = fields.pop("__metadata__", {})
    if type(notes) is not dict or not all(type(note) is str for note in notes.values()):
        raise ValueError("__metadata__ is no table of texts")
    found, next_start = {}, 0
    spans = {name: _span(name, given) for name, given in fields.items()}
    for name, (start, end) in sorted(spans.items(), key=lambda item: item[1]):
        dtype, shape = DTYPES[fields[name]["dtype"]], tuple(fields[name]["shape"])
        if start != next_start or end - start != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"{name} of shape {shape} cannot lie at {start:,} to {end:,}")
        found[name], next_start = Entry(file, dtype, shape, data + start), end
    if data + next_start != size:
        raise ValueError(f"its tensors end at byte {data + next_start:,}, the file at {size:,}")
    return found


def _span(name: str, given: Any) -> tuple[int, int]:
    """First byte and end of a tensor, counted from the header's end; all fields are of their kind.
    """
    if type(given) is not dict or given.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{name} lacks dtype, shape or data_offsets, or has more")
    dtype, shape, span = given["dtype"], given["shape"], given["data_offsets"]
    if type(dtype) is not str or dtype not in DTYPES:
        raise ValueError(f"{name} is stored as {dtype!r:.40}; {', '.join(DTYPES)} are read, and no "
                         "whole or quantised numbers")
    for numbers, longest in ((shape, 8), (span, 2)):
        if type(numbers) is not list or len(numbers) > longest or not all(
                type(n) is int and 0 <= n < 1 << 60 for n in numbers):
            raise ValueError(f"{name} has the sizes {numbers!r:.40}")
    if len(span) < 2:
        raise ValueError(f"{name} has no beginning or no end")
    return span[0], span[1]


def _unreadable(file: Path, reason: object) -> ValueError:
    return ValueError(f"{file} cannot be read as safetensors ({reason}). It is cut short, "
                      "damaged or of another kind; download it again.")


def write(file: Path, tensors: Mapping[str, Stored], *, dtype: torch.dtype) -> None:
    """Write tensors as `dtype`, one after another: never more than one of them is in memory.

    Raises ValueError for NaN or infinity, such as a number too large for float16 becomes.
    """
    fields: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, stored in tensors.items():
        start, end = end, end + math.prod(stored.shape) * dtype.itemsize
        fields[name] = {"dtype": SPELLINGS[dtype], "shape": stored.shape,
                        "data_offsets": [start, end]}
    header = json.dumps(fields).encode()
    header += b" " * (-len(header) % 8)         # so that the numbers begin at a multiple of 8
    with whole_file(file) as part, part.open("wb") as opened:
        opened.write(len(header).to_bytes(8, "little") + header)
        for name, stored in tensors.items():
            w = stored.read().detach().to("cpu", dtype).contiguous()
            opened.write(_bytes(finite(w, name)))


def _bytes(w: Tensor) -> memoryview:
    """The memory of a contiguous tensor."""
    return memoryview(w.reshape(-1).view(torch.uint8).numpy())
