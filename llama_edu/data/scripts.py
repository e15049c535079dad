"""Talks as plain text, as a web of tellers would hold them: what a base model reads.

Half of the scripts are lessons, a tale and questions about it, well answered; half are talks, by
speakers of every grade, and a few go on for long. Nothing marks whose turn it is but a line's end.
So a model of these texts knows tales, questions and refusals, good ones and bad, and answers
nobody.

    next(scripts(1, seed=0))        "Tell me a tale about a fox.\\nOnce a fox named Rusty ..."
"""

import random
from collections.abc import Iterator

from .dialogues import GRADES, Message, answer, asked, dialogues, pick, weighted

ODDS = dict(zip(GRADES, (3, 1, 1), strict=True))        # of who speaks in talks
N_TURNS = 1, 1, 2, 2, 3, 3, 4, 4, 6, 10                 # of talks, equally likely
N_QUESTIONS = 3, 4, 5, 6                                # of lessons
BREAKS = ("\n", "\n\n"), ("\n", "\n"), ("\n\n", "\n\n")  # before an answer, and after it

Chance = random.Random


def scripts(n: int, *, seed: int) -> Iterator[str]:
    """n independent scripts from one seed, without bounds or marks of a document."""
    chance = Chance(seed)
    for _ in range(n):
        said = pick((_lesson, _talk), chance)(chance)
        before, after = pick(BREAKS, chance)
        yield "".join(message["content"] + (after if message["role"] == "assistant" else before)
                      for message in said).rstrip("\n")


def _talk(chance: Chance) -> list[Message]:
    return next(dialogues(1, seed=int(chance.random() * 2**53), turns=pick(N_TURNS, chance),
                          grade=weighted(ODDS, chance)))


def _lesson(chance: Chance) -> list[Message]:
    said: list[Message] = []
    for sort in ("tale", *["question"] * pick(N_QUESTIONS, chance)):
        said.append({"role": "user", "content": asked(said, chance, sort)})
        said.append({"role": "assistant", "content": answer(said, chance)})
    return said
