"""Models as sources that a GGUF file is made from, and back."""

import struct
from pathlib import Path

import pytest
import torch
from folders import bytes_tokenizer, save_tokenizer, spaces_tokenizer
from models import STRETCH_8, loud_model, tiny_config
from torch import Tensor

from llama_edu import checkpoint
from llama_edu.formats.gguf import weights as gguf
from llama_edu.formats.source import Source, Stored
from llama_edu.model import Llama

COUNTS = {"version": (4, "I"), "tensors": (8, "Q"), "fields": (16, "Q")}    # where, and how stored


def source_of(model: Llama, words: Path | None = None, *, stop_ids: tuple[int, ...] = (),
              dtype: torch.dtype = torch.float32) -> Source:
    """A model in memory, handed out as if it lay in files."""
    weights = {name: w.to(dtype) for name, w in model.state_dict().items()}
    tensors = {name: Stored(tuple(w.shape), dtype, lambda w=w: w) for name, w in weights.items()}
    return Source(model.config, tensors, words, stop_ids)


def weights_of(source: Source) -> dict[str, Tensor]:
    return {name: stored.read() for name, stored in source.tensors.items()}


def model_of(file: Path) -> Llama:
    """The model in a GGUF file, in float32."""
    source = gguf.open_file(file)
    with torch.device("meta"):
        model = Llama(source.config)
    checkpoint.fill(model, weights_of(source).items(), device="cpu", dtype=torch.float32)
    return model.eval()


def two_files(folders: pytest.TempPathFactory) -> list[bytes]:
    """Two whole files: vocabularies over bytes and over characters, weights as Q8_0 and F16."""
    made = []
    for make, kind in ((bytes_tokenizer, "Q8_0"), (spaces_tokenizer, "F16")):
        folder = folders.mktemp("words")
        words, n = save_tokenizer(make(), folder), make().get_vocab_size()
        config = tiny_config(dim=32, hidden_dim=32, n_layers=1, vocab_size=n, rope_theta=1e4,
                             rope_scaling=STRETCH_8)
        gguf.write(folder / "x.gguf", source_of(loud_model(config), words), kind=kind)
        made.append((folder / "x.gguf").read_bytes())
    return made


def with_count(content: bytes, what: str, value: int) -> bytes:
    """The same file, with another number in its first 24 bytes."""
    at, letter = COUNTS[what]
    number = struct.pack("<" + letter, value)
    return content[:at] + number + content[at + len(number):]


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def header(*parts: bytes, n_tensors: int = 0, n_fields: int = 0, version: int = 3) -> bytes:
    """A file made by hand: the first 24 bytes, and what follows."""
    return b"GGUF" + struct.pack("<IQQ", version, n_tensors, n_fields) + b"".join(parts)
