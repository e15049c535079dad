"""A vocabulary of any kind in a `tokenizer.json`, the form that everybody reads."""

import json
from collections.abc import Mapping, Sequence

import tokenizers
from tokenizers import decoders, models, normalizers

from .base import Tokenizer
from .bpe import BytePairs
from .json_file import JsonTokenizer, add_ends, add_pieces, over_bytes
from .vocabulary_files import CONTROL, NORMAL, UNKNOWN, USER_DEFINED


def to_json(tokenizer: BytePairs) -> JsonTokenizer:
    """The same vocabulary on the `tokenizers` library: the same tokens, some hundred times faster.

    Special pieces must have the highest tokens, as `BytePairs.train` gives them, or a ValueError
    is raised.
    """
    vocab = {_spell(piece): token for piece, token in tokenizer.ranks.items()}
    if [*tokenizer.special.values()] != [*range(len(vocab), tokenizer.n_vocab)]:
        raise ValueError(f"special pieces have the tokens {[*tokenizer.special.values()]}; those "
                         f"after the last of {len(vocab)} pieces are needed, in order. "
                         "Number them so.")
    inner = over_bytes(vocab, _merges(tokenizer.ranks), patterns=[tokenizer.pattern],
                       whole_words=True)
    add_pieces(inner, tokenizer.special, ())
    add_ends(inner, tokenizer.bos_id, None)
    return JsonTokenizer(inner, tokenizer.bos_id, tokenizer.eos_id, tokenizer.stop_ids)


def over_characters(rows: Sequence[tuple[str, float, int]], tokenizer: Tokenizer, *, prefix: bool
                    ) -> JsonTokenizer:
    """Pieces over characters with their scores and kinds, on the `tokenizers` library.

    tokenizer: the same one; it says what begins and ends a text. prefix: whether a text sees one
    more space before it.
    """
    vocab = {piece: i for i, (piece, _, _) in enumerate(rows)}
    unknown = next((piece for piece, _, kind in rows if kind == UNKNOWN), None)
    inner = tokenizers.Tokenizer(models.BPE(
        vocab, _merges_by_score(rows), unk_token=unknown, fuse_unk=True, byte_fallback=True))
    steps = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    inner.normalizer = normalizers.Sequence(steps) if prefix else steps[1]
    strip = [decoders.Strip(content=" ", left=1)] if prefix else []
    inner.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(),
                                       decoders.Fuse(), *strip])
    add_pieces(inner, (piece for piece, _, kind in rows if kind in (CONTROL, UNKNOWN)),
               (piece for piece, _, kind in rows if kind == USER_DEFINED))
    inner.encode_special_tokens = True
    add_ends(inner, tokenizer.bos_id if tokenizer.adds_bos else None,
             tokenizer.eos_id if tokenizer.adds_eos else None)
    return JsonTokenizer(inner, tokenizer.bos_id, tokenizer.eos_id, tokenizer.stop_ids)


def files(tokenizer: JsonTokenizer, *, templates: Mapping[str, str] | None = None,
          pad: str | None = None) -> dict[str, bytes]:
    """What `tokenizer.json` and, for the pieces that begin, end and fill up a text and the ways to
    render a dialog, `tokenizer_config.json` must hold."""
    ends = {"bos_token": tokenizer.bos_id, "eos_token": tokenizer.eos_id}
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False,
              "add_bos_token": tokenizer.adds_bos, "add_eos_token": tokenizer.adds_eos}
    config |= {name: tokenizer.inner.id_to_token(i) for name, i in ends.items() if i is not None}
    config |= {} if pad is None else {"pad_token": pad}
    if templates and [*templates] == ["default"]:
        config["chat_template"] = templates["default"]
    elif templates:
        config["chat_template"] = [{"name": name, "template": text}
                                   for name, text in templates.items()]
    return {"tokenizer.json": tokenizer.inner.to_str(pretty=True).encode(),
            "tokenizer_config.json": json.dumps(config, indent=1).encode()}


def _merges_by_score(rows: Sequence[tuple[str, float, int]]) -> list[tuple[str, str]]:
    """Every pair of pieces that makes a piece, the best score first."""
    scores = {piece: score for piece, score, kind in rows if kind == NORMAL}
    return [(piece[:cut], piece[cut:])
            for piece in sorted(scores, key=scores.__getitem__, reverse=True)
            for cut in range(1, len(piece)) if piece[:cut] in scores and piece[cut:] in scores]


def _merges(ranks: dict[bytes, int]) -> list[tuple[str, str]]:
    """Every pair of pieces that makes a piece, the lowest rank first."""
    return [(_spell(piece[:cut]), _spell(piece[cut:]))
            for piece in sorted(ranks, key=ranks.__getitem__) for cut in range(1, len(piece))
            if piece[:cut] in ranks and piece[cut:] in ranks]


def _letters() -> dict[int, str]:
    """A visible letter for every byte: itself where it has one, else one from U+0100 on.

    The files of GPT-2 began this, and every byte-level `tokenizer.json` follows.
    """
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in visible]
    return {byte: chr(byte) for byte in visible} | {
        byte: chr(0x100 + i) for i, byte in enumerate(others)}


LETTERS = _letters()


def _spell(piece: bytes) -> str:
    return "".join(map(LETTERS.__getitem__, piece))
