"""JSON from strangers, one object, no longer, deeper or stranger than the files of a model; and
to them."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LONGEST = 1 << 23       # bytes; the longest index or header of a Llama has some hundred thousand


def read(file: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises ValueError, which names the file, for anything else."""
    if file.exists() and not file.is_file():
        raise ValueError(f"{file} cannot be opened (it is no plain file); a file that you may "
                         "read is needed. Check the path.")
    try:
        with file.open("rb") as opened:
            return parse(opened.read(LONGEST + 1))
    except FileNotFoundError:
        raise ValueError(f"there is no {file.name} in {file.parent}; a folder saved by "
                         "transformers is needed. Check the path.") from None
    except OSError as unreadable:
        raise ValueError(f"{file} cannot be opened ({unreadable.strerror}); a file that you may "
                         "read is needed. Check its rights.") from None
    except TypeError as other:
        raise ValueError(f"{file} holds a {other}; a JSON object is needed. "
                         "Download it again.") from None
    except ValueError as broken:
        raise ValueError(f"{file} is not JSON ({broken}). Download it again.") from None


def parse(text: bytes) -> dict[str, Any]:
    """The object in these bytes. Raises ValueError with the reason in a few words, or TypeError
    with the name of what is there instead of an object.

    NaN, infinities, keys given twice and keys that cannot be printed are no JSON here.
    """
    if len(text) > LONGEST:
        raise ValueError(f"it is longer than {LONGEST:,} bytes")
    try:
        value = json.loads(text.decode("utf-8-sig"), parse_constant=_number, parse_float=_number,
                           object_pairs_hook=_object)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if type(value) is not dict:
        raise TypeError(type(value).__name__)
    return value


def spell(fields: Mapping[str, Any]) -> bytes:
    """The bytes of a file that holds this object, for people to read too."""
    return (json.dumps(fields, indent=2) + "\n").encode()


def _number(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{text:.40} is no finite number")
    return number


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise ValueError("a key is given twice")
    if strange := next((key for key in fields if not key.isprintable()), None):
        raise ValueError(f"{strange[:40]!r} cannot be printed")
    return fields
