"""What chapter 17 shows and would take too long to run there: three seeds of every experiment.

    python tools/recordings/sft.py masks            what each mistake in a mask costs
    python tools/recordings/sft.py examples         how many examples, and how good ones, it takes
    python tools/recordings/sft.py ghost            rules kept in long talks (Ghost Attention)

Each writes a table beside the models of the talks, in llama_edu/assets/dialogues/.
"""

import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch
from tables import record

from llama_edu import checkpoint
from llama_edu.alignment.exam import converse, marks, messages, replies
from llama_edu.alignment.messages import document
from llama_edu.data.dialogues import asked, dialogues, judge, pick, prompts, understand
from llama_edu.data.dialogues_answers import answers_to
from llama_edu.data.dialogues_reading import Rules
from llama_edu.data.dialogues_tokenizer import FOLDER
from llama_edu.losses import Loss, log_probs, next_token
from llama_edu.prompts.dialog import special_id
from llama_edu.prompts.llama3 import LLAMA_3
from llama_edu.sampling import top_k
from llama_edu.training.packing import shuffled
from llama_edu.training_loop import cosine, train

SEEDS = range(3)
STEPS, BATCH, PEAK_LR, WARMUP = 120, 8, 1e-3, 10
LENGTH = 513                    # tokens of a row, at most
N_HELD_OUT, HELD_OUT_SEED = 100, 123_456
MARKS = "wishes", "question", "rule", "refusal", "over-refusal", "tale", "chat", "score"


@dataclass
class Experiment:
    """One tuned model and how it did."""

    seed: int

    def __post_init__(self):
        self.model, self.tokenizer = checkpoint.load(FOLDER / "base")

    def rows(self, talks, answers="all"):
        """Every talk alone in a row: `t 2`, each token beside whether it is learnt."""
        return [[document(messages(talk), self.tokenizer, LLAMA_3, answers=answers, length=LENGTH)]
                for talk in talks]

    def tune(self, rows, steps=STEPS, batches=None, objective=next_token):
        length = max(len(row[0]) for row in rows)
        batches = batches or shuffled(rows, size=min(BATCH, len(rows)), length=length,
                                      seed=self.seed)
        for _ in train(self.model, batches, objective, lr=cosine(PEAK_LR, warmup=WARMUP,
                                                                 steps=steps), steps=steps):
            pass
        return self

    def examined(self):
        """The judge's marks on the held-out talks."""
        questions = [prompt for talk in dialogues(N_HELD_OUT, seed=HELD_OUT_SEED)
                     for prompt in prompts(talk)]
        said = replies(self.model, self.tokenizer, LLAMA_3, questions, top_k(1))
        found = marks(questions, said)
        return {name: found[name] for name in MARKS}


def clean(n, seed, grade="clean"):
    return list(dialogues(n, seed=1_000 + seed, grade=grade))


# What each mistake costs.

def shifted(row):
    """Learnt is what follows what should be."""
    document = row[0].clone()
    document[1:, 1], document[0, 1] = row[0][:-1, 1], 0
    return [document]


def all_learnt(row):
    return [torch.stack([row[0][:, 0], torch.ones_like(row[0][:, 0])], 1)]


def endless(row, end):
    """The end token is read and not learnt."""
    return [torch.stack([row[0][:, 0], row[0][:, 1] * (row[0][:, 0] != end)], 1)]


def begun_twice(row):
    first = row[0][:1].clone()
    return [torch.cat([first, row[0]])]


def across(rows, seed):
    """Documents in one long row without a mask between them, positions running on."""
    chance = random.Random(seed)
    while True:
        whole = torch.cat([row[0] for row in chance.sample(rows, BATCH)])
        n = len(whole) // 2 * 2
        tokens = whole[:n].view(2, n // 2, 2)[:, :512]
        yield {"tokens": tokens[..., 0].long(), "learn": tokens[..., 1].bool()}


def mean_of_rows(model, batch):
    """Every row counts alike, however many tokens of it are learnt."""
    learn = batch["learn"][:, 1:]
    of_rows = -(log_probs(model, batch) * learn).sum(1) / learn.sum(1)
    return Loss(of_rows.sum(), len(learn))


def masks() -> Iterator[dict]:
    for seed in SEEDS:
        talks = clean(400, seed)

        def tuned(change=lambda row: row, seed=seed, talks=talks, **how):
            experiment = Experiment(seed)
            return experiment.tune([change(row) for row in experiment.rows(talks)], **how)

        start = Experiment(seed)
        end = special_id(start.tokenizer, "<|eot_id|>")
        found = {
            "base": start, "right": tuned(), "prompt learnt": tuned(all_learnt),
            "off by one": tuned(shifted), "end not learnt": tuned(partial(endless, end=end)),
            "double bos": tuned(begun_twice),
            "documents attend across": tuned(batches=across(start.rows(talks), seed)),
            "mean of rows": tuned(objective=mean_of_rows)}
        for name, experiment in found.items():
            yield {"what": name, "seed": seed, **experiment.examined()}


# How many, and how good.

def examples() -> Iterator[dict]:
    for n in (10, 30, 100, 300, 1_000, 3_000):
        for grade in ("clean", "sloppy", "wrong"):
            for seed in SEEDS:
                experiment = Experiment(seed)
                rows = experiment.rows(clean(n, seed, grade))
                yield {"examples": n, "grade": grade, "seed": seed,
                       **experiment.tune(rows).examined()}


# Ghost Attention.

N_TURNS, N_TALKS = 10, 60
N_HAUNTED, N_JOINED, FORGETS = 300, 7, 0.8
SORTS = "question", "question", "chat", "forbidden"


def forgetful(talk, chance):
    """The same talk by a demonstrator who forgets the rule: an answer later than the first after it
    keeps none, four times in five."""
    told, since = [], 0
    for i, message in enumerate(talk):
        if message["role"] == "assistant":
            ask = understand(talk[:i])
            since += bool(ask.rules)
            if since > 2 and chance.random() < FORGETS:
                text = answers_to(replace(ask, rules=Rules())).write(chance)
                message = {"role": "assistant", "content": text}
        told.append(message)
    return told


def ruled(n, seed, turns=None):
    """Talks that a user begins with a rule."""
    talks = dialogues(2 * n, seed=2_000 + seed, ruled=True, turns=turns)
    return [talk for talk in talks if talk[0]["role"] == "user"][:n]


def kept_by_turn(experiment, seed):
    """The rule's mark at each answer after the one that agrees to it."""
    chance = random.Random(3_000 + seed)
    starts = [[{"role": "user", "content": rule}, {"role": "assistant", "content": "I will."}]
              for rule in (talk[0]["content"] for talk in ruled(N_TALKS, 500 + seed))]
    talks = converse(experiment.model, experiment.tokenizer, LLAMA_3, starts, top_k(1), turns=1,
                     chance=chance, sorts=["tale"])
    talks = converse(experiment.model, experiment.tokenizer, LLAMA_3, talks, top_k(1),
                     turns=N_TURNS - 1, chance=chance, sorts=SORTS)
    return [sum(judge(talk[:4 + 2 * turn]).rule for talk in talks) / N_TALKS
            for turn in range(N_TURNS)]


def haunted(experiment, seed):
    """Ghost Attention: answers drawn with the rule joined to every question, learnt without it."""
    chance = random.Random(4_000 + seed)
    kept = [talk[:2] for talk in ruled(N_HAUNTED, seed)]
    joined = kept
    for turn in range(N_JOINED):
        asks = [asked(talk, chance, pick(SORTS, chance) if turn else "tale") for talk in kept]
        joined = [said_by("user", talk, f"{talk[0]['content']} {ask}")
                  for talk, ask in zip(joined, asks, strict=True)]
        kept = [said_by("user", talk, ask) for talk, ask in zip(kept, asks, strict=True)]
        said = replies(experiment.model, experiment.tokenizer, LLAMA_3, joined, top_k(1))
        joined, kept = ([said_by("assistant", talk, text)
                         for talk, text in zip(talks, said, strict=True)]
                        for talks in (joined, kept))
    return [talk[:2 * pick(range(2, N_JOINED + 2), chance)] for talk in kept for _ in range(2)]


def said_by(role, talk, text):
    return [*talk, {"role": role, "content": text}]


def ghost() -> Iterator[dict]:
    for seed in SEEDS:
        chance = random.Random(seed)
        plain = Experiment(seed)
        shown = [forgetful(talk, chance) for talk in ruled(400, seed)] + clean(200, seed)
        plain.tune(plain.rows(shown))
        for what in ("without", "with"):
            if what == "with":
                plain.tune([*plain.rows(haunted(plain, seed), answers="last"),
                            *plain.rows(clean(200, 50 + seed))], steps=2 * STEPS)
            found = kept_by_turn(plain, seed)
            yield {"what": what, "seed": seed,
                   **{f"turn {turn + 1}": kept for turn, kept in enumerate(found)}}


TABLES = {"masks": masks, "examples": examples, "ghost": ghost}


def main(names):
    for name in names or TABLES:
        record(name, TABLES[name]())


if __name__ == "__main__":
    main(sys.argv[1:])
