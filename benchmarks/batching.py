"""Continuous next to static batching, where most answers are short and some are very long.

Both ways decode the same requests, `MAX_BATCH` at most at once, with the same layout: static
batching as `stream` does it, in batches of those that came next to each other, which last as long
as their longest answer. Only the tokens that were asked for are counted.
"""

import statistics
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from llama_edu.config import ModelConfig
from llama_edu.generation import left_pad, stream
from llama_edu.inference.batching import Engine
from llama_edu.inference.decoding import DecodingLlama
from llama_edu.model import Llama
from llama_edu.sampling import top_k

from ._rounds import interleaved, machine, ratios, spread, threads
from .decode import MODELS

MODEL = MODELS["15M"]
N, MAX_BATCH = 128, 8               # requests
PROMPT = 8, 64                      # tokens, from and to
MEDIAN, SIGMA, LONGEST = 16, 1.0, 384       # tokens of an answer: lognormal, and a limit
BLOCK_SIZE, N_BLOCKS = 16, 256      # blocks enough that no request is put back
THREADS, ROUNDS, GOAL = 1, 3, 2.0
CONTINUOUS, STATIC = "continuous", "static"

Requests = list[tuple[Tensor, int]]     # prompts, and how long their answers are


def run() -> Iterator[str]:
    """The lines of the report."""
    with threads(THREADS):
        yield from machine()
        requests = drawn(MODEL, N)
        lengths = sorted(n for _, n in requests)
        yield (f"{N} answers of {lengths[0]} to {lengths[-1]} tokens, the median "
               f"{statistics.median(lengths):.0f}; {MAX_BATCH} at once.")
        yield ""
        times = measure(MODEL, requests)
        yield "| batching | tokens/s | times static (least to most) |"
        yield "|---|--:|--:|"
        for name, seconds in times.items():
            yield (f"| {name} | {sum(lengths) / statistics.median(seconds):.0f} | "
                   f"{spread(ratios(times, name, STATIC))} |")
        gain = statistics.median(ratios(times, CONTINUOUS, STATIC))
        yield ""
        yield f"Goal {GOAL} times: {'met' if gain >= GOAL else 'not met'}."


def drawn(config: ModelConfig, n: int) -> Requests:
    """Requests in the order in which they come."""
    gen = torch.Generator().manual_seed(0)
    answers = (MEDIAN * torch.randn(n, generator=gen).mul(SIGMA).exp()).clamp(1, LONGEST).long()
    prompts = torch.randint(*PROMPT, (n,), generator=gen)
    return [(torch.randint(config.vocab_size, (length,), generator=gen), answer)
            for length, answer in zip(prompts.tolist(), answers.tolist(), strict=True)]


def measure(config: ModelConfig, requests: Requests) -> dict[str, list[float]]:
    """Seconds for all requests, each way, round by round."""
    torch.manual_seed(0)
    model = DecodingLlama(Llama(config).eval().requires_grad_(False))
    return interleaved({CONTINUOUS: partial(continuous, model, requests),
                        STATIC: partial(static, model, requests)}, rounds=ROUNDS)


def continuous(model: Llama, requests: Requests) -> list[list[int]]:
    """Every request's answer; a new engine, so that no prompt is known from the round before."""
    engine = Engine(model, N_BLOCKS, block_size=BLOCK_SIZE, max_batch=MAX_BATCH)
    submitted = [engine.submit(prompt.tolist(), top_k(1), max_new=n) for prompt, n in requests]
    engine.run()
    return [request.answer for request in submitted]


def static(model: Llama, requests: Requests) -> list[list[int]]:
    """Every request's answer, batch after batch."""
    answers = []
    for start in range(0, len(requests), MAX_BATCH):
        batch = requests[start:start + MAX_BATCH]
        new = torch.cat(list(stream(model, left_pad([prompt for prompt, _ in batch]), top_k(1),
                                    max_new=max(n for _, n in batch))), dim=1)
        answers += [row[:n] for row, (_, n) in zip(new.tolist(), batch, strict=True)]
    return answers
