"""What each piece of DPO is there for: python tools/recordings/dpo.py [RUN ...]

The assistant that learnt from sloppy demonstrations answers prompts; labellers who err as often as
is known choose between two answers each; it is tuned on the pairs, as it is done and with one piece
another way. Over three seeds, to llama_edu/assets/dialogues/dpo.csv: the judge's mark and the words
of answers to other prompts, and of other pairs how often the implicit reward tells the better one,
and how the log-probabilities of both have moved.
"""

import random
import sys
from functools import partial
from statistics import mean

import torch
from choices import compared, labelled
from rounds import judged, some_prompts, tokens
from tables import record
from torch.nn import functional as F

from llama_edu import checkpoint
from llama_edu.alignment.dpo import (
    BETA,
    AnswerPair,
    batches,
    dpo,
    rewards,
    with_reference,
)
from llama_edu.alignment.exam import marks, replies
from llama_edu.alignment.preferences import right
from llama_edu.alignment.rejection import samples
from llama_edu.losses import Loss, learnt_log_probs
from llama_edu.prompts.dialog import stop_ids
from llama_edu.prompts.llama3 import LLAMA_3
from llama_edu.sampling import temperature
from llama_edu.training_loop import cosine, train

SEEDS = 0, 1, 2
N_PROMPTS, N_HELD_OUT, N, AT_ONCE = 256, 96, 4, 32
STEPS, EVERY, SIZE, PEAK_LR, WARMUP = 120, 20, 16, 3e-4, 6


def mean_of_tokens(model, batch, *, beta=10 * BETA):
    """The mean over an answer's tokens in the place of the sum, and ten times the beta."""
    found = learnt_log_probs(model, batch) * batch["counts"][:, 1:]
    means = [side / counts.sum(-1) for side, counts in zip(
        (found.sum(-1).chunk(2)), batch["counts"][:, 1:].chunk(2), strict=True)]
    lengths = torch.stack([each.sum(-1) for each in batch["counts"][:, 1:].chunk(2)], -1)
    margins = beta * ((torch.stack(means, -1) - batch["reference"] / lengths) @
                      torch.tensor([1.0, -1.0]))
    return Loss(-F.logsigmoid(margins).sum(), len(margins))


def pairs_of(model, tokenizer, *, seed, n, formatting):
    """Pairs of the model's own answers, the better one as a labeller chose; and by how much each
    chosen one is better for the judge."""
    stops, chance = stop_ids(tokenizer, LLAMA_3), random.Random(seed)
    talks = sorted(some_prompts(n, 1000 + seed), key=lambda talk: len(str(talk)))
    given = [tokens(talk, tokenizer) for talk in talks]
    generator, drawn = torch.Generator().manual_seed(seed), []
    for start in range(0, n, AT_ONCE):
        drawn += samples(model, given[start:start + AT_ONCE], temperature(1.0), n=N, max_new=96,
                         stop_ids=stops, generator=generator)
    for at, i, j, lead in labelled(compared(judged(talks, drawn, tokenizer)), chance):
        yield AnswerPair.of(given[at], drawn[at][i], drawn[at][j],
                            formatting=stops if formatting else ()), lead


def run(seed, objective=dpo, formatting=True):
    """The rows of one run."""
    model, tokenizer = checkpoint.load("dialogues-sloppy")
    pairs, _ = zip(*pairs_of(model, tokenizer, seed=seed, n=N_PROMPTS, formatting=formatting),
                   strict=True)
    others, leads = zip(*pairs_of(model, tokenizer, seed=500, n=N_HELD_OUT, formatting=formatting),
                        strict=True)
    pairs, others = (with_reference(model, each, size=32) for each in (pairs, others))
    held_out, better = some_prompts(N_HELD_OUT, 2000), torch.tensor(leads) > 0

    def row(step):
        said = replies(model, tokenizer, LLAMA_3, held_out, temperature(1.0),
                       generator=torch.Generator().manual_seed(3000))
        found = rewards(model, others, size=32)
        moved = found.mean(0) / BETA
        told = right((found[:, 0] - found[:, 1]) * torch.where(better, 1, -1)).mean()
        return {"step": step, "judge": marks(held_out, said)["score"],
                "words": mean(len(each.split()) for each in said), "told": told.item(),
                "chosen": moved[0].item(), "rejected": moved[1].item()}

    yield row(0)
    for step in train(model, batches(pairs, size=SIZE, seed=seed), objective, steps=STEPS,
                      lr=cosine(PEAK_LR, warmup=WARMUP, steps=STEPS)):
        if step.index % EVERY == EVERY - 1:
            yield row(step.index + 1)


RUNS = {
    "right": run,
    "without NLL": partial(run, objective=partial(dpo, nll=0.0)),
    "end counts, without NLL": partial(run, objective=partial(dpo, nll=0.0), formatting=False),
    "mean of tokens": partial(run, objective=mean_of_tokens),
    "beta 0.01": partial(run, objective=partial(dpo, beta=0.01)),
}


def main(names):
    record("dpo", ({"run": name, "seed": seed} | row for name in names or RUNS for seed in SEEDS
                   for row in RUNS[name](seed)))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1:])
