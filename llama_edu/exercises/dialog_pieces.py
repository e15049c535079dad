"""Dialogs as lists of words, one a token, for the exercises on what is learnt of a dialog."""

from collections.abc import Iterable, Sequence
from typing import Any

from ..prompts.llama3 import BEGIN, EOT

START, END, GAP = "<|start_header_id|>", "<|end_header_id|>", "\n\n"
WORDS = "tell", "me", "of", "a", "red", "fox", "who", "lost", "it"


class Words:
    """A tokenizer whose tokens are the words themselves, between spaces."""

    def encode(self, text: str, **_: Any) -> list[str]:
        return text.split(" ") if text else []


def pieces_of(talk: Iterable[tuple[str, Sequence[str]]]) -> list[str]:
    """A dialog of (role, words) in Llama 3's format."""
    return [BEGIN, *(piece for role, words in talk
                     for piece in (START, role, END, GAP, *words, EOT))]
