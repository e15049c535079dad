"""`llama-edu train` as a reader meets it: an example that works, a stop that loses nothing."""

import csv
import json
import os
import signal
import subprocess
import sys
import tomllib
from contextlib import suppress

import pytest
from recipes import TINY

from llama_edu import checkpoint
from llama_edu.cli import main
from llama_edu.training import recipe
from llama_edu.training import run as training_run


def write(tmp_path, *changes):
    text = TINY.replace('out = "out"', f"out = {json.dumps(str(tmp_path / 'out'))}")
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    (tmp_path / "recipe.toml").write_text(text, encoding="utf-8")
    return tmp_path / "recipe.toml"


def losses(tmp_path):
    with (tmp_path / "out" / "metrics.csv").open(encoding="utf-8") as opened:
        return [row["loss"] for row in csv.DictReader(opened)]


# -- an example --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["my-run", "a folder/läuft"])
def test_the_example_is_a_recipe_and_its_line_works(tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--example", name]) == 0
    assert f"llama-edu train {name}/recipe.toml" in capsys.readouterr().out.replace("\\", "/")
    assert recipe.read(f"{name}/recipe.toml").out == f"{name}/run"
    assert main(["train", "--example", name]) == 2
    assert "is there already" in capsys.readouterr().err


def test_what_the_example_trains_can_be_let_speak(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main(["train", "--example", "r"])
    file = tmp_path / "r" / "recipe.toml"
    text = file.read_text(encoding="utf-8")
    for old, new in (("steps = 300", "steps = 4"), ("warmup = 20", "warmup = 2"),
                     ("tales = 2_000", "tales = 120")):
        assert old in text
        text = text.replace(old, new)
    file.write_text(text, encoding="utf-8")
    assert main(["train", "r/recipe.toml"]) == 0
    assert "The model is in" in capsys.readouterr().out
    assert checkpoint.load("r/run/model")


def test_a_run_without_a_recipe_is_told_of_the_example(capsys):
    assert main(["train", "recipe.toml"]) == 2
    assert "llama-edu train --example DIR" in capsys.readouterr().err


# -- before the first step ---------------------------------------------------------------------


def test_a_vocabulary_too_small_is_refused_before_any_text_is_made(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(training_run, "gather", lambda *_, **__: pytest.fail("text was made"))
    assert main(["train", str(write(tmp_path, ("vocab_size = 280", "vocab_size = 257")))]) == 2
    assert "vocab_size is 257; 256 bytes and 2 special pieces need 258" in capsys.readouterr().err


def test_a_key_gets_the_nearest_one(tmp_path, capsys):
    assert main(["train", str(write(tmp_path, ("peak_lr", "peak_rl")))]) == 2
    assert "Did you mean peak_lr?" in capsys.readouterr().err


def test_it_talks_while_it_prepares_and_shows_samples(tmp_path, capsys):
    assert main(["train", str(write(tmp_path))]) == 0
    err = capsys.readouterr().err
    said = ["writing 60 tales", "making a vocabulary of 280 pieces", "turning 60 documents",
            "parameters to step 12", "step 2, loss", "it says: ", "step 12, loss"]
    places = [err.index(each) for each in said]
    assert places == sorted(places)


def test_samples_do_not_change_what_is_learnt(tmp_path, monkeypatch):
    main(["train", str(write(tmp_path))])
    shown = losses(tmp_path)
    for folder in ("checkpoints", "model"):
        for file in (tmp_path / "out" / folder).iterdir():
            file.unlink()
    run = training_run.Run(recipe.read(write(tmp_path)))
    run.resume()
    assert [str(step.loss) for step in run.steps()] == shown


# -- Ctrl-C ------------------------------------------------------------------------------------


def spawned(path, *, presses, after):
    """Train in a process that presses Ctrl-C when the model was asked for its sample of a step."""
    code = ("import os, signal, sys\nfrom llama_edu.cli import main\n"
            "from llama_edu.training.run import Run\nsample = Run.sample\n"
            "def pressed(self):\n"
            f"    if self.pressed == {after}:\n"
            f"        for _ in range({presses}):\n"
            "            os.kill(os.getpid(), signal.SIGINT)\n"
            "    self.pressed += 1\n    return sample(self)\n"
            "Run.sample, Run.pressed = pressed, 0\nsys.exit(main(sys.argv[1:]))")
    return subprocess.run([sys.executable, "-c", code, "train", str(path)], capture_output=True,
                          text=True, check=False)


@pytest.mark.skipif(os.name != "posix", reason="a process sends itself Ctrl-C as POSIX does")
def test_ctrl_c_saves_and_the_same_command_goes_on(tmp_path, capsys):
    whole = tmp_path / "whole"
    whole.mkdir()
    assert main(["train", str(write(whole))]) == 0
    changed = ("checkpoint_every = 2", "checkpoint_every = 5")
    done = spawned(write(tmp_path, changed), presses=1, after=0)
    assert done.returncode == 130
    assert "stopped by you after step 5 of 12, which is saved" in done.stderr
    assert "Traceback" not in done.stderr
    assert main(["train", str(write(tmp_path, changed))]) == 0
    assert "going on after step 5." in capsys.readouterr().err
    assert losses(tmp_path) == losses(whole)


@pytest.mark.skipif(os.name != "posix", reason="a process sends itself Ctrl-C as POSIX does")
def test_a_second_ctrl_c_says_what_is_lost(tmp_path):
    done = spawned(write(tmp_path), presses=2, after=1)
    assert done.returncode == 130
    assert "stopped by you at once: what was trained after step 4 is lost" in done.stderr
    assert "Traceback" not in done.stderr


def test_ctrl_c_before_the_first_step_loses_nothing(tmp_path, monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt
    monkeypatch.setattr(training_run, "gather", interrupted)
    assert main(["train", str(write(tmp_path))]) == 130
    assert "before the first step; nothing that was trained is lost" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


# -- more steps --------------------------------------------------------------------------------


def test_a_finished_run_goes_on_with_more_steps(tmp_path, capsys):
    assert main(["train", str(write(tmp_path))]) == 0
    first = losses(tmp_path)
    assert main(["train", str(write(tmp_path, ("steps = 12", "steps = 15")))]) == 0
    assert "the run of 12 steps is finished; going on to 15" in capsys.readouterr().err
    assert len(losses(tmp_path)) == 15
    assert losses(tmp_path)[:12] == first


def test_a_run_that_is_not_finished_keeps_its_steps(tmp_path, capsys):
    run = training_run.Run(recipe.read(write(tmp_path)))
    run.resume()
    with suppress(StopIteration):
        steps = run.steps()
        for _ in range(6):
            next(steps)
    assert main(["train", str(write(tmp_path, ("steps = 12", "steps = 15")))]) == 2
    assert "whose run is finished, only `steps` may grow" in capsys.readouterr().err


def test_the_example_says_nothing_but_toml():
    from importlib.resources import files
    text = (files("llama_edu.training") / "examples/train.toml").read_text(encoding="utf-8")
    assert tomllib.loads(text.replace("{run}", '"x"'))["training"]["steps"] == 300
