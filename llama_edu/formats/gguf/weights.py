"""A GGUF file, as llama.cpp runs it: fields, a list of tensors, and the weights in one file.

Weights may be stored in blocks of 32 or 256 small whole numbers with common scales. They are read
as float32, by the routines of the `gguf` package.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...config import ModelConfig, tensor_shapes
from ...tokenizer.gguf_file import FIELD, n_pieces, stops
from ...tokenizer.gguf_made import fields as tokenizer_fields
from ..names import find
from ..source import Source, Stored, finite
from ..whole_files import whole_file
from . import header as gguf_header
from .config import ROPE_FACTORS, config_fields, find_scaling, read_config, written_factors
from .header import Header, Listed

PLAIN = {"F32": (torch.float32, np.float32), "F16": (torch.float16, np.float16),
         "BF16": (torch.bfloat16, np.int16)}    # as PyTorch has them, and as NumPy moves them


class Kind(NamedTuple):
    """How the numbers of a tensor are stored."""

    number: int                 # in the list of tensors
    block: int                  # numbers that share their scales
    n_bytes: int                # of a block


KINDS = {"F32": Kind(0, 1, 4), "F16": Kind(1, 1, 2), "BF16": Kind(30, 1, 2),
         "Q8_0": Kind(8, 32, 34), "Q4_0": Kind(2, 32, 18),
         "Q4_K": Kind(12, 256, 144), "Q6_K": Kind(14, 256, 210)}
MOST = {kind: torch.finfo(dtype).max for kind, (dtype, _) in PLAIN.items()}
MOST["Q8_0"] = 127 * MOST["F16"]                # a whole number of one byte, times a scale
FILE_TYPES = {"F32": 0, "F16": 1, "Q8_0": 7, "BF16": 32}
CHUNK = 1 << 22                 # numbers that are converted at once: 16 MiB of float32


def package() -> ModuleType:
    """The `gguf` package. It imports every tokenizer library that it finds, which takes seconds,
    so nobody should wait for it who does not need it."""
    import gguf
    return gguf


# -- reading -------------------------------------------------------------------------------------


def open_file(file: Path) -> Source:
    """The model in a GGUF file. Raises ValueError unless header, shape and vocabulary agree."""
    header = gguf_header.read(file)
    if (n_parts := header.fields.get("split.count", 1)) not in (0, 1):
        raise ValueError(f"{file} is one of {n_parts!r:.40} parts; a whole model is needed. Merge "
                         "them with llama.cpp's llama-gguf-split.")
    table = header.tensors.get("token_embd.weight")
    if table is None:
        raise ValueError(f"{file} lists {len(header.tensors)} tensors and no token_embd.weight; a "
                         "whole text Llama is needed. Is it a vocabulary or an adapter?")
    config = read_config(header.fields, vocab_size=table.shape[0],
                         tied="output.weight" not in header.tensors,
                         n_tensors=len(header.tensors))
    tensors = dict(_placed(file, header))
    if ROPE_FACTORS in tensors:
        config = replace(config, rope_scaling=find_scaling(tensors.pop(ROPE_FACTORS), config))
    tensors = _under_metas_names(tensors, config)
    return Source(config, tensors, *_vocabulary(file, header.fields, config.vocab_size))


def _vocabulary(file: Path, fields: Mapping[str, Any], n_rows: int
                ) -> tuple[Path | None, tuple[int, ...]]:
    """Where the tokenizer is, and which of its tokens end an answer."""
    if fields.get(FIELD + "model", "none") in ("none", "no_vocab"):
        return None, ()
    if (n := n_pieces(fields)) > n_rows:
        raise ValueError(f"the vocabulary in {file} has {n} tokens; the embedding has {n_rows} "
                         "rows. They belong to two models; download the file again.")
    return file, stops(fields)


def _under_metas_names(tensors: Mapping[str, Stored], config: ModelConfig) -> dict[str, Stored]:
    """The same tensors under our names. A GGUF file of a Llama has Meta's row order, so nothing
    moves. Raises ValueError for one that is missing, left over or of another shape."""
    named = {}
    for name, stored in tensors.items():
        try:
            row, number = find(name, "gguf")
        except KeyError as unknown:
            raise ValueError(unknown.args[0]) from None
        named[row.meta.replace("#", number)] = stored
    needed = dict(tensor_shapes(config))
    if config.tied_embeddings:
        del needed["output.weight"]
    if odd := sorted(set(needed) ^ set(named)):
        raise ValueError(f"the GGUF file lists {len(named)} tensors, a model of {config.n_layers} "
                         f"layers has {len(needed)}; they differ by {len(odd)}, first {odd[0]}. "
                         "Download it again.")
    for name, shape in needed.items():
        if named[name].shape != shape:
            raise ValueError(f"{name} is {named[name].shape} in the GGUF file; its fields need "
                             f"{shape}. Download it again.")
    return named


def _placed(file: Path, header: Header) -> Iterator[tuple[str, Stored]]:
    """Every listed tensor, if it lies inside the file, on its own, and is stored as we can read."""
    end = header.start
    for name, listed in sorted(header.tensors.items(), key=lambda item: item[1].offset):
        kind, n_bytes = _stored_as(name, listed)
        start = header.start + listed.offset
        if start < end or listed.offset % header.alignment or start + n_bytes > header.size:
            raise ValueError(f"{name} lies at bytes {start} to {start + n_bytes} of {file}, which "
                             f"are not free (free: {end} to {header.size}, in steps of "
                             f"{header.alignment}). The file is cut short or damaged; download it "
                             "again.")
        end = start + n_bytes
        read = partial(_read, file, name, listed.shape, kind, start)
        yield name, Stored(listed.shape, PLAIN.get(kind, (torch.float32,))[0], read)


def _stored_as(name: str, listed: Listed) -> tuple[str, int]:
    """The kind of a tensor by name, and its bytes."""
    names = {kind.number: name for name, kind in KINDS.items()}
    if listed.kind not in names:
        known = package().GGMLQuantizationType._value2member_map_.get(listed.kind)
        raise ValueError(f"{name} is stored as {known.name if known else f'kind {listed.kind}'}; "
                         f"{', '.join(KINDS)} can be read. Take a file of such a kind.")
    kind = KINDS[names[listed.kind]]
    if min(listed.shape) < 1 or listed.shape[-1] % kind.block:
        raise ValueError(f"{name} is {listed.shape} in blocks of {kind.block}; whole blocks in "
                         "every row are needed. Download the file again.")
    return names[listed.kind], math.prod(listed.shape) // kind.block * kind.n_bytes


def _read(file: Path, name: str, shape: tuple[int, ...], kind: str, start: int) -> Tensor:
    """One tensor. Raises ValueError for numbers that are not finite."""
    if kind in PLAIN:
        dtype, moved_as = PLAIN[kind]
        stored = _from_file(file, moved_as, math.prod(shape), start)
        w = torch.from_numpy(stored).view(dtype).view(shape)
    else:
        w = _from_blocks(file, shape, kind, start)
    return finite(w, name)


def _from_blocks(file: Path, shape: tuple[int, ...], kind: str, start: int) -> Tensor:
    """Blocks to float32, some rows at a time: only the result is ever whole in memory."""
    gguf, (number, block, n_bytes) = package(), KINDS[kind]
    w = torch.empty(math.prod(shape))
    for part in w.split(CHUNK):
        size = len(part) // block * n_bytes
        stored = _from_file(file, np.uint8, size, start)
        with np.errstate(all="ignore"):     # a broken scale shows when the numbers are checked
            part.copy_(torch.from_numpy(
                gguf.dequantize(stored, gguf.GGMLQuantizationType(number))))
        start += size
    return w.view(shape)


def _from_file(file: Path, dtype: type, n: int, start: int) -> np.ndarray:
    try:
        stored = np.fromfile(file, dtype, n, offset=start)
    except OSError as refused:
        raise ValueError(f"{file} cannot be read any more ({refused.strerror}); the file that was "
                         "opened is needed. Leave it in its place.") from None
    if len(stored) != n:
        raise ValueError(f"{file} has become shorter since it was opened; {n} numbers are needed "
                         f"at byte {start}. Download it again.")
    return stored


# -- writing -------------------------------------------------------------------------------------


def write(file: Path, source: Source, *, kind: str) -> None:
    """Write a GGUF file that llama.cpp runs, its matrices as "F32", "F16", "BF16" or "Q8_0".

    Norms stay float32, and a matrix whose rows are not whole blocks becomes F16, as in llama.cpp.
    Tensors are read, converted and written one by one; the file takes its name when it is whole.
    Raises ValueError for another kind, for numbers that the kind cannot hold, for a stretch of RoPE
    or a vocabulary that GGUF cannot say, and where the system refuses.
    """
    if kind not in FILE_TYPES:
        raise ValueError(f"GGUF as {kind!r} was asked for; one of {', '.join(FILE_TYPES)} can be "
                         "written. Choose one; llama.cpp makes smaller ones from F16.")
    config = source.config
    kept = {name: stored for name, stored in source.tensors.items()
            if not (config.tied_embeddings and name == "output.weight")}
    kinds = {name: _kind_of(stored.shape, kind) for name, stored in kept.items()}
    with whole_file(file) as part:
        writer = package().GGUFWriter(part, "llama")
        for name, value in (_fields(source) | {"general.file_type": FILE_TYPES[kind]}).items():
            getattr(writer, ADDERS[type(value)])(name, value)
        extra = {} if config.rope_scaling is None else {ROPE_FACTORS: written_factors(config)}
        for name, w in extra.items():
            _add(writer, name, tuple(w.shape), "F32")
        for name, stored in kept.items():
            _add(writer, _gguf_name(name), stored.shape, kinds[name])
        try:
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            for w in extra.values():
                writer.write_tensor_data(w.numpy())
            for name, stored in kept.items():
                writer.write_tensor_data(_converted(name, stored.read(), kinds[name]))
        finally:
            writer.close()


ADDERS = {bool: "add_bool", int: "add_uint32", float: "add_float32", str: "add_string",
          list: "add_array"}        # the writer's methods, by the type of a field


def _fields(source: Source) -> dict[str, Any]:
    general = {"general.type": "model", "general.quantization_version": 2}
    vocabulary = {FIELD + "model": "none"} if source.tokenizer is None else tokenizer_fields(
        source.tokenizer, vocab_size=source.config.vocab_size, stop_ids=source.stop_ids)
    return general | config_fields(source.config) | vocabulary


def _gguf_name(name: str) -> str:
    row, number = find(name, "meta")
    return row.gguf.replace("#", number)


def _kind_of(shape: tuple[int, ...], kind: str) -> str:
    if len(shape) == 1:
        return "F32"
    return "F16" if shape[-1] % KINDS[kind].block else kind


def _add(writer: Any, name: str, shape: tuple[int, ...], kind: str) -> None:
    number, block, n_bytes = KINDS[kind]
    writer.add_tensor_info(name, shape, np.dtype(np.float32), math.prod(shape) // block * n_bytes,
                           package().GGMLQuantizationType(number))


def _converted(name: str, w: Tensor, kind: str) -> np.ndarray:
    """A tensor's bytes in the file, converted some numbers at a time."""
    flat = w.detach().reshape(-1)
    low, high = (number.item() for number in torch.aminmax(flat))
    if not (-MOST[kind] <= low and high <= MOST[kind]):     # and not for NaN either
        raise ValueError(f"{name} holds numbers from {low:.4g} to {high:.4g}; in {kind} they must "
                         f"lie between -{MOST[kind]:.4g} and {MOST[kind]:.4g}. Write BF16 or F32, "
                         "or mend the weights.")
    if kind in PLAIN:
        made = flat.to(PLAIN[kind][0])
        return made.view(torch.int16).numpy() if kind == "BF16" else made.numpy()
    gguf, (number, block, n_bytes) = package(), KINDS[kind]
    blocks = torch.empty(len(flat) // block * n_bytes, dtype=torch.uint8)
    places = blocks.split(CHUNK // block * n_bytes)
    for part, place in zip(flat.split(CHUNK), places, strict=True):
        stored = gguf.quantize(part.float().numpy(), gguf.GGMLQuantizationType(number))
        place.copy_(torch.from_numpy(stored))
    return blocks.numpy()
