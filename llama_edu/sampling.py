"""From logits to the next token.

Every rule is a function `b v` to `b v` that reshapes or lowers logits, so rules compose:
pick(top_p(0.9)(temperature(0.6)(logits))).
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

Rule = Callable[[Tensor], Tensor]


def temperature(value: float) -> Rule:
    """Sharpen (below 1) or flatten (above 1) the distribution."""
    if not 0 < value < math.inf:
        raise ValueError(f"temperature {value} was given; a positive number is needed. For the "
                         "likeliest token always, use top_k(1).")
    return lambda logits: logits / value


def top_k(k: int) -> Rule:
    """Keep exactly k tokens, however many are tied at the edge."""
    if k < 1:
        raise ValueError(f"top_k({k}) would keep no token; 1 or more is needed.")

    def rule(logits: Tensor) -> Tensor:
        best = logits.topk(min(k, logits.shape[-1]), -1)
        return torch.full_like(logits, -torch.inf).scatter(-1, best.indices, best.values)

    return rule


def top_p(p: float) -> Rule:
    """Keep the smallest set of tokens whose probability reaches p (Holtzman et al. 2020, eq. 2)."""
    if not 0 < p <= 1:
        raise ValueError(f"top_p({p}) was given; a probability above 0 and up to 1 is needed.")

    def rule(logits: Tensor) -> Tensor:
        ordered, order = logits.sort(dim=-1, descending=True, stable=True)
        probs = ordered.softmax(-1)
        cut = probs.cumsum(-1) - probs >= p         # the tokens before this one reach p already
        return logits.masked_fill(cut.scatter(-1, order, cut), -torch.inf)

    return rule


def pick(logits: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
    """Draw one token per row: `b v` to `b 1`. Raises ValueError where nothing can be drawn."""
    probs = logits.softmax(-1)
    if probs.isnan().any():
        raise ValueError("the logits hold NaN or infinity, or no token is left; finite numbers are "
                         "needed. If the model ran in 16 bits, run it in float32.")
    return torch.multinomial(probs, 1, generator=generator)
