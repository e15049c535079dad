"""Recipes: every key known, every number possible, and the recorded one is what it says."""

import re
from pathlib import Path

import pytest
from recipes import TINY

import llama_edu
from llama_edu.family import accounting
from llama_edu.training import recipe


@pytest.fixture
def file(tmp_path):
    """Write a recipe with some lines changed; an empty new line takes the old one out."""
    def write(*changes):
        text = TINY
        for old, new in changes:
            assert old in text
            text = text.replace(old, new, 1)
        path = tmp_path / "recipe.toml"
        path.write_text(text, encoding="utf-8")
        return path
    return write


def refused(path, message):
    with pytest.raises(ValueError, match=message):
        recipe.read(path)


def test_a_recipe_is_read(file):
    read = recipe.read(file())
    assert (read.out, read.seed, read.text.tales, read.training.peak_lr) == ("out", 0, 60, 0.01)
    assert (read.model.dim, read.model.tied_embeddings) == (16, True)
    assert read.text.field == "text"


def test_text_may_be_a_file_of_ones_own(file):
    read = recipe.read(file(('"tales"', '"my/texts"'), ("tales = 60", 'field = "story"')))
    assert (read.text.source, read.text.field, read.text.tales) == ("my/texts", "story", None)


@pytest.mark.parametrize(("line", "where", "key"), [
    ("seed = 0", "the recipe", "seeed"), ("batch = 2", r"\[training\]", "batch_size"),
    ("dim = 16", r"\[model\]", "dimension"), ("held_out = 8", r"\[text\]", "heldout")])
def test_an_unknown_key_is_named_with_its_table(file, line, where, key):
    refused(file((line, f"{line}\n{key} = 3")),
            f"{where} has keys that mean nothing here: {key}. It knows .*{line.split()[0]}")


@pytest.mark.parametrize(("line", "where"), [
    ("seed = 0", "the recipe"), ("batch = 2", r"\[training\]"), ("hidden_dim = 32", r"\[model\]"),
    ("row_length = 65", r"\[text\]")])
def test_a_missing_key_is_named_with_its_table(file, line, where):
    refused(file((line, "")), f"{where} lacks {line.split()[0]}; without them")


def test_a_missing_table_is_named(file):
    refused(file(("[training]", "[trainings]")), r"the recipe has no table \[training\]; it needs")
    refused(file(("[text]", "[[text]]")), r"the recipe has no table \[text\]")


@pytest.mark.parametrize(("old", "new", "message"), [
    ("steps = 12", "steps = 0", "steps is 0; a whole number of 1 or more"),
    ("steps = 12", 'steps = "12"', "steps is '12'; a whole number"),
    ("steps = 12", "steps = true", "steps is True; a whole number"),
    ("seed = 0", "seed = -1", "seed is -1; a whole number of 0 or more"),
    ("warmup = 2", "warmup = 12", "warmup is 12 of 12 steps; fewer than all are needed"),
    ("peak_lr = 1e-2", "peak_lr = 0", "peak_lr is 0; a number between 0 and 1"),
    ("peak_lr = 1e-2", "peak_lr = nan", "peak_lr is nan; a number between 0 and 1"),
    ('"bfloat16"', '"int3"', "save_as is 'int3'; one of float32, bfloat16, float16 is needed"),
    ("row_length = 65", "row_length = 66", "sees all but the last of them, and its context is 64"),
    ("row_length = 65", "row_length = 1", "row_length is 1; a whole number of 2 or more"),
    ("held_out = 8", "held_out = 60", "tales is 60; a whole number of 61 or more"),
    ("tales = 60", "", "tales is None; a whole number"),
    ('"tales"', '"a.txt"', "tales is 60, but the source is 'a.txt'; it is for the source 'tales'"),
    ("tales = 60", "tales = 60\nscripts = 60",
     "scripts is 60, but the source is 'tales'; it is for the source 'scripts' only"),
    ('"tales"', '"scripts"', "tales is 60, but the source is 'scripts'"),
    ('source = "tales"\ntales = 60', 'source = "scripts"\nscripts = 8', "a whole number of 9"),
    ('source = "tales"', "source = 3", "source is 3; a string is needed"),
    ('out = "out"', 'out = ""', "out is ''; the path of a folder is needed"),
    ("dim = 16", "dim = 17", "dim 17 does not split into 2 heads"),
    ("out =", "out", "is not TOML")])
def test_an_impossible_value_is_named(file, old, new, message):
    refused(file((old, new)), message)


def test_a_missing_file_and_one_that_is_a_folder(tmp_path):
    refused(tmp_path / "no.toml", "there is no file '.*no.toml'; a recipe in TOML is needed")
    refused(tmp_path, "cannot be opened")


def test_the_recorded_recipe_of_the_tales_model_fits_into_three_megabytes():
    path = Path(llama_edu.__file__).parent / "assets" / "tales" / "recipe.toml"
    read = recipe.read(path)
    assert read.save_as == "bfloat16"
    assert accounting.weight_bytes(read.model, bits=16) < 2.5e6
    assert not re.search(r"/(work|tmp|home)\b", path.read_text(encoding="utf-8"))
