"""Where things are, for the tests of the course itself."""

from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parents[2]
CHAPTERS = sorted(ROOT.glob("chapters/*.ipynb"))
SOLUTIONS = sorted(ROOT.glob("solutions/*.ipynb"))
PACKAGE_FILES = sorted(ROOT.glob("llama_edu/**/*.py"))


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that asks for `chapter`, `notebook` or `package_file` once for each of them."""
    for name, paths in {
        "chapter": CHAPTERS,
        "solution": SOLUTIONS,
        "notebook": CHAPTERS + SOLUTIONS,
        "package_file": PACKAGE_FILES,
    }.items():
        if name in metafunc.fixturenames:
            ids = [path.relative_to(ROOT).as_posix() for path in paths]
            metafunc.parametrize(name, paths, ids=ids)


@pytest.fixture
def read():
    """Read a notebook file."""
    return lambda path: nbformat.read(path, 4)


@pytest.fixture
def make_notebook():
    """Make a notebook from cells written as `"code: x = 1"` or `"prose: Words."`."""

    def make(*cells: str, outputs: dict[int, list] | None = None) -> NotebookNode:
        notebook = nbformat.v4.new_notebook()
        for i, cell in enumerate(cells):
            kind, _, text = cell.partition(": ")
            new = nbformat.v4.new_code_cell if kind == "code" else nbformat.v4.new_markdown_cell
            notebook.cells.append(new(text))
            if kind == "code":
                notebook.cells[-1].outputs = (outputs or {}).get(i, [])
        return notebook

    return make
