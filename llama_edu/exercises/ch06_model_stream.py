"""The exercises of chapter 06 about the stream: who said it, and six tellers wired differently."""

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from ..checkpoint import TALES, load
from ..layers import RMSNorm, causal_mask, rope_frequencies, rope_table
from ..model import Block
from .ch06_model import (
    Rope,
    both_at_once,
    joined,
    no_second,
    norms_exchanged,
    right_block,
    second_from_x,
)
from .data import Exercise, Inputs, Misconception, Probe, between, normal
from .hunts import HEALTHY, Bug, Hunt

# -- 6.3: who said it? ----------------------------------------------------------------------------


def _package_contributions(writes: Tensor, weight: Tensor, eps: float, row: Tensor) -> Tensor:
    """By the package's own norm: its scale for the sum, then applied to each part."""
    norm = RMSNorm(len(weight), eps)
    total = writes.sum(0)
    at = total.abs().argmax()
    scale = norm(total)[at] / total[at]             # the norm's weight is one here
    return (writes * scale * weight) @ row


def _written(rng: Generator, n: int, c: int, *, mean: float = 0.5) -> Inputs:
    return {"writes": normal(rng, n, c, mean=mean, std=2.0), "weight": normal(rng, c, mean=2.0),
            "eps": between(rng, 0.5, 3.0), "row": normal(rng, c, mean=1.0)}


def _size(x: Tensor, eps: float) -> Tensor:
    return (x.pow(2).mean(-1, keepdim=True) + eps).sqrt()


def _each_normed(writes: Tensor, weight: Tensor, eps: float, row: Tensor) -> Tensor:
    return (writes / _size(writes, eps) * weight) @ row


def _as_they_grow(writes: Tensor, weight: Tensor, eps: float, row: Tensor) -> Tensor:
    return (writes / _size(writes.cumsum(0), eps) * weight) @ row


def _lens(writes: Tensor, weight: Tensor, eps: float, row: Tensor) -> Tensor:
    stream = writes.cumsum(0)
    return (stream / _size(stream, eps) * weight) @ row


def _lens_steps(writes: Tensor, weight: Tensor, eps: float, row: Tensor) -> Tensor:
    after = _lens(writes, weight, eps, row)
    return torch.cat([after[:1], after[1:] - after[:-1]])


def _scaled(scale: Callable[[Tensor, float], Tensor], *, use_weight: bool = True) -> Callable:
    def answer(writes: Tensor, weight: Tensor, eps: float, row: Tensor) -> Tensor:
        shared = writes / scale(writes.sum(0), eps)
        return (shared * weight if use_weight else shared) @ row

    return answer


_right = _scaled(_size)


def _plain_shares(writes: Tensor, weight: Tensor, eps: float, row: Tensor) -> Tensor:
    products = writes @ row
    return products / products.sum()


def _by(size: Callable[[Tensor, Tensor, float], Tensor]) -> Callable:
    """Shares of a stream whose size is measured on something else."""
    return lambda writes, weight, eps, row: (
        writes / size(writes, weight, eps) * weight) @ row


def _spoiled(spoil: Callable[[Tensor], Tensor]) -> Callable:
    return lambda *values: spoil(_right(*values))


def _left_out(writes: Tensor, weight: Tensor, eps: float, row: Tensor) -> Tensor:
    total = writes.sum(0)

    def logit(stream: Tensor) -> Tensor:
        return (stream / _size(stream, eps) * weight) @ row

    return logit(total) - logit(total - writes)


CONTRIBUTIONS = Exercise(
    "6.3", "Who said it?", "Your turn: who said it?", _package_contributions,
    probes=(
        Probe("two parts", lambda rng: _written(rng, 2, 3)),
        Probe("one part", lambda rng: _written(rng, 1, 4)),
        Probe("seven parts", lambda rng: _written(rng, 7, 5, mean=0.0)),
        Probe("a large stream", lambda rng: _written(rng, 4, 6, mean=300.0)),
    ),
    misconceptions=(
        Misconception("each part normed", _each_normed,
                      "you normed each part by its own size. A small whisper then counts as much "
                      "as a shout, and the shares do not add up to the logit. All parts are "
                      "divided by the size of the whole stream."),
        Misconception("the stream so far", _as_they_grow,
                      "you divided each part by the size of the stream up to it. The last norm "
                      "reads the whole stream, and divides all of it by one number."),
        Misconception("logit lens", _lens,
                      "you asked what the model would say if it stopped after each part: that is "
                      "the logit lens. Asked is the share of each part in the final logit.",
                      section="Stop early: what would it say now?"),
        Misconception("steps of the lens", _lens_steps,
                      "you took the differences of the logit lens. They do add up, but each is "
                      "normed by another size: a part is also blamed for shrinking what was "
                      "said before it.", section="Stop early: what would it say now?"),
        Misconception("not normed", _scaled(lambda total, eps: torch.ones(())),
                      "you left out the division: the last norm divides the stream by its size."),
        Misconception("weight forgotten", _scaled(_size, use_weight=False),
                      "you left out the norm's weight, one number a feature."),
        Misconception("epsilon forgotten", _scaled(lambda total, eps: _size(total, 0.0)),
                      "you left out the eps that is given. The norm adds it under the root."),
        Misconception("eps squared", _scaled(lambda total, eps: _size(total, eps**2)),
                      "you squared eps. It is added to the mean square as it is."),
        Misconception("no root", _scaled(lambda total, eps: _size(total, eps)**2),
                      "you divided by the mean square. The size is its root.",
                      also=(_scaled(lambda total, eps: _size(total, 0.0)**2),)),
        Misconception("multiplied", _scaled(lambda total, eps: 1 / _size(total, eps)),
                      "you multiplied by the size of the stream. The norm divides by it."),
        Misconception("a mean for the sum", _by(lambda w, weight, eps: _size(w.mean(0), eps)),
                      "you took the mean of the parts for the stream. The stream is their sum.",
                      also=(_by(lambda w, weight, eps: _size(w.mean(0), 0.0)),)),
        Misconception("the last part's size", _by(lambda w, weight, eps: _size(w[-1], eps)),
                      "you measured the last part. The norm reads the sum of all parts."),
        Misconception("the first part's size", _by(lambda w, weight, eps: _size(w[0], eps)),
                      "you measured the first part. The norm reads the sum of all parts."),
        Misconception("squares before the sum",
                      _by(lambda w, weight, eps: (w.pow(2).sum(0).mean() + eps).sqrt()),
                      "you squared the parts by themselves. Add them first and square the sum: "
                      "what one writes may cancel what another wrote.", also=(
                          _by(lambda w, weight, eps: (w.pow(2).mean() + eps).sqrt()),
                          _by(lambda w, weight, eps: (w.pow(2).sum() + eps).sqrt()))),
        Misconception("the sizes added", _by(lambda w, weight, eps: _size(w, eps).sum()),
                      "you added the sizes of the parts. Measure their sum."),
        Misconception("summed over the features",
                      _by(lambda w, weight, eps: (w.sum(-1).pow(2).mean() + eps).sqrt()),
                      "you added up the features of each part. The stream is the sum of the parts: "
                      "c numbers."),
        Misconception("weighed before it is measured",
                      _by(lambda w, weight, eps: _size(w.sum(0) * weight, eps)),
                      "you measured the stream after the norm's weight. The norm measures what it "
                      "reads, and multiplies afterwards."),
        Misconception("divided by the weight", lambda writes, weight, eps, row: _right(
                          writes, 1 / weight, eps, row),
                      "you divided by the norm's weight. It multiplies."),
        Misconception("one plus the weight", lambda writes, weight, eps, row: _right(
                          writes, 1 + weight, eps, row),
                      "you added 1 to the norm's weight, as other families do. A Llama multiplies "
                      "by the weight itself."),
        Misconception("weight twice", lambda writes, weight, eps, row: _right(
                          writes, weight**2, eps, row),
                      "you multiplied by the norm's weight twice."),
        Misconception("an equal share for all", lambda writes, weight, eps, row: _right(
                          writes, weight, eps, row).mean().expand(len(writes)),
                      "you shared the logit out evenly. Each part has a share of its own."),
        Misconception("parts centred", lambda writes, weight, eps, row: (
                          (writes - writes.mean(-1, keepdim=True)) / _size(writes.sum(0), eps)
                          * weight) @ row,
                      "you subtracted each part's mean: that is LayerNorm.", also=(
                          lambda writes, weight, eps, row: _right(
                              writes - writes.mean(-1, keepdim=True), weight, eps, row),)),
        Misconception("mean over the features", lambda writes, weight, eps, row: _right(
                          writes, weight, eps, row) / len(row),
                      "you averaged the products. A logit is their sum."),
        Misconception("added up on the way", _spoiled(lambda shares: shares.cumsum(0)),
                      "you added up the shares so far. Return each part's own."),
        Misconception("without a sign", _spoiled(torch.abs),
                      "you took away the signs. A part may speak against a piece."),
        Misconception("left out in turn", _left_out,
                      "you asked what changes when a part is left out: then the norm divides by "
                      "another size, and the answers do not add up to the logit."),
        Misconception("epsilon outside the root",
                      _scaled(lambda total, eps: _size(total, 0.0) + eps),
                      "you added eps to the root. It stands inside, beside the mean square."),
        Misconception("length for size",
                      _scaled(lambda total, eps: (total.pow(2).sum() + eps).sqrt()),
                      "you divided by the length of the stream. RMSNorm divides by the root of the "
                      "*mean* square.", also=(_scaled(lambda total, eps: total.norm()),)),
        Misconception("mean subtracted", _scaled(lambda total, eps: (
                          total.var(unbiased=False) + eps).sqrt()),
                      "you measured the stream's size about its mean: that is LayerNorm."),
        Misconception("softmax over the parts", lambda writes, weight, eps, row: _right(
                          writes, weight, eps, row).softmax(0),
                      "you turned the shares into probabilities. They may be negative, and add up "
                      "to the logit, not to 1."),
        Misconception("divided by the total", lambda writes, weight, eps, row: _right(
                          writes, weight, eps, row) / _right(writes, weight, eps, row).sum(),
                      "you divided by the sum of all: these are shares of 1. They are to add up to "
                      "the logit.", also=(_plain_shares,)),
        Misconception("one sum", lambda writes, weight, eps, row: _right(
                          writes, weight, eps, row).sum(),
                      "you added all parts: that is the logit itself. Return one number a part."),
    ),
    hints=(
        "The logit is norm(sum of the parts) . row. Only the division keeps it from being a sum.",
        "Compute what the norm divides by once, from the whole stream. It is one number: divide "
        "every part by it.",
        "Then times the norm's weight, then the product with the row: (... * weight) @ row.",
    ), gradients=("writes", "row"))

# -- 6.4: tellers wired differently ---------------------------------------------------------------


def _teller(**ways: Callable) -> Callable[[], Callable[[Tensor], Tensor]]:
    """A maker of the shipped teller as a function, `b t` to `b t v`, joined in its own way."""

    def make() -> Callable[[Tensor], Tensor]:
        model, _ = load(TALES)
        answer, c = joined(**ways), model.config

        @torch.no_grad()
        def logits(tokens: Tensor) -> Tensor:
            t = tokens.shape[1]
            rope = rope_table(rope_frequencies(c.head_dim, c.rope_theta), torch.arange(t))
            return answer(model, rope, causal_mask(t, t), tokens)

        return logits

    return make


def _unmasked(block: Block, x: Tensor, rope: Rope, mask: Tensor) -> Tensor:
    return right_block(block, x, rope, torch.ones_like(mask))


def _unturned(block: Block, x: Tensor, rope: Rope, mask: Tensor) -> Tensor:
    return right_block(block, x, (torch.ones_like(rope[0]), torch.zeros_like(rope[1])), mask)


TELLERS = Hunt(
    "6.4", "Which teller is wired how?", "Bug hunt: six tellers", _teller(),
    bugs={
        "no last norm": Bug(_teller(end=lambda model, x: x),
                            "keeps most first choices and makes the probabilities far sharper"),
        "mask dropped": Bug(_teller(block=_unmasked),
                            "changes the logits of early tokens when only a later token changes"),
        "no rotation": Bug(_teller(block=_unturned),
                           "gives the first block no way to tell the order of what came before"),
        "halves at once": Bug(_teller(block=both_at_once),
                              "equals a teller whose feed-forward layers read the stream before "
                              "attention has written to it"),
        "second sum from x": Bug(_teller(block=second_from_x),
                                 "equals a teller whose stream loses what attention wrote"),
        "no second residual": Bug(_teller(block=no_second),
                                  "equals a teller whose feed-forward layers replace the stream"),
        "norms exchanged": Bug(_teller(block=norms_exchanged),
                               "equals a teller whose attention reads through ffn_norm"),
        "blocks backwards": Bug(_teller(blocks=lambda layers: layers[::-1]),
                                "equals a teller that runs its last block first"),
        "softmax inside": Bug(_teller(head=lambda model, x: model.logits(x).softmax(-1)),
                              "returns numbers between 0 and 1 that sum to 1"),
    },
    hidden={"a": "norms exchanged", "b": "no last norm", "c": HEALTHY, "d": "second sum from x",
            "e": "no rotation", "f": "halves at once"},
    look=lambda teller: teller(torch.tensor([[1, 40, 41, 7, 300, 12]])),
    hints=(
        "One experiment costs one line: change the last token, and see whether the first token's "
        "logits move. Then look at how sharp the probabilities are.",
        "Two tellers give nonsense that looks alike. You have the healthy teller's parts: wire "
        "each mistake yourself, with your 6.2, and compare with torch.allclose.",
    ))

EXERCISES = [CONTRIBUTIONS, TELLERS]
