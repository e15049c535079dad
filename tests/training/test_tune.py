"""`llama-edu tune`: from dialogs in a file to an adapter or a model, as bit for bit as `train`."""

import csv
import json
import re

import peft
import pytest
import torch
from models import distance
from safetensors.torch import load_file, save_file
from torch.autograd.graph import saved_tensors_hooks
from transformers import LlamaForCausalLM

from llama_edu import checkpoint
from llama_edu.alignment import messages
from llama_edu.alignment.message_files import parse
from llama_edu.cli import main
from llama_edu.data.dialogues import GRADES, dialogues, floor_per_token
from llama_edu.formats.convert import convert
from llama_edu.losses import next_token
from llama_edu.prompts import Message, dialog_tokens, named
from llama_edu.training import packing, tune_recipe
from llama_edu.training.lora import load_adapter
from llama_edu.training.tune import Tuning

RECIPE = """
out = "{folder}/out"
seed = 3
model = "tales"

[text]
source = "{folder}/dialogs.jsonl"
row_length = 65
held_out = 4
format = "completion"

[lora]
where = "all"
rank = 4
alpha = 8

[training]
steps = 6
batch = 2
accumulate = 2
peak_lr = 1e-2
warmup = 1
checkpoint_every = 2
"""
LORA = RECIPE[RECIPE.index("[lora]"):RECIPE.index("[training]")]
NAMES = ("Mia", "Tom", "Anna", "Ben")


def row(*said):
    return json.dumps({"id": 7, "messages": [{"role": role, "content": content}
                                             for role, content in said]})


GOOD = [row(("user", f"{name} had {n} balls. How many?"), ("assistant", f" {n}, said {name}."))
        for n in range(2, 12) for name in NAMES]


def write(folder, *changes, lines=GOOD):
    text = RECIPE.replace("{folder}", folder.as_posix())
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    (folder / "dialogs.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "recipe.toml").write_text(text, encoding="utf-8")
    return folder / "recipe.toml"


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """A folder that the command tuned, once."""
    path = tmp_path_factory.mktemp("tuned")
    assert main(["tune", str(write(path))]) == 0
    return path / "out"


def begun(path, **options):
    run = Tuning(tune_recipe.read(path), **options)
    assert run.resume() == []
    return run


@pytest.fixture
def failing(capsys):
    def run(path):
        assert main(["tune", str(path)]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        return err.splitlines()[-1]
    return run


# -- what a run leaves -------------------------------------------------------------------------

def test_the_loss_falls_and_is_written_with_a_curve(tuned):
    losses = [float(r["loss"]) for r in csv.DictReader((tuned / "metrics.csv").open())]
    assert len(losses) == 6
    assert losses[-1] < losses[0] - 0.5
    assert (tuned / "loss.png").read_bytes()[:4] == b"\x89PNG"
    assert sorted(p.name for p in tuned.iterdir()) == [
        "adapter", "checkpoints", "loss.png", "metrics.csv", "samples"]


def test_a_checkpoint_holds_what_is_learnt_and_nothing_of_the_rest(tuned):
    learnt = sum(w.nbytes for w in load_file(tuned / "adapter/adapter_model.safetensors").values())
    for file in (tuned / "checkpoints").iterdir():
        assert 3 < file.stat().st_size / learnt < 4     # two moments of AdamW, names and padding


def test_the_adapter_is_pefts_too(tuned, tmp_path):
    convert("tales", tmp_path / "hf", format="hf", dtype="float32")
    model = checkpoint.load_model("tales")
    load_adapter(model, tuned / "adapter")
    tokens = torch.arange(40)[None]
    theirs = peft.PeftModel.from_pretrained(
        LlamaForCausalLM.from_pretrained(tmp_path / "hf"), tuned / "adapter").eval()
    with torch.no_grad():
        assert distance(model(tokens), theirs(tokens).logits) < 1e-4


def test_a_finished_run_is_finished_and_says_what_to_type(tuned, capsys):
    before = (tuned / "adapter/adapter_model.safetensors").read_bytes()
    assert main(["tune", str(tuned.parent / "recipe.toml")]) == 0
    out, err = capsys.readouterr()
    assert "the run of 6 steps is finished" in err
    adapter = tuned / "adapter"
    assert out.startswith(f"The adapter is in {adapter}. To merge it: llama-edu convert tales "
                          f"NEW_FOLDER --format hf --adapter {adapter}\nHeld-out loss: ")
    assert (adapter / "adapter_model.safetensors").read_bytes() == before


def test_only_answers_are_learnt_and_held_out_dialogs_are_not(tmp_path):
    run = begun(write(tmp_path))
    words, form = run.corpus.tokenizer, named("completion")
    packed = [document for row in run.corpus.rows for document in row]
    expected = [dialog_tokens(parse(line.encode()), words, form) for line in GOOD]
    assert sorted(document.T.tolist() for document in packed) == sorted(
        [ids, [*map(int, said)]] for ids, said in expected[4:])
    assert [document[:, 0].tolist() for document in run.corpus.held_out] == [
        ids for ids, _ in expected[:4]]
    assert next(run.steps()).count < 0.5 * 4 * 65


# -- a model with the adapter in it ------------------------------------------------------------

def test_a_merged_model_is_what_convert_would_make_of_it(tmp_path, capsys):
    path = write(tmp_path, ("alpha = 8", "alpha = 8\nmerged = true"))
    assert main(["tune", str(path)]) == 0
    out = tmp_path / "out"
    assert f"is in {out / 'adapter'}, and the model with it merged in {out / 'model'}." in (
        capsys.readouterr().out)
    convert("tales", tmp_path / "ours", format="hf", dtype="bfloat16", adapter=out / "adapter")
    theirs = {file.name: file.read_bytes() for file in (tmp_path / "ours").iterdir()}
    assert {file.name: file.read_bytes() for file in (out / "model").iterdir()} == theirs
    again = Tuning(tune_recipe.read(write(tmp_path)))
    again.resume()
    assert again.start == 6             # a finished run's result may be asked for in another form


# -- answers on the way ------------------------------------------------------------------------

def test_held_out_prompts_are_answered_in_files(tmp_path, capsys):
    path = write(tmp_path, ("checkpoint_every = 2", "checkpoint_every = 6\nsample_every = 3"))
    assert main(["tune", str(path)]) == 0
    files = sorted((tmp_path / "out/samples").iterdir())
    assert [file.name for file in files] == ["step-000003.txt", "step-000006.txt"]
    said = capsys.readouterr().err
    for file in files:
        talks = file.read_text(encoding="utf-8").split("\n\n")
        for talk, name in zip(talks, NAMES, strict=False):
            assert talk.startswith(f"user: {name} had 2 balls. How many?\nassistant: ")
        assert len(talks) == 3          # of four that are held out
        assert repr(talks[0].partition("assistant: ")[2]) in said


def test_a_prompt_that_leaves_no_room_is_not_asked(tmp_path):
    long = row(("user", "ball " * 300), ("assistant", "x"), ("user", "So?"), ("assistant", "Yes."))
    run = begun(write(tmp_path, lines=[long, *GOOD]))
    assert [asked[0].content[:3] for asked in run.asked] == ["Mia", "Tom", "Ann"]


# -- activations computed twice ----------------------------------------------------------------

def test_what_is_computed_twice_learns_the_same_from_less(tmp_path):
    results = []
    for change in ("", "\ncheckpoint_activations = true"):
        path = write(tmp_path, ("warmup = 1", f"warmup = 1{change}"))
        run, kept = begun(path), []
        batch = next(packing.in_order(run.corpus.rows, size=2, length=65))
        with saved_tensors_hooks(lambda tensor, kept=kept: kept.append(tensor.nbytes) or tensor,
                                 lambda tensor: tensor):
            loss = next_token(run.model, batch)
        loss.total.backward()
        results.append((loss.total, [p.grad for p in run.learnt], sum(kept), run.name))
    (plain, ours, much, name), (again, theirs, little, same_name) = results
    assert torch.equal(plain, again)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert all(gradient is not None for gradient in ours)
    assert little < 0.5 * much          # what is left is mostly the logits'
    assert same_name == name


# -- resumed -----------------------------------------------------------------------------------

@pytest.mark.parametrize("changes", [(), (("alpha = 8", "alpha = 8\nint4_group = 32"),),
                                     ((LORA, ""),)], ids=["lora", "qlora", "full"])
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
        results.append(load_file(file))
    assert results[0].keys() == results[1].keys()
    assert all(torch.equal(w, results[1][name]) for name, w in results[0].items())


def test_another_base_model_is_another_run(tuned, tmp_path):
    convert("tales", tmp_path / "base", format="hf", dtype="float32")
    path = write(tmp_path, ('model = "tales"', f'model = "{(tmp_path / "base").as_posix()}"'))
    one = Tuning(tune_recipe.read(path))
    tensors = load_file(tmp_path / "base/model.safetensors")
    tensors["model.norm.weight"][0] += 1
    save_file(tensors, tmp_path / "base/model.safetensors", metadata={"format": "pt"})
    assert Tuning(tune_recipe.read(path)).name != one.name


# -- all weights, and four bits ------------------------------------------------------------------

def test_without_lora_all_weights_are_learnt_and_a_model_is_left(tmp_path, capsys):
    assert main(["tune", str(write(tmp_path, (LORA, ""), ("1e-2", "1e-3")))]) == 0
    assert capsys.readouterr().out.startswith(f"The model is in {tmp_path / 'out' / 'model'}.\nHel")
    model, words = checkpoint.load(tmp_path / "out" / "model")
    base, base_words = checkpoint.load("tales")
    assert words.encode("Mia had", bos=True, eos=True) == base_words.encode(
        "Mia had", bos=True, eos=True)
    assert all(not torch.equal(w, base.state_dict()[name])
               for name, w in model.state_dict().items() if w.ndim == 2)


def test_over_four_bits_the_run_learns_as_well(tmp_path):
    run = begun(write(tmp_path, ("alpha = 8", "alpha = 8\nint4_group = 32")))
    losses = [step.loss for step in run.steps()]
    assert losses[-1] < losses[0] - 0.5


# -- bad rows ----------------------------------------------------------------------------------

BAD = {
    "{": "it is not JSON \\(",
    '{"text": "Once"}': 'it has no "messages", "conversations" or "instruction"',
    "[1]": 'it has no "messages", "conversations" or "instruction"',
    '{"messages": [{"role": "user"}]}': 'a message in it is {"role": "user"}; "role" and "content"',
    '{"messages": [{"role": "user", "content": 3}]}': "a message in it is .*both strings",
    row(("robot", "x"), ("assistant", "y")): "a message of the role 'robot' was given",
    row(("user", "x")): "it holds nothing to learn",
    row(): "it holds nothing to learn",
    '{"conversations": [{"from": "human", "value": "x"}]}': "it holds nothing to learn",
    '{"instruction": "x", "output": 3}': 'its "output" is 3; a string is needed',
    row(("user", "x"), ("assistant", "word " * 200)): "its last turn has .* a row has room for 65",
    row(("system", "x"), ("user", "x"), ("assistant", "y")): "a system message was given; compl",
}


@pytest.mark.parametrize("line", BAD, ids=[*range(len(BAD))])
def test_a_bad_line_is_refused_by_file_and_line_before_anything_is_written(tmp_path, failing, line):
    path = write(tmp_path, lines=[GOOD[0], "", line, *GOOD])
    said = failing(path)
    assert f"line 3 of {tmp_path / 'dialogs.jsonl'}: " in said
    assert re.search(BAD[line], said)
    assert not (tmp_path / "out").exists()


def test_bad_lines_are_skipped_and_counted_where_the_recipe_says_so(tmp_path):
    said = []
    path = write(tmp_path, ("held_out = 4", 'held_out = 4\nbad = "skip"'), lines=[*BAD, *GOOD])
    run = begun(path, say=said.append)
    assert said[-1].startswith(f"12 lines of {(tmp_path / 'dialogs.jsonl').as_posix()} were left o")
    (tmp_path / "clean").mkdir()
    clean = begun(write(tmp_path / "clean"))
    assert run.corpus.digest == clean.corpus.digest


def test_forms_may_be_mixed_in_a_file_and_change_nothing(tmp_path):
    lines = GOOD.copy()
    asked, said = (message["content"] for message in json.loads(GOOD[8])["messages"])
    lines[8] = json.dumps({"instruction": asked, "input": "", "output": said})
    lines[9] = GOOD[9].replace("messages", "conversations").replace('"role"', '"from"').replace(
        '"content"', '"value"').replace('"user"', '"human"').replace('"assistant"', '"gpt"')
    digests = []
    for name, rows in (("one", GOOD), ("mixed", lines)):
        (tmp_path / name).mkdir()
        digests.append(begun(write(tmp_path / name, lines=rows)).corpus.digest)
    assert digests[0] == digests[1]


def test_the_words_of_a_recipe_are_those_of_the_code():
    assert tune_recipe.ANSWERS == messages.ANSWERS
    assert tune_recipe.GRADES == GRADES


# -- recipes that cannot be ----------------------------------------------------------------------

@pytest.mark.parametrize(("change", "message"), [
    (("held_out = 4", "held_out = 40"), "has 40 dialogs that can be learnt from, and 40 are held"),
    (("held_out = 4", "held_up = 4"), "[text] has keys that mean nothing here: held_up"),
    (('format = "completion"', ""), "name no format of dialogs that is known here; one is needed"),
    (('format = "completion"', 'format = "llama-9"'), "no format is called 'llama-9'"),
    (('format = "completion"', 'format = "llama-3"'), "<|begin_of_text|>"),
    (("row_length = 65", "row_length = 9999"), "rows of 9999 tokens were asked for; the model"),
    (('where = "all"', 'where = "w9"'), "the pattern 'w9' was given"),
    (("rank = 4", "rank = 0"), "[lora] rank is 0; a whole number of 1 or more is needed"),
    (("alpha = 8", "alpha = -1"), "[lora] alpha is -1; a positive number is needed"),
    (("alpha = 8", "beta = 8"), "[lora] has keys that mean nothing here: beta"),
    (("alpha = 8", "alpha = 8\nint4_group = 7"), "int4(7) was asked for"),
    (("held_out = 4", 'held_out = 4\nanswers = "first"'), "[text] answers is 'first'; one of last"),
    (("alpha = 8", "alpha = 8\nmerged = 1"), "[lora] merged is 1; true or false is needed"),
    (("warmup = 1", "warmup = 1\nsample_every = -1"), "[training] sample_every is -1; a whole"),
    (("warmup = 1", 'warmup = 1\ncheckpoint_activations = "no"'),
     "[training] checkpoint_activations is 'no'; true or false is needed"),
    (("[training]", "[trainin]"), "the recipe has no table [training]; it needs [text]"),
    (("dialogs.jsonl", "nowhere.jsonl"), "nowhere.jsonl cannot be opened (No such file"),
    (('model = "tales"', 'model = "tails"'), "tails"),
])
def test_a_recipe_that_cannot_be_is_one_sentence(tmp_path, failing, change, message):
    assert message in failing(write(tmp_path, change))


# -- talks that the package makes itself ---------------------------------------------------------

TALKS = [('model = "tales"', 'model = "dialogues-base"'),
         ('source = "{folder}/dialogs.jsonl"', 'source = "dialogues"\ndialogs = 30'),
         ("row_length = 65", "row_length = 257"), ('"completion"', '"llama-3"')]


def written(folder, *changes):
    text = RECIPE
    for old, new in [*TALKS, *changes]:
        assert old in text
        text = text.replace(old, new, 1)
    (folder / "recipe.toml").write_text(text.replace("{folder}", folder.as_posix()))
    return folder / "recipe.toml"


def test_talks_of_the_package_are_learnt_as_those_in_a_file(tmp_path):
    made = begun(written(tmp_path))
    talks = list(dialogues(30, seed=3))
    lines = "\n".join(json.dumps({"messages": talk}) for talk in talks)
    (tmp_path / "talks.jsonl").write_text(lines)
    read = begun(written(tmp_path, ('"dialogues"\ndialogs = 30', '"{folder}/talks.jsonl"')))
    assert made.corpus.digest == read.corpus.digest
    assert read.corpus.floor is None
    expected = floor_per_token(talks[:4], lambda talk: sum(dialog_tokens(
        [Message(m["role"], m["content"]) for m in talk], made.corpus.tokenizer,
        named("llama-3")).said))
    assert made.corpus.floor == pytest.approx(expected)
    assert "The floor is" in made.summary()


def test_a_sloppy_demonstrator_has_no_known_floor(tmp_path):
    run = begun(written(tmp_path, ("dialogs = 30", 'dialogs = 30\ngrade = "sloppy"')))
    assert run.corpus.floor is None
    assert run.corpus.digest != begun(written(tmp_path)).corpus.digest


@pytest.mark.parametrize(("old", "new", "message"), [
    ("dialogs = 30", "", r"\[text\] dialogs is None; a whole number of 5 or more is needed"),
    ("dialogs = 30", "dialogs = 4", r"\[text\] dialogs is 4; a whole number of 5"),
    ("dialogs = 30", 'dialogs = 30\ngrade = "good"', "one of clean, sloppy, wrong is needed"),
    ('source = "dialogues"', 'source = "x.jsonl"', "it is for the source 'dialogues' only")])
def test_what_talks_need_is_said(tmp_path, old, new, message):
    with pytest.raises(ValueError, match=message):
        tune_recipe.read(written(tmp_path, (old, new)))
