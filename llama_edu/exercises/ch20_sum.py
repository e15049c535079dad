"""The exercise of chapter 20 on an answer's log-probability, 20.1."""

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from ..losses import learnt_log_probs
from .data import Exercise, Inputs, Misconception, Probe, normal


class Said:
    """A model that says these logits, whatever it reads."""

    def __init__(self, logits: Tensor):
        self.said = logits

    def hidden(self, tokens: Tensor, **more: object) -> Tensor:
        return self.said[:, :tokens.shape[1]]

    def logits(self, hidden: Tensor) -> Tensor:
        return hidden


def _package_sum(logits: Tensor, tokens: Tensor, answer: Tensor) -> Tensor:
    return learnt_log_probs(Said(logits), {"tokens": tokens, "learn": answer}).sum(-1)


def _texts(rng: Generator, t: int, *spans: tuple[int, int], v: int = 7, std: float = 1.5
           ) -> Inputs:
    """Rows with an answer from a place on, so many tokens long; what follows it is padding. std:
    of the logits."""
    places = torch.arange(t)
    answer = torch.stack([(places >= start) & (places < start + n) for start, n in spans])
    tokens = torch.randint(1, v, (len(spans), t), generator=rng)
    ends = torch.tensor([start + n for start, n in spans])
    return {"logits": normal(rng, len(spans), t, v, std=std),
            "tokens": tokens.where(places < ends[:, None], 0), "answer": answer}


def _picked(logits: Tensor, tokens: Tensor) -> Tensor:
    return logits.log_softmax(-1).gather(-1, tokens[..., None])[..., 0]


def _next(logits: Tensor, tokens: Tensor) -> Tensor:
    """log p of tokens 1 to t - 1."""
    return _picked(logits[:, :-1], tokens[:, 1:])


def _over(pick: Callable[[Tensor], Tensor]) -> Callable:
    """The sum over other tokens than the answer's; pick(answer) says over which of t - 1."""
    return lambda logits, tokens, answer: (_next(logits, tokens) * pick(answer)).sum(1)


def _of(found: Callable[[Tensor, Tensor], Tensor]) -> Callable:
    """From the probabilities of tokens 1 to t - 1, and where the answer's are."""
    return lambda logits, tokens, answer: found(
        logits[:, :-1].softmax(-1).gather(-1, tokens[:, 1:, None])[..., 0], answer[:, 1:])


def _backwards(mark: Callable[[Tensor], Tensor]) -> Callable:
    """The logits at a token are asked about the token before it."""
    return lambda logits, tokens, answer: (
        _picked(logits[:, 1:], tokens[:, :-1]) * mark(answer)).sum(1)


def _real(answer: Tensor) -> Tensor:
    """All up to the answer's end, the prompt included."""
    return answer.flip(1).cumsum(1).flip(1)[:, 1:] > 0


SUM = Exercise(
    "20.1", "The log-probability of an answer", "Your turn: how likely was that answer?",
    _package_sum,
    probes=(
        Probe("two answers", lambda rng: _texts(rng, 7, (2, 4), (3, 2))),
        Probe("the longest fills its row", lambda rng: _texts(rng, 6, (2, 4), (3, 1), (1, 2))),
        Probe("an answer of one token", lambda rng: _texts(rng, 5, (2, 1), (3, 1))),
        Probe("one text", lambda rng: _texts(rng, 6, (1, 5))),
        Probe("a larger vocabulary", lambda rng: _texts(rng, 8, (2, 3), (4, 4), v=40)),
        Probe("an answer of sixty tokens", lambda rng: _texts(rng, 64, (3, 60), (2, 4), v=40)),
        Probe("a model that is very sure", lambda rng: _texts(rng, 6, (2, 4), (1, 3), std=90.0)),
    ),
    misconceptions=(
        Misconception("off by one", lambda logits, tokens, answer: (
                          _picked(logits, tokens) * answer).sum(1),
                      "you asked the logits at a token about that very token. Those at place i "
                      "speak of token i + 1."),
        Misconception("off by one, the mark", _over(lambda answer: answer[:, :-1]),
                      "the logits are shifted, the marks are not: you count from the prompt's last "
                      "token to the answer's last but one."),
        Misconception("shifted the wrong way", _backwards(lambda answer: answer[:, :-1]),
                      "you shifted the wrong way: the logits at a token were asked about the one "
                      "*before* it. Those at place i speak of token i + 1.",
                      also=(_backwards(lambda answer: answer[:, 1:]),)),
        Misconception("the mean", lambda logits, tokens, answer: (
                          (_next(logits, tokens) * answer[:, 1:]).sum(1) / answer.sum(1)),
                      "you took the mean. The probability of an answer is a product over its "
                      "tokens: a sum of logarithms."),
        Misconception("the prompt, too", _over(_real),
                      "the prompt is in your sum. How likely was the *answer*?"),
        Misconception("padding, too", _over(lambda answer: ~_real(answer) | answer[:, 1:]),
                      "padding is in your sum: a short answer looks unlikely for its neighbour's "
                      "length.",
                      also=(_over(torch.ones_like),
                            _over(lambda answer: answer.cumsum(1)[:, 1:] > 0))),
        Misconception("logits", lambda logits, tokens, answer: (
                          logits[:, :-1].gather(-1, tokens[:, 1:, None])[..., 0]
                          * answer[:, 1:]).sum(1),
                      "you summed logits. They become log-probabilities by log_softmax."),
        Misconception("probabilities", _of(lambda odds, mark: (odds * mark).sum(1)),
                      "you summed probabilities: their logarithms add up."),
        Misconception("the logarithm of a sum", _of(lambda odds, mark: (odds * mark).sum(1).log()),
                      "you summed probabilities and took the logarithm of the sum. The probability "
                      "of an answer is the *product*: the logarithms add up."),
        Misconception("the probability itself", lambda logits, tokens, answer: _package_sum(
                          logits, tokens, answer).exp(),
                      "that is the probability of the answer. Its logarithm is asked for, which is "
                      "a sum and does not vanish where an answer is long.",
                      also=(_of(lambda odds, mark: odds.where(mark, 1.0).prod(1)),)),
        Misconception("the logarithm of the product", _of(
                          lambda odds, mark: odds.where(mark, 1.0).prod(1).log()),
                      "you multiplied the probabilities and took the logarithm at the end. The "
                      "product of sixty is 0 in float32: sum the logarithms."),
        Misconception("softmax, then log", _of(
                          lambda odds, mark: odds.log().where(mark, 0.0).sum(1)),
                      "you took the softmax and then its logarithm. A probability below 1e-45 is 0 "
                      "in float32, and its logarithm -inf: log_softmax never leaves the "
                      "logarithms.", also=(_of(lambda odds, mark: (odds.log() * mark).sum(1)),)),
        Misconception("the sign", lambda logits, tokens, answer: -_package_sum(
                          logits, tokens, answer),
                      "that is the loss, the surprise. A log-probability is below 0."),
        Misconception("over the wrong axis", lambda logits, tokens, answer: (
                          logits.log_softmax(1)[:, :-1].gather(-1, tokens[:, 1:, None])[..., 0]
                          * answer[:, 1:]).sum(1),
                      "your softmax runs over the places. It runs over the vocabulary, the last "
                      "axis.",
                      also=(lambda logits, tokens, answer: (
                          logits[:, :-1].log_softmax(1).gather(-1, tokens[:, 1:, None])[..., 0]
                          * answer[:, 1:]).sum(1),)),
        Misconception("the sum of all", lambda logits, tokens, answer: _package_sum(
                          logits, tokens, answer).sum(),
                      "you summed over the texts as well: one number for each is asked for."),
        Misconception("the first token left out", _over(
                          lambda answer: answer[:, 1:] & (answer.cumsum(1)[:, 1:] > 1)),
                      "the answer's first token is missing. The prompt's last logits speak of it."),
    ),
    gradients=("logits",),
    hints=(
        "Which logits speak of token 5? Those at place 4.",
        "logits[:, :-1].log_softmax(-1), gathered at tokens[:, 1:]: `b t-1`. Which of them are the "
        "answer's?",
        "(found * answer[:, 1:]).sum(1).",
    ))

EXERCISES = [SUM]
