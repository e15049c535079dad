"""Small pages of HTML and script that let a reader move what a chapter's figures hold still.

Each is one page: no kernel, no network, no library. What a model says is computed once, in Python,
and written into the page.
"""

import json
import math
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from html import escape
from importlib.resources import files
from itertools import pairwise
from typing import Any

from torch import Tensor

from ..model import Llama

NAMED = 60          # of a distribution's tokens, the likeliest, are kept one by one
DIGITS = string.ascii_uppercase + string.ascii_lowercase + string.digits + "+/"
LEVELS = 31         # a weight is one digit: a whole number from -31 to 31, times its row's scale
WIDER = 1.1         # the others in groups of neighbours: the last rank of a group by the one before


@dataclass(frozen=True, repr=False)
class Explorer:
    """A page in a frame of its own, so that its styles and those of the book never meet."""

    name: str
    page: str

    def __repr__(self) -> str:
        return f"<explorer {self.name}: run this cell in JupyterLab, or open the book>"

    def _repr_html_(self) -> str:
        return (f'<div><iframe title="Explorer: {escape(self.name)}" srcdoc="{escape(self.page)}"'
                ' loading="lazy" style="width: 100%; height: 60em; border: 0;"></iframe>'
                "<p><small>No sliders above? Run this cell. They move with a pointer or the arrow "
                "keys. Where scripts are off, as on GitHub, the figures of the chapter show the "
                "same.</small></p></div>")


def rope(query: Tensor | None = None, key: Tensor | None = None, *, theta: float = 1e4) -> Explorer:
    """Rotations by pair, distance, theta and factor; and the score of a query and a key, if given.

    Both are `d`, as a model makes them before it rotates them, in Meta's order of features
    (pairs side by side); theta is the model's own.
    """
    if query is None or key is None:
        return _explorer("rope", None)
    (qa, qb), (ka, kb) = (each.unflatten(-1, (-1, 2)).double().T for each in (query, key))
    scale = len(query) ** -0.5
    return _explorer("rope", {
        "theta": theta, "headDim": len(query),
        "along": _digits((qa * ka + qb * kb) * scale),
        "across": _digits((qb * ka - qa * kb) * scale)})


def memory(model: Llama, texts: Mapping[int, Tensor], *, context: int) -> Explorer:
    """The memory game of chapter 02, played by a small model whose rotations the reader chooses.

    `texts` are tokens `n t` by distance: names (0 to 7) and their numbers (8 to 15) in turn. The
    last number is the answer; its name stands once before, so many tokens back. `context` is the
    length of the texts that the model was trained on. The page runs the model itself, with weights
    of six bits. Raises ValueError unless it has two layers of one head and 16 tokens.
    """
    c = model.config
    if (c.n_layers, c.n_heads, c.vocab_size) != (2, 1, 16):
        raise ValueError(f"the model has {c.n_layers} layers, {c.n_heads} heads in each, and "
                         f"{c.vocab_size} tokens; the page plays with 2 layers, 1 head and 16 "
                         "tokens. Train one of this shape.")
    return _explorer("memory", {
        "theta": c.rope_theta, "headDim": c.head_dim, "eps": c.norm_eps, "context": context,
        "matrices": {name: _packed(weight) for name, weight in _folded(model).items()},
        "texts": {distance: [_written(row) for row in _pairs(tokens).tolist()]
                  for distance, tokens in texts.items()}})


def _written(digits: Sequence[int]) -> str:
    return "".join(DIGITS[digit] for digit in digits)


def _pairs(tokens: Tensor) -> Tensor:
    """One number from 0 to 63 for a name, 0 to 7, and its number, 8 to 15."""
    names, numbers = tokens.unflatten(-1, (-1, 2)).unbind(-1)
    return 8 * names + numbers - 8


def _folded(model: Llama) -> dict[str, Tensor]:
    """The matrices that a forward pass of two layers needs, the norms' weights among them.

    The first layer sees nothing but tokens, so a row for each is enough.
    """
    one, two = model.layers
    table = model.tok_embeddings.weight
    seen = one.attention_norm(table)
    head = model.tok_embeddings if model.output is None else model.output
    parts = {"table": table, "queries": one.attention.wq(seen), "keys": one.attention.wk(seen),
             "moves": one.attention.wo(one.attention.wv(seen)),
             "wq": two.attention.wq.weight * two.attention_norm.weight,
             "wk": two.attention.wk.weight * two.attention_norm.weight,
             "wov": two.attention.wo.weight @ two.attention.wv.weight * two.attention_norm.weight,
             "output": head.weight * model.norm.weight}
    for i, layer in enumerate((one, two), start=1):
        parts |= {f"gate{i}": layer.feed_forward.w1.weight * layer.ffn_norm.weight,
                  f"up{i}": layer.feed_forward.w3.weight * layer.ffn_norm.weight,
                  f"down{i}": layer.feed_forward.w2.weight}
    return {name: weight.detach().double() for name, weight in parts.items()}


def _packed(weight: Tensor) -> dict[str, Any]:
    """A matrix as text, row by row: two digits for its scale, then one for each number."""
    largest = weight.abs().amax(1, keepdim=True)
    scales = (largest / largest.max() * (64 ** 2 - 1)).ceil().clamp(min=1)
    unit = float(largest.max()) / (64 ** 2 - 1) / LEVELS
    digits = (weight / (scales * unit)).round().int() + LEVELS
    rows = [[int(scale) // 64, int(scale) % 64, *row]
            for scale, row in zip(scales.flatten(), digits.tolist(), strict=True)]
    return {"unit": unit, "columns": weight.shape[1],
            "rows": "".join(map(_written, rows))}


def attention(pieces: Sequence[str], heads: Mapping[str, Tensor]) -> Explorer:
    """Where each of a text's tokens looks, for any two of some heads; weights `t t` by name.

    Raises ValueError unless every head has one row and one column a piece.
    """
    for name, weights in heads.items():
        if weights.shape != (len(pieces), len(pieces)):
            raise ValueError(f"{name} has weights of shape {tuple(weights.shape)}; {len(pieces)} "
                             f"pieces need ({len(pieces)}, {len(pieces)}). Hand over the weights "
                             "of one head on this text.")
    rows = {name: [row[:i + 1] for i, row in enumerate((weights * 1000).round().int().tolist())]
            for name, weights in heads.items()}
    return _explorer("attention", {"pieces": list(pieces), "heads": rows})


def sampling(places: Mapping[str, Tensor], spell: Callable[[int], str]) -> Explorer:
    """The rules of `llama_edu.sampling` on real distributions: logits `v` by the text before them.

    `spell` gives the piece of a token. Tokens beyond the likeliest are grouped with neighbours of
    nearly the same probability.
    """
    data = {}
    for name, logits in places.items():
        logs, order = logits.double().log_softmax(-1).sort(descending=True)
        named = [[log, 1] for log in _digits(logs[:NAMED])]
        rest = [logs[a:b] for a, b in pairwise(_edges(len(logs)))]
        groups = [[round(float(each.logsumexp(0)) - math.log(len(each)), 4), len(each)]
                  for each in rest]
        data[name] = {"pieces": [spell(token) for token in order[:NAMED].tolist()],
                      "groups": named + groups}
    return _explorer("sampling", data)


def _edges(n: int) -> list[int]:
    """Ranks from NAMED to n, each further from the one before than that from its own."""
    edges = [NAMED]
    while edges[-1] < n:
        edges.append(min(n, int(edges[-1] * WIDER)))
    return edges if n > NAMED else []


def bits(rows: Sequence[Mapping[str, str]], names: Mapping[str, str]) -> Explorer:
    """What a model answers with weights of so many bits, by who shares a scale.

    `rows` are those of a recorded table: shared, bits, nats, answer. `names` says which of them to
    show, and in which words; the page leaves a number of bits out where nothing was recorded.
    """
    return _explorer("bits", {
        name: [[int(row["bits"]), float(row["nats"]), row["answer"]]
               for row in rows if row["shared"] == shared] for shared, name in names.items()})


def _digits(values: Tensor) -> list[float]:
    return [round(each, 4) for each in values.tolist()]


@cache
def _source(name: str) -> str:
    """The page of an explorer, with what all of them share."""
    folder = files(__package__)
    page = (folder / f"{name}.html").read_text(encoding="utf-8")
    for shared in ("common.css", "common.js", "rope.js"):
        page = page.replace(f"/* {shared} */", (folder / shared).read_text(encoding="utf-8"))
    return page


def _explorer(name: str, data: Any) -> Explorer:
    # "<" could end the script in which the data stand, or begin another
    written = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    return Explorer(name, _source(name).replace("/* data */null", written))
