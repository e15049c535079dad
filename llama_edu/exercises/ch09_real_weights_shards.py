"""The exercise of chapter 09 on shards: one tensor out of what several files have of it."""

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import Generator, Tensor

from ..formats import shards
from .data import Exercise, Inputs, Misconception, Probe, normal

# -- 9.2: merge shards --------------------------------------------------------------------------


def _general(name: str) -> str:
    return ".".join("#" if part.isdigit() else part for part in name.split("."))


def _axis(name: str, pieces: Sequence[Tensor], dim: int) -> int | None:
    """Where Meta cut this tensor; the embedding's own shape tells."""
    if name == "tok_embeddings.weight":
        return 0 if pieces[0].shape[1] == dim else 1
    letters, cut = shards.CUTS[_general(name)]
    return letters.split().index(cut) if cut else None


def _package_merge(name: str, pieces: list[Tensor], dim: int) -> Tensor:
    axis, whole = _axis(name, pieces, dim), list(pieces[0].shape)
    if axis is not None:
        whole[axis] *= len(pieces)
    part = shards.Part(tuple(whole), tuple(pieces[0].shape), axis, repeats=1)
    in_files = [SimpleNamespace(dtype=w.dtype, read_into=lambda place, w=w: place.copy_(w),
                                file=Path(f"{i}.pth")) for i, w in enumerate(pieces)]
    return shards.merge(in_files, name, part, head_dim=1)


def _slip(axis: Callable[[str, int | None], int | None], *, turn: int = 1,
          several: Callable[[list[Tensor]], Tensor] = lambda pieces: pieces[0]) -> Callable:
    """A way to merge: `axis(name, right axis)` says where, `several` what becomes of copies."""
    def answer(name: str, pieces: list[Tensor], dim: int) -> Tensor:
        where = axis(name, _axis(name, pieces, dim))
        return several(pieces) if where is None else torch.cat(pieces[::turn], where)

    return answer


def _always(*names: str, axis: int) -> Callable[[str, int | None], int | None]:
    """These tensors along one axis whatever is right; all others rightly."""
    return lambda name, right: axis if name.endswith(names) else right


def _pieces(rng: Generator, name: str, *shape: int, dim: int = 6, n_shards: int = 3) -> Inputs:
    """Shards of a tensor; those of a norm are copies."""
    one = normal(rng, *shape)
    others = [one.clone() if len(shape) == 1 else normal(rng, *shape) for _ in range(n_shards - 1)]
    return {"name": name, "pieces": [one, *others], "dim": dim}


def _dealt(name: str, pieces: list[Tensor], dim: int) -> Tensor:
    """One row of each piece in turn, where rows are cut; columns rightly."""
    if _axis(name, pieces, dim) == 0:
        return torch.stack(pieces, 1).flatten(0, 1)
    return _package_merge(name, pieces, dim)


EMBEDDING = "tok_embeddings.weight"
MERGE = Exercise(
    "9.2", "Merge the shards", "The idea: where is a matrix cut?", _package_merge,
    probes=(
        Probe("queries", lambda rng: _pieces(rng, "layers.0.attention.wq.weight", 2, 6)),
        Probe("attention's output", lambda rng: _pieces(rng, "layers.7.attention.wo.weight", 6, 2)),
        Probe("a norm", lambda rng: _pieces(rng, "layers.3.ffn_norm.weight", 6)),
        Probe("gate", lambda rng: _pieces(rng, "layers.12.feed_forward.w1.weight", 4, 6)),
        Probe("up", lambda rng: _pieces(rng, "layers.12.feed_forward.w3.weight", 4, 6)),
        Probe("keys", lambda rng: _pieces(rng, "layers.0.attention.wk.weight", 2, 6)),
        Probe("values", lambda rng: _pieces(rng, "layers.0.attention.wv.weight", 2, 6)),
        Probe("down", lambda rng: _pieces(rng, "layers.1.feed_forward.w2.weight", 6, 4)),
        Probe("down, its piece as wide as the stream", lambda rng: _pieces(
            rng, "layers.1.feed_forward.w2.weight", 6, 6)),
        Probe("a Llama 2's embedding", lambda rng: _pieces(rng, EMBEDDING, 10, 2)),
        Probe("a Llama 3's embedding", lambda rng: _pieces(rng, EMBEDDING, 11, 8, dim=8)),
        Probe("few tokens, by feature, in two files", lambda rng: _pieces(
            rng, EMBEDDING, 3, 4, dim=8, n_shards=2)),
        Probe("the output", lambda rng: _pieces(rng, "output.weight", 5, 6)),
    ),
    misconceptions=(
        Misconception("all by rows", _slip(lambda name, right: 0),
                      "you joined everything along axis 0. wo and w2 read what a worker has "
                      "computed, so they are cut by columns; norms are not cut at all.",
                      also=(_slip(lambda name, right: right if name == EMBEDDING else 0),)),
        Misconception("rows for columns", _slip(lambda name, right: right if right is None
                                                or name == EMBEDDING else 1 - right),
                      "you exchanged rows and columns. What makes features is cut by rows (axis "
                      "0), what reads them by columns (axis 1)."),
        Misconception("w3 by columns", _slip(_always("w3.weight", axis=1)),
                      "you joined w3 by columns. It makes features, as w1 does: rows."),
        Misconception("w1 by columns", _slip(_always("w1.weight", axis=1)),
                      "you joined w1 by columns. It makes features, as w3 does: rows."),
        Misconception("heads by columns", _slip(_always("wq.weight", "wk.weight", "wv.weight",
                                                        axis=1)),
                      "you joined matrices that make heads by columns. wq, wk and wv make "
                      "features: rows.", also=(
                          _slip(_always("wk.weight", "wv.weight", axis=1)),
                          _slip(_always("wq.weight", axis=1)))),
        Misconception("all matrices by columns", _slip(
            lambda name, right: None if right is None else 1),
                      "you joined all matrices along axis 1. What makes features is cut by rows, "
                      "axis 0."),
        Misconception("first piece alone", _slip(lambda name, right: None),
                      "you returned the first piece. Only norms are whole in every file."),
        Misconception("pieces added", _slip(lambda name, right: None, several=sum),
                      "you added the pieces up. It is the workers' answers that are added; their "
                      "matrices are joined."),
        Misconception("all matrices by rows", _slip(
            lambda name, right: None if right is None else 0),
                      "you joined all matrices along axis 0. wo and w2 read what a worker has "
                      "computed, so they are cut by columns, and so is Llama 2's embedding."),
        Misconception("norms joined", _slip(lambda name, right: 0 if right is None else right),
                      "you joined the norms. Every worker holds the whole residual stream, so "
                      "each shard has the whole norm: take one.", also=(
                          _slip(lambda name, right: right, several=torch.stack),
                          *(_slip(lambda name, right, at=at: 0 if right is None else
                                  at if name == EMBEDDING else right) for at in (0, 1)))),
        Misconception("norms added", _slip(lambda name, right: right,
                                           several=sum),
                      "you added up the norms. They are copies of one: take the first."),
        Misconception("wo by rows", _slip(_always("wo.weight", axis=0)),
                      "you joined wo by rows. It reads the worker's own heads: its columns are "
                      "the worker's, as with w2."),
        Misconception("w2 by rows", _slip(_always("w2.weight", axis=0)),
                      "you joined w2 by rows. It reads the worker's own features: its columns "
                      "are the worker's, as with wo."),
        Misconception("wo and w2 by rows", _slip(_always("wo.weight", "w2.weight", axis=0)),
                      "you joined wo and w2 by rows. They read what the worker itself has "
                      "computed: their columns are the worker's."),
        Misconception("feed-forward cuts exchanged", _slip(lambda name, right: {
            "w1": 1, "w3": 1, "w2": 0}.get(name.split(".")[-2], right)),
                      "you exchanged the two cuts of the feed-forward layer: w1 and w3 make "
                      "features (rows), w2 reads them (columns)."),
        Misconception("embedding by token", _slip(_always(EMBEDDING, axis=0)),
                      "you always joined the embedding by token. Up to Code Llama each shard has "
                      "all tokens and some features: the shape tells which."),
        Misconception("embedding by feature", _slip(_always(EMBEDDING, axis=1)),
                      "you always joined the embedding by feature. From Llama 3 on each shard has "
                      "all features of some tokens: the shape tells which."),
        Misconception("by shape alone", lambda name, pieces, dim: _slip(
            lambda name, right: None if pieces[0].ndim == 1 else int(pieces[0].shape[1] != dim))(
                name, pieces, dim),
                      "you went by the shape alone. A piece of w2 can be as wide as the stream, "
                      "and is cut by columns all the same: only the embedding leaves a choice."),
        Misconception("embedding by its longer side", lambda name, pieces, dim: _slip(
            lambda name, right: int(pieces[0].shape[0] > pieces[0].shape[1])
            if name == EMBEDDING else right)(name, pieces, dim),
                      "you compared the sides of a piece of the embedding. Compare its width with "
                      "`dim`: as wide as the stream means whole rows."),
        Misconception("output by feature", _slip(_always("output.weight", axis=1)),
                      "you joined the output by feature. Each worker scores its own share of the "
                      "vocabulary: rows, in all generations."),
        Misconception("rows dealt out", _dealt,
                      "you took a row of each piece in turn. A piece is one stretch of the whole: "
                      "all its rows stay together.",
                      also=(lambda name, pieces, dim: (
                          _package_merge if name == EMBEDDING else _dealt)(name, pieces, dim),
                            lambda name, pieces, dim: (
                          _dealt if ".w" in name else _package_merge)(name, pieces, dim))),
        Misconception("shards in the wrong order", _slip(lambda name, right: right, turn=-1),
                      "you joined the shards in the wrong order. 00 comes first."),
    ),
    hints=(
        "A worker has the whole stream. Which matrices make something of its own (rows), and "
        "which read that (columns)?",
        "wq wk wv w1 w3 output: axis 0. wo w2: axis 1. Names end in norm.weight: no axis.",
        "The embedding: if a piece has `dim` columns it has whole rows, so axis 0; else axis 1.",
    ))

EXERCISES = [MERGE]
