"""The exercise of chapter 09 on row orders, 9.4: rows for a program that turns the other way."""

from collections.abc import Callable

import torch
from einops import rearrange
from torch import Generator, Tensor

from ..formats.names import halves_to_pairs, pairs_to_halves
from ..layers import rope_frequencies, rope_table
from .data import Exercise, Inputs, Misconception, Probe, normal

POSITIONS = torch.tensor([3, 4, 9, 17, 30])


def _scores(wq: Tensor, wk: Tensor, head_dim: int, turn: Callable[..., Tensor]) -> Tensor:
    """Every query against every key, `h t s`; the token at each position has one feature, 1."""
    cos, sin = rope_table(rope_frequencies(head_dim, 100.0), POSITIONS)
    q, k = (turn(rearrange(w, "(h d) t -> 1 h t d", d=head_dim).contiguous(), cos, sin)[0]
            for w in (wq, wk))
    return q @ k.repeat_interleave(len(q) // len(k), 0).mT


def _backwards(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """The third program: pairs `(i, i + d/2)`, and the angle with a minus."""
    first, second = x.chunk(2, -1)
    return torch.cat([first * cos + second * sin, second * cos - first * sin], -1)


def _in_third(answer: Callable, wq: Tensor, wk: Tensor, head_dim: int) -> Tensor:
    """The third program's scores with the answer's rows."""
    rows = [answer(w, head_dim) for w in (wq, wk)]
    for given, w in zip(rows, (wq, wk), strict=True):
        if not isinstance(given, Tensor):
            return given
        if given.shape != w.shape:
            raise ValueError(f"rows of the shape {tuple(given.shape)} came back for "
                             f"{tuple(w.shape)}; the same shape is needed")
    return _scores(*rows, head_dim, _backwards)


def _negated(w: Tensor, head_dim: int, pattern: str) -> Tensor:
    """The second of two groups of rows with a minus; `pattern` says where it lies in a head."""
    apart = rearrange(w, f"(h {pattern}) c -> h two d c", two=2, d=head_dim // 2)
    signs = torch.tensor([1.0, -1.0])[:, None, None]
    return rearrange(apart * signs, f"h two d c -> (h {pattern}) c")


def _package_third(w: Tensor, head_dim: int) -> Tensor:
    """One right answer of several; what is judged is the scores that rows give."""
    return _negated(pairs_to_halves(w, head_dim), head_dim, "two d")


def _quarter_turn(w: Tensor, head_dim: int) -> Tensor:
    first, second = rearrange(w, "(h d two) c -> two h d c", two=2, d=head_dim // 2)
    return rearrange([-second, first], "two h d c -> (h two d) c")


def _signs(n: int) -> Tensor:
    """One, minus one, one, ..."""
    return 1.0 - 2.0 * (torch.arange(n) % 2)


def _twice(w: Tensor, head_dim: int, which: int) -> Tensor:
    """The evens, or the odds, for both halves, the second mirrored."""
    half = w.unflatten(0, (-1, head_dim))[:, which::2]
    return torch.cat([half, -half], 1).flatten(0, 1)


def _third_inputs(rng: Generator, heads: int, kv_heads: int, head_dim: int) -> Inputs:
    wq, wk = (normal(rng, n * head_dim, len(POSITIONS)) for n in (heads, kv_heads))
    return {"wq": wq, "wk": wk, "head_dim": head_dim}


THIRD = Exercise(
    "9.4", "Rows for a third program", "The idea: why rows, why q and k", _package_third,
    adapt=_in_third,
    probes=(
        Probe("two queries to each key head", lambda rng: _third_inputs(rng, 4, 2, 6)),
        Probe("one head of four features", lambda rng: _third_inputs(rng, 1, 1, 4)),
        Probe("one pair a head", lambda rng: _third_inputs(rng, 3, 1, 2)),
        Probe("eight features", lambda rng: _third_inputs(rng, 2, 2, 8)),
    ),
    misconceptions=(
        Misconception("nothing done", lambda w, head_dim: w,
                      "your rows give other scores: they are still Meta's. This program pairs "
                      "other features and turns the other way."),
        Misconception("direction forgotten", pairs_to_halves,
                      "you sorted the rows, which is right for Hugging Face. This program also "
                      "turns the other way; a sign for all rows, or a turn of each pair, does not "
                      "change that.",
                      also=(lambda w, head_dim: -pairs_to_halves(w, head_dim), _quarter_turn)),
        Misconception("not sorted", lambda w, head_dim: _negated(w, head_dim, "d two"),
                      "you mirrored each pair and left it where Meta has it. This program pairs "
                      "(i, i + d/2).",
                      also=(lambda w, head_dim: rearrange(
                          w, "(n two) c -> n two c", two=2).flip(1).reshape(w.shape),)),
        Misconception("mirrored halves of unsorted rows",
                      lambda w, head_dim: _negated(w, head_dim, "two d"),
                      "you mirrored by halves, by sign or by exchange, in rows that are still in "
                      "Meta's order. Sort them first.",
                      also=(lambda w, head_dim: pairs_to_halves(
                          _negated(w, head_dim, "two d"), head_dim),)),
        Misconception("sorted the other way", lambda w, head_dim: _negated(
            halves_to_pairs(w, head_dim), head_dim, "two d"),
                      "you interleaved the rows. Meta's neighbours have to come apart: evens "
                      "first, then odds.",
                      also=(halves_to_pairs, lambda w, head_dim: _negated(
                          halves_to_pairs(w, head_dim), head_dim, "d two"),
                            lambda w, head_dim: rearrange(rearrange(
                                w, "(h two d) c -> h d two c", two=2, d=head_dim // 2).flip(2),
                                "h d two c -> (h d two) c"))),
        Misconception("signs in pairs, then unsorted halves", lambda w, head_dim: _negated(
            pairs_to_halves(w, head_dim), head_dim, "d two"),
                      "you sorted the rows and then changed every second sign. After sorting, the "
                      "two of a pair are d/2 apart: the sign belongs to one whole half."),
        Misconception("across heads", lambda w, head_dim: _package_third(w, len(w)),
                      "you took all rows for one head. Each head is sorted and mirrored by "
                      "itself.", also=(lambda w, head_dim: pairs_to_halves(w, len(w)),
                                       lambda w, head_dim: torch.cat([w[1::2], w[::2]]))),
        Misconception("signs across heads", lambda w, head_dim: torch.cat([
            pairs_to_halves(w, head_dim)[:len(w) // 2],
            -pairs_to_halves(w, head_dim)[len(w) // 2:]]),
                      "you changed the sign of the lower half of the matrix. It is half of each "
                      "head that needs it."),
        Misconception("columns changed", lambda w, head_dim: pairs_to_halves(w, head_dim).flip(1),
                      "you changed columns. A row makes a feature, so sorting and mirroring are "
                      "done to rows; a column reads the stream.",
                      also=(lambda w, head_dim: pairs_to_halves(w, head_dim) * _signs(w.shape[1]),
                            lambda w, head_dim: w.flip(1), lambda w, head_dim: w
                            * _signs(w.shape[1]))),
        Misconception("half of the features twice", lambda w, head_dim: _twice(w, head_dim, 0),
                      "you took the same features for both halves. The evens are one half, the "
                      "odds the other.", also=(lambda w, head_dim: _twice(w, head_dim, 1),)),
        Misconception("one row mirrored", lambda w, head_dim: pairs_to_halves(w, head_dim) * (
            1 - 2.0 * (torch.arange(len(w)) % head_dim == head_dim - 1))[:, None],
                      "you changed the sign of one row a head. Each of its pairs turns, so the "
                      "whole second half needs it.",
                      also=(lambda w, head_dim: pairs_to_halves(w, head_dim) * (
                          1 - 2.0 * (torch.arange(len(w)) % head_dim == head_dim // 2))[:, None],
                            lambda w, head_dim: pairs_to_halves(w, head_dim) * (
                                1 - 2.0 * (torch.arange(len(w)) % head_dim == 0))[:, None])),
        Misconception("heads from back to front", lambda w, head_dim: _package_third(
            w, head_dim).unflatten(0, (-1, head_dim)).flip(0).flatten(0, 1),
                      "each head is right, and they stand in another order. Which key head a query "
                      "head meets depends on its place."),
        Misconception("features from back to front", lambda w, head_dim: rearrange(
            w, "(h d) c -> h d c", d=head_dim).flip(1).reshape(w.shape),
                      "you turned each head's features from back to front. That exchanges quick "
                      "pairs with slow ones as well."),
        Misconception("sorted features from back to front", lambda w, head_dim: rearrange(
            pairs_to_halves(w, head_dim), "(h d) c -> h d c", d=head_dim).flip(1).reshape(w.shape),
                      "you turned each sorted head from back to front. That mirrors the pairs and "
                      "exchanges quick ones with slow ones as well."),
        Misconception("all rows from back to front", lambda w, head_dim: w.flip(0),
                      "you turned all rows from back to front, across the heads. Each head stays "
                      "where it is; inside it pairs are sorted, and mirrored one by one.",
                      also=(lambda w, head_dim: pairs_to_halves(w, head_dim).flip(0),
                            lambda w, head_dim: pairs_to_halves(w, len(w)).flip(0))),
    ),
    hints=(
        "Two things differ from Meta: who is paired, and the direction. The first you have.",
        "Which 2 x 2 matrix F makes a turn by an angle of one by minus it: F R F = R to the -1?",
        "A mirror: F = diag(1, -1), or the exchange of the two. And F F = 1, so no score changes.",
    ))

EXERCISES = [THIRD]
