"""The files of a tokenizer, to be carried along when its model is written elsewhere."""

from pathlib import Path

from . import json_made
from .gguf_file import read as read_gguf
from .json_file import JsonTokenizer
from .vocabulary_files import kind

NAMES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json",
         "tekken.json")
NAME_OF = {"json": "tokenizer.json", "tekken": "tekken.json"}      # all others: tokenizer.model


def files(path: Path) -> dict[str, bytes]:
    """What lies in a folder or a file of a tokenizer, under the names by which `load` finds it.

    Files stay as they are. What a GGUF file says of its tokenizer becomes a file of its own.
    Raises ValueError for a file that has no vocabulary, or a GGUF file with one that is broken.
    """
    if path.is_dir():
        return {name: (path / name).read_bytes() for name in NAMES if (path / name).is_file()}
    if (stored := kind(path)) != "gguf":
        return {NAME_OF.get(stored, "tokenizer.model"): path.read_bytes()}
    tokenizer = read_gguf(path)
    if type(tokenizer) is JsonTokenizer:
        return json_made.files(tokenizer)
    return {"tokenizer.model": tokenizer.inner.serialized_model_proto()}
