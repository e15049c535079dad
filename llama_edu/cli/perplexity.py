"""`llama-edu perplexity`: how much a text surprises a model."""

import argparse
import math
from functools import partial
from pathlib import Path
from typing import Any

from . import running


def add(commands: Any) -> None:
    asked = commands.add_parser(
        "perplexity", help="how much a text surprises a model",
        description="How much a text surprises a model, counted as llama-perplexity of llama.cpp "
                    "counts it: in windows, of each of which the second half counts.")
    asked.add_argument("model", metavar="MODEL", help="as for generate")
    asked.add_argument("text", type=Path, metavar="TEXT", help="a file of plain text, in UTF-8")
    asked.add_argument("--context", type=int, metavar="N",
                       help="tokens of a window; without it 512, or all that the model sees")
    running.add_place(asked)
    asked.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Measure, with a bar on stderr in a terminal; the numbers on stdout. Raises ValueError for
    a text that cannot be read, or is too short."""
    from tqdm import tqdm

    from ..evaluation.perplexity import perplexity
    from ..training.text_files import plain_text
    text = plain_text(options.text).removesuffix("\n")     # as llama.cpp reads a file
    running.device(options.device)
    source, tokenizer = running.opened(options)
    found = perplexity(running.read(source, options), tokenizer, text, context=options.context,
                       watch=partial(tqdm, unit="window", disable=None))
    print(f"perplexity      {found.perplexity:.4f} +/- {found.error:.4f}\n"
          f"nats per token  {found.nats_per_token:.4f}\n"
          f"nats per byte   {found.nats_per_byte:.4f} "
          f"({found.nats_per_byte / math.log(2):.4f} bits)\n"
          f"counted         {len(found.nats):,} tokens in {found.n_windows:,} windows")
