"""The exercise of chapter 09 on a file: one tensor of a safetensors file."""

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Generator, Tensor

from ..formats import safetensors_file
from ..formats.safetensors_file import DTYPES, SPELLINGS
from .data import Exercise, Inputs, Misconception, Probe, normal

# -- 9.1: one tensor out of a file ---------------------------------------------------------------


def _package_tensor(content: bytes, name: str) -> Tensor:
    with TemporaryDirectory() as folder:
        file = Path(folder) / "model.safetensors"
        file.write_bytes(content)
        return safetensors_file.read_header(file)[name].read()


def _file(rng: Generator, name: str, *, in_file: Sequence[str], listed: Sequence[str],
          dtype: torch.dtype = torch.float32, notes: bool = False,
          others: dict[str, torch.dtype] | None = None) -> Inputs:
    """A file of three tensors, which may lie in another order than the header lists them."""
    kinds = dict.fromkeys(in_file, dtype) | (others or {})
    shapes = {"norm.weight": (4,), "output.weight": (2, 6), "wk.weight": (3, 2)}
    tensors = {each: normal(rng, *shapes[each], std=4.0).to(kinds[each]) for each in in_file}
    spans, end = {}, 0
    for each, w in tensors.items():
        spans[each], end = [end, end + w.nbytes], end + w.nbytes
    fields = {"__metadata__": {"format": "pt"}} if notes else {}
    fields |= {each: {"dtype": SPELLINGS[kinds[each]], "shape": shapes[each],
                      "data_offsets": spans[each]} for each in listed}
    header = json.dumps(fields).encode()
    header += b" " * (-len(header) % 8)
    numbers = b"".join(w.view(torch.uint8).numpy().tobytes() for w in tensors.values())
    return {"content": len(header).to_bytes(8, "little") + header + numbers, "name": name}


def _tensor(content: bytes, name: str, *, order: str = "little",
            place: Callable[[int, int], int] = lambda n, start: 8 + n + start,
            dtypes: dict[str, torch.dtype] = DTYPES,
            laid_out: Callable[[Tensor, list[int]], Tensor] = Tensor.reshape) -> Tensor:
    """A way to read one tensor, right unless told otherwise."""
    n = int.from_bytes(content[:8], order)
    entry = json.loads(content[8:8 + n])[name]
    start, end = entry["data_offsets"]
    at = place(n, start)
    numbers = torch.frombuffer(bytearray(content[at:at + end - start]),
                               dtype=dtypes[entry["dtype"]])
    return laid_out(numbers, entry["shape"])


def _counted(content: bytes, name: str, *, dtype: torch.dtype) -> Tensor:
    """Reads as many numbers as the shape has, of one dtype, and never looks at where they end."""
    n = int.from_bytes(content[:8], "little")
    entry = json.loads(content[8:8 + n])[name]
    return torch.frombuffer(bytearray(content), dtype=dtype, offset=8 + n
                            + entry["data_offsets"][0], count=torch.Size(entry["shape"]).numel()
                            ).reshape(entry["shape"])


def _running(content: bytes, name: str) -> Tensor:
    """Adds up sizes in the order of the header, and never looks at data_offsets."""
    n = int.from_bytes(content[:8], "little")
    at = 8 + n
    for each, entry in json.loads(content[8:8 + n]).items():
        if each != "__metadata__":
            dtype, size = DTYPES[entry["dtype"]], torch.Size(entry["shape"]).numel()
            if each == name:
                return torch.frombuffer(bytearray(content), dtype=dtype, count=size,
                                        offset=at).reshape(entry["shape"])
            at += size * dtype.itemsize
    raise KeyError(name)


def _kind(content: bytes, name: str) -> torch.dtype:
    n = int.from_bytes(content[:8], "little")
    return DTYPES[json.loads(content[8:8 + n])[name]["dtype"]]


def _bytes_exchanged(content: bytes, name: str) -> Tensor:
    w = _tensor(content, name)
    return w.view(torch.uint8).unflatten(-1, (-1, w.itemsize)).flip(-1).flatten(-2).view(w.dtype)


def _first_kind(content: bytes, name: str) -> Tensor:
    n = int.from_bytes(content[:8], "little")
    first = next(each for each in json.loads(content[8:8 + n]) if each != "__metadata__")
    return _tensor(content, name, dtypes=dict.fromkeys(DTYPES, _kind(content, first)))


def _converted(content: bytes, name: str) -> Tensor:
    """Reads whole numbers as wide as the dtype, and converts their values."""
    dtype = _kind(content, name)
    wide = torch.int32 if dtype.itemsize == 4 else torch.int16
    return _tensor(content, name, dtypes=dict.fromkeys(DTYPES, wide)).to(dtype)


def _columns_first(numbers: Tensor, shape: list[int]) -> Tensor:
    return numbers.reshape(shape[::-1]).permute(*reversed(range(len(shape))))


IN_ORDER = ("output.weight", "norm.weight", "wk.weight")
HEADER = Exercise(
    "9.1", "One tensor out of a file", "By hand", _package_tensor,
    probes=(
        Probe("the first tensor", lambda rng: _file(
            rng, "output.weight", in_file=IN_ORDER, listed=IN_ORDER)),
        Probe("one in the middle", lambda rng: _file(
            rng, "norm.weight", in_file=IN_ORDER, listed=IN_ORDER, notes=True)),
        Probe("bfloat16, listed in another order", lambda rng: _file(
            rng, "wk.weight", in_file=IN_ORDER, listed=IN_ORDER[::-1], dtype=torch.bfloat16)),
        Probe("float16", lambda rng: _file(
            rng, "wk.weight", in_file=IN_ORDER, listed=IN_ORDER, dtype=torch.float16)),
        Probe("bfloat16 behind float32 and float16", lambda rng: _file(
            rng, "wk.weight", in_file=IN_ORDER, listed=IN_ORDER, dtype=torch.bfloat16,
            others={"output.weight": torch.float32, "norm.weight": torch.float16})),
    ),
    misconceptions=(
        Misconception("from the beginning of the file", partial(
            _tensor, place=lambda n, start: start),
                      "you counted data_offsets from the beginning of the file. They count from "
                      "the end of the header."),
        Misconception("header not skipped", partial(_tensor, place=lambda n, start: 8 + start),
                      "you counted data_offsets from the end of the length. They count from the "
                      "end of the header, so add the header's length as well."),
        Misconception("eight bytes forgotten", partial(_tensor, place=lambda n, start: n + start),
                      "you are eight bytes too early: the length itself stands before the "
                      "header."),
        Misconception("offsets ignored", partial(_tensor, place=lambda n, start: 8 + n),
                      "you read from the end of the header whatever data_offsets say, so every "
                      "tensor is the first one."),
        Misconception("order of the header", _running,
                      "you added up sizes in the order of the header. JSON promises no order: "
                      "data_offsets say where a tensor lies."),
        Misconception("length read big-endian", partial(_tensor, order="big"),
                      "you read the length with its highest byte first. It is little-endian, as "
                      "all numbers of the file."),
        Misconception("bfloat16 as float16", partial(
            _tensor, dtypes=DTYPES | {"BF16": torch.float16}),
                      "you read BF16 as float16. Both have two bytes, and share them out "
                      "differently between exponent and fraction.",
                      also=(lambda content, name: _tensor(
                          content, name, dtypes=DTYPES | {"BF16": torch.float16}).to(
                              _kind(content, name)),)),
        Misconception("bytes exchanged", _bytes_exchanged,
                      "you read the numbers with their highest byte first. They are little-endian, "
                      "as the length is."),
        Misconception("one dtype for the file", _first_kind,
                      "you gave every tensor the dtype of the file's first. Each entry of the "
                      "header has its own."),
        Misconception("float32 always", partial(_tensor, dtypes=dict.fromkeys(
            DTYPES, torch.float32)),
                      "you read every tensor as float32. The header names the dtype of each, and "
                      "most have two bytes a number."),
        Misconception("two bytes always", partial(_tensor, dtypes=dict.fromkeys(
            DTYPES, torch.bfloat16)),
                      "you read every tensor as one kind of two bytes, whatever the header says. "
                      "Its `dtype` differs from file to file: F32 has four.",
                      also=(partial(_tensor, dtypes=dict.fromkeys(DTYPES, torch.float16)),
                            partial(_counted, dtype=torch.bfloat16),
                            partial(_counted, dtype=torch.float16))),
        Misconception("numbers converted", _converted,
                      "you read whole numbers and converted them. The bytes are the number's own "
                      "bits: give frombuffer the right dtype, or use `view(dtype)`, not `to`."),
        Misconception("columns first", partial(_tensor, laid_out=_columns_first),
                      "you filled columns first. Rows lie one behind another: the last axis is "
                      "the quickest."),
        Misconception("shape reversed", partial(
            _tensor, laid_out=lambda numbers, shape: numbers.reshape(shape[::-1])),
                      "you reversed the shape. That is GGUF's habit; this header gives it as "
                      "PyTorch does."),
    ),
    hints=(
        "Three steps: the length, the header, the bytes of one tensor.",
        "int.from_bytes(content[:8], 'little') is the length n; the header is content[8:8 + n].",
        "data_offsets are [start, end) and count from byte 8 + n; torch.frombuffer wants a "
        "bytearray.",
    ))

EXERCISES = [HEADER]
