"""Talks with a teller of tales: as many as wanted, every answer with its entropy and its judge.

A user asks for tales with wishes, asks back, sets rules, asks for what is forbidden, and chats. A
talk is a list of messages, {"role": ..., "content": ...}, as chat formats want it.

    talk = dialogue(3)
    prompt = talk[:-1]                          # ends with what the user said
    log_prob(talk), entropy(prompt)             # nats, of the last answer
    judge([*prompt, {"role": "assistant", "content": "Any text."}]).score
"""

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from .dialogues_answers import answers_to
from .dialogues_flaws import flawed
from .dialogues_judge import Marks, judge
from .dialogues_reading import Talk, last_tale, read_rules, understand
from .dialogues_words import (
    ASK,
    CHAT,
    COLOURS,
    ENDINGS,
    FORBIDDEN,
    HERO_KINDS,
    HEROES,
    LENGTHS,
    OPENERS,
    PLACES,
    QUESTIONS,
    RULES_SAID,
    THINGS,
    a,
)

__all__ = ["GRADES", "Marks", "answer", "asked", "dialogue", "dialogues", "entropy",
           "floor_per_token", "judge", "log_prob", "prompts", "understand"]

GRADES = "clean", "sloppy", "wrong"
SLOPPY_SHARE = 0.5              # of the sloppy demonstrator's answers that have a flaw
RULED_SHARE = 0.4               # of the talks that begin with a rule
BY_SYSTEM = 0.3                 # of these rules that the system sets, without an answer
LATER = {"question": 10, "forbidden": 4, "chat": 3, "tale": 2, "rule": 1}       # odds
N_TURNS = 2, 3, 3, 4            # of talks of no given length, equally likely
TRIES = 4                       # to say something new

Message = dict[str, str]
Chance = random.Random


def dialogue(seed: int, *, grade: str = "clean", turns: int | None = None,
             ruled: bool | None = None) -> list[Message]:
    """One talk; the same seed gives the same on any machine. The rest is as in `dialogues`.

    Raises ValueError as that does.
    """
    return next(dialogues(1, seed=seed, grade=grade, turns=turns, ruled=ruled))


def dialogues(n: int, *, seed: int, grade: str = "clean", turns: int | None = None,
              ruled: bool | None = None) -> Iterator[list[Message]]:
    """n independent talks from one seed; the first of them is `dialogue(seed)`.

    grade: of the demonstrator: clean never errs, sloppy has one flaw in about half of the answers,
    wrong errs in all. turns: answers in each talk. ruled: whether it begins with a rule. Both are
    drawn where they are left out. Raises ValueError for what there is not.
    """
    if grade not in GRADES:
        raise ValueError(f"a demonstrator of the grade {grade!r} was asked for; there are "
                         f"{', '.join(GRADES)}. Take one of these.")
    if seed < 0 or (turns is not None and turns < 1):
        raise ValueError(f"seed {seed} and {turns} turns were given; a seed of 0 or more and at "
                         "least one turn are needed. Choose others.")
    chance = Chance(seed)
    return (_talk(chance, grade, turns, ruled) for _ in range(n))


def _talk(chance: Chance, grade: str, turns: int | None, ruled: bool | None) -> list[Message]:
    turns = turns or pick(N_TURNS, chance)
    if ruled is None:
        ruled = chance.random() < RULED_SHARE
    talk, sorts = [], []
    if ruled and (turns == 1 or chance.random() < BY_SYSTEM):
        talk = [{"role": "system", "content": _rule(chance, talk)}]
    elif ruled:
        sorts = ["rule"]
    while count(talk) < turns:
        sort = sorts.pop() if sorts else next_sort(talk, chance)
        talk.append({"role": "user", "content": asked(talk, chance, sort)})
        talk.append({"role": "assistant", "content": answer(talk, chance, grade)})
    return talk


def count(talk: Talk) -> int:
    """How many answers a talk has."""
    return sum(message["role"] == "assistant" for message in talk)


def next_sort(talk: Talk, chance: Chance) -> str:
    """What the user comes with next: mostly a tale first, then what there is to ask about it."""
    if not last_tale(talk).told:
        return weighted({"tale": 6, "chat": 1, "forbidden": 1}, chance)
    return weighted(LATER, chance)


def asked(talk: Talk, chance: Chance, sort: str | None = None) -> str:
    """What the user says next, preferably something new. It reads the talk, so an answer may be
    anybody's.

    sort: tale, question, forbidden, rule or chat; drawn where it is left out.
    """
    before = {message["content"] for message in talk}
    for _ in range(TRIES):
        if (said := _asked(talk, chance, sort or next_sort(talk, chance))) not in before:
            break
    return said


def _asked(talk: Talk, chance: Chance, sort: str) -> str:
    match sort:
        case "tale":
            return _wish(chance)
        case "rule":
            return _rule(chance, talk)
        case "question":
            return _about(QUESTIONS, talk, chance)
        case "forbidden":
            return _about(FORBIDDEN, talk, chance)
    return _about(CHAT, talk, chance)


def _wish(chance: Chance) -> str:
    """A wish for a tale with one to three conditions."""
    names = ["kind", "thing", "place", "ending", "length"]
    n = pick((1, 2, 3), chance)
    wished = {names.pop(int(chance.random() * len(names))) for _ in range(n)}
    length = f"{pick(LENGTHS, chance)} " if "length" in wished else ""
    about = f" about {a(pick(HERO_KINDS, chance))}" if "kind" in wished else ""
    place = f" at the {pick(PLACES, chance)}" if "place" in wished else ""
    tint = f"{pick(COLOURS, chance)} " if chance.random() < 0.5 else ""
    extras = [a(tint + pick(THINGS, chance))] if "thing" in wished else []
    extras += [f"a {pick(ENDINGS, chance)} end"] if "ending" in wished else []
    rest = " with " + " and ".join(extras) if extras else ""
    return f"{pick(ASK, chance)} a {length}tale{about}{place}{rest}."


def _rule(chance: Chance, talk: Talk) -> str:
    """A rule that is not yet set; another first word where all are."""
    now = read_rules(talk)
    new = [name for name in RULES_SAID if name == "opener" or not getattr(now, name)]
    openers = [word for word in OPENERS if word != now.opener]
    return pick(RULES_SAID[pick(new, chance)], chance).format(opener=pick(openers, chance))


def _about(phrases: Mapping[str, Sequence[str]], talk: Talk, chance: Chance) -> str:
    """One of the phrases, about what the last tale tells, or anybody where there is none."""
    facts = last_tale(talk)
    name, thing = pick(HEROES, chance), pick(THINGS, chance)
    said = pick(phrases[pick(list(phrases), chance)], chance)
    return said.format(name=facts.hero or name, thing=facts.thing or thing)


# What is answered.

def answer(talk: Talk, chance: Chance, grade: str = "clean") -> str:
    """What a demonstrator of this grade says in a talk that ends with the user's message.

    Raises ValueError for a talk that ends otherwise.
    """
    ask = understand(talk)
    clean = answers_to(ask).write(chance)
    if grade == "wrong" or (grade == "sloppy" and chance.random() < SLOPPY_SHARE):
        return flawed(talk, ask, chance, wrong=grade == "wrong")
    return clean


def entropy(prompt: Talk) -> float:
    """Nats of the clean demonstrator's next answer, in a talk that ends with the user's message."""
    grammar = answers_to(understand(prompt))
    return grammar.entropy(grammar.start)


def log_prob(talk: Talk) -> float:
    """The exact log-probability, in nats, that the clean demonstrator's last answer is this one;
    -inf for one that it never gives."""
    return answers_to(understand(talk[:-1])).log_prob(talk[-1]["content"])


def prompts(talk: Talk) -> Iterator[Talk]:
    """The talk up to each of its answers, without it."""
    return (talk[:i] for i, message in enumerate(talk) if message["role"] == "assistant")


def floor_per_token(talks: Iterable[Talk], n_said: Callable[[Talk], int]) -> float:
    """The least loss in nats per token that a model can reach on the answers of these very talks.

    n_said: how many tokens of a talk the assistant says, end tokens included. All answers are
    learnt, each in its talk. The floor holds for any tokenizer; `tales.floor_per_token` says why.
    Raises ValueError where nothing is said.
    """
    surprise, tokens = 0.0, 0
    for talk in talks:
        surprise -= sum(log_prob(talk[:len(prompt) + 1]) for prompt in prompts(talk))
        tokens += n_said(talk)
    if not tokens:
        raise ValueError("no tokens to share the surprise among; give at least one answer.")
    return surprise / tokens


def pick(options: Sequence, chance: Chance):
    """One of them, equally likely; with `random()` alone, whose sequence is the same everywhere."""
    return options[int(chance.random() * len(options))]


def weighted(odds: Mapping[str, int], chance: Chance) -> str:
    """One of the keys, by its odds."""
    return pick([key for key, odd in odds.items() for _ in range(odd)], chance)
