"""What a GGUF file must say of a vocabulary, so that llama.cpp cuts a text as we do."""

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...formats.gguf import header as gguf_header
from .. import Tokenizer, carried, find, load
from ..json_file import JsonTokenizer
from ..sentencepiece_bpe import SentencePieceTokenizer
from ..sentencepiece_rebuilt import check_rules
from ..vocabulary_files import (
    BYTE,
    CONTROL,
    NORMAL,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    kind,
    read_sentencepiece,
)
from .cuts import CUTS, DIGIT, DIGITS, GPT2_PATTERN
from .reader import (
    ADD_BOS,
    ADD_EOS,
    BOS,
    END_PIECES,
    EOM,
    EOS,
    EOT,
    FIELD,
    PAD,
    TURN_ENDS,
    n_pieces,
)

OF_ENDS = {BOS, EOS, EOT, EOM, PAD, ADD_BOS, ADD_EOS}

# How a tokenizer.json over characters writes spaces (its normalizer, its pre_tokenizer), and
# whether a text begins with one more. Metaspace adds it only to a text that has none there.
SPACES = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
ONE_MORE = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, SPACES]}
SPACINGS = (
    (ONE_MORE, None, True), (SPACES, None, False),
    *((None, {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": False},
       scheme != "never") for scheme in ("first", "always", "never")),
)


def fields(path: Path, *, vocab_size: int, stop_ids: Sequence[int]) -> dict[str, Any]:
    """The fields that describe the tokenizer at `path`, filled up to the embedding's rows.

    stop_ids: tokens that end an answer. Warns where llama.cpp will cut some texts otherwise than
    the tokenizer does. Raises ValueError for a vocabulary that GGUF cannot say, or that is larger
    than the embedding.
    """
    file = find(path)
    if (stored := kind(file)) not in DESCRIBERS:
        raise ValueError(f"{file} is a vocabulary of kind {stored!r}; one of "
                         f"{', '.join(DESCRIBERS)} is needed for a GGUF file. Take another model.")
    tokenizer = load(file)
    if not {*range(vocab_size, tokenizer.n_vocab)} <= {*tokenizer.special.values()}:
        raise ValueError(f"the tokenizer in {path} knows {tokenizer.n_vocab} tokens; the model's "
                         f"embedding has {vocab_size} rows. They belong to two models.")
    described = {FIELD + name: value for name, value in DESCRIBERS[stored](file).items()}
    described = _fitted(described, vocab_size)
    pieces, pad = described[FIELD + "tokens"], carried.pad(path)
    padding = {PAD: pieces.index(pad)} if pad in pieces else {}
    return (described | _ends(tokenizer, stop_ids, pieces) | padding
            | _templates(carried.templates(path)))


def _templates(given: Mapping[str, str]) -> dict[str, Any]:
    """The ways to render a dialog: one without a name, others by theirs."""
    others = [name for name in given if name != "default"]
    return {carried.TEMPLATE + ("" if name == "default" else f".{name}"): text
            for name, text in given.items()} | (
        {carried.TEMPLATE + "s": others} if others else {})


def _fitted(described: Mapping[str, Any], n: int) -> dict[str, Any]:
    """The same lists, as long as the embedding: llama.cpp wants one piece for every row."""
    lists = {"tokens": "[PAD{}]", "token_type": UNUSED, "scores": 0.0}
    filled = dict(described)
    for name in {*lists} & {key.removeprefix(FIELD) for key in described}:
        given = described[FIELD + name][:n]
        more = [lists[name]] * (n - len(given))
        filled[FIELD + name] = given + [row.format(i) if name == "tokens" else row
                                        for i, row in enumerate(more, len(given))]
    return filled


def _ends(tokenizer: Tokenizer, stop_ids: Sequence[int], pieces: Sequence[str]) -> dict[str, Any]:
    """The tokens that begin a text and that end an answer: the text (eos), a turn (eot), or a
    message that a tool must answer (eom)."""
    stops = {*stop_ids, *tokenizer.stop_ids}
    eos = min(stops, default=None) if tokenizer.eos_id is None else tokenizer.eos_id
    eom = next((i for i in stops if pieces[i] == "<|eom_id|>"), None)
    others = sorted(i for i in stops if i != eos and pieces[i] not in END_PIECES)
    if len(others) > 1 + (eom is None):
        raise ValueError(f"{', '.join(pieces[i] for i in others)} end an answer; a GGUF file has "
                         f"room for {1 + (eom is None)} such beside the usual ones. Name fewer in "
                         "generation_config.json.")
    eot = next((i for i in [*others, *sorted(stops)] if i in others or pieces[i] in TURN_ENDS),
               None)
    eom = others[1] if len(others) > 1 else eom
    named = {BOS: tokenizer.bos_id, EOS: eos, EOT: eot, EOM: eom}
    return {name: token for name, token in named.items() if token is not None} | {
        ADD_BOS: tokenizer.adds_bos, ADD_EOS: tokenizer.adds_eos}


# -- each kind of vocabulary file ------------------------------------------------------------------


def _from_sentencepiece(file: Path) -> dict[str, Any]:
    stored = read_sentencepiece(file)
    check_rules(stored, own_pieces=True)
    rows = carried.with_added(stored.pieces, SentencePieceTokenizer.read(file))
    pieces, scores, kinds = (list(column) for column in zip(*rows, strict=True))
    return _over_characters(pieces, scores, kinds, prefix=stored.add_dummy_prefix)


def _from_ranks(file: Path) -> dict[str, Any]:
    return _from_fields(json.loads(carried.in_json(file).inner.to_str()), file)


def _from_json(file: Path) -> dict[str, Any]:
    tokenizer = JsonTokenizer.read(file)
    whole, plain = (len(tokenizer.inner.encode("a", add_special_tokens=on).ids)
                    for on in (True, False))
    if whole - plain > tokenizer.adds_bos + tokenizer.adds_eos:
        warnings.warn(f"{file.name} puts {whole - plain} tokens around a text; llama.cpp will put "
                      "no others than bos and eos.", stacklevel=2)
    return _from_fields(json.loads(tokenizer.inner.to_str()), file)


def _from_gguf(file: Path) -> dict[str, Any]:
    found = gguf_header.read(file).fields
    n = n_pieces(found)
    kept = {name.removeprefix(FIELD): value for name, value in found.items()
            if name.startswith(FIELD) and name not in OF_ENDS}
    return kept | {name: kept[name][:n] for name in ("tokens", "token_type", "scores")
                   if name in kept}


DESCRIBERS = {"gguf": _from_gguf, "json": _from_json, "ranks": _from_ranks,
              "sentencepiece": _from_sentencepiece}


def _from_fields(stored: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """From a tokenizer.json, whose library has read it without complaint."""
    model, added = stored["model"], stored["added_tokens"]
    vocab = model["vocab"] | {token["content"]: token["id"] for token in added}
    if model["type"] != "BPE" or sorted(vocab.values()) != [*range(len(vocab))]:
        raise _foreign(file, f"it is of type {model['type']}, with {len(vocab)} pieces")
    if odd := next((name for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix")
                    if model.get(name)), None):
        raise _foreign(file, f"it has {odd} = {model[odd]!r:.40}")
    if odd := [token["content"] for token in added
               if token["lstrip"] or token["rstrip"] or token["single_word"]]:
        warnings.warn(f"{odd[0]} looks at its neighbours in {file.name}; llama.cpp may find it "
                      "where the tokenizer does not, or leave spaces beside it.", stacklevel=2)
    pieces = sorted(vocab, key=vocab.__getitem__)
    special = {token["content"]: CONTROL if token["special"] else USER_DEFINED for token in added}
    merges = [merge.split(" ") if type(merge) is str else merge for merge in model["merges"]]
    if not model["byte_fallback"]:
        return {"model": "gpt2", "pre": _cut(stored, file), "tokens": pieces,
                "token_type": [special.get(piece, NORMAL) for piece in pieces],
                "merges": [" ".join(merge) for merge in merges]}
    bytes_ = {f"<0x{byte:02X}>": BYTE for byte in range(256)}
    kinds = special | bytes_ | {model["unk_token"]: UNKNOWN}
    made = {"".join(merge): -float(rank) for rank, merge in reversed([*enumerate(merges)])}
    return _over_characters(pieces, [made.get(piece, -float(len(merges))) for piece in pieces],
                            [kinds.get(piece, NORMAL) for piece in pieces],
                            prefix=_begins_with_space(stored, file))


def _over_characters(pieces: list[str], scores: list[float], kinds: list[int], *, prefix: bool
                     ) -> dict[str, Any]:
    unknown = {"unknown_token_id": kinds.index(UNKNOWN)} if UNKNOWN in kinds else {}
    return {"model": "llama", "pre": "default", "tokens": pieces, "scores": scores,
            "token_type": kinds, "add_space_prefix": prefix} | unknown


def _cut(stored: Mapping[str, Any], file: Path) -> str:
    """What llama.cpp calls the way in which this tokenizer.json cuts a text into words."""
    rule, whole_words = stored["pre_tokenizer"] or {}, stored["model"]["ignore_merges"]
    steps = rule.get("pretokenizers", [rule])
    patterns = tuple(pattern for step in steps for pattern in _patterns(step, file))
    if stored["normalizer"] is not None:
        raise _foreign(file, f"it changes text by {str(stored['normalizer'])[:80]}")
    kinds = [step.get("type") for step in steps]
    if kinds.count("ByteLevel") == 1 and kinds[-1] == "ByteLevel":
        for name, how in CUTS.items():
            if (how.patterns, how.whole_words) == (patterns, whole_words):
                return name
    raise _foreign(file, f"it cuts text by {str(rule)[:80]}")


def _patterns(step: Mapping[str, Any], file: Path) -> list[str]:
    """The patterns by which one step of a tokenizer.json isolates words."""
    match step:
        case {"type": "ByteLevel", "add_prefix_space": False, "use_regex": own}:
            return [GPT2_PATTERN] if own else []
        case {"type": "Digits", "individual_digits": alone}:
            return [DIGIT if alone else DIGITS]
        case {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated",
              "invert": False}:
            return [pattern]
    raise _foreign(file, f"it cuts text by {str(step)[:80]}")


def _begins_with_space(stored: Mapping[str, Any], file: Path) -> bool:
    for normalizer, before, prefix in SPACINGS:
        if (stored["normalizer"], stored["pre_tokenizer"]) == (normalizer, before):
            if before is not None and prefix:
                warnings.warn(f"{file.name} puts no space before a text that begins with one"
                              + (", or that follows a special piece" * (
                                  before["prepend_scheme"] == "first"))
                              + "; llama.cpp does, so such texts are cut otherwise.", stacklevel=2)
            return prefix
    raise _foreign(file, f"it changes text by {str(stored['normalizer'])[:80]}")


def _foreign(file: Path, what: str) -> ValueError:
    return ValueError(f"{file} has a rule that a GGUF file cannot say: {what}. Write another "
                      "format, or convert with a tokenizer whose rules are those of a Llama.")
