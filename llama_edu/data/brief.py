"""Letters with one piece of news in them, and how briefly an answer tells it.

    letter, news = next(letters(1, seed=0))
    asked(letter)                       "What is the news in this letter? ..."
    n_words(answer), keeps(answer, news)
"""

import json
import random
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from .dialogues import pick
from .notes import DONE, KEYS, NUMBERS, Record, notes

FOLDER = Path(__file__).parent.parent / "assets" / "brief"     # pairs, and an adapter

OPENINGS = ("Thank you for your kind letter.", "How are you all?", "I hope that your cold is gone.",
            "We think of you every day.", "It has been raining since Monday.",
            "The garden is full of apples this year.")
CLOSINGS = ("Please write to us soon.", "The cat sends her love.", "We must go to bed now.",
            "Tomorrow there will be soup.", "Grandmother says hello.", "Do come and visit us.")


def letters(n: int, *, seed: int) -> Iterator[tuple[str, Record]]:
    """n independent letters from one seed, each with the record of its news (`notes.KEYS`)."""
    chance = random.Random(seed)
    for note, record in notes(n, seed=seed):
        yield f"{pick(OPENINGS, chance)} {note} {pick(CLOSINGS, chance)}", record


def asked(letter: str) -> str:
    """What a user says who wants the news of a letter."""
    return f"What is the news in this letter? {letter}"


def brief(letter: str, news: Record) -> str:
    """A short answer with all that the record says."""
    done = next(word for word in DONE if f" {word} " in letter)
    number = NUMBERS[news["number"] - 2]
    return (f"{news['who']} {done} {number} {news['colour']} {news['what']}s "
            f"at the {news['where']}.")


def n_words(answer: str) -> int:
    """The words of an answer, of letters or digits."""
    return len(re.findall(r"\w+", answer))


def keeps(answer: str, news: Record) -> float:
    """The share of a record's facts that an answer names, the number as a word or in digits."""
    said = set(re.findall(r"\w+", answer.lower()))
    named = [{str(news[key]).lower(), f"{news[key]}s".lower()} for key in KEYS if key != "number"]
    named.append({str(news["number"]), NUMBERS[news["number"] - 2]})
    return sum(bool(words & said) for words in named) / len(named)


def lines(letters: Sequence[tuple[str, Record]], said: Sequence[str]) -> Iterator[str]:
    """Pairs that `llama-edu tune` reads, a line each: the brief answer is chosen, what a model said
    to the same letter is rejected."""
    for (letter, news), answer in zip(letters, said, strict=True):
        yield json.dumps({"prompt": asked(letter), "chosen": brief(letter, news),
                          "rejected": answer}, ensure_ascii=False)
