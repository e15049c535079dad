"""A folder of the reader's own with the chapters in it, which a newer edition never overwrites.

A small file in the folder holds a digest of every chapter as it was put there. A chapter whose
text is still that one was not worked on, and is replaced by a newer edition; beside any other the
newer edition is laid.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..formats.whole_files import refusals, write_whole
from .records import STARTED

ROOT = Path(__file__).parents[2]                # of a checkout
SHARE = "share/llama_edu/chapters"      # below a folder around an installed package: pyproject.toml
OWN = "chapters", "solutions", "llama_edu"      # folders of a checkout
NOTE = "README.md"
SOLUTIONS = re.compile(r"\(\.\./solutions/[^()]*\)")    # links out of the folder


@dataclass(frozen=True)
class Started:
    """What was done with each file of the folder."""

    folder: Path
    new: tuple[str, ...]        # were not there, or were removed
    replaced: tuple[str, ...]   # by a newer edition, for nobody had changed them
    beside: Mapping[str, str]   # changed by the reader: under which name the newer edition lies
    kept: tuple[str, ...]       # changed by the reader, and there is no newer edition

    def __str__(self) -> str:
        lines = [f"{self.folder} is a folder to work in; nothing of yours was overwritten."]
        if not (self.new or self.replaced or self.beside):
            lines += ["  All chapters are of the newest edition that is installed."]
        for what, names in (("new", self.new), ("replaced by a newer edition", self.replaced),
                            ("changed by you, kept", (*self.kept, *self.beside))):
            lines += [f"  {what}: {', '.join(names)}"] if names else []
        lines += [f"  The newer edition of {name} is beside yours, as {other}."
                  for name, other in self.beside.items()]
        return "\n".join([*lines, f"Open it: jupyter lab {self.folder}"])


def start(folder: Path) -> Started:
    """Put the chapters into a folder, or bring the newer ones there.

    What the reader changed stays as it is. Raises ValueError where the chapters are not to be
    found, and for a folder that is theirs, or that cannot be written.
    """
    here = folder.resolve()
    if is_checkout() and (here == ROOT or any(here.is_relative_to(ROOT / own) for own in OWN)):
        raise ValueError(f"{folder} belongs to the course, which updates overwrite; a folder of "
                         "your own is needed. Choose one: llama-edu start my-course")
    edition, known = chapters(), _known(folder)
    with refusals(folder):
        done = {name: _put(folder, name, content, known) for name, content in edition.items()}
    write_whole(folder / STARTED, json.dumps(known, indent=2).encode())
    kinds = {kind: tuple(name for name, each in done.items() if each == kind)
             for kind in ("new", "replaced", "kept")}
    beside = {name: each for name, each in done.items() if each not in (*kinds, "same")}
    return Started(folder, kinds["new"], kinds["replaced"], beside, kinds["kept"])


def _put(folder: Path, name: str, content: bytes, known: dict[str, str]) -> str:
    """Bring one file up to date, and note its digest: "new", "replaced", "kept", "same", or the
    name under which the newer edition now lies beside a changed one."""
    file, newest = folder / name, digest(content)
    before = known.get(name)
    known[name] = newest
    if not file.exists():
        write_whole(file, content)
        return "new"
    here = digest(file.read_bytes())
    if here == newest:
        return "same"
    if here == before:
        write_whole(file, content)
        return "replaced"
    if before == newest:
        return "kept"
    other = _free(folder, name, known)
    write_whole(folder / other, content)
    known[other] = newest
    return other


def _free(folder: Path, name: str, known: Mapping[str, str]) -> str:
    """The first name for a newer edition that is free, or whose file nobody has changed."""
    stem, kind = name.rsplit(".", 1)
    number = 1
    while True:
        other = f"{stem}.new{number if number > 1 else ''}.{kind}"
        file = folder / other
        if not file.exists() or digest(file.read_bytes()) == known.get(other):
            return other
        number += 1


def digest(content: bytes) -> str:
    """Of what is written in a notebook's cells; outputs, empty cells and what JupyterLab notes of
    itself do not count. Of any other file, of all bytes."""
    try:
        cells = [(cell["cell_type"], "".join(cell["source"]).strip())
                 for cell in json.loads(content)["cells"]]
        content = json.dumps([cell for cell in cells if cell[1]]).encode()
    except (ValueError, KeyError, TypeError):
        pass
    return hashlib.sha256(content).hexdigest()


def _known(folder: Path) -> dict[str, str]:
    """The digests that were noted in a folder; none where it is new, or the file is broken: then
    every chapter that differs passes for changed."""
    try:
        held = json.loads((folder / STARTED).read_text(encoding="utf-8"))
        return {str(name): str(each) for name, each in held.items()}
    except (OSError, ValueError, AttributeError):
        return {}


# -- where the chapters are ----------------------------------------------------------------------


def is_checkout() -> bool:
    """Whether this package is used from the repository that it was written in."""
    return (ROOT / "book.yml").is_file()


def chapters() -> dict[str, bytes]:
    """The files of a working folder by name: the chapters, and a note. Raises ValueError where
    there are none."""
    shelves = [up / SHARE for up in (ROOT, *ROOT.parents)]
    if is_checkout():
        shelves = [ROOT / "chapters"]
    found = next((each for shelf in shelves if (each := sorted(shelf.glob("*.ipynb")))), [])
    if not found:
        raise ValueError("this install of llama-edu has no chapters; a whole one is needed. "
                         "Install it again, from the repository: pip install PATH")
    notebooks = {file.name: SOLUTIONS.sub(f"({NOTE})", file.read_text(encoding="utf-8")).encode()
                 for file in found}
    return notebooks | {NOTE: _note().encode()}


def _note() -> str:
    place = f"`{ROOT / 'solutions'}`" if is_checkout() else "the folder `solutions/` of the " \
                                                            "repository that you installed from"
    return f"""# A folder to work in

Begin with [chapter 00](00_start_here.ipynb). All that you change here is yours.

- **Solutions** are not copied. They are in {place}.
- **Progress** is kept in this folder; `llama-edu progress` shows it when you are here.
- **A newer edition**: update the course, then run `llama-edu start .` here. Chapters that you did
  not touch are replaced; beside one that you changed the newer lies as `NN_name.new.ipynb`.
- **A chapter from the beginning**: rename or remove yours, and run `llama-edu start .` again.
"""
