"""What `llama-edu info` says of models: of one as a card, of several side by side, or as data."""

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from itertools import zip_longest
from typing import Any

from ..config import ModelConfig
from . import accounting as a
from .hardware import GPUS, Gpu, gpu
from .releases import RELEASES, Release

# Bits a weight, in brackets with the scales of its block: what files of these kinds hold.
PRECISIONS = {"32 bits": 32, "16 bits": 16, "8 bits (8.5)": 8.5, "4 bits (4.5)": 4.5}
CONTEXTS = (2048, 8192, 32_768, 131_072)
SPARE_GIB = 1.0                     # for the driver and for the numbers between two layers
CACHE = "kv cache, 16 bits, one text"
Table = dict[str, str]


@dataclass(frozen=True)
class Files:
    """A model in files, of which only the shape is known, and what they say."""

    name: str
    config: ModelConfig
    facts: Table
    whole_parameters: None = None       # no other part than the text model
    notes: tuple[str, ...] = ()


def card(model: Release | Files) -> str:
    """All of one model: shape, parameters, memory, training and what it fits on."""
    lines = [model.name]
    for title, table in sections(model).items():
        lines += ["", title, *rows(table)]
    return "\n".join([*lines, "", "fits on", *fits(model),
                      *(f"  note: {note}" for note in model.notes)])


def side_by_side(models: Sequence[Release | Files], *, width: int) -> str:
    """The same sections of several models, a column each, in lines of `width` letters; what the
    models fit on is left to their cards."""
    whole, column = [sections(model) for model in models], max(20, (width - 20) // len(models))
    lines = _columns("", [model.name for model in models], column)
    for title in dict.fromkeys(title for each in whole for title in each):
        tables = [each.get(title, {}) for each in whole]
        keys = [*dict.fromkeys(key for table in tables for key in table)]
        if title == CACHE:              # contexts of one model stand between those of another
            keys.sort(key=lambda key: int("0" + "".join(filter(str.isdigit, key))))
        lines += ["", title]
        for key in keys:
            lines += _columns(f"  {key}", [table.get(key, "") for table in tables], column)
    return "\n".join(lines)


def _columns(key: str, values: Sequence[str], column: int) -> list[str]:
    """The lines of one row: what is longer than its column goes on below."""
    cells = [textwrap.wrap(value.strip(), column - 2) for value in values]
    return [f"{head:20}{''.join(f'{part:{column}}' for part in parts)}".rstrip()
            for head, *parts in zip_longest([key], *cells, fillvalue="")]


def as_data(model: Release | Files) -> dict[str, Any]:
    """The facts of a model and its parameters, as JSON takes them."""
    p = a.parameters(model.config)
    facts = asdict(model) | {"parameters": asdict(p) | {"total": p.total}}
    return {key: value.isoformat() if type(value) is date else value
            for key, value in ({"name": model.name} | facts).items()}


def sections(model: Release | Files) -> dict[str, Table]:
    """What there is to say of a model, by title."""
    c = model.config
    known = {"shape": shape(c), "parameters": where(model), "weights": weights(model),
             CACHE: cache(c)}
    if type(model) is Files:
        same = ", ".join(r.name for r in RELEASES if r.config == c)
        return {"files": model.facts | {"shaped like": same or "no release"}} | known
    published = {"released": str(model.released or "never"), "licence": model.licence}
    known["weights"] |= meta_files(model)
    return {"published": published} | known | {
        "training": training(model) or {"tokens": "nothing was published"}}


def rows(table: Table) -> list[str]:
    return [f"  {key:18}{value}" for key, value in table.items()]


def shape(c: ModelConfig) -> Table:
    scaling = "none" if c.rope_scaling is None else f"factor {c.rope_scaling.factor:g}"
    return {
        "dim": str(c.dim), "layers": str(c.n_layers),
        "heads / kv heads": f"{c.n_heads} / {c.n_kv_heads}", "head_dim": str(c.head_dim),
        "hidden_dim": str(c.hidden_dim), "vocabulary": f"{c.vocab_size:,}",
        "context": f"{c.max_seq_len:,} tokens", "norm_eps": f"{c.norm_eps:g}",
        "rope": f"theta {c.rope_theta:g}, scaling {scaling}"}


def where(r: Release | Files) -> Table:
    p = a.parameters(r.config)
    table = {"total": f"{p.total:,}", "  embedding": f"{p.embedding:,}",
             "  attention": f"{p.attention:,}", "  feed-forward": f"{p.feed_forward:,}",
             "  norms": f"{p.norms:,}", "  output": f"{p.output:,}" if p.output else "0 (tied)"}
    if r.whole_parameters is not None:
        table["with vision"] = f"{r.whole_parameters:,} (the rest is the text model's)"
    return table


def weight_gib(r: Release | Files, bits: float) -> float:
    """GiB of all weights, of a vision model's other parts too."""
    return (r.whole_parameters or a.parameters(r.config).total) * bits / 8 / a.GIB


def weights(r: Release | Files) -> Table:
    return {name: f"{weight_gib(r, bits):8.2f} GiB" for name, bits in PRECISIONS.items()}


def meta_files(r: Release) -> Table:
    """How the weights were published, where their size follows from the shape."""
    if r.whole_parameters is not None or r.config.tied_embeddings:
        return {}
    each = a.shard_bytes(r.config, shards=r.shards, bits=16)
    return {"Meta's files": f"{r.shards} of {each:,} bytes"}


def contexts(c: ModelConfig) -> list[int]:
    """The lengths worth a line: the usual ones below the model's own, and that."""
    return [t for t in CONTEXTS if t < c.max_seq_len] + [c.max_seq_len]


def cache(c: ModelConfig) -> Table:
    table = {"per token": f"{a.kv_bytes_per_token(c, bits=16):,} bytes"}
    for t in contexts(c):
        table[f"{t:,} tokens"] = f"{a.kv_bytes(c, tokens=t, batch=1, bits=16) / a.GIB:8.2f} GiB"
    return table


def training(r: Release) -> Table:
    """What was published, and what follows from it."""
    t, p = r.training, a.parameters(r.config)
    table = {}
    if t.start is not None:
        table["began from"] = t.start
    if t.tokens is not None:
        flops = a.training_flops(p.total, t.tokens)
        table["tokens"] = f"about {t.tokens:.3g}, {t.tokens / p.total:.0f} a parameter"
        table["operations, 6ND"] = f"about {flops:.3g}"
    if t.gpu_hours is not None:
        table["GPU hours"] = f"{t.gpu_hours:,.0f}" + (f" of {t.gpu}" if t.gpu else "")
    if None not in (t.tokens, t.gpu_hours, t.gpu):
        rate = a.tflops_per_gpu(flops, gpu_hours=t.gpu_hours)
        share = a.mfu(flops, gpu_hours=t.gpu_hours, peak_tflops=gpu(t.gpu).tflops)
        table["that is"] = f"{rate:.0f} TFLOPS a GPU, {share:.1%} of its peak"
    if None not in (t.gpu_hours, t.watts, t.tonnes_co2):
        computed = a.tonnes_co2(t.gpu_hours, watts=t.watts)
        table["carbon"] = (f"{t.tonnes_co2:,g} t as printed, {computed:,.2f} t by the papers' "
                           "formula")
    return table


def fits(r: Release | Files) -> Iterator[str]:
    """For each card and precision: how long a text fits beside the weights."""
    kinds = {name: bits for name, bits in PRECISIONS.items() if bits <= 16}
    yield "  " + " " * 14 + "".join(f"{name:>22}" for name in kinds)
    for each in GPUS:
        said = (verdict(r, each, bits) for bits in kinds.values())
        yield f"  {each.name:14}" + "".join(f"{words:>22}" for words in said)
    yield f"  (tokens of cache beside the weights, {SPARE_GIB:g} GiB kept free; or how many cards)"


def verdict(r: Release | Files, gpu: Gpu, bits: float) -> str:
    """Yes, with so many tokens of context; or no, and how many such cards hold the weights."""
    room = gpu.gib - SPARE_GIB - weight_gib(r, bits)
    tokens = int(room * a.GIB // a.kv_bytes_per_token(r.config, bits=16))
    if tokens >= r.config.max_seq_len:
        return "yes, whole context"
    if tokens >= 1:
        return f"yes, {tokens:,} tokens"
    return f"no, {max(2, -(-weight_gib(r, bits) // (gpu.gib - SPARE_GIB))):.0f} cards"
