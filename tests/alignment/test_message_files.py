"""Dialogs in a file: three forms of one, told apart by their fields."""

import json
import re

import pytest

from llama_edu.alignment.message_files import parse
from llama_edu.prompts import Message

TOLD, ASKED, SAID = "Be short.", "Who are you?", "Tom."
EXPECTED = [Message("system", TOLD), Message("user", ASKED), Message("assistant", SAID)]
SHAREGPT = [{"from": "human", "value": ASKED}, {"from": "gpt", "value": SAID}]
FORMS = {
    "messages": {"messages": [{"role": "system", "content": TOLD},
                              {"role": "user", "content": ASKED},
                              {"role": "assistant", "content": SAID}]},
    "sharegpt": {"conversations": [{"from": "system", "value": TOLD}, *SHAREGPT]},
    "sharegpt, its system apart": {"system": TOLD, "conversations": SHAREGPT},
    "sharegpt, our names": {"system": TOLD, "conversations": [
        {"from": "user", "value": ASKED}, {"from": "assistant", "value": SAID}]},
    "alpaca": {"instruction": ASKED, "input": "", "output": SAID, "system": TOLD},
    "alpaca without input": {"instruction": ASKED, "output": SAID, "system": TOLD, "text": "x"},
}


def read(row):
    return parse(json.dumps(row).encode())


@pytest.mark.parametrize("form", FORMS)
def test_one_dialog_is_the_same_in_every_form(form):
    assert read(FORMS[form]) == EXPECTED
    assert read({"id": 3, **FORMS[form]}) == EXPECTED


def test_what_an_instruction_is_about_is_a_paragraph_of_its_own():
    assert read({"instruction": "Add.", "input": "2, 3", "output": "5", "system": None}) == [
        Message("user", "Add.\n\n2, 3"), Message("assistant", "5")]


@pytest.mark.parametrize(("row", "message"), [
    ({"prompt": "x"}, 'it has no "messages", "conversations" or "instruction"; one of these'),
    ({"messages": {}}, 'its "messages" are no list; [{"role": ..., "content": ...}, ...] is'),
    ({"conversations": "x"}, 'its "conversations" are no list; [{"from": ..., "value": ...}'),
    ({"conversations": [{"role": "user", "content": "x"}]},
     'a message in it is {"role": "user", "content": "x"}; "from" and "value", both strings'),
    ({"conversations": [{"from": "human", "value": "x", "weight": 0}]}, "and nothing else"),
    ({"conversations": [{"from": "tool", "value": "x"}]}, "a message in it is from 'tool'; one of"),
    ({"instruction": "x"}, 'its "output" is null; a string is needed'),
    ({"instruction": 3, "output": "x"}, 'its "instruction" is 3; a string is needed'),
    ({"instruction": "x", "input": ["y"], "output": "z"}, 'its "input" is ["y"]; a string is'),
    ({"conversations": SHAREGPT, "system": 1}, 'its "system" is 1; a string is needed'),
])
def test_a_row_that_is_no_dialog_is_one_sentence(row, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        read(row)
