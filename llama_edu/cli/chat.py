"""`llama-edu chat`: talk with a model until Ctrl-D."""

import argparse
from contextlib import suppress
from importlib import import_module
from typing import Any

from .. import prompts
from . import running


def add(commands: Any) -> None:
    talk = commands.add_parser("chat", help="talk with a model; without --model, the one that "
                                            "tells tales goes on with what you type")
    talk.add_argument("--model", default="tales", metavar="MODEL", help="as for generate")
    talk.add_argument("--format", type=str.lower, choices=prompts.FORMATS,
                      help="how the model was taught to see a dialog, where its files do not say "
                           "it; completion for a base model")
    talk.add_argument("--system", default="", metavar="TEXT", help="what it is told first")
    talk.add_argument("--max-new", type=int, default=512, metavar="N",
                      help="tokens of an answer at most, 512 without it")
    running.add_options(talk, temperature=0.6, top_p=0.9)
    talk.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Talk, in the format that the files name or the options. Raises ValueError where none does."""
    with suppress(ImportError):         # without it, input() has no arrow keys
        import_module("readline")
    model, tokenizer, form, rules, generator = running.load(options)
    if form is None and options.model != "tales":
        raise ValueError("--model was given without --format, and the files of this model do not "
                         "say how it was taught to talk. Add --format and one of "
                         f"{', '.join(prompts.FORMATS)}.")
    from ..inference import talk
    if form is not None and options.format is None:
        print(f"The model's files name the format {form.name}; --format takes another.")
    talk.run(model, tokenizer, form or prompts.named("completion"), read_line=input,
             write=lambda text: print(text, end="", flush=True), system=options.system,
             max_new=options.max_new, rules=rules, generator=generator)
