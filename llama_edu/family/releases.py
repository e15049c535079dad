"""The whole family as data: every published text model, its shape and the facts of its training.

The rows are in `releases.toml` beside this file, each to be read as one model. Shapes are what the
checkpoints hold; where Meta's own tables disagree with them, the row says so in `notes`. For the
vision models the shape is that of the text trunk.
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from datetime import date
from pathlib import Path
from typing import Any

from ..config import LLAMA_3_1_SCALING, ModelConfig, nearest

A100, H100 = "A100-80GB", "H100-80GB"


@dataclass(frozen=True)
class Training:
    """What was published about the training run. Numbers are exact only where the cards are."""

    tokens: float | None = None         # "15T+" and "up to 9T" are stored as 15e12 and 9e12
    gpu_hours: float | None = None
    gpu: str | None = None
    watts: int | None = None            # per GPU
    tonnes_co2: float | None = None     # as printed, location based
    max_lr: float | None = None
    batch_tokens: float | None = None
    warmup_steps: int | None = None
    cutoff: str | None = None           # newest knowledge, year-month
    start: str | None = None            # id of the release whose weights it began from


@dataclass(frozen=True)
class Release:
    """One published model. `released` is None for the one that was trained and withheld."""

    id: str
    family: str
    released: date | None
    variants: tuple[str, ...]
    config: ModelConfig
    multiple_of: int                    # with ffn_dim_multiplier: how hidden_dim was derived
    ffn_dim_multiplier: float | None
    tokenizer: str
    licence: str
    shards: int                         # files consolidated.NN.pth
    training: Training
    published_size: str | None = None   # as Meta prints it
    whole_parameters: int | None = None     # text and vision together, where there is vision
    infilling: bool = False
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The id as people write it: llama-3.1-8b is Llama 3.1 8B."""
        family, _, rest = self.id.partition("-")
        words = [family, *rest.split("-")]
        return " ".join(w.upper() if w[0].isdigit() and w[-1] == "b" else w.capitalize()
                        for w in words)


OWN = {"released", "published_size", "whole_parameters", "training", "notes"}     # never taken over
SHAPE = {field.name for field in fields(ModelConfig)} - {"rope_scaling"} | {"rope_factor"}
FACTS = {field.name for field in fields(Release)} - {"id", "config"}


def read_rows(text: str) -> tuple[Release, ...]:
    """The releases in a TOML text, in its order; a row may be like one that stands above it.

    Raises ValueError for a row that is like no row above it, or has a key that means nothing.
    """
    rows: dict[str, dict[str, Any]] = {}
    for id, row in tomllib.loads(text).items():
        if odd := sorted(set(row) - SHAPE - FACTS - {"like"}):
            raise ValueError(f"the release {id} has the key {odd[0]!r}, which means nothing here. "
                             f"It knows {', '.join(sorted(SHAPE | FACTS))}. Correct the row.")
        like = row.pop("like", None)
        if like is not None and like not in rows:
            raise ValueError(f"the release {id} is like {like!r}; one that stands above it is "
                             f"needed: {', '.join(rows) or 'there is none'}. Correct the row.")
        above = {key: value for key, value in rows.get(like, {}).items() if key not in OWN}
        rows[id] = above | row
    return tuple(_release(id, row) for id, row in rows.items())


def _release(id: str, row: Mapping[str, Any]) -> Release:
    shape = {key: value for key, value in row.items() if key in SHAPE}
    factor = shape.pop("rope_factor", None)
    scaling = None if factor is None else replace(LLAMA_3_1_SCALING, factor=factor)
    facts = {"released": None, "ffn_dim_multiplier": None} | {
        key: tuple(value) if type(value) is list else value
        for key, value in row.items() if key in FACTS}
    try:
        return Release(id=id, config=ModelConfig(rope_scaling=scaling, **shape),
                       **facts | {"training": Training(**row.get("training", {}))})
    except TypeError as lacking:
        raise ValueError(f"the row of {id} does not make a release ({lacking}); its shape and "
                         "facts are needed. Complete the row.") from None


def _words(name: str) -> tuple[str, ...]:
    """What all spellings of a name share: its words and numbers, without the owner's."""
    plain = re.sub(r"(?:meta[- ])?(code[- ]?|)llama", r"\1-llama-", name.rpartition("/")[2].lower())
    words = re.findall(r"[a-z]+|\d+(?:\.\d+)?", plain)
    return tuple(words[:-1] if words[-1:] == ["hf"] else words)


RELEASES = read_rows(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
_BY_WORDS = {_words(release.id): release for release in RELEASES}


def release(name: str) -> Release:
    """One release by its name, as people or the hub write it: "llama-3.1-8b", "Llama 3.1 8B",
    "meta-llama/Llama-3.1-8B-Instruct". Raises KeyError for one that there is not."""
    words = _words(name)
    if (exact := _BY_WORDS.get(words)) is not None:
        return exact
    family = _BY_WORDS.get(words[:-1])          # a name may end with one of several variants
    if family is not None and words[-1] in family.variants:
        return family
    near = nearest(name.rpartition("/")[2], (r.id for r in RELEASES)) or " Take one of them."
    raise KeyError(f"no release is called {name!r}; `llama-edu info` lists those that there are."
                   f"{near}")
