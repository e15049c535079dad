"""From ranks to a `tokenizer.json`: our own vocabulary in the form that everybody reads."""

import json

import tokenizers
from tokenizers import processors

from .bpe import BytePairs
from .json_file import JsonTokenizer, over_bytes


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
    inner = over_bytes(vocab, _merges(tokenizer.ranks), pattern=tokenizer.pattern, whole_words=True)
    inner.add_special_tokens([tokenizers.AddedToken(piece, special=True, normalized=False)
                              for piece in tokenizer.special])
    if tokenizer.bos_id is not None:
        bos = inner.id_to_token(tokenizer.bos_id)
        inner.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, tokenizer.bos_id)])
    return JsonTokenizer(inner, tokenizer.bos_id, tokenizer.eos_id, tokenizer.stop_ids)


def files(tokenizer: JsonTokenizer) -> dict[str, bytes]:
    """What `tokenizer.json` and, for the pieces that begin and end a text,
    `tokenizer_config.json` must hold."""
    ends = {"bos_token": tokenizer.bos_id, "eos_token": tokenizer.eos_id}
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    config |= {name: tokenizer.inner.id_to_token(i) for name, i in ends.items() if i is not None}
    return {"tokenizer.json": tokenizer.inner.to_str(pretty=True).encode(),
            "tokenizer_config.json": json.dumps(config, indent=1).encode()}


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
