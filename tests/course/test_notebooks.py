"""The committed notebooks are what their sources say, ran whole, and give nothing away."""

import json
import re

import notebooks
import pytest
from nbformat import NotebookNode

# Paths of a machine, and addresses in memory (which change from run to run).
MACHINE = re.compile(
    r"/home/\w|/root/|/Users/\w|/tmp/\w|\b[A-Z]:\\\\?\w|site-packages|\b0x[0-9a-f]{7,}"
)
NETWORK = re.compile(r"""(?:src|href)=\\?["']https?:|<script|@import""")
CHECK = re.compile(r"""\bcheck\(\s*["'](\d+\.\d+)["'],\s*(\w+)""")
ON_PURPOSE = "on_purpose"  # how the name of an answer ends that is wrong to show what happens
STUB = re.compile(r'NotImplementedError\("Exercise (\d+\.\d+)"\)')
MIN_ALT = 20  # characters; shorter ones name the figure and say nothing


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def shown(cell: NotebookNode) -> str:
    """All that a cell's outputs say in words; tags and pictures left out."""
    parts = []
    for output in cell.outputs:
        data = output.get("data", {})
        parts += [output.get("text", ""), data.get("text/plain", "")]
        parts.append(re.sub(r"<[^>]*>", " ", data.get("text/html", "")))
    return re.sub(r"\s+", " ", " ".join(parts))


def bad_outputs(notebook: NotebookNode) -> list[str]:
    """Errors, warnings, machine paths, addresses and things from the network in the outputs."""
    wrong = []
    for n, cell in enumerate(code_cells(notebook), start=1):
        if cell.execution_count != n:
            wrong.append(f"{cell.id} was run as number {cell.execution_count}, not {n}")
        for output in cell.outputs:
            if output.output_type == "error" or output.get("name") == "stderr":
                wrong.append(f"{cell.id} shows an error or a warning")
            data = {k: v for k, v in output.get("data", {}).items() if not k.startswith("image/")}
            text = json.dumps([data, output.get("text", "")], ensure_ascii=False)
            wrong += [f"{cell.id} gives away {found}" for found in MACHINE.findall(text)]
            if str(notebooks.ROOT) in text:
                wrong.append(f"{cell.id} gives away where the course lies")
            if NETWORK.search(text):
                wrong.append(f"{cell.id} needs the network")
    return wrong


def bad_figures(notebook: NotebookNode) -> list[str]:
    """Figures without alt text, with too little of it, or two in one cell."""
    wrong = []
    for cell in code_cells(notebook):
        figures = sum("image/png" in output.get("data", {}) for output in cell.outputs)
        alt = cell.metadata.get("mystnb", {}).get("image", {}).get("alt", "")
        if figures > 1:
            wrong.append(f"{cell.id} draws {figures} figures; one alt text cannot tell them all")
        if figures and not (len(alt) >= MIN_ALT and alt.endswith(".")):
            wrong.append(f"{cell.id} has the alt text {alt!r}; a whole sentence is needed")
    return wrong


def bad_marks(notebook: NotebookNode, mark: str) -> list[str]:
    """Exercises whose check does not show this mark (✓, or ○ for not attempted).

    An answer that is wrong on purpose must show ✗ everywhere.
    """
    wrong = []
    for cell in code_cells(notebook):
        for number, answer in CHECK.findall(cell.source):
            due = "✗" if answer.endswith(ON_PURPOSE) else mark
            if f"{due} {number}" not in shown(cell):
                said = shown(cell)[:80]
                wrong.append(f"{cell.id}: exercise {number} does not show {due}: {said!r}")
    return wrong


def exercises_without_check(notebook: NotebookNode) -> list[str]:
    source = "\n".join(cell.source for cell in code_cells(notebook))
    return sorted(set(STUB.findall(source)) - {n for n, _ in CHECK.findall(source)})


def test_the_notebooks_are_what_their_sources_say(root):
    assert notebooks.stale(root, []) == []


def test_the_outputs_are_whole_and_give_nothing_away(notebook, read):
    assert bad_outputs(read(notebook)) == []


def test_every_figure_is_told_in_words(notebook, read):
    assert bad_figures(read(notebook)) == []


def test_a_chapter_shows_every_exercise_as_not_attempted(chapter, read):
    assert bad_marks(read(chapter), "○") == []
    assert exercises_without_check(read(chapter)) == []


def test_a_solution_shows_every_exercise_as_correct(solution, read):
    assert bad_marks(read(solution), "✓") == []


def test_cell_ids_are_unique_over_the_whole_book(root, read):
    ids = [c.id for path in sorted(root.glob("chapters/*.ipynb")) for c in read(path).cells]
    assert len(ids) == len(set(ids))


# The rules above, on outputs made up for the purpose


def stream(text: str, name: str = "stdout") -> dict:
    return {"output_type": "stream", "name": name, "text": text}


def display(**data: str) -> dict:
    data = {kind.replace("_", "/"): value for kind, value in data.items()}
    return {"output_type": "display_data", "metadata": {}, "data": data}


@pytest.fixture
def one_cell(make_notebook):
    """A notebook of one cell with this source and output."""

    def make(source: str, *outputs: dict) -> NotebookNode:
        notebook = make_notebook(f"code: {source}")
        notebook.cells[0].execution_count = 1
        notebook.cells[0].outputs = [NotebookNode(output) for output in outputs]
        return notebook

    return make


@pytest.mark.parametrize(
    ("output", "complaint"),
    [
        (stream("x", "stderr"), "shows an error or a warning"),
        (
            {"output_type": "error", "ename": "E", "evalue": "", "traceback": []},
            "shows an error or a warning",
        ),
        (stream("saved to /home/ada/x"), "gives away /home/a"),
        (stream("saved to /tmp/abc"), "gives away /tmp/a"),
        (stream(r"C:\Users\ada"), "gives away C:"),
        (display(text_plain="<object at 0x7f12345678>"), "gives away 0x7f12345678"),
        (display(text_html='<img src="https://a.b/c.png">'), "needs the network"),
        (display(text_html="<script>x</script>"), "needs the network"),
    ],
)
def test_a_bad_output_is_found(one_cell, output, complaint):
    (wrong,) = bad_outputs(one_cell("x", output))
    assert complaint in wrong


def test_a_cell_that_was_not_run_in_order_is_found(one_cell):
    notebook = one_cell("x", stream("fine"))
    assert bad_outputs(notebook) == []
    notebook.cells[0].execution_count = None
    assert len(bad_outputs(notebook)) == 1


@pytest.mark.parametrize("alt", [None, "a plot", "A long alt text that is no sentence"])
def test_a_figure_without_words_is_found(one_cell, alt):
    notebook = one_cell("plot()", display(image_png="iVBO"))
    if alt:
        notebook.cells[0].metadata = NotebookNode(mystnb=NotebookNode(image={"alt": alt}))
    assert len(bad_figures(notebook)) == 1


def test_two_figures_in_a_cell_are_found(one_cell):
    notebook = one_cell("plot()", display(image_png="iVBO"), display(image_png="iVBO"))
    alt = "Two lines that rise from 0 to 1."
    notebook.cells[0].metadata = NotebookNode(mystnb=NotebookNode(image={"alt": alt}))
    (wrong,) = bad_figures(notebook)
    assert "draws 2 figures" in wrong


@pytest.mark.parametrize(
    "output",
    [stream("✗ 1.1 you subtracted the mean"), stream("✓ 1.2 correct"), stream("○ 1.1"), stream("")],
)
def test_an_exercise_that_is_not_solved_is_found(one_cell, output):
    assert len(bad_marks(one_cell('check("1.1", f)', output), "✓")) == 1


def test_an_answer_that_is_wrong_on_purpose_must_be_wrong(one_cell):
    source = 'check("1.1", mean_on_purpose)'
    assert bad_marks(one_cell(source, stream("✗ 1.1 you subtracted the mean")), "✓") == []
    assert len(bad_marks(one_cell(source, stream("✓ 1.1 correct")), "✓")) == 1


def test_a_mark_is_read_from_plain_text_and_from_html(one_cell):
    for output in (stream("✓ 1.1 correct"), display(text_html="<b>✓</b> <b>1.1</b> correct")):
        assert bad_marks(one_cell('check("1.1", f)', output), "✓") == []


def test_a_stub_without_a_check_is_found(one_cell):
    notebook = one_cell('def f():\n    raise NotImplementedError("Exercise 1.4")')
    assert exercises_without_check(notebook) == ["1.4"]


def test_a_machine_path_is_not_seen_in_ordinary_numbers_and_fractions():
    assert MACHINE.findall("0x1f 3/4 and a/tmp and /tmp alone, 16:04, B: 3") == []


# -- threads -----------------------------------------------------------------------------------

THREADS = re.compile(r"\bset_num_threads\(\s*(\d+)")


def more_threads_than_one(source: str) -> list[str]:
    """Where a chapter asks for several: when two notebooks run at once, they wait for one another
    so long (155 s for a cell of 13) that a run times out."""
    return [n for n in THREADS.findall(source) if int(n) > 1]


def test_a_chapter_computes_with_one_thread(notebook, read):
    sources = [cell.source for cell in code_cells(read(notebook))]
    assert [n for source in sources for n in more_threads_than_one(source)] == []
    if any("import torch" in source for source in sources):
        assert any(map(THREADS.search, sources)), "the threads are not set"


def test_several_threads_are_found():
    assert more_threads_than_one("torch.set_num_threads(2)\ntorch.set_num_threads(1)") == ["2"]
