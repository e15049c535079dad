"""Whether a short tale makes sense: whole, in order, of the same people and things all along."""

import re
from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise

from .dialogues_reading import BAD, GOOD, mentions, outcome, plain, read_tale, sentences, words
from .dialogues_words import CAST, COLOURS, ENDS, FEELINGS, KINDS, OPENING, PLACES, TALE, THINGS
from .tales_words import RULES

LOSS = re.compile(r"\b(?:lost|took(?! (?:it|her|him) to\b)|blew|ran|fell|flew|stole|dropped|gone"
                  r"|broke|missing|away)\b")
MEETING = r"\b(?:came|met|meets|friend|named|called)\b|\b{name} the \w+\b"
COMMON = """
    a about after again all alone also always am an as ask asked because could cried did done
    end far flew for forever friends had has have he her here hers hid him his home how i if
    inside into is just keep kept laugh laughed let lived looked loved made make man many much
    my myself name named new no nobody off old only or other our out over people played sat seen
    she side sky slept smiled some somebody something still stole story tail tale than that
    their there these this too tree tried two until us very wait walked wanted we wept what
    where which while who why with woman would yes you your
"""


def _alternatives(words: tuple[str, ...]) -> str:
    return f"(?:{'|'.join(words)})"


NAME = _alternatives(tuple(CAST))
SLOTS = {"{hero:who}": rf"an? {_alternatives(KINDS)} named {NAME}",
         "{helper:helpers}": rf"an? {_alternatives(KINDS)} named {NAME}",
         "{look:colour} ": rf"(?:{_alternatives(COLOURS)} )?",
         "{thing:toy}": _alternatives(THINGS), "{thing}": _alternatives(THINGS),
         "{place:spot}": _alternatives(PLACES), "{mood:feeling}": _alternatives(FEELINGS),
         "{hero.They}": "(?:He|She)", "{hero.they}": "(?:he|she)",
         "{hero}": rf"{NAME}(?: the {_alternatives(KINDS)})?",
         "{helper}": rf"{NAME}(?: the {_alternatives(KINDS)})?"}


def _pattern(template: str) -> re.Pattern:
    """The sentences of a template, whatever fills its slots."""
    text = template.replace(".", r"\.")
    for slot, filling in SLOTS.items():
        text = text.replace(slot.replace(".", r"\."), filling)
    return re.compile(text, re.I)


TINTED = re.compile(rf"\b(?P<before>{_alternatives(COLOURS)}) (?P<whom>{_alternatives(THINGS)})\b")
KIND_OF = re.compile(rf"\b(?:(?P<before>{_alternatives(KINDS)}) (?:named|called) )?"
                     rf"(?P<whom>{NAME.lower()})\b(?: the (?P<after>{_alternatives(KINDS)})\b)?")
STEPS = [[_pattern(text) for text in templates] for templates in (
    OPENING, *(TALE[step] for step in ("outing", "mishap", "grief", "meeting")),
    [text for ends in ENDS.values() for text in ends])]
END = len(STEPS) - 1
KNOWN = GOOD | BAD | {
    word for text in [COMMON, *OPENING, *CAST, *KINDS, *THINGS, *COLOURS, *PLACES, *FEELINGS, *(
        text for rules in (TALE, ENDS, RULES) for rule in rules.values() for text in rule)]
    for word in re.findall(r"[a-z]+", re.sub(r"\{.*?\}", " ", text).lower())}


@lru_cache(maxsize=4096)
def sense(tale: str) -> float:
    """The share of checks that hold: kept / (kept + found wrong). 1 for every tale of the grammar.

    Kept: a beginning with somebody and something, a loss, an end; each sentence that the grammar
    knows. Wrong: each of the first three that is missing; a sentence with words not of this
    world or said twice; one out of its turn; a name, thing, place, colour, kind or pronoun that is
    another than before; text after the last full stop. An unknown sentence in known words is
    neither, so a tale in other words can be right.
    """
    parts = sentences(tale)
    if not parts:
        return 0.0
    steps = [_step(part) for part in parts]
    whole = list(_wholeness(tale, parts, steps[-1]))
    kept = sum(whole) + sum(step is not None for step in steps)
    wrong = whole.count(False) + len(list(_wrong_forms(parts, steps))) + len(list(_slips(parts)))
    return kept / (kept + wrong) if kept else 0.0


def _step(sentence: str) -> int | None:
    """Which step of a tale a sentence is."""
    return next((i for i, step in enumerate(STEPS)
                 if any(pattern.fullmatch(sentence) for pattern in step)), None)


def _wholeness(tale: str, parts: list[str], last: int | None) -> Iterator[bool]:
    """Whether there is a beginning, a loss, and an end; what comes last tells which step it is."""
    start = " ".join(parts[:2])
    yield bool(mentions(start, [*CAST, *KINDS])) and bool(mentions(start, THINGS))
    yield any(LOSS.search(plain(part)) for part in parts)
    ends = last == END or (last is None and len(parts) > 1 and bool(outcome(tale)))
    yield ends and bool(re.search(r"[.!?][\"'\u201d)]*\s*$", tale))


def _wrong_forms(parts: list[str], steps: list[int | None]) -> Iterator[str]:
    """Sentences that are none, that were said before, or that come out of their turn."""
    latest = -1
    for i, (part, step) in enumerate(zip(parts, steps, strict=True)):
        if step is None and not _readable(part):
            yield part
        if part in parts[:i] or (step is not None and step <= latest):
            yield part
        latest = max(latest, -1 if step is None else step)


def _readable(sentence: str) -> bool:
    said = re.findall(r"[^\W_]+", plain(sentence))
    return len(said) > 1 and KNOWN.issuperset(said) and all(a != b for a, b in pairwise(said))


def _slips(parts: list[str]) -> Iterator[str]:
    """Words that contradict what was told before them."""
    tale = " ".join(parts)
    names = mentions(tale, CAST, meant=False)
    yield from names[2:]
    for name in names[1:2]:
        met = re.compile(MEETING.format(name=name.lower()))
        if not any(name.lower() in words(part) and met.search(plain(part)) for part in parts):
            yield name
    yield from mentions(tale, THINGS, meant=False)[1:]
    yield from mentions(tale, PLACES)[1:]
    yield from _contradictions(plain(tale))
    yield from _wrong_pronouns(parts)


def _contradictions(tale: str) -> Iterator[str]:
    """Another colour of a thing, another kind of somebody."""
    known: dict[str, str] = {}
    for pattern in (TINTED, KIND_OF):
        for found in pattern.finditer(tale):
            said = found.groupdict()
            for what in filter(None, (said["before"], said.get("after"))):
                if known.setdefault(said["whom"], what) != what:
                    yield what


def _wrong_pronouns(parts: list[str]) -> Iterator[str]:
    """He for a girl, or she for a boy, as long as nobody else is there."""
    hero = read_tale(parts[0]).hero
    if not hero:
        return
    wrong = {"she": {"he", "him", "his"}, "he": {"she", "her", "hers"}}[CAST[hero]["they"]]
    for part in parts:
        if set(mentions(part, CAST)) - {hero} or mentions(part, KINDS)[1:]:
            return
        yield from wrong & set(words(part))
