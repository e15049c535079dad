"""The adapter of brief answers: what its README says, of the model that is installed."""

import re
from statistics import mean

import pytest

from llama_edu import load
from llama_edu.alignment.exam import replies
from llama_edu.data.brief import FOLDER, asked, keeps, letters, n_words
from llama_edu.prompts import named
from llama_edu.sampling import top_k
from llama_edu.tokenizer import installed
from llama_edu.training import tune_recipe
from llama_edu.training.lora import load_adapter

N = 10                          # of the README's 40 letters


def test_the_folder_is_small_and_its_recipe_is_read():
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) < 2_000_000
    plan = tune_recipe.read(FOLDER / "recipe.toml")
    assert (plan.model, plan.text.source, plan.dpo.beta) == ("smollm2", "pairs.jsonl", 0.1)


@pytest.mark.skipif(installed.find("smollm2") is None, reason="no smollm2 installed")
def test_answers_get_short_and_keep_the_facts():
    said = dict(re.findall(r"^\| ([^|]+?) \| .*? \| ([\d.]+) ",
                           (FOLDER / "README.md").read_text(encoding="utf-8"), re.M))
    model, tokenizer = load("smollm2")
    rows = list(letters(N, seed=1))
    talks = [[{"role": "user", "content": asked(letter)}] for letter, _ in rows]

    def measured():
        answers = replies(model, tokenizer, named("smollm2"), talks, top_k(1), max_new=64)
        return mean(map(n_words, answers)), mean(
            keeps(answer, news) for answer, (_, news) in zip(answers, rows, strict=True))

    before = measured()
    load_adapter(model, FOLDER)
    after = measured()
    assert before[0] > 40
    assert before[1] < 0.6
    assert after[0] == pytest.approx(float(said["words"]), abs=1)
    assert after[1] == pytest.approx(float(said["share of the five facts that it names"]), abs=0.1)
