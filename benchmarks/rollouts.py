"""What PPO asks of its policy before each step, all prompts in one batch next to one by one.

An answer, its log-probabilities and its score, of the models that chapter 19 trains. Both ways are
`rollouts`, with a cache; one draws in one batch, the other calls it with one prompt at a time. They
draw other answers, so tokens per second are compared.
"""

import statistics
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from llama_edu import checkpoint
from llama_edu.alignment import reward_files
from llama_edu.alignment.exam import messages
from llama_edu.alignment.reward import scores
from llama_edu.alignment.rollouts import rollouts
from llama_edu.data.dialogues import dialogues, prompts
from llama_edu.data.dialogues_tokenizer import FOLDER
from llama_edu.losses import Batch
from llama_edu.prompts import dialog_tokens
from llama_edu.prompts.dialog import stop_ids
from llama_edu.prompts.llama3 import LLAMA_3

from ._rounds import interleaved, machine, spread, threads

MODEL, REWARD = "dialogues-sloppy", "helpful"
SIZES, MAX_NEW = (16, 64), 96
THREADS, ROUNDS, GOAL = 1, 5, 5.0
BATCHED, ALONE = "in one batch", "one by one"

Draw = Callable[[Sequence[Tensor]], Batch]


def run() -> Iterator[str]:
    """The lines of the report."""
    with threads(THREADS):
        yield from machine()
        yield ""
        yield f"| answers | {BATCHED}, tokens/s | {ALONE}, tokens/s | times {ALONE} | goal {GOAL} |"
        yield "|--:|--:|--:|--:|---|"
        draw, asked = task(max(SIZES))
        for size in SIZES:
            yield line(size, measure(draw, asked[:size]))


def task(n: int) -> tuple[Draw, list[Tensor]]:
    """How the policy answers prompts, and n of them."""
    policy, tokenizer = checkpoint.load(MODEL)
    reward = reward_files.load(FOLDER / REWARD)[0]

    def grade(prompts: Sequence[Tensor], answers: Sequence[Tensor]) -> Tensor:
        return scores(reward, [torch.cat(both) for both in zip(prompts, answers, strict=True)],
                      size=max(SIZES))

    asked = [torch.tensor(dialog_tokens(messages(next(prompts(talk))), tokenizer, LLAMA_3).ids)
             for talk in dialogues(n, seed=0)]
    return partial(rollouts, policy, grade=grade, max_new=MAX_NEW,
                   stop_ids=stop_ids(tokenizer, LLAMA_3),
                   generator=torch.Generator().manual_seed(0)), asked


def measure(draw: Draw, asked: Sequence[Tensor]) -> dict[str, list[float]]:
    """Tokens drawn per second, each way, round by round."""
    drawn: dict[str, list[int]] = {BATCHED: [], ALONE: []}

    def one_way(name: str, parts: list[Sequence[Tensor]]) -> None:
        drawn[name].append(sum(int(draw(part)["learn"].sum()) for part in parts))

    times = interleaved({BATCHED: partial(one_way, BATCHED, [asked]),
                         ALONE: partial(one_way, ALONE, [[prompt] for prompt in asked])},
                        rounds=ROUNDS)
    return {name: [n / took for n, took in zip(drawn[name][1:], times[name], strict=True)]
            for name in times}       # the first round is not counted


def line(size: int, speed: dict[str, list[float]]) -> str:
    gain = [fast / slow for fast, slow in zip(speed[BATCHED], speed[ALONE], strict=True)]
    median = {name: statistics.median(speed[name]) for name in speed}
    return (f"| {size} | {median[BATCHED]:.0f} | {median[ALONE]:.0f} | {spread(gain)} | "
            f"{'met' if statistics.median(gain) >= GOAL else 'not met'} |")
