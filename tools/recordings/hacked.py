"""Where reward and judge part: python tools/recordings/hacked.py

The run of tools/recordings/ppo.py that strayed furthest, stopped on its way: what it says to
prompts that it never learnt from, beside what its reference says, each with its reward and the
judge's mark. To llama_edu/assets/dialogues/hacked.csv.
"""

import torch
from choices import reward
from ppo import RUNS, Run
from rounds import is_tagged, tokens
from tables import record

from llama_edu.alignment.exam import answered, replies
from llama_edu.data.dialogues import judge
from llama_edu.prompts.llama3 import LLAMA_3
from llama_edu.sampling import temperature

NAME, SEED, STEP = "recomputed", 2, 64


def looked_at(run, model):
    """What is said to each prompt, its reward and its mark."""
    said = replies(model, run.tokenizer, LLAMA_3, run.held_out, temperature(1.0),
                   generator=torch.Generator().manual_seed(3000))
    talks = [answered(talk, text) for talk, text in zip(run.held_out, said, strict=True)]
    texts = [tokens(talk, run.tokenizer) for talk in talks]
    tagged = torch.tensor([is_tagged(talk) for talk in run.held_out])
    given = reward(texts, tagged).tolist()
    return list(zip(said, given, (judge(talk).score for talk in talks), strict=True))


def main():
    run = Run(SEED)
    before = looked_at(run, run.reference)
    for row in RUNS[NAME](run):
        print(*row.values(), flush=True)
        if row["step"] == STEP:
            break
    columns = "prompt", *(f"{what}_{when}" for when in ("before", "after")
                          for what in ("said", "reward", "judge"))
    found = zip(run.held_out, before, looked_at(run, run.policy), strict=True)
    record("hacked", (dict(zip(columns, (talk[-1]["content"], *then, *now), strict=True))
                      for talk, then, now in found))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
