"""The plane that closes part V: python tools/recordings/plane.py [SEED ...]

Every method begins at the assistant that learnt from sloppy demonstrations, has the same prompts
and the shipped reward models (whose rule is in `choices.py`), and about half a million tokens at
most; PPO stops at a third of them, as it does the more harm the longer it goes on (ppo.csv). Then
other prompts are answered: the judge's mean mark, who chooses nothing; the mean reward; and the
Kullback-Leibler divergence from the start in nats per answer, all on fresh samples. It goes to
llama_edu/assets/dialogues/plane.csv, as it is found.

Tokens are those that the policy reads or writes before it is measured, in units of a forward pass:
a token that is drawn counts once, one that is learnt from three times, as the way back costs twice
the way there. The best of n learns nothing: its tokens are those of one answer to each prompt that
it is measured on, and it pays them again for every other. Its divergence is that of the scores'
places among the answers drawn (no more than log n - (n-1)/n, and less where answers are alike).
"""

import copy
import sys
from functools import partial
from itertools import islice
from typing import NamedTuple

import torch
from choices import reward, taught
from ppo import BETA, EPOCHS, N_GROUP, PEAK_LR, PIECES, SIZE, WARMUP
from rounds import MAX_NEW, Graded, is_tagged, judged, learnt, some_prompts, tokens
from tables import record

from llama_edu import checkpoint
from llama_edu.alignment.dpo import AnswerPair, batches, document, dpo, log_probs, with_reference
from llama_edu.alignment.grpo import groups, grpo
from llama_edu.alignment.ppo import ActorCritic, experience, ppo
from llama_edu.alignment.preferences import orders
from llama_edu.alignment.rejection import Choice, expected_best, samples
from llama_edu.alignment.reward import RewardModel
from llama_edu.losses import next_token
from llama_edu.prompts.dialog import stop_ids
from llama_edu.prompts.llama3 import LLAMA_3
from llama_edu.sampling import temperature
from llama_edu.training import packing
from llama_edu.training_loop import cosine

SEEDS = 0, 1, 2
N_PROMPTS, N = 256, 8               # to learn from, and answers drawn to each
N_HELD_OUT, N_MEASURED = 256, 2     # to be measured on, and answers drawn to each
N_FEW, N_DRAWN = 128, 24            # the same for what the best of n is worth
BEST_OF = 2, 4, 8, 16
AT_ONCE = 256                       # answers drawn in one batch
ROW = 257                           # tokens of a packed row


class Prompts:
    """Prompts of talks, as tokens, and which of them ask for what is forbidden."""

    def __init__(self, talks, tokenizer):
        self.talks = talks
        self.given = [tokens(talk, tokenizer) for talk in talks]
        self.tagged = torch.tensor([is_tagged(talk) for talk in talks])


def drawn(model, prompts, tokenizer, *, n, chance):
    """n answers to each prompt, and how many tokens that took."""
    found = []
    for start in range(0, len(prompts.given), AT_ONCE // n):
        found += samples(model, prompts.given[start:start + AT_ONCE // n], temperature(1.0), n=n,
                         max_new=MAX_NEW, stop_ids=stop_ids(tokenizer, LLAMA_3), generator=chance)
    return found, sum(len(prompt) + len(answer) for prompt, answers in
                      zip(prompts.given, found, strict=True) for answer in answers)


def texts(prompts, found):
    """Each prompt with each of its answers."""
    return [torch.cat([prompt, answer]) for prompt, answers in
            zip(prompts.given, found, strict=True) for answer in answers]


@torch.no_grad()
def rewards(prompts, found):
    """Llama 2's rule over the two reward models, `p n`."""
    n = len(found[0])
    return reward(texts(prompts, found), prompts.tagged.repeat_interleave(n)).view(-1, n)


def measured(model, start, held_out, tokenizer, seed):
    """What answers of a model are like, and how far it has gone."""
    model.eval()
    found, _ = drawn(model, held_out, tokenizer, n=N_MEASURED,
                     chance=torch.Generator().manual_seed(3000 + seed))
    texts = [document(prompt, answer) for prompt, answers in
             zip(held_out.given, found, strict=True) for answer in answers]
    now, before = (log_probs(each, texts, size=64) for each in (model, start))
    return {"reward": rewards(held_out, found).mean().item(),
            "judge": judged(held_out.talks, found, tokenizer).mean().item(),
            "kl": (now - before).mean().item()}


def best_of(start, tokenizer, seed):
    """Rows of the start itself and of the best of n of its answers."""
    few = Prompts(some_prompts(N_FEW, 2000), tokenizer)
    found, spent = drawn(start, few, tokenizer, n=N_DRAWN,
                         chance=torch.Generator().manual_seed(3000 + seed))
    given, marks = rewards(few, found), judged(few.talks, found, tokenizer)
    worth = {"reward": expected_best(given), "judge": expected_best(given, marks)}
    for n in (1, *BEST_OF):
        row = {name: values[:, n - 1].mean().item() for name, values in worth.items()}
        row["kl"] = torch.stack([divergence(each, n) for each in given]).mean().item()
        yield f"best of {n}" if n > 1 else "start", row | {
            "tokens": spent * n // N_DRAWN if n > 1 else 0}


def divergence(given, n):
    """Of the best of n answers from one answer, in nats, by the places of their scores `m`."""
    share = given.unique(return_counts=True)[1].double() / len(given)      # the lowest score first
    place = torch.cat([torch.zeros(1), share.cumsum(0)]).pow(n).diff()
    return (place * (place / share).log()).sum().clamp(min=0)


# -- methods that change the model, each with how many tokens that took ------------------------

class Lesson(NamedTuple):
    """What a method may learn from: the start's answers, their rewards and what these took."""

    prompts: Prompts
    found: list
    given: torch.Tensor
    spent: int
    tokenizer: object
    seed: int


def rejection(model, lesson, *, steps=100, lr=5e-4, size=4):
    """A round: tuned on the best of n."""
    chosen = [Choice(prompt, answers[i], 0.0) for prompt, answers, i in
              zip(lesson.prompts.given, lesson.found, lesson.given.argmax(-1).tolist(),
                  strict=True)]
    rows = list(packing.pack(map(learnt, chosen), length=ROW))
    taught(model, packing.shuffled(rows, size=size, length=ROW, seed=lesson.seed), next_token,
           steps, cosine(lr, warmup=5, steps=steps))
    return lesson.spent + 3 * steps * size * ROW


def preferred(model, lesson, *, steps=60, lr=1e-4, size=16):
    """DPO with Llama 3's constants on pairs of the best and the worst of n."""
    ends, given = stop_ids(lesson.tokenizer, LLAMA_3), lesson.given
    places = zip(given.argmax(-1).tolist(), given.argmin(-1).tolist(), strict=True)
    pairs = [AnswerPair.of(prompt, answers[best], answers[worst], formatting=ends)
             for prompt, answers, (best, worst) in
             zip(lesson.prompts.given, lesson.found, places, strict=True)
             if not torch.equal(answers[best], answers[worst])]
    pairs = with_reference(model, pairs, size=64)
    taught(model, batches(pairs, size=size, seed=lesson.seed), dpo, steps,
           cosine(lr, warmup=5, steps=steps))
    lengths = torch.tensor([len(each.chosen) + len(each.rejected) for each in pairs])
    read = sum(lengths[some].sum().item() for some in
               islice(orders(len(pairs), size=size, seed=lesson.seed), steps))
    return lesson.spent + lengths.sum().item() + 3 * read


def online(model, lesson, kind, *, rollouts):
    """PPO or GRPO with the settings of `ppo.py`, for so many times 64 answers."""
    graded = Graded(lesson.prompts.given, lesson.prompts.talks)
    rules = {"size": SIZE, "max_new": MAX_NEW, "epochs": EPOCHS, "pieces": PIECES,
             "stop_ids": stop_ids(lesson.tokenizer, LLAMA_3),
             "generator": torch.Generator().manual_seed(lesson.seed)}
    given = copy.deepcopy(model), lesson.prompts.given, graded
    whole, some = {"PPO": learning_ppo, "GRPO": learning_grpo}[kind](model, given, rules)
    taught(whole, some, {"PPO": ppo, "GRPO": grpo}[kind], rollouts * EPOCHS * PIECES,
           lambda i: PEAK_LR * min(1, (i + 1) / WARMUP))
    return (1 + 3 * EPOCHS) * graded.tokens


def learning_ppo(model, given, rules):
    whole = ActorCritic(model, RewardModel.of(model))
    return whole, experience(whole, *given, beta=BETA, **rules)


def learning_grpo(model, given, rules):
    return model, groups(model, *given, n=N_GROUP, **rules)


METHODS = {"rejection-sampled": rejection, "DPO": preferred,
           "PPO": partial(online, kind="PPO", rollouts=3),
           "GRPO": partial(online, kind="GRPO", rollouts=6)}


def run(seed):
    """The rows of one seed."""
    start, tokenizer = checkpoint.load("dialogues-sloppy")
    yield from best_of(start, tokenizer, seed)
    prompts = Prompts(some_prompts(N_PROMPTS, 1000 + seed), tokenizer)
    held_out = Prompts(some_prompts(N_HELD_OUT, 2000), tokenizer)
    found, spent = drawn(start, prompts, tokenizer, n=N, chance=torch.Generator().manual_seed(seed))
    lesson = Lesson(prompts, found, rewards(prompts, found), spent, tokenizer, seed)
    for name, method in METHODS.items():
        model = copy.deepcopy(start)
        took = method(model, lesson)
        yield name, measured(model, start, held_out, tokenizer, seed) | {"tokens": took}


def main(seeds):
    record("plane", ({"method": name, "seed": seed} | row for seed in seeds or SEEDS
                     for name, row in run(seed)))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main([int(seed) for seed in sys.argv[1:]])
