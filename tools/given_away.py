"""How much of an exercise's solution stands in the code above it.

    python tools/given_away.py           a table of all chapters
    python tools/given_away.py 01 07     only these

The *shape* of a piece of code is its tokens without comments and docstrings, with all names alike:
what one copies and renames. A token of the solution is given away if it lies in a run of six
tokens that stands, in one piece, in a code cell above.
"""

import ast
import io
import keyword
import re
import sys
import tokenize
from pathlib import Path

import jupytext

SOURCES = Path(__file__).resolve().parent.parent / "chapters" / "src"
RUN = 6  # tokens
HALF = 0.5
REGION = re.compile(r"^([ \t]+)### BEGIN SOLUTION[ \t]*\n(.*?)^[ \t]*### END SOLUTION", re.M | re.S)
EXERCISE = re.compile(r"Exercise (\d+\.\d+)")
SILENT = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT,
          tokenize.ENCODING, tokenize.ENDMARKER}  # fmt: skip
NAME = "·"


def without_docstrings(code: str) -> str:
    tree = ast.parse(code)
    lines = code.splitlines(keepends=True)
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.FunctionDef | ast.ClassDef)
            and ast.get_docstring(node) is not None
        ):
            for n in range(node.body[0].lineno - 1, node.body[0].end_lineno):
                lines[n] = "\n"
    return "".join(lines)


def shape(code: str) -> list[str]:
    """The tokens of a piece of code, its names all alike."""
    return [
        NAME if token.type == tokenize.NAME and not keyword.iskeyword(token.string)
        else token.string
        for token in tokenize.generate_tokens(io.StringIO(code).readline)
        if token.type not in SILENT
    ]


def runs(tokens: list[str], n: int) -> set[tuple[str, ...]]:
    return {tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)}


def shares(cells: list[tuple[str, str]]) -> dict[str, float]:
    """For each exercise of a chapter, the share of its solution that stands above it.

    `cells` are (kind, source) in order, solutions included.
    """
    above: list[list[str]] = []
    found = {}
    for kind, source in cells:
        if kind != "code":
            continue
        source = re.sub(r"^[ \t]*%.*$", "", source, flags=re.M)
        if (parts := REGION.findall(source)) and (named := EXERCISE.search(source)):
            solution = [
                token
                for part in parts
                for token in shape(_dedent(*part))
            ]
            found[named[1]] = given(solution, above)
        above.append(shape(without_docstrings(source)))
    return found


def given(solution: list[str], above: list[list[str]]) -> float:
    """The share of a solution's tokens that lie in a run of six which stands above."""
    n = min(RUN, len(solution))
    seen = set().union(*(runs(tokens, n) for tokens in above))
    covered = {
        i + k
        for i in range(len(solution) - n + 1)
        if tuple(solution[i : i + n]) in seen
        for k in range(n)
    }
    return len(covered) / max(len(solution), 1)


def _dedent(indent: str, body: str) -> str:
    return "".join(line.removeprefix(indent) for line in body.splitlines(keepends=True))


def of_chapter(source: Path) -> dict[str, float]:
    notebook = jupytext.read(source, fmt="py:percent")
    return shares([(cell.cell_type, cell.source) for cell in notebook.cells])


if __name__ == "__main__":
    for path in sorted(SOURCES.glob("*.py")):
        if sys.argv[1:] and not path.name.startswith(tuple(sys.argv[1:])):
            continue
        found = of_chapter(path)
        too_much = sum(share > HALF for share in found.values())
        print(f"{path.stem}: {too_much} of {len(found)} more than half given away")
        print("   ", "  ".join(f"{id} {share:.0%}" for id, share in found.items()))
