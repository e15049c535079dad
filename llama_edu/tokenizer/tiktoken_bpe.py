"""The vocabulary of Llama 3 and later, on the `tiktoken` library."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path

import tiktoken

from .base import check_ids, check_special, check_text, needed, show, spelled
from .bpe import LLAMA3_PATTERN
from .vocabulary_files import AGAIN, read_ranks, read_tekken

N_RANKS, N_SPECIAL = 128_000, 256
MAX_CHARS = 400_000     # tiktoken panics on longer texts
MAX_RUN = 25_000        # and is slow beyond reason in longer words, or runs of spaces
TEKKEN_PATTERN = (      # of every tekken.json that was published; another could take for ever
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|"
    r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")


def _with_reserved(names: str) -> tuple[str, ...]:
    """These names, and reserved ones up to 256; a dash stands for a reserved name too."""
    reserved = (f"<|reserved_special_token_{i}|>" for i in range(N_SPECIAL))
    given = [next(reserved) if name == "-" else f"<|{name}|>" for name in names.split()]
    return (*given, *(next(reserved) for _ in range(N_SPECIAL - len(given))))


LLAMA3_SPECIAL = _with_reserved(
    "begin_of_text end_of_text - - - - start_header_id end_header_id - eot_id")
LLAMA31_SPECIAL = _with_reserved(
    "begin_of_text end_of_text - - finetune_right_pad_id step_id start_header_id end_header_id "
    "eom_id eot_id python_tag image")
STOPS = ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>")


class TiktokenTokenizer:
    """Ranks and special pieces behind this package's interface.

    bos, eos: the special pieces that begin and end a text, where there are such.
    """

    def __init__(self, ranks: dict[bytes, int], special: Mapping[str, int], *, pattern: str,
                 bos: str, eos: str, stop_ids: Sequence[int]) -> None:
        self.ranks, self.special = ranks, dict(special)
        self.inner = tiktoken.Encoding("llama_edu", pat_str=pattern, mergeable_ranks=ranks,
                                       special_tokens=self.special)
        self.known = {*ranks.values(), *special.values()}
        self.n_vocab = 1 + max(self.known)
        self.bos_id, self.eos_id = self.special.get(bos), self.special.get(eos)
        self.adds_bos, self.adds_eos = self.bos_id is not None, False
        self.stop_ids = frozenset(stop_ids) | ({self.eos_id} - {None})

    @classmethod
    def read(cls, file: str | Path, *, special: Sequence[str] = LLAMA31_SPECIAL,
             stop_ids: Sequence[int] = ()) -> "TiktokenTokenizer":
        """Read Llama 3's `tokenizer.model`. The file holds no special pieces, so their names are
        given: `LLAMA3_SPECIAL` for Llama 3, `LLAMA31_SPECIAL` for 3.1 and later. Raises ValueError
        for a file of ranks that is broken or not Llama 3's."""
        ranks = read_ranks(Path(file))
        if len(ranks) != N_RANKS:
            raise ValueError(f"{file} has {len(ranks)} ranks; Llama 3's has {N_RANKS}. If it is "
                             "Llama 3's, download it again; another vocabulary is read with "
                             "BytePairs.load.")
        numbers = {name: N_RANKS + i for i, name in enumerate(special)}
        stops = {i for name, i in numbers.items() if name in STOPS}
        return cls(ranks, numbers, pattern=LLAMA3_PATTERN, bos="<|begin_of_text|>",
                   eos="<|end_of_text|>", stop_ids=(*stops, *stop_ids))

    @classmethod
    def read_tekken(cls, file: str | Path, *, stop_ids: Sequence[int] = ()) -> "TiktokenTokenizer":
        """Read a `tekken.json`, the same kind of vocabulary with rules of its own. Raises
        ValueError for a file that is broken."""
        tekken = read_tekken(Path(file))
        if tekken.pattern != TEKKEN_PATTERN:
            raise ValueError(f"{file} cuts text by {tekken.pattern!r:.60}; the pattern of the "
                             f"tekken.json that were published is needed. {AGAIN}")
        return cls(tekken.ranks, tekken.special, pattern=tekken.pattern, bos="<s>", eos="</s>",
                   stop_ids=stop_ids)

    def encode(self, text: str, *, bos: bool = False, eos: bool = False,
               allow_special: Collection[str] = ()) -> list[int]:
        """Tokens of a text. Special pieces inside it are ordinary text unless allowed by name.

        Raises ValueError for what is no text, for a piece that is not special, and for a bos or
        eos that there is not.
        """
        check_special(allow_special, self.special)
        ids = [needed(self.bos_id, "first")] if bos else []
        for part in cut_long(check_text(text)):
            ids += self.inner.encode(part, allowed_special=set(allow_special),
                                     disallowed_special=())
        return ids + ([needed(self.eos_id, "last")] if eos else [])

    def decode(self, ids: Sequence[int], *, special: bool = False) -> str:
        """The text of these tokens, special ones left out or, if asked for, spelled in their
        places. Broken UTF-8 shows as U+FFFD. Raises ValueError for a token that there is not."""
        if special:
            return spelled(ids, self.special, self.decode)
        left_out = set(self.special.values())
        ids = check_ids(ids, self.n_vocab, self.known)
        return self.inner.decode([i for i in ids if i not in left_out])

    def pieces(self, text: str) -> list[str]:
        """The text cut where `encode` cuts it; bytes that are no character show as `<0xE2>`.
        Raises ValueError for what is no text."""
        ids = self.encode(text, bos=False, eos=False)
        return [show(piece) for piece in self.inner.decode_tokens_bytes(ids)]


def cut_long(text: str, max_chars: int = MAX_CHARS, max_run: int = MAX_RUN) -> Iterator[str]:
    """Cut a text as Meta's code does: after every 400,000 characters, and inside every run of
    more than 25,000 characters that are all spaces, or all not."""
    for at in range(0, len(text), max_chars):
        part, start, end = text[at : at + max_chars], 0, 0
        for _, run in groupby(part, key=str.isspace):
            size = sum(1 for _ in run)
            for cut in range(end + max_run, end + size, max_run):
                yield part[start:cut]
                start = cut
            end += size
        yield part[start:]
