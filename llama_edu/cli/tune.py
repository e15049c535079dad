"""`llama-edu tune`: tune a model on dialogs as a recipe says; go on if it was stopped."""

import argparse
from typing import TYPE_CHECKING, Any

from .say import say
from .train import add_recipe, carry_out, write_example

if TYPE_CHECKING:
    from ..training.tune import Tuning

EXAMPLE = """a recipe, whose [lora] may be left out to learn all weights:

  out = "tuned"
  seed = 0
  model = "smollm2"             # a folder, a .gguf file or a hub id

  [text]
  source = "dialogs.jsonl"      # a dialog a line; its forms: see below
  row_length = 256              # tokens; a longer dialog loses its first turns
  held_out = 20                 # dialogs
  answers = "all"               # or "last"
  bad = "refuse"                # a line that cannot be learnt from, or "skip" it
  format = "smollm2"            # without it that of the model's own template

  [lora]
  where = "all"                 # or "attention", "wq wv", ...
  rank = 8
  alpha = 16
  int4_group = 0                # 64: QLoRA, over weights in 4 bits
  merged = false                # true: the whole model, too, with the adapter in it

  [training]
  steps = 100
  batch = 4                     # rows
  accumulate = 1
  peak_lr = 3e-4
  warmup = 5
  checkpoint_every = 25         # steps
  sample_every = 5              # steps: answers to three held-out prompts, shown and in a file
  checkpoint_activations = false    # true: less memory for more time

with a table [dpo] it learns from pairs of answers by direct preference optimisation, held near the
model it begins from, which with [lora] is the base without the adapter. Each key may be left out:

  [dpo]
  beta = 0.1                    # more keeps it nearer
  nll = 0.2                     # how much the chosen answer is learnt as in a dialog, besides
  end_counts = false            # whether end tokens count for an answer's reward

its batch is of pairs, and its row_length the tokens of a prompt with the longer answer at most.

a dialog is a line of JSON in one of these forms, also mixed in a file:

  {"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}
  {"conversations": [{"from": "human", "value": "..."}, {"from": "gpt", "value": "..."}]}
  {"instruction": "...", "input": "...", "output": "...", "system": "..."}

that is: messages, ShareGPT's rows, and Alpaca's, whose input and system may be left out.

a pair is a line of JSON in one of these forms, as trl reads them, too:

  {"prompt": "...", "chosen": "...", "rejected": "..."}
  {"messages": [{"role": "user", "content": "..."}], "chosen": "...", "rejected": "..."}
  {"chosen": [..., {"role": "assistant", "content": "..."}], "rejected": [...]}

prompt, chosen and rejected may each be a string or a list of messages; without a prompt it is what
both answers begin with. A field "system" says what the system is told.
"""


def add(commands: Any) -> None:
    tune = commands.add_parser(
        "tune", help="tune a model on dialogs as a recipe says; go on if stopped", epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    add_recipe(tune, what="a recipe that works, and dialogs for it,")
    tune.add_argument("--dpo", action="store_true",
                      help="with --example: a recipe that learns from pairs, and pairs for it")
    tune.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Tune, or go on after a stop; what happens on stderr, the outcome on stdout. Raises
    ValueError for --dpo with a recipe."""
    if options.example is not None:
        names = ("tune-dpo.toml", "pairs.jsonl") if options.dpo else ("tune.toml", "dialogs.jsonl")
        print(write_example(options.example, "tune", *names))
        return 0
    if options.dpo:
        raise ValueError("--dpo was given with a recipe; it is for --example alone, as a recipe "
                         "says by its table [dpo] what it learns from. Leave it out.")
    from ..training import tune_recipe
    plan = tune_recipe.read(options.recipe)

    def begin() -> "Tuning":
        from ..training.tune_pairs import tuning
        return tuning(plan, say=say)

    return carry_out(begin)
