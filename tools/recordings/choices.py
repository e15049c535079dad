"""Choices of labellers who err, and a reward model that learns from them while the policy moves."""

import torch
from reward import SHARPNESS

from llama_edu.alignment import preferences, reward_files
from llama_edu.alignment.reward import combined, scores
from llama_edu.data.dialogues_labels import chosen_first, rated
from llama_edu.data.dialogues_tokenizer import FOLDER
from llama_edu.training_loop import cosine, train

STEPS, PEAK_LR, WARMUP, BATCH = 100, 2e-4, 5, 16
JUDGES = [reward_files.load(FOLDER / about)[0] for about in ("helpful", "safe")]


def compared(judged):
    """The answers of each prompt two by two, where the judge's marks `p n` differ: prompt, places
    of both, and the lead of the first."""
    return [(prompt, i, i + 1, (marks[i] - marks[i + 1]).item())
            for prompt, marks in enumerate(judged) for i in range(0, len(marks), 2)
            if marks[i] != marks[i + 1]]


def labelled(places, labeller):
    """The same, each with the answer first that a labeller chose."""
    return [(prompt, i, j, lead) if labeller.random() < chosen_first(lead, SHARPNESS)
            else (prompt, j, i, -lead) for prompt, i, j, lead in places]


class Fresh:
    """A reward model that begins as the shipped one for help, and learns on, from the choices of
    all rounds."""

    def __init__(self):
        self.model, self.pairs = reward_files.load(FOLDER / "helpful")[0], []

    def learn(self, prompts, found, choices, *, seed):
        self.pairs += [preferences.Pair(*(torch.cat([prompts[at], found[at][place]])
                                          for place in (i, j)), rated(lead))
                       for at, i, j, lead in choices]
        some = preferences.batches(self.pairs, size=BATCH, seed=seed, margins=preferences.SMALL)
        taught(self.model, some, preferences.preference, STEPS,
               cosine(PEAK_LR, warmup=WARMUP, steps=STEPS))
        self.model.eval()

    def __call__(self, texts):
        return scores(self.model, texts, size=64)


def reward(texts, tagged):
    """Llama 2's rule over the two reward models. tagged: one truth for all texts, or one each."""
    helpful, safe = (scores(model, texts, size=64) for model in JUDGES)
    return combined(helpful, safe, torch.as_tensor(tagged).expand(len(texts)))


def taught(model, batches, objective, steps, lr):
    for _ in train(model, batches, objective, steps=steps, lr=lr):
        pass
