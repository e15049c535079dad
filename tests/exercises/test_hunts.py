"""Every bug hunt can be solved from behaviour, refuses other verdicts, and speaks plainly."""

from pathlib import Path

import pytest
import torch
from torch import nn

from llama_edu import exercises as engine
from llama_edu.exercises.compare import difference
from llama_edu.exercises.hunts import HEALTHY, OPEN, Bug, Hunt, judge_hunt
from llama_edu.exercises.registry import exercises

HUNTS = [each for each in exercises().values() if isinstance(each, Hunt)]
each_hunt = pytest.mark.parametrize("hunt", HUNTS, ids=lambda each: each.id)

MADE_UP = Hunt(
    "99.1", "Which square is wrong?", "Made up", lambda: lambda x: x * x,
    bugs={"doubled": Bug(lambda: lambda x: 2 * x, "gives 2 for 1"),
          "cubed": Bug(lambda: lambda x: x**3, "keeps the sign"),
          "decoy": Bug(lambda: lambda x: x, "changes nothing")},
    hidden={"a": "cubed", "b": HEALTHY, "c": "doubled"},
    look=lambda square: torch.tensor([float(square(x)) for x in (-1, 1, 3)]),
    hints=("Try -1.", "Try 3."))  # fmt: skip


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the reader's own progress out of it."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("hunt", [*HUNTS, MADE_UP], ids=lambda each: each.id)
def test_one_look_tells_all_bugs_apart(hunt: Hunt):
    with torch.inference_mode():
        seen = {name: hunt.look(hunt.make(name)) for name in (HEALTHY, *hunt.bugs)}
        again = hunt.look(hunt.make(HEALTHY))
    assert difference(seen[HEALTHY], again) is None, "a healthy suspect differs from itself"
    alike = [(one, other) for one in seen for other in seen
             if one < other and difference(seen[one], seen[other]) is None]
    assert alike == []


@pytest.mark.parametrize("hunt", [*HUNTS, MADE_UP], ids=lambda each: each.id)
def test_a_hunt_is_whole(hunt: Hunt):
    assert len(hunt.hidden) >= 3
    assert set(hunt.hidden.values()) <= {HEALTHY, *hunt.bugs}
    assert len({HEALTHY, *hunt.bugs}) > len(set(hunt.hidden.values())), "there is no decoy"
    assert len(hunt.hints) >= 2
    assert all(bug.shows.strip() for bug in hunt.bugs.values())
    assert judge_hunt(hunt, hunt.hidden).passed


@pytest.mark.parametrize("hunt", [*HUNTS, MADE_UP], ids=lambda each: each.id)
def test_every_other_verdict_is_refused_and_says_what_that_bug_would_show(hunt: Hunt):
    for suspect, truth in hunt.hidden.items():
        for verdict in {HEALTHY, *hunt.bugs} - {truth}:
            report = judge_hunt(hunt, {**hunt.hidden, suspect: verdict})
            assert report.status == "wrong"
            assert f"`{suspect}` is" in report.message
            assert verdict == HEALTHY or hunt.bugs[verdict].shows.rstrip(".") in report.message


@pytest.mark.parametrize("hunt", [*HUNTS, MADE_UP], ids=lambda each: each.id)
def test_a_suspect_does_not_tell_its_name(hunt: Hunt):
    for bug in hunt.hidden.values():
        suspect = hunt.make(bug)
        if callable(suspect) and not isinstance(suspect, nn.Module):
            assert suspect.__name__ == "suspect"


@each_hunt
def test_check_and_suspects_know_the_hunt(hunt: Hunt):
    assert engine.check(hunt.id, hunt.hidden).passed
    assert list(engine.suspects(hunt.id)) == list(hunt.hidden)


def test_open_verdicts_are_not_an_attempt():
    assert judge_hunt(MADE_UP, {}).message == "not attempted yet"
    assert judge_hunt(MADE_UP, dict.fromkeys("abc", OPEN)).status == "not attempted"
    report = judge_hunt(MADE_UP, {"a": " Cubed", "b": OPEN})
    assert (report.status, report.message) == (
        "not attempted", "1 of 3 suspects are named, rightly so far")  # fmt: skip


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (None, "needs one verdict a suspect and got None: check(\"99.1\", {'a': '?'"),
        ("cubed", "needs one verdict a suspect and got a str"),
        ({"z": "cubed"}, "has no suspect 'z'; there are a, b, c."),
        ({"a": "halved"}, "does not know the verdict 'halved' on `a`. Choose one of: healthy; "),
        ({"a": ["cubed"]}, "does not know the verdict ['cubed'] on `a`"),
    ],
)
def test_an_odd_answer_is_told_what_is_needed(answer, complaint):
    report = judge_hunt(MADE_UP, answer)
    assert report.status == "error"
    assert complaint in report.message


def test_only_a_hunt_has_suspects():
    with pytest.raises(ValueError, match=r"1.1 is no bug hunt and has no suspects"):
        engine.suspects("1.1")


# Guesses


@pytest.mark.parametrize(
    ("said", "truth", "told"),
    [
        (None, 1.697, "1.7 (no guess yet: set one above, before you look)"),
        ("?", "RMSNorm", "RMSNorm (no guess yet: set one above, before you look)"),
        ("RMSNorm", "RMSNorm", "RMSNorm, as you said"),
        (" rmsnorm", "RMSNorm", "RMSNorm, as you said"),
        ((3, 4), [3, 4], "[3, 4], as you said"),
        ("LayerNorm", "RMSNorm", "you said LayerNorm; it is RMSNorm"),
        (2, 1.6, "you said 2; it is 1.6, 25% too high"),
        (1.7, 1.697, "1.7, as you said"),
        (-2, -1.6, "you said -2; it is -1.6"),
        (0.8, 1.6, "you said 0.8; it is 1.6, 50% too low"),
        (1, 1000, "you said 1; it is 1,000, 1,000 times too low"),
        (5000, 1, "you said 5,000; it is 1, 5,000 times too high"),
        (-1, 1, "you said -1; it is 1"),
        (3, 0, "you said 3; it is 0"),
        (True, False, "you said True; it is False"),
        (float("nan"), 1, "you said nan; it is 1"),
        (0, 2, "you said 0; it is 2"),
    ],
)
def test_a_guess_says_how_far_off_it_was(said, truth, told):
    guess = engine.reveal("the largest", said, truth)
    assert repr(guess) == f"the largest: {told}"
    assert told.split(";")[0].replace("'", "&#x27;") in guess._repr_html_()
