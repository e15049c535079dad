"""Exercise of chapter 03: softmax in one pass over blocks."""

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from .data import Exercise, Inputs, Misconception, Probe, normal, whole

LOWEST = torch.finfo(torch.float32).min


def _online(*, total: bool = True, mixed: bool = True, top: str = "running",
            start: float = LOWEST, shrink: Callable = lambda old, new: (old - new).exp(),
            divide_each: bool = False, short: str = "kept",
            begins: Callable = lambda n, block: range(0, n, block)) -> Callable:
    """The loop over blocks with one part done wrongly: which sums are rescaled, to which top."""
    tops = {"running": lambda old, scores: torch.maximum(old, scores.max()),
            "newest": lambda old, scores: scores.max(),
            "first": lambda old, scores: scores.max() if old == start else old,
            "mean": lambda old, scores: torch.maximum(old, scores.mean()),
            "absolute": lambda old, scores: torch.maximum(old, scores.abs().max()),
            "none": lambda old, scores: 0 * scores.nan_to_num(0, 0, 0)[0]}

    def mix_online(scores: Tensor, values: Tensor, block: int) -> Tensor:
        largest, sum_, mix = torch.tensor(start), torch.zeros(()), torch.zeros_like(values[0])
        for first in begins(len(scores), block):
            part, rows = scores[first:first + block], values[first:first + block]
            dropped = {"kept": False, "if alone": len(part) < len(scores), "never": True}[short]
            if len(part) < block and dropped:
                continue
            new = tops[top](largest, part)
            keep = shrink(largest, new) if top not in ("first", "none") else 1.0
            weights = (part - new).exp()
            sum_ = sum_ * (keep if total else 1.0) + weights.sum()
            mix = mix * (keep if mixed else 1.0) + weights @ rows
            mix = mix / sum_ if divide_each else mix
            largest = new
        return mix if divide_each else mix / sum_

    return mix_online


def _old_top(scores: Tensor, values: Tensor, block: int) -> Tensor:
    """The sums are rescaled, the new weights still count from the old maximum."""
    largest, sum_, mix = scores[:block].max(), torch.zeros(()), torch.zeros_like(values[0])
    for part, rows in zip(scores.split(block), values.split(block), strict=True):
        new = torch.maximum(largest, part.max())
        keep, weights = (largest - new).exp(), (part - largest).exp()
        sum_, mix = sum_ * keep + weights.sum(), mix * keep + weights @ rows
        largest = new
    return mix / sum_


def _new_too(start: float, *, total: bool = True) -> Callable:
    """The new block's sums are rescaled with the old ones; or the mix alone."""
    def mix_online(scores: Tensor, values: Tensor, block: int) -> Tensor:
        largest, sum_, mix = torch.tensor(start), torch.zeros(()), torch.zeros_like(values[0])
        for part, rows in zip(scores.split(block), values.split(block), strict=True):
            new = torch.maximum(largest, part.max())
            keep, weights = (largest - new).exp(), (part - new).exp()
            sum_ = (sum_ + weights.sum()) * keep if total else sum_ * keep + weights.sum()
            mix = (mix + weights @ rows) * keep
            largest = new
        return mix / sum_

    return mix_online


def _padded(scores: Tensor, values: Tensor, block: int) -> Tensor:
    """Zeros after a short last block, which count as scores."""
    missing = -len(scores) % block
    return F.pad(scores, (0, missing)).softmax(0) @ F.pad(values, (0, 0, 0, missing))


def _means(scores: Tensor, values: Tensor, block: int) -> Tensor:
    weights = (scores - scores.max()).exp()
    return weights @ values / sum(part.mean() for part in weights.split(block))


def _first_rows(scores: Tensor, values: Tensor, block: int) -> Tensor:
    at = torch.arange(len(scores)) % block
    return scores.softmax(0) @ values[at]


def _last_alone(scores: Tensor, values: Tensor, block: int) -> Tensor:
    return scores.split(block)[-1].softmax(0) @ values.split(block)[-1]


def _each_block_alone(scores: Tensor, values: Tensor, block: int) -> Tensor:
    parts = zip(scores.split(block), values.split(block), strict=True)
    return torch.stack([part.softmax(0) @ rows for part, rows in parts]).mean(0)


def _each_block_by_size(scores: Tensor, values: Tensor, block: int) -> Tensor:
    parts = zip(scores.split(block), values.split(block), strict=True)
    return sum(part.softmax(0) @ rows * len(rows) for part, rows in parts) / len(scores)


def _rows(rng: Generator, scores: Tensor, block: int, d: int) -> Inputs:
    return {"scores": scores, "values": normal(rng, len(scores), d, mean=2.0, std=3.0),
            "block": block}


ONLINE = Exercise(
    "3.5", "Softmax in one pass over blocks", "Online softmax",
    lambda scores, values, block: scores.softmax(0) @ values,
    probes=(
        Probe("rising scores", lambda rng: _rows(rng, normal(rng, 6).sort().values, 2, 3)),
        Probe("falling scores",
              lambda rng: _rows(rng, normal(rng, 6).sort(descending=True).values, 2, 3)),
        Probe("a short last block", lambda rng: _rows(rng, 2 * normal(rng, 7), 3, 2)),
        Probe("scores near 200", lambda rng: _rows(rng, normal(rng, 4, mean=200.0), 2, 2)),
        Probe("scores near -200", lambda rng: _rows(rng, normal(rng, 4, mean=-200.0), 2, 2)),
        Probe("a rise from 0 to 200", lambda rng: _rows(
            rng, normal(rng, 4) + torch.tensor([0.0, 0.0, 200.0, 200.0]), 2, 2)),
        Probe("a fall from 200 to 0", lambda rng: _rows(
            rng, normal(rng, 4) + torch.tensor([200.0, 200.0, 0.0, 0.0]), 2, 2)),
        Probe("a rise from 0 to 200 within a block", lambda rng: _rows(
            rng, normal(rng, 6) + torch.tensor([0.0, 200.0, 0.0, 0.0, 0.0, 0.0]), 3, 2)),
        Probe("one block", lambda rng: _rows(rng, whole(rng, 3), 5, 2)),
        Probe("blocks of one, equal scores", lambda rng: _rows(rng, torch.full((4,), 2.0), 1, 3)),
        Probe("a block that is hidden", lambda rng: _rows(
            rng, normal(rng, 6) + torch.tensor([0.0, 0, -torch.inf, -torch.inf, 0, 0]), 2, 2)),
        Probe("a first block that is hidden", lambda rng: _rows(
            rng, normal(rng, 6) + torch.tensor([-torch.inf, -torch.inf, 0, 0, 0, 0]), 2, 2)),
    ),
    misconceptions=(
        Misconception("nothing rescaled", _online(total=False, mixed=False),
                      "when a larger score arrives, what you have summed so far still counts from "
                      "the old maximum. Multiply it by exp(old - new).",
                      also=(_online(total=False, mixed=False, start=-math.inf),)),
        Misconception("total not rescaled", _online(total=False),
                      "you rescaled the mixed values but not the total they are divided by. Both "
                      "count from the maximum.", also=(_online(total=False, start=-math.inf),)),
        Misconception("mixed not rescaled", _online(mixed=False),
                      "you rescaled the total but not the mixed values. Both count from the "
                      "maximum.", also=(_online(mixed=False, start=-math.inf),)),
        Misconception("maximum of the block", _online(total=False, mixed=False, top="newest"),
                      "each block counts from its own maximum, so blocks do not compare. Keep one "
                      "running maximum for all of them."),
        Misconception("minus infinity less minus infinity", _online(start=-math.inf),
                      "where the first block is hidden you get nan: -inf less -inf, or 0 by 0. "
                      "Let the running maximum begin at the lowest finite number, and "
                      "divide only at the end."),
        Misconception("maximum begins too high", _online(start=0.0),
                      "your maximum begins at 0, or not far from it. Where all scores are far "
                      "below, the exponentials underflow: 0 / 0, or few digits. Begin at the "
                      "lowest finite number.", also=tuple(
                          _online(start=start) for start in (1.0, -1.0, -10.0, -50.0, -100.0))),
        Misconception("shrunk the wrong way", _online(
            shrink=lambda old, new: (new - old).exp() if old > LOWEST else torch.zeros(())),
                      "you multiplied the old sums by exp(new - old). When the maximum rises they "
                      "must shrink: exp(old - new)."),
        Misconception("nan from the first block on", _online(
            start=-math.inf, shrink=lambda old, new: (new - old).exp()),
                      "you got nan on every input, from the first block on. Where old begins very "
                      "low, exp(new - old), exp(part - old) and old / new may be infinite, and "
                      "infinity by 0 is nan; where it begins very high, all exponentials are 0. "
                      "The old sums shrink by exp(old - new), the new weights count from new, and "
                      "new is the larger of the two.",
                      also=(_online(start=-math.inf, shrink=lambda old, new: old / new),)),
        Misconception("shrunk by the ratio", _online(shrink=lambda old, new: old / new),
                      "you multiplied the old sums by old / new. They are sums of exponentials: "
                      "a difference of maxima is a factor exp(old - new)."),
        Misconception("no exponential in the factor", _online(shrink=lambda old, new: old - new),
                      "you multiplied the old sums by the difference old - new. They are sums of "
                      "exponentials: the factor is its exponential.",
                      also=(_online(shrink=lambda old, new: new - old),)),
        Misconception("new block rescaled too", _new_too(LOWEST),
                      "you multiplied the new block's sums by the factor as well. They count from "
                      "the new maximum already: only what was summed before shrinks.",
                      also=(_new_too(-math.inf), _new_too(LOWEST, total=False),
                            _new_too(-math.inf, total=False))),
        Misconception("new weights from the old maximum", _old_top,
                      "you rescaled the sums to the new maximum, and the new block's exponentials "
                      "still count from the old one."),
        Misconception("divided at each block", _online(divide_each=True),
                      "you divided by the total after each block, and went on adding to the "
                      "quotient. Keep sums as sums, and divide once, at the end.",
                      also=(_online(divide_each=True, start=-math.inf),)),
        Misconception("never divided", lambda scores, values, block:
                      (scores - scores.max()).exp() @ values,
                      "you never divided by the total: the weights do not add up to 1."),
        Misconception("divided by the number", lambda scores, values, block:
                      (scores - scores.max()).exp() @ values / len(scores),
                      "you divided by the number of scores. The shares add up to 1 when you divide "
                      "by the total of the exponentials."),
        Misconception("the last block alone", _last_alone,
                      "only the last block is left in your result. Is the old maximum kept from "
                      "block to block? Against the lowest number, exp(old - new) is 0 each time.",
                      also=(_online(top="newest", shrink=lambda old, new: 0.0),)),
        Misconception("the first block alone", lambda scores, values, block:
                      scores[:block].softmax(0) @ values[:block],
                      "only the first block is in your result. Does the loop end too soon, or "
                      "return from within?"),
        Misconception("blocks overlap", _online(begins=lambda n, block: range(n)),
                      "your blocks begin at every score, so most scores count several times. Go on "
                      "by `block`.",
                      also=(_online(begins=lambda n, block: range(n - block + 1)),
                            _online(begins=lambda n, block: range(n // block)),
                            _online(begins=lambda n, block: range(-(-n // block))))),
        Misconception("first block left out",
                      _online(begins=lambda n, block: range(block, n, block)),
                      "the first block is not in your result. Every score counts.",
                      also=(_online(begins=lambda n, block: range(block, n, block),
                                    start=-math.inf),)),
        Misconception("padded with zeros", _padded,
                      "you filled the last block up with zeros. A score of 0 is a score: its "
                      "exponential is 1. Fill up with -inf, or let the block be short."),
        Misconception("short block dropped", _online(short="if alone"),
                      "you left out the last block where it is shorter than the others. Every "
                      "score counts.",
                      also=(_online(short="never"), _online(short="never", start=-math.inf))),
        Misconception("maximum of the newest block", _online(top="newest"),
                      "you rescale to the newest block's maximum even where it is the smaller "
                      "one: exp(old - new) then overflows. The running maximum never falls."),
        Misconception("maximum of the first block", _online(top="first"),
                      "you count from the first block's maximum for ever: when later scores are "
                      "far larger, exp overflows. Raise the maximum as you go."),
        Misconception("no maximum", _online(top="none"),
                      "you never subtracted the maximum: exp(200) is infinite in float32."),
        Misconception("mean for the maximum", _online(top="mean"),
                      "you subtracted the mean of a block, not its largest score: the exponential "
                      "of what lies far above the mean is infinite."),
        Misconception("largest without its sign", _online(top="absolute"),
                      "you took the largest score without its sign. Where all scores are far below "
                      "zero, their exponentials underflow: 0 / 0.",
                      also=(_online(top="absolute", start=0.0),)),
        Misconception("last score left out", lambda scores, values, block:
                      scores[:-1].softmax(0) @ values[:-1],
                      "the last score is not in your result. Every score counts.",
                      also=(_online(begins=lambda n, block: range(0, n - 1, block)),)),
        Misconception("mean of the exponentials", _means,
                      "you added up the means of the blocks' exponentials. The total is a sum: a "
                      "block of more scores counts for more."),
        Misconception("values of the first block", _first_rows,
                      "you mixed the first block's values in every block. Cut the values where you "
                      "cut the scores."),
        Misconception("only the largest", lambda scores, values, block: values[scores.argmax()],
                      "you returned the value of the largest score alone. The others have a share, "
                      "too."),
        Misconception("blocks averaged", _each_block_alone,
                      "you took the softmax of each block and averaged. A block with large scores "
                      "must count for more.", also=(_each_block_by_size,)),
        Misconception("blocks added", lambda scores, values, block: sum(
            part.softmax(0) @ rows for part, rows
            in zip(scores.split(block), values.split(block), strict=True)),
                      "you took the softmax of each block and added. Each of them adds up to 1 "
                      "by itself; together they are to add up to 1."),
    ),
    hints=(
        "Two blocks of one score each, 1 and then 3. After the first you hold a total of "
        "exp(1 - 1). What would you hold, had you known that the largest is 3?",
        "When the largest score rises from old to new, every earlier exponential shrinks by "
        "exp(old - new): the total and the mix shrink with it.",
        "old begins at torch.finfo(scores.dtype).min. new = max(old, part.max()); keep = "
        "exp(old - new); total = total * keep + exp(part - new).sum(), and the same for the mix. "
        "Divide at the end.",
    ))

EXERCISES = [ONLINE]
