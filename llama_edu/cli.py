"""The command `llama-edu`."""

import argparse
import os
import sys
import warnings
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

# Without torch, which takes seconds: a command imports what it needs when it runs.
from . import __version__, claims, prompts
from .family import accounting
from .family.card import card, files_card
from .family.releases import RELEASES, release
from .training.recipe import DTYPES

FORMATS, KINDS = ("hf", "meta", "gguf"), (*DTYPES, "q8_0")      # of `formats.convert`


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 when it worked, 2 with one sentence on stderr when it could not. A
    command that checks something gives 1 where it is not so."""
    options = _parser().parse_args(arguments)
    try:
        code = options.run(options) or 0
        if sys.stdout is not None:      # which it is where it was closed before the start
            sys.stdout.flush()          # or a closed pipe would show only after the end
        return code
    except BrokenPipeError:     # the reader had enough
        _write_no_more()
        return 0
    except UnicodeEncodeError as odd:
        reason = (f"{odd.object[odd.start]!r} cannot be written in {odd.encoding}, which this "
                  "terminal asks for; UTF-8 is needed. Set PYTHONIOENCODING=utf-8.")
    except OSError as refused:
        reason = (f"{refused.filename or 'the output'} was refused ({refused.strerror}); a place "
                  "that can be written, with room on its disk, is needed. Choose another.")
        _write_no_more()
    except (ValueError, KeyError, FloatingPointError) as error:
        reason = error.args[0]
    except KeyboardInterrupt:
        return 130
    print(f"llama-edu: {reason}", file=sys.stderr)
    return 2


def _write_no_more() -> None:
    """Let what is still in the buffer of stdout go nowhere, or its flush would fail at the end."""
    with suppress(OSError, ValueError, AttributeError):  # a stdout that is no file has no such end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("llama-edu", description="The Llama family, from scratch.")
    parser.add_argument("--version", action="version", version=f"llama-edu {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for add in (_add_info, _add_check_claims, _add_generate, _add_chat, _add_convert, _add_train):
        add(commands)
    shown = commands.add_parser("progress", help="which exercises are solved")
    shown.set_defaults(run=_progress)
    return parser


def _add_info(commands: Any) -> None:
    info = commands.add_parser("info", help="the numbers of a release, or of a model in files")
    info.add_argument("name", nargs="?", help="such as llama-3.1-8b, a folder or a .gguf file; "
                                              "without it, all releases")
    info.set_defaults(run=_info)


def _add_check_claims(commands: Any) -> None:
    check = commands.add_parser("check-claims", help="recompute what is said of the Llamas")
    check.add_argument("id", nargs="?", help="one claim in full, such as A06")
    check.add_argument("--writeup", metavar="LETTER", help="only claims of this write-up: A to E; "
                                                           "T, traps; S, slips")
    check.add_argument("--verdict", choices=claims.VERDICTS)
    check.add_argument("--chapter", metavar="NN", help="only claims that this chapter decides")
    check.set_defaults(run=_check_claims)


def _add_generate(commands: Any) -> None:
    generate = commands.add_parser("generate", help="let a model go on with a text")
    generate.add_argument("text")
    generate.add_argument("--model", default="tales", metavar="MODEL",
                          help="a folder, a .gguf file, smollm2, or the id of a model on the hub; "
                               "without it, the model that tells tales")
    generate.add_argument("--format", choices=prompts.FORMATS,
                          help="take the text for what a user says, in this format; without it, "
                               "in the one that the model's files name")
    generate.add_argument("--max-new", type=int, metavar="N",
                          help="tokens at most; without it 200, or what the context has room for")
    _add_running(generate, temperature=0.0, top_p=1.0)
    generate.set_defaults(run=_generate)


def _add_chat(commands: Any) -> None:
    talk = commands.add_parser("chat", help="talk with a model; without --model, the one that "
                                            "tells tales goes on with what you type")
    talk.add_argument("--model", metavar="MODEL", help="as for generate")
    talk.add_argument("--format", choices=prompts.FORMATS,
                      help="how the model was taught to see a dialog, where its files do not say "
                           "it; completion for a base model")
    talk.add_argument("--system", default="", metavar="TEXT", help="what it is told first")
    talk.add_argument("--max-new", type=int, default=512, metavar="N",
                      help="tokens of an answer at most, 512 without it")
    _add_running(talk, temperature=0.6, top_p=0.9)
    talk.set_defaults(run=_chat)


def _add_convert(commands: Any) -> None:
    made = commands.add_parser("convert", help="write a model in another format")
    made.add_argument("source", metavar="FROM", help="a folder, a .gguf file or a hub id")
    made.add_argument("target", metavar="TO", help="a folder, or a .gguf file, that is not there")
    made.add_argument("--format", choices=FORMATS, required=True)
    made.add_argument("--shards", type=int, default=1, metavar="N", help="files of weights")
    made.add_argument("--dtype", choices=KINDS,
                      help="without it, as the matrices are; quantised ones become float32")
    made.add_argument("--tokenizer", metavar="PATH", help="its files, if not beside the model's")
    made.set_defaults(run=_convert)


def _add_train(commands: Any) -> None:
    train = commands.add_parser("train", help="train a model as a recipe says; go on if stopped")
    train.add_argument("recipe", metavar="CONFIG.toml")
    train.set_defaults(run=_train)


def _add_running(command: argparse.ArgumentParser, *, temperature: float, top_p: float) -> None:
    """What `generate` and `chat` share: how a token is picked, and where the model runs."""
    command.add_argument("--temperature", type=float, default=temperature, metavar="T",
                         help=f"{temperature:g} without it; 0 takes the likeliest token always")
    command.add_argument("--top-p", type=float, default=top_p, metavar="P",
                         help=f"{top_p:g} without it")
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--tokenizer", metavar="PATH", help="its files, if not beside the model's")
    command.add_argument("--device", default="cpu")
    command.add_argument("--dtype", choices=DTYPES, default="float32")


def _info(options: argparse.Namespace) -> None:
    if options.name is None:
        for r in RELEASES:
            print(f"{r.id:32}{accounting.parameters(r.config).total:>18,} parameters")
    elif Path(options.name).exists() or options.name in ("tales", "smollm2"):
        print(_files(options.name))
    elif "/" in options.name or os.sep in options.name:
        raise ValueError(f"there is no folder or file {options.name!r}; one with a model, or the "
                         "name of a release, is needed. Check the path.")
    else:
        print(card(release(options.name)))


def _files(path: str) -> str:
    """What the files of a model say; no tensor is read."""
    from .checkpoint import open_source
    source = open_source(path)
    stored = sorted({str(w.dtype).removeprefix("torch.") for w in source.tensors.values()})
    return files_card(path, source.config, {
        "tensors": f"{len(source.tensors)}, read as {' and '.join(stored)}",
        "tokenizer": "none" if source.tokenizer is None else "yes",
        "an answer ends at": ", ".join(map(str, source.stop_ids)) or "what the tokenizer says"})


def _progress(options: argparse.Namespace) -> None:
    from .exercises import progress
    print(progress())


def _loaded(options: argparse.Namespace, path: str) -> tuple[Any, Any, Any, Any, Any]:
    """The model, laid out for decoding, its tokenizer, the format of its dialogs (None where
    nobody says it), and how tokens are to be picked: rules and a source of random numbers."""
    import torch

    from .checkpoint import load_tokenizer, open_source, read_model
    from .generation import seeded
    from .inference.decoding import DecodingLlama
    from .sampling import usual_rules
    from .tokenizer.carried import templates
    rules = usual_rules(options.temperature, options.top_p)
    try:
        there = torch.zeros(1, device=options.device)
        there.item()
    except (RuntimeError, AssertionError, NotImplementedError):  # as torch's build decides
        raise ValueError(f"device {options.device!r} cannot be used on this machine; cpu always "
                         "can, cuda and mps where there is one. Leave --device out.") from None
    generator = seeded(options.seed, there)
    source = open_source(path, tokenizer=options.tokenizer)
    tokenizer = load_tokenizer(source, path)
    form = prompts.of_template(templates(source.tokenizer).get("default", ""))
    if options.format is not None:
        form = prompts.named(options.format)
    model = read_model(source, options.device, getattr(torch, options.dtype))
    return DecodingLlama(model), tokenizer, form, rules, generator


def _chat(options: argparse.Namespace) -> None:
    """Talk until Ctrl-D."""
    with suppress(ImportError):         # without it, input() has no arrow keys
        import_module("readline")
    model, tokenizer, form, rules, generator = _loaded(options, options.model or "tales")
    if form is None and options.model is not None:
        raise ValueError("--model was given without --format, and the files of this model do not "
                         "say how it was taught to talk. Add one of "
                         f"{', '.join(prompts.FORMATS)}.")
    from .inference import talk
    talk.run(model, tokenizer, form or prompts.named("completion"), read_line=input,
             write=lambda text: print(text, end="", flush=True), system=options.system,
             max_new=options.max_new, rules=rules, generator=generator)


def _check_claims(options: argparse.Namespace) -> int:
    """Print the table, or one claim in full; 1 where a computed value is not the expected one."""
    if options.id is not None:
        boxes = claims.show(options.id)
        print(boxes)
        return int(any(box.outcome.agrees is False for box in boxes.boxes))
    chosen = claims.select(writeup=options.writeup, verdict=options.verdict,
                           chapter=options.chapter)
    if not chosen:
        raise ValueError("no claim fits all that was asked; write-ups are A to E, T and S, "
                         "chapters two digits such as 03. Leave a filter out.")
    from tqdm import tqdm
    outcomes = {claim: claims.recompute(claim) for claim in tqdm(chosen, disable=None)}
    print(claims.report(outcomes))
    return int(any(outcome.agrees is False for outcome in outcomes.values()))


def _generate(options: argparse.Namespace) -> None:
    """Stream to stdout what follows the text, the text before it; or the answer to it alone."""
    model, tokenizer, form, rules, generator = _loaded(options, options.model)
    from .generation import begun, room_for
    from .inference.talk import Speaker
    if form is None or form.one_text:
        ids = begun(tokenizer, options.text)
        before, stops = options.text, tokenizer.stop_ids
    else:
        ids = prompts.dialog_tokens([prompts.Message("user", options.text)], tokenizer, form).ids
        before, stops = "", prompts.stop_ids(tokenizer, form)
    max_new = room_for(200, model, ids) if options.max_new is None else options.max_new
    pieces = Speaker(model, tokenizer, stops, rules, generator).pieces(ids, max_new)
    print(before, next(pieces, ""), sep="", end="", flush=True)     # or fail before it
    for piece in pieces:
        print(piece, end="", flush=True)
    print()


def _convert(options: argparse.Namespace) -> None:
    """Convert, with a bar on stderr in a terminal, and what gets lost; the outcome on stdout."""
    from tqdm import tqdm

    from .formats.convert import convert
    with warnings.catch_warnings(record=True) as lost, tqdm(unit="tensor", disable=None) as bar:
        warnings.simplefilter("always", UserWarning)
        convert(options.source, options.target, format=options.format,
                shards=options.shards, dtype=options.dtype, tokenizer=options.tokenizer,
                after_each=bar.update)
    for each in lost:
        print(f"llama-edu: {each.message}", file=sys.stderr)
    print(f"{options.target} is written.")


def _train(options: argparse.Namespace) -> None:
    """Train, or go on after a kill; a bar on stderr in a terminal, the outcome on stdout."""
    from tqdm import tqdm

    from .training import recipe
    from .training.run import Run
    run = Run(recipe.read(options.recipe))
    for refused in run.resume():
        print(f"llama-edu: {refused}", file=sys.stderr)
    if run.start:
        print(f"llama-edu: going on after step {run.start}.", file=sys.stderr)
    with tqdm(total=run.recipe.training.steps, initial=run.start, unit="step", disable=None) as bar:
        for step in run.steps():
            bar.set_postfix(loss=f"{step.loss:.3f}", refresh=False)
            bar.update()
    print(run.summary())


if __name__ == "__main__":
    sys.exit(main())
