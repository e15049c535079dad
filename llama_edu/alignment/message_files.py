"""Dialogs of your own: a JSONL file, one a line, in any of three forms that are told apart by their
fields.

    {"messages": [{"role": "user", "content": ...}, {"role": "assistant", "content": ...}]}
    {"conversations": [{"from": "human", "value": ...}, {"from": "gpt", "value": ...}]}     ShareGPT
    {"instruction": ..., "input": ..., "output": ...}                                       Alpaca

The last two may say what the system is told in a field "system". Further fields mean nothing here.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..prompts.dialog import Message

# ShareGPT's names of who speaks; Meta's are understood there, too.
ROLES = {"human": "user", "gpt": "assistant"} | {
    name: name for name in ("system", "user", "assistant")}


def lines(path: str | Path) -> Iterator[tuple[str, bytes]]:
    """Every line that is not empty, and what an error calls it.

    Raises ValueError for a file that cannot be read, or has no such line.
    """
    file, found = Path(path), False
    try:
        with file.open("rb") as opened:
            for number, line in enumerate(opened, start=1):
                if line.strip():
                    found = True
                    yield f"line {number} of {file}", line
    except OSError as unreadable:
        raise ValueError(f"{file} cannot be opened ({unreadable.strerror}); a JSONL file that you "
                         "may read is needed. Check the path.") from None
    if not found:
        raise ValueError(f"{file} holds no line with something in it; a dialog a line is needed. "
                         "Fill it.")


def parse(line: bytes) -> list[Message]:
    """The dialog of a line, in the first of the forms whose field it has. Raises ValueError for a
    line that is none."""
    row = decoded(line)
    for field, read in FORMS.items():
        if type(row) is dict and field in row:
            return read(row)
    raise ValueError('it has no "messages", "conversations" or "instruction"; one of these fields '
                     "is needed, each with what belongs to it. Rename its fields.")


def decoded(line: bytes) -> Any:
    """What a line says. Raises ValueError for one that is not JSON."""
    try:
        return json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as broken:
        raise ValueError(f"it is not JSON ({broken}); an object a line is needed. Correct that "
                         "line.") from None


def messages(row: dict[str, Any], field: str = "messages") -> list[Message]:
    """The messages in a field. Raises ValueError for what are none."""
    return [Message(*said) for said in _pairs(row, field, "role", "content")]


def _sharegpt(row: dict[str, Any]) -> list[Message]:
    said = _pairs(row, "conversations", "from", "value")
    if unknown := [who for who, _ in said if who not in ROLES]:
        raise ValueError(f"a message in it is from {unknown[0]!r}; one of {', '.join(ROLES)} is "
                         "needed. Correct that line.")
    return [*system(row), *(Message(ROLES[who], text) for who, text in said)]


def _alpaca(row: dict[str, Any]) -> list[Message]:
    """An instruction and what it is about are one question, in two paragraphs."""
    asked = [_string(row, "instruction"), _string(row, "input", "")]
    return [*system(row), Message("user", "\n\n".join(filter(None, asked))),
            Message("assistant", _string(row, "output"))]


FORMS = {"messages": messages, "conversations": _sharegpt, "instruction": _alpaca}


def _pairs(row: dict[str, Any], field: str, who: str, text: str) -> list[tuple[str, str]]:
    """Who says what. Raises ValueError for a message that has anything but these two strings."""
    if type(row[field]) is not list:
        raise ValueError(f'its "{field}" are no list; [{{"{who}": ..., "{text}": ...}}, ...] is '
                         "needed. Correct that line.")
    for each in row[field]:
        if type(each) is not dict or each.keys() != {who, text} or {
                *map(type, each.values())} != {str}:
            raise ValueError(f"a message in it is {json.dumps(each, ensure_ascii=False):.80}; "
                             f'"{who}" and "{text}", both strings, and nothing else, are needed. '
                             "Correct that line.")
    return [(each[who], each[text]) for each in row[field]]


def system(row: dict[str, Any]) -> list[Message]:
    """What the system is told, if anything."""
    text = _string(row, "system", "")
    return [Message("system", text)] if text else []


def _string(row: dict[str, Any], field: str, default: str | None = None) -> str:
    """A field's string; null is as good as nothing. Raises ValueError for what is none."""
    value = default if row.get(field) is None else row[field]
    if type(value) is not str:
        raise ValueError(f'its "{field}" is {json.dumps(value, ensure_ascii=False):.80}; a string '
                         "is needed. Correct that line.")
    return value
