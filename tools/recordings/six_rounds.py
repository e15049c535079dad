"""Llama 3's six rounds in miniature: python tools/recordings/six_rounds.py [SEED ...]

V0 is the assistant that learnt from sloppy demonstrations. A round takes new prompts: the policy
answers each eight times; labellers who err choose in pairs of them; a reward model learns from the
choices of all rounds so far; V0 is tuned on what that takes for the best of each eight, in all
rounds so far (SFT), then on the choices of this round (DPO, twice, in two orders), and the weights
of those two are averaged. Beside it the same rounds without DPO: rejection sampling alone.

After each stage the policy answers other prompts, and the judge, who chooses nothing, marks them. A
row says, too, how often the reward ranks two of the policy's new answers, of unlike worth, as the
judge does. To llama_edu/assets/dialogues/six_rounds.csv, as it is found.
"""

import copy
import random
import sys

import torch
from choices import Fresh, compared, labelled, taught
from plane import Prompts, drawn, texts
from rounds import judged, some_prompts, tuned
from tables import record

from llama_edu import checkpoint
from llama_edu.alignment.dpo import AnswerPair, batches, dpo, with_reference
from llama_edu.alignment.rejection import Choice
from llama_edu.prompts.dialog import stop_ids
from llama_edu.prompts.llama3 import LLAMA_3
from llama_edu.training_loop import cosine

SEEDS = 0, 1, 2
DPO, ALONE = "SFT and DPO", "SFT alone"
N_ROUNDS, N_PROMPTS, N = 6, 128, 8
N_HELD_OUT, N_MEASURED = 128, 2
SFT_STEPS = 100
DPO_STEPS, DPO_LR, WARMUP, BATCH = 40, 1e-4, 5, 16
ORDERS = 2                      # of the same pairs, whose models are averaged


def averaged(models):
    """One model whose every weight is the mean of theirs."""
    mean = copy.deepcopy(models[0])
    states = [model.state_dict() for model in models]
    mean.load_state_dict({name: torch.stack([state[name] for state in states]).mean(0)
                          for name in states[0]})
    return mean


def preferred(policy, prompts, found, choices, tokenizer, seed):
    """The policy after DPO on these choices."""
    ends = stop_ids(tokenizer, LLAMA_3)
    pairs = with_reference(policy, [AnswerPair.of(prompts.given[at], found[at][i], found[at][j],
                                                  formatting=ends) for at, i, j, _ in choices],
                           size=64)
    model = copy.deepcopy(policy)
    taught(model, batches(pairs, size=BATCH, seed=seed), dpo, DPO_STEPS,
           cosine(DPO_LR, warmup=WARMUP, steps=DPO_STEPS))
    model.eval()
    return model


@torch.no_grad()
def graded(judge, prompts, found):
    """The rewards of all answers, `p n`."""
    return judge(texts(prompts, found)).view(-1, N)


def run(seed, name):
    """The rows of one run."""
    start, tokenizer = checkpoint.load("dialogues-sloppy")
    held_out = Prompts(some_prompts(N_HELD_OUT, 2000), tokenizer)
    judge, labeller, policy, kept = Fresh(), random.Random(seed), start, []

    def mark(model):
        said, _ = drawn(model, held_out, tokenizer, n=N_MEASURED,
                        chance=torch.Generator().manual_seed(3000 + seed))
        return judged(held_out.talks, said, tokenizer).mean().item()

    yield {"run": name, "seed": seed, "round": 0} | dict.fromkeys(("ranked", "best"), "") | {
        "sft": mark(policy), "dpo": "", "averaged": ""}
    for number in range(1, N_ROUNDS + 1):
        prompts = Prompts(some_prompts(N_PROMPTS, 10_000 + 10 * seed + number), tokenizer)
        found, _ = drawn(policy, prompts, tokenizer, n=N,
                         chance=torch.Generator().manual_seed(100 * seed + number))
        worth = judged(prompts.talks, found, tokenizer)
        places = compared(worth)
        before = graded(judge, prompts, found)      # by what has not yet learnt of these answers
        ranked = [(before[at, i] > before[at, j]) == (lead > 0) for at, i, j, lead in places]
        choices = labelled(places, labeller)
        judge.learn(prompts.given, found, choices, seed=100 * seed + number)
        best = graded(judge, prompts, found).argmax(-1)
        chosen = [Choice(prompt, answers[i], 0.0) for prompt, answers, i in
                  zip(prompts.given, found, best.tolist(), strict=True)]
        policy = copy.deepcopy(start)
        kept += chosen
        tuned(policy, kept, seed + number, steps=SFT_STEPS)
        sft = mark(policy)
        row = {"run": name, "seed": seed, "round": number,
               "ranked": torch.stack(ranked).float().mean().item(),
               "best": worth.gather(1, best[:, None]).mean().item(), "sft": sft}
        if name == DPO:
            several = [preferred(policy, prompts, found, choices, tokenizer, order)
                       for order in range(ORDERS)]
            policy = averaged(several)
            yield row | {"dpo": sum(map(mark, several)) / ORDERS, "averaged": mark(policy)}
        else:
            yield row | {"dpo": "", "averaged": ""}


def main(seeds):
    record("six_rounds", (row for name in (DPO, ALONE) for seed in seeds or SEEDS
                          for row in run(seed, name)))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main([int(seed) for seed in sys.argv[1:]])
