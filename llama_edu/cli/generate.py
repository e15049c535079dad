"""`llama-edu generate`: let a model go on with a text."""

import argparse
import sys
from typing import TYPE_CHECKING, Any

from .. import prompts
from . import running
from .say import say

if TYPE_CHECKING:
    from ..model import Llama
    from ..tokenizer import Tokenizer

MOST = 200          # new tokens, where nobody says how many
AHEAD = 4           # guesses of a draft


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
    drafts = generate.add_mutually_exclusive_group()
    drafts.add_argument("--draft", metavar="MODEL",
                        help="a smaller model of the same vocabulary that guesses ahead; what is "
                             "said is as likely as without it, and may come sooner")
    drafts.add_argument("--draft-layers", type=int, metavar="N",
                        help="the model's own first N layers as the draft")
    generate.add_argument("--ahead", type=int, metavar="N",
                          help=f"tokens that the draft guesses at a time, {AHEAD} without it")
    running.add_options(generate, temperature=0.0, top_p=1.0)
    generate.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Stream to stdout what follows the text, the text before it; or the answer to it alone.

    Raises ValueError for a text that cannot be gone on with.
    """
    text = _text(options.text)
    model, tokenizer, form, rules, generator = running.load(options)
    from ..generation import begun, room_for
    from ..inference.talk import Speaker, SpeakerWithDraft
    if form is None or form.one_text:
        ids, before, stops = begun(tokenizer, text), text, tokenizer.stop_ids
    else:
        ids = prompts.dialog_tokens([prompts.Message("user", text)], tokenizer, form).ids
        before, stops = "", prompts.stop_ids(tokenizer, form)
    if not ids:
        raise ValueError("the text is empty, and texts of this model begin with no token of their "
                         "own; one word or more is needed. Type some.")
    max_new = room_for(options.max_new, model, ids)
    draft = _draft(options, model, tokenizer, text)
    parts = model, tokenizer, stops, rules, generator
    speaker = Speaker(*parts) if draft is None else SpeakerWithDraft(
        *parts, draft=draft, ahead=AHEAD if options.ahead is None else options.ahead)
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
    if draft is not None:
        say(f"the draft guessed {speaker.guessed} tokens, of which {speaker.kept} "
            f"({speaker.kept / max(speaker.guessed, 1):.0%}) were kept.")


def _draft(options: argparse.Namespace, model: "Llama", tokenizer: "Tokenizer", text: str
           ) -> "Llama | None":
    """The model that guesses ahead, where one is asked for. Raises ValueError where it cannot be
    had, for one that cuts this text differently, and for --ahead without one."""
    if options.draft_layers is not None:
        from ..inference.speculative import early_exit
        return early_exit(model, options.draft_layers)
    if options.draft is None:
        if options.ahead is not None:
            raise ValueError(f"--ahead {options.ahead} was given without a draft; one is needed to "
                             "guess. Add --draft MODEL or --draft-layers N.")
        return None
    from ..checkpoint import load_tokenizer, open_source
    from ..inference.decoding import DecodingLlama
    source = open_source(options.draft, tokenizer=options.tokenizer)
    if load_tokenizer(source, options.draft).encode(text) != tokenizer.encode(text):
        raise ValueError(f"the draft {options.draft!r} cuts this text into other tokens than the "
                         "model; one vocabulary is needed. Choose a draft of the same family.")
    return DecodingLlama(running.read(source, options))


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
