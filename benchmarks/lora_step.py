"""One step of LoRA training on a real model (forward, backward, clip, AdamW) next to `peft`.

Both have rank 8 on wq and wv of the same float32 weights, the same tokens and the same of them to
learn, the last ones of every row, and AdamW in its fused kernel. Ours runs as `llama-edu tune` does
it, with the masks of packed rows; theirs is the loop that everybody writes over `peft` and
`transformers`, whose logits are those of all tokens. How much is learnt decides: of a short
question and its answer in SmolLM2's format a quarter, of a talk a half.
"""

import statistics
from collections.abc import Iterator
from itertools import repeat

import peft
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llama_edu import checkpoint
from llama_edu.losses import next_learnt_token
from llama_edu.model import Llama
from llama_edu.training import lora, packing
from llama_edu.training_loop import train

from ._rounds import Times, interleaved, machine, ratios, spread, threads
from .decode import transformers_model
from .train_step import LR, loop

MODEL, ROWS, TOKENS = "smollm2", 8, 28          # tokens predicted in a row
SHARES = {"a quarter": 0.25, "half": 0.5, "all": 1.0}
RANK, ALPHA, THREADS, ROUNDS, GOAL = 8, 16, 1, 3, 1.2
OURS, THEIRS = "llama_edu", "peft"


def run() -> Iterator[str]:
    """The lines of the report."""
    with threads(THREADS):
        yield from machine()
        yield ""
        yield f"{MODEL}, rank {RANK} on wq and wv, {ROWS} rows of {TOKENS} tokens."
        yield ""
        yield f"| learnt | {OURS}, tokens/s | {THEIRS}, tokens/s | times {THEIRS} | goal {GOAL} |"
        yield "|---|--:|--:|--:|---|"
        ours, theirs = pair(checkpoint.load_model(MODEL))
        for name, share in SHARES.items():
            yield line(name, measure(ours, theirs, batch(share, ours.config.vocab_size)))


def pair(model: Llama) -> tuple[Llama, nn.Module]:
    """Our model and theirs, of the same weights, each with a path that adds nothing yet."""
    theirs = peft.get_peft_model(transformers_model(model), peft.LoraConfig(
        r=RANK, lora_alpha=ALPHA, target_modules=["q_proj", "v_proj"])).train()
    lora.add_lora(model, "wq wv", rank=RANK, alpha=ALPHA)
    return model, theirs


def batch(share: float, n_vocab: int) -> dict[str, Tensor]:
    """Rows as `packing` lays them out, the last tokens of each to be learnt."""
    chance = torch.Generator().manual_seed(0)
    learn = torch.arange(TOKENS + 1) > TOKENS - round(share * TOKENS)
    tokens = torch.randint(n_vocab, (ROWS, TOKENS + 1), generator=chance)
    return packing.lay_out([[torch.stack([row, learn.long()], dim=1)] for row in tokens],
                           length=TOKENS + 1)


def measure(ours: Llama, theirs: nn.Module, given: dict[str, Tensor]) -> Times:
    """Seconds of one step of each."""
    steps = train(ours, repeat(given), next_learnt_token, lr=lambda _: LR, steps=10**6)
    return interleaved({OURS: lambda: next(steps),
                        THEIRS: loop(theirs, lambda: their_loss(theirs, given))}, rounds=ROUNDS)


def their_loss(theirs: nn.Module, given: dict[str, Tensor]) -> Tensor:
    tokens, learn = given["tokens"], given["learn"]
    labels = tokens[:, 1:].masked_fill(~learn[:, 1:], -100)     # what `cross_entropy` ignores
    logits = theirs(tokens[:, :-1], use_cache=False).logits
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten())


def line(name: str, times: Times) -> str:
    speed = {each: ROWS * TOKENS / statistics.median(times[each]) for each in times}
    gain = ratios(times, OURS, THEIRS)
    return (f"| {name} | {speed[OURS]:.0f} | {speed[THEIRS]:.0f} | {spread(gain)} | "
            f"{'met' if statistics.median(gain) >= GOAL else 'not met'} |")
