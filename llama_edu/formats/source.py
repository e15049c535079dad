"""A model as it lies in files: what every reader of a format hands out and every writer takes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config import ModelConfig


@dataclass(frozen=True)
class Stored:
    """One tensor that still lies in a file: what its header says, and how to read it."""

    shape: tuple[int, ...]
    dtype: torch.dtype              # of what `read` returns
    read: Callable[[], Tensor]      # on the CPU, a tensor of its own; nothing is kept open for it


@dataclass(frozen=True)
class Source:
    """A whole model in a folder or a file, whose headers were checked and whose tensors were not
    yet read."""

    config: ModelConfig
    tensors: Mapping[str, Stored]   # under Meta's names, with Meta's row order
    tokenizer: Path | None          # a folder or a file that `tokenizer.load` reads
    stop_ids: tuple[int, ...]       # tokens that end an answer, where the files name them
    name: str = ""                  # what the model calls itself
    # How its publisher would pick tokens, under the names of generation_config.json.
    sampling: Mapping[str, Any] = field(default_factory=dict)
    # What no text Llama has (the head of a reward model), under the files' own names.
    heads: Mapping[str, Stored] = field(default_factory=dict)


def in_memory(tensors: Mapping[str, Tensor]) -> dict[str, Stored]:
    """Tensors that lie in no file, as a writer takes them."""
    return {name: Stored(tuple(w.shape), w.dtype, lambda w=w: w) for name, w in tensors.items()}


def finite(w: Tensor, name: str) -> Tensor:
    """The same tensor. Raises ValueError for NaN or infinity: both reach the extremes, and no copy
    is made."""
    if not torch.stack(w.aminmax()).isfinite().all():
        raise ValueError(f"{name} holds NaN or infinity as {w.dtype}; finite weights are needed. "
                         "Download the file again, or load or write it as a wider dtype.")
    return w
