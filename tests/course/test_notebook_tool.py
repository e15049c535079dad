"""tools/notebooks.py: one source becomes a chapter with stubs and a notebook of solutions."""

import base64
import io
import json

import nbformat
import notebooks
import pytest
from PIL import Image, ImageChops

SOURCE = '''\
# %% [markdown]
# # 1. Doubles

# %%
def double(x):
    """Exercise 1.1 ●○○ 5 min. Twice x."""
    ### BEGIN SOLUTION
    return 2 * x
    ### END SOLUTION

# %% [markdown]
# Think first.
#
# ### BEGIN SOLUTION
# Twice is enough.
# ### END SOLUTION

# %% [markdown]
# ### BEGIN SOLUTION
# A longer discussion.
# ### END SOLUTION

# %% mystnb={"image": {"alt": "A line."}}
3
'''


@pytest.fixture
def tree(tmp_path):
    """A small course with one source."""
    (tmp_path / "chapters" / "src").mkdir(parents=True)
    source = tmp_path / "chapters" / "src" / "01_doubles.py"
    source.write_text(SOURCE, encoding="utf-8")
    return tmp_path


@pytest.fixture
def source(tree):
    return tree / "chapters" / "src" / "01_doubles.py"


def test_a_chapter_has_a_stub_that_names_its_exercise(source):
    cell = notebooks.render(source, solved=False).cells[2]
    assert cell.source.splitlines()[-1] == '    raise NotImplementedError("Exercise 1.1")'
    assert "return" not in cell.source


def test_a_solution_has_the_answer_and_no_markers(source):
    cells = notebooks.render(source, solved=True).cells
    assert cells[2].source.splitlines()[-1] == "    return 2 * x"
    assert "SOLUTION" not in "".join(cell.source for cell in cells)


def test_discussion_is_only_in_the_solution_and_leaves_no_empty_cell(source):
    chapter, solution = (notebooks.render(source, solved=solved) for solved in (False, True))
    assert [cell.source for cell in chapter.cells[3:]] == ["Think first.", "3"]
    assert "Twice is enough." in solution.cells[3].source
    assert solution.cells[4].source == "A longer discussion."


def test_a_cell_has_the_same_id_in_both_notebooks(source):
    chapter, solution = (notebooks.render(source, solved=solved) for solved in (False, True))
    places = ["0", "1-task", "1", "2", "3", "4"]
    assert [c.id for c in solution.cells] == [f"01-doubles-0{place}" for place in places]
    places.remove("3")
    assert [c.id for c in chapter.cells] == [f"01-doubles-0{place}" for place in places]


def test_what_an_exercise_asks_stands_in_markdown_above_its_stub(source):
    for solved in (False, True):
        asked, code = notebooks.render(source, solved=solved).cells[1:3]
        assert (asked.cell_type, asked.source) == (
            "markdown",
            "**Exercise 1.1** ●○○ 5 min. Twice x.",
        )
        assert code.source.splitlines()[0] == "def double(x):"
        assert '"""' not in code.source


def test_what_is_asked_in_comments_and_over_several_lines_moves_too():
    comments = "# Exercise 6.4 ●●● 9 min. Which one?\n# Say it.\nfound = 1\n"
    assert notebooks.task(comments) == (
        "**Exercise 6.4** ●●● 9 min. Which one?\nSay it.", "found = 1\n")  # fmt: skip
    long = 'def f():\n    """Exercise 6.5 ●○○ 2 min. Do.\n\n    x: `b`.\n    """\n    raise\n'
    assert notebooks.task(long) == (
        "**Exercise 6.5** ●○○ 2 min. Do.\n\nx: `b`.", "def f():\n    raise\n")  # fmt: skip


def test_a_cell_that_only_draws_is_folded_in_jupyter_too(tree, source):
    source.write_text(SOURCE.replace("# %% mystnb", '# %% tags=["hide-input"] mystnb'), "utf-8")
    metadata = notebooks.render(source, solved=False).cells[-1].metadata
    assert metadata["tags"] == ["hide-input"]
    assert metadata["jupyter"] == {"source_hidden": True}


def test_the_title_says_that_a_notebook_is_solved(source):
    titles = [notebooks.render(source, solved=s).cells[0].source for s in (False, True)]
    link = "*Every exercise of [the chapter](../chapters/01_doubles.ipynb), solved.*"
    assert titles == ["# 1. Doubles", f"# 1. Doubles (solved)\n\n{link}"]


def test_alt_text_travels_from_the_source_to_the_cell(source):
    cell = notebooks.render(source, solved=False).cells[-1]
    assert cell.metadata == {"mystnb": {"image": {"alt": "A line."}}}


def test_each_stub_of_a_cell_names_the_exercise_above_it():
    region = "    ### BEGIN SOLUTION\n    pass\n    ### END SOLUTION\n"
    text = f'def f():\n    """Exercise 2.1"""\n{region}def g():\n    """Exercise 2.2"""\n{region}'
    stubs = [line for line in notebooks.stub(text, "x").splitlines() if "raise" in line]
    assert [line.split('"')[1] for line in stubs] == ["Exercise 2.1", "Exercise 2.2"]


def test_a_stub_without_an_exercise_is_refused():
    text = "def f():\n    ### BEGIN SOLUTION\n    pass\n    ### END SOLUTION\n"
    with pytest.raises(ValueError, match='names no exercise.*Begin the docstring with "Exercise'):
        notebooks.stub(text, "01_x.py, cell 3")


@pytest.mark.parametrize("markers", ["BEGIN", "END", "BEGIN BEGIN END", "END BEGIN"])
def test_markers_that_do_not_pair_are_refused(markers):
    text = "".join(f"### {kind} SOLUTION\n" for kind in markers.split())
    with pytest.raises(ValueError, match=f"the solution markers are {markers}; every"):
        notebooks.refuse_odd_markers(text, "01_x.py, cell 3")


def test_a_notebook_in_step_is_not_stale_and_every_change_is_seen(tree, source):
    for target, solved in notebooks.targets(source, tree):
        notebooks.write(notebooks.render(source, solved=solved), target)
    assert notebooks.stale(tree, []) == []

    source.write_text(SOURCE.replace("Twice is", "Twice was"), encoding="utf-8")
    assert notebooks.stale(tree, []) == ["solutions/01_doubles.ipynb: differs from its source"]
    source.write_text(SOURCE.replace("A line", "A lane"), encoding="utf-8")
    assert len(notebooks.stale(tree, [])) == 2
    source.write_text(SOURCE, encoding="utf-8")

    chapter = tree / "chapters" / "01_doubles.ipynb"
    chapter.rename(tree / "chapters" / "02_other.ipynb")
    assert notebooks.stale(tree, []) == [
        "chapters/01_doubles.ipynb: missing",
        "chapters/02_other.ipynb: has no source",
    ]


def test_the_file_is_the_same_whenever_it_is_written(tree, source):
    path = tree / "x.ipynb"
    written = []
    for _ in range(2):
        notebooks.write(notebooks.render(source, solved=True), path)
        written.append(path.read_bytes())
    assert written[0] == written[1]
    assert b"\r\n" not in written[0]
    assert not list(tree.glob("*.partial"))
    assert json.loads(written[0])["metadata"]["kernelspec"]["display_name"] == (
        "Python 3 (ipykernel)"
    )


def test_a_failing_cell_is_told_and_the_old_notebook_stays(tree, source):
    source.write_text("# %%\nx = 1\n\n# %%\n# boom\nx / 0\n", encoding="utf-8")
    old = tree / "chapters" / "01_doubles.ipynb"
    old.write_text("old", encoding="utf-8")
    (tree / "solutions").mkdir()
    failures = notebooks.build(tree, ["01"])
    assert old.read_text(encoding="utf-8") == "old"
    assert [failure.splitlines()[:4] for failure in failures] == [
        [
            f"{folder}/01_doubles.ipynb: not written",
            "  cell 01-doubles-01:",
            "    | # boom",
            "    | x / 0",
        ]
        for folder in ("chapters", "solutions")
    ]
    assert all(
        failure.splitlines()[-1].strip() == "ZeroDivisionError: division by zero"
        for failure in failures
    )


def test_an_unknown_chapter_is_refused(tree):
    with pytest.raises(ValueError, match="no chapter 07 in chapters/src; there are 01_doubles"):
        notebooks.sources(tree, ["07"])


def test_a_picture_becomes_smaller_and_stays_the_same_to_the_eye():
    gradient = Image.new("RGBA", (300, 200))
    gradient.putdata([(x * 255 // 300, 100, 50, 255) for _ in range(200) for x in range(300)])
    file = io.BytesIO()
    gradient.save(file, "PNG")
    small = notebooks.shrink(base64.b64encode(file.getvalue()).decode())
    picture = Image.open(io.BytesIO(base64.b64decode(small)))
    assert picture.mode == "P"
    assert picture.size == (300, 200)
    # 300 shades into 256 colours: neighbours share one, so a shade moves by two at most.
    difference = ImageChops.difference(picture.convert("RGB"), gradient.convert("RGB"))
    assert max(high for _, high in difference.getextrema()) <= 2


def test_a_notebook_that_was_rendered_is_valid(source):
    nbformat.validate(notebooks.render(source, solved=False))
