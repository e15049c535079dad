"""Scripts: plain texts of talks by speakers of every grade."""

from statistics import mean

from llama_edu.data.dialogues import GRADES, dialogues, judge, prompts, understand
from llama_edu.data.dialogues_tokenizer import SPECIAL, tokenizer
from llama_edu.data.scripts import BREAKS, ODDS, scripts


def parts(script):
    """What is said, by whatever lines keep it apart."""
    return [line for line in script.split("\n") if line]


def test_a_seed_always_gives_the_same_scripts():
    assert list(scripts(20, seed=4)) == list(scripts(20, seed=4))
    assert next(scripts(1, seed=4)) != next(scripts(1, seed=5))
    assert next(scripts(1, seed=1)).startswith(
        "Please write a tale at the meadow with a kite and a happy end.\n\nThere was a girl")


def test_nothing_marks_whose_turn_it_is():
    for script in scripts(200, seed=2):
        assert not any(mark in script for mark in (*SPECIAL, "user", "assistant", "User"))
        assert script == script.strip()


def test_some_go_on_for_ten_answers_and_some_for_one():
    lengths = [len(parts(script)) for script in scripts(300, seed=3)]
    assert min(lengths) == 2
    assert max(lengths) >= 20
    assert all(len(tokenizer().encode(script, bos=True, eos=True)) < 700
               for script in scripts(300, seed=3))


def told(script):
    """A script as a talk, where it has no rule of the system's before it; None where it has."""
    said = parts(script)
    return None if len(said) % 2 else [
        {"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(said)]


def score(talks):
    return mean(judge(talk[:len(prompt) + 1]).score for talk in talks for prompt in prompts(talk))


def test_speakers_are_of_every_grade_and_half_the_scripts_well_answered():
    graded = {grade: score(dialogues(200, seed=9, grade=grade)) for grade in GRADES}
    of_talks = sum(ODDS[grade] * graded[grade] for grade in GRADES) / sum(ODDS.values())
    by_script = [score([talk]) for talk in map(told, scripts(600, seed=9)) if talk]
    assert graded["wrong"] + 0.1 < of_talks < graded["clean"] - 0.1
    assert abs(mean(by_script) - (1 + of_talks) / 2) < 0.06
    assert min(by_script) < 0.4


def test_a_lesson_asks_about_its_tale():
    lessons = [talk for talk in map(told, scripts(200, seed=6)) if talk and len(talk) >= 8
               and all(understand(prompt).sort == "question" for prompt in [*prompts(talk)][1:])]
    assert len(lessons) > 60
    assert {understand(prompt).about for talk in lessons for prompt in [*prompts(talk)][1:]} >= {
        "hero", "thing", "colour", "place", "mood", "helper", "found", "unknown"}
    assert score(lessons) > 0.97


def test_the_breaks_are_all_there():
    texts = "".join(scripts(100, seed=1))
    assert len(BREAKS) == 3
    assert "\n\n" in texts
    assert any("\n\n" not in script for script in scripts(100, seed=1) if "\n" in script)
