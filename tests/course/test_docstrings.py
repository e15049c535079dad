"""Every public function says what it is, and what it raises if it raises; the book can read it."""

import ast
from collections.abc import Iterator

import pytest
from docutils.core import publish_doctree

FOR_READERS = ("ValueError", "KeyError", "IndexError", "FloatingPointError")
CONTENT = {"exercises", "computed"}     # what the course asks and computes, not what it offers


def public_functions(tree: ast.AST, where: str = "") -> Iterator[tuple[str, ast.FunctionDef]]:
    """Functions and methods whose names begin without an underscore, with their dotted names."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            name = f"{where}{node.name}"
            if node.name.startswith("_"):
                continue
            if isinstance(node, ast.FunctionDef):
                yield name, node
            else:
                yield from public_functions(node, f"{name}.")


def raised(function: ast.FunctionDef) -> set[str]:
    """The errors for readers that a function raises by itself and does not catch by name."""
    return {name for node in ast.walk(function) if isinstance(node, ast.Raise)
            for name in [getattr(getattr(node.exc, "func", node.exc), "id", None)]
            if name in FOR_READERS}


def what_is_not_said(source: str) -> list[str]:
    wrong = []
    for name, function in public_functions(ast.parse(source)):
        said = ast.get_docstring(function) or ""
        kinds = sorted(raised(function))
        wrong += [f"{name} raises {kind}, and its docstring does not say so"
                  for kind in kinds if kind not in said]
    return wrong


def test_what_raises_says_so(package_file):
    if not CONTENT & set(package_file.parts):
        assert what_is_not_said(package_file.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(("source", "n_wrong"), [
    ("def f():\n    raise ValueError('x')", 1),
    ("def f():\n    '''Do. Raises ValueError for x.'''\n    raise ValueError('x')", 0),
    ("def f():\n    '''Do. Raises KeyError for x.'''\n    raise ValueError('x')", 1),
    ("class A:\n    def f(self):\n        raise KeyError", 1),
    ("def _f():\n    raise ValueError", 0),
    ("def f():\n    assert False", 0)])
def test_a_docstring_that_is_silent_is_found(source, n_wrong):
    assert len(what_is_not_said(source)) == n_wrong


def torn(source: str) -> list[str]:
    """Docstrings whose paragraphs break where the book does not expect it: an example that goes on
    in an indented line, say. Building the book finds these too, minutes later."""
    quiet = {"report_level": 5, "halt_level": 5, "file_insertion_enabled": False}
    said = [ast.get_docstring(node) or "" for node in ast.walk(ast.parse(source))
            if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef)]
    return [message.astext() for each in said if each
            for message in publish_doctree(each, settings_overrides=quiet).findall(
                lambda node: node.tagname == "system_message")
            if "indent" in message.astext()]


def test_the_book_can_read_every_docstring(package_file):
    if not CONTENT & set(package_file.parts):
        assert torn(package_file.read_text(encoding="utf-8")) == []


def test_a_docstring_that_is_torn_is_found():
    assert torn('"""What.\n\n    made = make(1,\n                2)\n    use(made)\n"""')
    assert not torn('"""What.\n\n    made = make(1, 2)\n    use(made)\n\nAnd more.\n"""')
