"""The plane that closes part V: python tools/recordings/plane.py [SEED ...]

Every method begins at the assistant that learnt from sloppy demonstrations, has the same prompts,
the shipped reward models (whose rule is in `rounds.py`) and about the same compute. Then other
prompts are answered: the judge's mean mark, who chooses nothing; the mean reward; and the
Kullback-Leibler divergence from the start in nats per answer, all on fresh samples. To
llama_edu/assets/dialogues/plane.csv.

Tokens are those that the policy reads or writes before it is measured, in units of a forward pass:
a token that is drawn counts once, one that is learnt from three times, as the way back costs twice
the way there. The best of n learns nothing: its tokens are those of answering the prompts that it
is measured on, and it pays them again for every other.
"""

from functools import partial

import torch
from rounds import JUDGES, MAX_NEW, is_tagged, learnt, tokens

from llama_edu.alignment.dpo import AnswerPair, batches, document, dpo, log_probs, with_reference
from llama_edu.alignment.exam import answered, judge
from llama_edu.alignment.rejection import Choice, samples
from llama_edu.alignment.reward import combined, scores
from llama_edu.prompts.dialog import stop_ids
from llama_edu.prompts.llama3 import LLAMA_3
from llama_edu.sampling import temperature
from llama_edu.training import packing
from llama_edu.training_loop import cosine, train

SEEDS = 0, 1, 2
N_PROMPTS, N = 256, 8               # to learn from, and answers drawn to each
N_HELD_OUT, N_MEASURED = 256, 2     # to be measured on, and answers drawn to each
N_BEST = 32                         # drawn to each, to know what the best of fewer is worth
AT_ONCE = 256                       # answers drawn in one batch
ROW = 257


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


@torch.no_grad()
def rewards(prompts, found):
    """Llama 2's rule over the two reward models, `p n`."""
    texts = [torch.cat([prompt, answer]) for prompt, answers in
             zip(prompts.given, found, strict=True) for answer in answers]
    n = len(found[0])
    helpful, safe = (scores(model, texts, size=64) for model in JUDGES)
    return combined(helpful, safe, prompts.tagged.repeat_interleave(n)).view(-1, n)


def marks(prompts, found, tokenizer):
    """The judge's, `p n`."""
    stops = stop_ids(tokenizer, LLAMA_3)
    return torch.tensor([[judge(answered(talk, tokenizer.decode(
        [t for t in answer.tolist() if t not in stops]))).score for answer in answers]
        for talk, answers in zip(prompts.talks, found, strict=True)])


def measured(model, start, held_out, tokenizer, seed):
    """What answers of a model are like, and how far it has gone."""
    model.eval()
    found, _ = drawn(model, held_out, tokenizer, n=N_MEASURED,
                     chance=torch.Generator().manual_seed(3000 + seed))
    texts = [document(prompt, answer) for prompt, answers in
             zip(held_out.given, found, strict=True) for answer in answers]
    now, before = (log_probs(each, texts, size=64) for each in (model, start))
    return {"reward": rewards(held_out, found).mean().item(),
            "judge": marks(held_out, found, tokenizer).mean().item(),
            "kl": (now - before).mean().item()}


# -- methods: each changes the model, and says how many tokens it took ---------------------------

def count_of(batch):
    return 3 * int((batch["positions"] if "positions" in batch else batch["tokens"]).numel())


def rejection(model, prompts, tokenizer, seed, *, steps=100, lr=5e-4):
    """One round: tuned on the best of n."""
    found, spent = drawn(model, prompts, tokenizer, n=N, chance=torch.Generator().manual_seed(seed))
    best = rewards(prompts, found).argmax(-1).tolist()
    chosen = [Choice(prompt, answers[i], 0.0) for prompt, answers, i in
              zip(prompts.given, found, best, strict=True)]
    rows = list(packing.pack(map(learnt, chosen), length=ROW))
    ticking = packing.shuffled(rows, size=4, length=ROW, seed=seed)
    for _ in train(model, ticking, steps=steps, lr=cosine(lr, warmup=5, steps=steps)):
        spent += 3 * 4 * ROW
    return spent


def preferred(model, prompts, tokenizer, seed, *, steps=100, lr=2e-4, size=16, beta=0.1, nll=0.2):
    """The best of n against the worst."""
    found, spent = drawn(model, prompts, tokenizer, n=N, chance=torch.Generator().manual_seed(seed))
    given = rewards(prompts, found)
    pairs = [AnswerPair.of(prompt, answers[best], answers[worst],
                           formatting=stop_ids(tokenizer, LLAMA_3))
             for prompt, answers, best, worst in zip(
                 prompts.given, found, given.argmax(-1).tolist(), given.argmin(-1).tolist(),
                 strict=True) if not torch.equal(answers[best], answers[worst])]
    pairs = with_reference(model, pairs, size=64)
    spent += sum(len(each.chosen) + len(each.rejected) for each in pairs)
    some = Counted(batches(pairs, size=size, seed=seed))
    for _ in train(model, some, partial(dpo, beta=beta, nll=nll), steps=steps,
                   lr=cosine(lr, warmup=5, steps=steps)):
        pass
    return spent + 3 * some.tokens


class Counted:
    """Batches, and the tokens in them so far."""

    def __init__(self, batches):
        self.batches, self.tokens = batches, 0

    def __iter__(self):
        for batch in self.batches:
            self.tokens += batch["tokens"].numel()
            yield batch
