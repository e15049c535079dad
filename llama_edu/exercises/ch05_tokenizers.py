"""The exercise of chapter 05 on training by byte pairs: count, choose, merge, and again."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from itertools import islice, pairwise

from torch import Generator

from ..tokenizer.bpe import ALPHABET, grow
from .data import Exercise, Inputs, Misconception, Probe, count

Pair = tuple[int, int]
Chunks = Mapping[bytes, int]
Words = list[tuple[list[int], int]]         # the tokens of each chunk, and how often it occurs


def _package_train(chunks: Chunks, n_merges: int) -> list[Pair]:
    """The first merges of `grow`; its pieces become numbers in the order of their birth."""
    token, merges = {piece: i for i, piece in enumerate(ALPHABET)}, []
    for merge in islice(grow(chunks), n_merges):
        merges.append((token[merge.left], token[merge.right]))
        token[merge.piece] = len(token)
    return merges


# -- the parts of a training step, with room for slips ------------------------------------------


def _counted(words: Words, *, pairs_of: Callable[[list[int]], Iterable[Pair]] = pairwise,
             once: bool = False) -> Counter:
    """How often each pair occurs; `once`: as if every chunk occurred once."""
    counts: Counter = Counter()
    for tokens, n in words:
        for pair in pairs_of(tokens):
            counts[pair] += 1 if once else n
    return counts


def _apart(tokens: list[int]) -> list[Pair]:
    """Pairs that share no token with the same pair before them: (a, a) once in `a a a`."""
    found, free = [], {}
    for i, pair in enumerate(pairwise(tokens)):
        if free.get(pair, 0) <= i:
            found.append(pair)
            free[pair] = i + 2
    return found


def _smallest(counts: Counter) -> Pair:
    return min(counts, key=lambda pair: (-counts[pair], pair))


def _first(counts: Counter) -> Pair:
    return max(counts, key=counts.__getitem__)


def _merged(tokens: list[int], pair: Pair, new: int, *, most: int = 1000,
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


def _from_the_right(tokens: list[int], pair: Pair, new: int) -> list[int]:
    return _merged(tokens[::-1], pair[::-1], new)[::-1]


def _last_lost(tokens: list[int], pair: Pair, new: int) -> list[int]:
    done, i = [], 0
    while i < len(tokens) - 1:
        found = (tokens[i], tokens[i + 1]) == pair
        done, i = [*done, new if found else tokens[i]], i + (2 if found else 1)
    return done


def _standing_still(tokens: list[int], pair: Pair, new: int) -> list[int]:
    """The loop without `i += 1`: at the first token that does not merge it turns for ever."""
    done, i = [], 0
    while i < len(tokens):
        if tuple(tokens[i : i + 2]) == pair:
            done.append(new)
            i += 2
        else:
            done.append(tokens[i])
    return done


def _trainer(*, counted: Callable = _counted, choose: Callable = _smallest,
             merged: Callable = _merged, first: int = 256,
             goes_on: Callable[[Counter], object] = bool) -> Callable:
    def train(chunks: Chunks, n_merges: int) -> list[Pair]:
        words = [(list(chunk), n) for chunk, n in chunks.items()]
        merges: list[Pair] = []
        for new in range(first, first + n_merges):
            counts = counted(words)
            if not goes_on(counts):
                break
            merges.append(choose(counts))
            words = [(merged(tokens, merges[-1], new), n) for tokens, n in words]
        return merges
    return train


# -- mistakes that are no slip in one part -------------------------------------------------------


def _across(chunks: Chunks, n_merges: int) -> list[Pair]:
    return _package_train({b"".join(chunk * n for chunk, n in chunks.items()): 1}, n_merges)


def _in_a_row(chunks: Chunks, n_merges: int) -> list[Pair]:
    return _package_train({b"".join(chunks): 1}, n_merges)


def _counted_once(chunks: Chunks, n_merges: int) -> list[Pair]:
    """The most frequent pairs of the first count, however many are asked for."""
    counts = _counted([(list(chunk), n) for chunk, n in chunks.items()])
    return sorted(counts, key=lambda pair: (-counts[pair], pair))[:n_merges]


def _never_cleared(chunks: Chunks, n_merges: int) -> list[Pair]:
    """Each round counts on top of the rounds before."""
    so_far: Counter = Counter()

    def counted(words: Words) -> Counter:
        so_far.update(_counted(words))
        return so_far

    return _trainer(counted=counted)(chunks, n_merges)


def _ties_by(key: Callable[[Mapping[int, bytes], Pair], object]) -> Callable:
    """Ties by what the two tokens spell instead of by their numbers."""
    def train(chunks: Chunks, n_merges: int) -> list[Pair]:
        spelling = dict(enumerate(ALPHABET))

        def choose(counts: Counter) -> Pair:
            a, b = best = min(counts, key=lambda pair: (-counts[pair], key(spelling, pair)))
            spelling[len(spelling)] = spelling[a] + spelling[b]
            return best

        return _trainer(choose=choose)(chunks, n_merges)
    return train


def _longest_first(spelling: Mapping[int, bytes], pair: Pair) -> object:
    return -len(spelling[pair[0]] + spelling[pair[1]]), pair


def _probe(name: str, n_merges: int, chunks: Callable[[Generator], Chunks]) -> Probe:
    def make(rng: Generator) -> Inputs:
        return {"chunks": chunks(rng), "n_merges": n_merges}
    return Probe(name, make)


TRAIN = Exercise(
    "5.1", "Train a vocabulary", "The idea", _package_train,
    probes=(
        _probe("a sentence", 6, lambda rng: {
            b"small": count(rng, 1, 4), b" llamas": 5, b" call": 3, b" all": 2}),
        _probe("one merge", 1, lambda rng: {
            b"efg": 4, b"gfi": 2, b"ef": count(rng, 1, 3)}),
        _probe("a tie", 3, lambda rng: {
            b"nk": 3, b"cy~": 3, b"zb": 3, b"AB": count(rng, 1, 2)}),
        _probe("a rare chunk with many pairs", 2, lambda rng: {
            b"hiahibhi": 1, b"df": count(rng, 5, 9), b"kl": 2}),
        _probe("a run of one byte", 4, lambda rng: {
            b"aaaaa": count(rng, 3, 5), b"ab": 3, b"baaa": 2}),
        _probe("five in a row, and a rival", 1, lambda rng: {
            b"eeee": 2, b"qr": 5, b"x": count(rng, 1, 9)}),
        _probe("a pair twice in a chunk", 5, lambda rng: {
            b"abcabcab": 2, b"cbx": count(rng, 3, 4), b"bca": 1}),
        _probe("a piece and a byte are as frequent", 4, lambda rng: {
            b"abq": count(rng, 5, 8), b"abq~": 2, b"zy": 2, b"yw": 2, b"abz": 2}),
        _probe("no pair is left", 4, lambda rng: {b"ab": 2, b"c": count(rng, 3, 9)}),
        _probe("bytes of other scripts", 3, lambda rng: {
            "羊驼".encode(): count(rng, 2, 5), " é".encode(): 1}),
        _probe("every pair stands once", 3, lambda rng: {
            b"rst": 1, b"pq": 1, b"w": count(rng, 2, 9)}),
        _probe("no merge asked for", 0, lambda rng: {b"ab": count(rng, 2, 5)}),
        _probe("no chunk", 2, lambda rng: {}),
    ),
    misconceptions=(
        Misconception("the first seen wins", _trainer(choose=_first),
                      "of equally frequent pairs you took the one that you saw first. Then the "
                      "order of the text decides; take the smaller pair."),
        Misconception("the larger pair wins", _trainer(choose=lambda counts: max(
            counts, key=lambda pair: (counts[pair], pair))),
                      "of equally frequent pairs you took the larger. `max` over (count, pair) "
                      "does that; take the smaller pair."),
        Misconception("ties by spelling", _ties_by(
            lambda spelling, pair: (spelling[pair[0]], spelling[pair[1]])),
                      "of equally frequent pairs you took the one that is spelled first. Tokens "
                      "are compared by number: a new piece is larger than every byte.",
                      also=(_ties_by(lambda spelling, pair: spelling[pair[0]] + spelling[pair[1]]),
                            _ties_by(_longest_first))),
        Misconception("each chunk once", _trainer(
            counted=lambda words: _counted(words, once=True)),
                      "you counted each chunk once. A chunk that occurs n times has its pairs n "
                      "times.", also=(_trainer(counted=lambda words: _counted(words, once=True),
                                               choose=_first),)),
        Misconception("a pair once a chunk", _trainer(
            counted=lambda words: _counted(words, pairs_of=lambda tokens: {*pairwise(tokens)})),
                      "you counted a pair once in a chunk that has it several times. Every place "
                      "counts."),
        Misconception("across borders", _across,
                      "you counted pairs across the border of two chunks. Merges stay inside a "
                      "chunk; that is what the chunks are for.", also=(_in_a_row,)),
        Misconception("overlaps left out", _trainer(
            counted=lambda words: _counted(words, pairs_of=_apart)),
                      "you counted (a, a) in `a a a` once. We count every place where a pair "
                      "stands, overlapping ones too, although only one can merge."),
        Misconception("the rarest", _trainer(choose=lambda counts: min(
            counts, key=lambda pair: (counts[pair], pair))),
                      "you took the rarest pair. The most frequent one saves the most tokens."),
        Misconception("counted once for all", _counted_once,
                      "you took the most frequent pairs of the first count. After each merge the "
                      "neighbours are others: merge, and count again."),
        Misconception("counts kept from before", _never_cleared,
                      "your counts still hold those of earlier rounds. After a merge its pair is "
                      "gone, and its neighbours stand in other pairs: begin each count anew."),
        Misconception("stopped at pairs that stand once", _trainer(
            goes_on=lambda counts: max(counts.values(), default=0) > 1),
                      "you stopped where the best pair stands only once. Stop where no pair is "
                      "left, or when there are as many merges as were asked for."),
        Misconception("nothing merged", _trainer(merged=lambda tokens, pair, new: tokens),
                      "you never merged: the same pair comes again. A slice of a list never "
                      "equals a tuple; compare tuple(tokens[i : i + 2]) with the pair."),
        Misconception("merged from the right", _trainer(merged=_from_the_right),
                      "you merged from the right: `a a a` became `a, aa`. From the left it is "
                      "`aa, a`."),
        Misconception("only the first place", _trainer(
            merged=lambda tokens, pair, new: _merged(tokens, pair, new, most=1)),
                      "you merged the first place in a chunk only. The pair merges wherever it "
                      "stands."),
        Misconception("the second stays", _trainer(
            merged=lambda tokens, pair, new: _merged(tokens, pair, new, step=1)),
                      "the second half of each pair is still there, after the new token. A merge "
                      "uses up both: move on by two."),
        Misconception("the last token lost", _trainer(merged=_last_lost),
                      "you lost the last token of a chunk where it does not merge. A loop over "
                      "pairs ends one token early."),
        Misconception("either order", _trainer(
            merged=lambda tokens, pair, new: _merged(tokens, pair, new, either=True)),
                      "you merged the pair in the other order as well. `ab` and `ba` are "
                      "different pieces."),
        Misconception("new tokens from elsewhere", _trainer(first=257),
                      "your new tokens have other numbers. Bytes are 0 to 255, so the first merge "
                      "makes 256.", also=(_trainer(first=255), _trainer(first=1),
                                          _trainer(first=0))),
        Misconception("no pair left", _trainer(goes_on=lambda counts: True),
                      "you asked for the best pair where none is left. Stop there, with fewer "
                      "merges."),
        Misconception("the index stands still", _trainer(merged=_standing_still),
                      "your loop never ends. Each way through it has to move its index on."),
    ),
    hints=(
        "Turn each chunk into a list of numbers, list(chunk), and keep its count beside it.",
        "One round: count the pairs (itertools.pairwise), each as often as its chunk; choose with "
        "min and a key that puts high counts first, then small pairs; merge it everywhere.",
        "To merge, walk with an index of your own: where tuple(tokens[i : i + 2]) is the pair, "
        "append the new number and move on by two; else append the token and move on by one.",
    ), most_lines=60_000)

EXERCISES = [TRAIN]
