"""Group relative policy optimisation: PPO without a critic (Shao et al. 2024, section 4.1).

    batches = groups(policy, reference, prompts, grade, size=32, n=8, ...)
    for step in train(policy, batches, grpo, lr=lambda step: 3e-4, steps=200): ...

What to expect of an answer is what others to the same prompt were worth. The price of going away
from the reference is not in the reward but in the loss.
"""

from collections.abc import Collection, Iterator, Sequence

import torch
from torch import Tensor

from ..losses import Batch, Loss, learnt_log_probs
from ..model import Llama
from .ppo import CLIP, Tell, answered, clipped, cut
from .rollouts import Grade

BETA = 0.04                     # the paper's
LEAST_SPREAD = 1e-4


def group_advantages(scores: Tensor, *, n: int) -> Tensor:
    """By how many deviations each score `b` lies above the mean of its group, n side by side: `b`.

    Where all of a group are alike, 0. Raises ValueError where groups are smaller than two, which
    have no deviation, or not whole.
    """
    if n < 2 or len(scores) % n:
        raise ValueError(f"{len(scores)} scores in groups of {n} were given; whole groups of two "
                         "or more are needed. Draw more answers to a prompt.")
    by_group = scores.view(-1, n)
    lead = by_group - by_group.mean(-1, keepdim=True)
    return (lead / (by_group.std(-1, keepdim=True) + LEAST_SPREAD)).flatten()


def grpo(policy: Llama, batch: Batch, *, clip: float = CLIP, beta: float = BETA) -> Loss:
    """The mean over an answer's tokens of the clipped loss and beta times the estimated KL to the
    reference, summed over the answers (eq. 3 there).

    The KL of a token is estimated as q/p - log(q/p) - 1, q the reference's probability and p the
    policy's: unbiased, and never below 0 (eq. 4). Notes: clipped, the mean share of tokens whose
    ratio is beyond the clip; kl, the mean estimate.
    """
    acts = batch["learn"][:, 1:]
    now = learnt_log_probs(policy, batch)
    log_ratio, back = now - batch["log_probs"], batch["reference"] - now
    kl = back.exp() - back - 1
    loss = clipped(log_ratio, batch["advantages"][:, None], clip) + beta * kl
    beyond = (log_ratio.exp() - 1).abs() > clip
    share = acts / acts.sum(-1, keepdim=True)
    return Loss((loss * share).sum(), len(acts), {
        "clipped": (beyond * share).sum().item(), "kl": (kl * share).sum().item()})


def groups(policy: Llama, reference: Llama, prompts: Sequence[Tensor], grade: Grade, *, size: int,
           n: int, max_new: int, stop_ids: Collection[int], generator: torch.Generator,
           epochs: int = 1, pieces: int = 4, tell: Tell = lambda batch: None) -> Iterator[Batch]:
    """Batches without end, as `ppo.experience` has them, n answers to a prompt."""
    for drawn in answered(policy, reference, prompts, grade, size=size, n=n, max_new=max_new,
                          stop_ids=stop_ids, generator=generator, pieces=pieces):
        tell(drawn)
        batch = drawn | {"advantages": group_advantages(drawn["scores"], n=n)}
        yield from cut(batch, epochs=epochs, pieces=pieces, generator=generator)
