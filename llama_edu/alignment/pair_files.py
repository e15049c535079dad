"""Pairs of answers of your own: a JSONL file, a prompt with two answers a line.

    {"prompt": "...", "chosen": "...", "rejected": "..."}
    {"messages": [{"role": "user", "content": "..."}], "chosen": "...", "rejected": "..."}
    {"chosen": [..., {"role": "assistant", "content": "..."}], "rejected": [...]}

A prompt or an answer is a string or a list of messages, in any mixture; an answer may begin with
the prompt's messages once more, and where there is no prompt it is what both answers begin with, as
`trl` and the data sets made for it have it. A field "system" is what the system is told. Further
fields mean nothing here, nor does "messages" beside a "prompt".
"""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from ..prompts.dialog import Message, n_shared
from . import message_files

PROMPTS = "prompt", "messages"
CHOSEN, REJECTED = "chosen", "rejected"


class Asked(NamedTuple):
    """What was asked, and how it was answered, better and worse."""

    prompt: list[Message]
    chosen: list[Message]
    rejected: list[Message]


def parse(line: bytes) -> Asked:
    """The pair of a line. Raises ValueError, which says what is wrong with it, for a line that is
    none."""
    row = message_files.decoded(line)
    if type(row) is not dict or not {CHOSEN, REJECTED} <= row.keys():
        raise ValueError(f'it has no "{CHOSEN}" and "{REJECTED}"; both are needed, each an answer. '
                         "Rename its fields.")
    answers = [_said(row, name, "assistant") for name in (CHOSEN, REJECTED)]
    field = next((name for name in PROMPTS if name in row), None)
    prompt = _common(*answers) if field is None else _said(row, field, "user")
    whole = [*message_files.system(row), *prompt]
    return Asked(whole, *(_checked(_after(prompt, answer), name)
                          for answer, name in zip(answers, (CHOSEN, REJECTED), strict=True)))


def _said(row: dict[str, Any], field: str, role: str) -> list[Message]:
    """A field's messages; a string is one of this role."""
    if type(row[field]) is str:
        return [Message(role, row[field])]
    if type(row[field]) is not list:
        raise ValueError(f'its "{field}" is {json.dumps(row[field], ensure_ascii=False):.80}; a '
                         "string or a list of messages is needed. Correct that line.")
    return message_files.messages(row, field)


def _common(some: Sequence[Message], others: Sequence[Message]) -> list[Message]:
    """What two dialogs begin with, up to the last question in it. Raises ValueError where there is
    none."""
    shared = some[:n_shared(some, others)]
    last = max((i for i, message in enumerate(shared) if message.role != "assistant"), default=-1)
    if last < 0:
        raise ValueError('it has no "prompt" or "messages", and its answers begin with no common '
                         "question; one of these is needed. Add the prompt.")
    return list(shared[:last + 1])


def _after(prompt: Sequence[Message], answer: list[Message]) -> list[Message]:
    """An answer without the prompt that it may begin with."""
    return answer[len(prompt):] if answer[:len(prompt)] == prompt else answer


def _checked(answer: list[Message], name: str) -> list[Message]:
    if not answer or {answer[0].role, answer[-1].role} != {"assistant"}:
        raise ValueError(f'its "{name}" has the roles '
                         f"{', '.join(message.role for message in answer) or 'of nobody'}; the "
                         "assistant must say the first word and the last. Correct that line.")
    return answer
