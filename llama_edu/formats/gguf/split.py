"""One model in several GGUF files: NAME-00001-of-00003.gguf and so on, as llama.cpp splits them.

The first has all fields, the others have only those that number the parts. Each lists its own
tensors.
"""

import re
from collections.abc import Iterable
from pathlib import Path

from . import header as gguf_header
from .header import Header

NAME = re.compile(r"(.+)-([0-9]{5})-of-([0-9]{5})\.gguf", re.DOTALL)
FIELDS = "split.no", "split.count", "split.tensors.count"       # this part, parts, tensors in all


def models(files: Iterable[Path]) -> list[Path]:
    """One file of each model among these: parts, by their names, make one. None is opened."""
    first: dict[object, Path] = {}
    for file in sorted(files):
        called = NAME.fullmatch(file.name)
        first.setdefault((called[1], called[3]) if called else file.name, file)
    return list(first.values())


def read(file: Path) -> dict[Path, Header]:
    """The header of a GGUF file; where it is one part of a model, those of all parts in order.

    Raises ValueError for a header that lies, a part that is missing or parts of several models.
    """
    given = gguf_header.read(file)
    if (n := given.fields.get("split.count", 1)) in (0, 1):
        return {file: given}
    called = NAME.fullmatch(file.name)
    if type(n) is not int or called is None or int(called[3]) != n:
        raise ValueError(f"{file} says that it is one of {n!r:.40} parts; the name they were "
                         "published with is needed, NAME-00001-of-00003.gguf for the first of 3. "
                         "Name all parts so, in one folder.")
    files = [file.with_name(f"{called[1]}-{i + 1:05}-of-{n:05}.gguf") for i in range(n)]
    if missing := [part.name for part in files if not part.is_file()]:
        raise ValueError(f"{file} is one of {n} parts; all are needed, and {len(missing)} of them "
                         f"are not beside it, first {missing[0]}. Put them there.")
    parts = {part: given if part == file else gguf_header.read(part) for part in files}
    _check_parts(parts)
    return parts


def _check_parts(parts: dict[Path, Header]) -> None:
    """Raises ValueError unless each part is the one that its name says, of the same model."""
    first, *_ = parts.values()
    total, seen = first.fields.get(FIELDS[-1]), {}
    for i, (part, header) in enumerate(parts.items()):
        says = tuple(header.fields.get(name) for name in FIELDS)
        if says != (needed := (i, len(parts), total)):
            raise ValueError(f"{part} says {', '.join(FIELDS)} = {says!r:.80}; its name and the "
                             f"first part need {needed!r:.80}. The parts belong to several models "
                             "or were renamed; download them again.")
        if header.alignment != first.alignment:
            raise ValueError(f"{part} has general.alignment {header.alignment}; that of the first "
                             f"part, {first.alignment}, is needed. Merge the parts with "
                             "llama.cpp's llama-gguf-split.")
        if twice := seen.keys() & header.tensors.keys():
            raise ValueError(f"{part} lists {min(twice)}, and so does {seen[min(twice)].name}; "
                             "each tensor must be in one part. Download them again.")
        seen |= dict.fromkeys(header.tensors, part)
    if len(seen) != total:
        raise ValueError(f"the parts of {next(iter(parts))} list {len(seen)} tensors; they say "
                         f"that there are {total!r:.40}. Download them again.")
