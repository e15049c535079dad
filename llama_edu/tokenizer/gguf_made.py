"""What a GGUF file must say of a vocabulary, so that llama.cpp cuts a text as we do."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..formats.gguf import header as gguf_header
from . import Tokenizer, find, load
from .bpe import BytePairs
from .gguf_file import CUTS, ENDS, FIELD, GPT2_PATTERN, n_pieces
from .json_file import JsonTokenizer
from .json_made import to_json
from .sentencepiece_rebuilt import RebuiltSentencePiece
from .tiktoken_bpe import TiktokenTokenizer
from .vocabulary_files import BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED, kind

BOS, ADD_BOS, ADD_EOS = (FIELD + name for name in (
    "bos_token_id", "add_bos_token", "add_eos_token"))
OF_ENDS = {*ENDS, BOS, ADD_BOS, ADD_EOS}

# How a tokenizer.json over characters writes spaces (its normalizer, its pre_tokenizer), and
# whether a text begins with one more.
SPACES = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
ONE_MORE = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, SPACES]}
SPACINGS = (
    (ONE_MORE, None, True), (SPACES, None, False),
    *((None, {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": False},
       scheme != "never") for scheme in ("first", "always", "never")),
)


def fields(path: Path, *, vocab_size: int, stop_ids: Sequence[int]) -> dict[str, Any]:
    """The fields that describe the tokenizer at `path`, filled up to the embedding's rows.

    stop_ids: tokens that end an answer; a GGUF file has room for three. Raises ValueError for a
    vocabulary that GGUF cannot say, or that is larger than the embedding.
    """
    file = find(path)
    if (stored := kind(file)) not in DESCRIBERS:
        raise ValueError(f"{file} is a vocabulary of kind {stored!r}; one of "
                         f"{', '.join(DESCRIBERS)} is needed for a GGUF file. Take another model.")
    tokenizer = load(file)
    if tokenizer.n_vocab > vocab_size:
        raise ValueError(f"the tokenizer in {path} knows {tokenizer.n_vocab} tokens; the model's "
                         f"embedding has {vocab_size} rows. They belong to two models.")
    described = {FIELD + name: value for name, value in DESCRIBERS[stored](file).items()}
    return _filled_up(described, vocab_size) | _ends(tokenizer, stop_ids)


def _filled_up(described: Mapping[str, Any], n: int) -> dict[str, Any]:
    """The same lists, as long as the embedding: llama.cpp wants a piece for every row."""
    lists = {"tokens": "[PAD{}]", "token_type": UNUSED, "scores": 0.0}
    filled = dict(described)
    for name in {*lists} & {key.removeprefix(FIELD) for key in described}:
        given = described[FIELD + name]
        more = [lists[name]] * (n - len(given))
        filled[FIELD + name] = given + [row.format(i) if name == "tokens" else row
                                        for i, row in enumerate(more, len(given))]
    return filled


def _ends(tokenizer: Tokenizer, stop_ids: Sequence[int]) -> dict[str, Any]:
    """The tokens that begin a text and that end an answer."""
    given = (tokenizer.eos_id, *stop_ids, *sorted(tokenizer.stop_ids))
    stops = [i for i in dict.fromkeys(given) if i is not None]
    if len(stops) > len(ENDS):
        raise ValueError(f"{len(stops)} tokens end an answer: {stops}; a GGUF file has room for "
                         f"{len(ENDS)}. Name fewer in generation_config.json.")
    begins = {} if tokenizer.bos_id is None else {BOS: tokenizer.bos_id}
    return dict(zip(ENDS, stops, strict=False)) | begins | {
        ADD_BOS: tokenizer.bos_id is not None, ADD_EOS: False}


# -- each kind of vocabulary file ------------------------------------------------------------------


def _from_sentencepiece(file: Path) -> dict[str, Any]:
    stored = RebuiltSentencePiece.read(file).file       # refuses rules that no Llama has
    pieces, scores, kinds = (list(column) for column in zip(*stored.pieces, strict=True))
    return _over_characters(pieces, scores, kinds, prefix=stored.add_dummy_prefix)


def _from_ranks(file: Path) -> dict[str, Any]:
    tokenizer = TiktokenTokenizer.read(file)
    same = to_json(BytePairs(tokenizer.ranks, special=tokenizer.special))
    return _from_fields(json.loads(same.inner.to_str()), file)


def _from_json(file: Path) -> dict[str, Any]:
    return _from_fields(json.loads(JsonTokenizer.read(file).inner.to_str()), file)


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
    pattern = GPT2_PATTERN if steps[-1].get("use_regex") else None
    if len(steps) == 2 and steps[0].get("behavior") == "Isolated" and not steps[0]["invert"]:
        pattern = steps[0]["pattern"].get("Regex")
    for name, known in CUTS.items():
        if known == (pattern, whole_words) and steps[-1]["type"] == "ByteLevel" and (
                not steps[-1]["add_prefix_space"] and stored["normalizer"] is None):
            return name
    raise _foreign(file, f"it cuts text by {str(rule)[:80]}")


def _begins_with_space(stored: Mapping[str, Any], file: Path) -> bool:
    for normalizer, before, prefix in SPACINGS:
        if (stored["normalizer"], stored["pre_tokenizer"]) == (normalizer, before):
            return prefix
    raise _foreign(file, f"it changes text by {str(stored['normalizer'])[:80]}")


def _foreign(file: Path, what: str) -> ValueError:
    return ValueError(f"{file} has rules that no Llama has: {what}. A GGUF file needs the "
                      "tokenizer of Llama 2 or Llama 3; convert with one of these.")
