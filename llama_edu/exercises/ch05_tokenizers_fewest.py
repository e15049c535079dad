"""The exercise of chapter 05 that asks for the fewest tokens, however the pieces came about."""

from collections.abc import Callable

from torch import Generator

from ..tokenizer.merging import merge_all
from .data import Exercise, Inputs, Misconception, Probe, count
from .encoders import Ranks, longest_first


def _fewest(chunk: bytes, ranks: Ranks) -> int:
    """best[end]: the fewest tokens for the first `end` bytes."""
    best = [0]
    for end in range(1, len(chunk) + 1):
        best.append(1 + min(best[start] for start in range(end) if chunk[start:end] in ranks))
    return best[-1]


def _from_the_left(chunk: bytes, ranks: Ranks) -> int:
    return len(longest_first(chunk, ranks))


def _from_the_right(chunk: bytes, ranks: Ranks) -> int:
    return _from_the_left(chunk[::-1], {piece[::-1]: rank for piece, rank in ranks.items()})


def _from_both_ends(chunk: bytes, ranks: Ranks, left: bool = True) -> int:
    n = 0
    while chunk:
        ends = [k for k in range(1, len(chunk) + 1)
                if (chunk[:k] if left else chunk[-k:]) in ranks]
        chunk = chunk[max(ends) :] if left else chunk[: -max(ends)]
        n, left = n + 1, not left
    return n


def _longest_anywhere(chunk: bytes, ranks: Ranks) -> int:
    """Take out the longest piece that stands anywhere in the chunk, then the same on each side."""
    if not chunk:
        return 0
    size, at = max((size, -at) for at in range(len(chunk)) for size in range(1, len(chunk) - at + 1)
                   if chunk[at : at + size] in ranks)
    return (1 + _longest_anywhere(chunk[:-at], ranks)
            + _longest_anywhere(chunk[-at + size :], ranks))


def _merging(chunk: bytes, ranks: Ranks) -> int:
    return len(merge_all([bytes([byte]) for byte in chunk], ranks))


def _smallest_sum(chunk: bytes, ranks: Ranks) -> int:
    best = [(0, 0)]
    for end in range(1, len(chunk) + 1):
        best.append(min((best[start][0] + ranks[chunk[start:end]], best[start][1] + 1)
                        for start in range(end) if chunk[start:end] in ranks))
    return best[-1][1]


def _only_pairs_of_pieces(chunk: bytes, ranks: Ranks) -> int:
    """The best order of merges: a piece counts only if two smaller ones make it."""
    made = {piece for piece in ranks if len(piece) == 1}
    for piece in sorted(ranks, key=len):
        if any(piece[:i] in made and piece[i:] in made for i in range(1, len(piece))):
            made.add(piece)
    return _fewest(chunk, dict.fromkeys(made, 0))


def _no_longer_than(most: int) -> Callable:
    """The right table, with a loop that tries pieces of so many bytes at most."""
    return lambda chunk, ranks: _fewest(
        chunk, {piece: rank for piece, rank in ranks.items() if len(piece) <= most})


def _one_cut(chunk: bytes, ranks: Ranks) -> int:
    """The best first cut, and the longest piece again and again on each side of it."""
    return min((_from_the_left(chunk[:i], ranks) + _from_the_left(chunk[i:], ranks)
                for i in range(len(chunk))), default=0)


def _one_or_two(rest: Callable[[bytes, Ranks], int]) -> Callable:
    """One piece, or two, or else another way."""
    def fewest(chunk: bytes, ranks: Ranks) -> int:
        if chunk in ranks:
            return 1
        halves = any(chunk[:i] in ranks and chunk[i:] in ranks for i in range(1, len(chunk)))
        return 2 if halves else rest(chunk, ranks)
    return fewest


def _longest_pieces_first(chunk: bytes, ranks: Ranks) -> int:
    """Each piece of the vocabulary in turn, the longest first, taken out wherever it stands."""
    rests, n = [chunk], 0
    for piece in sorted(ranks, key=len, reverse=True):
        n += sum(rest.count(piece) for rest in rests)
        rests = [part for rest in rests for part in rest.split(piece)]
    return n


def _taken_out(chunk: bytes, ranks: Ranks) -> int:
    """The same, but what was left and right of a piece becomes neighbours."""
    n = 0
    for piece in sorted(ranks, key=len, reverse=True):
        n, chunk = n + chunk.count(piece), chunk.replace(piece, b"")
    return n


def _ways(chunk: bytes, ranks: Ranks) -> int:
    ways = [1]
    for end in range(1, len(chunk) + 1):
        ways.append(sum(ways[start] for start in range(end) if chunk[start:end] in ranks))
    return ways[-1]


def _best_sum(chunk: bytes, ranks: Ranks) -> int:
    best = [0]
    for end in range(1, len(chunk) + 1):
        best.append(min(best[start] + ranks[chunk[start:end]]
                        for start in range(end) if chunk[start:end] in ranks))
    return best[-1]


def _best_cut(chunk: bytes, ranks: Ranks) -> list[bytes]:
    best: list[list[bytes]] = [[]]
    for end in range(1, len(chunk) + 1):
        best.append(min(([*best[start], chunk[start:end]] for start in range(end)
                         if chunk[start:end] in ranks), key=len))
    return best[-1]


def _in_halves(chunk: bytes, ranks: Ranks) -> int:
    """Right, and hopeless: both sides of every cut, again and again."""
    if not chunk or chunk in ranks:
        return len(chunk[:1])
    return min(_in_halves(chunk[:i], ranks) + _in_halves(chunk[i:], ranks)
               for i in range(1, len(chunk)))


def _every_way(chunk: bytes, ranks: Ranks) -> int:
    """Right, and hopeless: the same rest is solved again and again."""
    if not chunk:
        return 0
    return 1 + min(_every_way(chunk[size:], ranks) for size in range(1, len(chunk) + 1)
                   if chunk[:size] in ranks)


def _cut(rng: Generator, chunk: bytes, *pieces: bytes) -> Inputs:
    """Single bytes and these pieces, with ranks from a number that is drawn."""
    first = count(rng, 0, 90)
    single = [bytes([byte]) for byte in sorted({*chunk, *b"".join(pieces), *b"xyz"})]
    return {"chunk": chunk, "ranks": {
        piece: first + i for i, piece in enumerate([*single, *pieces])}}


FEWEST = Exercise(
    "5.4", "The fewest tokens", "Your turn: the fewest tokens", _fewest,
    probes=(
        Probe("both greedy ways fail", lambda rng: _cut(
            rng, b"abcdepqrst" * count(rng, 1, 2),
            b"abc", b"ab", b"cde", b"rst", b"pqr", b"st")),
        Probe("the longest piece is a trap", lambda rng: _cut(
            rng, b"mnopqr" + b"mno" * count(rng, 0, 2), b"no", b"mno", b"pq", b"nopq", b"pqr")),
        Probe("the lowest rank is a trap", lambda rng: _cut(
            rng, b"abcd" + b"xy" * count(rng, 0, 3), b"bc", b"ab", b"cd", b"xy")),
        Probe("greedy from the left fails", lambda rng: _cut(
            rng, b"stuvw", b"uv", b"uvw", b"st", b"stu")),
        Probe("greedy from the right fails", lambda rng: _cut(
            rng, b"stuvw", b"uvw", b"stu", b"vw")),
        Probe("two pieces that no greedy way finds", lambda rng: _cut(
            rng, b"abcdef", b"abc", b"def", b"abcd", b"cdef")),
        Probe("the same trap three times", lambda rng: _cut(
            rng, b"stuvw" * 3, b"uv", b"uvw", b"st", b"stu")),
        Probe("merging and greedy from the left fail", lambda rng: _cut(
            rng, b"stuvw", b"tu", b"uvw", b"st", b"stu")),
        Probe("a piece that no merge makes", lambda rng: _cut(rng, b"dawn", b"aw", b"dawn")),
        Probe("a piece of high rank", lambda rng: {"chunk": b"dawn", "ranks": {
            b"d": 0, b"a": 1, b"w": 2, b"n": 3, b"dawn": count(rng, 500, 900)}}),
        Probe("a word of three, out of reach", lambda rng: _cut(
            rng, b"hijklmno", b"ij", b"hijk", b"kl", b"lmno")),
        Probe("nothing but bytes", lambda rng: _cut(rng, b"klmn")),
        Probe("half a character", lambda rng: _cut(rng, b"a\xf0\x9f", b"\xf0\x9f")),
        Probe("one byte", lambda rng: _cut(rng, b"q", b"qq")),
        Probe("nothing", lambda rng: _cut(rng, b"", b"ab")),
        Probe("a long piece", lambda rng: _cut(
            rng, b"un" + b"interconnectednesses"[: count(rng, 18, 20)], b"un", b"connect",
            b"interconnectednes")),
        Probe("a long run", lambda rng: _cut(rng, b"a" * 47, b"aa", b"aaaaa", b"aaaaaaa")),
    ),
    misconceptions=(
        Misconception("longest from the left", _from_the_left,
                      "you took the longest piece that fits, from left to right. A shorter one may "
                      "leave a better rest."),
        Misconception("longest from the right", _from_the_right,
                      "you took the longest piece that fits, from right to left. A shorter one may "
                      "leave a better rest."),
        Misconception("the better of two greedy ways", lambda chunk, ranks: min(
            _from_the_left(chunk, ranks), _from_the_right(chunk, ranks)),
                      "you took the better of two ways that do not look ahead. There are texts on "
                      "which both are too long.", also=(
                          lambda chunk, ranks: min(_merging(chunk, ranks),
                                                   _from_the_left(chunk, ranks)),)),
        Misconception("from both ends in turn", _from_both_ends,
                      "you took the longest piece from the left and from the right in turn. A "
                      "shorter one may leave a better rest.", also=(
                          lambda chunk, ranks: _from_both_ends(chunk, ranks, left=False),)),
        Misconception("longest anywhere", _longest_anywhere,
                      "you took out the longest piece, wherever it stands. It may cut two others "
                      "in half.", also=(_longest_pieces_first, _taken_out)),
        Misconception("merging", _merging,
                      "you counted what merging by rank gives. That is what the question wants to "
                      "beat: any pieces may stand side by side, however they came about.",
                      also=(lambda chunk, ranks: 1 if chunk in ranks else _merging(chunk, ranks),)),
        Misconception("only what merges make", _only_pairs_of_pieces,
                      "you left out pieces that no two others make. Every piece of the vocabulary "
                      "may be used."),
        Misconception("pieces of some length at most", _no_longer_than(3),
                      "you try pieces of a few bytes only. Is there a piece longer than you "
                      "look?", also=tuple(map(_no_longer_than, (2, 4, 5, 6, 8, 10, 12, 16)))),
        Misconception("two pieces at most", _one_or_two(_merging),
                      "you tried one cut through the chunk. There may be many.",
                      also=(_one_cut, *map(_one_or_two, (
                          _from_the_left, _from_the_right, lambda chunk, ranks: len(chunk))))),
        Misconception("cuts, not pieces", lambda chunk, ranks: max(_fewest(chunk, ranks) - 1, 0),
                      "you counted the cuts. Pieces are one more.",
                      also=(lambda chunk, ranks: _fewest(chunk, ranks) - 1,)),
        Misconception("the number of bytes", lambda chunk, ranks: len(chunk),
                      "you counted the bytes, and that is the largest number of pieces. Of all "
                      "ways to cut take the smallest: min, not max.",
                      also=(lambda chunk, ranks: len(chunk) + 1,)),
        Misconception("the number of ways", _ways,
                      "you counted the ways of cutting. How many pieces has the shortest?"),
        Misconception("different pieces", lambda chunk, ranks: len({*_best_cut(chunk, ranks)}),
                      "you counted a piece once that stands several times."),
        Misconception("what is saved", lambda chunk, ranks: len(chunk) - _fewest(chunk, ranks),
                      "you counted what the pieces save. How many are they?"),
        Misconception("as if the longest fitted", lambda chunk, ranks: -(
            -len(chunk) // max(map(len, ranks))),
                      "you divided by the length of the longest piece. It may not stand there.",
                      also=(lambda chunk, ranks: len(chunk) // max(map(len, ranks)),)),
        Misconception("the last byte left out", lambda chunk, ranks: _fewest(chunk[:-1], ranks),
                      "you left out the last byte. The ends are range(1, len(chunk) + 1)."),
        Misconception("the first byte by itself", lambda chunk, ranks: (
            1 + _fewest(chunk[1:], ranks) if chunk else 0),
                      "you gave the first byte a piece of its own. The first piece may be longer: "
                      "starts begin at 0."),
        Misconception("nothing is one token", lambda chunk, ranks: max(_fewest(chunk, ranks), 1),
                      "an empty chunk needs no piece, so the answer is 0.",
                      also=(lambda chunk, ranks: _fewest(chunk, ranks) or -1,)),
        Misconception("text for bytes", lambda chunk, ranks: _fewest(
            chunk.decode(), {piece.decode(): rank for piece, rank in ranks.items()}),
                      "you decoded the chunk. A piece may hold half a character: stay with bytes."),
        Misconception("the whole table", lambda chunk, ranks: sum(
            _fewest(chunk[:end], ranks) for end in range(len(chunk) + 1)),
                      "you took the sum, or the largest, of the table. The answer is its last "
                      "entry.", also=(lambda chunk, ranks: max(
                          _fewest(chunk[:end], ranks) for end in range(len(chunk) + 1)),)),
        Misconception("the last byte by itself", lambda chunk, ranks: (
            1 + _fewest(chunk[:-1], ranks) if chunk else 0),
                      "you gave the last byte a piece of its own. A piece may reach to the end: "
                      "ends go up to len(chunk), included."),
        Misconception("all but the longest pieces", lambda chunk, ranks: _fewest(chunk, {
            piece: rank for piece, rank in ranks.items()
            if len(piece) == 1 or len(piece) < max(map(len, ranks))}),
                      "you never try the longest pieces. The range of lengths ends one early."),
        Misconception("one too many", lambda chunk, ranks: _fewest(chunk, ranks) + 1,
                      "you counted one too many. Before the first byte there is no token: the "
                      "count begins at 0."),
        Misconception("the lowest ranks", _smallest_sum,
                      "you made the sum of the ranks small. Count pieces, whatever their ranks.",
                      also=(_best_sum,)),
        Misconception("the whole is no piece", lambda chunk, ranks: _fewest(
            chunk, {piece: rank for piece, rank in ranks.items()
                    if piece != chunk or len(chunk) == 1}),
                      "a chunk that is a piece by itself came out as several. The first piece may "
                      "be the whole."),
        Misconception("every way", _every_way,
                      "right on short chunks, and you try every way of cutting: a chunk of 47 "
                      "bytes has more than a machine can try. Solve each rest once and keep it.",
                      also=(_in_halves,)),
    ),
    hints=(
        "Suppose you knew the fewest tokens for the first 0, 1, 2, ... bytes. What are they for "
        "one byte more?",
        "The last piece begins somewhere: try each start where chunk[start:end] is a piece.",
        "best[end] = 1 + min(best[start]), over the starts that leave a piece; best[0] is 0. Or "
        "keep the set of places that 0, 1, 2, ... pieces reach.",
    ))

EXERCISES = [FEWEST]
