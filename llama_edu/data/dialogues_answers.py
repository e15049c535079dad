"""The clean demonstrator: for each talk the grammar of the answers that it gives."""

from collections.abc import Mapping
from functools import lru_cache

from .dialogues_reading import Ask, Rules
from .dialogues_words import (
    AGREED,
    ANSWERED,
    CAST,
    CHATTED,
    COLOURS,
    ENDINGS,
    ENDS,
    FEELINGS,
    HELPERS,
    HEROES,
    LENGTHS,
    OPENING,
    PLACES,
    REFUSED,
    TALE,
    THINGS,
    a,
)
from .tales_grammar import Grammar

Odds = Mapping[str, int]


@lru_cache(maxsize=4096)
def answers_to(ask: Ask) -> Grammar:
    """The grammar of all good answers, which draws one, counts their entropy and reads them."""
    return _tales(ask) if ask.sort == "tale" else spoken(phrases(ask), ask)


def phrases(ask: Ask) -> Odds:
    """The good answers that are no tale, their slots still open."""
    match ask.sort:
        case "question":
            return ANSWERED[ask.facts.found if ask.about == "found" else ask.about]
        case "forbidden":
            return REFUSED[ask.about]
        case "rule":
            return AGREED
    return CHATTED[ask.about or "hello"]


def spoken(odds: Odds, ask: Ask) -> Grammar:
    """The phrases as answers in this talk: slots filled, rules kept."""
    facts, rules = ask.facts, ask.rules
    asked = facts.helper if ask.about == "helper" else ask.name or facts.hero
    tint = f"{facts.colour} " if facts.colour and not rules.no_colours else ""
    slots = {"full": called(asked, rules), "colour": facts.colour, "place": facts.place,
             "mood": facts.mood, "they": CAST.get(facts.hero, {}).get("they", "they")}
    filled = {phrase.replace("a {thing}", a(tint + facts.thing) if facts.thing else "it")
              .format(**slots): odd for phrase, odd in odds.items()}
    return Grammar("answer", {"answer": voiced(filled, rules)}, {})


def called(name: str, rules: Rules) -> str:
    """A name as the rules want it: Rusty, or Rusty the fox."""
    return f"{name} the {CAST[name]['kind']}" if name and rules.full_names else name or "it"


def voiced(odds: Odds, rules: Rules) -> dict[str, int]:
    """What begins an answer, after the word that the rules want, or with a capital."""
    start = f"{rules.opener}, " if rules.opener else ""
    return {start + text if start else text[0].upper() + text[1:]: odd
            for text, odd in odds.items()}


@lru_cache(maxsize=64)
def _all_tales(rules: Rules) -> Grammar:
    """Every tale that keeps the rules."""
    opening = {text.replace("{look:colour} ", "") if rules.no_colours else text: odd
               for text, odd in OPENING.items()}
    people = {name: {f"{a(CAST[name]['kind'])} named {name}":
                     CAST[name] | {"again": called(name, rules)}} for name in HEROES + HELPERS}
    return Grammar("tale", {
        "tale": {"{opening} {outing} {mishap} {rest}": 1},
        "opening": voiced(opening, rules), **TALE,
        "rest": {"{short}": 1, "{grief} {meeting} {long}": 1},
        **{length: {f"{{{length}_{ending}}}": 1 for ending in ENDINGS} for length in LENGTHS},
        **{f"{length}_{ending}": odds for (length, ending), odds in ENDS.items()},
    }, {"who": {text: forms for name in HEROES for text, forms in people[name].items()},
        "helpers": {text: forms for name in HELPERS for text, forms in people[name].items()},
        "toy": dict.fromkeys(THINGS, {}), "colour": dict.fromkeys(COLOURS, {}),
        "spot": dict.fromkeys(PLACES, {}), "feeling": dict.fromkeys(FEELINGS, {})})


def _tales(ask: Ask) -> Grammar:
    """Those of them that meet the wishes; a hero that nobody knows is no wish."""
    wishes = ask.wishes
    kinds = [CAST[name]["kind"] for name in HEROES]
    choices = {"who": (kinds, wishes.kind), "toy": (THINGS, wishes.thing),
               "colour": (COLOURS, wishes.colour), "spot": (PLACES, wishes.place),
               "rest": (LENGTHS, wishes.length), "short": (ENDINGS, wishes.ending),
               "long": (ENDINGS, wishes.ending)}
    return _all_tales(ask.rules).narrowed(
        {rule: [i for i, word in enumerate(words) if word == wished]
         for rule, (words, wished) in choices.items() if wished in words})
