"""The exercise of chapter 09 on row orders, 9.3: Hugging Face's rows, sorted back into pairs."""

from collections.abc import Callable
from functools import partial

import torch
from einops import rearrange
from torch import Generator, Tensor

from ..formats.names import halves_to_pairs, pairs_to_halves, translate
from .data import Exercise, Inputs, Misconception, Probe, normal


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


def _columns_of_o(name: str, w: Tensor, n_heads: int, n_kv_heads: int, *,
                  back: Callable[[Tensor, int], Tensor] = halves_to_pairs) -> Tensor:
    """Right for q and k; o_proj's columns, which are values, are sorted with them."""
    if ".o_proj." in name:
        return back(w.T.contiguous(), w.shape[1] // n_heads).T
    return _rows(heads={"q": "h", "k": "k"})(name, w, n_heads, n_kv_heads)


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
        Misconception("o's columns", _columns_of_o,
                      "you sorted the columns of o_proj. They read values, which RoPE never "
                      "turned: leave it as it is.", also=(
                          lambda name, w, n_heads, n_kv_heads: _columns_of_o(
                              name, w, n_heads, n_kv_heads, back=pairs_to_halves),)),
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

EXERCISES = [ROWS]
