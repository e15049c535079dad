"""A reward model: a Llama that ends in one number, how good what it read is.

    model = RewardModel.of(sft)                     # every score is 0 until it is trained
    tokens, ends = right_pad(texts)
    model(tokens, ends)                             # one score a text

Llama 2 has two, for help and for safety, and one rule that makes a single reward of both
(Touvron et al. 2023b, sections 3.2.2 and 3.2.3).
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..layers import widen
from ..model import Llama
from ..sampling import NO_TOKEN

UNSAFE_BELOW = 0.15         # as a probability: Llama 2's threshold, precision 0.89, recall 0.55
LEAST_VARIANCE = 1e-8


class RewardModel(nn.Module):
    """Texts in, one score for each out: a linear head on what the last token knows.

    The head has no bias (a constant is no preference), begins at 0, and is float32 or wider.
    """

    def __init__(self, trunk: Llama):
        super().__init__()
        like = trunk.tok_embeddings.weight
        self.trunk = trunk
        self.head = nn.Linear(trunk.config.dim, 1, bias=False, device=like.device,
                              dtype=torch.promote_types(like.dtype, torch.float32))
        nn.init.zeros_(self.head.weight)

    @classmethod
    def of(cls, model: Llama) -> Self:
        """One that begins where a base model or an assistant stands, which stays as it is. The
        copy has no table of its own for logits: nobody asks it for a next token. What is frozen
        there is frozen here."""
        trunk = copy.deepcopy(model)
        trunk.output, trunk.config = None, replace(model.config, tied_embeddings=True)
        return cls(trunk)

    def forward(self, tokens: Tensor, ends: Tensor) -> Tensor:
        """Scores `b`, float32 or wider, of tokens `b t`; the last real token of each is at `ends`.

        What follows it is not seen, whatever it is. The place is given, and not looked for by a
        token's id: where padding is also an end token, the first one found would be the prompt's,
        and both answers to it would score alike. Raises ValueError for a place outside the row.
        """
        if ((ends < 0) | (ends >= tokens.shape[1])).any():
            raise ValueError(f"the last tokens are said to be at {ends.tolist()}; places from 0 to "
                             f"{tokens.shape[1] - 1} are needed. Make tokens and places with "
                             "right_pad.")
        hidden = self.trunk.hidden(tokens.clamp(min=0))     # any token will do where nobody looks
        last = widen(hidden[torch.arange(len(ends), device=ends.device), ends])
        return F.linear(last, self.head.weight.to(last.dtype)).squeeze(-1)


def right_pad(texts: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Texts `t` of any lengths as one `b t`, NO_TOKEN after the shorter ones, and the place of each
    one's last token, `b`. Raises ValueError for no texts, and for one without tokens."""
    lengths = [len(text) for text in texts]
    if not min(lengths, default=0):
        raise ValueError(f"{len(texts)} texts of {lengths} tokens were given; one text or more, "
                         "each with a token, is needed. Leave out the empty ones.")
    tokens = texts[0].new_full((len(texts), max(lengths)), NO_TOKEN)
    for row, text in zip(tokens, texts, strict=True):
        row[:len(text)] = text
    return tokens, torch.tensor(lengths, device=tokens.device) - 1


@torch.no_grad()
def scores(model: RewardModel, texts: Sequence[Tensor], *, size: int) -> Tensor:
    """The scores `n` of n texts `t` of any lengths, read `size` at a time. Raises as `right_pad`
    does."""
    device = model.head.weight.device
    padded = (right_pad(texts[start:start + size]) for start in range(0, max(len(texts), 1), size))
    return torch.cat([model(tokens.to(device), ends.to(device)) for tokens, ends in padded])


def combined(helpful: Tensor, safe: Tensor, tagged: Tensor) -> Tensor:
    """Llama 2's one reward of two scores `b`: safety's where the prompt is tagged as dangerous or
    the answer is less than 0.15 likely to be safe, else helpfulness'.

    The paper chooses between probabilities and takes the logit of the chosen one, which is the
    score again; so nothing is lost where a probability rounds to 1.
    """
    return torch.where(tagged | (safe < math.log(UNSAFE_BELOW / (1 - UNSAFE_BELOW))), safe, helpful)


def whitened(rewards: Tensor) -> Tensor:
    """Rewards `b` shifted and scaled to mean 0 and variance 1 over the batch (of b - 1).

    Equal rewards become 0. Raises ValueError for fewer than two, which have no variance.
    """
    if rewards.numel() < 2:
        raise ValueError(f"{rewards.numel()} rewards were given; two or more are needed, to have a "
                         "variance. Whiten a larger batch.")
    return (rewards - rewards.mean()) * (rewards.var() + LEAST_VARIANCE).rsqrt()
