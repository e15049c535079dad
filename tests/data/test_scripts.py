"""Scripts: plain texts of talks by speakers of every grade."""

from statistics import mean

from llama_edu.data.dialogues import GRADES, dialogues, judge, prompts
from llama_edu.data.dialogues_tokenizer import SPECIAL, tokenizer
from llama_edu.data.scripts import BREAKS, ODDS, scripts


def parts(script):
    """What is said, by whatever lines keep it apart."""
    return [line for line in script.split("\n") if line]


def test_a_seed_always_gives_the_same_scripts():
    assert list(scripts(20, seed=4)) == list(scripts(20, seed=4))
    assert next(scripts(1, seed=4)) != next(scripts(1, seed=5))
    assert next(scripts(1, seed=1)) == "Name no colours from now on.\nWhat a day.\n\n" + (
        next(scripts(1, seed=1)).partition("What a day.\n\n")[2])


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


def test_speakers_are_of_every_grade():
    """Scores of talks of one grade lie apart; those of scripts are mixed by the odds."""
    def score(talks):
        return mean(judge(talk[:len(prompt) + 1]).score for talk in talks
                    for prompt in prompts(talk))

    graded = {grade: score(dialogues(200, seed=9, grade=grade)) for grade in GRADES}
    expected = sum(ODDS[grade] * graded[grade] for grade in GRADES) / sum(ODDS.values())
    talks = [[{"role": ("user", "assistant")[i % 2], "content": said}
              for i, said in enumerate(parts(script))]
             for script in scripts(400, seed=9) if len(parts(script)) % 2 == 0]
    assert abs(score(talks) - expected) < 0.06
    assert graded["wrong"] + 0.1 < expected < graded["clean"] - 0.1


def test_the_breaks_are_all_there():
    texts = "".join(scripts(100, seed=1))
    assert len(BREAKS) == 3
    assert "\n\n" in texts
    assert any("\n\n" not in script for script in scripts(100, seed=1) if "\n" in script)
