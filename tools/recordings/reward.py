"""The two reward models of the talks, made again: python tools/recordings/reward.py helpful safe

Each begins as the shipped assistant and learns from labelled pairs of demonstrators' answers. The
folder, with a table of how good it is, goes to llama_edu/assets/dialogues/.
"""

import sys

import torch
from tables import record

from llama_edu import checkpoint
from llama_edu.alignment import reward_files
from llama_edu.alignment.exam import messages
from llama_edu.alignment.preferences import SMALL, accuracy, batches, gaps, pair, preference
from llama_edu.alignment.reward import RewardModel
from llama_edu.data.dialogues_labels import ceilings, labelled
from llama_edu.data.dialogues_tokenizer import FOLDER, PAD
from llama_edu.prompts.dialog import special_id
from llama_edu.prompts.llama3 import LLAMA_3
from llama_edu.training_loop import cosine, train

SHARPNESS = 6.0                 # of the labellers
N_PAIRS = {"helpful": 8_000, "safe": 2_000}
STEPS = {"helpful": 600, "safe": 200}
BATCH, PEAK_LR, WARMUP = 16, 5e-4, 20
N_HELD_OUT, SEED = 1_000, 11


def tokenised(found, tokenizer):
    return [pair(messages(each.prompt), each.chosen, each.rejected, each.rating, tokenizer, LLAMA_3)
            for each in found]


def made(about):
    """Train one; its rows by rating: accuracy on held-out pairs, and the most that there can be."""
    model, tokenizer = checkpoint.load("dialogues")
    reward = RewardModel.of(model)
    learnt = tokenised(labelled(N_PAIRS[about], seed=SEED, about=about, sharpness=SHARPNESS,
                                ties=False), tokenizer)
    steps = STEPS[about]
    for step in train(reward, batches(learnt, size=BATCH, seed=0, margins=SMALL), preference,
                      lr=cosine(PEAK_LR, warmup=WARMUP, steps=steps), steps=steps):
        if step.index % 50 == 49:
            print(about, step.index + 1, f"{step.loss:.3f}", step.notes, flush=True)
    held_out = list(labelled(N_HELD_OUT, seed=SEED + 1, about=about, sharpness=SHARPNESS))
    pairs = tokenised(held_out, tokenizer)
    most = ceilings(held_out, sharpness=SHARPNESS)
    reward.eval()
    shares = accuracy(gaps(reward, pairs, size=64), [each.rating for each in pairs])
    reward_files.save(FOLDER / about, reward, tokenizer, dtype=torch.bfloat16,
                      pad_id=special_id(tokenizer, PAD))
    return [{"about": about, "rating": rating, "pairs": share.count,
             "accuracy": share.right, "ceiling": most[rating]}
            for rating, share in shares.items()]


def main(names):
    record("reward", (row for about in names or N_PAIRS for row in made(about)))


if __name__ == "__main__":
    main(sys.argv[1:])
