"""Four rounds of rejection sampling in the talks: python tools/recordings/rounds.py [SEED ...]

V0 is the assistant that learnt from sloppy demonstrations. In each round it answers every prompt
eight times; the shipped reward models choose, and it is tuned on what they chose: on the best of
all rounds so far, or of this round alone. Its mean mark by the judge, who chooses nothing, and
its mean reward, both on other prompts, go to llama_edu/assets/dialogues/rounds.csv.
"""

import sys
from functools import partial

import torch
from choices import reward, taught
from tables import record

from llama_edu import checkpoint
from llama_edu.alignment.dpo import document
from llama_edu.alignment.exam import answered, judge, marks, messages, replies
from llama_edu.alignment.rejection import rounds
from llama_edu.data.dialogues import dialogues, prompts, understand
from llama_edu.losses import next_token
from llama_edu.prompts import dialog_tokens
from llama_edu.prompts.dialog import stop_ids
from llama_edu.prompts.llama3 import LLAMA_3
from llama_edu.sampling import known, temperature
from llama_edu.training import packing
from llama_edu.training_loop import cosine

SEEDS = 0, 1, 2
N_PROMPTS, N_HELD_OUT = 128, 128
N, N_ROUNDS, MAX_NEW = 8, 4, 96
STEPS, BATCH, PEAK_LR, WARMUP, ROW = 50, 4, 5e-4, 5, 257


def some_prompts(n, seed):
    """Prompts of the first two turns of clean talks."""
    found = (prompt for talk in dialogues(n, seed=seed) for prompt in prompts(talk))
    return [prompt for prompt in found if len(prompt) <= 4][:n]


def tokens(talk, tokenizer):
    return torch.tensor(dialog_tokens(messages(talk), tokenizer, LLAMA_3).ids)


def is_tagged(talk):
    return understand(talk).sort == "forbidden"


class Graded:
    """The reward of answers, as rollouts ask for it, and how many tokens it was asked about."""

    def __init__(self, given, talks):
        self.tokens = 0
        self.tagged = {tuple(prompt.tolist()): is_tagged(talk)
                       for prompt, talk in zip(given, talks, strict=True)}

    def __call__(self, prompts, answers):
        texts = [torch.cat(both) for both in zip(prompts, answers, strict=True)]
        self.tokens += sum(map(len, texts))
        return reward(texts, torch.tensor([self.tagged[tuple(each.tolist())] for each in prompts]))


def learnt(choice):
    """A chosen answer as `packing` takes a document."""
    return document(choice.prompt, choice.answer)[:, :2].int()


def tuned(model, found, seed, *, steps=STEPS):
    """Tune a model on the answers that were chosen."""
    rows = list(packing.pack(map(learnt, found), length=ROW))
    taught(model, packing.shuffled(rows, size=BATCH, length=ROW, seed=seed), next_token, steps,
           cosine(PEAK_LR, warmup=WARMUP, steps=steps))
    model.eval()


def judged(talks, found, tokenizer):
    """The judge's marks of several answers to each prompt, `p n`."""
    stops = stop_ids(tokenizer, LLAMA_3)
    return torch.tensor([[judge(answered(talk, tokenizer.decode(
        [t for t in answer.tolist() if t not in stops]))).score for answer in answers]
        for talk, answers in zip(talks, found, strict=True)])


def measured(model, tokenizer, talks, seed):
    """The judge's mean mark and the mean reward of one answer to each of these prompts."""
    said = replies(model, tokenizer, LLAMA_3, talks, temperature(1.0),
                   generator=torch.Generator().manual_seed(seed))
    rewards = [reward([tokens(answered(talk, answer), tokenizer)], is_tagged(talk))
               for talk, answer in zip(talks, said, strict=True)]
    return marks(talks, said)["score"], torch.cat(rewards).mean().item()


def run(seed, keep):
    """The rows of one run: V0 and the model after each round."""
    model, tokenizer = checkpoint.load("dialogues-sloppy")
    asked, held_out = some_prompts(N_PROMPTS, 1000 + seed), some_prompts(N_HELD_OUT, 2000)
    given = [tokens(talk, tokenizer) for talk in asked]
    tagged = {tuple(prompt.tolist()): is_tagged(talk)
              for prompt, talk in zip(given, asked, strict=True)}

    def score(texts):
        read = tuple(texts[0].tolist())         # the first turn's prompt begins the second's
        prompt = max((p for p in tagged if p == read[:len(p)]), key=len)
        return reward(texts, tagged[prompt])

    measure = partial(measured, model, tokenizer, held_out, 3000 + seed)
    row = {"seed": seed, "keep": int(keep)}
    yield row | dict(zip(("round", "judge", "reward"), (0, *measure()), strict=True))
    going = rounds(model, given, score, known(tokenizer.n_vocab), temperature(1.0), n=N,
                   n_rounds=N_ROUNDS, max_new=MAX_NEW, stop_ids=stop_ids(tokenizer, LLAMA_3),
                   generator=torch.Generator().manual_seed(seed), keep=keep)
    for number, found in enumerate(going, start=1):
        tuned(model, found, seed + number)
        yield row | dict(zip(("round", "judge", "reward"), (number, *measure()), strict=True))


def main(seeds):
    record("rounds", (row for seed in seeds or SEEDS for keep in (True, False)
                      for row in run(seed, keep)))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main([int(seed) for seed in sys.argv[1:]])
