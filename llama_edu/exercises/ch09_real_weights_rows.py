"""The exercise of chapter 09 on row orders: Hugging Face's rows back to Meta's."""

from collections.abc import Callable

from torch import Generator, Tensor

from ..formats.names import halves_to_pairs, pairs_to_halves, translate
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


def _projection(rng: Generator, letter: str, rows: int, *, n_heads: int, n_kv_heads: int) -> Inputs:
    return {"name": f"model.layers.2.self_attn.{letter}_proj.weight", "w": normal(rng, rows, 5),
            "n_heads": n_heads, "n_kv_heads": n_kv_heads}


ROWS = Exercise(
    "9.3", "Sort the rows back", "Why rows, why q and k", _package_rows,
    probes=(
        Probe("queries", lambda rng: _projection(rng, "q", 32, n_heads=4, n_kv_heads=2)),
        Probe("keys, two queries to each", lambda rng: _projection(
            rng, "k", 16, n_heads=4, n_kv_heads=2)),
        Probe("keys, one head for all", lambda rng: _projection(
            rng, "k", 12, n_heads=3, n_kv_heads=1)),
        Probe("queries of three heads", lambda rng: _projection(
            rng, "q", 24, n_heads=3, n_kv_heads=1)),
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
