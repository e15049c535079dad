"""The exercise of chapter 05 on using a vocabulary: encode by rank."""

from itertools import islice

from torch import Generator

from ..tokenizer.bpe import grow
from ..tokenizer.merging import merge_all
from .data import Exercise, Inputs, Misconception, Probe, count
from .encoders import (
    after,
    after_bytes,
    all_places,
    among,
    at_the_end,
    by_parts,
    by_place,
    byte_is_token,
    bytes_of,
    each_side,
    every_place,
    fewest_pieces,
    frequency,
    from_characters,
    in_sweeps,
    longest_first,
    longest_from_the_right,
    merged_ones_shifted,
    merging,
    on_text,
    one_merge,
    one_sweep,
    package_encode,
    place_of_the_part,
    with_neighbours,
)
from .texts import ALL_CHANGES, hard_probes, touched


def _backwards(rng: Generator, chunk: bytes, *pieces: bytes, more: str = "\ufffd") -> Inputs:
    """Single bytes and these pieces; in the dict the last one comes first."""
    single = sorted({*chunk, *b"".join(pieces), *more.encode()})
    first = count(rng, 0, 20)
    ranks = {piece: first + i for i, piece in enumerate([*(bytes([b]) for b in single), *pieces])}
    return {"chunk": chunk, "ranks": dict(reversed(ranks.items()))}


def _hard(rng: Generator, text: str) -> Inputs:
    """The first merges of a hard text, and the bytes of all that it may be changed to."""
    merges = islice(grow({text.encode(): 1}), 5)
    return _backwards(rng, text.encode(), *(merge.piece for merge in merges),
                      more="".join(change(text) for change in ALL_CHANGES))


def _vocabulary(rng: Generator, *pieces: bytes) -> dict[bytes, int]:
    """Single bytes and these pieces, in this order; a number drawn sets off all ranks."""
    single = sorted({piece[i : i + 1] for piece in pieces for i in range(len(piece))}, reverse=True)
    first = count(rng, 0, 20)
    return {piece: first + i for i, piece in enumerate([*single, *pieces])}


ENCODE = Exercise(
    "5.2", "Encode by rank", "How is a vocabulary used?", package_encode,
    probes=(
        Probe("two steps", lambda rng: {
            "chunk": b"llama", "ranks": _vocabulary(rng, b"ll", b"am", b"lla", b"ama")}),
        Probe("the longest piece is not reached", lambda rng: {
            "chunk": b"rained", "ranks": _vocabulary(rng, b"in", b"ed", b"ra", b"ain", b"rain",
                                                     b"ained", b"rai")}),
        Probe("a frequent pair of high rank", lambda rng: {
            "chunk": b"babanab", "ranks": _vocabulary(rng, b"an", b"ab", b"ba", b"ana")}),
        Probe("aaaaa", lambda rng: {
            "chunk": b"aaaaa", "ranks": _vocabulary(rng, b"aa", b"aaaa", b"aaa")}),
        Probe("nothing merges", lambda rng: {
            "chunk": b"abc", "ranks": _vocabulary(rng, b"ca", b"cb", b"ba")}),
        Probe("later merges first in the text", lambda rng: {
            "chunk": b"xyzxy", "ranks": _vocabulary(rng, b"yz", b"zx", b"xy", b"yzx", b"xyz")}),
        Probe("five ways, five answers", lambda rng: {
            "chunk": b"bbababba",
            "ranks": _vocabulary(rng, b"bb", b"ba", b"bab", b"baba", b"bbab")}),
        Probe("a run inside", lambda rng: {
            "chunk": b"laaam", "ranks": _vocabulary(rng, b"aa", b"la", b"am", b"aaa")}),
        Probe("a piece that no merge makes", lambda rng: {
            "chunk": b"dawn", "ranks": _vocabulary(rng, b"aw", b"dawn")}),
        Probe("ranks that are not in the dict's order", lambda rng: _backwards(
            rng, b"Llama LLAMA", b"Ll", b"am", b"LL", b"AM", b"Lla", b"lam", b"ama", b"MA")),
        Probe("a merge that opens a pair of lower rank", lambda rng: _backwards(
            rng, b"abcdab", b"abc", b"ab", b"cd")),
        Probe("a merge takes the next place away", lambda rng: _backwards(
            rng, b"ababc", b"aba", b"ab")),
        Probe("ranks of one, two and three digits", lambda rng: {
            "chunk": b"efgefh", "ranks": {b"ef": 10 + count(rng, 0, 9), b"fg": 9, b"fh": 100,
                                          b"e": 1, b"f": 2, b"g": 3, b"h": 4}}),
        Probe("the first half stands before", lambda rng: _backwards(
            rng, b"acab", b"cab", b"ab")),
        Probe("fewer pieces would do", lambda rng: _backwards(
            rng, b"stuvw", b"vw", b"uvw", b"tu", b"stu")),
        Probe("a merge across characters", lambda rng: _backwards(
            rng, "Aé羊".encode(), b"A\xc3", "é".encode(), "羊".encode())),
        Probe("half a character", lambda rng: _backwards(rng, b"a\xf0\x9f", b"\xf0\x9f")),
        Probe("a piece of rank 0", lambda rng: {"chunk": b"abb", "ranks": {
            b"ab": 0, b"b": 1, b"bb": count(rng, 2, 5), b"a": 9}}),
        *hard_probes(_hard),
    ),
    misconceptions=(
        Misconception("the longest piece", lambda chunk, ranks: [
                          ranks[part] for part in longest_first(chunk, ranks)],
                      "you took the longest piece that fits, from left to right. That is another "
                      "algorithm: merge the pair of lowest rank, again and again."),
        Misconception("the most frequent pair", merging(frequency),
                      "you merged the pair that is most frequent in this chunk. Frequency was for "
                      "training; now the rank decides."),
        Misconception("the leftmost pair", merging(lambda parts, i, ranks: 0),
                      "you merged the first known pair from the left. Of all known pairs, the one "
                      "of lowest rank goes first."),
        Misconception("the rightmost place", merging(
            lambda parts, i, ranks: (ranks[parts[i] + parts[i + 1]], -i)),
                      "where a pair stands several times you began at the right. The leftmost goes "
                      "first: `aaa` is `aa, a`."),
        Misconception("the rightmost pair", merging(lambda parts, i, ranks: -i),
                      "you merged the first known pair from the right. Of all known pairs, the one "
                      "of lowest rank goes first."),
        Misconception("every place at once", every_place,
                      "you merged the pair at all its places in one go. The first merge may open a "
                      "pair of lower rank: merge once, and look again."),
        Misconception("merged pieces left alone", each_side,
                      "what has merged never merges again with you. A piece of two bytes may be "
                      "half of a longer one: look at it and its neighbours too."),
        Misconception("the place of the first half", place_of_the_part,
                      "you merged where the first half of the pair stands, parts.index(a). It may "
                      "stand elsewhere before: keep the pair's own place."),
        Misconception("half of the pair stays", with_neighbours(0, 1),
                      "after a merge the second half still stands there. A merge uses up both: "
                      "parts[i : i + 2] = [...]."),
        Misconception("a neighbour lost", with_neighbours(0, 3),
                      "a merge takes out three parts with you. parts[i : i + 2] is two."),
        Misconception("ranks as text", merging(lambda parts, i, ranks: str(
            ranks[parts[i] + parts[i + 1]])),
                      "you compared ranks as text, where \"10\" comes before \"9\". They are "
                      "numbers."),
        Misconception("the fewest pieces", fewest_pieces,
                      "you looked for the fewest pieces. That is another question (it comes "
                      "later): merge the pair of lowest rank, again and again."),
        Misconception("the longest from the right", longest_from_the_right,
                      "you took the longest piece that fits, from right to left. That is another "
                      "algorithm: merge the pair of lowest rank, again and again."),
        Misconception("ranks moved by 256", merged_ones_shifted,
                      "you added 256 to the tokens of what has merged. Here the rank is the token, "
                      "of single bytes and of longer pieces."),
        Misconception("length before rank", merging(
            lambda parts, i, ranks: len(parts[i] + parts[i + 1])),
                      "you let the length of a piece decide. Only its rank does.",
                      also=tuple(merging(lambda parts, i, ranks, sign=sign: (
                          sign * len(parts[i] + parts[i + 1]), ranks[parts[i] + parts[i + 1]]))
                                 for sign in (1, -1))),
        Misconception("spelling before rank", merging(
            lambda parts, i, ranks: parts[i] + parts[i + 1]),
                      "you merged the piece that is spelled first. `min` over pieces compares "
                      "bytes; compare ranks[a + b].", also=(merging(
                          lambda parts, i, ranks: (parts[i], parts[i + 1])),)),
        Misconception("the ranks of the parts", by_parts(lambda a, b: a + b),
                      "you compared the ranks of the two parts. What decides is the rank of the "
                      "piece that they make, ranks[a + b].",
                      also=tuple(map(by_parts, (lambda a, b: (a, b), min, max,
                                                 lambda a, b: (b, a))))),
        Misconception("the last pair left out", among(lambda parts: range(len(parts) - 2)),
                      "you never look at the last two neighbours. The last pair begins at "
                      "len(parts) - 2."),
        Misconception("the first pair left out", among(lambda parts: range(1, len(parts) - 1)),
                      "you never look at the first two neighbours. The first pair begins at 0."),
        Misconception("a fixed number of rounds", among(
            all_places, rounds=lambda chunk: len(chunk) // 2),
                      "you stopped after a number of rounds. Go on until no neighbours form a "
                      "piece.", also=(*(among(all_places, rounds=lambda chunk, n=n: n)
                                        for n in (2, 3, 4)),
                                      among(all_places, rounds=lambda chunk: len(chunk) - 2))),
        Misconception("no end foreseen", among(all_places, end=lambda known: True),
                      "you asked for the best pair where none is known. When no neighbours form a "
                      "piece, you are done.", also=(among(
                          all_places, rounds=lambda chunk: len(chunk) - 1,
                          end=lambda known: True),)),
        Misconception("nothing merged", lambda chunk, ranks: [ranks[b] for b in bytes_of(chunk)],
                      "you gave the tokens of single bytes. Neighbours that form a piece merge."),
        Misconception("the wrong way round", at_the_end(lambda tokens: tokens[::-1]),
                      "your tokens come in the reverse order. They follow the text."),
        Misconception("tokens sorted", at_the_end(sorted),
                      "you sorted the tokens. They follow the text."),
        Misconception("each token once", at_the_end(lambda tokens: [*dict.fromkeys(tokens)]),
                      "you gave each token once. A piece that stands twice has its token twice."),
        Misconception("single bytes left out", lambda chunk, ranks: [
            ranks[part] for part in merge_all(bytes_of(chunk), ranks) if len(part) > 1],
                      "you left out the bytes that did not merge. They are pieces too."),
        Misconception("one merge only", one_merge,
                      "you merged once. Merge again and again, until no neighbours form a piece."),
        Misconception("whatever meets", in_sweeps,
                      "you went from left to right and merged all that forms a piece. In each "
                      "round only one pair merges: the one of lowest rank."),
        Misconception("rank 0 left out", lambda chunk, ranks: [
            ranks[part] for part in merge_all(bytes_of(chunk), {
                piece: rank for piece, rank in ranks.items() if rank})],
                      "you left out the piece of rank 0. Python takes 0 for false: ask `in ranks`, "
                      "not whether the rank is true."),
        Misconception("the highest rank", merging(
            lambda parts, i, ranks: -ranks[parts[i] + parts[i + 1]]),
                      "you merged the pair of the highest rank. The lowest was learnt first.",
                      also=(merging(lambda parts, i, ranks:
                                     (-ranks[parts[i] + parts[i + 1]], -i)),)),
        Misconception("the whole chunk first", lambda chunk, ranks: (
            [ranks[chunk]] if chunk in ranks else package_encode(chunk, ranks)),
                      "you looked the whole chunk up first. Only what the merges make counts."),
        Misconception("a byte is its own token", byte_is_token,
                      "you took a byte's value for its token. A byte is a piece like any other: "
                      "its token is ranks[byte]."),
        Misconception("the dict's order", by_place,
                      "you merged in the order of the dict. A dict may hold its pieces in any "
                      "order; the rank is the value, ranks[piece].",
                      also=(one_sweep(list),)),
        Misconception("one sweep", one_sweep(lambda ranks: sorted(ranks, key=ranks.__getitem__)),
                      "you went through the vocabulary once. A merge may open a pair of lower "
                      "rank: after each, look at all neighbours anew."),
        Misconception("text instead of bytes", on_text("replace"),
                      "you merged characters (str). Pieces are bytes, and a merge may join the "
                      "half of a character to the one before: stay with bytes throughout.",
                      also=(on_text("ignore"), on_text("strict"), from_characters)),
        Misconception("broken bytes dropped",
                      after_bytes(lambda chunk: chunk.decode(errors="ignore").encode()),
                      "you decoded the chunk. Bytes that are no text are lost then, or raise: "
                      "encoding never needs to decode.", also=(after_bytes(
                          lambda chunk: chunk.decode(errors="replace").encode()),
                                                 after_bytes(
                          lambda chunk: chunk.decode().encode()))),
        *touched(after("surrogateescape"), after("strict")),
    ),
    hints=(
        "Start with a list of single bytes: chunk[i : i + 1] is bytes, chunk[i] is a number.",
        "In each round look at all neighbours whose sum is in ranks, and merge one of them.",
        "min over (ranks[a + b], i) gives the lowest rank, and the leftmost place of it.",
    ), most_lines=50_000)

EXERCISES = [ENCODE]
