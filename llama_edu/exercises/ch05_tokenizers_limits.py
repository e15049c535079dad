"""The exercises of chapter 05 that ask what ranks can do: a chain reaction, the fewest tokens."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Generator

from ..tokenizer.merging import merge_all
from .data import Exercise, Inputs, Misconception, Probe, count

Ranks = Mapping[bytes, int]


def _bytes_of(chunk: bytes) -> list[bytes]:
    return [chunk[i : i + 1] for i in range(len(chunk))]


# -- 5.3: one letter more -----------------------------------------------------------------------


def _two_cuts(answer: Callable[[bytes], Any], letters: bytes) -> Any:
    """What the answer's ranks do to the letters, and to the letters without the last one."""
    ranks = answer(letters)
    if ranks is None or isinstance(ranks, dict) and tuple in map(type, ranks.values()):
        return ranks
    if not isinstance(ranks, dict):
        raise TypeError(f"a dict of ranks is needed; this is a {type(ranks).__name__}")
    cuts = [merge_all(_bytes_of(chunk), ranks) for chunk in (letters, letters[:-1])]
    no_rank = [piece for piece in dict.fromkeys([*_bytes_of(letters), *ranks])
               if type(ranks.get(piece)) is not int]
    return ("in both cuts", [piece for piece in cuts[1] if piece in cuts[0]],
            "letters of the longest piece", max(map(len, ranks), default=0),
            "without a whole rank", no_rank,
            "ranks that stand twice", len(ranks) - len({*ranks.values()}))


def _ranked(letters: bytes, pieces: list[bytes]) -> dict[bytes, int]:
    """Single letters first, then these pieces."""
    every = dict.fromkeys([*_bytes_of(letters), *pieces])
    return {piece: rank for rank, piece in enumerate(every)}


def _pairs(letters: bytes) -> list[bytes]:
    return [letters[i : i + 2] for i in range(len(letters) - 1)]


def _chain(letters: bytes) -> dict[bytes, int]:
    return _ranked(letters, _pairs(letters)[::-1])


def _starting_at(number: int) -> Callable[[bytes], dict[bytes, int]]:
    """The ranks of the pairs begin at a number that single letters have as well."""
    return lambda letters: {one: i for i, one in enumerate(_bytes_of(letters))} | {
        pair: number + i for i, pair in enumerate(_pairs(letters)[::-1])}


def _last_pair_first(letters: bytes) -> dict[bytes, int]:
    return _ranked(letters, _pairs(letters)[-1:] + _pairs(letters)[:-1])


def _drawn(rng: Generator, n: int) -> Inputs:
    """Different letters in an order that is drawn."""
    order = torch.randperm(26, generator=rng)[:n].tolist()
    return {"letters": bytes(ord("a") + i for i in order)}


DOMINO = Exercise(
    "5.3", "One letter more", "Your turn: one letter more", _chain, adapt=_two_cuts,
    probes=(
        Probe("six letters", lambda rng: _drawn(rng, 6)),
        Probe("seven letters", lambda rng: _drawn(rng, 7)),
        Probe("two letters", lambda rng: _drawn(rng, 2)),
        Probe("three letters", lambda rng: _drawn(rng, 3)),
        Probe("one letter", lambda rng: _drawn(rng, 1)),
        Probe("twelve letters", lambda rng: _drawn(rng, 12)),
        Probe("twenty-one letters", lambda rng: _drawn(rng, 21)),
    ),
    misconceptions=(
        Misconception("in the order of the text", lambda letters: _ranked(letters, _pairs(letters)),
                      "your first pair has the lowest rank, so it merges first whatever comes "
                      "behind. The chain has to start where the letter is added.",
                      also=(lambda letters: _ranked(letters, _pairs(letters)[::2]),)),
        Misconception("the last pair only", _last_pair_first,
                      "the last pair merges first, and then all goes as it would without it. What "
                      "does the pair before it need to do next?"),
        Misconception("pairs that share no letter", lambda letters: _ranked(
            letters, _pairs(letters)[1::2]),
                      "none of your pairs share a letter, so none ever takes one from another, and "
                      "the front never hears of the end.",
                      also=(lambda letters: _ranked(letters, _pairs(letters)[::-1][::2]),
                            lambda letters: _ranked(letters, _pairs(letters)[::-1][1::2]))),
        Misconception("pieces too long", lambda letters: _ranked(
            letters, [letters[:n] for n in range(2, len(letters) + 1)]),
                      "one of your pieces has more than two letters. With pairs alone it is "
                      "possible, and then every cut moves.",
                      also=(lambda letters: _ranked(
                          letters, [letters[-n:] for n in range(2, len(letters) + 1)]),
                            lambda letters: _ranked(letters, [letters]),
                            lambda letters: _ranked(letters, [*_pairs(letters)[::-1], letters]))),
        Misconception("no single letters", lambda letters: {
            pair: rank for rank, pair in enumerate(_pairs(letters)[::-1])},
                      "single letters have no rank with you. A letter that finds no partner needs "
                      "a token as well."),
        Misconception("a rank twice", _starting_at(0),
                      "two of your pieces have the same rank. A rank is the token's number, so "
                      "each piece needs its own.",
                      also=(_starting_at(1), lambda letters: dict.fromkeys(_chain(letters), 0))),
        Misconception("letters, not bytes", lambda letters: {
            piece.decode(): rank for piece, rank in _chain(letters).items()},
                      "your pieces are text (str). Pieces of a vocabulary are bytes: "
                      "letters[i : i + 2] is."),
        Misconception("numbers, not bytes", lambda letters: {
            **{letters[i]: i for i in range(len(letters))},
            **{pair: len(letters) + i for i, pair in enumerate(_pairs(letters)[::-1])}},
                      "your single letters are numbers: letters[i] is one. letters[i : i + 1] is "
                      "a piece of one byte."),
    ),
    hints=(
        "Take a b c d e f. Without f you want a, bc, de; with f you want ab, cd, ef. Which pairs "
        "have to be there?",
        "With f: ef takes e, so de can no longer form. Which pair is to go next, that it may take "
        "c from bc?",
        "ef before de before cd before bc before ab: ranks from the end of the text.",
    ))

# -- 5.4: the fewest tokens ---------------------------------------------------------------------


def _fewest(chunk: bytes, ranks: Ranks) -> int:
    """best[end]: the fewest tokens for the first `end` bytes."""
    best = [0]
    for end in range(1, len(chunk) + 1):
        best.append(1 + min(best[start] for start in range(end) if chunk[start:end] in ranks))
    return best[-1]


def _from_the_left(chunk: bytes, ranks: Ranks) -> int:
    n = 0
    while chunk:
        size = next(size for size in range(len(chunk), 0, -1) if chunk[:size] in ranks)
        n, chunk = n + 1, chunk[size:]
    return n


def _from_the_right(chunk: bytes, ranks: Ranks) -> int:
    return _from_the_left(chunk[::-1], {piece[::-1]: rank for piece, rank in ranks.items()})


def _longest_anywhere(chunk: bytes, ranks: Ranks) -> int:
    """Take out the longest piece that stands anywhere in the chunk, then the same on each side."""
    if not chunk:
        return 0
    size, at = max((size, -at) for at in range(len(chunk)) for size in range(1, len(chunk) - at + 1)
                   if chunk[at : at + size] in ranks)
    return (1 + _longest_anywhere(chunk[:-at], ranks)
            + _longest_anywhere(chunk[-at + size :], ranks))


def _merging(chunk: bytes, ranks: Ranks) -> int:
    return len(merge_all(_bytes_of(chunk), ranks))


def _smallest_sum(chunk: bytes, ranks: Ranks) -> int:
    best = [(0, 0)]
    for end in range(1, len(chunk) + 1):
        best.append(min((best[start][0] + ranks[chunk[start:end]], best[start][1] + 1)
                        for start in range(end) if chunk[start:end] in ranks))
    return best[-1][1]


def _two_pieces(chunk: bytes, ranks: Ranks) -> int:
    """One piece, or two, or else what merging gives."""
    if chunk in ranks:
        return 1
    halves = any(chunk[:i] in ranks and chunk[i:] in ranks for i in range(1, len(chunk)))
    return 2 if halves else _merging(chunk, ranks)


def _only_pairs_of_pieces(chunk: bytes, ranks: Ranks) -> int:
    """The best order of merges: a piece counts only if two smaller ones make it."""
    made = {piece for piece in ranks if len(piece) == 1}
    for piece in sorted(ranks, key=len):
        if any(piece[:i] in made and piece[i:] in made for i in range(1, len(piece))):
            made.add(piece)
    return _fewest(chunk, dict.fromkeys(made, 0))


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
            rng, b"abcdepqrst" + b"xyz"[: count(rng, 0, 3)],
            b"abc", b"ab", b"cde", b"rst", b"pqr", b"st")),
        Probe("the longest piece is a trap", lambda rng: _cut(
            rng, b"mnopqr", b"no", b"mno", b"pq", b"nopq", b"pqr")),
        Probe("the lowest rank is a trap", lambda rng: _cut(
            rng, b"abcd", b"bc", b"ab", b"cd")),
        Probe("greedy from the left fails", lambda rng: _cut(
            rng, b"stuvw", b"uv", b"uvw", b"st", b"stu")),
        Probe("greedy from the right fails", lambda rng: _cut(
            rng, b"stuvw", b"uvw", b"stu", b"vw")),
        Probe("a piece that no merge makes", lambda rng: _cut(rng, b"dawn", b"aw", b"dawn")),
        Probe("a piece of high rank", lambda rng: {"chunk": b"dawn", "ranks": {
            b"d": 0, b"a": 1, b"w": 2, b"n": 3, b"dawn": count(rng, 500, 900)}}),
        Probe("a word of three, out of reach", lambda rng: _cut(
            rng, b"hijklmno", b"ij", b"hijk", b"kl", b"lmno")),
        Probe("nothing but bytes", lambda rng: _cut(rng, b"klmn")),
        Probe("half a character", lambda rng: _cut(rng, b"a\xf0\x9f", b"\xf0\x9f")),
        Probe("one byte", lambda rng: _cut(rng, b"q", b"qq")),
        Probe("nothing", lambda rng: _cut(rng, b"", b"ab")),
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
                      "you took the better of the two greedy ways. There are texts on which both "
                      "are too long."),
        Misconception("longest anywhere", _longest_anywhere,
                      "you took out the longest piece, wherever it stands. It may cut two others "
                      "in half."),
        Misconception("merging", _merging,
                      "you counted what merging by rank gives. That is what the question wants to "
                      "beat: any pieces may stand side by side, however they came about.",
                      also=(lambda chunk, ranks: 1 if chunk in ranks else _merging(chunk, ranks),)),
        Misconception("only what merges make", _only_pairs_of_pieces,
                      "you left out pieces that no two others make. Every piece of the vocabulary "
                      "may be used."),
        Misconception("two pieces at most", _two_pieces,
                      "you tried one cut through the chunk. There may be many."),
        Misconception("cuts, not pieces", lambda chunk, ranks: max(_fewest(chunk, ranks) - 1, 0),
                      "you counted the cuts. Pieces are one more."),
        Misconception("nothing is one token", lambda chunk, ranks: max(_fewest(chunk, ranks), 1),
                      "an empty chunk came out as one token. It needs none."),
        Misconception("one too many", lambda chunk, ranks: _fewest(chunk, ranks) + 1,
                      "you counted one too many. Before the first byte there is no token: the "
                      "count begins at 0."),
        Misconception("the lowest ranks", _smallest_sum,
                      "you made the sum of the ranks small. Count pieces, whatever their ranks."),
        Misconception("the whole is no piece", lambda chunk, ranks: _fewest(
            chunk, {piece: rank for piece, rank in ranks.items()
                    if piece != chunk or len(chunk) == 1}),
                      "a chunk that is a piece by itself came out as several. The first piece may "
                      "be the whole."),
        Misconception("every way", _every_way,
                      "right on short chunks, and you try every way of cutting: a chunk of 47 "
                      "bytes has more than a machine can try. Solve each rest once and keep it."),
    ),
    hints=(
        "Suppose you knew the fewest tokens for the first 0, 1, 2, ... bytes. What are they for "
        "one byte more?",
        "The last piece begins somewhere: try each start where chunk[start:end] is a piece.",
        "best[end] = 1 + min(best[start]), over the starts that leave a piece; best[0] is 0.",
    ))

EXERCISES = [DOMINO, FEWEST]
