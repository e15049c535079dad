"""Dialogs of your own: a JSONL file, one a line, as {"messages": [{"role": ..., "content": ...}]}.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from ..prompts.dialog import Message

KEYS = {"role", "content"}


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
    """The dialog of a line; keys beside `messages` are left alone. Raises ValueError for a line
    that is none."""
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as broken:
        raise ValueError(f"it is not JSON ({broken}); an object a line is needed. Correct that "
                         "line.") from None
    messages = row.get("messages") if type(row) is dict else None
    if type(messages) is not list:
        raise ValueError('it has no list of "messages"; {"messages": [...]} is needed. Rename its '
                         "fields.")
    for each in messages:
        if type(each) is not dict or each.keys() != KEYS or {*map(type, each.values())} != {str}:
            raise ValueError(f"a message in it is {json.dumps(each, ensure_ascii=False):.80}; a "
                             'role and a content, both strings, and nothing else, are needed. '
                             "Correct that line.")
    return [Message(**each) for each in messages]
