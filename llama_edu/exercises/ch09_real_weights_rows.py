"""The exercises of chapter 09 on row orders: Hugging Face's rows, and those of a third program."""

from collections.abc import Callable
from functools import partial

import torch
from einops import rearrange
from torch import Generator, Tensor

from ..formats.names import halves_to_pairs, pairs_to_halves, translate
from ..layers import rope_frequencies, rope_table
from .data import Exercise, Inputs, Misconception, Probe, normal

# -- 9.3: rows back into pairs -------------------------------------------------------------------


def _package_rows(name: str, w: Tensor, n_heads: int, n_kv_heads: int) -> Tensor:
    head_dim = len(w) // (n_kv_heads if ".k_proj." in name else n_heads)
    ((_, rows),) = translate([(name, w)], "huggingface", "meta", head_dim=head_dim)
    return rows


def _rows(*, heads: dict[str, str], sort: Callable[[Tensor, int], Tensor] = halves_to_pairs
          ) -> Callable:
    """A way to sort rows: `heads` says which projections, and by which of the two numbers."""
    def answer(name: str, w: Tensor, n_heads: int, n_kv_heads: int) -> Tensor:
        count = {"h": n_heads, "k": n_kv_heads, "1": 1}.get(heads.get(name.split(".")[-2][0], ""))
        return w if count is None else sort(w, len(w) // count)

    return answer


def _projection(rng: Generator, letter: str, rows: int, *, n_heads: int, n_kv_heads: int,
                dtype: torch.dtype = torch.float32) -> Inputs:
    # Columns: four times the heads, so that a head's width cannot be told from them.
    return {"name": f"model.layers.2.self_attn.{letter}_proj.weight",
            "w": normal(rng, rows, 4 * n_heads).to(dtype), "n_heads": n_heads,
            "n_kv_heads": n_kv_heads}


def _by_columns(name: str, w: Tensor, n_heads: int, n_kv_heads: int, *, own: bool = False,
                fixed: bool = False) -> Tensor:
    """A head's width from the columns, over all heads or its own; `fixed`: with its count too."""
    letter = name.split(".")[-2][0]
    if letter not in "qk":
        return w
    heads = n_kv_heads if letter == "k" else n_heads
    d = w.shape[1] // (heads if own else n_heads)
    if fixed:
        return w.view(heads, 2, d // 2, w.shape[1]).transpose(1, 2).reshape(w.shape)
    return halves_to_pairs(w, d)


def _by_pattern(w: Tensor, head_dim: int, pattern: str) -> Tensor:
    return rearrange(w, pattern, two=2, h=len(w) // head_dim)


MIXED = ("(two d h) c -> (d two h) c", "(h two d) c -> (two h d) c", "(h two d) c -> (d h two) c",
         "(h two d) c -> (d two h) c", "(two d h) c -> (h d two) c", "(two h d) c -> (d h two) c")

ROWS = Exercise(
    "9.3", "Sort the rows back", "The idea: why rows, why q and k", _package_rows,
    probes=(
        Probe("queries", lambda rng: _projection(rng, "q", 32, n_heads=4, n_kv_heads=2)),
        Probe("keys, two queries to each", lambda rng: _projection(
            rng, "k", 16, n_heads=4, n_kv_heads=2)),
        Probe("keys, one head for all", lambda rng: _projection(
            rng, "k", 12, n_heads=3, n_kv_heads=1)),
        Probe("queries of three heads, bfloat16", lambda rng: _projection(
            rng, "q", 24, n_heads=3, n_kv_heads=1, dtype=torch.bfloat16)),
        Probe("values", lambda rng: _projection(rng, "v", 16, n_heads=4, n_kv_heads=2)),
        Probe("the way out", lambda rng: _projection(rng, "o", 16, n_heads=2, n_kv_heads=1)),
    ),
    misconceptions=(
        Misconception("k by n_heads", _rows(heads={"q": "h", "k": "h"}),
                      "you cut the keys into n_heads heads. There are n_kv_heads of them; with "
                      "n_heads a head comes out too narrow, and nothing complains."),
        Misconception("q by n_kv_heads", _rows(heads={"q": "k", "k": "k"}),
                      "you cut the queries into n_kv_heads heads. There are n_heads of them."),
        Misconception("counts exchanged", _rows(heads={"q": "k", "k": "h"}),
                      "you exchanged the two counts: queries have n_heads heads, keys "
                      "n_kv_heads."),
        Misconception("width by columns", _by_columns,
                      "you took a head's width from the columns. Rows make features: a head has "
                      "len(w) over its heads of them, and a model's width need not be n_heads "
                      "times that.", also=(partial(_by_columns, own=True),
                                           partial(_by_columns, fixed=True),
                                           partial(_by_columns, own=True, fixed=True))),
        Misconception("the other way", _rows(heads={"q": "h", "k": "k"}, sort=pairs_to_halves),
                      "you sorted evens first, then odds: that is from Meta to Hugging Face. "
                      "Here the halves are to be interleaved again."),
        Misconception("nothing moved", _rows(heads={}),
                      "you left all rows where they are. transformers turns halves, Meta turns "
                      "pairs: the rows of q and k differ."),
        Misconception("only q", _rows(heads={"q": "h"}),
                      "you sorted the queries only. Their products with the keys need both."),
        Misconception("only k", _rows(heads={"k": "k"}),
                      "you sorted the keys only. Their products with the queries need both."),
        Misconception("v too", _rows(heads={"q": "h", "k": "k", "v": "k"}),
                      "you sorted the values too. RoPE does not touch them."),
        Misconception("all four", _rows(heads={"q": "h", "k": "k", "v": "k", "o": "h"}),
                      "you sorted all four projections. RoPE touches queries and keys alone."),
        Misconception("o too", _rows(heads={"q": "h", "k": "k", "o": "h"}),
                      "you sorted o_proj too. It reads values, which RoPE never turned; its rows "
                      "make the stream."),
        Misconception("v and o", _rows(heads={"v": "k", "o": "h"}),
                      "you sorted the values and the way out, and left queries and keys. RoPE "
                      "turns queries and keys."),
        Misconception("heads by group", lambda name, w, n_heads, n_kv_heads: _rows(
            heads={"q": "h", "k": "k"})(name, w, n_heads // n_kv_heads, n_kv_heads),
                      "you cut into n_heads / n_kv_heads heads: so many queries share a key head. "
                      "Queries have n_heads heads, keys n_kv_heads.",
                      also=(lambda name, w, n_heads, n_kv_heads: _rows(
                          heads={"q": "h", "k": "k"})(name, w, n_heads, n_heads // n_kv_heads),)),
        Misconception("halves exchanged", _rows(heads={"q": "h", "k": "k"}, sort=lambda w, d:
                                                w.unflatten(0, (-1, 2, d // 2)).flip(1).reshape(
                                                    w.shape)),
                      "you exchanged the halves of each head. They are to be interleaved: a row of "
                      "the first, then one of the second."),
        Misconception("second half first", _rows(heads={"q": "h", "k": "k"}, sort=lambda w, d:
                                                 rearrange(w, "(h two d) c -> h d two c", two=2,
                                                           d=d // 2).flip(2).reshape(w.shape)),
                      "you interleaved the halves with the second one first. x[0] of a pair comes "
                      "from the first half."),
        Misconception("width for heads", _rows(heads={"q": "h", "k": "k"}, sort=lambda w, d:
                                               rearrange(w, "(d two h) c -> (d h two) c", two=2,
                                                         h=len(w) // d)),
                      "you exchanged the number of heads and their width: heads lie one behind "
                      "another, so `h` is the outermost letter, on both sides.",
                      also=tuple(_rows(heads={"q": "h", "k": "k"}, sort=partial(
                          _by_pattern, pattern=pattern)) for pattern in MIXED)),
        Misconception("across heads", _rows(heads={"q": "1", "k": "1"}),
                      "you sorted across heads, as if all rows were one. Each head is sorted by "
                      "itself."),
    ),
    hints=(
        "Only two of the four projections move. Which does RoPE touch?",
        "A head has len(w) // heads rows, and heads is n_heads for q, n_kv_heads for k.",
        'rearrange(w, "(h two d) c -> (h d two) c", two=2, h=...) interleaves the halves.',
    ))

# -- 9.4: rows for a program that turns the other way ----------------------------------------------

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
                          halves_to_pairs(w, head_dim), head_dim, "d two"))),
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

EXERCISES = [ROWS, THIRD]
