"""The exercise of chapter 10 on limits, 10.1: the least seconds of a pass, and where they bend."""

import math
from collections.abc import Callable

from torch import Generator

from .data import Exercise, Inputs, Misconception, Probe, between

Found = tuple[float, float]
Rule = Callable[[float, float, float, int, float, float], float]


def _seconds(weights: float, cache: float, operations: float, batch: int, bandwidth: float,
             rate: float) -> float:
    """A test holds it against `family.accounting.pass_seconds`."""
    return max((weights + batch * cache) / bandwidth, batch * operations / rate)


def _bend(weights: float, cache: float, operations: float, batch: int, bandwidth: float,
          rate: float) -> float:
    """Where both clocks show the same."""
    gained = operations / rate - cache / bandwidth
    return weights / bandwidth / gained if gained > 0 else math.inf


def _both(seconds: Rule = _seconds, bend: Rule = _bend) -> Callable[..., Found]:
    def answer(weights: float, cache: float, operations: float, batch: int, bandwidth: float,
               rate: float) -> Found:
        given = weights, cache, operations, batch, bandwidth, rate
        return seconds(*given), bend(*given)

    return answer


def _no_cache(rule: Rule) -> Rule:
    return lambda w, c, o, b, band, rate: rule(w, 0.0, o, b, band, rate)


def _given(weights: float, cache: float, operations: float, batch: int, bandwidth: float,
           rate: float) -> Callable[[Generator], Inputs]:
    def make(rng: Generator) -> Inputs:
        def near(value: float) -> float:
            return value * between(rng, 0.8, 1.25)

        return {"weights": near(weights), "cache": near(cache), "operations": near(operations),
                "batch": batch, "bandwidth": near(bandwidth), "rate": near(rate)}

    return make


SECONDS = Exercise(
    "10.1", "The least seconds of a pass", "Your turn: two clocks", _both(),
    probes=(
        Probe("by hand", lambda rng: {"weights": 12.0, "cache": 1.0, "operations": 24.0, "batch": 2,
                                      "bandwidth": 4.0, "rate": 16.0}),
        Probe("a full batch by hand", lambda rng: {
            "weights": 12.0, "cache": 1.0, "operations": 24.0, "batch": 5, "bandwidth": 4.0,
            "rate": 16.0}),
        Probe("an 8B, short texts", _given(15e9, 13e6, 15e9, 64, 3.3e12, 9.9e14)),
        Probe("an 8B, many short texts", _given(15e9, 13e6, 15e9, 900, 3.3e12, 9.9e14)),
        Probe("an 8B, long texts", _given(15e9, 1e9, 17e9, 64, 3.3e12, 9.9e14)),
        Probe("little arithmetic a second", lambda rng: {
            "weights": 12.0, "cache": 1.0, "operations": 60.0, "batch": 3, "bandwidth": 4.0,
            "rate": 8.0}),
        Probe("one text, no cache yet", _given(5e8, 0.0, 2.7e8, 1, 1e10, 6e10)),
    ),
    misconceptions=(
        Misconception("one clock after the other", _both(
                          lambda w, c, o, b, band, rate: (w + b * c) / band + b * o / rate),
                      "you added the two clocks. A machine reads and computes at the same time: "
                      "what comes at the end of the slower one is the end."),
        Misconception("the faster clock", _both(
                          lambda w, c, o, b, band, rate: min((w + b * c) / band, b * o / rate)),
                      "you took the faster clock. The pass is over when *both* have stopped."),
        Misconception("weights for each text", _both(
                          lambda w, c, o, b, band, rate: max(b * (w + c) / band, b * o / rate)),
                      "you read the weights once for each text. A batch reads them once for all: "
                      "that is what it is for."),
        Misconception("one cache for all", _both(
                          lambda w, c, o, b, band, rate: max((w + c) / band, b * o / rate)),
                      "you read one cache for all texts. Each text has its own past."),
        Misconception("the operations of one text", _both(
                          lambda w, c, o, b, band, rate: max((w + b * c) / band, o / rate)),
                      "your arithmetic is that of one text. It is done for each."),
        Misconception("no cache", _both(_no_cache(_seconds), _no_cache(_bend)),
                      "you never read the caches. With long texts they are most of what is read."),
        Misconception("no cache in the seconds", _both(_no_cache(_seconds)),
                      "your seconds leave the caches out: weights + batch * cache is read."),
        Misconception("no cache in the bend", _both(bend=_no_cache(_bend)),
                      "your bend leaves the caches out. Each further text adds arithmetic *and* "
                      "bytes; only the difference of the two brings the bend nearer."),
        Misconception("bytes alone", _both(
                          lambda w, c, o, b, band, rate: (w + b * c) / band),
                      "you looked at the bytes alone. Beyond the bend arithmetic takes longer."),
        Misconception("arithmetic alone", _both(lambda w, c, o, b, band, rate: b * o / rate),
                      "you looked at the arithmetic alone. With one text reading takes longer."),
        Misconception("seconds a token", _both(lambda *given: _seconds(*given) / given[3]),
                      "you divided by the batch: those are the seconds of a token. The pass's are "
                      "asked for."),
        Misconception("never said", _both(bend=lambda w, c, o, b, band, rate: (
                          w / band / (o / rate - c / band))),
                      "your bend is a negative batch where reading one more cache takes longer "
                      "than the text's arithmetic. Then there is none: math.inf.",
                      also=(_both(bend=lambda w, c, o, b, band, rate: max(
                          0.0, w / band / (o / rate - c / band))),
                            _both(bend=lambda w, c, o, b, band, rate: abs(
                                w / band / (o / rate - c / band))))),
        Misconception("the cache added", _both(bend=lambda w, c, o, b, band, rate: (
                          w / band / (o / rate + c / band))),
                      "in your bend the caches help the arithmetic to catch up. They are on the "
                      "other clock: more to read moves the bend further away."),
        Misconception("the machine's balance", _both(
                          bend=lambda w, c, o, b, band, rate: rate / band),
                      "you returned the operations a byte at which the machine is in balance. At "
                      "which *batch* does this model offer them?"),
        Misconception("upside down", _both(bend=lambda *given: 1 / _bend(*given)),
                      "your bend is upside down: weights' time over what a text adds, not under."),
        Misconception("rounded", _both(bend=lambda *given: (
                          found if (found := _bend(*given)) == math.inf
                          else float(math.ceil(found)))),
                      "you rounded the bend. It is asked for as it comes out.",
                      also=(_both(bend=lambda *given: (
                          found if (found := _bend(*given)) == math.inf
                          else float(math.floor(found)))),)),
    ),
    hints=(
        "Two clocks start together. What does the first read, weights and caches, and how fast? "
        "What does the second compute?",
        "seconds = max((weights + batch * cache) / bandwidth, batch * operations / rate).",
        "At the bend both show the same: solve for batch. If a text adds no more to the second "
        "clock than to the first, they never meet.",
    ))

EXERCISES = [SECONDS]
