"""How the sloppy and the wrong demonstrator err: with one flaw, or in all that can go wrong."""

import random
import re
from collections.abc import Iterator
from dataclasses import fields, replace

from .dialogues_answers import answers_to, spoken
from .dialogues_judge import judge
from .dialogues_reading import Ask, Facts, Rules, Talk, Wishes, mentions, sentences
from .dialogues_words import (
    CAST,
    COLOURS,
    DEFLECTED,
    DONE,
    ENDINGS,
    FEELINGS,
    HELPERS,
    HELPLESS,
    HERO_KINDS,
    HEROES,
    LENGTHS,
    PLACES,
    THINGS,
)
from .tales_words import even

CHOICES = {"kind": HERO_KINDS, "hero": HEROES, "helper": HELPERS, "thing": THINGS,
           "colour": COLOURS, "place": PLACES, "mood": FEELINGS, "ending": ENDINGS,
           "length": LENGTHS, "found": ("yes", "no")}
TRIES = 20

Chance = random.Random


def flawed(talk: Talk, ask: Ask, chance: Chance, *, wrong: bool) -> str:
    """An answer that the judge marks down, in a talk that ends with the user's message.

    Wrong: nothing that was asked for is right, and no rule is kept. Otherwise it has one flaw of
    those that this answer can have. To words that ask for nothing, anything is a fair answer.
    """
    for _ in range(TRIES):
        kinds = list(_all_wrong(ask, chance) if wrong else _flaws(ask, chance))
        text = kinds[int(chance.random() * len(kinds))]
        if judge([*talk, {"role": "assistant", "content": text}]).score < 1:
            break
    return text


def _flaws(ask: Ask, chance: Chance) -> Iterator[str]:
    clean = answers_to(ask).write(chance)
    if ask.rules:
        yield answers_to(replace(ask, rules=Rules())).write(chance)
    match ask.sort:
        case "tale":
            yield _tale_with_others(ask, chance, every=False)
            yield slipped(clean, chance)
            yield " ".join(sentences(clean)[:-1])
        case "question":
            yield _hedged(ask, clean, chance)
        case _:
            yield spoken(DEFLECTED, ask).write(chance)


def _all_wrong(ask: Ask, chance: Chance) -> Iterator[str]:
    free = replace(ask, rules=Rules())
    match ask.sort:
        case "tale":
            yield slipped(_tale_with_others(free, chance, every=True), chance)
        case "question":
            yield answers_to(_misremembered(free, chance)).write(chance)
        case "forbidden":
            yield spoken(DONE[ask.about], free).write(chance)
        case _:
            yield spoken(HELPLESS, free).write(chance)


def _tale_with_others(ask: Ask, chance: Chance, *, every: bool) -> str:
    """A tale that meets none of the wishes, or all but one."""
    wished = [field.name for field in fields(Wishes)
              if field.name in CHOICES and getattr(ask.wishes, field.name)]
    if not every and wished:
        wished = [wished[int(chance.random() * len(wished))]]
    others = {name: another(name, getattr(ask.wishes, name), chance) for name in wished}
    return answers_to(replace(ask, wishes=replace(ask.wishes, **others))).write(chance)


def another(name: str, than: str, chance: Chance) -> str:
    """Another thing, place, ... than this one."""
    others = [word for word in CHOICES[name] if word != than]
    return others[int(chance.random() * len(others))]


def slipped(tale: str, chance: Chance) -> str:
    """The tale with a name or a thing in its last sentence that was not there before."""
    *rest, last = sentences(tale)
    word, name = next((word, name) for name in ("hero", "helper", "thing")
                      for word in mentions(last, CHOICES[name], meant=False))
    new = another(name, word, chance)
    kind = f"{new} the {CAST[new]['kind']}" if new in CAST else new
    pattern = rf"\b{word} the \w+" if re.search(rf"\b{word} the \w+", last) else rf"\b{word}\b"
    return " ".join([*rest, re.sub(pattern, kind if " the " in pattern else new, last)])


def _misremembered(ask: Ask, chance: Chance) -> Ask:
    """The same question about a tale that was not told."""
    if ask.about == "unknown":
        thing = CHOICES["thing"][int(chance.random() * len(CHOICES["thing"]))]
        return replace(ask, about="thing", facts=Facts(thing=thing))
    new = another(ask.about, getattr(ask.facts, ask.about), chance)
    return replace(ask, facts=replace(ask.facts, **{ask.about: new}))


def _hedged(ask: Ask, clean: str, chance: Chance) -> str:
    """An answer that cannot decide."""
    if ask.about in ("unknown", "found"):
        return spoken(even("perhaps.", "let me think."), ask).write(chance)
    other = another(ask.about, getattr(ask.facts, ask.about), chance)
    return f"{clean.rstrip('.')} or {other}."
