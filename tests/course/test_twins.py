"""A cell with `twin="llama_edu.layers.RMSNorm"` in its metadata equals the package's code."""

import ast
from pathlib import Path

import pytest
from nbformat import NotebookNode

CHAPTERS_WITHOUT_TWINS = {"00_start_here"}


def bare(node: ast.AST) -> str:
    """The code of a definition without docstrings (comments are already gone)."""
    for inner in ast.walk(node):
        body = getattr(inner, "body", None)
        if isinstance(body, list) and body and is_text(body[0]):
            inner.body = body[1:] or [ast.Pass()]
    return ast.unparse(node)


def is_text(node: ast.AST) -> bool:
    is_constant = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    return is_constant and isinstance(node.value.value, str)


def definition(source: str, name: str) -> str | None:
    """The bare code of what a source defines under this name: a class, function or constant."""
    for node in ast.parse(source).body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        if name in [getattr(node, "name", None), *(getattr(t, "id", None) for t in targets)]:
            return bare(node)
    return None


def package_definition(dotted: str, root: Path) -> str | None:
    *parts, name = dotted.split(".")
    path = root.joinpath(*parts).with_suffix(".py")
    return definition(path.read_text(encoding="utf-8"), name) if path.exists() else None


def twins(notebook: NotebookNode) -> list[tuple[str, str]]:
    """Each twin of a notebook: the package's name for it, and the cell's source."""
    return [
        (name.strip(), cell.source)
        for cell in notebook.cells
        if "twin" in cell.metadata
        for name in cell.metadata["twin"].split(",")
    ]


def twins_that_differ(notebook: NotebookNode, root: Path) -> list[str]:
    wrong = []
    for dotted, source in twins(notebook):
        mine = definition(source, dotted.rpartition(".")[2])
        package = package_definition(dotted, root)
        if package is None:
            wrong.append(f"{dotted} is not in the package")
        elif mine != package:
            wrong.append(f"{dotted} differs.\nThe package:\n{package}\n\nThe cell:\n{mine}")
    return wrong


def test_every_twin_is_the_package(notebook, read, root):
    assert "\n".join(twins_that_differ(read(notebook), root)) == ""


def test_a_chapter_arrives_at_the_package(chapter, read):
    assert twins(read(chapter)) or chapter.stem in CHAPTERS_WITHOUT_TWINS


@pytest.fixture
def a_package(tmp_path):
    folder = tmp_path / "llama_edu"
    folder.mkdir()
    source = 'LIMIT = 3\n\ndef double(x):\n    """Twice x."""\n    return 2 * x  # why not\n'
    (folder / "layers.py").write_text(source, encoding="utf-8")
    return tmp_path


def test_comments_and_docstrings_may_differ(a_package, make_notebook):
    notebook = make_notebook("code: def double(x):\n    return 2 * x\n\ndouble(4)")
    notebook.cells[0].metadata["twin"] = "llama_edu.layers.double"
    assert twins_that_differ(notebook, a_package) == []


@pytest.mark.parametrize(
    ("cell", "complaint"),
    [
        ("llama_edu.layers.double\ndef double(x):\n    return x + x", "double differs"),
        ("llama_edu.layers.double\ndef double(y):\n    return 2 * y", "double differs"),
        ("llama_edu.layers.double\nprint(3)", "double differs"),
        ("llama_edu.layers.treble\ndef treble(x):\n    return 3 * x", "is not in the package"),
        ("llama_edu.rooms.double\ndef double(x):\n    return 2 * x", "is not in the package"),
        ("llama_edu.layers.LIMIT\nLIMIT = 4", "LIMIT differs"),
        (
            "llama_edu.layers.LIMIT, llama_edu.layers.double\nLIMIT = 3\ndef double(x): return x",
            "double differs",
        ),
    ],
)
def test_a_cell_that_has_drifted_is_found(a_package, make_notebook, cell, complaint):
    twin, _, source = cell.partition("\n")
    notebook = make_notebook(f"code: {source}")
    notebook.cells[0].metadata["twin"] = twin
    (wrong,) = twins_that_differ(notebook, a_package)
    assert complaint in wrong
