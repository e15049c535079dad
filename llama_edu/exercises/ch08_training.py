"""The exercise of chapter 08 on the loss of the next token, 8.1."""

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor

from ..losses import next_token
from .data import Exercise, Inputs, Misconception, Probe, normal


def _package_loss(logits: Tensor, tokens: Tensor, learn: Tensor) -> Tensor:
    """The package's loss; its model is made to answer with these logits."""
    loss = next_token(lambda given, **_: logits[:, :given.shape[1]],
                      {"tokens": tokens, "learn": learn})
    return loss.total / loss.count


def _loss_inputs(rng: Generator, v: int, *learn: str) -> Inputs:
    """One row for each text of `learn`: 1 where the token is to be learnt, 0 where it is not."""
    b, t = len(learn), len(learn[0])
    return {"logits": normal(rng, b, t, v, std=2.0),
            "tokens": torch.randint(0, v, (b, t), generator=rng),
            "learn": torch.tensor([[mark == "1" for mark in row] for row in learn])}


def _surprise(logits: Tensor, tokens: Tensor) -> Tensor:
    """-log p of these tokens under these logits, position by position: `b t`."""
    return -logits.log_softmax(-1).gather(-1, tokens[..., None]).squeeze(-1)


def _mean(surprise: Tensor, learn: Tensor) -> Tensor:
    return (surprise * learn).sum() / learn.sum()


def _loss_slip(name: str, reduce: Callable[[Tensor, Tensor], Tensor], why: str) -> Misconception:
    """A mistake that is made after the shift: in what is summed, or in what it is divided by."""
    return Misconception(
        name, lambda logits, tokens, learn:
        reduce(_surprise(logits[:, :-1], tokens[:, 1:]), learn[:, 1:]), why)


LOSS = Exercise(
    "8.1", "The loss of the next token", "By hand: the surprise of two tokens",
    _package_loss,
    probes=(
        Probe("one row", lambda rng: _loss_inputs(rng, 5, "01111")),
        Probe("padding at the end", lambda rng: _loss_inputs(rng, 4, "0111111", "0110000")),
        Probe("a prompt that is given", lambda rng: _loss_inputs(rng, 6, "000111", "000001")),
        Probe("the first token marked, too", lambda rng: _loss_inputs(rng, 5, "1111", "1100")),
    ),
    misconceptions=(
        Misconception("labels not shifted",
                      lambda logits, tokens, learn: _mean(_surprise(logits, tokens), learn),
                      "you compared each prediction with the token it was made from. Logits at "
                      "position i are about token i + 1.",
                      also=(lambda logits, tokens, learn:
                            _mean(_surprise(logits, tokens)[:, 1:], learn[:, 1:]),
                            lambda logits, tokens, learn:
                            _mean(_surprise(logits, tokens)[:, :-1], learn[:, :-1]))),
        Misconception("shifted twice",
                      lambda logits, tokens, learn:
                      _mean(_surprise(logits[:, :-2], tokens[:, 2:]), learn[:, 2:]),
                      "you shifted twice, so the model learns to predict the token after the "
                      "next."),
        Misconception("shifted backwards",
                      lambda logits, tokens, learn:
                      _mean(_surprise(logits[:, 1:], tokens[:, :-1]), learn[:, :-1]),
                      "you shifted the wrong way: each prediction is compared with the token "
                      "before. Drop the last logits and the first token."),
        Misconception("learn not shifted",
                      lambda logits, tokens, learn:
                      _mean(_surprise(logits[:, :-1], tokens[:, 1:]), learn[:, :-1]),
                      "you shifted the tokens and left `learn` where it was. It marks the tokens "
                      "that are predicted, so it moves with them."),
        Misconception("the first mark counted",
                      lambda logits, tokens, learn:
                      (_surprise(logits[:, :-1], tokens[:, 1:]) * learn[:, 1:]).sum() / learn.sum(),
                      "you counted the mark on the first token, which nothing predicts. Divide by "
                      "learn[:, 1:].sum()."),
        Misconception("no softmax",
                      lambda logits, tokens, learn:
                      _mean(-logits[:, :-1].gather(-1, tokens[:, 1:, None]).squeeze(-1),
                            learn[:, 1:]),
                      "you took the logits for log-probabilities. A log_softmax over the pieces "
                      "makes them so."),
        Misconception("two softmaxes",
                      lambda logits, tokens, learn:
                      _mean(_surprise(logits.softmax(-1)[:, :-1], tokens[:, 1:]), learn[:, 1:]),
                      "you took the softmax twice. cross_entropy and log_softmax want logits, not "
                      "probabilities."),
        Misconception("softmax over the positions",
                      lambda logits, tokens, learn:
                      _mean(-logits[:, :-1].log_softmax(1)
                            .gather(-1, tokens[:, 1:, None]).squeeze(-1), learn[:, 1:]),
                      "your softmax runs over the positions. It runs over the pieces, the last "
                      "axis."),
        Misconception("softmax over the batch",
                      lambda logits, tokens, learn:
                      _mean(-logits[:, :-1].log_softmax(0)
                            .gather(-1, tokens[:, 1:, None]).squeeze(-1), learn[:, 1:]),
                      "your softmax runs over the rows. It runs over the pieces, the last axis."),
        Misconception("the first prediction left out",
                      lambda logits, tokens, learn:
                      _mean(_surprise(logits[:, 1:-1], tokens[:, 2:]), learn[:, 2:]),
                      "you left out the first prediction: the first logits are about the second "
                      "token."),
        Misconception("padding learnt as piece 0",
                      lambda logits, tokens, learn:
                      _surprise(logits[:, :-1], (tokens * learn)[:, 1:]).mean(),
                      "you replaced the tokens that are not learnt by piece 0 and learnt that. "
                      "Leave them out of the sum and of the count."),
        _loss_slip("one minus the probability",
                   lambda surprise, learn: _mean(1 - (-surprise).exp(), learn),
                   "you averaged 1 - p. The surprise is -log p."),
        Misconception("logarithm of the mean", lambda logits, tokens, learn: -_mean(
                          (-_surprise(logits[:, :-1], tokens[:, 1:])).exp(), learn[:, 1:]).log(),
                      "you averaged probabilities and took the logarithm afterwards. Take the "
                      "logarithm of each, then the mean."),
        Misconception("logits masked", lambda logits, tokens, learn: _surprise(
                          (logits * learn[..., None])[:, :-1], tokens[:, 1:]).mean(),
                      "you set logits to zero where nothing is learnt, and learnt from them all "
                      "the same. Leave those tokens out of the sum and of the count.", also=(
                          lambda logits, tokens, learn: _surprise(
                              logits[:, :-1] * learn[:, 1:, None], tokens[:, 1:]).mean(),)),
        Misconception("both to be learnt", lambda logits, tokens, learn: _mean(
                          _surprise(logits[:, :-1], tokens[:, 1:]), learn[:, 1:] & learn[:, :-1]),
                      "you asked `learn` of both tokens, the one that is predicted and the one "
                      "before it. Only the predicted one counts."),
        Misconception("rolled around", lambda logits, tokens, learn: _mean(
                          _surprise(logits, tokens.roll(-1, 1)), learn.roll(-1, 1)),
                      "you rolled the tokens, so the last logits are compared with the first "
                      "token. Drop the last logits and the first token.", also=(
                          lambda logits, tokens, learn: _mean(
                              _surprise(logits, tokens.roll(-1, 1)), learn),)),
        Misconception("median", lambda logits, tokens, learn: _surprise(
                          logits[:, :-1], tokens[:, 1:])[learn[:, 1:]].median(),
                      "you took the median surprise. The loss is the mean."),
        Misconception("in powers of ten", lambda logits, tokens, learn: _mean(
                          _surprise(logits[:, :-1], tokens[:, 1:]), learn[:, 1:]) / math.log(10),
                      "your logarithm has base 10. Nats need the natural logarithm."),
        Misconception("divided by all positions", lambda logits, tokens, learn: (
                          _surprise(logits[:, :-1], tokens[:, 1:]) * learn[:, 1:]
                          ).sum() / learn.numel(),
                      "you divided by all b * t positions. Divide by the number of tokens that are "
                      "learnt."),
        Misconception("the others learnt", lambda logits, tokens, learn: _mean(
                          _surprise(logits[:, :-1], tokens[:, 1:]), ~learn[:, 1:]),
                      "you learnt the tokens that are not to be learnt. True marks those that "
                      "are."),
        _loss_slip("perplexity", lambda surprise, learn: _mean(surprise, learn).exp(),
                   "you returned the perplexity. The loss is its logarithm."),
        _loss_slip("padding learnt", lambda surprise, learn: surprise.mean(),
                   "you took all tokens, those that are not to be learnt among them."),
        _loss_slip("averaged over padding", lambda surprise, learn: (surprise * learn).mean(),
                   "you set the other tokens to zero and then counted them in the mean. Divide by "
                   "the number of tokens that are learnt."),
        _loss_slip("mean of the rows' means",
                   lambda surprise, learn: ((surprise * learn).sum(1) / learn.sum(1)).mean(),
                   "you averaged each row and then the rows, so a token in a short row weighs "
                   "more. Sum over everything, then divide once."),
        _loss_slip("per row", lambda surprise, learn: (surprise * learn).sum() / len(learn),
                   "you divided by the number of rows. Divide by the number of tokens that are "
                   "learnt."),
        _loss_slip("a sum", lambda surprise, learn: (surprise * learn).sum(),
                   "you returned the sum. Divide by the number of tokens that are learnt."),
        _loss_slip("in bits", lambda surprise, learn: _mean(surprise, learn) / math.log(2),
                   "your logarithm has base 2, so this is in bits. Nats need the natural "
                   "logarithm."),
        _loss_slip("sign", lambda surprise, learn: -_mean(surprise, learn),
                   "your sign is wrong: surprise is minus the logarithm of a probability."),
        _loss_slip("probabilities averaged",
                   lambda surprise, learn: _mean((-surprise).exp(), learn),
                   "you averaged probabilities. The surprise is minus their logarithm."),
        _loss_slip("probabilities", lambda surprise, learn: -_mean((-surprise).exp(), learn),
                   "you left the logarithm out. Surprise is -log p."),
    ),
    hints=(
        "How many predictions can be compared with a token? One fewer than there are tokens.",
        "Drop the last logits; drop the first token and the first mark of `learn`.",
        "log_softmax(-1), gather the token's own, mask with learn[:, 1:], sum, divide by "
        "learn[:, 1:].sum().",
    ), gradients=("logits",))

EXERCISES = [LOSS]
