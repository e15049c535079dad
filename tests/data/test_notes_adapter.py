"""The adapter that comes with the package: what its README says, of the model that is installed."""

import re

import pytest

from llama_edu import load
from llama_edu.alignment.exam import replies
from llama_edu.data.notes import FOLDER, asked, is_json, is_right, notes
from llama_edu.prompts import named
from llama_edu.sampling import top_k
from llama_edu.tokenizer import installed
from llama_edu.training import tune_recipe
from llama_edu.training.lora import load_adapter

pytestmark = pytest.mark.skipif(installed.find("smollm2") is None, reason="no smollm2 installed")
N = 12                          # of the README's 40 notes


def test_the_folder_is_small_and_its_recipe_is_read():
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) < 2_000_000
    plan = tune_recipe.read(FOLDER / "recipe.toml")
    assert (plan.model, plan.text.source, plan.lora.rank) == ("smollm2", "notes.jsonl", 8)


def test_json_comes_out_where_none_did():
    said = dict(re.findall(r"^\| ([^|]+?) \| .* ([\d.]+) \|$",
                           (FOLDER / "README.md").read_text(encoding="utf-8"), re.M))
    model, tokenizer = load("smollm2")
    rows = list(notes(N, seed=1))
    talks = [[{"role": "user", "content": asked(note)}] for note, _ in rows]

    def shares():
        answers = replies(model, tokenizer, named("smollm2"), talks, top_k(1), max_new=64)
        return (sum(map(is_json, answers)) / N,
                sum(is_right(answer, record)
                    for answer, (_, record) in zip(answers, rows, strict=True)) / N)

    before = shares()
    load_adapter(model, FOLDER)
    after = shares()
    assert before[0] < 0.5
    assert before[1] < 0.1
    assert after[0] == pytest.approx(float(said["one JSON object and nothing else"]), abs=0.1)
    assert after[1] == pytest.approx(float(said["the very record"]), abs=0.15)
