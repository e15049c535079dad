"""What the package says it can do, in a line each; and that saying so costs nothing."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import llama_edu
from llama_edu import batches, chat, checkpoint, cosine, evaluate, generate, load, load_model, train
from llama_edu.formats import convert
from llama_edu.generation import answer
from llama_edu.prompts import Message
from llama_edu.sampling import top_k

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def teller():
    return load()


def test_importing_the_package_loads_nothing_heavy():
    code = ("import sys, llama_edu; heavy = {'torch', 'numpy', 'matplotlib', 'sentencepiece'};"
            "assert not heavy & set(sys.modules), heavy & set(sys.modules);"
            "assert 'load' in dir(llama_edu); from llama_edu import load; assert callable(load)")
    subprocess.run([sys.executable, "-c", code], check=True)


def test_everything_that_is_named_exists_and_no_module_hides_it():
    for name in llama_edu.__all__:
        assert getattr(llama_edu, name).__doc__ or name == "RELEASES"
        assert not (ROOT / "llama_edu" / f"{name}.py").exists()
        assert not (ROOT / "llama_edu" / name).exists()


def test_the_names_for_type_checkers_are_those_that_are_found():
    text = (ROOT / "llama_edu" / "__init__.py").read_text(encoding="utf-8")
    said = {name: module for module, name in re.findall(r"from \.(\S+) import (\w+) as", text)}
    assert said == llama_edu._HOME
    assert (ROOT / "llama_edu" / "py.typed").exists()


def test_what_does_not_exist_is_said_in_a_sentence():
    with pytest.raises(AttributeError, match="llama_edu has no 'lode'; it has Llama, ModelConfig"):
        _ = llama_edu.lode


def test_generate_is_one_line(teller):
    made = generate(*teller, "Once upon a time", max_new=20)
    assert made == "".join(answer(*teller, "Once upon a time", top_k(1), max_new=20))
    assert generate(*teller, "Once", temperature=0.9, seed=1) == generate(
        *teller, "Once", temperature=0.9, seed=1) != generate(
        *teller, "Once", temperature=0.9, seed=2)
    assert len(generate(*teller, "Once", max_new=10**6)) > 20       # as far as the context goes


def test_chat_is_one_line(teller):
    said = chat(*teller, "Once upon a time", format="completion", temperature=0.0)
    assert said == generate(*teller, "Once upon a time", max_new=512)
    dialog = [Message("user", "Once upon"), Message("assistant", " a time", cut=True)]
    assert chat(*teller, dialog, format="completion", temperature=0.0) == said
    with pytest.raises(KeyError, match="no format is called 'llama'"):
        chat(*teller, "Hi", format="llama")


def test_train_and_evaluate_are_one_line(teller, tmp_path):
    model, tokenizer = load("tales")
    (tmp_path / "notes.txt").write_text("The llama sat on a red hat. " * 60)
    before = evaluate(model, batches(tmp_path / "notes.txt", tokenizer, length=65))
    assert not model.training
    steps = list(train(model, batches(tmp_path / "notes.txt", tokenizer, length=65, size=4, seed=0),
                       lr=cosine(1e-3, warmup=2, steps=8), steps=8))
    assert steps[-1].loss < steps[0].loss
    assert evaluate(model, batches(tmp_path / "notes.txt", tokenizer, length=65)) < before - 1


def test_batches_hold_every_token_once(teller):
    _, tokenizer = teller
    texts = ["One red hat.", "A llama sat on it.", "And so on, and so on, and so on, and so on."]
    learnt = sum(int(batch["learn"].sum()) for batch in batches(texts, tokenizer, length=9, size=2))
    assert learnt == sum(len(tokenizer.encode(text, bos=True, eos=True)) - 1 for text in texts)


def test_weights_without_a_tokenizer_are_loaded_in_one_call(teller, tmp_path):
    model, _ = teller
    convert.convert("tales", tmp_path / "all", format="hf")
    for file in (tmp_path / "all").glob("tokenizer*"):
        file.rename(tmp_path / file.name)
    again = load_model(tmp_path / "all")
    assert all(torch.equal(w, again.state_dict()[name]) for name, w in model.state_dict().items())
    with pytest.raises(ValueError, match=r"has no tokenizer; .*load\(..., tokenizer=...\). load_"):
        load(tmp_path / "all")
    _, tokenizer = load(tmp_path / "all", tokenizer=tmp_path)
    assert tokenizer.encode("A red hat") == teller[1].encode("A red hat")


def test_the_first_code_of_the_readme_runs(tmp_path, monkeypatch, capsys):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    code = re.search(r"```python\n(.*?)```", readme, re.S)[1]
    (tmp_path / "notes.txt").write_text("A llama sat on a red hat. " * 300)
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    out = capsys.readouterr().out
    for name in ("load", "generate", "chat", "train", "evaluate"):
        assert f"{name}(" in code
    assert len(out.splitlines()) >= 3


def test_the_bundled_model_has_a_name():
    assert checkpoint.open_source("tales").config == load_model("tales").config


# -- the command -------------------------------------------------------------------------------

def run(*arguments):
    return subprocess.run([sys.executable, "-m", *arguments], capture_output=True, text=True,
                          check=False, cwd=ROOT)


def test_the_module_is_the_command():
    for module in ("llama_edu", "llama_edu.cli"):
        made = run(module, "info", "llama-3.1-8b")
        assert (made.returncode, made.stderr) == (0, "")
        assert "8,030,261,248" in made.stdout
    assert run("llama_edu", "--version").stdout == f"llama-edu {llama_edu.__version__}\n"


@pytest.mark.parametrize("arguments", [["--help"], ["info"], ["info", "llama-3.1-8b"],
                                       ["--version"], ["chat", "--help"], ["convert", "--help"],
                                       ["info", "llama-2-7b", "llama-3-8b"], ["info", "--json"],
                                       ["progress"], ["train", "--help"], ["start", "--help"]])
def test_what_needs_no_torch_loads_none(arguments):
    """Loading it is what takes seconds; how long the rest takes is not a thing to assert."""
    code = ("import sys\nfrom llama_edu.cli import main\ntry:\n    main(sys.argv[1:])\n"
            "except SystemExit as end:\n    assert not end.code\n"
            "assert not {'torch', 'matplotlib'} & set(sys.modules)")
    made = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True,
                          check=False)
    assert made.returncode == 0, made.stderr


def test_the_choices_of_the_command_are_those_of_the_converter():
    from llama_edu.cli import convert as command
    assert convert.FORMATS == command.FORMATS
    assert set(command.KINDS) == set(convert.KINDS)
    assert set(command.DTYPES) == set(convert.DTYPES)


def test_info_tells_of_a_model_in_files():
    made = run("llama_edu", "info", "llama_edu/assets/tales")
    assert "29, read as bfloat16" in made.stdout
    assert "760" in made.stdout
    missing = run("llama_edu", "info", "llama_edu/assets/tails")
    assert missing.returncode == 2
    assert "there is no folder or file 'llama_edu/assets/tails'" in missing.stderr
