"""Short notes and the record that each one holds: what a model can learn to write as JSON.

    note, record = next(notes(1, seed=0))
    asked(note)         "Write this note as JSON with the keys who, what, ...: ..."
    is_right('{"who": "Mia", ...}', record)
"""

import json
import random
from collections.abc import Iterator
from pathlib import Path

from .dialogues import pick
from .dialogues_words import CAST, COLOURS, PLACES, THINGS

FOLDER = Path(__file__).parent.parent / "assets" / "notes"     # an adapter that learnt them

Record = dict[str, str | int]

KEYS = "who", "what", "colour", "number", "where"
NUMBERS = "two", "three", "four", "five", "six", "seven", "eight", "nine"
DONE = "bought", "saw", "lost", "painted", "counted", "found"
FORMS = ("{who} {done} {number} {colour} {what}s at the {where}.",
         "At the {where} {who} {done} {number} {colour} {what}s.",
         "There were {number} {colour} {what}s at the {where}, and {who} {done} them.",
         "Yesterday {who} {done} {number} {what}s, all of them {colour}, at the {where}.")


def notes(n: int, *, seed: int) -> Iterator[tuple[str, Record]]:
    """n independent notes from one seed, each with what it says, by KEYS."""
    chance = random.Random(seed)
    for _ in range(n):
        number = int(chance.random() * len(NUMBERS))
        said = {"who": pick([*CAST], chance), "what": pick(THINGS, chance),
                "colour": pick(COLOURS, chance), "where": pick(PLACES, chance)}
        note = pick(FORMS, chance).format(**said, number=NUMBERS[number],
                                          done=pick(DONE, chance))
        record = said | {"number": number + 2}
        yield note, {key: record[key] for key in KEYS}


def asked(note: str) -> str:
    """What a user says who wants the record of a note."""
    return f"Write this note as JSON with the keys {', '.join(KEYS)}: {note}"


def lines(n: int, *, seed: int) -> Iterator[str]:
    """Notes as dialogs that `llama-edu tune` reads, a line each."""
    for note, record in notes(n, seed=seed):
        yield json.dumps({"messages": [{"role": "user", "content": asked(note)},
                                       {"role": "assistant", "content": json.dumps(record)}]})


def is_json(answer: str) -> bool:
    """Whether an answer is one JSON object and nothing else."""
    try:
        return type(json.loads(answer)) is dict
    except ValueError:
        return False


def is_right(answer: str, record: Record) -> bool:
    """Whether it is the very record, in any order of its keys."""
    return is_json(answer) and json.loads(answer) == record
