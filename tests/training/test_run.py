"""`llama-edu train`: from a recipe to a folder that this package and transformers read."""

import csv
import io
import json
import sys

import pytest
import torch
from models import assert_same, some_tokens
from oracles import huggingface_logits
from recipes import TINY
from safetensors.torch import load_file
from transformers import AutoTokenizer, LlamaForCausalLM

from llama_edu import checkpoint
from llama_edu.cli import main
from llama_edu.data import dialogues_tokenizer, tales
from llama_edu.data.scripts import scripts
from llama_edu.training import recipe
from llama_edu.training import run as training_run
from llama_edu.training import state as training_state


def write(tmp_path, *changes, out="out", name="recipe.toml"):
    text = TINY.replace('out = "out"', f"out = {json.dumps(str(tmp_path / out))}")
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder trained by the command, once."""
    path = tmp_path_factory.mktemp("trained")
    assert main(["train", str(write(path))]) == 0
    return path / "out"


@pytest.fixture
def failing(capsys):
    def run(path):
        code = main(["train", str(path)])
        out, err = capsys.readouterr()
        assert (code, out) == (2, "")
        *told, sentence = err.splitlines()
        assert all(line.startswith("llama-edu: ") for line in (*told, sentence))
        assert not any("needed" in line for line in told)       # they say what takes time
        return sentence
    return run


# With a vocabulary as small as TINY's, a tale takes some 300 tokens.
WHOLE_TALES = [("row_length = 65", "row_length = 513"), ("max_seq_len = 64", "max_seq_len = 512"),
               ("steps = 12", "steps = 3")]


# -- what a run leaves -------------------------------------------------------------------------


def test_the_folder_holds_model_metrics_plot_and_two_checkpoints(trained):
    assert sorted(path.name for path in trained.iterdir()) == [
        "checkpoints", "loss.png", "metrics.csv", "model"]
    assert len(list((trained / "checkpoints").iterdir())) == 2
    assert (trained / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert list(trained.rglob("*.part")) == []


def test_the_metrics_are_a_table_with_one_row_a_step(trained):
    with (trained / "metrics.csv").open(encoding="utf-8") as opened:
        rows = list(csv.DictReader(opened))
    assert [*rows[0]] == ["index", "loss", "lr", "grad_norm", "count", "seconds"]
    assert [int(row["index"]) for row in rows] == list(range(12))
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])
    assert float(rows[1]["lr"]) == 1e-2                 # the peak, at the end of the warm-up
    assert float(rows[-1]["lr"]) == pytest.approx(1e-3)


def test_the_model_folder_is_read_by_transformers_with_the_same_logits(trained):
    model, words = checkpoint.load(trained / "model")
    twin = LlamaForCausalLM.from_pretrained(trained / "model", dtype=torch.float32).eval()
    tokens = some_tokens(model.config)
    with torch.inference_mode():
        assert_same(model(tokens[:, :60]), huggingface_logits(twin, tokens[:, :60]))
    theirs = AutoTokenizer.from_pretrained(trained / "model")
    tale = tales.story(5)
    assert theirs(tale)["input_ids"] == words.encode(tale, bos=True, eos=False)
    assert words.stop_ids == {theirs.eos_token_id} == {twin.generation_config.eos_token_id}


def test_the_weights_are_those_of_the_last_step_in_the_dtype_asked_for(trained):
    stored = load_file(trained / "model" / "model.safetensors")
    assert {w.dtype for w in stored.values()} == {torch.bfloat16}
    (last,) = list((trained / "checkpoints").glob("step-00000012.state"))
    run = training_run.Run(recipe.read(trained.parent / "recipe.toml"))
    state = training_state.load(last, run=run.name)
    assert torch.equal(stored["model.norm.weight"], state.model["norm.weight"].bfloat16())


def test_the_command_generates_from_what_it_trained(trained, capsys):
    assert main(["generate", "Once", "--model", str(trained / "model"), "--max-new", "5"]) == 0
    assert capsys.readouterr().out.startswith("Once")


def test_the_summary_tells_the_held_out_loss_and_the_floor(tmp_path, capsys):
    assert main(["train", str(write(tmp_path, *WHOLE_TALES))]) == 0
    out, err = capsys.readouterr()
    assert "writing 60 tales" in err                    # what takes time before the first step
    assert "turning 60 documents into tokens" in err
    assert "step 2, loss " in err
    assert "%" not in err                               # no terminal, no bar
    assert f"The model is in {tmp_path / 'out' / 'model'}. Held-out loss: " in out
    model, words = checkpoint.load(tmp_path / "out" / "model")
    held_out = list(tales.stories(60, seed=0))[:8]
    tokens = [torch.tensor(words.encode(tale, bos=True, eos=True)) for tale in held_out]
    floor = -sum(map(tales.log_prob, held_out)) / sum(len(t) - 1 for t in tokens)
    assert f"The floor is {floor:.4f}." in out


def test_there_is_no_floor_under_tales_that_are_cut(tmp_path, capsys):
    assert main(["train", str(write(tmp_path))]) == 0
    assert "The floor" not in capsys.readouterr().out


def test_the_held_out_loss_is_that_of_the_documents_one_by_one(tmp_path):
    run = training_run.Run(recipe.read(write(tmp_path, ('"tales"', f'"{one_text(tmp_path)}"'),
                                             ("tales = 60", ""), ("held_out = 8", "held_out = 2"),
                                             *WHOLE_TALES)))
    total = count = 0
    for document in run.corpus.held_out:
        tokens = document.long()[None]
        logits = run.model(tokens[:, :-1]).log_softmax(-1)
        total -= logits.gather(-1, tokens[:, 1:, None]).sum().item()
        count += tokens.shape[1] - 1
    # Sums in another order; a mean of the documents' means would be off by more than 1e-3.
    assert run.held_out_loss() == pytest.approx(total / count, rel=1e-5)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_bar_is_shown_in_a_terminal(tmp_path, monkeypatch):
    stderr = Terminal()
    monkeypatch.setattr(sys, "stderr", stderr)
    assert main(["train", str(write(tmp_path))]) == 0
    assert "12/12" in stderr.getvalue()
    assert "loss=" in stderr.getvalue()


# -- going on ----------------------------------------------------------------------------------


def weights(folder):
    return (folder / "model" / "model.safetensors").read_bytes()


def stopped(path, *, after):
    """Train as the command does, and stop reading after so many steps."""
    run = training_run.Run(recipe.read(path))
    run.resume()
    for step in run.steps():
        if step.index + 1 == after:
            return


def test_a_run_that_was_stopped_goes_on_to_the_same_weights(trained, tmp_path, capsys):
    path = write(tmp_path)
    stopped(path, after=7)
    assert main(["train", str(path)]) == 0
    assert "llama-edu: going on after step 6.\n" in capsys.readouterr().err
    assert weights(tmp_path / "out") == weights(trained)


def test_a_torn_checkpoint_is_named_and_the_one_before_it_used(trained, tmp_path, capsys):
    path = write(tmp_path)
    stopped(path, after=7)
    last = tmp_path / "out" / "checkpoints" / "step-00000006.state"
    last.write_bytes(last.read_bytes()[:1000])
    assert main(["train", str(path)]) == 0
    err = capsys.readouterr().err
    assert "step-00000006.state is damaged or cut short" in err
    assert "going on after step 4" in err
    assert weights(tmp_path / "out") == weights(trained)


def test_a_finished_run_is_not_trained_again(trained, tmp_path, capsys):
    path = write(tmp_path)
    assert main(["train", str(path)]) == 0
    metrics = (tmp_path / "out" / "metrics.csv").read_bytes()
    assert main(["train", str(path)]) == 0
    assert "the run of 12 steps is finished; with more `steps`" in capsys.readouterr().err
    assert (tmp_path / "out" / "metrics.csv").read_bytes() == metrics
    assert weights(tmp_path / "out") == weights(trained)


def test_accumulated_batches_go_on_where_they_were(tmp_path):
    changes = ("accumulate = 1", "accumulate = 3")
    whole, parts = (write(tmp_path, changes, out=name, name=f"{name}.toml") for name in ("a", "b"))
    assert main(["train", str(whole)]) == 0
    stopped(parts, after=5)
    assert main(["train", str(parts)]) == 0
    assert weights(tmp_path / "a") == weights(tmp_path / "b")


@pytest.mark.parametrize("changes", [
    ("seed = 0", "seed = 1"), ("peak_lr = 1e-2", "peak_lr = 2e-2"), ("tales = 60", "tales = 61")])
def test_a_changed_recipe_does_not_go_on_from_the_old_ones_checkpoints(tmp_path, failing, changes):
    stopped(write(tmp_path), after=4)
    err = failing(write(tmp_path, changes))
    assert "none of the 2 checkpoints in" in err
    assert "was written for another recipe or another text" in err


def test_checkpoints_may_be_written_more_often_after_a_stop(trained, tmp_path):
    stopped(write(tmp_path), after=4)
    assert main(["train", str(write(tmp_path, ("checkpoint_every = 2", "checkpoint_every = 3")))
                 ]) == 0
    assert weights(tmp_path / "out") == weights(trained)


# -- text of one's own -------------------------------------------------------------------------


def one_text(tmp_path):
    file = tmp_path / "own.jsonl"
    lines = (json.dumps({"text": tale}) for tale in tales.stories(30, seed=4))
    file.write_text("\n".join(lines), encoding="utf-8")
    return file


def test_a_file_of_ones_own_is_trained_on_without_a_floor(tmp_path, capsys):
    path = write(tmp_path, ('"tales"', json.dumps(str(one_text(tmp_path)))), ("tales = 60", ""))
    assert main(["train", str(path)]) == 0
    out = capsys.readouterr().out
    assert "Held-out loss" in out
    assert "The floor" not in out


def test_text_that_changed_is_noticed(tmp_path, failing):
    own = one_text(tmp_path)
    path = write(tmp_path, ('"tales"', json.dumps(str(own))), ("tales = 60", ""))
    stopped(path, after=4)
    own.write_text(own.read_text(encoding="utf-8").replace("a", "e", 1), encoding="utf-8")
    assert "another recipe or another text" in failing(path)


@pytest.mark.parametrize(("changes", "message"), [
    ((("dim = 16", "dim = 16\nwidth = 3"),), "[model] has keys that mean nothing here: width"),
    ((('"tales"', '"nowhere"'), ("tales = 60", "")), "there is no file or folder 'nowhere'"),
    ((("batch = 2", "batch = 2000"),), "a batch needs 2000. Give more text"),
    ((("vocab_size = 280", "vocab_size = 50_000"),), "pieces and no pair is left"),
    ((("vocab_size = 280", "vocab_size = 100"),), "256 bytes and 2 special pieces"),
])
def test_a_mistake_is_one_sentence(tmp_path, failing, changes, message):
    assert message in failing(write(tmp_path, *changes))


def test_documents_that_are_all_held_out(tmp_path, failing):
    path = write(tmp_path, ('"tales"', json.dumps(str(one_text(tmp_path)))), ("tales = 60", ""),
                 ("held_out = 8", "held_out = 30"))
    assert "own.jsonl has 30 documents and 30 are held out; at least one must be left" in \
        failing(path)


def test_an_out_folder_that_is_a_file(tmp_path, failing):
    (tmp_path / "out").write_text("in the way")
    assert "cannot be written" in failing(write(tmp_path))


def test_a_gradient_that_is_not_finite_is_one_sentence(tmp_path, failing, monkeypatch):
    from llama_edu import losses
    def spoiled(model, batch):
        loss = losses.next_token(model, batch)
        return losses.Loss(loss.total * float("nan"), loss.count)
    monkeypatch.setattr(training_run.Run, "objective", staticmethod(spoiled))
    assert "the gradient is nan, first in" in failing(write(tmp_path))


SCRIPTS = ('source = "tales"\ntales = 60', 'source = "scripts"\nscripts = 60')


def test_scripts_are_read_in_the_vocabulary_of_the_talks(tmp_path):
    run = training_run.Run(recipe.read(write(tmp_path, SCRIPTS, ("= 280", "= 720"))))
    first = next(scripts(60, seed=0))
    assert run.corpus.tokenizer.encode(first) == dialogues_tokenizer.tokenizer().encode(first)
    assert run.corpus.tokenizer.decode(run.corpus.held_out[0].tolist()) == first
    assert run.corpus.floor is None


def test_another_size_than_that_vocabularys_is_refused(tmp_path, failing):
    assert failing(write(tmp_path, SCRIPTS)).endswith(
        "vocab_size is 280; the vocabulary of scripts has 720. Correct the recipe.")
