"""The clean demonstrator: for each talk the grammar of the answers that it gives, and their odds."""

from collections.abc import Mapping
from functools import lru_cache

from .dialogues_reading import Ask, Rules
from .dialogues_words import (
    AGREED,
    ANSWERED,
    CAST,
    CHATTED,
    COLOURS,
    ENDS,
    FEELINGS,
    HELPERS,
    HEROES,
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


def _tales(ask: Ask) -> Grammar:
    wishes, rules = ask.wishes, ask.rules
    opening = {text.replace("{look:colour} ", "") if rules.no_colours else text: odd
               for text, odd in OPENING.items()}
    cast = {name: word for name in HEROES + HELPERS
            for word in [f"{a(CAST[name]['kind'])} named {name}"]}
    forms = {name: CAST[name] | {"again": called(name, rules)} for name in cast}
    heroes = [name for name in HEROES if wishes.kind in ("", CAST[name]["kind"])] or HEROES
    return Grammar("tale", {"tale": {"{opening} {outing} {mishap} {rest}": 1},
                            "opening": voiced(opening, rules)} | TALE | _rests(ask), {
        "who": {cast[name]: forms[name] for name in heroes},
        "helpers": {cast[name]: forms[name] for name in HELPERS},
        "toy": dict.fromkeys([wishes.thing] if wishes.thing else THINGS, {}),
        "colour": dict.fromkeys([wishes.colour] if wishes.colour else COLOURS, {}),
        "spot": dict.fromkeys([wishes.place] if wishes.place else PLACES, {}),
        "feeling": dict.fromkeys(FEELINGS, {})})


def _rests(ask: Ask) -> dict[str, dict[str, int]]:
    """The rules of how a tale can go on after the mishap, and end."""
    wishes = ask.wishes
    ends = {f"{length}_{ending}": phrases for (length, ending), phrases in ENDS.items()
            if wishes.length in ("", length) and wishes.ending in ("", ending)}
    lengths = list(dict.fromkeys(name.split("_")[0] for name in ends))
    before = {"short": "", "long": "{grief} {meeting} "}
    return ends | {"rest": {f"{before[length]}{{{length}_end}}": 1 for length in lengths}} | {
        f"{length}_end": {f"{{{name}}}": 1 for name in ends if name.startswith(length)}
        for length in lengths}
