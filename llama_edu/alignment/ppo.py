"""Proximal policy optimisation: a policy learns from what its own answers were worth.

    both = ActorCritic(policy, critic)
    batches = experience(both, reference, prompts, grade, size=32, beta=0.05, ...)
    for step in train(both, batches, ppo, lr=lambda step: 3e-4, steps=200): ...

The state is the text so far, an action the next token, and the only reward that anybody gives
stands at the last token of an answer; at every token there is a price for having gone from the
reference (Schulman et al. 2017; Ouyang et al. 2022; Touvron et al. 2023b, section 3.2.3).
"""

from collections.abc import Callable, Collection, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..layers import widen
from ..losses import Batch, Loss, learnt_log_probs
from ..model import Llama
from .reward import RewardModel, whitened
from .rollouts import Grade, rollouts

CLIP = 0.2                      # Llama 2's
DISCOUNT, LAMBDA = 1.0, 0.95    # an answer is short; the rest as is usual (Ouyang et al. 2022)
VALUE_WEIGHT = 0.1

Tell = Callable[[Batch], None]


class ActorCritic(nn.Module):
    """Both models that learn, as one for the loop: who acts, and who says what to expect."""

    def __init__(self, policy: Llama, critic: RewardModel):
        super().__init__()
        self.policy, self.critic = policy, critic


def values(critic: RewardModel, tokens: Tensor) -> Tensor:
    """What the critic expects from here on, at every token of `b t`: `b t`, float32 or wider."""
    found = widen(critic.trunk.hidden(tokens))
    return F.linear(found, critic.head.weight.to(found.dtype)).squeeze(-1)


# -- what an action was worth --------------------------------------------------------------------

def token_rewards(scores: Tensor, log_probs: Tensor, reference: Tensor, acts: Tensor, *,
                  beta: float) -> Tensor:
    """The reward of every token, `b t`: -beta (log p - log p of the reference) where one was drawn,
    and the score `b` on top at the last one. acts: `b t`, True on what was drawn.

    Raises ValueError for a row in which nothing was.
    """
    if not acts.any(-1).all():
        raise ValueError("an answer without a token was given; one or more are needed. Leave it "
                         "out.")
    rewards = -beta * (log_probs - reference) * acts
    places = torch.arange(acts.shape[1], device=acts.device)
    last = torch.where(acts, places, 0).amax(-1, keepdim=True)
    return rewards.scatter_add(-1, last, scores[:, None].to(rewards.dtype))


def advantages(rewards: Tensor, expected: Tensor, acts: Tensor, *, discount: float = DISCOUNT,
               lam: float = LAMBDA) -> tuple[Tensor, Tensor]:
    """How much better each action was than expected, and the return to expect: both `b t`, and 0
    where nothing was drawn (Schulman et al. 2016, eq. 16).

    expected: the critic's values `b t`, of the text before each action. acts: `b t`, True on an
    answer, without gaps in it. Nothing follows an answer's last token.
    """
    found, after = torch.zeros_like(rewards), torch.zeros_like(rewards[:, 0])
    following = torch.zeros_like(after)
    for i in reversed(range(rewards.shape[1])):
        surprise = rewards[:, i] + discount * following - expected[:, i]
        after = (surprise + discount * lam * after) * acts[:, i]
        following = expected[:, i] * acts[:, i]
        found[:, i] = after
    return found, (found + expected) * acts


def spread(found: Tensor, acts: Tensor) -> Tensor:
    """Whiten what stands on actions, `b t`, over all of them; 0 elsewhere."""
    return torch.zeros_like(found).masked_scatter(acts, whitened(found[acts]))


# -- the loss ------------------------------------------------------------------------------------

def clipped(log_ratio: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """The loss of each action, of any shape (Schulman et al. 2017, eq. 7): -ratio x advantage, but
    no more is to be gained where the ratio has already gone by `clip` in the advantage's favour."""
    ratio = log_ratio.exp()
    return -torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)


def clipped_values(found: Tensor, before: Tensor, returns: Tensor, clip: float) -> Tensor:
    """Half the squared error of each value, the larger of the value's own and of what it would be
    if it moved by no more than `clip`."""
    held = before + (found - before).clamp(-clip, clip)
    return torch.maximum((found - returns).square(), (held - returns).square()) / 2


def ppo(model: ActorCritic, batch: Batch, *, clip: float = CLIP,
        value_weight: float = VALUE_WEIGHT) -> Loss:
    """Clipped losses of policy and values, summed over the tokens that were drawn.

    A batch as `experience` yields it. Notes: clipped, the share of tokens whose ratio is beyond the
    clip; moved, the mean of log p before less now; value, the critic's loss.
    """
    acts = batch["learn"][:, 1:]
    log_ratio = learnt_log_probs(model.policy, batch) - batch["log_probs"]
    found = values(model.critic, batch["tokens"][:, :-1])
    actor = clipped(log_ratio, batch["advantages"], clip) * acts
    critic = clipped_values(found, batch["values"], batch["returns"], clip) * acts
    beyond = ((log_ratio.detach().exp() - 1).abs() > clip) & acts
    return Loss((actor + value_weight * critic).sum(), int(acts.sum()), {
        "clipped": beyond.sum().item(), "moved": -log_ratio.detach().sum().item(),
        "value": critic.detach().sum().item()})


# -- batches -------------------------------------------------------------------------------------

def experience(model: ActorCritic, reference: Llama, prompts: Sequence[Tensor], grade: Grade, *,
               size: int, max_new: int, stop_ids: Collection[int], beta: float,
               generator: torch.Generator, epochs: int = 1, pieces: int = 4, whiten: bool = True,
               tell: Tell = lambda batch: None) -> Iterator[Batch]:
    """Batches without end: the policy, as it is by then, answers `size` prompts; its answers are
    read `epochs` times in `pieces` batches each; and so on.

    beta: the price of a nat from the reference. Llama 2 reads its answers once. tell: gets every
    batch of answers (see `rollouts`), with "reference", before it is learnt. Raises ValueError
    where `pieces` does not divide `size`, or the prompts do not fill it, and as `rollouts` does.
    """
    for drawn in answered(model.policy, reference, prompts, grade, size=size, n=1, max_new=max_new,
                          stop_ids=stop_ids, generator=generator, pieces=pieces):
        tell(drawn)
        acts = drawn["learn"][:, 1:]
        with torch.no_grad():
            before = values(model.critic, drawn["tokens"][:, :-1]) * acts
        rewards = token_rewards(drawn["scores"], drawn["log_probs"], drawn["reference"], acts,
                                beta=beta)
        found, returns = advantages(rewards, before, acts)
        found = spread(found, acts) if whiten else found
        yield from cut(drawn | {"values": before, "advantages": found, "returns": returns},
                       epochs=epochs, pieces=pieces, generator=generator)


def answered(policy: Llama, reference: Llama, prompts: Sequence[Tensor], grade: Grade, *,
             size: int, n: int, max_new: int, stop_ids: Collection[int],
             generator: torch.Generator, pieces: int) -> Iterator[Batch]:
    """Rollouts without end, each of n answers to `size` / n prompts, and the reference's
    log-probabilities of them, "reference" `b t-1`. Every epoch has the prompts in another order.
    Raises ValueError for a size that does not fit, and as `rollouts` does."""
    if size % (n * pieces) or len(prompts) * n < size:
        raise ValueError(f"{size} answers, {n} to a prompt, in {pieces} pieces from {len(prompts)} "
                         "prompts were asked for; whole groups in every piece, and a prompt for "
                         "every group, are needed. Change the size.")
    order: list[int] = []
    while True:
        if len(order) < size // n:
            order = torch.randperm(len(prompts), generator=generator).tolist()
        asked, order = order[:size // n], order[size // n:]
        drawn = rollouts(policy, [prompts[i] for i in asked], grade, n=n, max_new=max_new,
                         stop_ids=stop_ids, generator=generator)
        with torch.no_grad():
            before = learnt_log_probs(reference, drawn)
        yield drawn | {"reference": before}


def cut(batch: Batch, *, epochs: int, pieces: int, generator: torch.Generator) -> Iterator[Batch]:
    """The rows of a batch in so many pieces, every epoch in another order."""
    n = len(batch["tokens"])
    for _ in range(epochs):
        for some in torch.randperm(n, generator=generator).chunk(pieces):
            yield {name: tensor[some] for name, tensor in batch.items()}
