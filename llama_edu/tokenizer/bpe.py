"""Byte-level BPE from nothing: how the vocabulary of Llama 3 is trained and used.

    tokenizer = BytePairs.train("low lower lowest", n_vocab=260)
    tokenizer.pieces("lowest")      # ['low', 'e', 's', 't']
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from heapq import heapify, heappop, heappush
from pathlib import Path
from typing import NamedTuple

import regex

from .base import check_ids, check_special, check_text, cut, needed, show, spelled
from .merging import merge_all
from .vocabulary_files import Notes, read_notes, read_ranks, write_notes, write_ranks

# Merges never cross these borders: contractions, words with the one space before them,
# one to three digits, punctuation, line ends, other spaces.
LLAMA3_PATTERN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
                  r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")

ALPHABET = tuple(bytes([byte]) for byte in range(256))
BORDER, GONE = -1, -2       # stand in the chain of tokens where no token is


class Merge(NamedTuple):
    """One step of training: the most frequent pair of neighbours becomes a piece."""

    left: bytes
    right: bytes
    count: int      # how often the pair stood in the text

    @property
    def piece(self) -> bytes:
        """What the two become."""
        return self.left + self.right


def split(text: str, pattern: str = LLAMA3_PATTERN) -> list[str]:
    """Cut a text into the chunks inside which pieces may form. Raises ValueError for what is no
    text."""
    return regex.findall(pattern, check_text(text))


def count_chunks(text: str, pattern: str = LLAMA3_PATTERN) -> dict[bytes, int]:
    """How often each chunk occurs, as bytes: all that training needs to know of a text. Raises
    ValueError for what is no text."""
    return {chunk.encode(): n for chunk, n in Counter(split(text, pattern)).items()}


def grow(chunks: Mapping[bytes, int]) -> Iterator[Merge]:
    """Yield one merge after the other, the most frequent pair first, until no pair is left.

    A pair counts wherever it stands, so "aaa" has (a, a) twice, though only one can merge; merges
    go from left to right. Ties go to the smaller pair of token ids, where bytes are 0 to 255 and
    pieces are numbered as they appear. No two pairs ever spell the same piece: inside a piece,
    merges happen in the same order wherever it stands.

    No count is ever taken twice. The tokens of all chunks hang in one chain, `where` knows at
    which links a pair may start, and a merge mends only the counts of its neighbours.
    """
    tokens, weights = _lay_out(chunks)
    before, after = list(range(-1, len(tokens) - 1)), list(range(1, len(tokens) + 1))
    where: dict[tuple[int, int], list[int]] = defaultdict(list)
    for i, pair in enumerate(zip(tokens, tokens[1:], strict=False)):
        where[pair].append(i)
    where = defaultdict(list, {pair: at for pair, at in where.items() if BORDER not in pair})
    counts = Counter({pair: sum(map(weights.__getitem__, at)) for pair, at in where.items()})
    queue = [(-count, pair) for pair, count in counts.items()]
    heapify(queue)
    pieces = list(ALPHABET)

    while queue:
        count, pair = heappop(queue)
        if counts[pair] != -count:      # out of date: the pair has lost some of its places
            if counts[pair] > 0:
                heappush(queue, (-counts[pair], pair))
            continue
        a, b = pair
        merge, new = Merge(pieces[a], pieces[b], -count), len(pieces)
        pieces.append(merge.piece)
        yield merge
        lefts, rights = _merge_everywhere(pair, new, sorted(where.pop(pair)), tokens, before, after)
        for x, at in lefts.items():
            _mend(counts, where, queue, (x, a), (x, new), at, weights)
        for y, at in rights.items():
            _mend(counts, where, queue, (b, y), (new, y), at, weights)
        counts[pair] = 0


def _lay_out(chunks: Mapping[bytes, int]) -> tuple[list[int], list[int]]:
    """The bytes of all chunks in one row, borders around each, and how often each occurs."""
    tokens, weights = [BORDER], [0]
    for chunk, count in chunks.items():
        tokens += [*chunk, BORDER]
        weights += [count] * (len(chunk) + 1)
    return tokens, weights


def _merge_everywhere(pair, new, places, tokens, before, after):    # the innermost loop
    """Merge a pair at these places; where the new pairs start, by the neighbour on each side."""
    a, b = pair
    lefts, rights = defaultdict(list), defaultdict(list)
    for i in places:
        j = after[i]
        if tokens[i] != a or tokens[j] != b:    # another merge was here first
            continue
        h, k = before[i], after[j]
        tokens[i], tokens[j], after[i], before[k] = new, GONE, k, i
        lefts[tokens[h]].append(h)
        rights[tokens[k]].append(i)
    return lefts, rights


def _mend(counts, where, queue, old, pair, at, weights):
    """Neighbours stood in pair `old`, and now stand in `pair`, which starts at these places."""
    if BORDER in pair:
        return
    moved = sum(map(weights.__getitem__, at))
    counts[old] -= moved
    counts[pair] += moved
    where[pair] += at
    if counts[pair] > 0:        # 0 where the left and the right neighbour merge as well
        heappush(queue, (-counts[pair], pair))


class BytePairs:
    """A vocabulary of byte strings with ranks, and special pieces with tokens of their own."""

    def __init__(self, ranks: dict[bytes, int], *, special: Mapping[str, int] | None = None,
                 pattern: str = LLAMA3_PATTERN) -> None:
        self.ranks, self.special, self.pattern = ranks, dict(special or {}), pattern
        self.spelling = {i: piece for piece, i in ranks.items()}
        self.known = {*ranks.values(), *self.special.values()}
        self.n_vocab = 1 + max(self.known, default=-1)
        self.bos_id = self.special.get("<|begin_of_text|>")
        self.eos_id = self.special.get("<|end_of_text|>")
        self.adds_bos, self.adds_eos = self.bos_id is not None, False
        self.stop_ids = frozenset({self.eos_id} - {None})

    @classmethod
    def train(cls, text: str, *, n_vocab: int, special: Sequence[str] = (),
              pattern: str = LLAMA3_PATTERN) -> "BytePairs":
        """Grow a vocabulary until it has `n_vocab` tokens; the special ones, counted, come last.

        Raises ValueError where the text has too little in it for so many, and for what is no text.
        """
        ranks = {piece: i for i, piece in enumerate(ALPHABET)}
        merges, n_pieces = grow(count_chunks(text, pattern)), n_vocab - len(special)
        while len(ranks) < n_pieces:
            merge = next(merges, None)
            if merge is None:
                raise ValueError(f"the text gives {len(ranks)} pieces and no pair is left; "
                                 f"{n_pieces} were asked for. Train on more text.")
            ranks[merge.piece] = len(ranks)
        return cls(ranks, special=_number(special, len(ranks)), pattern=pattern)

    @classmethod
    def load(cls, file: str | Path, *, special: Sequence[str] | None = None,
             pattern: str | None = None) -> "BytePairs":
        """Read what `save` wrote, or Meta's `tokenizer.model` of Llama 3.

        special, pattern: in place of those that `save` noted; where nothing is noted there are no
        special pieces, and Llama 3's pattern. Raises ValueError for a file that is broken.
        """
        ranks, noted = read_ranks(Path(file)), read_notes(_beside(file))
        numbers = noted.special if special is None else _number(special, len(ranks))
        return cls(ranks, special=numbers, pattern=pattern or noted.pattern or LLAMA3_PATTERN)

    def save(self, file: str | Path) -> None:
        """Write the ranks in Meta's format. Special pieces and another pattern than Llama 3's have
        no place in it: they are noted in a second file beside it, `file` + ".json".

        Raises ValueError, and writes nothing, where the ranks have a gap or lack one of the bytes.
        """
        write_ranks(Path(file), self.ranks)
        other = None if self.pattern == LLAMA3_PATTERN else self.pattern
        write_notes(_beside(file), Notes(self.special, other))

    def encode(self, text: str, *, bos: bool = False, eos: bool = False,
               allow_special: Collection[str] = ()) -> list[int]:
        """Tokens of a text. Special pieces inside it are ordinary text unless allowed by name.

        Raises ValueError for what is no text, for a piece that is not special, and for a bos or
        eos that there is not.
        """
        check_special(allow_special, self.special)
        ids = [needed(self.bos_id, "first")] if bos else []
        for part in cut(check_text(text), allow_special):
            if part in allow_special:
                ids.append(self.special[part])
            else:
                ids += [self.ranks[piece] for piece in self._cut(part)]
        return ids + ([needed(self.eos_id, "last")] if eos else [])

    def decode(self, ids: Sequence[int], *, special: bool = False) -> str:
        """The text of these tokens, special ones left out or, if asked for, spelled in their
        places. Broken UTF-8 shows as U+FFFD. Raises ValueError for a token that there is not."""
        if special:
            return spelled(ids, self.special, self.decode)
        ids = check_ids(ids, self.n_vocab, self.known)
        return b"".join(self.spelling.get(i, b"") for i in ids).decode(errors="replace")

    def pieces(self, text: str) -> list[str]:
        """The text cut where `encode` cuts it; bytes that are no character show as `<0xE2>`.
        Raises ValueError for what is no text."""
        return [show(piece) for piece in self._cut(text)]

    def _cut(self, text: str) -> list[bytes]:
        chunks = [chunk.encode() for chunk in split(text, self.pattern)]
        # A chunk that is a piece stays whole, though merging might not arrive at it.
        cuts = {chunk: [chunk] if chunk in self.ranks else
                merge_all([*map(ALPHABET.__getitem__, chunk)], self.ranks)
                for chunk in set(chunks)}
        return [piece for chunk in chunks for piece in cuts[chunk]]


def _beside(file: str | Path) -> Path:
    return Path(f"{file}.json")


def _number(special: Sequence[str], first: int) -> dict[str, int]:
    return {name: first + i for i, name in enumerate(special)}
