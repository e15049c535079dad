"""From a folder, a file or the hub to a model that runs, and back."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.nn import init
from torch.overrides import TorchFunctionMode

from .config import nearest, tensor_shapes
from .formats import hub, huggingface, meta
from .formats.gguf import header as gguf_header
from .formats.gguf import split as gguf_split
from .formats.gguf import weights as gguf
from .formats.source import Source, finite, in_memory
from .model import Llama
from .tokenizer import JsonTokenizer, Tokenizer, installed
from .tokenizer import load as load_tokenizer_file
from .tokenizer.json_made import files

ASSETS = Path(__file__).parent / "assets"
TALES = ASSETS / "tales"        # a small model that comes with the package
# Models with names of their own; the second lies in a package that is installed beside this one.
BUNDLED = {"tales": lambda: TALES, "smollm2": lambda: installed.path("smollm2"),
           "dialogues-base": lambda: ASSETS / "dialogues" / "base",
           "dialogues": lambda: ASSETS / "dialogues" / "sft",
           "dialogues-sloppy": lambda: ASSETS / "dialogues" / "sloppy"}


def load(path: str | Path = "tales", *, tokenizer: str | Path | None = None,
         device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
         ) -> tuple[Llama, Tokenizer]:
    """The model and the tokenizer of a folder, a .gguf file or a hub id; see `open_source`.

    tokenizer: where its files lie, if not beside the weights. Raises ValueError or KeyError, and
    returns nothing, when the files are broken, lack something or contradict each other.
    """
    source = open_source(path, tokenizer=tokenizer)
    found = load_tokenizer(source, path)
    return read_model(source, device, dtype), found


def load_model(path: str | Path = "tales", *, device: torch.device | str = "cpu",
               dtype: torch.dtype = torch.float32) -> Llama:
    """The model alone, of files that need not have a tokenizer. Raises as `load` does."""
    return read_model(open_source(path), device, dtype)


def read_model(source: Source, device: torch.device | str, dtype: torch.dtype) -> Llama:
    """The model, built without memory and filled tensor by tensor, straight to `device` and
    `dtype`. Raises ValueError for weights that cannot be read, or are not finite."""
    with torch.device("meta"), _Unfilled():
        model = Llama(source.config)
    fill(model, ((name, stored.read()) for name, stored in source.tensors.items()),
         device=device, dtype=dtype)
    return model.eval()


class _Unfilled(TorchFunctionMode):
    """Leaves out the random numbers that layers begin with: where there is no memory for them,
    PyTorch would import its compiler to draw them, which takes longer than to read the file."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in (init.normal_, init.kaiming_uniform_):
            return kwargs["tensor"]
        return func(*args, **(kwargs or {}))


def open_source(path: str | Path, *, tokenizer: str | Path | None = None) -> Source:
    """A model in any of the formats, looked for and checked; its tensors are not yet read.

    path: a folder saved by `transformers`, a folder as Meta publishes it, a .gguf file or a folder
    with one, or, where nothing has that name, a model that comes along ("tales"; "smollm2", where
    its package is installed) or the id of one on the hub: "owner/name", "owner/name@revision" or
    "owner/name/FILE.gguf". tokenizer: where its files lie, if not beside the weights. Raises
    ValueError or KeyError for what is broken, missing or no Llama.
    """
    try:
        place = Path(path)
        if not place.exists():
            place = _bundled(path) or _fetched(str(path))
        source = _format(place)
    except OSError as unreadable:
        raise ValueError(f"{str(path)!r} cannot be opened ({unreadable.strerror}); a folder that "
                         "you may read is needed. Check its rights.") from None
    check_whole(source)
    return replace(source, name=source.name or place.stem,
                   tokenizer=source.tokenizer if tokenizer is None else (
                       _bundled(tokenizer) or Path(tokenizer)))


def _fetched(name: str) -> Path:
    """Where a model of the hub lies. Raises ValueError as `hub.fetch` does, with the name of a
    bundled one that is spelled alike."""
    try:
        return hub.fetch(name)
    except ValueError as missing:
        raise ValueError(f"{missing.args[0]}{nearest(name, BUNDLED)}") from None


def _bundled(name: str | Path) -> Path | None:
    """Where a model with a name of its own lies; None for any other name."""
    return BUNDLED[str(name).lower()]() if str(name).lower() in BUNDLED else None


def _format(place: Path) -> Source:
    if place.is_file():
        if place.suffix == ".gguf" or gguf_header.begins(place):
            return gguf.open_file(place)
        raise ValueError(f"{place} is one file of another kind; a folder with all files of a model "
                         "or a GGUF file is needed. Give the folder that it lies in.")
    has = {pattern: sorted(place.glob(pattern)) for pattern in (
        "config.json", "*.safetensors", "params.json", "consolidated.*.pth", "*.gguf")}
    metas = has["consolidated.*.pth"] or (has["params.json"] and not has["config.json"])
    if metas and not has["*.safetensors"]:
        return meta.open_folder(place)
    models = gguf_split.models(has["*.gguf"])
    if len(models) == 1 and not has["*.safetensors"]:
        return gguf.open_file(models[0])        # beside which a config.json may stand
    if has["config.json"] or has["*.safetensors"]:
        return huggingface.open_folder(place)
    raise ValueError(f"{place} holds {len(models)} .gguf files and no other model; "
                     "config.json with .safetensors files, params.json with consolidated.00.pth, "
                     "or one .gguf file is needed. Check the path, or give the file itself.")


def check_whole(source: Source) -> None:
    """Raises ValueError unless the files hold every tensor of this config in its shape, and no
    other. Takes as long as the files are long, whatever the config says."""
    config, given = source.config, source.tensors
    needed = dict(islice(tensor_shapes(config), len(given) + 2))    # all, where nothing is missing
    if config.tied_embeddings and "output.weight" not in given:
        needed.pop("output.weight", None)
    if missing := next((name for name in needed if name not in given), None):
        raise ValueError(f"the files hold {len(given)} tensors, and {missing} is not one of them; "
                         f"a model of {config.n_layers} layers needs it. A file is missing, or the "
                         "config belongs to another model; download the folder again.")
    for name, stored in given.items():
        if name not in needed:
            raise ValueError(f"the files hold {name}, which a model of {config.n_layers} layers "
                             "does not have. Does the config belong to these files?")
        if stored.shape != needed[name]:
            raise ValueError(f"{name} is {stored.shape} in the files; the config needs "
                             f"{needed[name]}. Does the config belong to these files?")


def load_tokenizer(source: Source, path: str | Path) -> Tokenizer:
    """The tokenizer that belongs to these weights. It may know special pieces without a row, such
    as one to fill up with, which then must not be given to the model. Raises ValueError where
    there is none, or one of another model."""
    rows = source.config.vocab_size
    if source.tokenizer is None:
        raise ValueError(f"{str(path)!r} has no tokenizer; a tokenizer.json or a tokenizer.model "
                         "is needed. Put the one that the model was published with beside it, or "
                         "name its place: load(..., tokenizer=...). load_model(...) needs none.")
    tokenizer = load_tokenizer_file(source.tokenizer, stop_ids=source.stop_ids)
    rowless = {*range(rows, min(tokenizer.n_vocab, 2 * rows))} - {*tokenizer.special.values()}
    if rowless or not rows <= 2 * tokenizer.n_vocab <= 4 * rows:
        raise ValueError(f"the tokenizer in {source.tokenizer} knows {tokenizer.n_vocab} tokens; "
                         f"the model's embedding has {rows} rows. They belong to two models.")
    if wrong := [token for token in tokenizer.stop_ids if not 0 <= token < rows]:
        raise ValueError(f"token {wrong[0]} is said to end an answer; the model's embedding has "
                         f"{rows} rows. Do all files of {str(path)!r} belong to one model?")
    return tokenizer


def save(path: str | Path, model: Llama, tokenizer: JsonTokenizer | Path, *, dtype: torch.dtype,
         heads: Mapping[str, Tensor] = MappingProxyType({}),
         fields: Mapping[str, Any] = MappingProxyType({})) -> None:
    """Write a folder that `load` and `transformers` read, its weights as `dtype`.

    tokenizer: where it lies in a folder, its files are carried along, with what they say of
    dialogs. heads, fields: tensors beside the model's, and what config.json then says instead of
    what it says of a text Llama; `load` refuses such a folder, and whoever reads it knows these.
    A folder that is killed half-way has no config.json: `load` refuses it, and a second `save`
    makes it whole. Raises ValueError for another model's tokenizer.
    """
    known = load_tokenizer_file(tokenizer) if isinstance(tokenizer, Path) else tokenizer
    if known.n_vocab > model.config.vocab_size:
        raise ValueError(f"the tokenizer knows {known.n_vocab} tokens; the model's embedding "
                         f"has {model.config.vocab_size} rows. Save it with its own tokenizer.")
    with TemporaryDirectory() as folder:
        if known is tokenizer:
            for name, content in files(tokenizer).items():
                (Path(folder) / name).write_bytes(content)
        source = Source(model.config, in_memory(model.state_dict()),
                        Path(folder) if known is tokenizer else tokenizer,
                        tuple(sorted(known.stop_ids)), heads=in_memory(heads))
        huggingface.write(Path(path), source, n_files=1, dtype=dtype, fields=fields)


def fill(model: Llama, weights: Iterable[tuple[str, Tensor]], *, device: torch.device | str,
         dtype: torch.dtype) -> None:
    """Give every parameter its tensor; names are Meta's. A tied output may be absent or equal.

    Raises ValueError where the two tables differ, or for a dtype without fractions.
    """
    if not dtype.is_floating_point:
        raise ValueError(f"{dtype} was asked for; a model runs in floating-point numbers. Choose "
                         "torch.bfloat16, torch.float16 or torch.float32.")
    given = {name: finite(w.to(device, dtype), name) for name, w in weights}
    if model.config.tied_embeddings:
        table = given["tok_embeddings.weight"]
        if not torch.equal(given.pop("output.weight", table), table):
            raise ValueError("output.weight differs from tok_embeddings.weight in the files; the "
                             "config ties them. Set tie_word_embeddings to false.")
    model.load_state_dict(given, assign=True)
