"""A folder that `transformers` saved: config.json, one or several .safetensors files."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..config import ModelConfig, from_huggingface
from ..whole_files import write_whole
from .names import translate

ONE_FILE, INDEX = "model.safetensors", "model.safetensors.index.json"


# -- reading -----------------------------------------------------------------------------------


def read_config(folder: Path) -> ModelConfig:
    """The model's shape, from config.json."""
    return from_huggingface(_read_json(folder / "config.json"))


def read_stop_ids(folder: Path) -> tuple[int, ...]:
    """The tokens that end an answer: one number or several, in generation_config.json or, in
    older folders, in config.json. Empty when neither says."""
    for name in ("generation_config.json", "config.json"):
        if (folder / name).is_file():
            given = _read_json(folder / name).get("eos_token_id")
            if given is not None:
                ids = given if type(given) is list else [given]
                if not all(type(i) is int for i in ids):
                    raise ValueError(f"{name} says eos_token_id = {given!r}; a token's number, or "
                                     "a list of them, is needed. Download it again.")
                return tuple(ids)
    return ()


def read_weights(folder: Path, config: ModelConfig) -> Iterator[tuple[str, Tensor]]:
    """Every stored tensor under Meta's name and in Meta's row order, one at a time.

    Raises ValueError for a file that is broken, missing, or named outside the folder.
    """
    for file, names in _files(folder).items():
        try:
            with safe_open(file, framework="pt") as stored:
                held = stored.keys()
                if names is not None and (odd := sorted(set(names) ^ set(held))):
                    raise ValueError(f"{INDEX} and {file.name} disagree about {len(odd)} tensors, "
                                     f"first {odd[0]}. Download both again.")
                yield from translate(((n, stored.get_tensor(n)) for n in held),
                                     "huggingface", "meta", head_dim=config.head_dim)
        except FileNotFoundError:
            raise ValueError(f"{INDEX} names {file.name}, which is not in {folder}. "
                             "Download that file again.") from None
        except SafetensorError as broken:
            raise ValueError(f"{file} cannot be read as safetensors ({broken}). It is cut short, "
                             "damaged or of another kind; download it again.") from None


def _files(folder: Path) -> dict[Path, list[str] | None]:
    """Which file holds which tensors; None means all that the file has."""
    if not (folder / INDEX).is_file():
        if not (folder / ONE_FILE).is_file():
            raise ValueError(f"{folder} has neither {ONE_FILE} nor {INDEX}; one of them is needed. "
                             "Save the model with transformers' save_pretrained.")
        return {folder / ONE_FILE: None}
    placed: dict[Path, list[str]] = {}
    weight_map = _read_json(folder / INDEX).get("weight_map")
    if type(weight_map) is not dict:
        raise ValueError(f"{INDEX} has no table called weight_map; one that names each tensor's "
                         "file is needed. Download it again.")
    for name, file in weight_map.items():
        if type(file) is not str or Path(file).name != file:
            raise ValueError(f"{INDEX} places {name} in {file!r}, outside the folder; a plain file "
                             "name is needed. Do not trust this download.")
        placed.setdefault(folder / file, []).append(name)
    return placed


def _read_json(path: Path) -> dict[str, Any]:
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"there is no {path.name} in {path.parent}; a folder saved by "
                         "transformers is needed. Check the path.") from None
    except OSError as unreadable:
        raise ValueError(f"{path} cannot be opened ({unreadable.strerror}); a file that you may "
                         "read is needed. Check its rights.") from None
    except ValueError as broken:
        raise ValueError(f"{path} is not JSON ({broken}). Download it again.") from None
    if type(fields) is not dict:
        raise ValueError(f"{path} holds a {type(fields).__name__}; a JSON object is needed. "
                         "Download it again.")
    return fields


# -- writing -----------------------------------------------------------------------------------


def write(folder: Path, config: ModelConfig, weights: Iterable[tuple[str, Tensor]], *,
          others: Mapping[str, bytes], ends: Mapping[str, int], dtype: torch.dtype) -> None:
    """Write a folder that `transformers` and this package read; weights have Meta's names.

    others: further files, such as the tokenizer's, by name. ends: bos_token_id and eos_token_id.
    A folder without config.json is no model: it is taken away first and written last, so that
    old and new files are never read together.
    """
    (folder / "config.json").unlink(missing_ok=True)
    kept = ((name, w) for name, w in weights
            if not (config.tied_embeddings and name == "output.weight"))
    named = translate(kept, "meta", "huggingface", head_dim=config.head_dim)
    stored = {name: w.detach().to("cpu", dtype).contiguous() for name, w in named}
    fields = config_fields(config) | ends | {"torch_dtype": str(dtype).removeprefix("torch.")}
    for name, content in others.items():
        write_whole(folder / name, content)
    write_whole(folder / ONE_FILE, safetensors.torch.save(stored, metadata={"format": "pt"}))
    write_whole(folder / "generation_config.json", _json(ends))
    write_whole(folder / "config.json", _json(fields))


def config_fields(config: ModelConfig) -> dict[str, Any]:
    """What config.json says of this shape, in the spelling that old and new readers know."""
    scaling = None if config.rope_scaling is None else asdict(config.rope_scaling)
    if scaling is not None:
        scaling["original_max_position_embeddings"] = scaling.pop("original_context")
        scaling["rope_type"] = "llama3"
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama",
        "hidden_size": config.dim, "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads, "num_key_value_heads": config.n_kv_heads,
        "head_dim": config.head_dim, "intermediate_size": config.hidden_dim,
        "vocab_size": config.vocab_size, "max_position_embeddings": config.max_seq_len,
        "rms_norm_eps": config.norm_eps, "rope_theta": config.rope_theta, "rope_scaling": scaling,
        "tie_word_embeddings": config.tied_embeddings, "hidden_act": "silu",
        "attention_bias": False, "mlp_bias": False}


def _json(fields: Mapping[str, Any]) -> bytes:
    return (json.dumps(fields, indent=2) + "\n").encode()
