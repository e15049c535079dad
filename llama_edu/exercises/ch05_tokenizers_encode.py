"""The exercise of chapter 05 on using a vocabulary: encode by rank."""

from collections.abc import Callable, Mapping
from itertools import islice, pairwise

from torch import Generator

from ..tokenizer.bpe import grow
from ..tokenizer.merging import merge_all, merge_steps
from .data import Exercise, Inputs, Misconception, Probe, count
from .texts import ALL_CHANGES, Change, hard_probes, touched

Ranks = Mapping[bytes, int]


def bytes_of(chunk: bytes) -> list[bytes]:
    """Every byte as a piece of its own."""
    return [chunk[i : i + 1] for i in range(len(chunk))]


def _package_encode(chunk: bytes, ranks: Ranks) -> list[int]:
    return [ranks[part] for part in merge_all(bytes_of(chunk), ranks)]


def _merging(key: Callable[[list[bytes], int, Ranks], object]) -> Callable:
    """Encode by merging one known pair after another, that of the smallest key first."""
    def encode(chunk: bytes, ranks: Ranks) -> list[int]:
        parts = bytes_of(chunk)
        while places := [i for i, (a, b) in enumerate(pairwise(parts)) if a + b in ranks]:
            i = min(places, key=lambda i: (key(parts, i, ranks), i))
            parts[i : i + 2] = [parts[i] + parts[i + 1]]
        return [ranks[part] for part in parts]
    return encode


def longest_first(chunk: bytes, ranks: Ranks) -> list[bytes]:
    """The longest piece that fits, again and again from the left."""
    parts = []
    while chunk:
        size = next(n for n in range(len(chunk), 0, -1) if chunk[:n] in ranks)
        parts, chunk = [*parts, chunk[:size]], chunk[size:]
    return parts


def _one_merge(chunk: bytes, ranks: Ranks) -> list[int]:
    steps = [*islice(merge_steps(bytes_of(chunk), ranks), 2)]
    return [ranks[part] for part in steps[-1]]


def _in_sweeps(chunk: bytes, ranks: Ranks) -> list[int]:
    """From left to right whatever forms a piece, and again until nothing does."""
    parts, before = bytes_of(chunk), 0
    while len(parts) != before:
        before, i = len(parts), 0
        while i < len(parts) - 1:
            if parts[i] + parts[i + 1] in ranks:
                parts[i : i + 2] = [parts[i] + parts[i + 1]]
            i += 1
    return [ranks[part] for part in parts]


def _frequency(parts: list[bytes], i: int, ranks: Ranks) -> int:
    return -list(pairwise(parts)).count((parts[i], parts[i + 1]))


def _byte_is_token(chunk: bytes, ranks: Ranks) -> list[int]:
    parts = merge_all(bytes_of(chunk), ranks)
    return [part[0] if len(part) == 1 else ranks[part] for part in parts]


def _characters(names: Mapping[str, int], characters: list[str]) -> list[int]:
    return [names[part] for part in merge_all(characters, names)]


def _on_text(errors: str) -> Callable:
    """The same algorithm on str: pieces decoded, characters in place of bytes."""
    return lambda chunk, ranks: _characters(
        {piece.decode(errors=errors): rank for piece, rank in ranks.items()},
        list(chunk.decode(errors=errors)))


def _from_characters(chunk: bytes, ranks: Ranks) -> list[int]:
    """The bytes of a character stay together from the start, if that is a piece."""
    parts = [part for c in chunk.decode(errors="surrogateescape")
             for whole in [c.encode(errors="surrogateescape")]
             for part in ([whole] if whole in ranks else bytes_of(whole))]
    return [ranks[part] for part in merge_all(parts, ranks)]


def _by_place(chunk: bytes, ranks: Ranks) -> list[int]:
    """The order of the dict instead of the ranks."""
    place = {piece: i for i, piece in enumerate(ranks)}
    return [ranks[part] for part in merge_all(bytes_of(chunk), place)]


def _one_sweep(order: Callable[[Ranks], list[bytes]]) -> Callable:
    """Each piece of the vocabulary in turn, once, merged wherever it stands."""
    def encode(chunk: bytes, ranks: Ranks) -> list[int]:
        parts = bytes_of(chunk)
        for piece in order(ranks):
            i = 0
            while i < len(parts) - 1:
                if parts[i] + parts[i + 1] == piece:
                    parts[i : i + 2] = [piece]
                i += 1
        return [ranks[part] for part in parts]
    return encode


def _after_bytes(change: Callable[[bytes], bytes]) -> Callable:
    return lambda chunk, ranks: _package_encode(change(chunk), ranks)


def _after(errors: str) -> Callable[[Change], Callable]:
    """Encode a chunk that went through text, and was changed there."""
    return lambda change: _after_bytes(
        lambda chunk: change(chunk.decode(errors=errors)).encode(errors=errors))


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
    "5.2", "Encode by rank", "How is a vocabulary used?", _package_encode,
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
        Misconception("the most frequent pair", _merging(_frequency),
                      "you merged the pair that is most frequent in this chunk. Frequency was for "
                      "training; now the rank decides."),
        Misconception("the leftmost pair", _merging(lambda parts, i, ranks: 0),
                      "you merged the first known pair from the left. Of all known pairs, the one "
                      "of lowest rank goes first."),
        Misconception("the rightmost place", _merging(
            lambda parts, i, ranks: (ranks[parts[i] + parts[i + 1]], -i)),
                      "where a pair stands several times you began at the right. The leftmost goes "
                      "first: `aaa` is `aa, a`."),
        Misconception("one merge only", _one_merge,
                      "you merged once. Merge again and again, until no neighbours form a piece."),
        Misconception("whatever meets", _in_sweeps,
                      "you went from left to right and merged all that forms a piece. In each "
                      "round only one pair merges: the one of lowest rank."),
        Misconception("rank 0 left out", lambda chunk, ranks: [
            ranks[part] for part in merge_all(bytes_of(chunk), {
                piece: rank for piece, rank in ranks.items() if rank})],
                      "you left out the piece of rank 0. Python takes 0 for false: ask `in ranks`, "
                      "not whether the rank is true."),
        Misconception("the highest rank", _merging(
            lambda parts, i, ranks: -ranks[parts[i] + parts[i + 1]]),
                      "you merged the pair of the highest rank. The lowest was learnt first.",
                      also=(_merging(lambda parts, i, ranks:
                                     (-ranks[parts[i] + parts[i + 1]], -i)),)),
        Misconception("the whole chunk first", lambda chunk, ranks: (
            [ranks[chunk]] if chunk in ranks else _package_encode(chunk, ranks)),
                      "you looked the whole chunk up first. Only what the merges make counts."),
        Misconception("a byte is its own token", _byte_is_token,
                      "you took a byte's value for its token. A byte is a piece like any other: "
                      "its token is ranks[byte]."),
        Misconception("the dict's order", _by_place,
                      "you merged in the order of the dict. A dict may hold its pieces in any "
                      "order; the rank is the value, ranks[piece].",
                      also=(_one_sweep(list),)),
        Misconception("one sweep", _one_sweep(lambda ranks: sorted(ranks, key=ranks.__getitem__)),
                      "you went through the vocabulary once. A merge may open a pair of lower "
                      "rank: after each, look at all neighbours anew."),
        Misconception("text instead of bytes", _on_text("replace"),
                      "you merged characters (str). Pieces are bytes, and a merge may join the "
                      "half of a character to the one before: stay with bytes throughout.",
                      also=(_on_text("ignore"), _on_text("strict"), _from_characters)),
        Misconception("broken bytes dropped",
                      _after_bytes(lambda chunk: chunk.decode(errors="ignore").encode()),
                      "you decoded the chunk and lost bytes that are no text. Encoding never "
                      "needs to decode.", also=(_after_bytes(
                          lambda chunk: chunk.decode(errors="replace").encode()),)),
        *touched(_after("surrogateescape"), _after("strict")),
    ),
    hints=(
        "Start with a list of single bytes: chunk[i : i + 1] is bytes, chunk[i] is a number.",
        "In each round look at all neighbours whose sum is in ranks, and merge one of them.",
        "min over (ranks[a + b], i) gives the lowest rank, and the leftmost place of it.",
    ), most_lines=50_000)

EXERCISES = [ENCODE]
