"""A module imports only from floors below its own; the lowest floors know no torch."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# The architecture. A folder stands for all of its files, unless they are named one by one.
FLOORS = [
    {"config", "formats.whole_files", "formats.gguf.header"},
    {"family.releases", "family.accounting", "family.hardware", "tokenizer", "training.recipe"},
    {"cache", "family.card", "training.tune_recipe"},  # cache: below layers, which write into it
    {"layers", "prompts", "compress.grid", "compress.surgery",
     "formats.names", "formats.source", "formats.strict_json"},
    {"model", "sampling", "compress.quant", "formats", "training.packing"},
    {"generation", "inference.decoding", "losses", "data", "checkpoint", "compress.gptq",
     "alignment.messages", "alignment.message_files",
     "training.adapter_files", "training.state", "training.text_files"},
    {"inference", "evaluation", "training_loop", "formats.convert", "training.lora", "alignment"},
    {"plots", "exercises", "explorers", "claims"},
    {"training"},  # carries out a recipe, and draws its curve
    {"cli"},  # up here, because `llama-edu progress` reads the exercises
    {"__main__"},
]
FLOORS_WITHOUT_TORCH = FLOORS[:2]
LEVEL = {name: level for level, floor in enumerate(FLOORS) for name in floor}


def place(module: str) -> str | None:
    """The name in the table that stands for a module such as `formats.names` or `data.packing`."""
    parts = module.split(".")
    names = [".".join(parts[:n]) for n in range(len(parts), 0, -1)]
    return next((name for name in names if name in LEVEL), None)


def module_of(path: Path, package: Path) -> str:
    parts = path.relative_to(package).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path, package: Path) -> Iterator[str]:
    """Every module that a file imports, anywhere in it; ours without the leading `llama_edu.`"""
    here = path.relative_to(package).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            folder = here[: len(here) - node.level + 1] if node.level else ()
            base = ".".join([*folder, *([node.module] if node.module else [])])
            if node.level:
                base = f"llama_edu.{base}".rstrip(".")
            full = [f"{base}.{alias.name}" for alias in node.names]
            names = [name if place(name[10:]) != place(base[10:]) else base for name in full]
        else:
            continue
        yield from (name.removeprefix("llama_edu.") for name in names)


def imports_that_go_up(package: Path) -> list[str]:
    wrong = []
    for path in sorted(package.rglob("*.py")):
        module = module_of(path, package)
        mine = place(module)
        if path.name == "__init__.py" and mine is None:
            continue  # the package's own, and formats': they hold no code of a floor
        if mine is None:
            wrong.append(f"{module} has no floor; give it one in FLOORS")
            continue
        theirs = {place(name) for name in imports(path, package)} - {None, mine}
        wrong += [
            f"{module} (floor {LEVEL[mine]}) imports {name} (floor {LEVEL[name]})"
            for name in sorted(theirs)
            if LEVEL[name] >= LEVEL[mine]
        ]
    return wrong


def names_without_a_file(package: Path) -> set[str]:
    """Names of the table that no module or folder of the package has."""
    places = {name: package.joinpath(*name.split(".")) for name in LEVEL}
    return {n for n, p in places.items() if not p.is_dir() and not p.with_suffix(".py").exists()}


def test_every_name_on_a_floor_exists(root):
    assert names_without_a_file(root / "llama_edu") == set()


def test_a_name_that_does_not_exist_is_found(tmp_path):
    for name in set(LEVEL) - {"cli", "formats.names"}:
        (tmp_path / name.replace(".", "/")).mkdir(parents=True, exist_ok=True)
    (tmp_path / "cli.py").touch()
    assert names_without_a_file(tmp_path) == {"formats.names"}


def test_every_import_goes_down(root):
    assert imports_that_go_up(root / "llama_edu") == []


def test_the_lowest_floors_do_not_name_torch(root, package_file):
    package = root / "llama_edu"
    if place(module_of(package_file, package)) in set.union(*FLOORS_WITHOUT_TORCH):
        roots = {name.partition(".")[0] for name in imports(package_file, package)}
        assert "torch" not in roots


def test_the_shapes_can_be_studied_without_loading_torch(root):
    code = (
        "import llama_edu.config, llama_edu.family.releases, llama_edu.family.accounting, sys;"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True)


@pytest.mark.parametrize(
    ("file", "text", "complaint"),
    [
        ("layers.py", "from .model import Llama", "layers (floor 3) imports model (floor 4)"),
        ("layers.py", "from . import model", "layers (floor 3) imports model (floor 4)"),
        ("layers.py", "import llama_edu.model", "layers (floor 3) imports model (floor 4)"),
        ("layers.py", "from llama_edu import prompts", "layers (floor 3) imports prompts (f"),
        ("layers.py", "def f():\n    from .cli import main", "layers (floor 3) imports cli"),
        ("data/tales.py", "from ..training_loop import x", "data.tales (floor 5) imports training"),
        ("formats/names.py", "from .meta import x", "formats.names (floor 3) imports formats (fl"),
        ("training/state.py", "from .run import Run", "training.state (floor 5) imports training"),
        ("helpers.py", "", "helpers has no floor"),
    ],
)
def test_an_import_that_goes_up_is_found(tmp_path, file, text, complaint):
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")
    assert [wrong[: len(complaint)] for wrong in imports_that_go_up(tmp_path)] == [complaint]


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("model.py", "from .layers import RMSNorm\nfrom .config import ModelConfig"),
        ("data/tales.py", "from .tales_words import tell"),
        ("exercises/rope.py", "from . import engine"),
        ("formats/meta.py", "from .names import table\nfrom ..config import ModelConfig"),
    ],
)
def test_an_import_that_goes_down_or_stays_in_its_folder_is_fine(tmp_path, file, text):
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")
    assert imports_that_go_up(tmp_path) == []
