"""A grammar that writes a text, reads it back, and knows exactly how surprising it is.

A rule is a choice among templates with odds. A template is text with slots:

    {weather}                 expand a rule
    {hero:person}             expand a rule, and remember under `hero` what was drawn
    {hero}  {hero.they}       recall it by its plain word, or in one of its forms
    {hero.They}               the same with a capital

What is remembered changes words, never odds. So the entropy of a text is a plain sum over
choices, and it is exact if every text has one derivation. `clashes` proves that it does.
"""

import math
import random
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from functools import cached_property

SLOT = re.compile(r"\{(\w+)(?::(\w+))?(?:\.(\w+))?\}")

Forms = Mapping[str, str]           # of one word: {"again": "Mia", "they": "she", ...}


@dataclass(frozen=True)
class Text:
    """Letters that stand as they are."""

    letters: str


@dataclass(frozen=True)
class Draw:
    """A choice to be made, and the key under which it is remembered."""

    rule: str
    key: str | None = None


@dataclass(frozen=True)
class Recall:
    """A word that follows from what is remembered: no choice."""

    key: str
    form: str


Part = Text | Draw | Recall


@dataclass(frozen=True)
class Option:
    """One way to expand a rule: its probability, its template, and what may be recalled of it."""

    share: float
    parts: tuple[Part, ...]
    forms: Forms


@dataclass(frozen=True)
class Slip:
    """A recalled word that is not what was remembered."""

    at: int                         # characters before it
    key: str
    form: str
    said: str
    needed: str


@dataclass(frozen=True)
class Reading:
    """How far a text has been read, and what is known by then."""

    at: int = 0
    log_prob: float = 0.0           # nats, of the choices made so far
    memory: Mapping[str, tuple[Forms, ...]] = field(default_factory=dict)   # what a key may be
    kept: int = 0                   # recalls that were right
    slips: tuple[Slip, ...] = ()


class Grammar:
    """Rules as data, compiled once. `write`, `entropy`, `read` and `clashes` walk the same tree.

    rules: for each rule its templates with their odds, whole numbers.
    tables: rules whose outcomes are equally likely and can be remembered: text to forms. The
    form `again` is the plain word of a recall; it is the text itself unless given.
    Raises KeyError for a slot that leads nowhere.
    """

    def __init__(self, start: str, rules: Mapping[str, Mapping[str, int]],
                 tables: Mapping[str, Mapping[str, Forms]]):
        self.start = start
        self._names = rules.keys() | tables.keys()
        self.options = {name: self._options(odds, {}) for name, odds in rules.items()}
        self.options |= {name: self._options(dict.fromkeys(words, 1), words)
                         for name, words in tables.items()}
        _check(self, tables)

    def narrowed(self, kept: Mapping[str, Sequence[int]]) -> "Grammar":
        """The same with only these options of some rules, at the same odds among each other."""
        narrow = copy(self)
        narrow.options = dict(self.options)
        for rule, numbers in kept.items():
            some = [self.options[rule][i] for i in numbers]
            total = sum(option.share for option in some)
            narrow.options[rule] = tuple(replace(one, share=one.share / total) for one in some)
        return narrow

    def _options(self, odds: Mapping[str, int], forms: Mapping[str, Forms]) -> tuple[Option, ...]:
        total = sum(odds.values())
        return tuple(Option(odd / total, tuple(self._parts(text)), _with_capitals(
            {"again": text} | dict(forms.get(text, {})))) for text, odd in odds.items())

    def _parts(self, template: str) -> Iterator[Part]:
        end = 0
        for slot in SLOT.finditer(template):
            if slot.start() > end:
                yield Text(template[end:slot.start()])
            name, rule, form = slot.groups()
            if rule:
                yield Draw(rule, key=name)
            else:
                yield Draw(name) if name in self._names else Recall(name, form or "again")
            end = slot.end()
        if template[end:]:
            yield Text(template[end:])

    @cached_property
    def known(self) -> dict[str, tuple[Forms, ...]]:
        """Everything that a key can ever be."""
        draws = {part for part in self.parts() if type(part) is Draw and part.key}
        return {key: tuple(option.forms for draw in sorted(draws, key=lambda draw: draw.rule)
                           if draw.key == key for option in self.options[draw.rule])
                for key in {draw.key for draw in draws}}

    def parts(self) -> Iterator[Part]:
        """Every part of every template."""
        return (part for options in self.options.values() for option in options
                for part in option.parts)

    def spellings(self, recall: Recall) -> list[str]:
        """Every word that a recall can ever be."""
        return list(dict.fromkeys(forms[recall.form] for forms in self.known[recall.key]))

    # Writing.

    def write(self, chance: random.Random) -> str:
        """Draw one text. Only `chance.random()` is used: its sequence is the same everywhere."""
        return "".join(self._write([Draw(self.start)], chance, {}))

    def _write(self, parts: Iterable[Part], chance: random.Random,
               memory: dict[str, Forms]) -> Iterator[str]:
        for part in parts:
            match part:
                case Text(letters):
                    yield letters
                case Recall(key, form):
                    yield memory[key][form]
                case Draw(rule, key):
                    option = _pick(self.options[rule], chance.random())
                    if key:
                        memory[key] = option.forms
                    yield from self._write(option.parts, chance, memory)

    # Counting.

    def entropy(self, rule: str) -> float:
        """The expected surprise of a rule's text, in nats: of its choice, and of those inside it.

        H = sum of p (-log p + H of the draws in that option). Recalls add nothing.
        """
        return sum(option.share * (-math.log(option.share) + sum(
            self.entropy(part.rule) for part in option.parts if type(part) is Draw))
            for option in self.options[rule])

    # Reading.

    def read(self, parts: Iterable[Part], text: str, start: Reading) -> list[Reading]:
        """All ways to read the text on from `start` by these parts.

        A recalled word that does not fit is read all the same, and noted as a slip; a key that
        was never introduced may be anything, until the text says more about it.
        """
        readings = [start]
        for part in parts:
            readings = [after for one in readings for after in self._read(part, text, one)]
        return readings

    def _read(self, part: Part, text: str, now: Reading) -> Iterator[Reading]:
        match part:
            case Text(letters):
                if text.startswith(letters, now.at):
                    yield replace(now, at=now.at + len(letters))
            case Recall():
                for word in self.spellings(part):
                    if text.startswith(word, now.at):
                        yield self._recall(part, word, now)
            case Draw(rule, key):
                for option in self.options[rule]:
                    for after in self.read(option.parts, text, now):
                        memory = after.memory | {key: (option.forms,)} if key else after.memory
                        yield replace(after, memory=memory,
                                      log_prob=after.log_prob + math.log(option.share))

    def _recall(self, part: Recall, word: str, now: Reading) -> Reading:
        possible = now.memory.get(part.key, self.known[part.key])
        fitting = tuple(forms for forms in possible if forms[part.form] == word)
        end = now.at + len(word)
        if fitting:
            return replace(now, at=end, memory=now.memory | {part.key: fitting}, kept=now.kept + 1)
        needed = " or ".join(dict.fromkeys(forms[part.form] for forms in possible))
        slip = Slip(now.at, part.key, part.form, word, needed)
        return replace(now, at=end, slips=(*now.slips, slip))

    def derivations(self, text: str) -> list[float]:
        """The log-probability of each way to derive exactly this text, in nats."""
        return [reading.log_prob for reading in self.read([Draw(self.start)], text, Reading())
                if reading.at == len(text) and not reading.slips]

    def log_prob(self, text: str) -> float:
        """The exact log-probability of a text, in nats; -inf for a text the grammar never says."""
        ways = self.derivations(text)
        best = max(ways, default=-math.inf)
        return best + math.log(sum(math.exp(way - best) for way in ways)) if ways else best

    # Proving.

    def clashes(self, horizon: int) -> list[tuple[str, str]]:
        """Rules with two options that might begin alike, each with a text that both could begin.

        An empty list proves that no text has two derivations. Within the first `horizon` letters
        no text of one option is then a prefix of a text of another, so a reader who goes from left
        to right never has a choice. Slots stand for any word that the key can ever be.
        """
        heads: dict[str, set[str]] = {}
        return [(rule, head) for rule in self.options for head in self._clash(rule, horizon, heads)]

    def _clash(self, rule: str, horizon: int, heads: dict[str, set[str]]) -> Iterator[str]:
        owner: dict[str, int] = {}
        for i, option in enumerate(self.options[rule]):
            for head in self._heads(option.parts, horizon, heads):
                if owner.setdefault(head, i) != i:
                    yield head
        for head, i in owner.items():
            yield from (head[:n] for n in range(len(head)) if owner.get(head[:n], i) != i)

    def _heads(self, parts: Sequence[Part], horizon: int, known: dict[str, set[str]]) -> set[str]:
        """The first letters of all that the parts can say; shorter texts whole."""
        heads = {""}
        for part in parts:
            match part:
                case Text(letters):
                    more = {letters}
                case Recall():
                    more = set(self.spellings(part))
                case Draw(rule):
                    if rule not in known:
                        known[rule] = set().union(*(self._heads(option.parts, horizon, known)
                                                    for option in self.options[rule]))
                    more = known[rule]
            heads = {(head + tail)[:horizon] if len(head) < horizon else head
                     for head in heads for tail in (more if len(head) < horizon else {""})}
        return heads


def _pick(options: Sequence[Option], point: float) -> Option:
    """The option in whose share of [0, 1) the point lies."""
    for option in options:
        point -= option.share
        if point < 0:
            return option
    return options[-1]              # rounding left a hair above the last share


def _with_capitals(forms: Forms) -> dict[str, str]:
    return dict(forms) | {form.capitalize(): word[:1].upper() + word[1:]
                          for form, word in forms.items()}


def _check(grammar: Grammar, tables: Mapping[str, Mapping[str, Forms]]) -> None:
    """Raise KeyError for a slot that leads nowhere."""
    for part in grammar.parts():
        match part:
            case Draw(rule, key):
                if rule not in grammar.options or (key and rule not in tables):
                    raise KeyError(f"a slot expands {rule!r}; it must be a rule of the grammar, "
                                   "and a table if it is remembered. Add it, or correct the slot.")
                if key in grammar.options:
                    raise KeyError(f"a slot remembers under {key!r}, which is a rule; a name of "
                                   "its own is needed. Rename the key.")
    for part in grammar.parts():
        match part:
            case Recall(key, form):
                if not (words := grammar.known.get(key)) or any(form not in w for w in words):
                    raise KeyError(f"a slot recalls {key}.{form}; every word that can be {key} "
                                   "needs that form. Add it to the tables, or correct the slot.")
