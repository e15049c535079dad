"""What each tensor of a Llama is called in the files that people publish.

Our own names are Meta's, so a `consolidated.00.pth` needs no renaming. The two other worlds
differ by spelling and by one thing that is not spelling: Hugging Face stores the rows of wq and
wk in another order (it turns x[i] with x[i + d/2], Meta turns x[2i] with x[2i + 1]).
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from einops import rearrange
from torch import Tensor


@dataclass(frozen=True)
class Name:
    """One row of the table. `#` stands for the layer's number."""

    meta: str
    huggingface: str
    gguf: str
    rope_rows: bool = False     # rows are RoPE pairs, in another order in Hugging Face files


TABLE = (
    #    Meta, and ours                        Hugging Face                              GGUF
    Name("tok_embeddings.weight",              "model.embed_tokens.weight",              "token_embd.weight"),
    Name("layers.#.attention_norm.weight",     "model.layers.#.input_layernorm.weight",  "blk.#.attn_norm.weight"),
    Name("layers.#.attention.wq.weight",       "model.layers.#.self_attn.q_proj.weight", "blk.#.attn_q.weight", True),
    Name("layers.#.attention.wk.weight",       "model.layers.#.self_attn.k_proj.weight", "blk.#.attn_k.weight", True),
    Name("layers.#.attention.wv.weight",       "model.layers.#.self_attn.v_proj.weight", "blk.#.attn_v.weight"),
    Name("layers.#.attention.wo.weight",       "model.layers.#.self_attn.o_proj.weight", "blk.#.attn_output.weight"),
    Name("layers.#.ffn_norm.weight",           "model.layers.#.post_attention_layernorm.weight", "blk.#.ffn_norm.weight"),
    Name("layers.#.feed_forward.w1.weight",    "model.layers.#.mlp.gate_proj.weight",    "blk.#.ffn_gate.weight"),
    Name("layers.#.feed_forward.w2.weight",    "model.layers.#.mlp.down_proj.weight",    "blk.#.ffn_down.weight"),
    Name("layers.#.feed_forward.w3.weight",    "model.layers.#.mlp.up_proj.weight",      "blk.#.ffn_up.weight"),
    Name("norm.weight",                        "model.norm.weight",                      "output_norm.weight"),
    Name("output.weight",                      "lm_head.weight",                         "output.weight"),
)

# Tensors that some files carry and that can be recomputed, and so are left out on purpose.
DERIVED = {"rope.freqs", "layers.#.attention.inner_attention.rope.freqs", "rope_freqs.weight"} | {
    f"model.{place}rotary_emb.{name}" for place in ("", "layers.#.self_attn.")
    for name in ("inv_freq", "cos_cached", "sin_cached")}


def find(name: str, world: str) -> tuple[Name, str] | None:
    """The table's row for a tensor called `name` in "meta", "huggingface" or "gguf" files.

    Returns the row and the layer's number ("" outside the layers), or None for a derived tensor.
    Raises KeyError for a name that no text Llama has.
    """
    number = re.search(r"\.(\d+)\.", name)
    general = name if number is None else name.replace(number[0], ".#.", 1)
    if general in DERIVED:
        return None
    for row in TABLE:
        if getattr(row, world) == general:
            return row, "" if number is None else number[1]
    raise KeyError(f"a tensor is called {name!r}; no text Llama has one of that name in {world} "
                   "files. Is this another kind of model, or an adapter?")


def translate(weights: Iterable[tuple[str, Tensor]], source: str, target: str, *,
              head_dim: int) -> Iterator[tuple[str, Tensor]]:
    """Tensors with one world's names and row order, one by one, to another's.

    Raises ValueError for queries or keys that are not whole heads, and KeyError as `find` does.
    """
    for name, w in weights:
        if (found := find(name, source)) is None:
            continue
        row, number = found
        if row.rope_rows and (w.ndim != 2 or len(w) % head_dim):
            raise ValueError(f"{name} is {tuple(w.shape)} in the files; rows in whole heads of "
                             f"{head_dim} are needed. Does the config belong to these files?")
        if row.rope_rows and source == "huggingface":
            w = halves_to_pairs(w, head_dim)
        if row.rope_rows and target == "huggingface":
            w = pairs_to_halves(w, head_dim)
        yield getattr(row, target).replace("#", number), w


def pairs_to_halves(w: Tensor, head_dim: int) -> Tensor:
    """Meta's row order to Hugging Face's: `(h d) c`, inside each head evens first, then odds."""
    return rearrange(w, "(h d two) c -> (h two d) c", two=2, d=head_dim // 2)


def halves_to_pairs(w: Tensor, head_dim: int) -> Tensor:
    """Hugging Face's row order to Meta's; undoes `pairs_to_halves`."""
    return rearrange(w, "(h two d) c -> (h d two) c", two=2, d=head_dim // 2)
