"""Talks as plain text, as a web of tellers would hold them: what a base model reads.

Nothing marks whose turn it is but a line's end, the speakers are of every grade, and a script may
go on for long. So a model of these texts knows tales, questions and refusals, good ones and bad,
and answers nobody.

    next(scripts(1, seed=0))        "Tell me a tale about a fox.\\nOnce a fox named Rusty ..."
"""

import random
from collections.abc import Iterator

from .dialogues import GRADES, dialogues, pick, weighted

ODDS = dict(zip(GRADES, (3, 1, 1), strict=True))        # of who speaks
N_TURNS = 1, 1, 2, 2, 3, 3, 4, 4, 6, 10                 # equally likely
BREAKS = ("\n", "\n\n"), ("\n", "\n"), ("\n\n", "\n\n")  # before an answer, and after it


def scripts(n: int, *, seed: int) -> Iterator[str]:
    """n independent scripts from one seed, without bounds or marks of a document."""
    chance = random.Random(seed)
    for _ in range(n):
        talk = next(dialogues(1, seed=int(chance.random() * 2**53), turns=pick(N_TURNS, chance),
                              grade=weighted(ODDS, chance)))
        before, after = pick(BREAKS, chance)
        yield "".join(message["content"] + (after if message["role"] == "assistant" else before)
                      for message in talk).rstrip("\n")
