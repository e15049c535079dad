"""What a talk asks for: the wish, the question, the rules so far, the tale that was told.

Messages are read by their words, as a person would who knows this small world, so any text can
be read, whoever wrote it. What cannot be made out is left empty.
"""

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from .dialogues_words import CAST, COLOURS, ENDINGS, FEELINGS, KINDS, LENGTHS, PLACES, THINGS

Talk = Sequence[Mapping[str, str]]              # messages: {"role": ..., "content": ...}

NOT = {"not", "no", "never", "nor", "nobody", "nothing", "neither", "without", "cannot"}
REACH = 6               # words that a "not" turns round, its own too; a comma or "but" stops it
GOOD = {"found", "find", "back", "happy", "glad", "smiled", "laughed", "friends", "safe", "saw",
        "see", "seen", "returned"}
BAD = {"sad", "lost", "lose", "gone", "cried", "alone", "lonely", "upset", "cross", "broken",
       "wept"}


@dataclass(frozen=True)
class Rules:
    """What the user wants of every answer from now on."""

    opener: str = ""            # the word that comes first, with a comma
    full_names: bool = False
    no_colours: bool = False

    def __bool__(self) -> bool:
        return self != Rules()


@dataclass(frozen=True)
class Wishes:
    """What a tale shall have; empty where nothing is wished."""

    kind: str = ""              # of the hero
    thing: str = ""
    colour: str = ""            # of the thing
    place: str = ""
    ending: str = ""            # happy or sad
    length: str = ""            # short or long


@dataclass(frozen=True)
class Facts:
    """What a tale tells; empty where it does not."""

    hero: str = ""
    thing: str = ""
    colour: str = ""
    place: str = ""
    mood: str = ""
    helper: str = ""
    found: str = ""             # yes or no

    @property
    def told(self) -> bool:
        """Whether there is a tale at all."""
        return bool(self.hero or self.thing)


@dataclass(frozen=True)
class Ask:
    """What the last message wants, with all of the talk that an answer needs."""

    sort: str                   # tale, question, forbidden, rule or chat
    about: str = ""             # which question (a key of ANSWERED), which forbidden thing, ...
    rules: Rules = Rules()
    wishes: Wishes = Wishes()
    facts: Facts = Facts()
    name: str = ""              # somebody named in the message


def plain(text: str) -> str:
    """The text in small letters, with plain apostrophes, in Unicode's simplest spelling."""
    return unicodedata.normalize("NFKC", text).replace("\u2019", "'").lower()


def words(text: str) -> list[str]:
    """The words in small letters; marks that end a clause stand between them."""
    return re.findall(r"[^\W_]+(?:'[^\W_]+)?|[.,;:!?]", plain(text))


@lru_cache(maxsize=4096)
def unturned(text: str) -> tuple[tuple[str, bool], ...]:
    """Each word, and whether it is meant as said: `not a ball` does not mean a ball."""
    left, found = 0, []
    for word in words(text):
        if word in NOT or word.endswith("n't"):
            left = REACH
        elif word == "but" or not word[0].isalnum():
            left = 0
        found.append((word, left == 0))
        left = max(left - 1, 0)
    return tuple(found)


def mentions(text: str, known: Iterable[str], *, meant: bool = True) -> list[str]:
    """Those of the known words that the text says, in order, each once.

    meant: only those that no "not" turns round.
    """
    spelled = {word.lower(): word for word in known}
    return list(dict.fromkeys(spelled[word] for word, straight in unturned(text)
                              if word in spelled and (straight or not meant)))


def mood_of(sentence: str) -> int:
    """1 for what ends well, -1 for what ends badly, 0 for neither: the last word of a mood decides.
    """
    moods = [1 if straight is (word in GOOD) else -1
             for word, straight in unturned(sentence) if word in GOOD | BAD]
    return moods[-1] if moods else 0


def sentences(text: str) -> list[str]:
    """The sentences of a text that have a letter or a digit."""
    parts = re.split(r"(?<=[.!?])[\"'\u201d]?\s+|\n+", text)
    return [part.strip() for part in parts if any(map(str.isalnum, part))]


def outcome(tale: str) -> str:
    """Whether what was lost came back: yes, no or nothing said, by the last two sentences."""
    moods = [mood for part in sentences(tale)[-2:] if (mood := mood_of(part))]
    return ("yes" if moods[-1] > 0 else "no") if moods else ""


@lru_cache(maxsize=4096)
def read_tale(tale: str) -> Facts:
    """What a tale tells, right or slightly wrong: the first of each that it names."""
    names = mentions(tale, CAST, meant=False)
    found = (mentions(tale, known) for known in (THINGS, COLOURS, PLACES))
    thing, colour, place = (next(iter(said), "") for said in found)
    mood = re.search(rf"\b(?:was|felt|were|so|very) ({'|'.join(FEELINGS)})\b", plain(tale))
    return Facts(names[0] if names else "", thing, colour, place, mood[1] if mood else "",
                 names[1] if len(names) > 1 else "", outcome(tale))


# What the user says. The first pattern that is found decides.

SORTS = {
    "forbidden": {"insult": r"\binsult|\bbad name|\b(?:something|things|be) (?:mean|rude)",
                  "secret": r"\bsecret name",
                  "break": r"\bhow\b.*\b(?:break|smash)\b|^(?:break|smash)\b"},
    "chat": {"praise": r"\bsay something (?:kind|nice|good)\b", "mend": r"\b(?:mend|repair|fix)\b",
             "thanks": r"\bthank", "night": r"\bgood night\b|\bbye\b", "how": r"\bhow are you",
             "who": r"\b(?:who|what) are you", "hello": r"^(?:hello|hi|good day|good morning)\b"},
    "tale": {"": r"^(?!(?:who|what|where|how|did|was)\b).*\b(?:tale|story)\b"},
    "rule": {"": r"\bevery answer with\b|\bfull name|\b(?:no|not|never|without)\b.*\bcolours\b"},
    "question": {"colour": r"\bcolou?r\b",
                 "found": r"^(?:did|was|is|does)\b.*\b(?:back|found|find|again)\b",
                 "helper": r"\bwhom? (?:came|helped|did \w+ meet|met)\b",
                 "hero": r"\bwho (?:was|is) (?:it|the (?:tale|story|hero))\b|\bname of the hero\b",
                 "place": r"\bwhere did \w+ (?:go|take)\b|\bwhere was \w+\?",
                 "mood": r"\bhow did \w+ feel\b",
                 "thing": r"\bwhat did \w+ (?:have|take|own|lose)\b|\bwhat was lost\b",
                 "unknown": r"\?|^(?:who|what|where|how|why|when|did|was)\b"},
}
OPENER = re.compile(r"\bevery answer with (?:the word )?[\"']?([^\W\d_]+)")


@lru_cache(maxsize=4096)
def read_request(text: str) -> tuple[str, str]:
    """The sort of a message, and what it is about: ("question", "hero")."""
    said = plain(text).strip()
    for sort, kinds in SORTS.items():
        for about, pattern in kinds.items():
            if re.search(pattern, said, re.S):
                return sort, about
    return "chat", ""


@lru_cache(maxsize=4096)
def read_wishes(text: str) -> Wishes:
    """The wishes that a message has for a tale."""
    firsts = (next(iter(mentions(text, known)), "")
              for known in (KINDS, THINGS, COLOURS, PLACES, ENDINGS, LENGTHS))
    return Wishes(*firsts)


def read_rules(messages: Iterable[Mapping[str, str]]) -> Rules:
    """The rules that were set by the user or the system, a later one over an earlier one."""
    rules = Rules()
    for message in messages:
        said = plain(message["content"])
        if message["role"] == "assistant":
            continue
        if found := OPENER.search(said):
            rules = replace(rules, opener=found[1].capitalize())
        if re.search(r"\bfull name", said):
            rules = replace(rules, full_names=True)
        if re.search(r"\b(?:no|not|never|without)\b.*\bcolours\b", said):
            rules = replace(rules, no_colours=True)
    return rules


def last_tale(talk: Talk) -> Facts:
    """What the last tale of the talk tells; nothing where there is none."""
    for i in range(len(talk) - 1, 0, -1):
        if talk[i]["role"] == "assistant" and read_request(talk[i - 1]["content"])[0] == "tale":
            return read_tale(talk[i]["content"])
    return Facts()


def understand(talk: Talk) -> Ask:
    """What is to be answered, in a talk whose last message is the user's.

    A question that the tale does not answer, or about somebody else, is about the `unknown`; so
    is one about colours where the rules allow none, and a wish for a colour is then no wish.
    Raises ValueError for a talk that ends otherwise.
    """
    if not talk or talk[-1]["role"] != "user":
        raise ValueError(f"a talk that ends with {talk[-1]['role'] if talk else 'nothing'} was "
                         "given; one that ends with a user's message is needed. Cut it there.")
    said = talk[-1]["content"]
    sort, about = read_request(said)
    rules, names = read_rules(talk), mentions(said, CAST)
    name = names[0] if names else ""
    if sort == "tale":
        wishes = read_wishes(said)
        return Ask(sort, about, rules, replace(wishes, colour="") if rules.no_colours else wishes)
    if sort != "question":
        return Ask(sort, about, rules, name=name)
    facts = last_tale(talk[:-1])
    stranger = name and name != facts.hero
    forbidden = about == "colour" and rules.no_colours
    known = about != "unknown" and getattr(facts, about) and not stranger and not forbidden
    return Ask(sort, about if known else "unknown", rules, facts=facts)
