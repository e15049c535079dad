"""The exercise of chapter 10 on two guesses for one place, 10.4."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor

from .ch07_generation_accept import what_verify_does
from .data import Exercise, Inputs, Misconception, Probe

Rule = Callable[[Tensor, Tensor], Tensor]


def _keep(p: Tensor, q: Tensor) -> Tensor:
    return what_verify_does(p, q)[0]


def _left(p: Tensor, q: Tensor) -> Tensor:
    """What has to come out once a guess was refused."""
    return what_verify_does(p, q)[1]


def _lacking(p: Tensor, q: Tensor) -> Tensor:
    return torch.relu(p - q)


def _scaled(x: Tensor) -> Tensor:
    return x / x.sum() if x.any() else x


def _second(p: Tensor, q: Tensor) -> Tensor:
    return _keep(_left(p, q), q)


def _instead(p: Tensor, q: Tensor) -> Tensor:
    return _left(_left(p, q), q)


def _two(first: Rule = _keep, second: Rule = _second, instead: Rule = _instead) -> Callable:
    return lambda p, q: (first(p, q), second(p, q), instead(p, q))


def _where_it_matters(answer: Callable, p: Tensor, q: Tensor) -> Any:
    """The answer, made alike where any will do: what is never said, what never comes to pass."""
    made = answer(p, q)
    if type(made) is not tuple or [type(each) for each in made] != [Tensor] * 3:
        return made
    if any(each.shape != p.shape for each in made):
        return made
    first, second = (each.masked_fill(q == 0, 1) for each in made[:2])
    if torch.equal(p, q):
        return first, torch.ones_like(p), p.clone()
    return first, second, made[2]


def _again(rule: Callable) -> Callable:
    """A rule of one guess, used twice: what it leaves is the second guess's target."""
    def answer(p: Tensor, q: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        first, left = rule(p, q)
        second, instead = rule(left, q)
        return first, second, instead

    return answer


def _shares(p: list[float], q: list[float]) -> Callable[[Generator], Inputs]:
    def make(rng: Generator) -> Inputs:
        turn = int(torch.randint(len(p), (), generator=rng))
        return {"p": torch.tensor(p, dtype=torch.float64).roll(turn),
                "q": torch.tensor(q, dtype=torch.float64).roll(turn)}

    return make


def _drawn(rng: Generator, v: int, std: float) -> Inputs:
    p, q = (std * torch.randn(2, v, generator=rng, dtype=torch.float64)).softmax(-1)
    return {"p": p, "q": q}


TWO = Exercise(
    "10.4", "Two guesses for one place", "Harder: two guesses for one place", _two(),
    probes=(
        Probe("four tokens", _shares([0.5, 0.25, 0.15, 0.1], [0.2, 0.4, 0.1, 0.3])),
        Probe("three lack something", _shares([0.35, 0.3, 0.25, 0.1], [0.3, 0.1, 0.2, 0.4])),
        Probe("one that the draft never says", _shares([0.3, 0.5, 0.2], [0.6, 0.4, 0.0])),
        Probe("one that the model never says", _shares([0.0, 0.7, 0.3], [0.25, 0.5, 0.25])),
        Probe("equal", _shares([0.5, 0.125, 0.375], [0.5, 0.125, 0.375])),
        Probe("nothing in common", _shares([0.75, 0.25, 0.0], [0.0, 0.0, 1.0])),
        Probe("drawn", lambda rng: _drawn(rng, 9, 2.0)),
    ),
    misconceptions=(
        Misconception("p once more", _two(second=_keep),
                      "you hold the second guess against p. But a part of p has come out already, "
                      "through first guesses that were kept: after a refusal only what lacks is "
                      "still to be said, and that is another distribution.",
                      also=(_two(second=_keep, instead=_left),
                            _two(second=_keep, instead=lambda p, q: p.clone()))),
        Misconception("replaced as after one guess", _two(instead=_left),
                      "your replacement is the one for a single guess. The second guess has said a "
                      "part of what lacked: take that away as well."),
        Misconception("replaced from p", _two(instead=lambda p, q: p.clone()),
                      "you replace by a draw from p, which has had its share by two doors."),
        Misconception("not a distribution", _two(
                          second=lambda p, q: _keep(_lacking(p, q), q),
                          instead=lambda p, q: _scaled(_lacking(_lacking(p, q), q))),
                      "you compare with p - q as it is. Given that the first was refused, what is "
                      "still to be said sums to 1: divide by the sum.",
                      also=(_two(second=lambda p, q: _keep(_lacking(p, q), q)),)),
        Misconception("what is refused, for q", _two(
                          second=lambda p, q: _keep(_left(p, q), _left(q, p)),
                          instead=lambda p, q: _left(_left(p, q), _left(q, p))),
                      "you took the refused guesses for the second draw. The second guess is drawn "
                      "from q, whatever became of the first.",
                      also=(_two(second=lambda p, q: _keep(p, _left(q, p))),)),
        Misconception("both in one", _two(first=lambda p, q: _keep(p, 1 - (1 - q)**2)),
                      "you kept the first guess by the chance that a token is drawn at all in two "
                      "draws. Then a first guess is refused more often than need be."),
        Misconception("the second never kept", _two(second=lambda p, q: torch.zeros_like(p),
                                                    instead=_left),
                      "the output is right, and the second guess is wasted: you never keep it."),
        Misconception("the chance from the start", _two(
                          second=lambda p, q: _second(p, q) * _lacking(p, q).sum()),
                      "you multiplied the second chance by that of a refusal. `second` is asked "
                      "for *given* that the first was refused.",
                      also=(_two(second=lambda p, q: _second(p, q) * (1 - _keep(p, q))),)),
        Misconception("too cautious", _again(lambda p, q: (p, _scaled(p - q * p))),
                      "the output is right, and you keep guesses less often than you could.",
                      also=(_again(lambda p, q: (_keep(p, q) / 2,
                                                 _scaled(p - q * _keep(p, q) / 2))),)),
        Misconception("difference not cut", _two(instead=lambda p, q: _left(p, q) - q),
                      "your replacement has negative numbers: where q offers more than what lacks, "
                      "nothing is lacking any more.",
                      also=(_two(instead=lambda p, q: p - 2 * q),)),
        Misconception("not rescaled", _two(instead=lambda p, q: _lacking(_left(p, q), q)),
                      "your replacement does not sum to 1."),
        Misconception("two shares of q", _two(
                          instead=lambda p, q: _scaled((p - 2 * q).clamp(min=0))),
                      "you took q away twice from p. The second guess counts in another measure: "
                      "it speaks only where the first was refused."),
        Misconception("in equal shares", _two(
                          instead=lambda p, q: _scaled((_instead(p, q) > 0).to(p.dtype))),
                      "the right tokens, in equal shares: of some more is lacking than of others."),
        Misconception("p and q swapped", lambda p, q: _two()(q, p),
                      "p is the model's distribution and q the draft's: you took one for the "
                      "other."),
        Misconception("always kept", _two(second=lambda p, q: torch.ones_like(p)),
                      "you keep every second guess: what the draft likes comes out too often."),
        Misconception("refused for kept", _two(second=lambda p, q: 1 - _second(p, q)),
                      "your `second` is the chance to refuse."),
    ),
    hints=(
        "Exercise 7.6 is the first guess. If it was refused, which distribution must everything "
        "that follows have, so that p comes out over all?",
        "That is 7.6's replacement; call it p'. Now there is a second guess, drawn from q, and p' "
        "has to come out. You have solved that before.",
        "first, left = rule(p, q); second, instead = rule(left, q).",
    ),
    adapt=_where_it_matters)

EXERCISES = [TWO]
