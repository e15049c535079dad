"""The vocabulary of the talks: made by its recipe, words whole, with the marks of Llama 3."""

import re
import statistics

import pytest
from transformers import AutoTokenizer

from llama_edu.data import dialogues_tokenizer
from llama_edu.data.dialogues import dialogues
from llama_edu.prompts import Message, dialog_tokens, of_template, stop_ids
from llama_edu.prompts.llama3 import LLAMA_3


@pytest.fixture(scope="module")
def tokenizer():
    return dialogues_tokenizer.tokenizer()


def as_tokens(talk, tokenizer):
    return dialog_tokens([Message(**message) for message in talk], tokenizer, LLAMA_3)


def numbers(text):
    """Numbers of the README by name: `| median of a talk | 106 tokens |`."""
    return {name: float(number.replace(",", ""))
            for name, number in re.findall(r"^\| ([^|]+?) \| ([\d.,]+)", text, re.M)}


def test_the_recipe_makes_the_files_again():
    for name, content in dialogues_tokenizer.recipe().items():
        assert (dialogues_tokenizer.FOLDER / name).read_bytes() == content, name


def test_every_word_of_the_talks_is_one_piece(tokenizer):
    said = {message["content"] for talk in dialogues(600, seed=31) for message in talk}
    for word in {word for text in said for word in re.findall(r" ?[A-Za-z]+", text)} | {
            "user", "assistant", "system"}:
        assert len(tokenizer.encode(word)) == 1, word


def test_talks_are_as_short_as_the_readme_says(tokenizer):
    text = (dialogues_tokenizer.FOLDER / "README.md").read_text(encoding="utf-8")
    stated = numbers(text.split("## Vocabulary\n")[1].split("\n## ")[0])
    talks = [as_tokens(talk, tokenizer) for talk in dialogues(500, seed=99)]
    lengths = sorted(len(talk.ids) for talk in talks)
    assert stated == {"pieces": tokenizer.n_vocab, "median of a talk": statistics.median(lengths),
                      "nineteen talks in twenty, at most": lengths[475],
                      "longest": lengths[-1],
                      "said by the assistant": round(statistics.mean(
                          sum(talk.said) for talk in talks), 1)}
    assert stated["median of a talk"] < 120


def test_a_talk_survives_the_round_trip(tokenizer):
    for talk in dialogues(100, seed=32):
        for message in talk:
            assert tokenizer.decode(tokenizer.encode(message["content"])) == message["content"]


def test_an_answer_ends_with_the_end_of_a_turn(tokenizer):
    (end,) = tokenizer.encode("<|eot_id|>", allow_special=("<|eot_id|>",))
    assert end in stop_ids(tokenizer, LLAMA_3)
    ids, said = as_tokens(next(dialogues(1, seed=0)), tokenizer)
    assert ids[-1] == end
    assert said[-1]


def test_transformers_renders_the_same_tokens_and_the_same_mask(tokenizer):
    theirs = AutoTokenizer.from_pretrained(dialogues_tokenizer.FOLDER)
    assert of_template(theirs.chat_template) == LLAMA_3
    for talk in dialogues(40, seed=33):
        ours = as_tokens(talk, tokenizer)
        made = theirs.apply_chat_template(talk, return_dict=True, return_assistant_tokens_mask=True)
        assert made["input_ids"] == ours.ids
        assert [bool(said) for said in made["assistant_masks"]] == ours.said
        prompt = theirs.apply_chat_template(talk[:-1], add_generation_prompt=True,
                                            return_dict=True)["input_ids"]
        assert prompt == as_tokens(talk[:-1], tokenizer).ids
