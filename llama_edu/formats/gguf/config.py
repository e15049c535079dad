"""The shape of a Llama in the fields of a GGUF file, and its stretch of RoPE in a tensor."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...config import LLAMA_3_1_SCALING, ModelConfig, RopeScaling
from ...layers import rope_frequencies
from ..source import Stored

ROPE_FACTORS = "rope_freqs.weight"      # by how much llama.cpp slows each feature pair down
KNOWN_SCALINGS = (None, LLAMA_3_1_SCALING, replace(LLAMA_3_1_SCALING, factor=32.0))
REFUSED = {         # field: the value that means nothing; others ask for arithmetic we do not have
    "rope.scaling.type": "none", "rope.scaling.factor": 1.0, "rope.scale_linear": 1.0,
    "expert_count": 0, "attention.sliding_window": 0, "attention.clamp_kqv": 0.0,
    "attention.causal": True, "logit_scale": 0.0, "rope.scaling.attn_factor": 1.0,
}


def read_config(fields: Mapping[str, Any], *, vocab_size: int, tied: bool, n_tensors: int
                ) -> ModelConfig:
    """The model's shape, from the fields named llama.*; RoPE without a stretch.

    vocab_size and tied are read off the tensors, and n_tensors bounds the number of layers. Raises
    ValueError for another kind of model, and for fields that are missing or contradict each other
    or the tensors.
    """
    _check_kind_of_model(fields)
    if (said := fields.get("llama.vocab_size", vocab_size)) != vocab_size:
        raise ValueError(f"the GGUF file says llama.vocab_size = {said!r:.40}; its embedding has "
                         f"{vocab_size} rows. Download it again.")
    n_layers, n_heads, dim = (_needed(fields, name) for name in (
        "block_count", "attention.head_count", "embedding_length"))
    if type(n_layers) is not int or 9 * n_layers > n_tensors:
        raise ValueError(f"the GGUF file says llama.block_count = {n_layers!r:.40}; 9 tensors a "
                         f"layer are needed, and it lists {n_tensors} in all. Download it again.")
    key_length = fields.get("llama.attention.key_length")
    config = ModelConfig(
        dim=dim, n_layers=n_layers, n_heads=n_heads,
        n_kv_heads=fields.get("llama.attention.head_count_kv", n_heads),
        hidden_dim=_needed(fields, "feed_forward_length"), vocab_size=vocab_size,
        norm_eps=_short(_needed(fields, "attention.layer_norm_rms_epsilon")),
        rope_theta=_short(fields.get("llama.rope.freq_base", 10_000.0)),
        max_seq_len=_needed(fields, "context_length"), tied_embeddings=tied,
        own_head_dim=key_length)
    # Where a field is left out, llama.cpp takes what stands beside it here.
    for field, left_out in (("rope.dimension_count", config.head_dim),
                            ("attention.value_length", dim // n_heads)):
        if (given := fields.get(f"llama.{field}", left_out)) != config.head_dim:
            whence = "attention.key_length" if key_length else (
                "embedding_length / attention.head_count")
            raise ValueError(f"the GGUF file says llama.{field} = {given!r:.40}; {whence} gives "
                             f"{config.head_dim}, and in every Llama the two agree. Take another "
                             "model.")
    return config


def _check_kind_of_model(fields: Mapping[str, Any]) -> None:
    """Raises ValueError for another architecture, and for arithmetic that no Llama does."""
    if (name := fields.get("general.architecture")) != "llama":
        raise ValueError(f"the GGUF file says general.architecture = {name!r:.40}; 'llama' is "
                         "needed. This package runs text Llamas only.")
    for field, nothing in REFUSED.items():
        if (given := fields.get(f"llama.{field}", nothing)) != nothing:
            raise ValueError(f"the GGUF file says llama.{field} = {given!r:.40}; a Llama has "
                             f"{nothing!r}. This package does not guess at others.")


def _needed(fields: Mapping[str, Any], name: str) -> Any:
    if f"llama.{name}" not in fields:
        raise ValueError(f"the GGUF file has no field llama.{name}; a Llama cannot be built "
                         "without it. Download it again.")
    return fields[f"llama.{name}"]


def _short(number: Any) -> Any:
    """1e-05 for what float32 makes of it, 9.99999974...e-06; other things as they are."""
    with np.errstate(over="ignore"):
        return float(str(np.float32(number))) if type(number) is float else number


def config_fields(config: ModelConfig) -> dict[str, Any]:
    """What a GGUF file says of this shape."""
    own = {} if config.own_head_dim is None else {
        "attention.key_length": config.head_dim, "attention.value_length": config.head_dim}
    return {"llama." + name: value for name, value in (own | {
        "block_count": config.n_layers, "context_length": config.max_seq_len,
        "embedding_length": config.dim, "feed_forward_length": config.hidden_dim,
        "attention.head_count": config.n_heads, "attention.head_count_kv": config.n_kv_heads,
        "attention.layer_norm_rms_epsilon": float(config.norm_eps),
        "rope.freq_base": float(config.rope_theta), "rope.dimension_count": config.head_dim,
        "vocab_size": config.vocab_size}).items()}


# -- the stretch of RoPE ---------------------------------------------------------------------------


def rope_factors(config: ModelConfig) -> Tensor:
    """By how much each feature pair turns slower than without the stretch: `d/2`, float32."""
    plain, slowed = (rope_frequencies(config.head_dim, config.rope_theta, scaling)
                     for scaling in (None, config.rope_scaling))
    return plain / slowed


def written_factors(config: ModelConfig) -> Tensor:
    """The same. Raises ValueError where a reader could not tell the stretch from them."""
    factors = rope_factors(config)
    stored = Stored(tuple(factors.shape), factors.dtype, lambda: factors)
    if config.rope_scaling not in KNOWN_SCALINGS or (
            find_scaling(stored, config) != config.rope_scaling):
        raise ValueError(f"{config.rope_scaling} cannot be read back from a GGUF file, which has "
                         "only the factors; (8 or 32, 1, 4, 8192) can. Write another format.")
    return factors


def find_scaling(stored: Stored, config: ModelConfig) -> RopeScaling | None:
    """The stretch that gives the stored factors: none, Llama 3.1's or Llama 3.2's.

    A file holds float32, made by other code, so the last digits may differ. Raises ValueError for
    factors that none of the three gives.
    """
    if stored.shape != (config.head_dim // 2,):
        raise ValueError(f"{ROPE_FACTORS} is {stored.shape} in the GGUF file; one factor for each "
                         f"of {config.head_dim // 2} pairs is needed. Download it again.")
    factors = stored.read().float()
    for scaling in KNOWN_SCALINGS:
        if torch.allclose(factors, rope_factors(replace(config, rope_scaling=scaling)), rtol=1e-4):
            return scaling
    raise ValueError(f"{ROPE_FACTORS} stretches by {factors.min():.4g} to {factors.max():.4g}; "
                     "neither Llama 3.1's stretch (8) nor 3.2's (32) gives these factors. This "
                     "package does not guess at others.")
