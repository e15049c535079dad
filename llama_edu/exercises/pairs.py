"""Training by byte pairs in parts, with room for slips: what exercise 5.1 tells apart."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from itertools import islice, pairwise
from typing import Any

from ..tokenizer.bpe import ALPHABET, grow

Pair = tuple[int, int]
Chunks = Mapping[bytes, int]
Words = list[tuple[list[int], int]]         # the tokens of each chunk, and how often it occurs


def package_train(chunks: Chunks, n_merges: int) -> list[Pair]:
    """The first merges of `grow`; its pieces become numbers in the order of their birth."""
    token, merges = {piece: i for i, piece in enumerate(ALPHABET)}, []
    for merge in islice(grow(chunks), n_merges):
        merges.append((token[merge.left], token[merge.right]))
        token[merge.piece] = len(token)
    return merges


# -- the parts of a training step, with room for slips ------------------------------------------


def counted_pairs(words: Words, *, pairs_of: Callable[[list[int]], Iterable[Pair]] = pairwise,
             once: bool = False) -> Counter:
    """How often each pair occurs; `once`: as if every chunk occurred once."""
    counts: Counter = Counter()
    for tokens, n in words:
        for pair in pairs_of(tokens):
            counts[pair] += 1 if once else n
    return counts


def apart(tokens: list[int]) -> list[Pair]:
    """Pairs that share no token with the same pair before them: (a, a) once in `a a a`."""
    found, free = [], {}
    for i, pair in enumerate(pairwise(tokens)):
        if free.get(pair, 0) <= i:
            found.append(pair)
            free[pair] = i + 2
    return found


def smallest(counts: Counter) -> Pair:
    return min(counts, key=lambda pair: (-counts[pair], pair))


def first_seen(counts: Counter) -> Pair:
    return max(counts, key=counts.__getitem__)


def merged(tokens: list[int], pair: Pair, new: int, *, most: int = 1000,
            step: int = 2, either: bool = False) -> list[int]:
    """The usual loop: at most `most` merges, each of which moves on by `step`."""
    wanted = (pair, pair[::-1]) if either else (pair,)
    done, i = [], 0
    while i < len(tokens):
        if most and tuple(tokens[i : i + 2]) in wanted:
            done, i, most = [*done, new], i + step, most - 1
        else:
            done, i = [*done, tokens[i]], i + 1
    return done


def from_the_right(tokens: list[int], pair: Pair, new: int) -> list[int]:
    return merged(tokens[::-1], pair[::-1], new)[::-1]


def overlapping(tokens: list[int], pair: Pair, new: int) -> list[int]:
    """Every place of the pair becomes the new token, also two that share a token."""
    found = [each == pair for each in pairwise(tokens)]
    return [new if here else token for token, here, before in zip(
        tokens, [*found, False], [False, *found], strict=True) if here or not before]


def last_lost(tokens: list[int], pair: Pair, new: int) -> list[int]:
    done, i = [], 0
    while i < len(tokens) - 1:
        found = (tokens[i], tokens[i + 1]) == pair
        done, i = [*done, new if found else tokens[i]], i + (2 if found else 1)
    return done


def standing_still(tokens: list[int], pair: Pair, new: int) -> list[int]:
    """The loop without `i += 1`: at the first token that does not merge it turns for ever."""
    done, i = [], 0
    while i < len(tokens):
        if tuple(tokens[i : i + 2]) == pair:
            done.append(new)
            i += 2
        else:
            done.append(tokens[i])
    return done


def train_words(words: Words, n_merges: int, *, counted: Callable = counted_pairs,
                choose: Callable = smallest, merged: Callable = merged, first: int = 256,
                goes_on: Callable[[Counter], object] = bool) -> list[Pair]:
    """Count, choose, merge; and again."""
    merges: list[Pair] = []
    for new in range(first, first + n_merges):
        counts = counted(words)
        if not goes_on(counts):
            break
        merges.append(choose(counts))
        words = [(merged(tokens, merges[-1], new), n) for tokens, n in words]
    return merges


def trainer(**slips: Any) -> Callable:
    """Training with one part, or more, replaced by a slip."""
    def train(chunks: Chunks, n_merges: int) -> list[Pair]:
        return train_words([(list(chunk), n) for chunk, n in chunks.items()], n_merges, **slips)
    return train


# -- mistakes that are no slip in one part -------------------------------------------------------


def across(chunks: Chunks, n_merges: int) -> list[Pair]:
    return package_train({b"".join(chunk * n for chunk, n in chunks.items()): 1}, n_merges)


def in_a_row(chunks: Chunks, n_merges: int) -> list[Pair]:
    return package_train({b"".join(chunks): 1}, n_merges)


def counted_once(chunks: Chunks, n_merges: int) -> list[Pair]:
    """The most frequent pairs of the first count, however many are asked for."""
    counts = counted_pairs([(list(chunk), n) for chunk, n in chunks.items()])
    return sorted(counts, key=lambda pair: (-counts[pair], pair))[:n_merges]


def never_cleared(chunks: Chunks, n_merges: int) -> list[Pair]:
    """Each round counts on top of the rounds before."""
    so_far: Counter = Counter()

    def counted(words: Words) -> Counter:
        so_far.update(counted_pairs(words))
        return so_far

    return trainer(counted=counted)(chunks, n_merges)


def ties_by_spelling(key: Callable[[Mapping[int, bytes], Pair], object]) -> Callable:
    """Ties by what the two tokens spell instead of by their numbers."""
    def train(chunks: Chunks, n_merges: int) -> list[Pair]:
        spelling = dict(enumerate(ALPHABET))

        def choose(counts: Counter) -> Pair:
            a, b = best = min(counts, key=lambda pair: (-counts[pair], key(spelling, pair)))
            spelling[len(spelling)] = spelling[a] + spelling[b]
            return best

        return trainer(choose=choose)(chunks, n_merges)
    return train


def longest_first(spelling: Mapping[int, bytes], pair: Pair) -> object:
    return -len(spelling[pair[0]] + spelling[pair[1]]), pair


# -- slips of the inner loop ---------------------------------------------------------------------


def ties_by(key: Callable[[Pair], object]) -> Callable:
    """Ties by another order of the two numbers."""
    return trainer(choose=lambda counts: min(counts, key=lambda pair: (-counts[pair], key(pair))))


def except_the(*, first: int = 0, last: int = 0) -> Callable:
    """Merge all but so many tokens at an end of the chunk, which the loop never looks at."""
    def merge(tokens: list[int], pair: Pair, new: int) -> list[int]:
        end = max(len(tokens) - last, first)
        return [*tokens[:first], *merged(tokens[first:end], pair, new), *tokens[end:]]
    return trainer(merged=merge)


def too_far_in_place(tokens: list[int], pair: Pair, new: int) -> list[int]:
    """Merge in the list itself and move on by two, though the list is shorter by one already."""
    tokens, i = [*tokens], 0
    while i < len(tokens) - 1:
        if (tokens[i], tokens[i + 1]) == pair:
            tokens[i : i + 2] = [new]
            i += 1
        i += 1
    return tokens


def on_characters(chunks: Chunks, n_merges: int) -> list[Pair]:
    """Characters and their numbers in place of bytes."""
    words = [([*map(ord, chunk.decode())], n) for chunk, n in chunks.items()]
    return train_words(words, n_merges)


def changed_at_the_end(change: Callable[[list[Pair]], list]) -> Callable:
    """The right merges, and something done to the list of them."""
    return lambda chunks, n_merges: change(package_train(chunks, n_merges))


def asked_for(other: Callable[[int], int]) -> Callable:
    """Another number of merges than was asked for."""
    return lambda chunks, n_merges: package_train(chunks, other(n_merges))


def on_changed_chunks(change: Callable[[bytes, int], tuple[bytes, int]]) -> Callable:
    """Training on chunks, or counts, that were changed before."""
    return lambda chunks, n_merges: package_train(
        dict(change(chunk, n) for chunk, n in chunks.items()), n_merges)


def overwritten(words: Words) -> Counter:
    """`=` for `+=`: of a pair only its last chunk counts."""
    return Counter({pair: n for tokens, n in words for pair in pairwise(tokens)})


def last_seen(counts: Counter) -> Pair:
    return max(reversed([*counts]), key=counts.__getitem__)


def runs_as_one(tokens: list[int], pair: Pair, new: int) -> list[int]:
    """A pair that stands several times in a row becomes one token."""
    done = merged(tokens, pair, new)
    return [token for i, token in enumerate(done) if token != new or done[i - 1 : i] != [new]]


def of_one_number(chunks: Chunks, n_merges: int) -> list[Pair]:
    """Every merge makes token 256."""
    return trainer(merged=lambda tokens, pair, new: merged(tokens, pair, 256))(chunks, n_merges)


def the_commonest_chunk(chunks: Chunks, n_merges: int) -> list[Pair]:
    """All but the chunk that occurs most often is forgotten."""
    commonest = max(chunks, key=chunks.__getitem__, default=b"")
    return package_train({commonest: chunks.get(commonest, 1)}, n_merges)
