"""`llama-edu tune` on pairs of answers: direct preference optimisation, as bit for bit as SFT."""

import csv
import inspect
import json
import math
import re

import pytest
import torch
from safetensors.torch import load_file

from llama_edu import checkpoint
from llama_edu.alignment import dpo
from llama_edu.cli import main
from llama_edu.training import tune_recipe
from llama_edu.training.lora import load_adapter, paths
from llama_edu.training.tune_pairs import tuning

RECIPE = """
out = "{folder}/out"
seed = 3
model = "tales"

[text]
source = "{folder}/pairs.jsonl"
row_length = 65
held_out = 4
format = "completion"

[dpo]

[lora]
where = "all"
rank = 4
alpha = 8

[training]
steps = 6
batch = 4
accumulate = 1
peak_lr = 1e-3
warmup = 1
checkpoint_every = 2
"""
LORA = RECIPE[RECIPE.index("[lora]"):RECIPE.index("[training]")]
GOOD = [json.dumps({"id": 7, "prompt": f"{name} had {n} balls. How many?",
                    "chosen": f" {n}, said {name}.", "rejected": f" {name} had a box."})
        for n in range(2, 7) for name in ("Mia", "Tom", "Anna", "Ben")]


def write(folder, *changes, lines=GOOD):
    text = RECIPE.replace("{folder}", folder.as_posix())
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    (folder / "pairs.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "recipe.toml").write_text(text, encoding="utf-8")
    return folder / "recipe.toml"


def begun(path, *, say=lambda text: None):
    run = tuning(tune_recipe.read(path), say=say)
    run.resume()
    return run


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """A folder that the command tuned, once."""
    path = tmp_path_factory.mktemp("pairs")
    assert main(["tune", str(write(path))]) == 0
    return path / "out"


def table(folder):
    return list(csv.DictReader((folder / "metrics.csv").open(encoding="utf-8")))


def test_the_loss_begins_where_nothing_is_preferred_and_metrics_say_what_is(tuned):
    rows = table(tuned)
    assert [*rows[0]][-4:] == ["accuracy", "margin", "chosen", "rejected"]
    assert float(rows[0]["margin"]) == pytest.approx(0, abs=1e-5)
    assert float(rows[-1]["margin"]) > 0.1
    assert float(rows[-1]["accuracy"]) == 1
    assert {row["count"] for row in rows} == {"4"}      # pairs
    assert (tuned / "loss.png").read_bytes()[:4] == b"\x89PNG"


def test_without_its_second_term_the_first_loss_is_log_two(tmp_path):
    run = begun(write(tmp_path, ("[dpo]", "[dpo]\nnll = 0")))
    assert next(run.steps()).loss == pytest.approx(math.log(2), abs=1e-5)


def test_the_command_says_how_many_held_out_pairs_are_told_apart(tuned, capsys):
    assert main(["tune", str(tuned.parent / "recipe.toml")]) == 0
    out, err = capsys.readouterr()
    assert re.search(r"\nHeld-out loss: \d\.\d{4} nats per pair; the chosen answer has the higher "
                     r"reward in 100% of 4 pairs\.\n", out)
    assert "reading 20 pairs as the model is" in err
    assert "the run of 6 steps is finished" in err


def test_the_reference_is_the_base_without_the_adapter_also_of_a_run_that_goes_on(tuned):
    base, words = checkpoint.load("tales")
    run = begun(tuned.parent / "recipe.toml")
    assert run.start == 6
    assert any(path.b.abs().max() > 0 for path in paths(run.model).values())
    expected = dpo.with_reference(base, run.corpus.held_out, size=4)
    assert all(torch.equal(ours.reference, theirs.reference)
               for ours, theirs in zip(run.corpus.held_out, expected, strict=True))
    load_adapter(base, tuned / "adapter")
    ours, theirs = (dpo.rewards(model, run.corpus.held_out, size=4) for model in (run.model, base))
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("changes", [(), ((LORA, ""),)], ids=["lora", "full"])
def test_a_run_that_was_stopped_ends_with_the_same_bits(tmp_path, changes):
    results = []
    for name, stop_after in (("whole", None), ("stopped", 3)):
        (tmp_path / name).mkdir()
        path = write(tmp_path / name, *changes)
        run = begun(path)
        for step in run.steps():
            if step.index + 1 == stop_after:
                run.save(stop_after)
                break
        again = begun(path)
        assert again.start == (stop_after or 6)
        list(again.steps())
        (file,) = (tmp_path / name / "out").glob("*/*.safetensors")
        results.append((load_file(file), [row | {"seconds": ""} for row in
                                          table(tmp_path / name / "out")]))
    (whole, curve), (stopped, same_curve) = results
    assert all(torch.equal(w, stopped[name]) for name, w in whole.items())
    assert curve == same_curve


def test_only_what_a_run_will_see_is_read_beforehand(tmp_path):
    said = []
    run = begun(write(tmp_path, ("steps = 6", "steps = 2")), say=said.append)
    assert said[-1] == "reading 12 pairs as the model is ..."       # 2 * 4, and 4 held out
    assert sum(each.reference is not None for each in run.corpus.rows) == 8
    assert len(list(run.steps())) == 2


def test_accumulated_pieces_are_one_batch(tmp_path):
    found = []
    for change in ((), (("batch = 4", "batch = 2"), ("accumulate = 1", "accumulate = 2"))):
        folder = tmp_path / str(len(found))
        folder.mkdir()
        found.append(next(begun(write(folder, *change)).steps()))
    whole, pieces = found
    assert pieces.count == whole.count == 4
    assert pieces.loss == pytest.approx(whole.loss, rel=1e-5)
    assert pieces.grad_norm == pytest.approx(whole.grad_norm, rel=1e-4)


def test_nothing_held_out_and_activations_computed_twice_change_no_step(tmp_path):
    path = write(tmp_path, ("held_out = 4", "held_out = 0"),
                 ("warmup = 1", "warmup = 1\ncheckpoint_activations = true"))
    run = begun(path)
    twice = [step.loss for step in run.steps()]
    assert run.held_out_loss() is None
    assert "Held-out" not in run.summary()
    (tmp_path / "once").mkdir()
    once = [step.loss for step in begun(write(tmp_path / "once", ("held_out = 4", "held_out = 0"))
                                        ).steps()]
    assert once == twice


# -- bad rows and recipes ----------------------------------------------------------------------

BAD = {
    "{": r"it is not JSON \(",
    "[1]": 'it has no "chosen" and "rejected"; both are needed',
    '{"prompt": "x", "chosen": "y"}': 'it has no "chosen" and "rejected"; both are needed',
    '{"prompt": "x", "chosen": "y", "rejected": "y"}': "both texts of a pair are the same",
    '{"prompt": "x", "chosen": "' + "word " * 99 + '", "rejected": "y"}': "there is room for 65",
}


@pytest.mark.parametrize("line", BAD, ids=[*range(len(BAD))])
def test_a_bad_line_is_refused_by_file_and_line(tmp_path, capsys, line):
    assert main(["tune", str(write(tmp_path, lines=[GOOD[0], "", line, *GOOD]))]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert f"line 3 of {tmp_path / 'pairs.jsonl'}: " in said
    assert re.search(BAD[line], said)
    assert not (tmp_path / "out").exists()


def test_bad_lines_are_skipped_and_counted_where_the_recipe_says_so(tmp_path):
    said = []
    skip = ("held_out = 4", 'held_out = 4\nbad = "skip"')
    run = begun(write(tmp_path, skip, lines=[*BAD, *GOOD]), say=said.append)
    assert any(each.startswith("5 lines of ") and "were left out" in each for each in said)
    (tmp_path / "clean").mkdir()
    assert run.corpus.digest == begun(write(tmp_path / "clean")).corpus.digest


@pytest.mark.parametrize(("change", "message"), [
    (("[dpo]", "[dpo]\nbeta = 0"), "[dpo] beta is 0; a number that is positive is needed"),
    (("[dpo]", "[dpo]\nnll = -1"), "[dpo] nll is -1; a number that is 0 or positive is needed"),
    (("[dpo]", "[dpo]\nend_counts = 1"), "[dpo] end_counts is 1; true or false is needed"),
    (("[dpo]", "[dpo]\ngamma = 1"), "[dpo] has keys that mean nothing here: gamma"),
    (("held_out = 4", 'held_out = 4\nanswers = "last"'), "[text] answers is 'last', which is for"),
    (("batch = 4", "batch = 40"), "16 pairs were given; a batch needs 40"),
    (("held_out = 4", "held_out = 20"), "has 20 pairs that can be learnt from, and 20 are held"),
])
def test_a_recipe_that_cannot_be_is_one_sentence(tmp_path, capsys, change, message):
    assert main(["tune", str(write(tmp_path, change))]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_dialogs_that_the_package_makes_are_no_pairs(tmp_path):
    path = write(tmp_path, (f'"{tmp_path.as_posix()}/pairs.jsonl"', '"dialogues"\ndialogs = 30'))
    with pytest.raises(ValueError, match="source is 'dialogues', which are dialogs"):
        tune_recipe.read(path)


def test_a_recipes_constants_are_the_losses():
    plan, known = tune_recipe.DpoRecipe(), inspect.signature(dpo.dpo).parameters
    assert (plan.beta, plan.nll) == (known["beta"].default, known["nll"].default)


def test_end_tokens_count_where_the_recipe_says_so(tmp_path):
    for change, expected in (((), 0), ((("[dpo]", "[dpo]\nend_counts = true"),), 1)):
        run = begun(write(tmp_path, *change))
        assert all(each.chosen[-1, 2] == expected for each in run.corpus.rows)


# -- the example -------------------------------------------------------------------------------

def test_the_example_learns_not_to_flatter(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["tune", "--example", "r", "--dpo"]) == 0
    assert "llama-edu tune r/recipe.toml" in capsys.readouterr().out.replace("\\", "/")
    assert main(["tune", "r/recipe.toml"]) == 0
    assert "the higher reward in 100% of 8 pairs" in capsys.readouterr().out
    for line in (tmp_path / "r/pairs.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        assert row["rejected"] == f"Thank you! {row['chosen']} You are very wise."


def test_dpo_is_for_the_example_alone(capsys):
    assert main(["tune", "recipe.toml", "--dpo"]) == 2
    assert "--dpo was given with a recipe; it is for --example alone" in capsys.readouterr().err
