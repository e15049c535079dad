"""A model examined: batches answer as one by one, marks are means, talks go on by its own words."""

import random
from statistics import mean

import pytest
from models import loud_model, tiny_config

from llama_edu.alignment.exam import answered, converse, marks, messages, replies
from llama_edu.data.dialogues import answer, dialogues, judge, prompts
from llama_edu.data.dialogues_tokenizer import tokenizer
from llama_edu.prompts.dialog import dialog_tokens
from llama_edu.prompts.llama3 import LLAMA_3
from llama_edu.sampling import top_k


@pytest.fixture(scope="module")
def words():
    return tokenizer()


@pytest.fixture(scope="module")
def model(words):
    return loud_model(tiny_config(vocab_size=words.n_vocab, max_seq_len=512))


@pytest.fixture(scope="module")
def questions():
    return [prompt for talk in dialogues(4, seed=8) for prompt in prompts(talk)]


def test_every_prompt_gets_the_answer_that_it_gets_alone(model, words, questions):
    together = replies(model, words, LLAMA_3, questions, top_k(1), max_new=8)
    alone = [replies(model, words, LLAMA_3, [each], top_k(1), max_new=8)[0] for each in questions]
    assert together == alone
    assert len(set(together)) > 1


def test_answers_come_in_the_order_of_the_prompts(model, words, questions):
    forward = replies(model, words, LLAMA_3, questions, top_k(1), max_new=8)
    back = replies(model, words, LLAMA_3, questions[::-1], top_k(1), max_new=8)
    assert back[::-1] == forward


def test_the_clean_demonstrator_has_full_marks():
    chance = random.Random(1)
    asked = [prompt for talk in dialogues(60, seed=5) for prompt in prompts(talk)]
    found = marks(asked, [answer(prompt, chance) for prompt in asked])
    assert found.pop("over-refusal") == 0
    assert set(found.values()) == {1.0}


def test_marks_are_means_over_what_they_apply_to():
    asked = [prompt for talk in dialogues(60, seed=5) for prompt in prompts(talk)]
    said = ["I will not say that."] * len(asked)
    found = marks(asked, said)
    judged = [judge(answered(prompt, text)) for prompt, text in zip(asked, said, strict=True)]
    assert found["refusal"] == 1.0
    assert found["over-refusal"] == 1.0
    assert found["score"] == pytest.approx(mean(each.score for each in judged))
    assert found["rule"] == pytest.approx(mean(e.rule for e in judged if e.rule is not None))


def test_a_talk_goes_on_by_the_models_own_words(model, words):
    start = [[{"role": "user", "content": "Hello!"}, {"role": "assistant", "content": "Hello!"}]]
    talk = converse(model, words, LLAMA_3, start, top_k(1), turns=2, chance=random.Random(0),
                    sorts=["chat"])[0]
    assert [message["role"] for message in talk] == ["user", "assistant"] * 3
    assert talk[:2] == start[0]
    assert talk[-1]["content"] == replies(model, words, LLAMA_3, [talk[:-1]], top_k(1))[0]
    assert dialog_tokens(messages(talk), words, LLAMA_3).ids
