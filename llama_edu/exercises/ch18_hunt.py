"""The bug hunt of chapter 18, 18.5: six pipelines of a reward model, told apart by a few pairs."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from .hunts import HEALTHY, Bug, Hunt

END = 9                 # ends prompts and answers, and fills up
Text = Sequence[int]
Found = tuple[float, list[float]]


def _sums(tokens: Tensor) -> Tensor:
    """The toy's score at each place: the sum of all tokens so far, as each has seen all before."""
    return tokens.float().cumsum(1)


def _last(found: Tensor, lengths: Tensor) -> Tensor:
    return found.gather(1, lengths[:, None] - 1)[:, 0]


def _mean(found: Tensor, lengths: Tensor) -> Tensor:
    real = torch.arange(found.shape[1]) < lengths[:, None]
    return (found * real).sum(1) / lengths


def _plain_loss(gap: Tensor, margin: Tensor) -> Tensor:
    return -F.logsigmoid(gap - margin)


def _pipeline(*, read: Callable[[Tensor, Tensor], Tensor] = _last,
              gap: Callable[[Tensor, Tensor], Tensor] = torch.sub,
              loss: Callable[[Tensor, Tensor], Tensor] = _plain_loss,
              first_end: bool = False) -> Callable[..., Found]:
    """From pairs and margins to the mean loss and the gaps, healthy unless told otherwise."""

    def pipeline(chosen: Sequence[Text], rejected: Sequence[Text], margins: Sequence[float]
                 ) -> Found:
        texts = [*chosen, *rejected]
        longest = max(map(len, texts))
        tokens = torch.tensor([[*text, *[END] * (longest - len(text))] for text in texts])
        lengths = torch.tensor([
            text.index(END) + 1 if first_end and END in text else len(text) for text in texts])
        gaps = gap(*read(_sums(tokens) / 10, lengths).chunk(2))
        return loss(gaps, torch.tensor(margins)).mean().item(), gaps.tolist()

    return pipeline


def _look(pipeline: Callable[..., Found]) -> Tensor:
    """Pairs of several lengths, one whose answers are worth the same, one that was cut off."""
    loss, gaps = pipeline([[1, END, 4, 4, END], [2, 3, END, 6, END]],
                          [[1, END, 3, END], [2, 3, END, 1, 1, 1, END]], [2.0, 0.5])
    tied, even = pipeline([[1, END, 2, END], [1, END, 5, END]],
                          [[1, END, 2, END], [1, END, 3, END]], [0.0, 1.0])
    _, cut = pipeline([[1, END, 5, 2]], [[1, END, 3, END]], [0.0])
    return torch.tensor([loss, *gaps, tied, *even, *cut])


PIPELINES = Hunt(
    "18.5", "Six pipelines", "Find the bug: six pipelines",
    healthy=_pipeline,
    bugs={
        "last position": Bug(
            lambda: _pipeline(read=lambda found, lengths: found[:, -1]),
            "gives an answer another score when it stands beside a longer one"),
        "prompt's end": Bug(
            lambda: _pipeline(first_end=True),
            "gives two answers to one prompt the same score, whatever they say"),
        "mean over tokens": Bug(
            lambda: _pipeline(read=_mean),
            "gives [5, 9] not 1.4 but the mean of 0.5 and 1.4"),
        "last word": Bug(
            lambda: _pipeline(read=lambda found, lengths: _last(found, lengths - 1)),
            "leaves the end token out: between [5, 9] and [5, 3] it sees no difference"),
        "exchanged": Bug(
            lambda: _pipeline(gap=lambda chosen, rejected: rejected - chosen),
            "has a negative gap where the chosen answer scores higher"),
        "margin outside": Bug(
            lambda: _pipeline(loss=lambda gap, margin: -F.logsigmoid(gap) - margin),
            "has a loss that falls by 1 exactly when the margin rises by 1"),
        "margin added": Bug(
            lambda: _pipeline(loss=lambda gap, margin: -F.logsigmoid(gap + margin)),
            "has a loss that falls when the margin rises, and not in a line"),
        "draws left out": Bug(
            lambda: _pipeline(loss=lambda gap, margin: _plain_loss(gap, margin)[gap != 0]
                              if (gap != 0).any() else torch.zeros(1)),
            "has the same loss with and without a second pair of equal scores"),
        "saturated": Bug(
            lambda: _pipeline(loss=lambda gap, margin: 1 - (gap - margin).sigmoid()),
            "has a loss that never exceeds 1, however wrong it is"),
    },
    hidden={"a": "mean over tokens", "b": "margin outside", "c": "prompt's end", "d": HEALTHY,
            "e": "last position", "f": "last word"},
    look=_look,
    hints=(
        "Begin with one pair, margin 0, both texts of one length; work its gap and its loss out by "
        "hand. Then change one thing at a time.",
        "A longer text beside it shows what is padding; two answers of other words but equal "
        "length show where the score is read; an end token changed shows whether it counts.",
        "For the loss: keep the texts and raise the margin from 0 to 1 to 2.",
    ))

EXERCISES = [PIPELINES]
