"""`llama-edu generate`: let a model go on with a text."""

import argparse
import sys
from typing import Any

from .. import prompts
from . import running
from .say import say

MOST = 200          # new tokens, where nobody says how many


def add(commands: Any) -> None:
    generate = commands.add_parser("generate", help="let a model go on with a text")
    generate.add_argument("text", nargs="+",
                          help="what to go on with; words are joined; - reads it from stdin")
    generate.add_argument("--model", default="tales", metavar="MODEL",
                          help="a folder, a .gguf file, smollm2, or the id of a model on the hub; "
                               "without it, the model that tells tales")
    generate.add_argument("--format", type=str.lower, choices=prompts.FORMATS,
                          help="take the text for what a user says, in this format; without it, "
                               "in the one that the model's files name")
    generate.add_argument("--max-new", type=int, default=MOST, metavar="N",
                          help=f"tokens at most, {MOST} without it; it ends with the context too")
    running.add_options(generate, temperature=0.0, top_p=1.0)
    generate.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Stream to stdout what follows the text, the text before it; or the answer to it alone.

    Raises ValueError for a text that cannot be gone on with.
    """
    text = _text(options.text)
    model, tokenizer, form, rules, generator = running.load(options)
    from ..generation import begun, room_for
    from ..inference.talk import Speaker
    if form is None or form.one_text:
        ids, before, stops = begun(tokenizer, text), text, tokenizer.stop_ids
    else:
        ids = prompts.dialog_tokens([prompts.Message("user", text)], tokenizer, form).ids
        before, stops = "", prompts.stop_ids(tokenizer, form)
    if not ids:
        raise ValueError("the text is empty, and texts of this model begin with no token of their "
                         "own; one word or more is needed. Type some.")
    max_new = room_for(options.max_new, model, ids)
    speaker = Speaker(model, tokenizer, stops, rules, generator)
    pieces = speaker.pieces(ids, max_new)
    print(before, next(pieces, ""), sep="", end="", flush=True)     # or fail before it
    for piece in pieces:
        print(piece, end="", flush=True)
    print(flush=True)
    if not speaker.stopped:
        full = len(ids) + max_new >= model.config.max_seq_len
        say(f"cut after {max_new} tokens: " + (
            f"the context of {model.config.max_seq_len:,} tokens is full." if full else
            "--max-new N allows more."))


def _text(words: list[str]) -> str:
    """The words as one text; what stdin holds for a single "-", without its last line end. Raises
    ValueError for what is not UTF-8."""
    try:
        if words != ["-"]:
            return " ".join(words).encode().decode()
        read = sys.stdin.buffer.read() if sys.stdin else b""
        return read.decode("utf-8-sig").removesuffix("\n").removesuffix("\r")
    except UnicodeError:
        raise ValueError("the text has bytes that are not UTF-8; text in UTF-8 is needed. Save it "
                         "as UTF-8 and give it through a pipe: llama-edu generate - < FILE"
                         ) from None
