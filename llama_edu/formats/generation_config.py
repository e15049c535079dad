"""generation_config.json: which tokens end an answer, and how its publisher would pick tokens."""

from pathlib import Path
from typing import Any

from . import strict_json
from .whole_files import inside

NAME = "generation_config.json"


def stop_ids(folder: Path) -> tuple[int, ...]:
    """The tokens that end an answer; empty where the files do not say.

    One number or several, in generation_config.json or, in older folders, in config.json. Raises
    ValueError for anything else there, and for a file that is broken or outside the folder.
    """
    for name in (NAME, "config.json"):
        if (file := inside(folder, name)).is_file():
            given = strict_json.read(file).get("eos_token_id")
            if given is not None:
                ids = given if type(given) is list else [given]
                if not all(type(i) is int for i in ids):
                    raise ValueError(f"{name} says eos_token_id = {given!r}; a token's number, or "
                                     "a list of them, is needed. Download it again.")
                return tuple(ids)
    return ()


def sampling(folder: Path) -> dict[str, Any]:
    """The other fields, without notes on who wrote them; empty where there is no such file. Raises
    ValueError for a file that is broken or outside the folder."""
    if not (file := inside(folder, NAME)).is_file():
        return {}
    return {name: value for name, value in strict_json.read(file).items()
            if not (name.startswith("_") or name.endswith(("_token_id", "_version")))}
