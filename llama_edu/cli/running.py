"""What commands that run a model share: where it runs, and how a token is picked."""

import argparse
import math
from typing import TYPE_CHECKING, NamedTuple

from .. import prompts
from ..training.recipe import DTYPES
from .say import say

if TYPE_CHECKING:
    import torch

    from ..formats.source import Source
    from ..inference.decoding import DecodingLlama
    from ..model import Llama
    from ..sampling import Rule
    from ..tokenizer import Tokenizer


class Loaded(NamedTuple):
    """A model laid out for decoding, and all that it takes to let it speak."""

    model: "DecodingLlama"
    tokenizer: "Tokenizer"
    form: prompts.Format | None         # None where neither files nor options name one
    rules: "tuple[Rule, ...]"
    generator: "torch.Generator"


def add_options(command: argparse.ArgumentParser, *, temperature: float, top_p: float) -> None:
    command.add_argument("--temperature", type=float, default=temperature, metavar="T",
                         help=f"{temperature:g} without it; 0 takes the likeliest token always")
    command.add_argument("--top-p", type=float, metavar="P",
                         help="draw from the likeliest tokens that together have this "
                              f"probability; {top_p:g} without it")
    command.add_argument("--top-k", type=int, metavar="K",
                         help="draw from so many of the likeliest tokens; all without it")
    command.add_argument("--seed", type=int, help="decides what is drawn; 0 without it")
    add_place(command)
    command.set_defaults(usual_top_p=top_p)


def add_place(command: argparse.ArgumentParser) -> None:
    command.add_argument("--tokenizer", metavar="PATH", help="its files, if not beside the model's")
    command.add_argument("--device", default="cpu")
    command.add_argument("--dtype", type=str.lower, choices=DTYPES, default="float32")


def load(options: argparse.Namespace) -> Loaded:
    """What the options ask for. Raises ValueError or KeyError for what cannot be had."""
    from ..generation import seeded
    from ..inference.decoding import DecodingLlama
    from ..tokenizer.carried import templates
    rules = _rules(options)
    generator = seeded(options.seed or 0, device(options.device))
    source, tokenizer = opened(options)
    form = prompts.of_template(templates(source.tokenizer).get("default", ""))
    if options.format is not None:
        form = prompts.named(options.format)
    _say_what_is_idle(options)
    return Loaded(DecodingLlama(read(source, options)), tokenizer, form, rules, generator)


def opened(options: argparse.Namespace) -> "tuple[Source, Tokenizer]":
    """The model's files, not yet read, and its tokenizer. Raises ValueError or KeyError for what
    cannot be had."""
    from ..checkpoint import load_tokenizer, open_source
    source = open_source(options.model, tokenizer=options.tokenizer)
    if source.tokenizer is None:
        raise ValueError(f"{options.model!r} has no tokenizer; a tokenizer.json or a "
                         "tokenizer.model is needed. Put the one that the model was published with "
                         "beside it, or name its place: --tokenizer PATH.")
    return source, load_tokenizer(source, options.model)


def read(source: "Source", options: argparse.Namespace) -> "Llama":
    """The model in these files, where and as the options say."""
    import torch

    from ..checkpoint import read_model
    return read_model(source, options.device, getattr(torch, options.dtype))


def _rules(options: argparse.Namespace) -> "tuple[Rule, ...]":
    """The rules of the options. Raises ValueError for numbers that mean nothing."""
    from ..sampling import COLDEST, temperature, top_k, top_p
    heat, k = options.temperature, options.top_k
    p = options.usual_top_p if options.top_p is None else options.top_p
    if heat != 0 and not COLDEST <= heat < math.inf:
        raise ValueError(f"--temperature {heat:g} was given; 0 or a number from {COLDEST:g} on is "
                         "needed. 0 takes the likeliest token always.")
    if not 0 < p <= 1:
        raise ValueError(f"--top-p {p:g} was given; a probability above 0 and up to 1 is needed. "
                         "1 keeps all tokens.")
    if k is not None and k < 1:
        raise ValueError(f"--top-k {k} was given; 1 or more is needed. Without it all tokens are "
                         "kept.")
    if heat == 0:
        return (top_k(1),)
    return temperature(heat), *(() if k is None else (top_k(k),)), top_p(p)


def _say_what_is_idle(options: argparse.Namespace) -> None:
    """Say which options change nothing, where no token is drawn."""
    given = [f"--{name.replace('_', '-')}" for name in ("top_p", "top_k", "seed")
             if getattr(options, name) is not None]
    if options.temperature == 0 and given:
        say(f"{' and '.join(given)} changed nothing: at temperature 0 the likeliest token is "
            "always taken. Add --temperature 0.8 to draw.")


def device(name: str) -> "torch.Tensor":
    """A number on that device. Raises ValueError where this machine has none."""
    import torch
    try:
        there = torch.zeros(1, device=name)
        there.item()
    except (RuntimeError, AssertionError, NotImplementedError):  # as torch's build decides
        raise ValueError(f"device {name!r} cannot be used on this machine; cpu always can, cuda "
                         "and mps where there is one. Leave --device out.") from None
    return there
