"""The files of a tokenizer, to be carried along when its model is written elsewhere."""

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..formats.gguf.header import read as read_header
from ..formats.whole_files import inside, read_whole
from . import find, json_made, load
from .base import beside, named
from .bpe import BytePairs
from .gguf.reader import FIELD, PAD, begins_with_space, rows
from .json_file import JsonTokenizer
from .sentencepiece_bpe import SentencePieceTokenizer
from .sentencepiece_rebuilt import check_rules
from .tiktoken_bpe import TiktokenTokenizer
from .vocabulary_files import CONTROL, MAX_BYTES, kind, read_sentencepiece

CONFIG, JINJA = "tokenizer_config.json", "chat_template.jinja"
NAMES = ("tokenizer.json", "tokenizer.model", CONFIG, "special_tokens_map.json", "tekken.json",
         "added_tokens.json", JINJA)
BESIDE = NAMES[2:4] + NAMES[5:]         # of a vocabulary
NAME_OF = {"json": "tokenizer.json", "tekken": "tekken.json"}      # all others: tokenizer.model
TEMPLATE = "tokenizer.chat_template"    # the field of a GGUF file


def files(path: Path) -> dict[str, bytes]:
    """What lies in a folder or a file of a tokenizer, under the names by which `load` finds it.

    Files stay as they are. What a GGUF file says of its tokenizer becomes files of its own.
    Raises ValueError for a file that has no vocabulary, for a GGUF file with one that is broken,
    and for a link that leads out of the folder.
    """
    if path.is_dir():
        return _in_folder(path, NAMES)
    if (stored := kind(path)) != "gguf":
        return _in_folder(path.parent, BESIDE) | {
            NAME_OF.get(stored, "tokenizer.model"): read_whole(path, most=MAX_BYTES)}
    tokenizer, said = load(path), {"templates": templates(path), "pad": pad(path)}
    if type(tokenizer) is JsonTokenizer:
        return json_made.files(tokenizer, **said)
    fields = read_header(path).fields
    same = json_made.over_characters(rows(fields), tokenizer, prefix=begins_with_space(fields))
    return json_made.files(same, **said) | {
        "tokenizer.model": tokenizer.inner.serialized_model_proto()}


def _in_folder(folder: Path, names: Sequence[str]) -> dict[str, bytes]:
    return {name: read_whole(file, most=MAX_BYTES) for name in names
            if (file := inside(folder, name)).is_file()}


def files_for_transformers(path: Path) -> dict[str, bytes]:
    """The same files, and beside a `tokenizer.model` that stands alone a `tokenizer.json` of the
    same tokens: `transformers` knows no special pieces of Llama 3's, and cannot read Llama 2's
    without one more package. Raises ValueError as `files` does."""
    found = files(path)
    if "tokenizer.model" not in found or "tokenizer.json" in found:
        return found
    with suppress(ValueError):      # rules that no Llama has: the file goes alone
        made = json_made.files(in_json(find(path)), templates=templates(path), pad=pad(path))
        config = json.loads(found.get(CONFIG, b"{}")) | json.loads(made[CONFIG])
        return found | made | {CONFIG: json.dumps(config, indent=1).encode()}
    return found


def in_json(file: Path) -> JsonTokenizer:
    """The tokens of a `tokenizer.model`, on the library of `tokenizer.json`. Raises ValueError for
    rules that no Llama has."""
    tokenizer = load(file)
    if type(tokenizer) is TiktokenTokenizer:
        return json_made.to_json(BytePairs(tokenizer.ranks, special=tokenizer.special))
    stored = read_sentencepiece(file)
    check_rules(stored, own_pieces=True)
    return json_made.over_characters(with_added(stored.pieces, tokenizer), tokenizer,
                                     prefix=stored.add_dummy_prefix)


def with_added(pieces: list[tuple[str, float, int]], tokenizer: SentencePieceTokenizer
               ) -> list[tuple[str, float, int]]:
    """These pieces with their scores and kinds, and the special ones that were put behind them."""
    added = {i: piece for piece, i in tokenizer.special.items() if i >= len(pieces)}
    return [*pieces, *((added[i], 0.0, CONTROL) for i in sorted(added))]


def templates(path: Path) -> dict[str, str]:
    """How a dialog is rendered for this model, in Jinja: "default", and perhaps others by name.

    They stand in a file of their own, in tokenizer_config.json, or in the fields of a GGUF file.
    Raises ValueError for a file that cannot be read, or holds something else there.
    """
    if not path.is_dir() and kind(path) == "gguf":
        fields = read_header(path).fields
        found = {name.removeprefix(TEMPLATE).removeprefix(".") or "default": text
                 for name, text in fields.items()
                 if name == TEMPLATE or name.startswith(TEMPLATE + ".")}
        return _checked(found, path)
    folder = path if path.is_dir() else path.parent
    found = beside(folder / CONFIG, CONFIG).get("chat_template") or {}
    if type(found) is list:
        found = {row.get("name"): row.get("template") for row in found if type(row) is dict}
    found = {"default": found} if type(found) is str else found
    if (file := folder / JINJA).is_file():
        try:
            found = found | {"default": read_whole(file, most=MAX_BYTES).decode()}
        except UnicodeDecodeError:
            raise ValueError(f"{file} is not UTF-8; a text is needed. Download it again.") from None
    return _checked(found, folder / CONFIG)


def pad(path: Path) -> str | None:
    """The piece that fills up shorter texts; None where the files name none. Raises ValueError for
    a file that cannot be read."""
    if not path.is_dir() and kind(path) == "gguf":
        fields = read_header(path).fields
        token, pieces = fields.get(PAD), fields[FIELD + "tokens"]
        return pieces[token] if type(token) is int and 0 <= token < len(pieces) else None
    folder = path if path.is_dir() else path.parent
    piece = named(beside(folder / CONFIG, CONFIG).get("pad_token"))
    return piece if type(piece) is str else None


def _checked(found: Any, file: Path) -> dict[str, str]:
    if type(found) is not dict or not all(type(each) is str for row in found.items()
                                          for each in row):
        raise ValueError(f"{file} has {str(found):.60} as its chat template; a text is needed, or "
                         "texts by name. Download it again.")
    return found
