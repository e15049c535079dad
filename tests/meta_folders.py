"""Small folders in Meta's format, and how to spoil them."""

from pathlib import Path

import pytest
import torch
from models import loud_model, tiny_config

from llama_edu.config import ModelConfig
from llama_edu.formats import meta
from llama_edu.formats.source import Source, Stored
from llama_edu.model import Llama

BY_TOKEN, BY_FEATURE = 5e5, 1e4     # theta, which tells how a generation cut the embedding
FIRST, SECOND = "consolidated.00.pth", "consolidated.01.pth"


def source_of(model: Llama, dtype: torch.dtype = torch.float32, **more: object) -> Source:
    """A model in memory as every reader hands it out; a tied one has one table."""
    weights = {name: w.to(dtype) for name, w in model.state_dict().items()}
    return Source(model.config, {name: Stored(tuple(w.shape), w.dtype, w.clone)
                                 for name, w in weights.items()},
                  **dict(tokenizer=None, stop_ids=()) | more)


def eight_heads(**changes: object) -> ModelConfig:
    return tiny_config(**dict(n_heads=8, n_kv_heads=2) | changes)


def written(folder: Path, config: ModelConfig, *, n_shards: int,
            dtype: torch.dtype = torch.float32) -> Llama:
    """A folder with loud weights; returns the model that they are of."""
    model = loud_model(config)
    folder.mkdir(exist_ok=True)
    meta.write(folder, source_of(model), n_shards=n_shards, dtype=dtype)
    return model


def shard_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("consolidated.*.pth"))


def write_sound(folder: Path) -> Path:
    """Two shards of a model of one layer, with everything that a folder can have."""
    written(folder, tiny_config(dim=16, n_heads=4, hidden_dim=24, vocab_size=12, n_layers=1),
            n_shards=2)
    return folder


def change(file: Path, edit) -> None:
    """Let `edit` change the table of a shard, or return another; each tensor has its own bytes."""
    table = torch.load(file, weights_only=True)
    table.update({name: w.clone() for name, w in table.items()})
    changed = edit(table)
    torch.save(table if changed is None else changed, file)


def read_all(folder: Path) -> None:
    for stored in meta.open_folder(folder).tensors.values():
        stored.read()


def refused(folder: Path, message: str, error: type[Exception] = ValueError) -> None:
    """Opening the folder, or reading from it, ends in this error and one sentence or three."""
    with pytest.raises(error, match=message) as caught:
        read_all(folder)
    assert "\n" not in caught.value.args[0]
    assert len(caught.value.args[0]) < 600
