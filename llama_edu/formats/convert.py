"""A model from one format to another, tensor by tensor."""

import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import reduce
from pathlib import Path

import torch
from torch import Tensor

from ..checkpoint import load_tokenizer, open_source
from ..training import adapter_files
from . import huggingface, meta
from .gguf import file_types
from .gguf import weights as gguf
from .source import Source, Stored
from .whole_files import whole_folder

FORMATS = ("hf", "meta", "gguf")
# How the numbers of each format can be stored: dtypes, and the kinds that GGUF calls otherwise.
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
KINDS = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"} | {
    name.lower(): name for name in file_types.FILE_TYPES}


def convert(path: str | Path, target: str | Path, *, format: str, shards: int = 1,
            dtype: str | None = None, tokenizer: str | Path | None = None,
            adapter: str | Path | None = None,
            after_each: Callable[[], object] = lambda: None) -> None:
    """Write the model at `path` (a folder, a .gguf file, a hub id) to `target` in another format.

    format: "hf" and "meta" make a folder of `shards` files of weights, "gguf" makes one file.
    dtype: "float32", "bfloat16", "float16" or, in GGUF, a name such as "Q8_0" or "Q4_K_M"; None
    keeps that of the matrices (norms, which GGUF has in float32 always, follow them elsewhere).
    tokenizer: where its files lie, if not beside the weights.
    adapter: a folder with a LoRA adapter of this model, to be merged into its weights.
    after_each: called when a tensor has been written.

    One tensor is in memory at a time. The target appears when it is whole, or not at all. Raises
    ValueError where it exists already, where a disk is too small, and for whatever is wrong with
    the files.
    """
    target, kinds = Path(target), KINDS if format == "gguf" else DTYPES
    if target.exists():
        raise ValueError(f"{target} exists already; a new name is needed, and nothing was changed. "
                         "Choose another, or remove it.")
    if format not in FORMATS:
        raise ValueError(f"format {format!r} was asked for; there are {', '.join(FORMATS)}. "
                         "Choose one.")
    if format == "gguf" and shards != 1:
        raise ValueError(f"{shards} shards of GGUF were asked for; it is one file. Leave shards "
                         "out, or choose hf or meta.")
    source = open_source(path, tokenizer=tokenizer)
    if source.tokenizer is not None:
        load_tokenizer(source, path)        # or the target would be refused when it is loaded
    # Of the model alone: an adapter's sums are in float32.
    dtype = widest(source) if dtype is None else dtype.lower()
    if adapter is not None:
        source = adapter_files.adapted(source, adapter_files.read(Path(adapter), source.config))
    if dtype not in kinds:
        raise ValueError(f"dtype {dtype!r} was asked for; {format} has {', '.join(kinds)}. "
                         "Choose one.")
    if format == "gguf":
        _need_room(target, file_types.data_bytes(source.config, KINDS[dtype]))
        gguf.write(target, _watched(source, after_each), kind=KINDS[dtype])
    else:
        n = sum(math.prod(stored.shape) for stored in source.tensors.values())
        _need_room(target, n * DTYPES[dtype].itemsize)
        source = _watched(source, after_each)
        with whole_folder(target) as folder:
            if format == "hf":
                huggingface.write(folder, source, n_files=shards, dtype=DTYPES[dtype])
            else:
                meta.write(folder, source, n_shards=shards, dtype=DTYPES[dtype])


def widest(source: Source) -> str:
    """The narrowest dtype that holds every matrix of the files exactly; float32 for float64."""
    held = reduce(torch.promote_types, (
        stored.dtype for stored in source.tensors.values() if len(stored.shape) == 2))
    return next((name for name, dtype in DTYPES.items() if dtype == held), "float32")


def _need_room(target: Path, needed: int) -> None:
    folder = next(parent for parent in target.absolute().parents if parent.is_dir())
    if (free := shutil.disk_usage(folder).free) < needed:
        raise ValueError(f"{target} needs {needed / 2**20:,.0f} MiB; {folder} has "
                         f"{free / 2**20:,.0f} MiB free. Make room, or choose another disk.")


def _watched(source: Source, after_each: Callable[[], object]) -> Source:
    def watched(stored: Stored) -> Stored:
        def read() -> Tensor:
            w = stored.read()
            after_each()
            return w
        return replace(stored, read=read)

    return replace(source, tensors={name: watched(w) for name, w in source.tensors.items()})
