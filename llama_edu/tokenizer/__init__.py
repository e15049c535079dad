"""Text to tokens and back. One interface for every vocabulary; no torch here."""

from collections.abc import Sequence
from pathlib import Path

from .base import Tokenizer
from .bpe import BytePairs
from .gguf import reader
from .json_file import JsonTokenizer
from .sentencepiece_bpe import SentencePieceTokenizer
from .sentencepiece_rebuilt import RebuiltSentencePiece
from .tiktoken_bpe import TiktokenTokenizer
from .vocabulary_files import kind

__all__ = ["BytePairs", "JsonTokenizer", "RebuiltSentencePiece", "SentencePieceTokenizer",
           "TiktokenTokenizer", "Tokenizer", "find", "load"]

READERS = {"gguf": reader.read, "json": JsonTokenizer.read, "ranks": TiktokenTokenizer.read,
           "sentencepiece": SentencePieceTokenizer.read, "tekken": TiktokenTokenizer.read_tekken}


def load(path: str | Path, *, stop_ids: Sequence[int] = ()) -> Tokenizer:
    """The tokenizer in a `tokenizer.json`, a `tokenizer.model`, a `tekken.json` or a GGUF file,
    or in a folder that has one of the first three.

    What the file holds decides, not its name: Llama 2's and Llama 3's `tokenizer.model` have
    nothing in common. Ranks are read with the special pieces of Llama 3.1 and later.
    stop_ids: tokens that end an answer, besides those of the vocabulary. Raises ValueError where
    there is no such file, and for one that is broken or of another kind.
    """
    file = find(Path(path))
    return READERS[kind(file)](file, stop_ids=tuple(stop_ids))


def find(path: Path) -> Path:
    """The file that `load` reads: this one, or the first in this folder that has a vocabulary.

    Raises ValueError where there is none.
    """
    names = ("tokenizer.json", "tokenizer.model", "tekken.json")
    files = [path / name for name in names] if path.is_dir() else [path]
    if found := next((file for file in files if file.is_file()), None):
        return found
    raise ValueError(f"there is no tokenizer at {str(files[0])!r}; a tokenizer.json or a "
                     "tokenizer.model is needed. Save the tokenizer into the model's folder.")
