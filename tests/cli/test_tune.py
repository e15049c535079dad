"""`llama-edu tune --example`: a recipe and dialogs that work as they are."""

import csv
import json
from importlib.resources import files

import pytest

from llama_edu import checkpoint
from llama_edu.cli import main
from llama_edu.training import tune_recipe
from llama_edu.training.lora import load_adapter


@pytest.mark.parametrize("name", ["mine", "a folder/läuft"])
def test_the_example_is_a_recipe_and_nothing_is_written_over(tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(tmp_path)
    assert main(["tune", "--example", name]) == 0
    assert f"llama-edu tune {name}/recipe.toml" in capsys.readouterr().out.replace("\\", "/")
    recipe = tune_recipe.read(f"{name}/recipe.toml")
    assert (recipe.out, recipe.text.source) == (f"{name}/run", f"{name}/dialogs.jsonl")
    (tmp_path / name / "recipe.toml").unlink()
    (tmp_path / name / "dialogs.jsonl").write_text("mine")
    assert main(["tune", "--example", name]) == 2
    assert "dialogs.jsonl is there already; a folder without it is needed" in (
        capsys.readouterr().err)
    assert (tmp_path / name / "dialogs.jsonl").read_text() == "mine"
    assert not (tmp_path / name / "recipe.toml").exists()


def test_the_example_learns_its_voice(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main(["tune", "--example", "r"])
    assert main(["tune", "r/recipe.toml"]) == 0
    assert "are very" in capsys.readouterr().err        # the voice, if not yet what it says
    losses = [float(row["loss"]) for row in csv.DictReader((tmp_path / "r/run/metrics.csv").open())]
    assert losses[-1] < losses[0] - 2
    model, _ = checkpoint.load("tales")
    assert load_adapter(model, "r/run/adapter")


def test_the_examples_dialogs_have_one_voice():
    text = (files("llama_edu.training") / "examples/dialogs.jsonl").read_text(encoding="utf-8")
    dialogs = [json.loads(line)["messages"] for line in text.splitlines()]
    assert len({asked["content"] for asked, _ in dialogs}) == len(dialogs) >= 30
    for _, said in dialogs:
        assert said["content"].startswith("Thank you! It is ")
        assert said["content"].endswith(". You are very wise.")


def test_a_recipe_that_is_not_there_names_the_example(capsys):
    assert main(["tune", "recipe.toml"]) == 2
    assert "llama-edu tune --example DIR" in capsys.readouterr().err
