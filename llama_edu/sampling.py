"""From logits to the next token.

Every rule is a function `b v` to `b v` that reshapes or lowers logits, so rules compose:
pick(top_p(0.9)(temperature(0.6)(logits))). A rule about repetition also reads the tokens so far,
`rule(logits, tokens)`; the others take them and do not look.
"""

import math
from typing import Protocol

import torch
from torch import Tensor

NO_TOKEN = -1       # fills the places of a batch where a row has no token
COLDEST = 1e-6      # below it only the likeliest token is ever drawn


class Rule(Protocol):
    """Logits `b v` and the tokens so far, `b s` (NO_TOKEN where a row has none), to logits."""

    def __call__(self, logits: Tensor, tokens: Tensor | None = None) -> Tensor: ...


def temperature(value: float) -> Rule:
    """Sharpen (below 1) or flatten (above 1) the distribution. Raises ValueError where the logits
    would be divided by almost nothing: they would overflow."""
    if not COLDEST <= value < math.inf:
        raise ValueError(f"temperature {value} was given; a number from {COLDEST} on is needed. "
                         "For the likeliest token always, use top_k(1).")
    return lambda logits, tokens=None: logits / value


def top_k(k: int) -> Rule:
    """Keep exactly k tokens, however many are tied at the edge. Raises ValueError for k below 1."""
    if k < 1:
        raise ValueError(f"top_k({k}) would keep no token; 1 or more is needed.")

    def rule(logits: Tensor, tokens: Tensor | None = None) -> Tensor:
        best = logits.topk(min(k, logits.shape[-1]), -1)
        return torch.full_like(logits, -torch.inf).scatter(-1, best.indices, best.values)

    return rule


def top_p(p: float) -> Rule:
    """Keep the smallest set of tokens whose probability reaches p (Holtzman et al. 2020, eq. 2).

    top_p(1) keeps all. Raises ValueError for a p that is no probability above 0.
    """
    if not 0 < p <= 1:
        raise ValueError(f"top_p({p}) was given; a probability above 0 and up to 1 is needed.")

    def rule(logits: Tensor, tokens: Tensor | None = None) -> Tensor:
        if p == 1:      # a sum of rounded probabilities may reach 1 before the last
            return logits
        ordered, order = logits.sort(dim=-1, descending=True, stable=True)
        probs = ordered.softmax(-1)
        cut = probs.cumsum(-1) - probs >= p         # the tokens before this one reach p already
        return logits.masked_fill(cut.scatter(-1, order, cut), -torch.inf)

    return rule


def min_p(p: float) -> Rule:
    """Keep the tokens that are at least p times as likely as the likeliest (Nguyen et al. 2024).

    Raises ValueError for a p that is no share above 0.
    """
    if not 0 < p <= 1:
        raise ValueError(f"min_p({p}) was given; a share above 0 and up to 1 is needed.")

    def rule(logits: Tensor, tokens: Tensor | None = None) -> Tensor:
        edge = logits.amax(-1, keepdim=True) + math.log(p)
        return logits.masked_fill(logits < edge, -torch.inf)

    return rule


def known(n_vocab: int) -> Rule:
    """Keep the tokens that a vocabulary knows, 0 to n_vocab - 1: a table may have rows beyond."""
    def rule(logits: Tensor, tokens: Tensor | None = None) -> Tensor:
        beyond = torch.arange(logits.shape[-1], device=logits.device) >= n_vocab
        return logits.masked_fill(beyond, -torch.inf)

    return rule


# -- rules that read the tokens so far ---------------------------------------------------------


def repetition(penalty: float) -> Rule:
    """Make every token that was there before less likely; prompts count (Keskar et al. 2019, 4.1).

    A logit above 0 is divided by the penalty and one below multiplied, so 0 is where it has no
    force and 1 is the penalty that changes nothing. Raises ValueError for a penalty below 1.
    """
    if not 1 <= penalty < math.inf:
        raise ValueError(f"repetition({penalty}) was given; 1 or more is needed. 1 changes "
                         "nothing; 1.1 to 1.3 is usual.")

    def rule(logits: Tensor, tokens: Tensor | None = None) -> Tensor:
        seen = _where(_needed(tokens, "repetition"), like=logits)
        less = torch.where(logits > 0, logits / penalty, logits * penalty)
        return torch.where(seen, less, logits)

    return rule


def no_repeat(n: int) -> Rule:
    """Forbid the token that would complete n tokens in a row that were there before, in order.

    Raises ValueError for n below 1.
    """
    if n < 1:
        raise ValueError(f"no_repeat({n}) was given; a run of 1 token or more is needed.")

    def rule(logits: Tensor, tokens: Tensor | None = None) -> Tensor:
        tokens = _needed(tokens, "no_repeat")
        if tokens.shape[1] < n:
            return logits
        runs = tokens.unfold(1, n, 1)                           # b, where a run begins, n
        last = tokens[:, None, tokens.shape[1] - n + 1:]        # the n - 1 tokens at the end
        begun = (runs[..., :-1] == last).all(-1)
        ends = runs[..., -1].masked_fill(~begun, NO_TOKEN)
        return logits.masked_fill(_where(ends, like=logits), -torch.inf)

    return rule


def _needed(tokens: Tensor | None, name: str) -> Tensor:
    if tokens is None:
        raise ValueError(f"{name} was given logits alone; it needs the tokens so far. "
                         "Call rule(logits, tokens), with tokens of shape `b s`.")
    return tokens


def _where(tokens: Tensor, *, like: Tensor) -> Tensor:
    """`b v`, True at every token of a row."""
    seen = torch.zeros(len(like), like.shape[-1] + 1, dtype=torch.bool, device=like.device)
    return seen.scatter(1, tokens - NO_TOKEN, True)[:, 1:]      # NO_TOKEN's column is cut off


def usual_rules(heat: float, p: float) -> tuple[Rule, ...]:
    """Temperature, then top-p; a heat of 0 stands for the likeliest token always.

    Raises ValueError for numbers that mean nothing.
    """
    if not heat >= 0:
        raise ValueError(f"temperature {heat} was given; 0 or a positive number is needed. "
                         "0 takes the likeliest token always.")
    return (temperature(heat) if heat else top_k(1)), top_p(p)


# -- the draw ----------------------------------------------------------------------------------


def probabilities(logits: Tensor) -> Tensor:
    """`b v` to `b v`, rows that sum to 1. Raises ValueError where nothing could be drawn."""
    probs = logits.softmax(-1)
    if probs.isnan().any():
        raise ValueError("the logits hold NaN or infinity, or no token is left; finite numbers are "
                         "needed. If the model ran in 16 bits, run it in float32.")
    return probs


def pick(logits: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
    """Draw one token per row: `b v` to `b 1`. Raises ValueError where nothing can be drawn."""
    return torch.multinomial(probabilities(logits), 1, generator=generator)
