"""The limits that keep a chapter readable: words, cells, lines, figures, exercises, outputs."""

import ast
import json
import re
from dataclasses import dataclass

import pytest
from nbformat import NotebookNode
from notebooks import FOLDED

CHAPTERS_THAT_ONLY_INTRODUCE = {"00_start_here"}  # they need no figures and no exercises

MAX_WORDS = 3_500
MAX_CODE_CELLS = 40
MAX_CELL_LINES = 40
USUAL_CELL_LINES = 20  # nine cells in ten
MIN_WORDS_PER_CODE_LINE = 3
MIN_FIGURES = 2
MIN_EXERCISES = 3
MAX_OUTPUT_BYTES = 400 * 1024
MAX_CODE_CELLS_WITHOUT_PROSE = 2

CHECK = re.compile(r"""\bcheck\(\s*["'](\d+\.\d+)["']""")
EXERCISE = re.compile(r"Exercise \d+\.\d+\*\* [●○]+ (\d+) min")
MAX_COLUMNS = 80  # what a column of the book holds
SAID = re.compile(r"\| (\d+) \|$", re.M)  # in the table under the title
LONG = 110  # minutes; a longer chapter has a place to rest
REST = "*A good place to rest"
TWO_SITTINGS = 1.25  # times the words and cells, for a chapter with a place to rest
NOT_PROSE = re.compile(r"```.*?```|<[^>]*>|\$\$.*?\$\$|\$[^$\n]+\$|\]\([^)]*\)", re.S)
# What JupyterLab, GitHub, Sphinx and Jupyter Book do not all show in the same way.
NOT_PORTABLE = {
    r"^> \[!": "a GitHub alert; write > **Note.**",
    r"^:::|^```\{": "a MyST directive",
    r"(?<!`)\{[a-z:]+\}`": "a MyST role",
    r"^\s*[-*] \[[ xX]\] ": "a task list",
    r"!\[[^\]]*\]\(https?:": "a picture from the network",
    r"<img[^>]*src=[\"']https?:": "a picture from the network",
}


@dataclass
class Measure:
    """What the limits speak of, counted in one notebook."""

    words: int
    cell_lines: list[int]  # of each code cell that is not folded; blank lines are not counted
    figures: int
    exercises: int
    output_bytes: int
    longest_run_of_code: int


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def prose(notebook: NotebookNode) -> str:
    return "\n\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")


def python(source: str) -> str:
    """A cell without notebook magics, so that it can be parsed."""
    return "\n".join(line for line in source.splitlines() if not line.lstrip().startswith("%"))


def measure(notebook: NotebookNode) -> Measure:
    words = re.findall(r"\w[\w'’.,-]*", NOT_PROSE.sub(" ", prose(notebook)))
    cells = code_cells(notebook)
    outputs = [output for cell in cells for output in cell.outputs]
    kinds = "".join("c" if cell.cell_type == "code" else "p" for cell in notebook.cells)
    return Measure(
        words=len(words),
        cell_lines=[
            sum(bool(line.strip()) for line in c.source.splitlines())
            for c in cells
            if FOLDED not in c.metadata.get("tags", [])
        ],
        figures=sum("image/png" in output.get("data", {}) for output in outputs),
        exercises=len({number for cell in cells for number in CHECK.findall(cell.source)}),
        output_bytes=len(json.dumps(outputs, ensure_ascii=False).encode()),
        longest_run_of_code=max(map(len, kinds.split("p"))),
    )


def broken_limits(notebook: NotebookNode, *, introduces: bool) -> list[str]:
    """Each limit that a chapter breaks, with the count and the limit."""
    m = measure(notebook)
    factor = TWO_SITTINGS if REST in prose(notebook) else 1
    most_words, most_cells = int(MAX_WORDS * factor), int(MAX_CODE_CELLS * factor)
    long_cells = sum(n > USUAL_CELL_LINES for n in m.cell_lines)
    figures, exercises = (0, 0) if introduces else (MIN_FIGURES, MIN_EXERCISES)
    limits = [
        (m.words > most_words, f"{m.words} words; the limit is {most_words}"),
        (
            len(m.cell_lines) > most_cells,
            f"{len(m.cell_lines)} code cells; the limit is {most_cells}",
        ),
        (
            max(m.cell_lines, default=0) > MAX_CELL_LINES,
            f"a cell of {max(m.cell_lines, default=0)} lines; the limit is {MAX_CELL_LINES}",
        ),
        (
            long_cells * 10 > len(m.cell_lines),
            f"{long_cells} of {len(m.cell_lines)} cells are longer than {USUAL_CELL_LINES} lines; "
            "one in ten may be",
        ),
        (
            m.words < MIN_WORDS_PER_CODE_LINE * sum(m.cell_lines),
            f"{m.words} words for {sum(m.cell_lines)} lines of code; a line needs "
            f"{MIN_WORDS_PER_CODE_LINE} words",
        ),
        (m.figures < figures, f"{m.figures} figures; {figures} are needed"),
        (m.exercises < exercises, f"{m.exercises} exercises; {exercises} are needed"),
        (
            m.output_bytes > MAX_OUTPUT_BYTES,
            f"{m.output_bytes} bytes of outputs; the limit is {MAX_OUTPUT_BYTES}",
        ),
        (
            m.longest_run_of_code > MAX_CODE_CELLS_WITHOUT_PROSE,
            f"{m.longest_run_of_code} code cells in a row; the limit is "
            f"{MAX_CODE_CELLS_WITHOUT_PROSE}",
        ),
    ]
    return [sentence for broken, sentence in limits if broken]


def minutes(notebook: NotebookNode) -> float:
    """What it takes: 200 words, 10 lines of code or one figure a minute, and the exercises' own."""
    m = measure(notebook)
    own = EXERCISE.findall(prose(notebook))
    return m.words / 200 + sum(m.cell_lines) / 10 + m.figures + sum(map(int, own))


def too_wide(notebook: NotebookNode) -> list[str]:
    """Lines of code, and of what it printed, that a column of the book cuts off."""
    return [
        f"{cell.id}: {line.strip()[:60]} ... has {len(line)} columns; {MAX_COLUMNS} are shown"
        for cell in code_cells(notebook)
        for text in [cell.source, *printed(cell)]
        for line in text.splitlines()
        if len(line) > MAX_COLUMNS
    ]


def printed(cell: NotebookNode) -> list[str]:
    """The text of a cell's outputs, as a page shows it: what has a page form of its own is none."""
    return [
        output.text if "text" in output else output.data.get("text/plain", "")
        for output in cell.outputs
        if not {*output.get("data", {})} & {"text/html", "image/png"}
    ]


def broken_manners(notebook: NotebookNode) -> list[str]:
    """Late imports, shell commands, a missing or second title, Markdown that is not portable."""
    wrong = []
    for i, cell in enumerate(code_cells(notebook)):
        if re.search(r"^\s*(!|%pip|%conda|%%bash)", cell.source, re.M):
            wrong.append(f"{cell.id} runs a shell command")
        elif i > 0 and any(
            isinstance(node, ast.Import | ast.ImportFrom)
            for node in ast.parse(python(cell.source)).body
        ):
            wrong.append(f"{cell.id} imports; the first code cell is the place")
    text = re.sub(r"^```.*?^```", "", prose(notebook), flags=re.M | re.S)
    titles = re.findall(r"^# .+", text, re.M)
    if len(titles) != 1 or not notebook.cells[0].source.startswith("# "):
        wrong.append(f"{len(titles)} titles; one is needed, at the top")
    for pattern, name in NOT_PORTABLE.items():
        if re.search(pattern, prose(notebook), re.M):
            wrong.append(f"{name} in the prose")
    return wrong


def test_a_chapter_keeps_to_the_limits(chapter, read):
    introduces = chapter.stem in CHAPTERS_THAT_ONLY_INTRODUCE
    assert broken_limits(read(chapter), introduces=introduces) == []


def test_a_notebook_keeps_its_manners(notebook, read):
    assert broken_manners(read(notebook)) == []


def test_no_line_of_a_notebook_is_cut_off_in_the_book(notebook, read):
    assert too_wide(read(notebook)) == []


# The rules above, on chapters made up for the purpose

CHECKS = ['code: check("1.1", f)', 'code: check("1.2", f)', 'code: check("1.3", f)']
WORDS = "prose: " + "word " * 60
FIGURE = [{"output_type": "display_data", "metadata": {}, "data": {"image/png": "iVBORw0K"}}]


@pytest.fixture
def good(make_notebook):
    """A chapter that keeps to every limit."""
    cells = ["prose: # Title\n\n" + "word " * 60]
    for check in CHECKS:
        cells += [check, WORDS]
    return make_notebook(*cells, outputs={1: FIGURE, 3: FIGURE})


def test_a_good_chapter_passes(good):
    assert broken_limits(good, introduces=False) == broken_manners(good) == []


@pytest.mark.parametrize(
    ("cells", "complaint"),
    [
        (["prose: " + "word " * 3_500], "words; the limit is 3500"),
        (["code: 1", WORDS] * 38, "41 code cells; the limit is 40"),
        (["code: " + "x\n" * 41, "prose: " + "word " * 200], "a cell of 41 lines"),
        (["code: " + "x\n" * 21, "prose: " + "word " * 200], "1 of 4 cells are longer than 20"),
        (["code: " + "x\n" * 39, "code: x\n" * 20 + "x\n" * 30], "a line needs 3 words"),
        (["code: 1", "code: 2", "code: 3"], "3 code cells in a row"),
    ],
)
def test_too_much_of_anything_is_found(good, make_notebook, cells, complaint):
    good.cells += make_notebook(*cells).cells
    assert any(complaint in sentence for sentence in broken_limits(good, introduces=False))


def test_a_chapter_with_a_place_to_rest_may_hold_a_quarter_more(good, make_notebook):
    good.cells += make_notebook(f"prose: {REST}.*", *["code: 1", WORDS] * 38).cells
    assert broken_limits(good, introduces=False) == []
    good.cells += make_notebook(*["code: 1", WORDS] * 10).cells
    assert "51 code cells; the limit is 50" in broken_limits(good, introduces=False)


def test_too_few_figures_or_exercises_are_found(good):
    good.cells[1].outputs = []
    good.cells[3].source = 'check("1.1", f)'
    few = ["1 figures; 2 are needed", "2 exercises; 3 are needed"]
    assert broken_limits(good, introduces=False) == few
    assert broken_limits(good, introduces=True) == []


def test_outputs_that_are_too_large_are_found(good):
    good.cells[1].outputs[0]["data"]["image/png"] = "A" * MAX_OUTPUT_BYTES
    (sentence,) = broken_limits(good, introduces=False)
    assert "bytes of outputs" in sentence


@pytest.mark.parametrize(
    ("cell", "complaint"),
    [
        ("code: !pip install x", "runs a shell command"),
        ("code: %pip install x", "runs a shell command"),
        ("code: import torch", "imports; the first code cell is the place"),
        ("code: %matplotlib inline\nfrom torch import nn", "imports; the first code cell"),
        ("prose: # Again", "2 titles"),
        ("prose: > [!NOTE]\n> x", "a GitHub alert"),
        ("prose: ```{note}\nx\n```", "a MyST directive"),
        ("prose: see {ref}`x`", "a MyST role"),
        ("prose: - [ ] todo", "a task list"),
        ("prose: ![x](https://a.b/c.png)", "a picture from the network"),
    ],
)
def test_bad_manners_are_found(good, make_notebook, cell, complaint):
    good.cells += make_notebook(cell).cells
    assert any(complaint in sentence for sentence in broken_manners(good))


def test_a_comment_in_a_block_of_code_is_not_a_title(good, make_notebook):
    good.cells += make_notebook("prose: ```sh\n# a comment\n```").cells
    assert broken_manners(good) == []


def test_a_chapter_takes_the_minutes_that_it_says(chapter, read):
    notebook = read(chapter)
    said, needed = int(SAID.search(notebook.cells[0].source)[1]), minutes(notebook)
    assert abs(said - needed) <= 0.15 * said, f"{needed:.0f} minutes by the rule"
    assert said <= LONG or REST in prose(notebook)


def test_a_line_that_is_cut_off_is_found_in_code_and_in_outputs(make_notebook):
    stream = {"output_type": "stream", "name": "stdout", "text": "x" * 81}
    wide = make_notebook("code: " + "y" * 81, "code: 1", outputs={1: [NotebookNode(stream)]})
    assert [line.split(":")[1].strip()[:3] for line in too_wide(wide)] == ["yyy", "xxx"]
    assert too_wide(make_notebook("code: " + "y" * 80)) == []


def test_a_folded_cell_counts_as_its_figure_alone(good):
    before = minutes(good)
    good.cells[1].metadata["tags"] = [FOLDED]
    assert minutes(good) == pytest.approx(before - 0.1)
