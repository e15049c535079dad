"""The exercise of chapter 08 on the learning rate, 8.4."""

import math
from collections.abc import Callable

from torch import Generator

from ..training_loop import cosine
from .data import Exercise, Inputs, Misconception, Probe, between, count


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


def _longer_warmup(index: int, peak: float, warmup: int, steps: int, last: float) -> float:
    if warmup and index <= warmup:
        return peak * (index + 1) / warmup
    return _rate()(index, peak, warmup, steps, last)


def _after(end: Callable[[float, float], float], early: int = 0) -> Callable[..., float]:
    """The right rate until the end, and then something else."""
    return lambda index, peak, warmup, steps, last: (
        end(peak, last) if index >= steps - early else _rate()(index, peak, warmup, steps, last))


def _warm_from_last(index: int, peak: float, warmup: int, steps: int, last: float) -> float:
    return _rate(rise=lambda index, w: last + (1 - last) * (index + 1) / w)(
        index, peak, warmup, steps, last)


def _multiplied(index: int, peak: float, warmup: int, steps: int, last: float) -> float:
    whole = _rate()(index, peak, 0, steps, last)
    return whole * min(1.0, (index + 1) / max(warmup, 1))


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
        Misconception("wave not halved", _rate(fall=lambda done: 1 + math.cos(math.pi * done)),
                      "1 + cos goes from 2 to 0, so your rate begins at twice the peak's height "
                      "above `last`. Divide it by 2."),
        Misconception("a whole wave",
                      _rate(fall=lambda done: (1 + math.cos(2 * math.pi * done)) / 2),
                      "you took a whole wave, down and up again. The fall is half of one."),
        Misconception("degrees", _rate(fall=lambda done: (1 + math.cos(180 * done)) / 2),
                      "math.cos counts in radians: half a wave is pi, not 180."),
        Misconception("no pi", _rate(fall=lambda done: (1 + math.cos(done)) / 2),
                      "your cosine goes from 0 to 1 radian. Half a wave is pi long."),
        Misconception("a bare cosine", _rate(fall=lambda done: math.cos(math.pi * done)),
                      "your cosine goes from 1 to -1. (1 + cos) / 2 goes from 1 to 0."),
        Misconception("cosine squared",
                      _rate(fall=lambda done: ((1 + math.cos(math.pi * done)) / 2)**2),
                      "you squared the fall: it is steeper than half a wave."),
        Misconception("warm-up turned over", _rate(rise=lambda index, w: w / (index + 1)),
                      "your warm-up falls. Step `index` has (index + 1) / warmup of the peak."),
        Misconception("late and never there", _rate(done=lambda index, w, n:
                                                    min(1.0, (index - w) / n)),
                      "your fall has `steps` steps and begins one late. It has steps - warmup, and "
                      "step warmup is the first."),
        Misconception("a sine", _rate(fall=lambda done: 1 - math.sin(math.pi * done / 2)),
                      "you took a quarter of a sine wave, which is steep at first. Half a cosine "
                      "is flat at both ends."),
        Misconception("one step more of warm-up", _longer_warmup,
                      "your warm-up has one step more: where index equals warmup the rate is "
                      "above its peak. It ends at step warmup - 1."),
        Misconception("nothing after the end", _after(lambda peak, last: 0.0),
                      "after the last step your rate is 0. It stays at peak * last."),
        Misconception("the peak after the end", _after(lambda peak, last: peak),
                      "after the last step your rate is the peak. It stays at peak * last."),
        Misconception("`last` itself at the end", _after(lambda peak, last: last, early=1),
                      "at the end you return `last`. It is a share: peak * last.",
                      also=(_after(lambda peak, last: last),)),
        Misconception("one step early",
                      _rate(done=lambda index, w, n: min(1.0, (index + 1 - w) / (n - 1 - w))),
                      "your fall has arrived one step early. It has steps - warmup steps, and the "
                      "last is number steps - 1.",
                      also=(_rate(done=lambda index, w, n: (index + 1 - w) / (n - 1 - w)),)),
        Misconception("a curved warm-up", _rate(rise=lambda index, w: ((index + 1) / w)**2),
                      "your warm-up is curved. It rises in a line.", also=(
                          _rate(rise=lambda index, w: math.sin(math.pi / 2 * (index + 1) / w)),
                          _rate(rise=lambda index, w:
                                (1 - math.cos(math.pi * (index + 1) / w)) / 2),
                          _rate(rise=lambda index, w: ((index + 1) / w)**0.5))),
        Misconception("warm-up from `last`", _warm_from_last,
                      "your warm-up begins at `last` of the peak. It begins at peak / warmup."),
        Misconception("rise and fall multiplied", _multiplied,
                      "your cosine begins at step 0, under the warm-up, and the two are "
                      "multiplied. The fall begins where the warm-up ends."),
        Misconception("up again, and from zero",
                      _rate(done=lambda index, w, n: (index - w) / (n - w),
                            rise=lambda index, w: index / w),
                      "you are one step late, and after the last step your rate climbs again. Hold "
                      "it at the end, and count index + 1 steps."),
        Misconception("the length without the warm-up",
                      _rate(done=lambda index, w, n: min(1.0, (index + 1) / (n - w))),
                      "you took the warm-up off the length and not off the index, so the fall has "
                      "begun before the warm-up ends."),
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

EXERCISES = [RATE]
