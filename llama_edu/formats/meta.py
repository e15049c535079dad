"""A folder as Meta publishes it: params.json, one or several consolidated.NN.pth, a tokenizer."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config import ModelConfig
from ..tokenizer import carried
from . import generation_config, meta_params, pth, shards, strict_json
from .meta_params import PARAMS, Said
from .names import find
from .pth import TABLES
from .source import Source, Stored
from .whole_files import inside, write_whole

# -- reading -----------------------------------------------------------------------------------


def open_folder(folder: Path) -> Source:
    """A model in Meta's files, its headers checked against params.json, its weights not yet read.

    Raises ValueError for a folder that is broken or contradicts itself, and KeyError for a tensor
    that no text Llama has. Only where the two tables may be one, and lie there twice, are they
    read and compared.
    """
    for name in (PARAMS, meta_params.BESIDE):
        inside(folder, name)
    params, files = meta_params.read(folder), _shard_files(folder)
    headers = [_known(file) for file in files]
    for header, file in zip(headers, files, strict=True):
        _check_names(header, file, params.get("n_layers"))
    rows = headers[0]["output.weight"].shape[0] * len(files)    # cut by rows in all generations
    said = meta_params.settle(folder, params, vocab_size=rows, n_shards=len(files))
    by_token = headers[0]["tok_embeddings.weight"].shape[-1] == said.config.dim
    layout = shards.layout(said.config, len(files), embedding="v" if by_token else "c")
    tensors = {name: _stored(name, [header[name] for header in headers], part, said.config)
               for name, part in layout.items()}
    config = said.config
    if config.tied_embeddings and any(h[TABLES[0]] != h[TABLES[1]] for h in headers):
        config = _settle_tie(config, tensors, sure=(folder / meta_params.BESIDE).is_file())
    if config.tied_embeddings:
        del tensors["output.weight"]
    has_words = any([inside(folder, name).is_file() for name in carried.NAMES])    # all are asked
    return Source(config, tensors, folder if has_words else None, said.stop_ids,
                  sampling=generation_config.sampling(folder))


def _shard_files(folder: Path) -> list[Path]:
    """All shards in order, from 00 on, without gaps and strangers."""
    found = {file.name for file in folder.glob("consolidated.*.pth") if file.is_file()}
    needed = [f"consolidated.{i:02}.pth" for i in range(max(1, len(found)))]
    if missing := sorted(set(needed) - found):
        raise ValueError(f"{folder} has {len(found)} shards and no {missing[0]}; all from "
                         "consolidated.00.pth on are needed, and no others. Download it again.")
    return [inside(folder, name) for name in needed]


def _known(file: Path) -> dict[str, pth.Piece]:
    """The tensors of a shard without those that can be recomputed."""
    return {name: piece for name, piece in pth.read_header(file).items()
            if find(name, "meta") is not None}


def _check_names(header: Mapping[str, pth.Piece], file: Path, n_layers: Any) -> None:
    """Raises ValueError unless a shard has each tensor of the model and no other."""
    # Counted before they are listed: a file may ask for a billion layers.
    if type(n_layers) is int and n_layers > 0 and len(header) == shards.count(n_layers):
        odd = sorted(set(shards.names(n_layers)) ^ set(header))
        if not odd:
            return
        found = f"not all of them those of its layers, first {odd[0]}"
    else:
        found = "another number"
    raise ValueError(f"{file.name} holds {len(header)} tensors; {PARAMS} says n_layers = "
                     f"{n_layers!r:.40}, and this is {found}. Do the two belong together?")


def _stored(name: str, pieces: Sequence[pth.Piece], part: shards.Part, config: ModelConfig
            ) -> Stored:
    for piece in pieces:
        if piece.shape != part.shape or piece.dtype != pieces[0].dtype:
            raise ValueError(f"{name} is {piece.shape}, {piece.dtype} in {piece.file.name}; "
                             f"{len(pieces)} shards of this model need {part.shape}, "
                             f"{pieces[0].dtype}. Is a shard missing, or of another model?")
    shape = (part.whole[0] // part.repeats, *part.whole[1:])
    return Stored(shape, pieces[0].dtype,
                  partial(shards.merge, pieces, name, part, head_dim=config.head_dim))


def _settle_tie(config: ModelConfig, tensors: Mapping[str, Stored], *, sure: bool) -> ModelConfig:
    """The config, tied only where the two tables are equal. sure: our writer said that they are."""
    if torch.equal(*(tensors[name].read() for name in TABLES)):
        return config
    if sure:
        raise ValueError(f"output.weight differs from tok_embeddings.weight; {meta_params.BESIDE} "
                         "ties them. Do the files come from one writing?")
    return replace(config, tied_embeddings=False)


# -- writing -----------------------------------------------------------------------------------


def write(folder: Path, source: Source, *, n_shards: int, dtype: torch.dtype) -> None:
    """Write `n_shards` shards of `dtype`, params.json and the tokenizer into an empty folder.

    One tensor is in memory at a time. Raises ValueError where the model cannot be cut so.
    """
    config = source.config
    # Llama 1, 2 and Code cut the embedding by feature; Llama 3, known by its theta, by token.
    layout = shards.layout(config, n_shards, embedding="v" if config.rope_theta == 5e5 else "c")
    files = [folder / f"consolidated.{i:02}.pth" for i in range(n_shards)]
    shapes = {name: part.shape for name, part in layout.items()}
    # A tied model has one table. It lies in a file once, under two names, as in Meta's; twice only
    # where the two are cut along different axes.
    tied = config.tied_embeddings and TABLES[1] not in source.tensors
    shared = tied and shapes[TABLES[0]] == shapes[TABLES[1]]
    places = [pth.write_header(file, shapes, dtype, one_table=shared) for file in files]
    checksums: list[dict[int, int]] = [{} for _ in files]
    needed = {*layout} - ({TABLES[1]} if tied else set())
    assert needed == {*source.tensors}, "a source has every tensor of its model"
    with ExitStack() as stack:
        opened = [stack.enter_context(file.open("r+b")) for file in files]

        def put(w: Tensor, name: str) -> None:
            pieces = shards.cut(w, layout[name], n_shards, head_dim=config.head_dim)
            for piece, place, file, sums in zip(pieces, places, opened, checksums, strict=True):
                sums[place[name].offset] = pth.write_piece(file, place[name], piece, name)

        for name, stored in source.tensors.items():
            twice = tied and not shared and name == TABLES[0]
            _put_once(stored, TABLES if twice else (name,), put)
    for file, sums in zip(files, checksums, strict=True):
        pth.seal(file, sums)
    if source.tokenizer is not None:
        for name, content in carried.files(source.tokenizer).items():
            write_whole(folder / name, content)
    if source.sampling:
        write_whole(folder / generation_config.NAME, strict_json.spell(source.sampling))
    meta_params.write(folder, Said(config, source.stop_ids), n_shards=n_shards)


def _put_once(stored: Stored, names: Sequence[str], put: Callable[[Tensor, str], None]) -> None:
    """Read one tensor and put it under these names; it is gone when the next one is read."""
    w = stored.read()
    for name in names:
        put(w, name)
