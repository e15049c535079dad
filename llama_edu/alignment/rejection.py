"""Rejection sampling: draw several answers to a prompt, and keep the one that scores best.

    for found in rounds(model, prompts, score, n=8, n_rounds=4, max_new=60, stop_ids=stops): ...

Whoever reads trains the model on `found`; the next round draws from what it is then.

A score is a function of whole texts, prompt and answer, such as `partial(scores, reward, size=64)`.
What chooses should not also be what measures: the best of many is, too, the one about which the
score errs most in its favour.
"""

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..generation import left_pad, stream
from ..model import Llama
from ..sampling import NO_TOKEN, Rule

Score = Callable[[Sequence[Tensor]], Tensor]        # n texts `t` of any lengths to `n`


@dataclass(frozen=True, eq=False)
class Choice:
    """The answer to one prompt that was kept."""

    prompt: Tensor              # `t`
    answer: Tensor              # `t`, with its end token, unless it had no room for one
    score: float

    @property
    def text(self) -> Tensor:
        """Prompt and answer."""
        return torch.cat([self.prompt, self.answer])


def samples(model: Llama, prompts: Sequence[Tensor], *rules: Rule, n: int, max_new: int,
            stop_ids: Collection[int], generator: torch.Generator | None = None
            ) -> list[list[Tensor]]:
    """n answers `t` to each prompt `t`, all drawn in one batch with a cache; end tokens stay on.

    Raises ValueError for no prompts, and as `stream` does.
    """
    drawn = torch.cat(list(stream(
        model, left_pad([prompt for prompt in prompts for _ in range(n)]), *rules, max_new=max_new,
        stop_ids=stop_ids, generator=generator)), dim=1)
    rows = [row[row != NO_TOKEN] for row in drawn]
    return [rows[start:start + n] for start in range(0, len(rows), n)]


def best_of(model: Llama, prompts: Sequence[Tensor], score: Score, *rules: Rule, n: int,
            max_new: int, stop_ids: Collection[int], generator: torch.Generator | None = None
            ) -> list[Choice]:
    """For each prompt `t` the best of n answers; of equal scores, the first drawn.

    It differs from the model by `kl_bound(n)` nats at most. Raises as `samples` and `choose` do.
    """
    drawn = samples(model, prompts, *rules, n=n, max_new=max_new, stop_ids=stop_ids,
                    generator=generator)
    return [choose(prompt, answers, score) for prompt, answers in zip(prompts, drawn, strict=True)]


def choose(prompt: Tensor, answers: Sequence[Tensor], score: Score) -> Choice:
    """The best of some answers to one prompt. Raises ValueError for a score that is NaN, which is
    neither more nor less than another."""
    given = score([torch.cat([prompt, answer]) for answer in answers])
    if given.isnan().any():
        raise ValueError(f"{int(given.isnan().sum())} of {len(given)} scores are NaN; numbers are "
                         "needed. Look at what scores them.")
    best = int(given.argmax())
    return Choice(prompt, answers[best], given[best].item())


def rounds(model: Llama, prompts: Sequence[Tensor], score: Score, *rules: Rule, n: int,
           n_rounds: int, max_new: int, stop_ids: Collection[int],
           generator: torch.Generator | None = None, keep: bool = True) -> Iterator[list[Choice]]:
    """Yield a choice for each prompt, round by round; whoever reads trains the model in between.

    keep: the best answer of all earlier rounds stands against the new ones, as in Llama 2 from
    RLHF-V4 on: models that learnt from the latest round alone had lost some of their abilities
    (Touvron et al. 2023b, section 3.2.3). It is scored again, so the reward model may learn
    between the rounds, too. Raises as `best_of` does.
    """
    kept: list[list[Tensor]] = [[] for _ in prompts]
    for _ in range(n_rounds):
        drawn = samples(model, prompts, *rules, n=n, max_new=max_new, stop_ids=stop_ids,
                        generator=generator)
        found = [choose(prompt, before + new, score)
                 for prompt, before, new in zip(prompts, kept, drawn, strict=True)]
        kept = [[choice.answer] if keep else [] for choice in found]
        yield found


# -- what the best of n is worth ---------------------------------------------------------------

def kl_bound(n: int) -> float:
    """The most, in nats, that the best of n differs from what it was drawn from: log n - (n-1)/n.

    Exact where no two answers are alike or score alike (Stiennon et al. 2020, appendix G.3;
    Beirami et al. 2024 prove that it is never more). Raises ValueError for n below 1.
    """
    if n < 1:
        raise ValueError(f"the best of {n} was asked for; 1 or more is needed.")
    return math.log(n) - (n - 1) / n


def expected_best(scores: Tensor, values: Tensor | None = None) -> Tensor:
    """What the best of n answers is worth on average, for n = 1 to m, from m answers: `... m`.

    values `... m`: what is averaged where another score chose (a judge's marks of what a reward
    model takes); the scores themselves, where left out. Exact over all ways to take n of the m, and
    so unbiased: the answer that ranks i-th from below is the best of C(i-1, n-1) of C(m, n)
    samples. Equal scores share their places. float64.
    """
    values = (scores if values is None else values).double()
    same = (scores[..., :, None] == scores[..., None, :]).double()
    shared = (same * values[..., None, :]).sum(-1) / same.sum(-1)
    ordered = shared.gather(-1, scores.argsort(dim=-1))
    return ordered @ _share_of_samples(scores.shape[-1]).to(scores.device).T


def _share_of_samples(m: int) -> Tensor:
    """In which share of all samples of n the i-th of m from below is the best: `n i`, float64."""
    return torch.tensor([[math.comb(i, n - 1) / math.comb(m, n) for i in range(m)]
                         for n in range(1, m + 1)], dtype=torch.float64)
