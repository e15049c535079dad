"""The exercise of chapter 05 that asks what ranks can do: one letter more moves every cut."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Generator

from ..tokenizer.merging import merge_all
from .ch05_tokenizers_encode import bytes_of
from .data import Exercise, Inputs, Misconception, Probe


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
        return f"{both}: both have {', '.join(common)}"
    return f"no piece in common: `{_text(letters)}`, `{_text(letters[:-1])}`"


def _complaint(ranks: dict, letters: bytes) -> str:
    """Why these are no ranks of the letters; empty if they are."""
    for piece, rank in ranks.items():
        if type(piece) is not bytes:
            return f"{piece!r} is no piece: pieces are bytes ({type(piece).__name__})"
        if type(rank) is not int:
            return f"the rank of `{_text(piece)}` is {rank!r}; ranks are whole numbers"
    missing = [piece for piece in bytes_of(letters) if piece not in ranks]
    if missing and any(byte not in letters for byte in b"".join(ranks)):
        return "your ranks are for other letters than the ones that you were given"
    if missing:
        return f"`{_text(missing[0])}` has no rank: every single letter needs one"
    if long := [piece for piece in ranks if len(piece) > 2]:
        return f"piece `{_text(long[0])}` has {len(long[0])} letters; two at most"
    named: dict[int, bytes] = {}
    for piece, rank in ranks.items():
        if rank in named:
            return f"`{_text(named[rank])}` and `{_text(piece)}` have the same rank, {rank}"
        named[rank] = piece
    return ""


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


def _starting_at(number: int) -> Callable[[bytes], dict[bytes, int]]:
    """The ranks of the pairs begin at a number that single letters have as well."""
    return lambda letters: {one: i for i, one in enumerate(bytes_of(letters))} | {
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
        Misconception("other letters", lambda letters: _chain(b"abcdef"),
                      "your ranks are for other letters than the ones that you were given. Make "
                      "them from `letters`: there may be any, in any order, and from one to many.",
                      also=(lambda letters: _chain(b"stuvwxyz"), lambda letters: _chain(
                          b"abcdefghijklmnopqrst"), lambda letters: _chain(b"ABCDEF"))),
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
        "Which pairs must fight over the same letter?",
        "Take a b c d e f. Without f you want a, bc, de; with f you want ab, cd, ef. So which "
        "pairs have to be there?",
        "With f: ef takes e, so de can no longer form. Which pair is to go next, that it may take "
        "c from bc?",
        "ef before de before cd before bc before ab: ranks from the end of the text.",
    ))

EXERCISES = [DOMINO]
