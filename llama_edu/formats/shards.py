"""One model in several files: where each tensor is cut, and how it becomes whole again.

A worker of Meta's code keeps the whole residual stream, and a share of the heads, of the
feed-forward features and of the vocabulary. Its share is its file.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from einops import rearrange, repeat
from torch import Tensor

from ..config import ModelConfig
from .pth import Piece
from .source import finite

CUTS = {
    # tensor                            axes   cut along
    "tok_embeddings.weight":           ("v c", "v"),     # up to Code Llama: along c
    "layers.#.attention_norm.weight":  ("c",   ""),      # whole in every shard
    "layers.#.attention.wq.weight":    ("q c", "q"),
    "layers.#.attention.wk.weight":    ("k c", "k"),
    "layers.#.attention.wv.weight":    ("k c", "k"),
    "layers.#.attention.wo.weight":    ("c q", "q"),
    "layers.#.ffn_norm.weight":        ("c",   ""),
    "layers.#.feed_forward.w1.weight": ("f c", "f"),
    "layers.#.feed_forward.w2.weight": ("c f", "f"),
    "layers.#.feed_forward.w3.weight": ("f c", "f"),
    "norm.weight":                     ("c",   ""),
    "output.weight":                   ("v c", "v"),
}


@dataclass(frozen=True)
class Part:
    """What one shard holds of a tensor."""

    whole: tuple[int, ...]      # of all shards together, repeated heads counted
    shape: tuple[int, ...]      # in one shard
    axis: int | None            # None: every shard holds the whole
    repeats: int                # shards that hold the same key/value head


def names(n_layers: int) -> list[str]:
    """The tensors of a model, in the order in which Meta writes them."""
    inside = [name for name in CUTS if "#" in name]
    before, *after = [name for name in CUTS if "#" not in name]
    return [before, *(n.replace("#", str(i)) for i in range(n_layers) for n in inside), *after]


def count(n_layers: int) -> int:
    """How many tensors a model has."""
    return sum(n_layers if "#" in name else 1 for name in CUTS)


def layout(config: ModelConfig, n_shards: int, *, embedding: str) -> dict[str, Part]:
    """What each of `n_shards` shards holds of every tensor.

    embedding: the axis along which tok_embeddings is cut, "v" (tokens) or "c" (features). Raises
    ValueError where the model cannot be shared out to so many, or cannot be in Meta's files at all.
    """
    if config.own_head_dim is not None:
        raise ValueError(f"this model's heads have {config.head_dim} features, which is not dim / "
                         f"n_heads ({config.dim} / {config.n_heads}); Meta's params.json has no "
                         "field for that. Write another format.")
    _check_shares(config, n_shards)
    heads = max(config.n_kv_heads, n_shards)    # more shards than heads: some hold the same one
    size = {"v": config.vocab_size, "c": config.dim, "f": config.hidden_dim,
            "q": config.n_heads * config.head_dim, "k": heads * config.head_dim}
    parts = {}
    for name in CUTS:
        axes, cut = CUTS[name]
        cut = embedding if name == "tok_embeddings.weight" else cut
        letters = axes.split()
        parts[name] = Part(
            whole=tuple(size[a] for a in letters),
            shape=tuple(size[a] // n_shards if a == cut else size[a] for a in letters),
            axis=letters.index(cut) if cut else None,
            repeats=heads // config.n_kv_heads if cut == "k" else 1)
    return {name: parts[_general(name)] for name in names(config.n_layers)}


def cut(w: Tensor, part: Part, n_shards: int, *, head_dim: int) -> Sequence[Tensor]:
    """The shards' pieces of a tensor, as views where that is possible."""
    if part.axis is None:
        return [w] * n_shards
    if part.repeats > 1:
        w = repeat(w, "(k d) c -> (k r d) c", d=head_dim, r=part.repeats)
    return w.chunk(n_shards, dim=part.axis)


def merge(pieces: Sequence[Piece], name: str, part: Part, *, head_dim: int) -> Tensor:
    """One whole tensor from all shards, a tensor of its own.

    Raises ValueError where copies differ, for NaN or infinity, and as `Piece.read_into` does.
    """
    w = torch.empty(part.whole, dtype=pieces[0].dtype)
    if part.axis is None:
        pieces[0].read_into(w)
        for other in pieces[1:]:
            other.read_into(again := torch.empty_like(w))
            _need_equal(w, again, name, other.file)
    else:
        for piece, share in zip(pieces, w.chunk(len(pieces), dim=part.axis), strict=True):
            piece.read_into(share)
    finite(w, name)
    if part.repeats > 1:
        first, *copies = rearrange(w, "(k r d) c -> r k d c", d=head_dim, r=part.repeats)
        for copy in copies:
            _need_equal(first, copy, name, pieces[-1].file)
        w = rearrange(first, "k d c -> (k d) c").clone()
    return w


def _general(name: str) -> str:
    first, _, rest = name.partition(".")
    return f"layers.#.{rest.partition('.')[2]}" if first == "layers" else name


def _check_shares(config: ModelConfig, n_shards: int) -> None:
    counts = {"query heads": config.n_heads, "feed-forward features": config.hidden_dim,
              "rows of the vocabulary": config.vocab_size}
    for what, n in counts.items():
        if n_shards < 1 or n % n_shards:
            raise ValueError(f"{n} {what} cannot be shared out to {n_shards} shards; a number of "
                             f"shards that divides {n} is needed. Choose another.")
    few, many = sorted((config.n_kv_heads, n_shards))
    if many % few:
        raise ValueError(f"{config.n_kv_heads} key/value heads cannot be shared out to {n_shards} "
                         "shards; one number must divide the other. Choose another.")


def _need_equal(w: Tensor, copy: Tensor, name: str, file: Path) -> None:
    if not torch.equal(w, copy):
        raise ValueError(f"the copies of {name} differ (seen in {file.name}); all shards must hold "
                         "the same. Do the shards belong to one model?")
