"""Pairs of answers in a JSONL file, in the forms that others write."""

import json

import pytest

from llama_edu.alignment.pair_files import parse
from llama_edu.prompts import Message

USER, YES, NO = (Message("user", "Is it?"), Message("assistant", "Yes."),
                 Message("assistant", "No."))


def said(*messages):
    return [{"role": each.role, "content": each.content} for each in messages]


def read(**row):
    return parse(json.dumps(row).encode())


FORMS = {
    "strings": {"prompt": "Is it?", "chosen": "Yes.", "rejected": "No."},
    "lists": {"prompt": said(USER), "chosen": said(YES), "rejected": said(NO)},
    "mixed": {"messages": said(USER), "chosen": "Yes.", "rejected": said(NO)},
    "the prompt once more": {"prompt": "Is it?", "chosen": said(USER, YES),
                             "rejected": said(USER, NO), "messages": said(USER, YES), "score": 3},
    "the prompt in the answers": {"chosen": said(USER, YES), "rejected": said(USER, NO)},
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_says_the_same(form):
    assert read(**FORMS[form]) == ([USER], [YES], [NO])


def test_the_system_may_be_told_something():
    system = Message("system", "Be brief.")
    assert read(**FORMS["strings"], system="Be brief.").prompt == [system, USER]
    assert read(chosen=said(system, USER, YES), rejected=said(system, USER, NO)) == (
        [system, USER], [YES], [NO])


def test_answers_that_begin_alike_share_no_more_than_the_questions():
    more = Message("user", "Why?")
    asked = read(chosen=said(USER, YES, more, NO), rejected=said(USER, YES))
    assert asked == ([USER], [YES, more, NO], [YES])


@pytest.mark.parametrize(("row", "message"), [
    ({"prompt": "x", "chosen": "y"}, 'it has no "chosen" and "rejected"; both are needed'),
    ({"chosen": "y", "rejected": "z"}, "its answers begin with no common question"),
    ({"prompt": "x", "chosen": 3, "rejected": "z"},
     'its "chosen" is 3; a string or a list of messages is needed'),
    ({"prompt": None, "chosen": "y", "rejected": "z"}, 'its "prompt" is null; a string or a list'),
    ({"prompt": "x", "chosen": [], "rejected": "z"}, 'its "chosen" has the roles of nobody'),
    ({"prompt": "x", "chosen": "y", "rejected": said(NO, USER)},
     'its "rejected" has the roles assistant, user; the assistant must say the first word'),
    ({"prompt": "x", "chosen": [{"role": "assistant"}], "rejected": "z"}, "a message in it is"),
    ({"prompt": "x", "chosen": "y", "rejected": "z", "system": 1}, 'its "system" is 1; a string'),
])
def test_what_is_no_pair_is_refused(row, message):
    with pytest.raises(ValueError, match=message):
        read(**row)
