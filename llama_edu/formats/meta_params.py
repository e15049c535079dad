"""What Meta's params.json says of a model, what it leaves open, and where the answers are.

It names neither the context, nor the numbers of the RoPE scaling, nor whether the two tables are
one. A release of the same shape answers; for other shapes a small file that our writer adds.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..config import LLAMA_3_1_SCALING, ModelConfig, RopeScaling, from_meta, swiglu_width
from ..family.releases import RELEASES, Release
from . import strict_json
from .whole_files import write_whole

PARAMS = "params.json"
# Written only where params.json and the releases would not give the same model back.
BESIDE = "llama_edu.json"
LARGEST = 2**24         # no size of any Llama is larger


@dataclass(frozen=True)
class Said:
    """The shape of a model, and the tokens that end its answers."""

    config: ModelConfig
    stop_ids: tuple[int, ...] = ()


# -- reading -----------------------------------------------------------------------------------


def read(folder: Path) -> dict[str, Any]:
    """The fields of params.json, every number of a size that a model can have.

    Raises ValueError where the file is missing or broken, or a field is of another kind or size.
    """
    if not (folder / PARAMS).is_file():
        raise ValueError(f"there is no {PARAMS} in {folder}; a folder as Meta publishes it is "
                         "needed. Check the path.")
    fields = strict_json.read(folder / PARAMS)
    params = fields.get("model", fields)    # some releases put all of it under "model"
    if type(params) is not dict:
        raise ValueError(f"{PARAMS} holds {params!r:.40} as its model; a table of sizes is needed. "
                         "Download it again.")
    for name in ("dim", "n_layers", "n_heads", "n_kv_heads", "multiple_of", "vocab_size"):
        _need_size(params, name, PARAMS)
    for name, largest in (("ffn_dim_multiplier", 100), ("norm_eps", 1), ("rope_theta", 1e12)):
        value = params.get(name)
        if value is not None and not (type(value) in (int, float) and 0 < value <= largest):
            raise ValueError(f"{PARAMS} says {name} = {value!r:.40}; a number above 0 and up to "
                             f"{largest:g} is needed. Download it again.")
    if type(scaled := params.get("use_scaled_rope", False)) is not bool:
        raise ValueError(f"{PARAMS} says use_scaled_rope = {scaled!r:.40}; true or false is "
                         "needed. Download it again.")
    return params


def settle(folder: Path, params: Mapping[str, Any], *, vocab_size: int, n_shards: int) -> Said:
    """The whole shape. What is tied here may be tied; whether it is, the tables decide.

    vocab_size: of the embedding, for the generations that write -1. Raises ValueError for a shape
    that no Llama has, and where what our writer added contradicts params.json.
    """
    base = from_meta(params, vocab_size=vocab_size, max_seq_len=1)
    if (folder / BESIDE).is_file():
        return _beside(folder, base, n_shards)
    return conclude(base, n_shards)


def conclude(base: ModelConfig, n_shards: int) -> Said:
    """The shape of the release with these numbers, or what its generation had."""
    if found := [r.config for r in RELEASES if looks_like(r, base, n_shards)]:
        return Said(replace(found[0], tied_embeddings=any(c.tied_embeddings for c in found)))
    if base.rope_scaling is not None:
        context = 131_072
    elif base.rope_theta == 1e6:        # Code Llama
        context = 16_384
    elif base.rope_theta == 5e5:        # Llama 3
        context = 8192
    else:                               # Llama 1 and its epsilon, Llama 2
        context = 2048 if base.norm_eps == 1e-6 else 4096
    return Said(replace(base, max_seq_len=context))


def looks_like(release: Release, base: ModelConfig, n_shards: int) -> bool:
    """Whether params.json could be this release's. In more shards than key/value heads the
    copies are counted: the 405B in 16 shards says 16."""
    c = release.config
    scaling = base.rope_scaling and (c.rope_scaling or LLAMA_3_1_SCALING)
    return base.n_kv_heads in _kv_heads(c, n_shards) and c == replace(
        base, n_kv_heads=c.n_kv_heads, max_seq_len=c.max_seq_len, rope_scaling=scaling,
        tied_embeddings=c.tied_embeddings)


def _kv_heads(config: ModelConfig, n_shards: int) -> set[int]:
    """The two numbers by which a file may call the key/value heads: without copies, and with."""
    return {config.n_kv_heads, max(config.n_kv_heads, n_shards)}


def _beside(folder: Path, base: ModelConfig, n_shards: int) -> Said:
    """What our own writer left beside params.json."""
    fields, again = strict_json.read(folder / BESIDE), f"Remove {BESIDE} to use Meta's files alone."
    try:
        _need_size(fields, "max_seq_len", BESIDE)
        scaling, ids = fields.pop("rope_scaling"), tuple(fields.pop("stop_ids"))
        config = replace(base, max_seq_len=fields.pop("max_seq_len"),
                         rope_scaling=None if scaling is None else RopeScaling(**scaling),
                         tied_embeddings=fields.pop("tied_embeddings"),
                         n_kv_heads=fields.pop("n_kv_heads"))
    except (KeyError, TypeError, ValueError) as broken:
        raise ValueError(f"{BESIDE} cannot be used ({broken}); what this package wrote is needed. "
                         f"{again}") from None
    both_scaled = (base.rope_scaling is None) == (config.rope_scaling is None)
    if fields or not both_scaled or base.n_kv_heads not in _kv_heads(config, n_shards):
        raise ValueError(f"{BESIDE} contradicts {PARAMS}; both must come from one writing. {again}")
    if not all(type(i) is int and i >= 0 for i in ids):
        raise ValueError(f"{BESIDE} says stop_ids = {ids!r:.60}; tokens' numbers are needed. "
                         f"{again}")
    return Said(config, ids)


def _need_size(fields: Mapping[str, Any], name: str, file: str) -> None:
    value = fields.get(name)
    if value is not None and not (type(value) is int and value <= LARGEST):
        raise ValueError(f"{file} says {name} = {value!r:.40}; a whole number is needed, and no "
                         f"Llama has more than {LARGEST:,}. Download it again.")


# -- writing -----------------------------------------------------------------------------------


def write(folder: Path, said: Said, *, n_shards: int) -> None:
    """params.json, and beside it what a reader would not conclude from it."""
    config = said.config
    fields = params_fields(config, n_shards)
    if conclude(from_meta(fields, vocab_size=config.vocab_size, max_seq_len=1), n_shards) != said:
        left_open = {name: asdict(config)[name] for name in (
            "max_seq_len", "rope_scaling", "tied_embeddings", "n_kv_heads")}
        left_open["stop_ids"] = list(said.stop_ids)
        write_whole(folder / BESIDE, strict_json.spell(left_open))
    write_whole(folder / PARAMS, strict_json.spell(fields))


def params_fields(config: ModelConfig, n_shards: int) -> dict[str, Any]:
    """What params.json says of this shape: only what Meta's own ModelArgs knows."""
    assert config.own_head_dim is None, "shards.layout refuses heads that params.json cannot say"
    multiple_of, multiplier = _width_rule(config, n_shards)
    fields = {"dim": config.dim, "n_layers": config.n_layers, "n_heads": config.n_heads,
              # Meta's code gives every worker a head of its own, so copies are counted.
              "n_kv_heads": max(config.n_kv_heads, n_shards), "vocab_size": config.vocab_size,
              "multiple_of": multiple_of, "ffn_dim_multiplier": multiplier,
              "norm_eps": config.norm_eps, "rope_theta": config.rope_theta,
              "use_scaled_rope": config.rope_scaling is not None}
    return {name: value for name, value in fields.items() if value is not None}


def _width_rule(config: ModelConfig, n_shards: int) -> tuple[int, float | None]:
    """The multiple_of and ffn_dim_multiplier that give hidden_dim: a release's, or our own."""
    width = config.hidden_dim
    for r in RELEASES:
        rule = dict(multiple_of=r.multiple_of, multiplier=r.ffn_dim_multiplier or 1.0)
        if looks_like(r, config, n_shards) and swiglu_width(config.dim, **rule) == width:
            return r.multiple_of, r.ffn_dim_multiplier
    # A multiple of hidden_dim is enough; a plain width that is larger is first brought down to it.
    plain = swiglu_width(config.dim, multiple_of=1)
    return width, None if plain <= width else (width + 0.5) / plain
