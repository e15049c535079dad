"""Configurations that were published and are wrong, set beside the releases that they are of."""

from dataclasses import dataclass, fields, replace

from ...config import ModelConfig, swiglu_width
from ...family.accounting import parameters
from ...family.releases import RELEASES, release
from ...tokenizer.tiktoken_bpe import LLAMA31_SPECIAL, N_RANKS


@dataclass(frozen=True)
class _Listed:
    """What a published table says of a release, where that can be told from its checkpoints."""

    id: str
    says: dict[str, float]              # settings of ModelConfig
    multiple_of: int | None = None      # with multiplier: how the feed-forward width is derived
    multiplier: float | None = None


# The first six: llama_models/sku_list.py, 0.3.0. The last two: litgpt/config.py.
LISTED = {
    "Llama-2-7b": _Listed("llama-2-7b", {"n_kv_heads": 8, "rope_theta": 500_000.0}, 256, 1.3),
    "Llama-2-13b": _Listed("llama-2-13b", {"n_kv_heads": 8, "rope_theta": 500_000.0}, 256, 1.3),
    "Llama-2-70b": _Listed("llama-2-70b", {"n_kv_heads": 8, "rope_theta": 500_000.0}, 4096, 1.3),
    "Llama-2-70b-chat": _Listed("llama-2-70b", {"n_kv_heads": 8, "rope_theta": 500_000.0},
                                256, 1.3),
    "Llama-Guard-2-8B": _Listed("llama-guard-2-8b", {"vocab_size": 32_000}, 256, 1.3),
    "Llama-Guard-3-8B": _Listed("llama-guard-3-8b", {"n_kv_heads": 8}, 1024, 1.3),
    "CodeLlama-70b-Instruct-hf": _Listed(
        "code-llama-70b-instruct", {"rope_theta": 1e6, "max_seq_len": 16_384}),
    "CodeLlama-13b-Instruct-hf": _Listed("code-llama-13b-instruct", {"max_seq_len": 2048})}
# Image tokens of one tile and grids of tiles: llama_models/llama3/multimodal.
PATCH, IMAGE_DIM, TILES_ACROSS = 14, 1280, 4


def _as_listed(name: str) -> ModelConfig:
    listed = LISTED[name]
    config = replace(release(listed.id).config, **listed.says)
    if listed.multiple_of is None:
        return config
    width = swiglu_width(config.dim, multiple_of=listed.multiple_of, multiplier=listed.multiplier)
    return replace(config, hidden_dim=width)


def settings_listed_wrongly(name: str) -> list[str]:
    """The settings in which a published configuration differs from the release."""
    truth, listed = release(LISTED[name].id).config, _as_listed(name)
    return [f.name for f in fields(ModelConfig)
            if getattr(truth, f.name) != getattr(listed, f.name)]


def parameters_as_listed(name: str) -> int:
    """Parameters of the model that a published configuration would build."""
    return parameters(_as_listed(name)).total


def excess_as_listed(name: str) -> int:
    """Parameters that this model would have more than the release."""
    return parameters_as_listed(name) - parameters(release(LISTED[name].id).config).total


def width_as_listed(name: str) -> int:
    """The feed-forward width that a published configuration leads to."""
    return _as_listed(name).hidden_dim


def tile_parameters(pixels: int) -> int:
    """Numbers of the image encoder's position tables for tiles of so many pixels.

    One table for a tile, and one for each place in a grid of four by four tiles. A tile has a
    token for each patch and one more.
    """
    tokens = (pixels // PATCH) ** 2 + 1
    return (1 + TILES_ACROSS * TILES_ACROSS) * tokens * IMAGE_DIM


def vision_parameters(id: str) -> float:
    """Parameters of a release with text and vision, in 10**9."""
    return release(id).whole_parameters / 1e9


def special_token(name: str) -> int:
    """The id of a special token in the vocabulary of Llama 3.1 and later."""
    return N_RANKS + LLAMA31_SPECIAL.index(name)


def norm_eps_of(*ids: str) -> list[float]:
    """The epsilons of these releases, in millionths."""
    return [release(id).config.norm_eps * 1e6 for id in ids]


def can_fill_in(family: str) -> list[str]:
    """The models of a family that were trained to fill in text between two others."""
    return [r.id for r in RELEASES if r.family == family and r.infilling]
