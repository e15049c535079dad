"""Two answers to one prompt, of which somebody preferred one: what a reward model learns from.

    pairs = [pair(prompt, better, worse, "slightly better", tokenizer, form), ...]
    shuffled = batches(pairs, size=32, seed=0, margins=SMALL)
    for step in train(RewardModel.of(sft), shuffled, preference, lr=..., steps=...): ...
    accuracy(gaps(model, held_out, size=64), [pair.rating for pair in held_out])

A gap is the score of the chosen answer less that of the rejected one.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..losses import Batch, Loss
from ..prompts import Format, Message, dialog_tokens
from ..tokenizer import Tokenizer
from .reward import RewardModel, right_pad, scores

# How sure whoever chose was, and what the gap should then be at least: Touvron et al. 2023b,
# section 3.2.2 and table 27.
RATINGS = "significantly better", "better", "slightly better", "negligibly better"
SMALL = dict(zip(RATINGS, (1.0, 2 / 3, 1 / 3, 0.0), strict=True))
LARGE = dict(zip(RATINGS, (3.0, 2.0, 1.0, 0.0), strict=True))
NONE = dict.fromkeys(RATINGS, 0.0)


@dataclass(frozen=True, eq=False)
class Pair:
    """The tokens `t` of the prompt with each of two answers, end tokens included.

    Raises ValueError where they are the same, as nothing can be learnt from that, and for a rating
    that there is not.
    """

    chosen: Tensor
    rejected: Tensor
    rating: str

    def __post_init__(self) -> None:
        if self.rating not in RATINGS:
            raise ValueError(f"a pair was rated {self.rating!r}; the ratings are "
                             f"{', '.join(RATINGS)}. Take one of these.")
        if torch.equal(self.chosen, self.rejected):
            raise ValueError(f"both texts of a pair are the same {len(self.chosen)} tokens; two "
                             "that differ are needed. Leave it out.")


def pair(prompt: Sequence[Message], chosen: str, rejected: str, rating: str, tokenizer: Tokenizer,
         form: Format) -> Pair:
    """A pair in tokens. Raises ValueError as `Pair` and `dialog_tokens` do."""
    texts = [dialog_tokens([*prompt, Message("assistant", said)], tokenizer, form).ids
             for said in (chosen, rejected)]
    return Pair(*map(torch.tensor, texts), rating)


def together(pairs: Sequence[Pair], margins: Mapping[str, float]) -> Batch:
    """Pairs as one batch, which is read in one pass: the rows of all chosen texts, then those of
    all rejected ones.

    tokens `2b t`, ends `2b` (see `right_pad`), margins `b`, of each pair's rating.
    """
    tokens, ends = right_pad([each.chosen for each in pairs] + [each.rejected for each in pairs])
    return {"tokens": tokens, "ends": ends,
            "margins": torch.tensor([margins[each.rating] for each in pairs], device=ends.device)}


def batches(pairs: Sequence[Pair], *, size: int, seed: int, margins: Mapping[str, float]
            ) -> Iterator[Batch]:
    """Batches of `size` pairs without end, every epoch in another order; what does not fill its
    last batch is left out of it. Raises as `orders` does."""
    for some in orders(len(pairs), size=size, seed=seed):
        yield together([pairs[i] for i in some], margins)


def orders(n: int, *, size: int, seed: int) -> Iterator[list[int]]:
    """Which `size` of n pairs a batch has, without end; see `batches`. Raises ValueError for fewer
    pairs than that."""
    if n < size:
        raise ValueError(f"{n} pairs were given; a batch needs {size}. Give more, or make "
                         "batches smaller.")
    chance = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(n, generator=chance).tolist()
        for start in range(0, n - size + 1, size):
            yield order[start:start + size]


def preference(model: nn.Module, batch: Batch) -> Loss:
    """-log sigmoid(gap - margin) in nats, summed over the pairs of a batch (Touvron et al. 2023b,
    eq. 2): Bradley and Terry's odds that the chosen one is preferred. Notes: accuracy."""
    chosen, rejected = model(batch["tokens"], batch["ends"]).chunk(2)
    found = chosen - rejected
    return Loss(-F.logsigmoid(found - batch["margins"]).sum(), len(found),
                {"accuracy": right(found.detach()).sum().item()})


def right(gaps: Tensor) -> Tensor:
    """1 where the chosen answer scores higher, 0 where it scores lower, a half for a draw."""
    return (gaps.sign() + 1) / 2


def gaps(model: RewardModel, pairs: Sequence[Pair], *, size: int) -> Tensor:
    """The gap of each pair, `n`, without margins. size: texts that are read at once."""
    texts = [each.chosen for each in pairs] + [each.rejected for each in pairs]
    chosen, rejected = scores(model, texts, size=size).chunk(2)
    return chosen - rejected


# -- how good it is ----------------------------------------------------------------------------

@dataclass(frozen=True)
class Share:
    """How often the chosen answer scores higher, among so many pairs."""

    right: float
    count: int


def accuracy(gaps: Tensor, ratings: Sequence[str]) -> dict[str, Share]:
    """By rating, the surest first; one that no pair has is left out. gaps: `n`."""
    places = {rating: [i for i, given in enumerate(ratings) if given == rating]
              for rating in RATINGS}
    return {rating: Share(right(gaps[found]).mean().item(), len(found))
            for rating, found in places.items() if found}


@dataclass(frozen=True)
class Bin:
    """Pairs of which the model is about equally sure."""

    count: int
    predicted: float            # mean probability of the answer that it scores higher
    observed: float             # share of them whose higher answer was the chosen one


def calibration(gaps: Tensor, *, n_bins: int) -> list[Bin]:
    """What the model says, sigmoid(|gap|), against how often that is so; gaps `n`.

    Which answer is called the first says nothing, so a pair is read from the side of the higher
    score, and the bins share out the probabilities from 0.5 to 1. Empty ones are left out.
    """
    sure, is_right = gaps.abs().sigmoid(), right(gaps)
    number = ((2 * sure - 1) * n_bins).long().clamp(max=n_bins - 1)
    members = [number == i for i in range(n_bins)]
    return [Bin(int(each.sum()), sure[each].mean().item(), is_right[each].mean().item())
            for each in members if each.any()]
