"""Small tales, as many as wanted, whose entropy is known and whose sense can be judged.

A loss curve over these tales has a floor: `entropy` nats per tale, which no model can beat.
A sampled tale has a score: `judge` reads it by the same grammar that wrote it.
"""

import random
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from .tales_grammar import Draw, Grammar, Reading, Slip, Text
from .tales_words import RULES, START, TABLES

TALES = Grammar(START, RULES, TABLES)

# What a wrong word breaks: a form of any word, or else the word that a key stands for.
BROKEN_FORM = {"they": "pronoun", "them": "pronoun", "their": "pronoun"}
BROKEN_KEY = {"hero": "name", "friend": "name", "thing": "thing", "look": "thing",
              "place": "place", "accident": "place", "mood": "feeling"}


def story(seed: int) -> str:
    """One tale. The same seed gives the same tale on any machine. Raises as `stories` does."""
    return next(stories(1, seed=seed))


def stories(n: int, *, seed: int) -> Iterator[str]:
    """n independent tales from one seed; the first of them is `story(seed)`.

    Raises ValueError for a seed below 0.
    """
    if seed < 0:
        raise ValueError(f"seed {seed} was given; 0 or more is needed, because Python's generator "
                         "treats -1 and 1 alike. Choose another.")
    chance = random.Random(seed)
    return (TALES.write(chance) for _ in range(n))


def entropy() -> float:
    """Nats per tale: the floor. Divide by log 2 for bits.

    It is the least loss, summed over a tale, that any model can reach on average. It is exact
    because no tale has two derivations (`TALES.clashes` is empty).
    """
    return TALES.entropy(TALES.start)


def log_prob(text: str) -> float:
    """The exact log-probability of a tale in nats; -inf for a text that is not one."""
    return TALES.log_prob(text)


def floor_per_token(tales: Iterable[str], count: Callable[[str], int]) -> float:
    """The loss in nats per token of a model that knows the grammar itself, on these very tales.

    `count` says how many tokens of a tale are predicted, an end token included if there is one:
    it costs nothing, since no tale is the beginning of another. Taken over the same held-out
    tales, model and floor share the luck of the draw, so their distance is far less noisy than
    with `entropy` over the mean number of tokens.

    A text can be cut into tokens in many ways, and a tokenizer makes one of them. Whoever knows
    the grammar and the tokenizer gives the others no probability, so the surprise of the tokens
    is that of the text, and the floor holds for any tokenizer that decodes what it encodes. It
    holds for tales that are read from their start: a window that begins inside one has lost
    the name, so its best loss is higher. Raises ValueError where no token is predicted.
    """
    surprise, tokens = 0.0, 0
    for tale in tales:
        surprise -= log_prob(tale)
        tokens += count(tale)
    if not tokens:
        raise ValueError("no tokens to share the surprise among; give at least one tale.")
    return surprise / tokens


@dataclass(frozen=True)
class Finding:
    """One rule that a tale breaks, and where."""

    rule: str                       # form, name, thing, pronoun, place, feeling or ending
    at: int                         # characters before it
    said: str
    needed: str

    def __str__(self) -> str:
        return f"{self.rule}, at character {self.at}: {self.said!r}; needed: {self.needed}"


@dataclass(frozen=True)
class Verdict:
    """What `judge` found: the share of all checks that hold, and each one that does not."""

    score: float
    findings: tuple[Finding, ...]

    @property
    def consistent(self) -> bool:
        """Nothing is wrong: the text is a tale of the grammar."""
        return not self.findings

    @property
    def broken(self) -> frozenset[str]:
        """The names of the rules that are broken."""
        return frozenset(finding.rule for finding in self.findings)


def judge(text: str) -> Verdict:
    """Read a text as a tale, right or slightly wrong, and say what is wrong with it.

    A check is kept for each part of a tale that is there in its turn and for each recalled word
    that is right. A finding is a part that is missing or garbled (`form`; the last part:
    `ending`), letters that belong to no part (`form`), or a recalled word that is another than
    before (`name`, `thing`, `pronoun`, ...). Score = kept / (kept + findings): 1 exactly for the
    tales of the grammar, 0 for a text with no sentence of theirs. Any text gets a verdict.
    """
    now, findings, kept, turn = Reading(), [], 0, 0
    while turn < len(STEPS):
        place, after, start = _next_step(text, now, turn)
        if start is not None:
            findings += _skipped(text, now.at, start, turn, place)
        if after is None:
            break
        now, kept, turn = after, kept + 1, place + 1
    if turn == len(STEPS) and now.at < len(text):
        findings.append(Finding("ending", now.at, _short(text[now.at:]), "nothing more"))
    findings += [_wrong_word(slip) for slip in now.slips]
    kept += now.kept
    return Verdict(kept / (kept + len(findings)),
                   tuple(sorted(findings, key=lambda finding: finding.at)))


def _steps() -> tuple[tuple[str, Draw], ...]:
    """The turns of a tale: the rule of each, and the white space before it."""
    gap, steps = "", []
    for part in TALES.options[TALES.start][0].parts:
        match part:
            case Text(letters):
                gap = letters
            case Draw():
                steps.append((gap, part))
    return tuple(steps)


STEPS = _steps()
SENTENCE = re.compile(r"(?:(?<=[.!?\"])|\n)\s*")       # what stands before a sentence
LOOK_AHEAD = 500                # characters in which a lost reader seeks the next known sentence


def _next_step(text: str, now: Reading, turn: int) -> tuple[int, Reading | None, int | None]:
    """The next step that can be read, the reading after it, and where it starts if not in order.

    The step whose turn it is comes first; else the nearest sentence that is this or a later step.
    """
    gap, draw = STEPS[turn]
    if after := _fewest_slips(TALES.read([Text(gap), draw], text, now)):
        return turn, after, None
    horizon = now.at + LOOK_AHEAD
    starts = [now.at] + [space.end() for space in SENTENCE.finditer(text, now.at, horizon)]
    for start in starts:
        for later in range(turn, len(STEPS)):
            readings = TALES.read([STEPS[later][1]], text, replace(now, at=start))
            if after := _fewest_slips(readings):
                return later, after, start
    return len(STEPS), None, len(text)


def _fewest_slips(readings: list[Reading]) -> Reading | None:
    return min(readings, key=lambda reading: len(reading.slips), default=None)


def _skipped(text: str, at: int, start: int, turn: int, place: int) -> list[Finding]:
    """What is wrong between a step and the next one that could be read: steps, or only letters."""
    said = _short(text[at:start])
    if place == turn:
        return [Finding("form", at, said, f"only {STEPS[turn][0]!r} before the "
                                          f"{STEPS[turn][1].rule}")]
    return [Finding("ending" if step == len(STEPS) - 1 else "form", at, said,
                    f"the {STEPS[step][1].rule} of the tale") for step in range(turn, place)]


def _wrong_word(slip: Slip) -> Finding:
    rule = BROKEN_FORM.get(slip.form.lower()) or BROKEN_KEY[slip.key]
    return Finding(rule, slip.at, slip.said, slip.needed)


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."
