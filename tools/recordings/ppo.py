"""What each piece of PPO is there for: python tools/recordings/ppo.py [RUN ...]

The assistant that learnt from sloppy demonstrations is trained on the combined reward, as it is
done and with one piece missing. Every few steps the judge, whom nobody asks in training, marks
answers to other prompts. Over three seeds, to llama_edu/assets/dialogues/ppo.csv.
"""

import csv
import sys
from functools import partial
from itertools import chain
from statistics import mean

import torch
from choices import JUDGES
from rounds import Graded, some_prompts, tokens
from tables import record

from llama_edu import checkpoint
from llama_edu.alignment.exam import marks, replies
from llama_edu.alignment.grpo import groups, grpo
from llama_edu.alignment.ppo import ActorCritic, experience, ppo
from llama_edu.alignment.reward import RewardModel, scores
from llama_edu.alignment.rollouts import divergence
from llama_edu.data.dialogues_tokenizer import FOLDER
from llama_edu.losses import learnt_log_probs
from llama_edu.prompts.dialog import stop_ids
from llama_edu.prompts.llama3 import LLAMA_3
from llama_edu.sampling import temperature
from llama_edu.training_loop import train

SEEDS = 0, 1, 2
N_PROMPTS, N_HELD_OUT, MAX_NEW = 128, 96, 96
SIZE, PIECES, EPOCHS = 64, 4, 4
STEPS, EVERY, PEAK_LR, WARMUP, BETA = 96, 16, 3e-4, 8, 0.05
N_GROUP = 8


class Run:
    """One policy, its prompts, and what is measured on the way."""

    def __init__(self, seed):
        self.policy, self.tokenizer = checkpoint.load("dialogues-sloppy")
        self.reference = checkpoint.load_model("dialogues-sloppy")
        self.stops = stop_ids(self.tokenizer, LLAMA_3)
        self.chance = torch.Generator().manual_seed(seed)
        asked = some_prompts(N_PROMPTS, 1000 + seed)
        self.prompts = [tokens(talk, self.tokenizer) for talk in asked]
        self.grade = Graded(self.prompts, asked)
        self.held_out, self.seen = some_prompts(N_HELD_OUT, 2000), []

    def helpful_alone(self, prompts, answers):
        return scores(JUDGES[0], [torch.cat(both) for both in zip(prompts, answers, strict=True)],
                      size=64)

    def tell(self, batch):
        far = divergence(batch, batch["reference"])
        self.seen.append((batch["scores"].mean().item(), far.mean().item(),
                          batch["learn"].sum(1).float().mean().item()))

    def judged(self):
        said = replies(self.policy, self.tokenizer, LLAMA_3, self.held_out, temperature(1.0),
                       generator=torch.Generator().manual_seed(3000))
        return marks(self.held_out, said)["score"]

    def steps(self, model, batches, objective):
        """Rows: the judge's mark, and means over the answers drawn since the last row."""
        yield self.row(0, {"clipped": 0.0})
        for step in train(model, batches, objective, steps=STEPS,
                          lr=lambda i: PEAK_LR * min(1, (i + 1) / WARMUP)):
            if step.index % EVERY == EVERY - 1:
                yield self.row(step.index + 1, step.notes)

    def row(self, step, notes):
        means = [mean(each) for each in zip(*self.seen, strict=True)] or [float("nan")] * 3
        self.seen = []
        return {"step": step, "judge": self.judged(), "clipped": notes["clipped"],
                **dict(zip(("reward", "kl", "length"), means, strict=True))}

    def ppo(self, *, objective=ppo, grade=None, change=lambda batches: batches, beta=BETA,
            **kinds):
        model = ActorCritic(self.policy, RewardModel.of(self.policy))
        batches = experience(model, self.reference, self.prompts, grade or self.grade, size=SIZE,
                             max_new=MAX_NEW, stop_ids=self.stops, beta=beta, pieces=PIECES,
                             generator=self.chance, epochs=EPOCHS, tell=self.tell, **kinds)
        return self.steps(model, change(batches), objective)

    def grpo(self):
        batches = groups(self.policy, self.reference, self.prompts, self.grade, size=SIZE,
                         n=N_GROUP, max_new=MAX_NEW, stop_ids=self.stops, generator=self.chance,
                         epochs=EPOCHS, pieces=PIECES, tell=self.tell)
        return self.steps(self.policy, batches, grpo)

    def recomputed(self, batches):
        """The log-probabilities to compare with are asked for anew before each step."""
        for batch in batches:
            with torch.no_grad():
                anew = learnt_log_probs(self.policy, batch)
            yield batch | {"log_probs": anew}


RUNS = {
    "right": Run.ppo,
    "no clip": partial(Run.ppo, objective=partial(ppo, clip=float("inf"))),
    "no KL": partial(Run.ppo, beta=0.0),
    "no whitening": partial(Run.ppo, whiten=False),
    "recomputed": lambda run: run.ppo(change=run.recomputed),
    "helpful alone": lambda run: run.ppo(grade=run.helpful_alone),
    "GRPO": Run.grpo,
}


def main(names):
    path, kept = FOLDER / "ppo.csv", []
    if names and path.exists():         # only some are made again
        with path.open(encoding="utf-8") as file:
            kept = [row for row in csv.DictReader(file) if row["run"] not in names]
    made = ({"run": name, "seed": seed} | row for name in names or RUNS for seed in SEEDS
            for row in RUNS[name](Run(seed)))
    record("ppo", chain(kept, made))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1:])
