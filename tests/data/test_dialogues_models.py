"""The models of the talks that come with the package: their recipes, and what the README says."""

import csv
import re

import pytest
from transformers import AutoModelForSequenceClassification

from llama_edu import checkpoint
from llama_edu.alignment import reward_files
from llama_edu.alignment.exam import marks, messages, replies
from llama_edu.alignment.messages import documents
from llama_edu.alignment.preferences import accuracy, gaps, pair
from llama_edu.alignment.rejection import kl_bound
from llama_edu.data.dialogues import dialogues, floor_per_token, prompts
from llama_edu.data.dialogues_labels import ceilings, labelled
from llama_edu.data.dialogues_tokenizer import FOLDER
from llama_edu.losses import next_learnt_token
from llama_edu.prompts.llama3 import LLAMA_3
from llama_edu.sampling import top_k
from llama_edu.training import packing, recipe, tune_recipe
from llama_edu.training_loop import evaluate

TUNED = {"sft": "dialogues", "sloppy": "dialogues-sloppy"}
MARKS = "wishes", "question", "rule", "refusal", "over-refusal", "tale", "chat", "score"


def table(heading):
    """Rows of the README's table under a heading, by their first cell: name of column to text."""
    part = (FOLDER / "README.md").read_text(encoding="utf-8").split(f"## {heading}\n")[1]
    rows = [[cell.strip() for cell in line.strip("|").split("|")]
            for line in re.findall(r"^\|.*\|$", part.split("\n## ")[0], re.M)]
    return {row[0]: dict(zip(rows[0][1:], row[1:], strict=True)) for row in rows[2:]}


@pytest.fixture(scope="module")
def held_out():
    return list(dialogues(100, seed=123_456))


@pytest.mark.parametrize("name", ["base", "sft", "sloppy", "helpful", "safe"])
def test_a_folder_is_at_most_a_megabyte_and_a_half(name):
    assert sum(file.stat().st_size for file in (FOLDER / name).iterdir()) <= 1_500_000


def test_the_base_has_the_shape_of_its_recipe():
    plan = recipe.read(FOLDER / "base" / "recipe.toml")
    model, tokenizer = checkpoint.load("dialogues-base")
    assert model.config == plan.model
    assert plan.text.source == "scripts"
    assert tokenizer.n_vocab == plan.model.vocab_size
    for name in ("tokenizer.json", "tokenizer_config.json"):
        for folder in ("base", *TUNED):
            assert (FOLDER / folder / name).read_bytes() == (FOLDER / name).read_bytes()


@pytest.mark.parametrize("name", TUNED)
def test_a_tuned_model_begins_as_the_base(name):
    plan = tune_recipe.read(FOLDER / name / "recipe.toml")
    assert (plan.model, plan.text.source, plan.lora) == ("dialogues-base", "dialogues", None)
    assert plan.text.grade == ("clean" if name == "sft" else "sloppy")


@pytest.mark.parametrize("name", ["dialogues-base", *TUNED.values()])
def test_the_judge_says_what_the_readme_says(name, held_out):
    model, tokenizer = checkpoint.load(name)
    questions = [prompt for talk in held_out for prompt in prompts(talk)]
    found = marks(questions, replies(model, tokenizer, LLAMA_3, questions, top_k(1)))
    said = table("How they answer")[name]
    for mark in MARKS:      # one answer of some fifty may turn on another processor
        assert found[mark] == pytest.approx(float(said[mark]), abs=0.03), mark


def test_the_distance_to_the_floor_is_what_the_readme_says():
    plan = tune_recipe.read(FOLDER / "sft" / "recipe.toml")
    model, tokenizer = checkpoint.load("dialogues")
    talks = list(dialogues(plan.text.held_out, seed=plan.seed))
    found = list(documents(map(messages, talks), tokenizer, LLAMA_3, answers="all",
                           length=plan.text.row_length))
    rows = packing.pack(found, length=plan.text.row_length)
    loss = evaluate(model, packing.in_order(rows, size=4, length=plan.text.row_length),
                    next_learnt_token)
    counts = iter([int(document[1:, 1].sum()) for document in found])
    floor = floor_per_token(talks, lambda _: next(counts))
    said = {name: float(row["nats per token"]) for name, row in table("Loss").items()}
    assert loss == pytest.approx(said["held-out loss"], abs=1e-3)
    assert floor == pytest.approx(said["floor"], abs=6e-4)
    assert 0 < loss - floor < 0.02


@pytest.mark.parametrize("about", ["helpful", "safe"])
def test_reward_models_prefer_as_recorded(about):
    """`reward.csv` is what `tools/recordings/reward.py` measured when it made them."""
    with (FOLDER / "reward.csv").open(encoding="utf-8") as file:
        recorded = {row["rating"]: row for row in csv.DictReader(file) if row["about"] == about}
    model, tokenizer = reward_files.load(FOLDER / about)
    held_out = list(labelled(1_000, seed=12, about=about, sharpness=6.0))
    pairs = [pair(messages(each.prompt), each.chosen, each.rejected, each.rating, tokenizer,
                  LLAMA_3) for each in held_out]
    shares = accuracy(gaps(model, pairs, size=64), [each.rating for each in pairs])
    most = ceilings(held_out, sharpness=6.0)
    assert set(shares) == set(recorded)
    for rating, share in shares.items():
        assert share.count == int(recorded[rating]["pairs"])
        assert share.right == pytest.approx(float(recorded[rating]["accuracy"]), abs=0.02)
        assert most[rating] == pytest.approx(float(recorded[rating]["ceiling"]), abs=6e-4)
    assert shares["significantly better"].right >= {"helpful": 0.85, "safe": 0.95}[about]
    assert AutoModelForSequenceClassification.from_pretrained(FOLDER / about).num_labels == 1


def test_the_plane_has_every_method_and_no_best_of_n_beyond_its_bound():
    """`plane.csv` is what `tools/recordings/plane.py` measured."""
    with (FOLDER / "plane.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    methods = {row["method"] for row in rows}
    assert len(rows) == 3 * len(methods) >= 3 * 7
    start = {row["seed"]: float(row["judge"]) for row in rows if row["method"] == "start"}
    for row in rows:
        if row["method"] != "start":
            assert float(row["judge"]) > start[row["seed"]] + 0.02
        if row["method"].startswith("best of "):
            assert float(row["kl"]) < kl_bound(int(row["method"].split()[-1]))
