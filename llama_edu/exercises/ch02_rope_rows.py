"""The exercises of chapter 02, continued: 2.6 row order."""

import torch
from einops import rearrange
from torch import Generator, Tensor

from ..formats.names import halves_to_pairs, pairs_to_halves
from .data import Exercise, Inputs, Misconception, Probe, normal


def _rows(rng: Generator, heads: int, head_dim: int, c: int) -> Inputs:
    return {"w": normal(rng, heads * head_dim, c), "head_dim": head_dim}


def _columns(w: Tensor, head_dim: int) -> Tensor:
    if w.shape[1] % head_dim:
        return w
    return pairs_to_halves(w.T, head_dim).T


def _all_columns(w: Tensor, head_dim: int) -> Tensor:
    return torch.cat([w[:, 0::2], w[:, 1::2]], 1)


def _negated(w: Tensor, head_dim: int) -> Tensor:
    first, second = pairs_to_halves(w, head_dim).unflatten(0, (-1, 2, head_dim // 2)).unbind(1)
    return torch.stack([first, -second], 1).flatten(0, 2)


def _firsts(w: Tensor, head_dim: int) -> tuple[Tensor, Tensor]:
    heads = w.unflatten(0, (-1, head_dim))
    return heads[:, 0::2], heads[:, 1::2]


def _all_heads(w: Tensor, rows: int) -> Tensor:
    """Even rows first, then odd ones, in heads of so many rows."""
    return torch.cat([each[i::2] for each in w.split(rows) for i in (0, 1)])


ROW_ORDER = Exercise(
    "2.6", "From Meta's rows to Hugging Face's", "Why does a correct model talk nonsense?",
    pairs_to_halves,
    probes=(
        Probe("3 heads of 6", lambda rng: _rows(rng, 3, 6, 4)),
        Probe("1 head of 8", lambda rng: _rows(rng, 1, 8, 2)),
        Probe("a square matrix", lambda rng: _rows(rng, 2, 6, 12)),
        Probe("bfloat16", lambda rng: _rows(rng, 2, 6, 3) | {"w": normal(rng, 12, 3).bfloat16()}),
    ),
    misconceptions=(
        Misconception("inverse", halves_to_pairs,
                      "you went the other way, from Hugging Face's rows to Meta's. With "
                      "head_dim 4 nobody could tell: there the permutation undoes itself."),
        Misconception("whole matrix", lambda w, head_dim: pairs_to_halves(w, len(w)),
                      "you sorted the rows of the whole matrix, so heads are mixed. Sort inside "
                      "each head."),
        Misconception("columns", _columns,
                      "you permuted columns. Columns read the residual stream, which RoPE never "
                      "touches; rows write the features that turn.",
                      also=(_all_columns,)),
        Misconception("neighbours swapped",
                      lambda w, head_dim: w.unflatten(0, (-1, 2)).flip(1).flatten(0, 1),
                      "you exchanged the two of each pair. Sort: firsts to the front, seconds to "
                      "the back."),
        Misconception("halves swapped", lambda w, head_dim: rearrange(
                          rearrange(w, "(h two d) c -> h two d c", two=2, d=head_dim // 2).flip(1),
                          "h two d c -> (h two d) c"),
                      "you swapped the two halves of each head. Evens come first, then odds."),
        Misconception("odds first", lambda w, head_dim: rearrange(
                          rearrange(w, "(h d two) c -> h two d c", two=2, d=head_dim // 2).flip(1),
                          "h two d c -> (h two d) c"),
                      "you put the odd rows first. The even ones, the firsts of the pairs, lead."),
        Misconception("heads inside", lambda w, head_dim: rearrange(
                          w, "(d two h) c -> (two d h) c", two=2, d=head_dim // 2),
                      "you read the rows as if neighbours belonged to different heads. The rows "
                      "of one head stand together: `(h d)`, not `(d h)`.",
                      also=(lambda w, head_dim: rearrange(w, "(d h) c -> (h d) c", d=head_dim),)),
        Misconception("seconds negated", _negated,
                      "you changed a sign, as `rotate_half` does when it turns. Here rows only "
                      "change their places."),
        Misconception("heads reversed", lambda w, head_dim: pairs_to_halves(
                          w, head_dim).unflatten(0, (-1, head_dim)).flip(0).flatten(0, 1),
                      "the heads come out in reverse order: head 0 stays first."),
        Misconception("rows reversed", lambda w, head_dim: w.flip(0),
                      "you turned the order of the rows round. Sort: inside each head even rows "
                      "first, then odd ones.", also=(lambda w, head_dim: w.unflatten(
                          0, (-1, head_dim)).flip(1).flatten(0, 1),
                          lambda w, head_dim: pairs_to_halves(w, head_dim).flip(0))),
        Misconception("head_dim heads", lambda w, head_dim: _all_heads(w, len(w) // head_dim),
                      "you cut the matrix into head_dim heads. A head has head_dim rows; there are "
                      "len(w) // head_dim heads."),
        Misconception("first head only", lambda w, head_dim: torch.cat(
                          [pairs_to_halves(w[:head_dim], head_dim), w[head_dim:]]),
                      "you sorted the first head and left the others as they were."),
        Misconception("head 0 for all", lambda w, head_dim: pairs_to_halves(
                          w[:head_dim], head_dim).repeat(len(w) // head_dim, 1),
                      "every head has the rows of head 0. Each keeps its own, and sorts them.",
                      also=(lambda w, head_dim: w[:head_dim].repeat(len(w) // head_dim, 1),)),
        Misconception("evens twice", lambda w, head_dim: torch.cat(
                          [_firsts(w, head_dim)[0]] * 2, 1).flatten(0, 1),
                      "the even rows stand there twice and the odd ones are missing.",
                      also=(lambda w, head_dim: torch.cat(
                          [_firsts(w, head_dim)[1]] * 2, 1).flatten(0, 1),)),
        Misconception("sorted twice", lambda w, head_dim: pairs_to_halves(
                          pairs_to_halves(w, head_dim), head_dim),
                      "you sorted twice. Once is enough."),
        Misconception("nothing moved", lambda w, head_dim: w.clone(),
                      "the rows are where they were: that is the bug itself."),
    ),
    hints=(
        "Cut the rows into heads, each head into pairs: `(h d two) c`.",
        "In Hugging Face's order the first features of all pairs come first: `(h two d) c`.",
        'One rearrange does it: from "(h d two) c" to "(h two d) c", with two=2.',
    ))

EXERCISES = [ROW_ORDER]
