"""Ghost Attention: reminded at every turn while it answers, reminded once while it learns."""

from llama_edu.alignment.ghost import ghost
from llama_edu.alignment.messages import document
from llama_edu.data.dialogues_tokenizer import tokenizer
from llama_edu.prompts.dialog import Message
from llama_edu.prompts.llama3 import LLAMA_3

QUESTIONS = ["Hello!", "Who are you?", "Good night!"]


def test_a_model_that_obeys_a_reminder_is_reminded_at_every_question():
    seen = []

    def reply(talk: list[Message]) -> str:
        seen.append(list(talk))
        return f"answer {len(seen)}"

    ghost("Be brief.", QUESTIONS, reply)
    for n, talk in enumerate(seen, start=1):
        asked = [each.content for each in talk if each.role == "user"]
        assert asked == [f"Be brief. {question}" for question in QUESTIONS[:n]]
        assert [each.content for each in talk if each.role == "assistant"] == [
            f"answer {i}" for i in range(1, n)]


def test_the_talk_to_learn_from_has_the_rule_once_and_all_answers():
    talk = ghost("Be brief.", QUESTIONS, lambda talk: f"answer {len(talk)}")
    assert [each.content for each in talk] == [
        "Be brief. Hello!", "answer 1", "Who are you?", "answer 3", "Good night!", "answer 5"]
    assert [each.role for each in talk] == ["user", "assistant"] * 3


def test_of_that_talk_only_the_last_answer_is_learnt():
    words = tokenizer()
    talk = ghost("Hello!", QUESTIONS, lambda talk: "I tell tales.")
    made = document(talk, words, LLAMA_3, answers="last", length=200)
    learnt = [token for token, own in made.tolist() if own]
    assert words.decode(learnt, special=True) == "I tell tales.<|eot_id|>"


def test_what_a_reply_is_shown_does_not_change_afterwards():
    shown = []
    ghost("Be brief.", QUESTIONS, lambda talk: shown.append(talk) or "Yes.")
    assert [len(talk) for talk in shown] == [1, 3, 5]


def test_no_question_makes_no_talk():
    assert ghost("Be brief.", [], lambda talk: "Yes.") == []
