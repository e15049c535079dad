"""`llama-edu convert`: write a model in another format."""

import argparse
import warnings
from typing import Any

from ..training.recipe import DTYPES
from .say import say

FORMATS = ("hf", "meta", "gguf")        # both of `formats.convert`
BLOCKS = ("q8_0", "q6_k", "q5_k_m", "q5_1", "q5_0", "q4_k_m", "q4_1", "q4_0")
KINDS = (*DTYPES, "f32", "bf16", "f16", *BLOCKS)


def add(commands: Any) -> None:
    made = commands.add_parser("convert", help="write a model in another format")
    made.add_argument("source", metavar="FROM", help="a folder, a .gguf file or a hub id")
    made.add_argument("target", metavar="TO", help="a folder, or a .gguf file, that is not there")
    made.add_argument("--format", type=str.lower, choices=FORMATS, required=True)
    made.add_argument("--shards", type=int, default=1, metavar="N", help="files of weights")
    made.add_argument("--dtype", "--type", type=str.lower, choices=KINDS, metavar="TYPE",
                      help=f"{', '.join(DTYPES)}; in GGUF also {', '.join(BLOCKS).upper()}, as "
                      "llama.cpp's. Without it, as the matrices are; quantised ones become float32")
    made.add_argument("--tokenizer", metavar="PATH", help="its files, if not beside the model's")
    made.add_argument("--adapter", metavar="DIR", help="a LoRA adapter of it, to be merged into it")
    made.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Convert, with a bar on stderr in a terminal, and what gets lost; the outcome on stdout."""
    from tqdm import tqdm

    from ..formats.convert import convert
    with warnings.catch_warnings(record=True) as lost, tqdm(unit="tensor", disable=None) as bar:
        warnings.simplefilter("always", UserWarning)
        convert(options.source, options.target, format=options.format,
                shards=options.shards, dtype=options.dtype, tokenizer=options.tokenizer,
                adapter=options.adapter, after_each=bar.update)
    for each in lost:
        say(str(each.message))
    print(f"{options.target} is written.")
