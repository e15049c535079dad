"""Make chapters/*.ipynb (stubs) and solutions/*.ipynb (filled in) from chapters/src/*.py.

python tools/notebooks.py              write both sets, running every cell
python tools/notebooks.py 01 02_rope   only these chapters, by number or by name
python tools/notebooks.py --check      run nothing; exit 1 if a notebook differs from its source
"""

import argparse
import base64
import inspect
import io
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
SOURCES = "chapters/src"
CELL_TIMEOUT = 600  # seconds; the limit of a chapter is 180, but the author's machine may be busy
REGION = re.compile(
    r"^(?P<indent>[ \t]*)### BEGIN SOLUTION[ \t]*\n.*?^[ \t]*### END SOLUTION[ \t]*\n", re.M | re.S
)
MARKER = re.compile(r"^[ \t]*### (?:BEGIN|END) SOLUTION[ \t]*\n", re.M)
EXERCISE = re.compile(r"Exercise (\d+\.\d+)")
# What an exercise asks stands in a docstring or in comments that begin so.
TASK = re.compile(
    r'^(?P<indent>[ \t]*)"""(?P<doc>Exercise \d+\.\d+ [●○]+ .*?)"""[ \t]*\n'
    r"|^(?P<comment># Exercise \d+\.\d+ [●○]+ [^\n]*\n(?:#[^\n]*\n)*)",
    re.M | re.S,
)
FOLDED = "hide-input"  # the tag of cells that only draw: the book folds them, and so does Jupyter
ANSI = re.compile(r"\x1b\[[0-9;]*m")
METADATA = {
    "kernelspec": {
        "display_name": "Python 3 (ipykernel)",
        "language": "python",
        "name": "python3",
    },
    "language_info": {  # what JupyterLab writes, so that a first save changes nothing
        "codemirror_mode": {"name": "ipython", "version": 3},
        "file_extension": ".py",
        "mimetype": "text/x-python",
        "name": "python",
        "nbconvert_exporter": "python",
        "pygments_lexer": "ipython3",
    },
}


# From a source to a notebook without outputs


def stub(text: str, where: str) -> str:
    """The text a learner gets: indented solutions become `raise NotImplementedError`, others go.

    The exercise is the last `Exercise N.M` before the region, or else the first in the cell.
    """

    def replacement(region: re.Match) -> str:
        if not region["indent"]:
            return ""
        before, anywhere = EXERCISE.findall(text[: region.start()]), EXERCISE.findall(text)
        if not anywhere:
            raise ValueError(
                f"{where}: a solution stands in a cell that names no exercise; its stub needs the "
                'exercise\'s number. Begin the docstring with "Exercise N.M".'
            )
        number = before[-1] if before else anywhere[0]
        return f'{region["indent"]}raise NotImplementedError("Exercise {number}")\n'

    return REGION.sub(replacement, text)


def refuse_odd_markers(text: str, where: str) -> None:
    """Raise unless BEGIN and END SOLUTION take turns."""
    kinds = re.findall(r"### (BEGIN|END) SOLUTION", text)
    if kinds != ["BEGIN", "END"] * (len(kinds) // 2):
        raise ValueError(
            f"{where}: the solution markers are {' '.join(kinds)}; every ### BEGIN SOLUTION needs "
            "its ### END SOLUTION after it, in the same cell. Add or move one."
        )


def task(text: str) -> tuple[str, str]:
    """What the exercises of a cell ask, as Markdown, and the cell without it."""
    asked = []

    def taken(found: re.Match) -> str:
        said = found["doc"] or re.sub(r"^# ?", "", found["comment"], flags=re.M)
        said = inspect.cleandoc(said)
        asked.append(re.sub(r"\A(Exercise \d+\.\d+)", r"**\1**", said))
        return ""

    rest = TASK.sub(taken, text)
    return "\n\n".join(asked), rest


def render(source: Path, *, solved: bool) -> NotebookNode:
    """The notebook of one source, without outputs: filled in (solved), or with stubs.

    A cell that is all solution is left out of the chapter; the ids of the others do not move.
    """
    notebook = jupytext.read(source, fmt="py:percent")
    cells = []
    for i, cell in enumerate(notebook.cells):
        where = f"{source.name}, cell {i}"
        cell.id = f"{source.stem.replace('_', '-')}-{i:02d}"
        cell.metadata.pop("lines_to_next_cell", None)
        text = cell.source + "\n"
        refuse_odd_markers(text, where)
        text = MARKER.sub("", text) if solved else stub(text, where)
        if cell.cell_type == "code":
            asked, text = task(text)
            if asked:
                cells.append(nbformat.v4.new_markdown_cell(asked, id=f"{cell.id}-task"))
            if FOLDED in cell.metadata.get("tags", []):
                cell.metadata["jupyter"] = {"source_hidden": True}
        cell.source = text.strip("\n")
        if cell.source:
            cells.append(cell)
    if solved and cells[0].cell_type == "markdown":
        # So that a tab, a search result and the book's contents say which it is.
        link = f"*Every exercise of [the chapter](../chapters/{source.stem}.ipynb), solved.*"
        cells[0].source = re.sub(r"\A(.*)", rf"\1 (solved)\n\n{link}", cells[0].source)
    notebook.cells = cells
    notebook.metadata = nbformat.from_dict(METADATA)
    notebook.nbformat_minor = 5
    nbformat.validate(notebook)
    return notebook


# From a notebook without outputs to one with them


def shrink(png: str) -> str:
    """The same picture (base64) with at most 256 colours: about a third of the size."""
    picture = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGBA")
    paper = Image.new("RGBA", picture.size, "white")
    paper.alpha_composite(picture)
    small = io.BytesIO()
    paper.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
    return base64.b64encode(small.getvalue()).decode()


def run(notebook: NotebookNode, folder: Path) -> None:
    """Run every cell in `folder`, in place, as Restart and Run All would.

    RuntimeError, with the cell and the end of the traceback, if a cell fails, hangs or dies.
    """
    begun = []
    client = NotebookClient(
        notebook,
        timeout=CELL_TIMEOUT,
        record_timing=False,
        kernel_name="python3",
        extra_arguments=["--IPKernelApp.log_level=ERROR"],
        coalesce_streams=True,
        on_cell_execute=lambda cell, cell_index: begun.append(cell),
        resources={"metadata": {"path": str(folder)}},
    )
    try:
        client.execute()
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        raise RuntimeError(complaint(begun[-1], error)) from error
    notebook.metadata = nbformat.from_dict(METADATA)
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                output.data["image/png"] = shrink(output.data["image/png"])


def complaint(cell: NotebookNode, error: Exception) -> str:
    """Which cell failed and why: its id, its text, and the end of the traceback."""
    lines = [f"  cell {cell.id}:", *(f"    | {line}" for line in cell.source.splitlines())]
    tracebacks = [output.traceback for output in cell.outputs if output.output_type == "error"]
    if tracebacks:
        plain = ANSI.sub("", "\n".join(tracebacks[-1]))
        return "\n".join([*lines, *(f"  {line}" for line in plain.splitlines()[-20:])])
    return "\n".join([*lines, f"  {type(error).__name__}: {str(error).splitlines()[0]}"])


def write(notebook: NotebookNode, target: Path) -> None:
    """Put the whole notebook in place at once: a reader never meets half of one."""
    target.parent.mkdir(exist_ok=True)
    partial = target.with_suffix(".ipynb.partial")
    with partial.open("w", encoding="utf-8", newline="\n") as file:
        nbformat.write(notebook, file)
    os.replace(partial, target)


# The two commands


def sources(root: Path, only: list[str]) -> list[Path]:
    """The chapters' sources in order; all of them if `only` is empty."""
    found = sorted((root / SOURCES).glob("*.py"))
    known = {key for path in found for key in (path.stem, path.stem.partition("_")[0])}
    if unknown := [name for name in only if name not in known]:
        raise ValueError(
            f"no chapter {', '.join(unknown)} in {SOURCES}; there are "
            f"{', '.join(path.stem for path in found)}. Give a number (01) or a whole name."
        )
    return [p for p in found if not only or {p.stem, p.stem.partition("_")[0]} & set(only)]


def targets(source: Path, root: Path) -> list[tuple[Path, bool]]:
    """The two notebooks that a source becomes, and whether each is solved."""
    name = f"{source.stem}.ipynb"
    return [(root / "chapters" / name, False), (root / "solutions" / name, True)]


def text(notebook: NotebookNode) -> list[tuple]:
    """What an author wrote of a notebook: everything but its outputs."""
    return [(c.id, c.cell_type, c.source, c.metadata) for c in notebook.cells]


def stale(root: Path, only: list[str]) -> list[str]:
    """The notebooks that differ from their source, are missing, or have no source."""
    found = []
    wanted = {pair for source in sources(root, only) for pair in targets(source, root)}
    for target, solved in sorted(wanted):
        source = root / SOURCES / f"{target.stem}.py"
        if not target.exists():
            found.append(f"{target.relative_to(root).as_posix()}: missing")
        elif text(nbformat.read(target, 4)) != text(render(source, solved=solved)):
            found.append(f"{target.relative_to(root).as_posix()}: differs from its source")
    if not only:
        here = {*root.glob("chapters/*.ipynb"), *root.glob("solutions/*.ipynb")}
        orphans = here - {target for target, _ in wanted}
        found += [f"{p.relative_to(root).as_posix()}: has no source" for p in sorted(orphans)]
    return found


@contextmanager
def as_a_new_reader(root: Path) -> Iterator[None]:
    """Put the author's own progress away, and back afterwards: outputs must not depend on it."""
    kept, away = root / ".llama_edu_progress.json", root / ".llama_edu_progress.away.json"
    if kept.exists():
        os.replace(kept, away)
    try:
        yield
    finally:
        kept.unlink(missing_ok=True)
        if away.exists():
            os.replace(away, kept)


def build(root: Path, only: list[str]) -> list[str]:
    """Make and run the notebooks; a chapter that fails keeps its old notebook. The failures."""
    failures = []
    for source in sources(root, only):
        for target, solved in targets(source, root):
            name = target.relative_to(root).as_posix()
            notebook = render(source, solved=solved)
            try:
                with as_a_new_reader(root):
                    run(notebook, target.parent)
            except RuntimeError as error:
                failures.append(f"{name}: not written\n{error}")
                print(f"{name}: FAILED", flush=True)
                continue
            write(notebook, target)
            print(f"{name}: {target.stat().st_size / 1024:.0f} KiB", flush=True)
    return failures


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="compare only, run nothing")
    parser.add_argument("only", nargs="*", help="chapters: 01 or 01_rmsnorm; default: all")
    args = parser.parse_args()
    os.environ["PYTHONPATH"] = str(ROOT)  # the kernel's folder is the notebook's
    os.environ["PYTHONHASHSEED"] = "0"
    try:
        problems = (stale if args.check else build)(ROOT, args.only)
    except ValueError as error:
        problems = [str(error)]
    if problems:
        print(*problems, sep="\n", file=sys.stderr)
        if args.check:
            print("Run tools/notebooks.py to make them again.", file=sys.stderr)
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
