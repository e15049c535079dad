"""The exercises of chapter 05 on training by byte pairs: count, and merge."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise

from torch import Generator

from ..tokenizer.bpe import grow
from ..tokenizer.merging import merge_all
from .data import Exercise, Inputs, Misconception, Probe, count

Pair = tuple[int, int]
Chunks = Mapping[tuple[int, ...], int]

# -- 5.1: the next pair to merge ----------------------------------------------------------------


def _package_best_pair(chunks: Chunks) -> Pair:
    """The first merge of `grow`, which starts from bytes: tokens become bytes of the same order."""
    tokens = sorted({token for chunk in chunks for token in chunk})
    as_byte = {token: byte for byte, token in enumerate(tokens)}
    merge = next(grow({bytes(map(as_byte.__getitem__, chunk)): n for chunk, n in chunks.items()}))
    return tokens[merge.left[0]], tokens[merge.right[0]]


def _counted(chunks: Chunks, pairs_of: Callable[[tuple], Iterable[Pair]] = pairwise, *,
             once: bool = False) -> Counter:
    """How often each pair occurs; `once`: as if every chunk occurred once."""
    counts: Counter = Counter()
    for chunk, n in chunks.items():
        for pair in pairs_of(chunk):
            counts[pair] += 1 if once else n
    return counts


def _smallest(counts: Counter) -> Pair:
    return min(counts, key=lambda pair: (-counts[pair], pair))


def _apart(chunk: Sequence[int]) -> list[Pair]:
    """Pairs that share no token with the same pair before them: (a, a) once in `a a a`."""
    found, free = [], {}
    for i, pair in enumerate(pairwise(chunk)):
        if free.get(pair, 0) <= i:
            found.append(pair)
            free[pair] = i + 2
    return found


def _across(chunks: Chunks) -> Pair:
    row = [token for chunk, n in chunks.items() for _ in range(n) for token in chunk]
    return _smallest(Counter(pairwise(row)))


def _fresh(rng: Generator) -> int:
    """A token well above those in the probes, so that order does not hang on it."""
    return count(rng, 400, 900)


BEST_PAIR = Exercise(
    "5.1", "The next pair to merge", "The idea", _package_best_pair,
    probes=(
        Probe("one pair is the most frequent", lambda rng: {
            "chunks": {(5, 7, 3): 4, (3, 9, 5): 2, (5, 7, _fresh(rng)): 1}}),
        Probe("a tie", lambda rng: {
            "chunks": {(6, 4): 3, (2, 9, 300): 3, (8, 5): 3, (1, _fresh(rng)): 1}}),
        Probe("a rare chunk with many pairs", lambda rng: {
            "chunks": {(8, 9, 1, 8, 9, 2, 8, 9): 1, (4, 6): count(rng, 5, 9)}}),
        Probe("a run of one token", lambda rng: {
            "chunks": {(5, 5, 5, 5): 1, (2, 3): 2, (7, _fresh(rng)): 1}}),
        Probe("a chunk of one token", lambda rng: {
            "chunks": {(8,): count(rng, 6, 9), (3, 6): 2, (5, 1): 1}}),
    ),
    misconceptions=(
        Misconception("the first seen wins",
                      lambda chunks: max(counts := _counted(chunks), key=counts.__getitem__),
                      "of equally frequent pairs you took the one that you saw first. Then the "
                      "order of the text decides; take the smaller pair."),
        Misconception("the larger pair wins",
                      lambda chunks: max(counts := _counted(chunks),
                                         key=lambda pair: (counts[pair], pair)),
                      "of equally frequent pairs you took the larger. `max` over (count, pair) "
                      "does that; take the smaller pair."),
        Misconception("each chunk once", lambda chunks: _smallest(_counted(chunks, once=True)),
                      "you counted each chunk once. A chunk that occurs n times has its pairs n "
                      "times.", also=(lambda chunks: max(
                          counts := _counted(chunks, once=True), key=counts.__getitem__),)),
        Misconception("across borders", _across,
                      "you counted pairs across the border of two chunks. Merges stay inside a "
                      "chunk; that is what the chunks are for."),
        Misconception("overlaps left out", lambda chunks: _smallest(_counted(chunks, _apart)),
                      "you counted (a, a) in `a a a` once. We count every place where a pair "
                      "stands, overlapping ones too, although only one can merge."),
        Misconception("the rarest", lambda chunks: min(
            counts := _counted(chunks), key=lambda pair: (counts[pair], pair)),
                      "you took the rarest pair. The most frequent one saves the most tokens."),
    ),
    hints=(
        "Count first, choose afterwards. A Counter with pairs as keys does the counting.",
        "itertools.pairwise(chunk) gives the neighbours; each counts as often as its chunk.",
        "min(counts, key=...) with a key that puts high counts first, then small pairs.",
    ))

# -- 5.2: merge it ------------------------------------------------------------------------------


def _package_merge(tokens: list[int], pair: Pair, new: int) -> list[int]:
    """`merge_all` with a vocabulary of one piece; tokens become letters."""
    letters = [chr(256 + token) for token in tokens]
    both = chr(256 + pair[0]) + chr(256 + pair[1])
    parts = merge_all(letters, {both: 0})
    return [new if part == both else ord(part) - 256 for part in parts]


def _loop(tokens: list[int], found: Callable[[int, int], bool], new: int, *, most: int = 1000,
          step: int = 2) -> list[int]:
    """The usual loop, with room for slips: at most `most` merges, `step` tokens for each."""
    merged, i = [], 0
    while i < len(tokens):
        if i + 1 < len(tokens) and most and found(tokens[i], tokens[i + 1]):
            merged, i, most = [*merged, new], i + step, most - 1
        else:
            merged, i = [*merged, tokens[i]], i + 1
    return merged


def _from_the_right(tokens: list[int], pair: Pair, new: int) -> list[int]:
    return _package_merge(tokens[::-1], pair[::-1], new)[::-1]


def _overlapping(tokens: list[int], pair: Pair, new: int) -> list[int]:
    pairs = list(pairwise(tokens))
    merged = []
    for i, token in enumerate(tokens):
        if i < len(pairs) and pairs[i] == pair:
            merged.append(new)
        elif i == 0 or pairs[i - 1] != pair:
            merged.append(token)
    return merged


def _last_lost(tokens: list[int], pair: Pair, new: int) -> list[int]:
    merged, i = [], 0
    while i < len(tokens) - 1:
        found = (tokens[i], tokens[i + 1]) == pair
        merged, i = [*merged, new if found else tokens[i]], i + (2 if found else 1)
    return merged


def _standing_still(tokens: list[int], pair: Pair, new: int) -> list[int]:
    """The loop without `i += 1`: at the first token that does not merge it turns for ever."""
    merged, i = [], 0
    while i < len(tokens):
        if tuple(tokens[i : i + 2]) == pair:
            merged.append(new)
            i += 2
        else:
            merged.append(tokens[i])
    return merged


def _run(rng: Generator, tokens: list[int], pair: Pair) -> Inputs:
    return {"tokens": [*tokens, count(rng, 20, 90)], "pair": pair, "new": count(rng, 256, 900)}


MERGE = Exercise(
    "5.2", "Merge a pair", "The idea", _package_merge,
    probes=(
        Probe("one place", lambda rng: _run(rng, [4, 7, 9, 4], (7, 9))),
        Probe("the other order", lambda rng: _run(rng, [9, 7, 5, 7, 9], (7, 9))),
        Probe("aaa", lambda rng: _run(rng, [7, 7, 7], (7, 7))),
        Probe("aaaa, twice", lambda rng: _run(rng, [7, 7, 7, 7, 2, 7, 7, 7, 7, 7], (7, 7))),
        Probe("at the end", lambda rng: {**_run(rng, [], (3, 8)), "tokens": [5, 3, 8, 1, 3, 8]}),
        Probe("too short", lambda rng: {**_run(rng, [], (3, 8)), "tokens": [3]}),
    ),
    misconceptions=(
        Misconception("overlapping", _overlapping,
                      "one token of yours serves in two merges: `a a a` became two pieces. A token "
                      "that has merged is gone; move on by two."),
        Misconception("from the right", _from_the_right,
                      "you merged from the right: `a a a` became `a, aa`. From the left it is "
                      "`aa, a`."),
        Misconception("the last token lost", _last_lost,
                      "you lost the last token where it does not merge. A loop over pairs ends "
                      "one token early."),
        Misconception("only the first", lambda tokens, pair, new: _loop(
            tokens, lambda a, b: (a, b) == pair, new, most=1),
                      "you merged the first place only. The pair merges wherever it stands."),
        Misconception("either order", lambda tokens, pair, new: _loop(
            tokens, lambda a, b: (a, b) in (pair, pair[::-1]), new),
                      "you merged the pair in the other order as well. `ab` and `ba` are "
                      "different pieces."),
        Misconception("the second stays", lambda tokens, pair, new: _loop(
            tokens, lambda a, b: (a, b) == pair, new, step=1),
                      "the second half of each pair is still there, after the new token. A merge "
                      "uses up both: move on by two."),
        Misconception("nothing merged", lambda tokens, pair, new: list(tokens),
                      "nothing merged. A slice of a list is a list and never equals a tuple: "
                      "tuple(tokens[i:i+2]) == pair."),
        Misconception("the index stands still", _standing_still,
                      "your loop never ends. Each way through it has to move the index on, by one "
                      "where nothing merges."),
    ),
    hints=(
        "Walk through the tokens with an index of your own; a `for` cannot skip one.",
        "If the token and the next one are the pair: append `new` and move on by two.",
        "Slices never run over the end: tuple(tokens[i : i + 2]) == pair is safe at the last one.",
    ), most_lines=20_000)

EXERCISES = [BEST_PAIR, MERGE]
