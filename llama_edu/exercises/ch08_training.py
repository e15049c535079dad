"""The exercises of chapter 08: 8.1 the loss of the next token, 8.4 the learning rate."""

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor

from ..losses import next_token
from ..training_loop import cosine
from .data import Exercise, Inputs, Misconception, Probe, between, count, normal

# -- 8.1: the loss of the next token ------------------------------------------------------------


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
        Misconception("padding learnt as piece 0",
                      lambda logits, tokens, learn:
                      _surprise(logits[:, :-1], (tokens * learn)[:, 1:]).mean(),
                      "you replaced the tokens that are not learnt by piece 0 and learnt that. "
                      "Leave them out of the sum and of the count."),
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
        _loss_slip("probabilities", lambda surprise, learn: -_mean((-surprise).exp(), learn),
                   "you left the logarithm out. Surprise is -log p."),
    ),
    hints=(
        "How many predictions can be compared with a token? One fewer than there are tokens.",
        "Drop the last logits; drop the first token and the first mark of `learn`.",
        "log_softmax(-1), gather the token's own, mask with learn[:, 1:], sum, divide by "
        "learn[:, 1:].sum().",
    ), gradients=("logits",))

# -- 8.4: the learning rate ---------------------------------------------------------------------


def _package_rate(index: int, peak: float, warmup: int, steps: int, last: float) -> float:
    return cosine(peak, warmup=warmup, steps=steps, last=last)(index)


def _rate_inputs(rng: Generator, at: Callable[[int, int], int], *, warmup: int | None = None
                 ) -> Inputs:
    """at: the index of the step, given the warm-up and the number of steps."""
    first = count(rng, 6, 9) if warmup is None else warmup
    steps = first + 2 * count(rng, 12, 18) + 1
    return {"index": at(first, steps), "peak": between(rng, 0.3, 0.6), "warmup": first,
            "steps": steps, "last": between(rng, 0.1, 0.3)}


def _rate(*, done: Callable[[int, int, int], float] =
          lambda index, warmup, steps: min(1.0, (index + 1 - warmup) / (steps - warmup)),
          fall: Callable[[float], float] = lambda done: (1 + math.cos(math.pi * done)) / 2,
          rise: Callable[[int, int], float] = lambda index, warmup: (index + 1) / warmup,
          join: Callable[[float, float, float], float] =
          lambda peak, last, share: peak * (last + (1 - last) * share)) -> Callable[..., float]:
    """A schedule, right unless told otherwise."""

    def answer(index: int, peak: float, warmup: int, steps: int, last: float) -> float:
        if index < warmup:
            return peak * rise(index, warmup)
        return join(peak, last, fall(done(index, warmup, steps)))

    return answer


RATE = Exercise(
    "8.4", "The learning rate of a step",
    "Your turn: the learning rate", _package_rate,
    probes=(
        Probe("the first step", lambda rng: _rate_inputs(rng, lambda w, n: 0)),
        Probe("inside the warm-up", lambda rng: _rate_inputs(rng, lambda w, n: w // 2)),
        Probe("right after it", lambda rng: _rate_inputs(rng, lambda w, n: w)),
        Probe("a quarter down", lambda rng: _rate_inputs(rng, lambda w, n: w + (n - w) // 4)),
        Probe("near the end", lambda rng: _rate_inputs(rng, lambda w, n: n - 4)),
        Probe("the last step", lambda rng: _rate_inputs(rng, lambda w, n: n - 1)),
        Probe("long after the end", lambda rng: _rate_inputs(rng, lambda w, n: n + 5)),
        Probe("no warm-up", lambda rng: _rate_inputs(rng, lambda w, n: n // 3, warmup=0)),
        Probe("no warm-up, at first", lambda rng: _rate_inputs(rng, lambda w, n: 0, warmup=0)),
        Probe("a warm-up of one step", lambda rng: _rate_inputs(rng, lambda w, n: 0, warmup=1)),
        Probe("the top of the warm-up", lambda rng: _rate_inputs(rng, lambda w, n: w - 1)),
    ),
    misconceptions=(
        Misconception("not offset by the warm-up",
                      _rate(done=lambda index, w, n: min(1.0, (index + 1) / n)),
                      "your cosine begins at step 0, under the warm-up, so the rate jumps down "
                      "where the warm-up ends. The fall begins after it."),
        Misconception("offset on one side",
                      _rate(done=lambda index, w, n: min(1.0, (index + 1 - w) / n)),
                      "you took the warm-up off the index and not off the length, so the fall "
                      "never arrives. It has steps - warmup steps."),
        Misconception("to zero", _rate(join=lambda peak, last, share: peak * share),
                      "your rate falls to zero. Llama's ends at `last` of the peak."),
        Misconception("last as a rate",
                      _rate(join=lambda peak, last, share: last + (peak - last) * share),
                      "you took `last` for a learning rate. It is a share of the peak."),
        Misconception("last as a clamp",
                      _rate(join=lambda peak, last, share: peak * max(last, share)),
                      "you cut a fall to zero off at `last`. The curve itself ends there: it is "
                      "squeezed between the peak and `last` of it."),
        Misconception("last added", _rate(join=lambda peak, last, share: peak * (last + share)),
                      "you added `last` on top, so the rate starts above its peak. The cosine "
                      "spans 1 - last."),
        Misconception("quarter wave", _rate(fall=lambda done: math.cos(math.pi * done / 2)),
                      "you took a quarter of a cosine wave. The fall is half a wave: flat at both "
                      "ends, steep between."),
        Misconception("straight line", _rate(fall=lambda done: 1 - done),
                      "your rate falls along a straight line. It is to fall along half a wave."),
        Misconception("upside down", _rate(fall=lambda done: (1 - math.cos(math.pi * done)) / 2),
                      "your cosine rises. Where the fall begins, the rate is at its peak."),
        Misconception("up again", _rate(done=lambda index, w, n: (index + 1 - w) / (n - w)),
                      "after the last step your rate climbs again, as a cosine does. Hold it at "
                      "the end.",
                      also=(_rate(done=lambda index, w, n: (index - w) / (n - w)),)),
        Misconception("warm-up from zero", _rate(rise=lambda index, w: index / w),
                      "your first step has the rate 0, so its batch is wasted. Step 0 has 1/warmup "
                      "of the peak."),
        Misconception("warm-up never full", _rate(rise=lambda index, w: (index + 1) / (w + 1)),
                      "your warm-up stops short of the peak: step warmup - 1 has the peak itself."),
        Misconception("warm-up from zero to the peak",
                      _rate(rise=lambda index, w: index / max(1, w - 1)),
                      "your first step has the rate 0, so its batch is wasted. Step 0 has 1/warmup "
                      "of the peak, and step warmup - 1 all of it."),
        Misconception("geometric fall",
                      _rate(join=lambda peak, last, share:
                            peak * last**(math.acos(max(-1.0, 2 * share - 1)) / math.pi)),
                      "your rate falls by the same factor at each step. Half a cosine is added, "
                      "not multiplied."),
        Misconception("one step late",
                      _rate(done=lambda index, w, n: min(1.0, (index - w) / (n - w))),
                      "you are one step late: the last step, number steps - 1, is to have `last` "
                      "of the peak exactly."),
        Misconception("two steps at the peak",
                      _rate(done=lambda index, w, n: min(1.0, (index - w) / (n - 1 - w))),
                      "your rate stays at the peak for two steps. Step "
                      "warmup - 1 alone has it: the very next one has begun to fall.",
                      also=(_rate(done=lambda index, w, n: (index - w) / (n - 1 - w)),)),
        Misconception("late everywhere",
                      _rate(done=lambda index, w, n: min(1.0, (index - w) / (n - w)),
                            rise=lambda index, w: index / w),
                      "you are one step late, in the warm-up and in the fall. When step `index` is "
                      "over, index + 1 steps are done."),
        Misconception("no warm-up", _rate(rise=lambda index, w: 1.0),
                      "you left the warm-up out: it rises from peak / warmup to the peak."),
    ),
    hints=(
        "Three pieces: rise, fall, and what comes after the end.",
        "done = (index + 1 - warmup) / (steps - warmup), and never more than 1.",
        "peak * (last + (1 - last) * (1 + cos(pi * done)) / 2)",
    ))

EXERCISES = [LOSS, RATE]
