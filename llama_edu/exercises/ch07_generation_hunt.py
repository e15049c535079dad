"""The bug hunt of chapter 07: 7.3, samplers that are wrong in one place."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..sampling import min_p, repetition, temperature, top_k, top_p
from .hunts import HEALTHY, Bug, Hunt

Step = Callable[[Tensor, Tensor, Any], Tensor]

HEALTHY_STEPS: dict[str, Step] = {
    "penalty": lambda x, tokens, value: repetition(value)(x, tokens),
    "heat": lambda x, tokens, value: temperature(value)(x),
    "k": lambda x, tokens, value: top_k(value)(x),
    "p": lambda x, tokens, value: top_p(value)(x),
    "m": lambda x, tokens, value: min_p(value)(x),
}
ORDER = tuple(HEALTHY_STEPS)


def _sampler(*, order: tuple[str, ...] = ORDER, **spoiled: Step) -> Callable:
    """A sampler whose steps are the package's, but for those that are given."""
    steps = HEALTHY_STEPS | spoiled

    def sampler(logits: Tensor, tokens: Tensor, *, penalty: float = 1.0, heat: float = 1.0,
                k: int | None = None, p: float = 1.0, m: float | None = None) -> Tensor:
        values = {"penalty": penalty, "heat": heat, "k": k, "p": p, "m": m}
        for name in order:
            if values[name] is not None:
                logits = steps[name](logits, tokens, values[name])
        return logits.softmax(-1)
    return sampler


def _crossing_dropped(x: Tensor, tokens: Tensor, p: float) -> Tensor:
    ordered, order = x.sort(dim=-1, descending=True, stable=True)
    cut = ordered.softmax(-1).cumsum(-1) > p + 1e-6
    cut[:, 0] = False
    return x.masked_fill(cut.scatter(-1, order, cut), -torch.inf)


def _penalised(x: Tensor, tokens: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    seen = repetition(2.0)(torch.ones_like(x), tokens) != 1
    return torch.where(seen, change(x), x)


def _counted(x: Tensor, tokens: Tensor, penalty: float) -> Tensor:
    said = torch.zeros(len(x), x.shape[-1] + 1)
    times = said.scatter_add(1, tokens + 1, torch.ones(tokens.shape))[:, 1:]
    return torch.where(x > 0, x / penalty**times, x * penalty**times)


def _last_one_too(x: Tensor, tokens: Tensor, penalty: float) -> Tensor:
    """-1, no token, taken as the place of the last one."""
    return repetition(penalty)(x, tokens.where(tokens >= 0, x.shape[-1] - 1))


def _ties_kept(x: Tensor, tokens: Tensor, k: int) -> Tensor:
    return x.masked_fill(x < x.topk(min(k, x.shape[-1]), -1).values[:, -1:], -torch.inf)


def _bare_threshold(x: Tensor, tokens: Tensor, m: float) -> Tensor:
    kept = (x.softmax(-1) >= m) | (x == x.amax(-1, keepdim=True))
    return x.masked_fill(~kept, -torch.inf)


def _look(sampler: Callable) -> Tensor:
    """One call for each thing that can be wrong, side by side."""
    shares = torch.tensor([[0.4, 0.3, 0.12, 0.1, 0.05, 0.03], [0.2, 0.2, 0.2, 0.2, 0.1, 0.1]])
    x, said = shares.log() + 1.5, torch.tensor([[-1, 4, 4, 1], [0, 2, 3, 3]])
    return torch.cat([sampler(x, said, **asked) for asked in (
        {"p": 0.6}, {"k": 2}, {"m": 0.2}, {"m": 0.5}, {"heat": 3.0, "p": 0.6}, {"penalty": 1.5},
        {"heat": 2.0})])


HUNT = Hunt(
    "7.3", "Which mistake is in which sampler?", "Bug hunt", _sampler,
    bugs={
        "top-p drops the token that crosses": Bug(
            lambda: _sampler(p=_crossing_dropped),
            "keeps tokens that do not reach p together, unless one alone does"),
        "temperature comes last": Bug(
            lambda: _sampler(order=("penalty", "k", "p", "m", "heat")),
            "keeps as many tokens at any temperature"),
        "top-k keeps ties": Bug(
            lambda: _sampler(k=_ties_kept),
            "keeps more than k tokens where several are tied at the edge, and exactly k else"),
        "min-p is a bare threshold": Bug(
            lambda: _sampler(m=_bare_threshold),
            "cuts what is below m itself, however likely the likeliest is"),
        "min-p looks at the whole batch": Bug(
            lambda: _sampler(m=lambda x, tokens, m: x.masked_fill(
                x < x.amax() + math.log(m), -torch.inf)),
            "treats a row otherwise when another row stands beside it"),
        "the penalty divides every logit": Bug(
            lambda: _sampler(penalty=lambda x, tokens, value: _penalised(
                x, tokens, lambda each: each / value)),
            "makes a token that was said likelier where its logit is below 0"),
        "the penalty counts repeats": Bug(
            lambda: _sampler(penalty=_counted),
            "lowers a token further for each time that it was said"),
        "the penalty hits the vocabulary's last token": Bug(
            lambda: _sampler(penalty=_last_one_too),
            "makes the last token of the vocabulary less likely in rows that have a -1"),
    },
    hidden={"a": "temperature comes last", "b": "min-p looks at the whole batch",
            "c": HEALTHY, "d": "the penalty divides every logit",
            "e": "the penalty hits the vocabulary's last token",
            "f": "top-p drops the token that crosses"},
    look=_look,
    hints=(
        "One setting at a time, the others left out: sampler(logits, tokens, p=0.6). First with "
        "numbers that you can follow by hand.",
        "Give logits as the logarithm of shares that you choose. Then ask for each verdict: which "
        "input would show it? Two rows, negative logits, a -1 among the tokens.",
        "Compare a row alone with the same row in a batch; count what is kept at heat 1 and at "
        "heat 3 with the same p; penalise a token whose logit is below 0.",
    ))

EXERCISES = [HUNT]
