"""What training minimises.

Every objective is a function (model, batch) -> Loss. It returns a *sum* and the number of things
summed, so that cutting a batch into pieces can never change the gradient. A batch is a dict:

    tokens       `b t`
    learn        `b t`      True on the tokens to be predicted; all of them where it is left out
    positions    `b t`      where a row does not count from 0 (packed documents)
    mask         `b t t`    True where a token may look; all before it where it is left out
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Batch = dict[str, Tensor]


@dataclass
class Loss:
    """A sum over `count` things, and further sums over the same things."""

    total: Tensor               # scalar
    count: int
    notes: dict[str, float] = field(default_factory=dict)


Objective = Callable[[nn.Module, Batch], Loss]


def log_probs(model: nn.Module, batch: Batch) -> Tensor:
    """log p(token i+1 | tokens 0 .. i), in nats: `b t-1`. The last token is only predicted."""
    tokens, positions, mask = batch["tokens"], batch.get("positions"), batch.get("mask")
    logits = model(tokens[:, :-1], positions=None if positions is None else positions[:, :-1],
                   mask=None if mask is None else mask[:, :-1, :-1])
    return logits.log_softmax(-1).gather(-1, tokens[:, 1:, None]).squeeze(-1)


def next_token(model: nn.Module, batch: Batch) -> Loss:
    """Cross-entropy in nats, on every token that has one before it and is to be learnt.

    A row's first token is never predicted, whatever `learn` says: nothing stands before it.
    """
    learn = batch.get("learn", torch.ones_like(batch["tokens"], dtype=torch.bool))[:, 1:]
    return Loss(-(log_probs(model, batch) * learn).sum(), int(learn.sum()))


def learnt_log_probs(model: nn.Module, batch: Batch) -> Tensor:
    """What `log_probs` computes where a token is to be learnt, and 0 elsewhere: `b t-1`, in nats.

    The vocabulary is asked about these tokens alone, without the work and memory of all other
    logits, a fifth of a small model's where little is learnt (answers in dialogs). The model is a
    whole one, with `hidden` and `logits`, not wrapped.
    """
    tokens, positions, mask = batch["tokens"], batch.get("positions"), batch.get("mask")
    learn = batch.get("learn", torch.ones_like(tokens, dtype=torch.bool))[:, 1:]
    hidden = model.hidden(
        tokens[:, :-1], positions=None if positions is None else positions[:, :-1],
        mask=None if mask is None else mask[:, :-1, :-1])
    found = -F.cross_entropy(model.logits(hidden[learn]), tokens[:, 1:][learn], reduction="none")
    return found.new_zeros(learn.shape).masked_scatter(learn, found)


def next_learnt_token(model: nn.Module, batch: Batch) -> Loss:
    """The same sum and gradients as `next_token`'s but for rounding, by `learnt_log_probs`."""
    learn = batch.get("learn", torch.ones_like(batch["tokens"], dtype=torch.bool))[:, 1:]
    return Loss(-learnt_log_probs(model, batch).sum(), int(learn.sum()))
