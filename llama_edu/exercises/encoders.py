"""Ways to encode a chunk, right and wrong: what the exercises of chapter 05 tell apart."""

from collections.abc import Callable, Mapping
from itertools import islice, pairwise

from ..tokenizer.merging import merge_all, merge_steps
from .texts import Change

Ranks = Mapping[bytes, int]


def bytes_of(chunk: bytes) -> list[bytes]:
    """Every byte as a piece of its own."""
    return [chunk[i : i + 1] for i in range(len(chunk))]


def package_encode(chunk: bytes, ranks: Ranks) -> list[int]:
    return [ranks[part] for part in merge_all(bytes_of(chunk), ranks)]


def merging(key: Callable[[list[bytes], int, Ranks], object]) -> Callable:
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


def one_merge(chunk: bytes, ranks: Ranks) -> list[int]:
    steps = [*islice(merge_steps(bytes_of(chunk), ranks), 2)]
    return [ranks[part] for part in steps[-1]]


def in_sweeps(chunk: bytes, ranks: Ranks) -> list[int]:
    """From left to right whatever forms a piece, and again until nothing does."""
    parts, before = bytes_of(chunk), 0
    while len(parts) != before:
        before, i = len(parts), 0
        while i < len(parts) - 1:
            if parts[i] + parts[i + 1] in ranks:
                parts[i : i + 2] = [parts[i] + parts[i + 1]]
            i += 1
    return [ranks[part] for part in parts]


def every_place(chunk: bytes, ranks: Ranks) -> list[int]:
    """All places of the pair of lowest rank in one go."""
    parts = bytes_of(chunk)
    while known := [(ranks[a + b], a, b) for a, b in pairwise(parts) if a + b in ranks]:
        _, a, b = min(known)
        i = 0
        while i < len(parts) - 1:
            if parts[i : i + 2] == [a, b]:
                parts[i : i + 2] = [a + b]
            i += 1
    return [ranks[part] for part in parts]


def each_side(chunk: bytes, ranks: Ranks) -> list[int]:
    """Merge the best two bytes, and go on with what is left and right of them, each by itself."""
    places = [i for i in range(len(chunk) - 1) if chunk[i : i + 2] in ranks]
    if not places:
        return [ranks[byte] for byte in bytes_of(chunk)]
    i = min(places, key=lambda i: ranks[chunk[i : i + 2]])
    return [*each_side(chunk[:i], ranks), ranks[chunk[i : i + 2]],
            *each_side(chunk[i + 2 :], ranks)]


def among(places: Callable[[list[bytes]], range], *, rounds: Callable[[bytes], int] = len,
           end: Callable[[list], bool] = bool) -> Callable:
    """Some places are looked at, and so many rounds are made."""
    def encode(chunk: bytes, ranks: Ranks) -> list[int]:
        parts = bytes_of(chunk)
        for _ in range(rounds(chunk)):
            known = [(ranks[parts[i] + parts[i + 1]], i) for i in places(parts)
                     if parts[i] + parts[i + 1] in ranks]
            if not end(known):
                break
            i = min(known)[1]
            parts[i : i + 2] = [parts[i] + parts[i + 1]]
        return [ranks[part] for part in parts]
    return encode


def all_places(parts: list[bytes]) -> range:
    return range(len(parts) - 1)


def by_parts(key: Callable[[int, int], object]) -> Callable:
    return merging(lambda parts, i, ranks: key(ranks[parts[i]], ranks[parts[i + 1]]))


def at_the_end(change: Callable[[list[int]], list[int]]) -> Callable:
    return lambda chunk, ranks: change(package_encode(chunk, ranks))


def place_of_the_part(chunk: bytes, ranks: Ranks) -> list[int]:
    """The best pair is found, and merged where its first half first stands."""
    parts = bytes_of(chunk)
    while known := [(ranks[a + b], a, b) for a, b in pairwise(parts) if a + b in ranks]:
        _, a, b = min(known)
        i = parts.index(a)
        parts[i : i + 2] = [a + b]
    return [ranks[part] for part in parts]


def with_neighbours(kept: int, gone: int) -> Callable:
    """A merge that takes out too few parts, or too many."""
    def encode(chunk: bytes, ranks: Ranks) -> list[int]:
        parts = bytes_of(chunk)
        while places := [i for i, (a, b) in enumerate(pairwise(parts)) if a + b in ranks]:
            i = min(places, key=lambda i: ranks[parts[i] + parts[i + 1]])
            parts[i + kept : i + gone] = [parts[i] + parts[i + 1]]
        return [ranks[part] for part in parts]
    return encode


def fewest_pieces(chunk: bytes, ranks: Ranks) -> list[int]:
    best: list[list[int]] = [[]]
    for end in range(1, len(chunk) + 1):
        best.append(min(([*best[start], ranks[chunk[start:end]]] for start in range(end)
                         if chunk[start:end] in ranks), key=len))
    return best[-1]


def longest_from_the_right(chunk: bytes, ranks: Ranks) -> list[int]:
    mirrored = {piece[::-1]: rank for piece, rank in ranks.items()}
    return [mirrored[part] for part in longest_first(chunk[::-1], mirrored)][::-1]


def merged_ones_shifted(chunk: bytes, ranks: Ranks) -> list[int]:
    parts = merge_all(bytes_of(chunk), ranks)
    return [ranks[part] + 256 * (len(part) > 1) for part in parts]


def frequency(parts: list[bytes], i: int, ranks: Ranks) -> int:
    return -list(pairwise(parts)).count((parts[i], parts[i + 1]))


def byte_is_token(chunk: bytes, ranks: Ranks) -> list[int]:
    parts = merge_all(bytes_of(chunk), ranks)
    return [part[0] if len(part) == 1 else ranks[part] for part in parts]


def merged_characters(names: Mapping[str, int], characters: list[str]) -> list[int]:
    return [names[part] for part in merge_all(characters, names)]


def on_text(errors: str) -> Callable:
    """The same algorithm on str: pieces decoded, characters in place of bytes."""
    return lambda chunk, ranks: merged_characters(
        {piece.decode(errors=errors): rank for piece, rank in ranks.items()},
        list(chunk.decode(errors=errors)))


def from_characters(chunk: bytes, ranks: Ranks) -> list[int]:
    """The bytes of a character stay together from the start, if that is a piece."""
    parts = [part for c in chunk.decode(errors="surrogateescape")
             for whole in [c.encode(errors="surrogateescape")]
             for part in ([whole] if whole in ranks else bytes_of(whole))]
    return [ranks[part] for part in merge_all(parts, ranks)]


def by_place(chunk: bytes, ranks: Ranks) -> list[int]:
    """The order of the dict instead of the ranks."""
    place = {piece: i for i, piece in enumerate(ranks)}
    return [ranks[part] for part in merge_all(bytes_of(chunk), place)]


def one_sweep(order: Callable[[Ranks], list[bytes]]) -> Callable:
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


def after_bytes(change: Callable[[bytes], bytes]) -> Callable:
    return lambda chunk, ranks: package_encode(change(chunk), ranks)


def after(errors: str) -> Callable[[Change], Callable]:
    """Encode a chunk that went through text, and was changed there."""
    return lambda change: after_bytes(
        lambda chunk: change(chunk.decode(errors=errors)).encode(errors=errors))
