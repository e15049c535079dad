"""The exercises of chapter 02, the last: 2.7 a head set by hand."""

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from ..layers import rope_frequencies
from .ch02_rope_scores import turn_one
from .ch02_rope_turn import turn
from .data import Exercise, Inputs, Misconception, Probe, count

# Many answers are right, so the check looks at what an answer does in a text.
TEXT, AHEAD = 64, 5


def _looks(answer: Callable, distance: int, freqs: Tensor) -> tuple[str, str]:
    """Where the largest score of each query stands, and whether it is ahead of all others."""
    vectors, d = answer(distance, freqs), 2 * len(freqs)
    if not isinstance(vectors, tuple | list) or [
            x.shape for x in vectors if isinstance(x, Tensor)] != [(d,), (d,)]:
        raise ValueError(f"two vectors of {d} numbers are needed: `return q, k`.")
    q, k = (turn(x.float().expand(1, 1, TEXT, d), torch.arange(TEXT), freqs)[0, 0] for x in vectors)
    scores = (q @ k.T)[distance:]
    if not scores.isfinite().all():
        raise ValueError("some scores are infinite or no numbers.")
    best, second = scores.topk(2).values.T
    ahead = bool((best > second + AHEAD).all())
    tied = 0 if ahead else best.abs() / 1_000         # as good as equal, whatever rounding does
    query, place = (scores >= (best - tied)[:, None]).nonzero().T
    back = (query + distance - place).unique().tolist()
    if len(back) > 1:
        return f"largest at several places, {back[0]} to {back[-1]} tokens back", "elsewhere"
    if back != [distance]:
        return f"largest {back[0]} tokens back", "elsewhere"
    return f"largest {distance} tokens back", f"{'' if ahead else 'not '}ahead by {AHEAD}"


def _pair_of(query: Callable, key: Callable = lambda k, distance, freqs: k) -> Callable:
    def answer(distance: int, freqs: Tensor) -> tuple[Tensor, Tensor]:
        k = torch.ones(2 * len(freqs))
        return query(k, distance, freqs), key(k, distance, freqs)
    return answer


def _by(share: float, size: float = 100.0, more: int = 0) -> Callable:
    """The vector turned by so many times the distance, and by so many tokens more."""
    return lambda k, distance, freqs: size * turn_one(k, share * distance + more, freqs)


def _one_pair(i: int, size: float = 100.0) -> Callable:
    def query(k: Tensor, distance: int, freqs: Tensor) -> Tensor:
        turned = _by(-1, size)(k, distance, freqs)
        only = torch.zeros_like(turned)
        only[[2 * i, 2 * i + 1]] = turned[[2 * i, 2 * i + 1]]
        return only
    return query


def _halves_back(k: Tensor, distance: int, freqs: Tensor) -> Tensor:
    return _by(-1)(k, distance, freqs).view(-1, 2).T.flatten()


def _quarter(share: float, size: float = 100.0) -> Callable:
    """Turned by so many times the distance, and every pair by a quarter turn more."""
    def query(k: Tensor, distance: int, freqs: Tensor) -> Tensor:
        first, second = _by(share, size)(k, distance, freqs).view(-1, 2).T
        return torch.stack([-second, first], -1).flatten()
    return query


def _cosines(distance: int, freqs: Tensor) -> tuple[Tensor, Tensor]:
    return 100 * (distance * freqs).cos().repeat_interleave(2), torch.ones(2 * len(freqs))


def _halves_both(distance: int, freqs: Tensor) -> tuple[Tensor, Tensor]:
    angles = distance * freqs
    return (100 * torch.cat([angles.cos(), -angles.sin()]),
            torch.cat([torch.ones_like(freqs), torch.zeros_like(freqs)]))


def _one_angle(i: int, size: float = 100.0) -> Callable:
    """Every pair turned by the angle of pair i."""
    return lambda k, distance, freqs: size * turn_one(k, -distance, freqs[i].expand(len(freqs)))


def _hand_inputs(rng: Generator, low: int, high: int, freqs: Tensor) -> Inputs:
    return {"distance": count(rng, low, high), "freqs": freqs}


HEAD_BY_HAND = Exercise(
    "2.7", "A head by hand", "A head set by hand", _pair_of(_by(-1)),
    probes=(
        Probe("theta 10,000, 16 features",
              lambda rng: _hand_inputs(rng, 3, 6, rope_frequencies(16, 1e4))),
        Probe("the token itself", lambda rng: _hand_inputs(rng, 0, 0, rope_frequencies(8, 1e3))),
        Probe("far back", lambda rng: _hand_inputs(rng, 37, 41, rope_frequencies(32, 1e4))),
        Probe("two hands of 8 and 9 tokens", lambda rng: _hand_inputs(
            rng, 10, 14, 2 * torch.pi / torch.tensor([8.0, 9.0]))),
    ),
    misconceptions=(
        Misconception("forward", _pair_of(_by(1)),
                      "your head looks forward, to tokens that are still to come. The angle is "
                      "the other way round.",
                      also=(_pair_of(_by(1, size=1.0)), _pair_of(_by(0), _by(-1)),
                            _pair_of(_by(1), _by(-1)))),
        Misconception("nothing turned", _pair_of(_by(0)),
                      "every query likes its own place best: query and key point the same way. "
                      "RoPE turns them apart; turn one of them, beforehand, against that.",
                      also=(_pair_of(_by(0, size=1.0)), _pair_of(_by(1), _by(1)),
                            _pair_of(_by(-1), _by(-1)))),
        Misconception("not ahead", _pair_of(_by(-1, size=1.0)),
                      "the right place is best, and not by 5. Scores grow with the lengths of q "
                      "and k, and so do their differences.",
                      also=tuple(_pair_of(_by(-1, size=size)) for size in (0.1, 1.4, 10.0))),
        Misconception("one hand", _pair_of(_one_pair(0)),
                      "you use one pair only. A fast hand comes round again, and a slow one hardly "
                      "tells neighbours apart: use all hands.",
                      also=tuple(_pair_of(_one_pair(i, size)) for i in (0, -1)
                                 for size in (1.0, 10.0, 100.0, 1e3, 1e4, 1e5, 1e6))),
        Misconception("one off", _pair_of(_by(-1, more=-1)),
                      "your head looks at a neighbour of the right place: turn by the distance, "
                      "not by one more or less.", also=(_pair_of(_by(-1, more=1)),)),
        Misconception("smallest", _pair_of(_by(-1, size=-100.0)),
                      "the right place has the smallest score, not the largest."),
        Misconception("both turned", _pair_of(_by(-1), _by(1)),
                      "your head looks twice as far. Were query and key both turned? One of them "
                      "is enough.", also=(_pair_of(_by(-2)),)),
        Misconception("half the way", _pair_of(_by(-0.5)),
                      "your head looks half as far back as it should: the angle is distance times "
                      "frequency, for one of the two vectors, or half of it for each.",
                      also=(_pair_of(_by(-0.5, size=1.0)),)),
        Misconception("always as far", _pair_of(_by(0, more=-1)),
                      "your head looks equally far back whatever `distance` is.",
                      also=tuple(_pair_of(_by(0, more=-n)) for n in range(2, 11))),
        Misconception("a quarter turn off", _pair_of(_quarter(-1)),
                      "every pair of q stands a quarter turn away from its place. Are sine and "
                      "cosine exchanged? An arrow at angle 0 is (1, 0).",
                      also=tuple(_pair_of(_quarter(share, size)) for share in (-1, 1)
                                 for size in (100.0, -100.0))),
        Misconception("cosines alone", _cosines,
                      "both of a pair of q are cosines. An arrow at an angle is (cos, sin)."),
        Misconception("one angle", _pair_of(_one_angle(0)),
                      "all pairs of q are turned by one angle, that of the fastest or the slowest "
                      "hand. Each pair takes its own: distance times its frequency.",
                      also=tuple(_pair_of(_one_angle(i, size)) for i, size in (
                          (-1, 100.0), (0, 1.0), (-1, 1.0), (0, 1000.0), (-1, 1000.0)))),
        Misconception("halves", _pair_of(_halves_back),
                      "your turned pairs are laid out in halves. The pairs are 2i and 2i + 1.",
                      also=(_halves_both,)),
    ),
    hints=(
        "The score at positions m and n is q R_(n-m) k. For which q, of a given length, is it "
        "largest?",
        "A dot product of given lengths is largest where both point the same way. Which vector "
        "points as R_(n-m) k does, for n - m = -distance?",
        "Take k = ones. Let q be k, turned to position -distance, and a hundred times as long.",
    ), adapt=_looks)

EXERCISES = [HEAD_BY_HAND]
