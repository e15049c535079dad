"""The exercise of chapter 08 on the loss in chunks, 8.8."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Generator, Tensor, nn

from ..losses import Batch, next_token
from ..training_loop import add_up, mean_and_clip
from .data import Exercise, Inputs, Misconception, Probe, count, normal
from .frugal import by_hand

NOT_LEARNT = -100
DERIVE = ("this check runs without autograd. Derive the gradient by hand: the loss by one logit, "
          "then back through the product.")


class _Head(nn.Module):
    """A model that is only its last matrix: rows of features in, logits out."""

    def __init__(self, x: Tensor, output: Tensor):
        super().__init__()
        self.x, self.output = nn.Parameter(x.clone()), nn.Parameter(output.clone())
        self.now = slice(0, 0)

    def forward(self, tokens: Tensor, **_: Any) -> Tensor:
        return (self.x[self.now] @ self.output.T)[None]


def _package_chunks(x: Tensor, output: Tensor, targets: Tensor, size: int
                    ) -> tuple[Tensor, Tensor, Tensor]:
    """The package's loss and its adding up, one chunk a batch."""
    model = _Head(x, output)

    def batches() -> Iterator[Batch]:
        for at in range(0, len(x), size):
            model.now = slice(at, at + size)
            row = torch.cat([targets.new_zeros(1), targets[at:at + size]])[None]
            yield {"tokens": row.clamp(min=0), "learn": row != NOT_LEARNT}

    n_chunks = -(-len(x) // size)
    loss = add_up(model, batches(), next_token, accumulate=n_chunks, where="an exercise")
    mean_and_clip(model, loss.count, float("inf"))
    return loss.total / loss.count, model.x.grad, model.output.grad


def _sparingly(answer: Callable, x: Tensor, output: Tensor, targets: Tensor, size: int) -> Any:
    if answer is _package_chunks:       # it has a gradient made
        return answer(x, output, targets, size)
    return by_hand(lambda: answer(x, output, targets, size),
                   most=max(size * len(output), x.numel(), output.numel()),
                   too_large="that tensor holds more than `size` rows of logits.", derive=DERIVE)


def _chunk_inputs(rng: Generator, size: int, *, t: int = 13, holes: tuple[int, ...] = ()) -> Inputs:
    targets = torch.randint(0, 11, (t,), generator=rng)
    targets[list(holes)] = NOT_LEARNT
    return {"x": normal(rng, t, 2), "output": normal(rng, 11, 2), "targets": targets,
            "size": size + count(rng, 0, 1)}


def _by_all(whole: Tensor, own: Tensor, counts: Tensor) -> Tensor:
    """What a chunk's sum is divided by: all learnt tokens, not its own."""
    return whole


def _chunks(*, hit: float = 1.0, sign: float = 1.0, per: Callable = _by_all,
            add: bool = True, holes: bool = False, axis: int = -1, last: bool = True,
            at_once: bool = False, gradient_per: Callable | None = None,
            unmasked: bool = False, unhit: bool = False, slope: Callable | None = None,
            loss_per: Callable | None = None) -> Callable:
    """The loss and its gradients by hand, right unless told otherwise."""

    def answer(x: Tensor, output: Tensor, targets: Tensor, size: int
               ) -> tuple[Tensor, Tensor, Tensor]:
        step = len(x) if at_once else size
        loss, dx, dw = x.new_zeros(()), torch.zeros_like(x), torch.zeros_like(output)
        learnt = (targets >= 0) | holes
        stop = len(x) if last else len(x) - len(x) % step
        for at in range(0, stop, step):
            rows, now = slice(at, at + step), learnt[at:at + step, None]
            logits, hits = x[rows] @ output.T, targets[rows].clamp(min=0)[:, None]
            counts = torch.stack([part.sum() for part in learnt.split(step)])
            n, n_gradient = (each(learnt.sum(), now.sum(), counts)
                             for each in (loss_per or per, gradient_per or per))
            surprise = -logits.log_softmax(axis).gather(-1, hits)
            loss = loss + (surprise * now).sum() / n
            d = logits.softmax(axis)
            one = torch.full_like(hits, -hit, dtype=d.dtype) * (now | (not unhit))
            d = slope(d, torch.zeros_like(d).scatter(-1, hits, 1.0)) if slope else (
                d.scatter_add(-1, hits, one))
            d = sign * (now | unmasked) * d
            dx[rows] = d @ output / n_gradient
            dw = d.T @ x[rows] / n_gradient + (dw if add else 0)
        return loss, dx, dw

    return answer


def _spoilt(spoil: Callable) -> Callable:
    """The right three, spoiled; `spoil` also knows the number of learnt tokens and of all."""

    def answer(x: Tensor, output: Tensor, targets: Tensor, size: int) -> Any:
        right = _chunks()(x, output, targets, size)
        return spoil(*right, (targets >= 0).sum(), len(targets))

    return answer


def _last_loss(x: Tensor, output: Tensor, targets: Tensor, size: int) -> Any:
    _, dx, dw = _chunks()(x, output, targets, size)
    last = targets[-(len(x) % size or size):]
    loss, _, _ = _chunks()(x[-len(last):], output, last, size)
    return loss * (last >= 0).sum() / (targets >= 0).sum(), dx, dw


def _ways(*pers: Callable) -> tuple[Callable, ...]:
    """The same wrong division, of the loss and the gradients or of the gradients alone."""
    return tuple(each for per in pers
                 for each in (_chunks(per=per), _chunks(gradient_per=per)))


AVERAGED = _ways(lambda whole, own, counts: own.clamp(min=1) * len(counts),
                 lambda whole, own, counts: own.clamp(min=1) * (counts > 0).sum(),
                 lambda whole, own, counts: own * len(counts))
ZERO_BY_ZERO = _ways(lambda whole, own, counts: whole * (own / own))

CHUNKS = Exercise(
    "8.8", "The loss and its gradient, in chunks", "Harder: the loss without the logits",
    _package_chunks,
    probes=(
        Probe("several chunks", lambda rng: _chunk_inputs(rng, 3)),
        Probe("tokens that are not learnt", lambda rng: _chunk_inputs(rng, 4, holes=(0, 5, 6, 9))),
        Probe("a chunk with nothing to learn",
              lambda rng: _chunk_inputs(rng, 2, t=11, holes=(2, 3, 4, 5))),
        Probe("chunks that fit exactly", lambda rng: _chunk_inputs(rng, 4, t=20) | {"size": 5}),
        Probe("larger than the text", lambda rng: _chunk_inputs(rng, 9, t=4, holes=(1,))),
        Probe("one token a chunk",
              lambda rng: _chunk_inputs(rng, 1, t=7, holes=(3,)) | {"size": 1}),
    ),
    misconceptions=(
        Misconception("all logits at once", _chunks(at_once=True),
                      "right, and with all the logits in memory at once. Make those of one chunk, "
                      "use them, and let them go."),
        Misconception("the target forgotten", _chunks(hit=0.0),
                      "your gradient of the logits is p alone. Subtract 1 at the target: p - 1 "
                      "there, p elsewhere."),
        Misconception("uphill", _chunks(sign=-1.0),
                      "your gradients have the wrong sign: at the logits, p - 1 at the target."),
        Misconception("gradient of the sum", _chunks(gradient_per=lambda *_: 1),
                      "your gradients are those of the summed loss. Divide by the learnt tokens, "
                      "as the loss does."),
        Misconception("mean of the chunks' means", AVERAGED[0],
                      "you averaged the chunks' means, so a token in a chunk with few targets "
                      "weighs more. Divide once, by all learnt targets.", also=AVERAGED[1:]),
        Misconception("0 divided by 0", ZERO_BY_ZERO[0],
                      "one chunk had nothing to learn, and its mean is 0 divided by 0. Add up "
                      "sums, and divide once by all learnt targets.", also=ZERO_BY_ZERO[1:]),
        Misconception("divided by all tokens",
                      lambda x, output, targets, size: tuple(
                          each * (targets >= 0).sum() / len(x)
                          for each in _chunks()(x, output, targets, size)),
                      "you divided by all tokens. Only those with a target count."),
        Misconception("gradient of -100", _chunks(unmasked=True),
                      "your loss leaves out the tokens with target -100, your gradients do not. At "
                      "the logits their rows are zero, so they are in the gradient for `x`, too.",
                      also=(_chunks(unmasked=True, unhit=True),)),
        Misconception("divided by size",
                      lambda x, output, targets, size: tuple(
                          each * (targets >= 0).sum() / size
                          for each in _chunks()(x, output, targets, size)),
                      "you divided by the size of a chunk. Divide by all learnt tokens."),
        Misconception("the sums", _spoilt(lambda loss, dx, dw, n, t: (loss * n, dx * n, dw * n)),
                      "you returned sums. Divide all three by the learnt tokens."),
        Misconception("the sum of the loss", _spoilt(lambda loss, dx, dw, n, t: (loss * n, dx, dw)),
                      "your gradients are right, and your loss is a sum. Divide it by the learnt "
                      "tokens."),
        Misconception("loss below zero", _spoilt(lambda loss, dx, dw, n, t: (-loss, dx, dw)),
                      "your loss has the wrong sign: a surprise is minus the logarithm of a "
                      "probability."),
        Misconception("one gradient uphill", _spoilt(lambda loss, dx, dw, n, t: (loss, -dx, dw)),
                      "your gradient for `x` has the wrong sign, the one for `output` is right."),
        Misconception("the matrix uphill", _spoilt(lambda loss, dx, dw, n, t: (loss, dx, -dw)),
                      "your gradient for `output` has the wrong sign, the one for `x` is right."),
        Misconception("the gradient of `x` not divided",
                      _spoilt(lambda loss, dx, dw, n, t: (loss, dx * n, dw)),
                      "your gradient for `x` is that of the sum. Divide it by the learnt tokens."),
        Misconception("the gradient of `output` not divided",
                      _spoilt(lambda loss, dx, dw, n, t: (loss, dx, dw * n)),
                      "your gradient for `output` is that of the sum. Divide it by the learnt "
                      "tokens."),
        Misconception("divided twice", _spoilt(lambda loss, dx, dw, n, t: (loss, dx / n, dw / n)),
                      "you divided the gradients twice by the learnt tokens.", also=(
                          _spoilt(lambda loss, dx, dw, n, t: (loss, dx, dw / n)),
                          _spoilt(lambda loss, dx, dw, n, t: (loss, dx / n, dw)))),
        Misconception("p (1 - p)", _chunks(slope=lambda p, hit: p * (1 - p)),
                      "p (1 - p) is the derivative of one probability by its own logit. The "
                      "surprise is a logarithm, and the target is a case of its own: p - 1 there, "
                      "p elsewhere."),
        Misconception("a factor p", _chunks(slope=lambda p, hit: p * (p - hit)),
                      "your gradient of the logits has a factor p too many: the logarithm takes it "
                      "away. It is p - 1 at the target, p elsewhere."),
        Misconception("the target's column", _chunks(slope=lambda p, hit: (p - hit) * hit),
                      "your gradient of the logits is zero but at the target. Each other piece's "
                      "is its p: to push one up is to push all others down."),
        Misconception("no softmax", _chunks(slope=lambda p, hit: -hit),
                      "your gradient of the logits is -1 at the target and 0 elsewhere. The "
                      "softmax adds p to each."),
        Misconception("one over p", _chunks(slope=lambda p, hit: -hit / p),
                      "you differentiated by the probability, -1 / p at the target. Go on through "
                      "the softmax to the logit."),
        Misconception("no gradient of `x`", _spoilt(lambda loss, dx, dw, n, t: (loss, 0 * dx, dw)),
                      "your gradient for `x` is zero."),
        Misconception("no gradient of `output`", _spoilt(lambda loss, dx, dw, n, t:
                                                         (loss, dx, 0 * dw)),
                      "your gradient for `output` is zero."),
        Misconception("gradients of all tokens' mean",
                      _spoilt(lambda loss, dx, dw, n, t: (loss, dx * n / t, dw * n / t)),
                      "your gradients are divided by all tokens, your loss is not. Only those with "
                      "a target count."),
        Misconception("the loss as a mean of means",
                      _chunks(loss_per=lambda whole, own, counts: own.clamp(min=1)),
                      "you added the chunks' mean losses. Divide each chunk's sum by all learnt "
                      "tokens.", also=(
                          _chunks(loss_per=lambda whole, own, counts: own),
                          _chunks(loss_per=lambda whole, own, counts:
                                  own.clamp(min=1) * len(counts)),
                          _chunks(loss_per=lambda whole, own, counts:
                                  own.clamp(min=1) * (counts > 0).sum()))),
        Misconception("logarithm for probability", _chunks(slope=lambda p, hit: p.log() - hit),
                      "your gradient of the logits is log p, less 1 at the target. It is p, less 1 "
                      "at the target."),
        Misconception("two softmaxes in the gradient",
                      _chunks(slope=lambda p, hit: p.softmax(-1) - hit),
                      "you took the softmax twice in the gradient."),
        Misconception("bits", _spoilt(lambda loss, dx, dw, n, t: (loss / math.log(2), dx, dw)),
                      "your loss is in bits. Nats need the natural logarithm."),
        Misconception("the last chunk's loss", _last_loss,
                      "your loss is the last chunk's. Every chunk adds to it."),
        Misconception("the last chunk's matrix", _chunks(add=False),
                      "your gradient of `output` is the last chunk's. Every chunk adds to it."),
        Misconception("-100 learnt", _chunks(holes=True),
                      "you learnt tokens whose target is -100. They have none: their rows of the "
                      "gradient are zero."),
        Misconception("softmax over the tokens", _chunks(axis=0),
                      "your softmax runs over the tokens of a chunk. It runs over the pieces."),
        Misconception("a short last chunk dropped", _chunks(last=False),
                      "you left the last, shorter chunk out."),
    ),
    hints=(
        "At the logits, the gradient of one surprise is p, and p - 1 at the target. Where does a "
        "matrix product send it?",
        "For logits = x @ output.T and their gradient d: dx = d @ output, d_output = d.T @ x.",
        "Count the learnt targets first: then each chunk can be divided by that number at once.",
    ), adapt=_sparingly)

EXERCISES = [CHUNKS]
