"""The command `llama-edu`."""

import argparse
import sys
from collections.abc import Sequence

import torch
from tqdm import tqdm

from . import accounting, checkpoint, recipe, sampling
from .decoding import DecodingLlama
from .exercises import progress
from .generate import answer
from .releases import RELEASES, release
from .training_run import Run

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 when it worked, 2 with one sentence on stderr when it could not."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except (ValueError, KeyError, FloatingPointError) as error:
        print(f"llama-edu: {error.args[0]}", file=sys.stderr)
        return 2
    except BrokenPipeError:     # the reader of a pipe had enough
        sys.stderr.close()
    except KeyboardInterrupt:
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("llama-edu", description="The Llama family, from scratch.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    info = commands.add_parser("info", help="a release's numbers; without a name, all of them")
    info.add_argument("name", nargs="?", help="such as llama-3.1-8b")
    info.set_defaults(run=_info)

    generate = commands.add_parser("generate", help="let a model go on with a text")
    generate.add_argument("text")
    generate.add_argument("--model", default=checkpoint.TALES, metavar="FOLDER",
                          help="a folder saved by transformers; without it, the model that tells "
                               "tales and comes with this package")
    generate.add_argument("--max-new", type=int, metavar="N",
                          help="tokens at most; without it 200, or what the context has room for")
    generate.add_argument("--temperature", type=float, default=0.0, metavar="T",
                          help="0, the default, takes the likeliest token always")
    generate.add_argument("--top-p", type=float, default=1.0, metavar="P")
    generate.add_argument("--seed", type=int, default=0)
    generate.add_argument("--device", default="cpu")
    generate.add_argument("--dtype", choices=DTYPES, default="float32")
    generate.set_defaults(run=_generate)

    train = commands.add_parser("train", help="train a model as a recipe says; go on if stopped")
    train.add_argument("recipe", metavar="CONFIG.toml")
    train.set_defaults(run=_train)

    shown = commands.add_parser("progress", help="which exercises are solved")
    shown.set_defaults(run=lambda _: print(progress()))
    return parser


def _info(options: argparse.Namespace) -> None:
    if options.name is None:
        for r in RELEASES:
            print(f"{r.id:32}{accounting.parameters(r.config).total:>18,} parameters")
    else:
        print(card(options.name))


def card(name: str) -> str:
    """What `llama-edu info` prints: shape, parameters and memory of one release, computed."""
    r = release(name)
    c, p = r.config, accounting.parameters(r.config)
    scaling = "none" if c.rope_scaling is None else f"factor {c.rope_scaling.factor:g}"
    rows = {
        "released": r.released or "never", "licence": r.licence,
        "dim": c.dim, "layers": c.n_layers, "heads / kv heads": f"{c.n_heads} / {c.n_kv_heads}",
        "head_dim": c.head_dim, "hidden_dim": c.hidden_dim, "vocabulary": f"{c.vocab_size:,}",
        "context": f"{c.max_seq_len:,} tokens", "norm_eps": f"{c.norm_eps:g}",
        "rope": f"theta {c.rope_theta:g}, scaling {scaling}",
        "parameters": f"{p.total:,}", "  embedding": f"{p.embedding:,}",
        "  attention": f"{p.attention:,}", "  feed-forward": f"{p.feed_forward:,}",
        "  norms": f"{p.norms:,}", "  output": f"{p.output:,}" if p.output else "0 (tied)",
        "weights": f"{accounting.weight_bytes(c, bits=16) / accounting.GIB:.2f} GiB in 16 bits",
        "kv cache": f"{accounting.kv_bytes_per_token(c, bits=16):,} bytes per token in 16 bits",
    }
    if r.whole_parameters is not None:
        rows["with vision"] = f"{r.whole_parameters:,} parameters (the rest is the text model's)"
    lines = [r.name, *(f"  {key:18}{value}" for key, value in rows.items())]
    return "\n".join(lines + [f"  note: {note}" for note in r.notes])


def _generate(options: argparse.Namespace) -> None:
    """Stream the answer to stdout, the prompt before it."""
    first = sampling.temperature(options.temperature) if options.temperature else sampling.top_k(1)
    rules = first, sampling.top_p(options.top_p)
    generator = _generator(options.device, options.seed)
    model, words = checkpoint.load(options.model, device=options.device,
                                   dtype=DTYPES[options.dtype])
    max_new = options.max_new
    if max_new is None:
        asked = words.encode(options.text, bos=words.bos_id is not None, eos=False)
        max_new = max(1, min(200, model.config.max_seq_len - len(asked)))
    pieces = answer(DecodingLlama(model), words, options.text, *rules, max_new=max_new,
                    generator=generator)
    print(options.text, next(pieces, ""), sep="", end="", flush=True)   # or fail before it
    for piece in pieces:
        print(piece, end="", flush=True)
    print()


def _train(options: argparse.Namespace) -> None:
    """Train, or go on after a kill; a bar on stderr in a terminal, the outcome on stdout."""
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


def _generator(device: str, seed: int) -> torch.Generator:
    """A source of random numbers on a device that is there."""
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError):  # as torch's build decides
        raise ValueError(f"device {device!r} cannot be used on this machine; cpu always can, cuda "
                         "and mps where there is one. Leave --device out.") from None
    if not 0 <= seed < 2**63:
        raise ValueError(f"seed {seed} was given; a whole number from 0 to 2**63 - 1 is needed.")
    return torch.Generator(device).manual_seed(seed)
