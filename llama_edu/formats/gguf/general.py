"""What a GGUF file says of a model beside its shape: its name, and how to pick tokens."""

from collections.abc import Mapping
from typing import Any

SAMPLING = {"temperature": "temp", "top_p": "top_p", "top_k": "top_k", "min_p": "min_p",
            "repetition_penalty": "penalty_repeat"}     # in generation_config.json, and here
MOST = 2**31    # of any of them: others, and zero or less, mean "not at all"


def read_name(fields: Mapping[str, Any]) -> str:
    """What the model is called; "" where the file does not say it."""
    name = fields.get("general.name")
    return name if type(name) is str else ""


def read_sampling(fields: Mapping[str, Any]) -> dict[str, Any]:
    """How the publisher would pick tokens, under the names of generation_config.json."""
    given = {name: fields.get(f"general.sampling.{ours}") for name, ours in SAMPLING.items()}
    found = {name: float(f"{value:.7g}") if type(value) is float else value
             for name, value in given.items() if type(value) in (int, float) and 0 < value < MOST}
    if given["temperature"] == 0:
        return {"do_sample": False}
    return found | ({"do_sample": True} if found else {})


def sampling_fields(sampling: Mapping[str, Any]) -> dict[str, Any]:
    """The same in a GGUF file, which has no word for a greedy choice: then nothing."""
    if sampling.get("do_sample") is not True:
        return {}
    return {f"general.sampling.{ours}": int(sampling[name]) if name == "top_k"
            else float(sampling[name]) for name, ours in SAMPLING.items()
            if type(sampling.get(name)) in (int, float) and 0 < sampling[name] < MOST}
