"""A GGUF file, as llama.cpp runs it: fields, a list of tensors, and the weights in one file.

The weights may be in several files, too, and in blocks of small whole numbers with common scales,
which are read as float32.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...config import ModelConfig, tensor_shapes
from ...tokenizer.gguf.reader import FIELD, n_pieces, stops
from ...tokenizer.gguf.writer import fields as tokenizer_fields
from ..names import find
from ..source import Source, Stored, finite
from ..whole_files import whole_file
from . import split
from .blocks import KINDS, UNREAD, decode, package
from .config import ROPE_FACTORS, config_fields, find_scaling, read_config, written_factors
from .encode import WRITERS, encode
from .file_types import FILE_TYPES, kinds_of
from .general import read_name, read_sampling, sampling_fields
from .header import Header, Listed

PLAIN = {"F32": (torch.float32, np.float32), "F16": (torch.float16, np.float16),
         "BF16": (torch.bfloat16, np.int16)}    # as PyTorch has them, and as NumPy moves them
NAMES = {kind.number: name for name, kind in KINDS.items()}
MOST = {kind: torch.finfo(dtype).max for kind, (dtype, _) in PLAIN.items()}
MOST |= dict.fromkeys(WRITERS, MOST["F16"])     # for blocks, so that every scale is a float16
MOST["Q8_0"] *= 127                             # a whole number of one byte, times a scale
CHUNK = 1 << 19                 # numbers that are converted at once: 2 MiB of float32


# -- reading -------------------------------------------------------------------------------------


def open_file(file: Path) -> Source:
    """The model in a GGUF file, or in several of which this is one. Raises ValueError unless
    headers, shape and vocabulary agree."""
    parts = split.read(file)
    file, fields = next((part, header.fields) for part, header in parts.items())
    listed = {name: tensor for header in parts.values() for name, tensor in header.tensors.items()}
    table = listed.get("token_embd.weight")
    if table is None:
        raise ValueError(f"{file} lists {len(listed)} tensors and no token_embd.weight; a whole "
                         "text Llama is needed. Is it a vocabulary or an adapter?")
    config = read_config(fields, vocab_size=table.shape[0], n_tensors=len(listed),
                         tied="output.weight" not in listed)
    tensors = {name: stored for part in parts.items() for name, stored in _placed(*part)}
    if ROPE_FACTORS in tensors:
        config = replace(config, rope_scaling=find_scaling(tensors.pop(ROPE_FACTORS), config))
    tensors = _under_metas_names(tensors, config)
    return Source(config, tensors, *_vocabulary(file, fields, config.vocab_size),
                  name=read_name(fields), sampling=read_sampling(fields))


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
            found = find(name, "gguf")
        except KeyError as unknown:
            raise ValueError(unknown.args[0]) from None
        if found is not None:       # and not a tensor that the config gives as well
            row, number = found
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
    if listed.kind not in NAMES:
        raise ValueError(f"{name} is stored as {UNREAD.get(listed.kind, f'kind {listed.kind}')}; "
                         f"{', '.join(KINDS)} can be read. Take a file of such a kind.")
    kind = KINDS[NAMES[listed.kind]]
    if min(listed.shape) < 1 or listed.shape[-1] % kind.block:
        raise ValueError(f"{name} is {listed.shape} in blocks of {kind.block}; whole blocks in "
                         "every row are needed. Download the file again.")
    return NAMES[listed.kind], kind.size(listed.shape)


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
    w = torch.from_numpy(np.empty(math.prod(shape), np.float32))    # NumPy asks for large pages
    for part in w.split(CHUNK):
        size = KINDS[kind].size(part.shape)
        decode(_from_file(file, np.uint8, size, start), kind, part)
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
    """Write a GGUF file that llama.cpp runs, of a kind in `FILE_TYPES`, "F16" or "Q4_K_M".

    Tensors are read, converted and written one by one; the file takes its name when it is whole.
    Raises ValueError for another kind, for numbers that the kind cannot hold, for a stretch of RoPE
    or a vocabulary that GGUF cannot say, and where the system refuses.
    """
    if kind not in FILE_TYPES:
        raise ValueError(f"GGUF as {kind!r} was asked for; one of {', '.join(FILE_TYPES)} can be "
                         "written. Choose one; llama.cpp makes others from F16.")
    config, kinds = source.config, kinds_of(source.config, kind)
    kept = {name: stored for name, stored in source.tensors.items() if name in kinds}
    with whole_file(file) as part:
        writer = package().GGUFWriter(part, "llama")
        fields = _fields(source) | {"general.file_type": FILE_TYPES[kind].number}
        for name, value in fields.items():
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
    n = sum(math.prod(stored.shape) for stored in source.tensors.values())
    general = {"general.type": "model", "general.quantization_version": 2,
               "general.size_label": package().size_label(n, 0, 0, 0)}
    general |= {"general.name": source.name} if source.name else {}
    vocabulary = {FIELD + "model": "none"} if source.tokenizer is None else tokenizer_fields(
        source.tokenizer, vocab_size=source.config.vocab_size, stop_ids=source.stop_ids)
    return general | sampling_fields(source.sampling) | config_fields(source.config) | vocabulary


def _gguf_name(name: str) -> str:
    row, number = find(name, "meta")
    return row.gguf.replace("#", number)


def _add(writer: Any, name: str, shape: tuple[int, ...], kind: str) -> None:
    writer.add_tensor_info(name, shape, np.dtype(np.float32), KINDS[kind].size(shape),
                           package().GGMLQuantizationType(KINDS[kind].number))


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
    blocks = torch.empty(KINDS[kind].size(flat.shape), dtype=torch.uint8)
    places = blocks.split(KINDS[kind].size((CHUNK,)))
    for part, place in zip(flat.split(CHUNK), places, strict=True):
        place.copy_(encode(part.float(), kind))
    return blocks.numpy()
