"""A folder that `transformers` saved: config.json, one or several .safetensors files."""

import math
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from ..tokenizer import carried
from ..tokenizer import load as load_tokenizer
from . import generation_config, safetensors_file, strict_json
from .huggingface_config import config_fields, from_huggingface
from .names import find, translate
from .source import Source, Stored
from .whole_files import inside, refusals, write_whole

ONE_FILE, INDEX = "model.safetensors", "model.safetensors.index.json"


# -- reading -----------------------------------------------------------------------------------


def open_folder(folder: Path, *, heads: Collection[str] = ()) -> Source:
    """The model in a folder. Its headers are read and checked, its tensors are not yet read.

    heads: names of further tensors, which no text Llama has and which may be there. Raises
    ValueError for a file that is broken, missing or outside the folder, and KeyError for any other
    tensor that no text Llama has.
    """
    config = from_huggingface(strict_json.read(inside(folder, "config.json")))
    entries = _entries(folder)
    held = {name: entries.pop(name) for name in heads if name in entries}
    tensors = {}
    for name, entry in entries.items():
        if (found := find(name, "huggingface")) is not None:
            row, number = found
            tensors[row.meta.replace("#", number)] = Stored(
                entry.shape, entry.dtype,
                partial(_read, name, entry, "huggingface", "meta", config.head_dim))
    tokenizer = [file for name in carried.NAMES if (file := inside(folder, name)).is_file()]
    for file in tokenizer:
        if file.suffix == ".json" and file.name not in ("tokenizer.json", "tekken.json"):
            strict_json.read(file)
    return Source(config, tensors, folder if tokenizer else None,
                  generation_config.stop_ids(folder), sampling=generation_config.sampling(folder),
                  heads={name: Stored(entry.shape, entry.dtype, entry.read)
                         for name, entry in held.items()})


def _entries(folder: Path) -> dict[str, safetensors_file.Entry]:
    """Every tensor of all files, by the names that the files use."""
    found: dict[str, safetensors_file.Entry] = {}
    for name, placed in _files(folder).items():
        if not (file := inside(folder, name)).is_file():
            raise ValueError(f"{INDEX} names {name}, which is not in {folder}. "
                             "Download that file again.")
        held = safetensors_file.read_header(file)
        if placed is not None and (odd := sorted(placed ^ held.keys())):
            raise ValueError(f"{INDEX} and {name} disagree about {len(odd)} tensors, "
                             f"first {odd[0]}. Download both again.")
        found |= held
    return found


def _files(folder: Path) -> dict[str, set[str] | None]:
    """Which file holds which tensors; None means all that the file has."""
    if (folder / ONE_FILE).is_file():
        return {ONE_FILE: None}
    if not (folder / INDEX).is_file():
        raise _no_weights(folder)
    weight_map = strict_json.read(inside(folder, INDEX)).get("weight_map")
    if type(weight_map) is not dict:
        raise ValueError(f"{INDEX} has no table called weight_map; one that names each tensor's "
                         "file is needed. Download it again.")
    placed: dict[str, set[str]] = {}
    for name, file in weight_map.items():
        if type(file) is not str or not file.isprintable() or Path(file).name != file:
            raise ValueError(f"{INDEX} places {name} in {file!r}, outside the folder; a plain file "
                             "name is needed. Do not trust this download.")
        placed.setdefault(file, set()).add(name)
    return placed


def pickled(place: str | Path) -> ValueError:
    """What to say of weights that only `torch.load` could read."""
    return ValueError(f"{place} keeps its weights in pytorch_model.bin, a pickle, which can run "
                      "code; .safetensors files are needed. If you trust it, write it anew: "
                      'python -c "from transformers import AutoTokenizer, LlamaForCausalLM; '
                      f"[kind.from_pretrained('{place}').save_pretrained('NEW_FOLDER') "
                      'for kind in (LlamaForCausalLM, AutoTokenizer)]"')


def _no_weights(folder: Path) -> ValueError:
    if any(folder.glob("pytorch_model*.bin")):
        return pickled(folder)
    return ValueError(f"{folder} has neither {ONE_FILE} nor {INDEX}; one of them is needed. "
                      "Save the model with transformers' save_pretrained.")


def _read(name: str, stored: Stored | safetensors_file.Entry, source: str, target: str,
          head_dim: int) -> Tensor:
    """A tensor that one world calls `name`, its rows in the order of another."""
    ((_, w),) = translate([(name, stored.read())], source, target, head_dim=head_dim)
    return w


# -- writing -----------------------------------------------------------------------------------


def write(folder: Path, source: Source, *, n_files: int, dtype: torch.dtype,
          fields: Mapping[str, Any] = MappingProxyType({})) -> None:
    """Write a folder that `transformers` and this package read, its weights in `n_files` files.

    fields: what config.json says beside, or instead of, what it says of a text Llama.
    Not more than one tensor is in memory at a time. A folder without config.json is no model: it
    is taken away first and written last, so that old and new files are never read together. Raises
    ValueError where the tensors cannot fill so many files, for numbers that are not finite as
    `dtype`, and where the system refuses.
    """
    tensors = _renamed(source) | {**source.heads}
    names = [ONE_FILE] if n_files == 1 else [
        f"model-{i:05}-of-{n_files:05}.safetensors" for i in range(1, n_files + 1)]
    sizes = {name: math.prod(w.shape) * dtype.itemsize for name, w in tensors.items()}
    placed = dict(zip(names, _shares(sizes, n_files), strict=True))
    _remove_model(folder, but=names)
    ends = _write_tokenizer(folder, source)
    for file, share in placed.items():
        safetensors_file.write(folder / file, {name: tensors[name] for name in share}, dtype=dtype)
    if n_files > 1:
        write_whole(folder / INDEX, strict_json.spell({
            "metadata": {"total_size": sum(sizes.values())},
            "weight_map": {name: file for file, share in placed.items() for name in share}}))
    write_whole(folder / generation_config.NAME, strict_json.spell({**source.sampling} | ends))
    write_whole(folder / "config.json", strict_json.spell(
        config_fields(source.config) | ends | {"torch_dtype": str(dtype).removeprefix("torch.")}
        | {**fields}))


def _renamed(source: Source) -> dict[str, Stored]:
    """The same tensors as Hugging Face calls and orders them; a tied output is left out."""
    tied, head_dim = source.config.tied_embeddings, source.config.head_dim
    found = {}
    for name, stored in source.tensors.items():
        if not (tied and name == "output.weight"):
            row, number = find(name, "meta")
            found[row.huggingface.replace("#", number)] = Stored(
                stored.shape, stored.dtype,
                partial(_read, name, stored, "meta", "huggingface", head_dim))
    return found


def _shares(sizes: Mapping[str, int], n_files: int) -> list[list[str]]:
    """Names in their order, cut into so many shares of about the same size; none is empty."""
    if not 1 <= n_files <= len(sizes):
        raise ValueError(f"{n_files} files were asked for; the model has {len(sizes)} tensors, and "
                         f"a file holds one at least. Ask for 1 to {len(sizes)}.")
    shares: list[list[str]] = [[]]
    done, total = 0, sum(sizes.values())
    for i, (name, size) in enumerate(sizes.items()):
        full = done + size / 2 > total * len(shares) / n_files
        needed = len(sizes) - i <= n_files - len(shares)
        if shares[-1] and len(shares) < n_files and (full or needed):
            shares.append([])
        shares[-1].append(name)
        done += size
    return shares


def _remove_model(folder: Path, *, but: list[str]) -> None:
    """Take away a model that lies in this folder, config.json first; its tokenizer stays."""
    with refusals(folder):
        for old in (folder / "config.json", folder / INDEX, folder / ONE_FILE,
                    *folder.glob("model-*-of-*.safetensors")):
            if old.name not in but:
                old.unlink(missing_ok=True)


def _write_tokenizer(folder: Path, source: Source) -> dict[str, Any]:
    """Write the tokenizer's files; returns the tokens that begin and end a text."""
    stops, ends = [*source.stop_ids], {}
    if source.tokenizer is not None:
        tokenizer = load_tokenizer(source.tokenizer)
        ends["bos_token_id"] = tokenizer.bos_id
        stops = stops or [*dict.fromkeys([tokenizer.eos_id, *sorted(tokenizer.stop_ids)])]
        for name, content in carried.files_for_transformers(source.tokenizer).items():
            write_whole(folder / name, content)
    ends["eos_token_id"] = stops if len(stops) > 1 else next(iter(stops), None)
    return {name: token for name, token in ends.items() if token is not None}
