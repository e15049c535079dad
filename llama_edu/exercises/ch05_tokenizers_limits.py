"""The exercise of chapter 05 that asks what ranks can do: one letter more moves every cut."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Generator

from ..tokenizer.merging import merge_all
from .data import Exercise, Inputs, Misconception, Probe
from .encoders import bytes_of


@dataclass(frozen=True)
class Seen:
    """What ranks do to the letters: a verdict, and how it shows."""

    verdict: str
    shown: str = field(compare=False)

    def __repr__(self) -> str:
        return self.shown


def _two_cuts(answer: Callable[[bytes], Any], letters: bytes) -> Any:
    """What the answer's ranks do to the letters, and to the letters without the last one."""
    ranks = answer(letters)
    if ranks is None:
        return None
    if not isinstance(ranks, dict):
        raise TypeError(f"a dict of ranks is needed; this is a {type(ranks).__name__}")
    if complaint := _complaint(ranks, letters):
        return complaint
    cuts = {chunk: merge_all(bytes_of(chunk), ranks) for chunk in (letters, letters[:-1])}
    one, other = cuts.values()
    common = [f"`{_text(piece)}`" for piece in other if piece in one]
    both = ", ".join(f"`{_text(chunk)}` -> {_text(b'|'.join(cut))}" for chunk, cut in cuts.items())
    if common:
        return Seen(_broken(ranks, letters), f"{both}: both have {', '.join(common)}")
    return Seen("right", f"no piece in common: `{_text(letters)}`, `{_text(letters[:-1])}`")


def _broken(ranks: dict[bytes, int], letters: bytes) -> str:
    """Why the last letter does not move every cut."""
    given = [ranks[pair] for pair in _pairs(letters) if pair in ranks]
    strangers = {piece for piece in ranks if len(piece) == 2} - {*_pairs(letters)}
    if strangers and len(given) < len(letters) - 1:
        return "no neighbours"
    if not given:
        return "no pair"
    if len(given) < len(letters) - 1:
        return "a pair missing"
    return "rising" if given == sorted(given) else "not falling throughout"


def _complaint(ranks: dict, letters: bytes) -> Seen | None:
    """Why these are no ranks of the letters; None if they are."""
    for piece, rank in ranks.items():
        if isinstance(rank, bytes):
            return Seen("turned round", f"{piece!r} is no piece: from pieces to ranks, please")
        if type(piece) is not bytes:
            kind = type(piece).__name__
            return Seen(kind, f"{piece!r} is no piece: pieces are bytes ({kind})")
        if type(rank) is not int:
            return Seen("no whole number",
                        f"the rank of `{_text(piece)}` is {rank!r}; ranks are whole numbers")
    missing = [piece for piece in bytes_of(letters) if piece not in ranks]
    if missing and any(byte not in letters for byte in b"".join(ranks)):
        return Seen("others", "your ranks are for other letters than the ones that you were given")
    if missing:
        return Seen("missing", f"`{_text(missing[0])}` has no rank: every single letter needs one")
    if long := [piece for piece in ranks if len(piece) > 2]:
        return Seen("long", f"piece `{_text(long[0])}` has {len(long[0])} letters; two at most")
    named: dict[int, bytes] = {}
    for piece, rank in ranks.items():
        if rank in named:
            return Seen("twice", f"`{_text(named[rank])}` and `{_text(piece)}` have the same rank, "
                                 f"{rank}")
        named[rank] = piece
    return None


def _text(piece: bytes) -> str:
    return piece.decode(errors="replace")


def _ranked(letters: bytes, pieces: list[bytes]) -> dict[bytes, int]:
    """Single letters first, then these pieces."""
    every = dict.fromkeys([*bytes_of(letters), *pieces])
    return {piece: rank for rank, piece in enumerate(every)}


def _pairs(letters: bytes) -> list[bytes]:
    return [letters[i : i + 2] for i in range(len(letters) - 1)]


def _chain(letters: bytes) -> dict[bytes, int]:
    return _ranked(letters, _pairs(letters)[::-1])


Ranks = dict[bytes, int]
Answer = Callable[[bytes], Ranks]


def _numbered(pairs: Callable[[bytes], list[bytes]]) -> Answer:
    return lambda letters: _ranked(letters, pairs(letters))


def _wrong_for(wrong: Answer, holds: Callable[[int], bool]) -> Answer:
    """A slip that shows with some numbers of letters only."""
    return lambda letters: (wrong if holds(len(letters)) else _chain)(letters)


def _at_all_sizes(*wrongs: Answer) -> tuple[Answer, ...]:
    """What goes wrong from so many letters on, or for an even or an odd number of them."""
    above = [lambda n, most=most: n > most for most in (0, 1, 2, 3, 6, 7, 12)]
    parity = [lambda n: n % 2 == 0, lambda n: n % 2 == 1, lambda n: n % 2 == 1 and n > 1]
    return tuple(_wrong_for(wrong, holds) for wrong in wrongs for holds in (*above, *parity))


def _one_rank(letters: bytes) -> Ranks:
    return dict.fromkeys(_chain(letters), 0)


def _last_pair_first(letters: bytes) -> Ranks:
    return _ranked(letters, _pairs(letters)[-1:] + _pairs(letters)[:-1])


def _first_pairs_swapped(letters: bytes) -> list[bytes]:
    first, second, *rest = [*_pairs(letters)[::-1], b"", b""]
    return [piece for piece in (second, first, *rest) if piece]


def _of_text(letters: bytes) -> dict:
    return {piece.decode(): rank for piece, rank in _chain(letters).items()}


def _of_numbers(letters: bytes) -> dict:
    return {piece[0] if len(piece) == 1 else piece: rank
            for piece, rank in _chain(letters).items()}


def _drawn(rng: Generator, n: int) -> Inputs:
    """Different letters in an order that is drawn, another one for each number of them."""
    order = [torch.randperm(26, generator=rng) for _ in range(n)][-1][:n].tolist()
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
        Misconception("in the order of the text", _numbered(_pairs),
                      "your first pair has the lowest rank, so it merges first whatever comes "
                      "behind. The chain has to start where the letter is added.",
                      also=_at_all_sizes(_numbered(_pairs))),
        Misconception("not falling throughout", _last_pair_first,
                      "somewhere a pair merges before the one behind it, so what happens behind "
                      "never gets in front of it. Every pair has to wait for the next one.",
                      also=_at_all_sizes(_last_pair_first, _numbered(_first_pairs_swapped))),
        Misconception("no neighbours", lambda letters: _chain(bytes(sorted(letters))),
                      "you have pairs of letters that do not stand side by side in `letters`, and "
                      "of those that do one is missing. Did you sort the letters, or count in the "
                      "alphabet? The pairs are letters[i : i + 2].", also=(
                          lambda letters: _chain(bytes(sorted(letters, reverse=True))),
                          lambda letters: _chain(letters[::-1]),
                          lambda letters: _numbered(_pairs)(bytes(sorted(letters))))),
        Misconception("a pair missing", _numbered(lambda letters: _pairs(letters)[::-2]),
                      "two neighbours of `letters` have no piece of their own. Every pair is "
                      "needed, from the first to the last: each takes a letter from the one before "
                      "it, and without one of them the front never hears of the end.",
                      also=_at_all_sizes(_numbered(lambda letters: _pairs(letters)[1:]))),
        Misconception("no pair", _numbered(lambda letters: []),
                      "none of your pieces is a pair that stands in `letters`, so nothing ever "
                      "merges. The pairs are letters[i : i + 2].",
                      also=_at_all_sizes(_numbered(lambda letters: []))),
        Misconception("pieces too long", _numbered(lambda letters: [letters]),
                      "one of your pieces has more than two letters. With pairs alone it is "
                      "possible, and then every cut moves.",
                      also=_at_all_sizes(_numbered(lambda letters: [
                          *_pairs(letters)[::-1], *([letters] if len(letters) > 2 else [])]))),
        Misconception("other letters", lambda letters: _chain(b"abcdef"),
                      "your ranks are for other letters than the ones that you were given. Make "
                      "them from `letters`: there may be any, in any order, and from one to many.",
                      also=(*(lambda letters, own=own: _chain(own) for own in (
                          b"stuvwxyz", b"abcdefghijklmnopqrst", b"ABCDEF")),
                            *_at_all_sizes(lambda letters: _chain(b"ABCDEF")))),
        Misconception("a single letter missing", lambda letters: {
            pair: rank for rank, pair in enumerate(_pairs(letters)[::-1])},
                      "a single letter has no rank with you. A letter that finds no partner needs "
                      "a token as well.", also=_at_all_sizes(lambda letters: {
                          pair: rank for rank, pair in enumerate(_pairs(letters)[::-1])})),
        Misconception("a rank twice", _one_rank,
                      "two of your pieces have the same rank. A rank is the token's number, so "
                      "each piece needs its own.", also=_at_all_sizes(_one_rank)),
        Misconception("letters, not bytes", _of_text,
                      "your pieces are text (str). Pieces of a vocabulary are bytes: "
                      "letters[i : i + 2] is."),
        Misconception("numbers, not bytes", _of_numbers,
                      "your single letters are numbers: letters[i] is one. letters[i : i + 1] is "
                      "a piece of one byte."),
        Misconception("tuples, not bytes", lambda letters: {
            tuple(piece): rank for piece, rank in _chain(letters).items()},
                      "your pieces are tuples of numbers. bytes(pair) makes a piece of them.",
                      also=(lambda letters: {
                          tuple(piece) if len(piece) > 1 else piece: rank
                          for piece, rank in _chain(letters).items()},)),
        Misconception("turned round", lambda letters: {
            rank: piece for piece, rank in _chain(letters).items()},
                      "your dict leads from ranks to pieces. It is asked the other way: "
                      "ranks[piece]."),
        Misconception("no whole numbers", lambda letters: {
            piece: float(rank) for piece, rank in _chain(letters).items()},
                      "your ranks are no whole numbers. A rank is a place in a list.",
                      also=(lambda letters: {piece: rank if len(piece) == 1 else float(rank)
                                             for piece, rank in _chain(letters).items()},)),
    ),
    hints=(
        "Which pairs must fight over the same letter?",
        "Take a b c d e f. Without f you want a, bc, de; with f you want ab, cd, ef. So which "
        "pairs have to be there?",
        "With f: ef takes e, so de can no longer form. Which pair is to go next, that it may take "
        "c from bc?",
        "ef before de before cd before bc before ab: ranks from the end of the text.",
    ))

EXERCISES = [DOMINO]
