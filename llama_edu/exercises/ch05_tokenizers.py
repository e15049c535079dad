"""The exercise of chapter 05 on training by byte pairs: count, choose, merge, and again."""

from collections.abc import Callable
from itertools import pairwise

from torch import Generator

from .data import Exercise, Inputs, Misconception, Probe, count
from .pairs import (
    Chunks,
    across,
    apart,
    asked_for,
    changed_at_the_end,
    counted_once,
    counted_pairs,
    except_the,
    first_seen,
    from_the_right,
    in_a_row,
    last_lost,
    last_seen,
    longest_first,
    merged,
    never_cleared,
    of_one_number,
    on_changed_chunks,
    on_characters,
    overlapping,
    overwritten,
    package_train,
    runs_as_one,
    standing_still,
    the_commonest_chunk,
    ties_by,
    ties_by_spelling,
    too_far_in_place,
    trainer,
)


def _probe(name: str, n_merges: int, chunks: Callable[[Generator], Chunks]) -> Probe:
    def make(rng: Generator) -> Inputs:
        return {"chunks": chunks(rng), "n_merges": n_merges}
    return Probe(name, make)


TRAIN = Exercise(
    "5.1", "Train a vocabulary", "The idea", package_train,
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
        Misconception("the first seen wins", trainer(choose=first_seen),
                      "of equally frequent pairs you took the one that you saw first. Then the "
                      "order of the text decides; take the smaller pair."),
        Misconception("the larger pair wins", trainer(choose=lambda counts: max(
            counts, key=lambda pair: (counts[pair], pair))),
                      "of equally frequent pairs you took the larger. `max` over (count, pair) "
                      "does that; take the smaller pair."),
        Misconception("ties by spelling", ties_by_spelling(
            lambda spelling, pair: (spelling[pair[0]], spelling[pair[1]])),
                      "of equally frequent pairs you took the one that is spelled first. Tokens "
                      "are compared by number: a new piece is larger than every byte.",
                      also=(ties_by_spelling(longest_first), ties_by_spelling(
                          lambda spelling, pair: spelling[pair[0]] + spelling[pair[1]]))),
        Misconception("each chunk once", trainer(
            counted=lambda words: counted_pairs(words, once=True)),
                      "you counted each chunk once. A chunk that occurs n times has its pairs n "
                      "times.", also=(trainer(counted=lambda words: counted_pairs(words, once=True),
                                               choose=first_seen),)),
        Misconception("a pair once a chunk", trainer(
            counted=lambda words: counted_pairs(
                words, pairs_of=lambda tokens: {*pairwise(tokens)})),
                      "you counted a pair once in a chunk that has it several times. Every place "
                      "counts."),
        Misconception("across borders", across,
                      "you counted pairs across the border of two chunks. Merges stay inside a "
                      "chunk; that is what the chunks are for.", also=(in_a_row,)),
        Misconception("overlaps left out", trainer(
            counted=lambda words: counted_pairs(words, pairs_of=apart)),
                      "you counted (a, a) in `a a a` once. We count every place where a pair "
                      "stands, overlapping ones too, although only one can merge."),
        Misconception("the rarest", trainer(choose=lambda counts: min(
            counts, key=lambda pair: (counts[pair], pair))),
                      "you took the rarest pair. The most frequent one saves the most tokens."),
        Misconception("counted once for all", counted_once,
                      "you took the most frequent pairs of the first count. After each merge the "
                      "neighbours are others: merge, and count again."),
        Misconception("counts kept from before", never_cleared,
                      "your counts still hold those of earlier rounds. After a merge its pair is "
                      "gone, and its neighbours stand in other pairs: begin each count anew."),
        Misconception("stopped at pairs that stand once", trainer(
            goes_on=lambda counts: max(counts.values(), default=0) > 1),
                      "you stopped where the best pair stands only once. Stop where no pair is "
                      "left, or when there are as many merges as were asked for."),
        Misconception("nothing merged", trainer(merged=lambda tokens, pair, new: tokens),
                      "you never merged: the same pair comes again. A slice of a list never "
                      "equals a tuple; compare tuple(tokens[i : i + 2]) with the pair."),
        Misconception("merged from the right", trainer(merged=from_the_right),
                      "you merged from the right: `a a a` became `a, aa`. From the left it is "
                      "`aa, a`."),
        Misconception("only the first place", trainer(
            merged=lambda tokens, pair, new: merged(tokens, pair, new, most=1)),
                      "you merged the first place in a chunk only. The pair merges wherever it "
                      "stands."),
        Misconception("the second stays", trainer(
            merged=lambda tokens, pair, new: merged(tokens, pair, new, step=1)),
                      "the second half of each pair is still there, after the new token. A merge "
                      "uses up both: move on by two."),
        Misconception("overlapping places merged", trainer(merged=overlapping),
                      "in `a a a` you merged both places of (a, a): the middle one went into two "
                      "pieces. A merge uses up both of its tokens."),
        Misconception("the last token lost", trainer(merged=last_lost),
                      "you lost the last token of a chunk where it does not merge. A loop over "
                      "pairs ends one token early."),
        Misconception("either order", trainer(
            merged=lambda tokens, pair, new: merged(tokens, pair, new, either=True)),
                      "you merged the pair in the other order as well. `ab` and `ba` are "
                      "different pieces."),
        Misconception("new tokens from elsewhere", trainer(first=257),
                      "your new tokens have other numbers. Bytes are 0 to 255, so the first merge "
                      "makes 256.", also=(trainer(first=255), trainer(first=1),
                                          trainer(first=0))),
        Misconception("another order of ties", ties_by(lambda pair: pair[::-1]),
                      "of equally frequent pairs you took another one. Tuples are compared by "
                      "their first numbers, and by the second ones where those are equal.",
                      also=tuple(map(ties_by, (
                          sum, max, lambda pair: (-pair[0], pair[1]),
                          lambda pair: (pair[0], -pair[1]), lambda pair: (pair[1], -pair[0]),
                          lambda pair: (-pair[1], pair[0]), lambda pair: pair[0] * pair[1])))),
        Misconception("every second pair", trainer(
            counted=lambda words: counted_pairs(
                words, pairs_of=lambda tokens: zip(tokens[::2], tokens[1::2], strict=False))),
                      "you cut each chunk into twos and counted those. Neighbours overlap: `abc` "
                      "has the pairs `ab` and `bc`."),
        Misconception("order left out", trainer(
            counted=lambda words: counted_pairs(words, pairs_of=lambda tokens: [
                (min(pair), max(pair)) for pair in pairwise(tokens)])),
                      "you counted `ab` and `ba` as one pair. The order of a pair is part of it."),
        Misconception("characters for bytes", on_characters,
                      "you decoded the chunks and counted characters. Pieces grow from bytes: "
                      "list(chunk) gives their numbers."),
        Misconception("the last two never merge", except_the(last=1),
                      "the last two tokens of a chunk never merge with you. The last pair begins "
                      "at len(tokens) - 2."),
        Misconception("the first two never merge", except_the(first=1),
                      "the first two tokens of a chunk never merge with you. The first pair "
                      "begins at 0."),
        Misconception("too far in place", trainer(merged=too_far_in_place),
                      "after a merge in the list itself you moved on by two. The list is one "
                      "shorter by then, so a token is passed over: move on by one."),
        Misconception("one merge too many", asked_for(lambda n: n + 1),
                      "you made one merge more than was asked for."),
        Misconception("one merge too few", asked_for(lambda n: max(n - 1, 0)),
                      "you made one merge too few. New tokens are range(256, 256 + n_merges)."),
        Misconception("one merge at most", asked_for(lambda n: min(n, 1)),
                      "you stopped after one merge. Is `return` inside the loop?"),
        Misconception("merges sorted", changed_at_the_end(sorted),
                      "you sorted the merges. Their order is the order in which they were made.",
                      also=(changed_at_the_end(lambda merges: merges[::-1]),)),
        Misconception("the new token too", changed_at_the_end(lambda merges: [
            (*pair, 256 + i) for i, pair in enumerate(merges)]),
                      "you gave the new token with each pair. It is known by its place in the "
                      "list: the first is 256."),
        Misconception("the last seen wins", trainer(choose=last_seen),
                      "of equally frequent pairs you took the one that you saw last (`>=` for "
                      "`>`). Take the smaller pair."),
        Misconception("counts overwritten", trainer(counted=overwritten),
                      "a later chunk overwrites the count of an earlier one. Add: "
                      "counts[pair] += n."),
        Misconception("one number for all", of_one_number,
                      "every merge makes the same token with you. Each needs a number of its own."),
        Misconception("no end asked for", asked_for(lambda n: 10_000),
                      "you went on until no pair was left. n_merges says how many are wanted.",
                      also=(asked_for(lambda n: n or 10_000),)),
        Misconception("no merges", asked_for(lambda n: 0),
                      "you made no merge. n_merges is the number of merges, not of tokens."),
        Misconception("pairs of bytes only", trainer(
            counted=lambda words: counted_pairs(words, pairs_of=lambda tokens: [
                pair for pair in pairwise(tokens) if max(pair) < 256])),
                      "you counted pairs of bytes only. What has merged may merge again."),
        Misconception("round the end", trainer(
            counted=lambda words: counted_pairs(words, pairs_of=lambda tokens: zip(
                tokens, tokens[1:] + tokens[:1], strict=True))),
                      "you counted the last token of a chunk with its first. They are no "
                      "neighbours."),
        Misconception("one left out between", trainer(
            counted=lambda words: counted_pairs(words, pairs_of=lambda tokens: zip(
                tokens, tokens[2:], strict=False))),
                      "you counted tokens that have another between them. A pair is two "
                      "neighbours."),
        Misconception("runs as one", trainer(merged=runs_as_one),
                      "a pair that stands twice in a row became one token. Each place makes one."),
        Misconception("chunks changed", on_changed_chunks(lambda chunk, n: (chunk.strip(), n)),
                      "you changed the chunks before you counted. Spaces and capital letters are "
                      "bytes like others.",
                      also=(on_changed_chunks(lambda chunk, n: (chunk.lstrip(), n)),)),
        Misconception("long chunks count more", on_changed_chunks(
            lambda chunk, n: (chunk, n * len(chunk))),
                      "you weighed a chunk with more than the times it occurs.",
                      also=(on_changed_chunks(lambda chunk, n: (chunk, n * n)),)),
        Misconception("pairs turned round", changed_at_the_end(
            lambda merges: [pair[::-1] for pair in merges]),
                      "your pairs have their tokens the wrong way round: (left, right)."),
        Misconception("one flat list", changed_at_the_end(
            lambda merges: [token for pair in merges for token in pair]),
                      "you gave one flat list of tokens. A merge is a pair: a list of tuples."),
        Misconception("one chunk", the_commonest_chunk,
                      "you trained on the most frequent chunk alone. A pair counts in all chunks "
                      "together."),
        Misconception("no pair left", trainer(goes_on=lambda counts: True),
                      "you asked for the best pair where none is left. Stop there, with fewer "
                      "merges."),
        Misconception("the index stands still", trainer(merged=standing_still),
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
