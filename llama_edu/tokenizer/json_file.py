"""The tokenizer in a `tokenizer.json`, on Hugging Face's `tokenizers` library."""

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors

from ..formats.whole_files import read_whole
from .base import beside, check_ids, check_special, check_text, cut, named, needed, spelled
from .vocabulary_files import MAX_BYTES, in_the_library

# What makes a text longer in a rule: letters put in, and steps that must come once at most.
PUT_IN, MOST_PUT_IN = ("content", "prepend", "precompiled_charsmap", "ids"), 16
ONCE, MOST_STEPS = ("ByteLevel", "TemplateProcessing"), 16
# A prefix that is shorter than a character ends the process. Its name may be written in escapes.
PREFIX = re.compile(rb'(?i)"%b"\s*:\s*"[^"]' % b"".join(
    rb"(?:%c|\\u00%02x)" % (letter, letter) for letter in b"continuing_subword_prefix"))


def over_bytes(vocab: Mapping[str, int], merges: Sequence[tuple[str, str]], *,
               patterns: Sequence[str], whole_words: bool) -> tokenizers.Tokenizer:
    """Pieces over bytes, as in Llama 3, on the `tokenizers` library; special pieces come later.

    patterns: how text is cut into words, one after another. whole_words: whether a word that is a
    piece stays whole even where merging would not arrive at it. Raises the library's plain
    Exception for merges that do not fit the pieces.
    """
    inner = tokenizers.Tokenizer(models.BPE(vocab, merges, ignore_merges=whole_words))
    inner.pre_tokenizer = pre_tokenizers.Sequence([
        *(pre_tokenizers.Split(tokenizers.Regex(each), "isolated") for each in patterns),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    inner.decoder = decoders.ByteLevel()
    inner.encode_special_tokens = True      # special text from a user stays text
    return inner


def add_pieces(inner: tokenizers.Tokenizer, special: Iterable[str], own: Iterable[str]) -> None:
    """Let these pieces be found before a text is cut: special ones, and those of its users."""
    inner.add_special_tokens([tokenizers.AddedToken(piece, special=True, normalized=False)
                              for piece in special])
    inner.add_tokens([tokenizers.AddedToken(piece, normalized=False) for piece in own])


def add_ends(inner: tokenizers.Tokenizer, bos: int | None, eos: int | None) -> None:
    """Let whole texts begin and end with these tokens; None, or one without a piece, adds nothing.

    Raises the library's plain Exception for pieces that its rules cannot spell.
    """
    pieces = {i: inner.id_to_token(i) for i in (bos, eos) if i is not None and inner.id_to_token(i)}
    first, last = ([pieces[i]] if i in pieces else [] for i in (bos, eos))
    if pieces:
        inner.post_processor = processors.TemplateProcessing(
            single=[*first, "$A", *last], pair=[*first, "$A", *last, *first, "$B", *last],
            special_tokens=[(piece, i) for i, piece in pieces.items()])


@dataclass(frozen=True)
class JsonTokenizer:
    """A `tokenizers.Tokenizer` behind this package's interface."""

    inner: tokenizers.Tokenizer
    bos_id: int | None
    eos_id: int | None
    stop_ids: frozenset[int]

    @classmethod
    def read(cls, file: Path, *, stop_ids: tuple[int, ...] = ()) -> "JsonTokenizer":
        """Read `tokenizer.json`, and which tokens begin and end a text from the files beside it:
        `tokenizer_config.json`, or in older folders `special_tokens_map.json`. Where neither names
        them, the rule for whole texts (the post-processor) may. Raises ValueError for files that
        are broken or contradict each other."""
        if PREFIX.search(content := read_whole(file, most=MAX_BYTES)):
            raise ValueError(f"{file} names a continuing_subword_prefix; no Llama has one. "
                             "Download it again.")
        with in_the_library(f"{file} is not a tokenizer.json that can be read"):
            inner = tokenizers.Tokenizer.from_buffer(content)
        _check_rules(inner, file)
        if (top := max(inner.get_vocab().values(), default=0)) >= inner.get_vocab_size():
            raise ValueError(f"{file} gives a piece the token {top}; its {inner.get_vocab_size()} "
                             "pieces must have the tokens from 0 on, without gaps. Download it "
                             "again.")
        inner.encode_special_tokens = True      # special text from a user stays text
        inner.no_truncation()                   # nor is a text cut or filled up, which some files
        inner.no_padding()                      # ask for that were saved while training
        ends = _around(inner)
        bos, eos = (_named(file, name, inner, end)
                    for name, end in zip(("bos_token", "eos_token"), ends, strict=True))
        return cls(inner, bos, eos, frozenset(stop_ids) | ({eos} - {None}))

    @property
    def adds_bos(self) -> bool:
        """Whether the rule for whole texts begins them with bos."""
        return self.bos_id is not None and _around(self.inner)[0] == self.bos_id

    @property
    def adds_eos(self) -> bool:
        """Whether the rule for whole texts ends them with eos."""
        return self.eos_id is not None and _around(self.inner)[1] == self.eos_id

    @property
    def special(self) -> dict[str, int]:
        """The pieces that stand for no text, and their tokens."""
        added = self.inner.get_added_tokens_decoder()
        return {piece.content: i for i, piece in added.items() if piece.special}

    @property
    def n_vocab(self) -> int:
        """Tokens are 0 .. n_vocab - 1, special ones included."""
        return self.inner.get_vocab_size()

    def encode(self, text: str, *, bos: bool = False, eos: bool = False,
               allow_special: Collection[str] = ()) -> list[int]:
        """Tokens of a text. Special pieces inside it are ordinary text unless allowed by name.

        Raises ValueError for what is no text, for a piece that is not special, and for a bos or
        eos that there is not.
        """
        special = {t.content: i for i, t in self.inner.get_added_tokens_decoder().items()}
        check_special(allow_special, special)
        ids = [needed(self.bos_id, "first")] if bos else []
        for part in cut(check_text(text), allow_special):
            if part in allow_special:
                ids.append(special[part])
            else:
                ids += _encoded(self.inner, part).ids
        return ids + ([needed(self.eos_id, "last")] if eos else [])

    def decode(self, ids: Sequence[int], *, special: bool = False) -> str:
        """The text of these tokens, special ones left out or, if asked for, spelled in their
        places. Broken UTF-8 shows as U+FFFD. Raises ValueError for a token that there is not."""
        if special:
            return spelled(ids, self.special, self.decode)
        ids = check_ids(ids, self.n_vocab)
        with in_the_library("these tokens do not suit the rules of this tokenizer.json"):
            return self.inner.decode(ids)

    def pieces(self, text: str) -> list[str]:
        """The text cut where `encode` cuts it, in the vocabulary's own spelling. Raises ValueError
        for what is no text."""
        return _encoded(self.inner, check_text(text)).tokens


def _encoded(inner: tokenizers.Tokenizer, text: str, *, ends: bool = False) -> tokenizers.Encoding:
    with in_the_library("this text does not suit the rules of this tokenizer.json"):
        return inner.encode(text, add_special_tokens=ends)


def _check_rules(inner: tokenizers.Tokenizer, file: Path) -> None:
    """Raises ValueError for rules that could make a text of any length of a short one."""
    for rule in (inner.normalizer, inner.pre_tokenizer, inner.decoder, inner.post_processor):
        found: list[dict] = []
        json.loads(b"0" if rule is None else rule.__getstate__(), object_hook=found.append)
        steps = [step["type"] for step in found if "type" in step]
        put_in = sum(len(step[name]) for step in found for name in PUT_IN if name in step)
        copies = sum("Sequence" in step for step in found)
        if len(steps) > MOST_STEPS or put_in + copies > MOST_PUT_IN or any(
                steps.count(name) > 1 for name in ONCE):
            raise ValueError(f"{file} has a rule of {len(steps)} steps that put in {put_in} letters"
                             f"; no Llama puts in more than {MOST_PUT_IN}. Download it again.")


def _around(inner: tokenizers.Tokenizer) -> tuple[int | None, int | None]:
    """The tokens that the rule for whole texts puts first and last; None where it puts none."""
    full, plain = (_encoded(inner, "a", ends=on).ids for on in (True, False))
    first = full[0] if full[:1] != plain[:1] else None
    return first, (full[-1] if full[-1:] != plain[-1:] else None)


def _named(file: Path, name: str, inner: tokenizers.Tokenizer, default: int | None) -> int | None:
    """The token that the files beside tokenizer.json give this name, by a string or by a table
    with its content; else the default."""
    for notes in ("tokenizer_config.json", "special_tokens_map.json"):
        piece = named(given := beside(file, notes).get(name))
        if piece is None:
            continue
        if type(piece) is not str:
            raise ValueError(f"{notes} says {name} = {given!r:.60}; a piece is needed. Download it "
                             "again.")
        if (token := inner.token_to_id(piece)) is None:
            raise ValueError(f"{notes} names {piece!r:.60} as {name}; tokenizer.json has no such "
                             "piece. Do the two files belong together?")
        return token
    return default
