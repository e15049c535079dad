"""The form of a chapter: think first, then see. The exercise comes before its answer."""

import re

import given_away
import pytest
from nbformat import NotebookNode

from llama_edu.exercises.hunts import Hunt
from llama_edu.exercises.registry import exercises

INTRODUCES = {"00_start_here"}  # asks one thing, to show how a check speaks
MOST_GIVEN_AWAY = 1 / 4  # of a chapter's exercises
ASKED = re.compile(r"\bclaims\.judge\(|\breveal\(")
SHOWN = re.compile(r"\bclaims\.show\(([^)]*)\)")
CLAIM = re.compile(r"[\"']([A-Z]\d+)[\"']")


def faults(notebook: NotebookNode, hunts: set[str]) -> list[str]:
    """What a chapter lacks of the form; `hunts` are the ids of the bug hunts."""
    wrong, asked = [], set()
    order = {"your turn": None, "build it": None, "exercise": None}
    text = "\n".join(cell.source for cell in notebook.cells)
    for i, cell in enumerate(notebook.cells):
        if cell.cell_type == "markdown":
            for name in ("your turn", "build it"):
                if re.search(rf"^#+ {name}", cell.source, re.M | re.I) and order[name] is None:
                    order[name] = i
            continue
        if re.search(r"\bcheck\(", cell.source) and order["exercise"] is None:
            order["exercise"] = i
        for said in re.findall(r"claims\.judge\((.*?)\)", cell.source, re.S):
            asked |= set(CLAIM.findall(said))
        for ids in SHOWN.findall(cell.source):
            wrong += [f"{cell.id} tells the verdict on {id} before it is asked"
                      for id in CLAIM.findall(ids) if id not in asked]  # fmt: skip
    if order["your turn"] is None or order["build it"] is None:
        wrong.append('there is no "Your turn" or no "Build it" among the headings')
    elif not order["your turn"] < (order["exercise"] or 0) < order["build it"]:
        wrong.append('no exercise stands between "Your turn" and "Build it"')
    if "●●●" not in text:
        wrong.append("there is no exercise of three points")
    if not any(f'check("{id}"' in text for id in hunts) and "Open challenge" not in text:
        wrong.append("there is neither a bug hunt nor an open challenge")
    if not ASKED.search(text):
        wrong.append("nothing is asked before it is told")
    return wrong


def given(shares: dict[str, float], n_hunts: int = 0) -> list[str]:
    """Which exercises are more than half given away, if they are too many of all."""
    too_much = [f"{id} {share:.0%}" for id, share in shares.items() if share > given_away.HALF]
    return too_much if len(too_much) > MOST_GIVEN_AWAY * (len(shares) + n_hunts) else []


def test_a_chapter_lets_the_reader_think_first(chapter, read):
    if chapter.stem in INTRODUCES:
        pytest.skip("introduces")
    hunts = {id for id, each in exercises().items() if isinstance(each, Hunt)}
    assert faults(read(chapter), hunts) == []


def test_a_chapter_does_not_give_its_answers_away(chapter):
    shares = given_away.of_chapter(given_away.SOURCES / f"{chapter.stem}.py")
    number = int(chapter.stem[:2])
    here = {id: each for id, each in exercises().items() if each.chapter == number}
    hunts = {id for id, each in here.items() if isinstance(each, Hunt)}
    assert {*shares} == here.keys() - hunts
    assert given(shares, len(hunts)) == []


# The rules above, on chapters made up for the purpose

BEFORE = ("code", "def norm(x):\n    return x / x.pow(2).mean(-1, keepdim=True).sqrt()")
TASK = '''def mine(t):
    """Exercise 9.{n} ●○○ 5 min. Divide."""
    ### BEGIN SOLUTION
    {solution}
    ### END SOLUTION


check("9.{n}", mine)'''


def task(n: int, solution: str) -> tuple[str, str]:
    return "code", TASK.format(n=n, solution=solution)


COPIED = "return t / t.pow(2).mean(-1, keepdim=True).sqrt()"
NEW = "return torch.linalg.vector_norm(t, dim=-1) * 3 + t.sin()"


def test_a_copy_with_other_names_is_found():
    assert given_away.shares([BEFORE, task(1, COPIED)]) == {"9.1": 1.0}
    assert given_away.shares([task(1, COPIED), BEFORE]) == {"9.1": 0.0}
    assert given_away.shares([BEFORE, task(1, NEW)]) == {"9.1": 0.0}


def test_a_solution_of_another_exercise_gives_away_too():
    found = given_away.shares([task(1, COPIED), task(2, COPIED)])
    assert found == {"9.1": 0.0, "9.2": 1.0}


def test_prose_and_docstrings_give_nothing_away():
    told = ("code", f'def f():\n    """{COPIED}"""')
    assert given_away.shares([("markdown", COPIED), told, task(1, COPIED)]) == {"9.1": 0.0}


def test_more_than_a_quarter_given_away_is_too_much():
    new = (NEW, "return max(len(t), 3) % 2 + 1", "return [t[k] for k in range(4)]")
    three_new = [task(n, solution) for n, solution in enumerate(new, start=2)]
    assert given(given_away.shares([BEFORE, task(1, COPIED), *three_new])) == []
    assert given(given_away.shares([BEFORE, task(1, COPIED), *three_new[:2]])) == ["9.1 100%"]


GOOD = (
    "prose: # Title",
    "code: guess = None",
    'code: reveal("x", guess, 1)',
    "prose: ## Your turn: divide",
    'code: # 9.1 ●●●\ncheck("9.1", f)',
    "prose: ## Build it: divide",
    'code: claims.judge({"D01": "?"})',
    'code: claims.show("D01")',
    'code: check("9.2", found)',
)


def test_a_chapter_of_the_right_form_passes(make_notebook):
    assert faults(make_notebook(*GOOD), {"9.2"}) == []


@pytest.mark.parametrize(
    ("left_out", "complaint"),
    [
        (2, "nothing is asked"),
        (3, 'no "Your turn"'),
        (4, "no exercise stands between"),
        (4, "no exercise of three points"),
        (5, 'no "Build it"'),
        (6, "tells the verdict on D01 before"),
        (8, "neither a bug hunt nor an open challenge"),
    ],
)
def test_what_is_missing_is_found(make_notebook, left_out, complaint):
    cells = [each for i, each in enumerate(GOOD) if i != left_out]
    if complaint.startswith("nothing"):
        cells = [each for each in cells if "claims" not in each]
    assert any(complaint in each for each in faults(make_notebook(*cells), {"9.2"}))
