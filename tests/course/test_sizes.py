"""The package can be read: short files, short functions, names that say a role."""

import ast
import statistics
from pathlib import Path

import pytest

FILE_LINES = 300  # fewer than this
SPINE = {  # the files that lie in no room: what the chapters build, and where a reader begins
    "config", "layers", "cache", "model", "sampling", "generation", "losses", "training_loop",
    "checkpoint", "plots",
}
SPINE_LINES = 2200  # at most, all together
ROOM_LINES = 2000  # at most, of code: an evening's reading
CONTENT = {"exercises", "data", "explorers", "computed"}  # what the course brings to its readers
FUNCTION_LINES = 40
MEDIAN_FUNCTION_LINES = 8
NAMES_THAT_SAY_NOTHING = {"utils", "util", "helpers", "helper", "misc", "manager", "common"}
MAY_PRINT = "cli"  # the folder of the command


def n_lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def functions(path: Path) -> dict[str, int]:
    """Lines of every function of a file, its docstring not counted."""
    found = {}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0]
            docstring = first.end_lineno - first.lineno + 1 if ast.get_docstring(node) else 0
            lines = node.end_lineno - node.lineno + 1 - docstring
            found[f"{path.name}:{node.lineno} {node.name}"] = lines
    return found


def what_the_package_must_not_do(path: Path) -> list[str]:
    """Prints, environment variables and `hasattr` in one file."""
    wrong = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        name = getattr(node, "func", None)
        name = getattr(name, "id", None)
        if name == "print" and path.parent.name != MAY_PRINT:
            wrong.append(f"{path.name}:{node.lineno} prints")
        if name == "hasattr":
            wrong.append(f"{path.name}:{node.lineno} sniffs with hasattr")
        if isinstance(node, ast.Attribute) and node.attr in {"environ", "getenv"}:
            wrong.append(f"{path.name}:{node.lineno} reads the environment")
    return wrong


def test_a_file_is_short(package_file):
    assert n_lines(package_file) < FILE_LINES


def test_a_reader_who_opens_the_package_sees_the_spine(root):
    files = {path.stem for path in root.glob("llama_edu/*.py")}
    assert files - {"__init__", "__main__"} == SPINE


def test_the_spine_is_short(root):
    assert sum(map(n_lines, root.glob("llama_edu/*.py"))) <= SPINE_LINES


def test_each_room_can_be_read_in_an_evening(root):
    for room in (p for p in (root / "llama_edu").rglob("*") if p.is_dir()):
        if not CONTENT & set(room.parts):
            assert sum(map(n_lines, room.glob("*.py"))) <= ROOM_LINES, room.name


def test_a_function_is_short(package_file):
    lines = functions(package_file)
    assert {name: n for name, n in lines.items() if n > FUNCTION_LINES} == {}


def test_half_of_the_functions_are_very_short(root):
    files = root.glob("llama_edu/**/*.py")
    lines = [n for path in files for n in functions(path).values()]
    assert statistics.median(lines) <= MEDIAN_FUNCTION_LINES


def test_no_file_has_a_name_that_says_nothing(root, package_file):
    parts = package_file.relative_to(root).with_suffix("").parts
    assert not NAMES_THAT_SAY_NOTHING & set(parts)


def test_the_package_does_not_print_or_sniff(package_file):
    assert what_the_package_must_not_do(package_file) == []


@pytest.mark.parametrize(
    ("code", "complaint"),
    [
        ("print(3)", "layers.py:1 prints"),
        ("x = 1\nhasattr(x, 'y')", "layers.py:2 sniffs with hasattr"),
        ("import os\nos.environ['A']", "layers.py:2 reads the environment"),
    ],
)
def test_a_print_or_a_sniff_is_found(tmp_path, code, complaint):
    path = tmp_path / "layers.py"
    path.write_text(code, encoding="utf-8")
    assert what_the_package_must_not_do(path) == [complaint]


def test_the_lines_of_a_function_are_counted_without_its_docstring(tmp_path):
    path = tmp_path / "layers.py"
    path.write_text('def f():\n    """One.\n\n    Two.\n    """\n    x = 1\n    return x\n')
    assert functions(path) == {"layers.py:1 f": 3}
    assert n_lines(path) == 7
