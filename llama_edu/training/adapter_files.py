"""A LoRA adapter as a folder: adapter_config.json and adapter_model.safetensors, as `peft` does it.

Names and the order of rows are Hugging Face's. B has a row for each row of the weights it adds to,
so the rows of wq's and wk's B are reordered as theirs are; A stays as it is.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config import ModelConfig, tensor_shapes
from ..formats import safetensors_file, strict_json
from ..formats.names import find, translate
from ..formats.source import Source, Stored, finite
from ..formats.whole_files import inside, refusals, write_whole
from ..layers import widen

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."        # what `peft` wraps around a model
# What these say changes nothing that a finished adapter computes: they are about names, training,
# other methods' sizes, and which layers to adapt, as the tensors say themselves.
HARMLESS = {
    "auto_mapping", "base_model_name_or_path", "ensure_weight_tying", "exclude_modules",
    "inference_mode", "layers_pattern", "layers_to_transform", "lora_dropout", "megatron_config",
    "megatron_core", "peft_version", "qalora_group_size", "revision", "runtime_config",
    "target_modules", "task_type",
}
NEUTRAL = {"bias": ("none",), "init_lora_weights": (True, "gaussian")}     # as good as null


@dataclass(frozen=True)
class Adapter:
    """For each adapted layer, by its dotted name here, A `rank in` and B `out rank`."""

    rank: int
    alpha: float
    factors: Mapping[str, tuple[Tensor, Tensor]]


@torch.no_grad()
def add(weight: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
    """W + scale B A, `out in`, in float32 or wider: it is for the caller to round it, once."""
    return widen(weight) + scale * widen(b) @ widen(a)


def adapted(source: Source, adapter: Adapter) -> Source:
    """The same model with an adapter merged into it, tensor by tensor, when each is read.

    The sums are in float32 or wider, whatever the files hold.
    """

    def added(name: str, stored: Stored) -> Stored:
        a, b = adapter.factors[name.removesuffix(".weight")]
        scale = adapter.alpha / adapter.rank
        return replace(stored, read=lambda: add(stored.read(), a, b, scale),
                       dtype=torch.promote_types(stored.dtype, torch.float32))

    return replace(source, tensors={
        name: added(name, stored) if name.removesuffix(".weight") in adapter.factors else stored
        for name, stored in source.tensors.items()})


# -- reading -----------------------------------------------------------------------------------


def read(folder: Path, config: ModelConfig) -> Adapter:
    """The adapter in a folder, for a model of this config.

    Raises ValueError for a file that is missing, broken or outside the folder, for a field that
    makes more of it than LoRA, and for layers that the model does not have in these sizes.
    """
    for name in (CONFIG, WEIGHTS):
        if not inside(folder, name).is_file():
            raise ValueError(f"there is no {name} in {folder}; a folder of save_adapter, or of "
                             "peft's save_pretrained, is needed. Check the path.")
    file, (rank, alpha) = folder / WEIGHTS, _sizes(strict_json.read(folder / CONFIG))
    halves: dict[str, dict[str, Tensor]] = {}
    for name, entry in safetensors_file.read_header(file).items():
        layer, half = _layer(name)
        halves.setdefault(layer, {})[half] = finite(entry.read(), name)
    if not halves:
        raise ValueError(f"{file} holds no tensors; A and B of one layer or more are needed. Save "
                         "the adapter again.")
    shapes = {name.removesuffix(".weight"): shape for name, shape in tensor_shapes(config)
              if len(shape) == 2 and not (name == "output.weight" and config.tied_embeddings)}
    del shapes["tok_embeddings"]
    if strange := next((layer for layer in halves if layer not in shapes), None):
        raise ValueError(f"the adapter has a path for {strange}; this model has no such linear "
                         "layer. Take the model that it was trained on.")
    for layer, found in halves.items():
        _check(layer, found, shapes, rank)
    return Adapter(rank, alpha, {
        layer: (found["A"], _rows(layer, found["B"], "huggingface", "meta", config.head_dim))
        for layer, found in halves.items()})


def _sizes(fields: dict[str, Any]) -> tuple[int, float]:
    """Rank and alpha. Every other field must be neutral: null, false, empty, or as in NEUTRAL."""
    kind, rank, alpha = (fields.pop(name, None) for name in ("peft_type", "r", "lora_alpha"))
    if kind != "LORA":
        raise ValueError(f"{CONFIG} says peft_type = {kind!r:.40}; adapters of the kind 'LORA' are "
                         "read here. Merge this one with peft, and load the whole model.")
    if type(rank) is not int or rank < 1 or type(alpha) not in (int, float):
        raise ValueError(f"{CONFIG} gives rank {rank!r:.40} and alpha {alpha!r:.40}; a whole "
                         "number from 1 on and a number are needed. Copy the file again.")
    for name, value in fields.items():
        if value and name not in HARMLESS and value not in NEUTRAL.get(name, ()):
            raise ValueError(f"{CONFIG} says {name} = {value!r:.80}; plain LoRA, with one rank and "
                             "one alpha for all layers, is read here. Merge this adapter with "
                             "peft, and load the whole model.")
    return rank, float(alpha)


def _layer(name: str) -> tuple[str, str]:
    """The layer's name here and "A" or "B", of a tensor as `peft` calls it."""
    module, _, half = name.removeprefix(PREFIX).removesuffix(".weight").rpartition(".lora_")
    try:
        found = find(f"{module}.weight", "huggingface")
    except KeyError:
        found = None
    if found is None or half not in ("A", "B"):
        raise ValueError(f"{WEIGHTS} holds {name}, which is not A or B of a linear layer of a text "
                         "Llama. Is it an adapter of another kind of model?")
    row, number = found
    return row.meta.replace("#", number).removesuffix(".weight"), half


def _check(layer: str, found: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]],
           rank: int) -> None:
    out, into = shapes[layer]
    given = {half: tuple(w.shape) for half, w in sorted(found.items())}
    if given != {"A": (rank, into), "B": (out, rank)}:
        raise ValueError(f"the adapter has {given} for {layer}; a layer of {out} times {into} and "
                         f"rank {rank} need A {(rank, into)} and B {(out, rank)}. Does it belong "
                         "to this model?")


def _rows(layer: str, b: Tensor, source: str, target: str, head_dim: int) -> Tensor:
    """B with its rows in another world's order; its name is our layer's."""
    row, number = find(f"{layer}.weight", "meta")
    name = getattr(row, source).replace("#", number)
    ((_, ordered),) = translate([(name, b)], source, target, head_dim=head_dim)
    return ordered


# -- writing -----------------------------------------------------------------------------------


def write(folder: Path, config: ModelConfig, adapter: Adapter) -> None:
    """Write a folder that this package and `peft` read.

    An adapter that lies there is replaced; a folder without adapter_config.json is none, so that
    one is taken away first and written last. Raises ValueError for numbers that are not finite,
    and where the system refuses.
    """
    with refusals(folder):
        (folder / CONFIG).unlink(missing_ok=True)
    tensors, modules = {}, []
    for layer, (a, b) in adapter.factors.items():
        row, number = find(f"{layer}.weight", "meta")
        modules.append(row.huggingface.replace("#", number).removesuffix(".weight"))
        ordered = partial(_rows, layer, b, "meta", "huggingface", config.head_dim)
        for half, w, read_half in (("A", a, lambda a=a: a), ("B", b, ordered)):
            tensors[f"{PREFIX}{modules[-1]}.lora_{half}.weight"] = Stored(
                tuple(w.shape), w.dtype, read_half)
    dtype = next(iter(adapter.factors.values()))[0].dtype
    safetensors_file.write(folder / WEIGHTS, tensors, dtype=dtype)
    write_whole(folder / CONFIG, strict_json.spell({
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": adapter.rank,
        "lora_alpha": adapter.alpha, "lora_dropout": 0.0, "bias": "none", "use_rslora": False,
        "use_dora": False, "inference_mode": True, "base_model_name_or_path": None,
        "target_modules": _targets(modules, config.n_layers)}))


def _targets(modules: list[str], n_layers: int) -> list[str]:
    """The last words of those modules that every layer has adapted, such as "q_proj"; the whole
    names of all others."""
    last = [module.rpartition(".")[2] for module in modules]
    return sorted({word if last.count(word) == n_layers else module
                   for module, word in zip(modules, last, strict=True)})
