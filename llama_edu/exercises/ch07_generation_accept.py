"""The exercises of chapter 07, continued: 7.6, the rule by which a guess is kept."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor
from torch.nn.functional import one_hot

from .data import Exercise, Inputs, Misconception, Probe, between

# -- 7.6: the rule of acceptance ------------------------------------------------------------------

def _keep(p: Tensor, q: Tensor) -> Tensor:
    return (p / q).nan_to_num(1.0, posinf=1.0).clamp(max=1)


def _lacking(p: Tensor, q: Tensor) -> Tensor:
    return (p - q).clamp(min=0)


def _scaled(x: Tensor) -> Tensor:
    return x / x.sum() if x.sum() > 0 else x


def what_verify_does(p: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
    """The chances that `verify` draws with: a test holds the two together."""
    return _keep(p, q), _scaled(_lacking(p, q))


def _where_it_matters(answer: Callable, p: Tensor, q: Tensor) -> Any:
    """The answer, made alike where any will do: what is never said, what is never replaced."""
    made = answer(p, q)
    if type(made) is not tuple or [type(each) for each in made] != [Tensor, Tensor]:
        return made
    keep, instead = made
    if keep.shape != p.shape or instead.shape != p.shape:
        return made
    keep = keep.masked_fill(q == 0, 1)
    return keep, p.clone() if torch.equal(p, q) else instead


def _rule(keep: Callable = _keep, instead: Callable = lambda p, q: _scaled(_lacking(p, q))
          ) -> Callable:
    return lambda p, q: (keep(p, q), instead(p, q))


def _what_is_left(keep: Callable) -> Callable:
    """The replacement that makes the sum right for any chance to keep that is small enough."""
    return lambda p, q: _scaled(p - q * keep(p, q))


def _cautious(keep: Callable) -> Callable:
    return _rule(keep, _what_is_left(keep))


def _shares(p: list[float], q: list[float]) -> Callable[[Generator], Inputs]:
    return lambda rng: {"p": torch.tensor(p), "q": torch.tensor(q)}


def _drawn(rng: Generator, v: int, std: float) -> Inputs:
    p, q = (std * torch.randn(2, v, generator=rng) + between(rng, 0, 1)).softmax(-1)
    return {"p": p, "q": q}


ACCEPT = Exercise(
    "7.6", "The rule of acceptance", "Guess ahead", what_verify_does,
    probes=(
        Probe("four tokens", _shares([0.5, 0.25, 0.15, 0.1], [0.2, 0.4, 0.1, 0.3])),
        Probe("one that the draft never says", _shares([0.3, 0.5, 0.2], [0.6, 0.4, 0.0])),
        Probe("one that the model never says", _shares([0.0, 0.7, 0.3], [0.25, 0.5, 0.25])),
        Probe("equal", _shares([0.5, 0.125, 0.375], [0.5, 0.125, 0.375])),
        Probe("nothing in common", _shares([0.75, 0.25, 0.0], [0.0, 0.0, 1.0])),
        Probe("drawn", lambda rng: _drawn(rng, 9, 2.0)),
    ),
    misconceptions=(
        Misconception("replaced from p", _rule(instead=lambda p, q: p.clone()),
                      "you replace a refused guess by a draw from p. But p has had a part of its "
                      "share already, through the guesses that were kept: tokens that the draft "
                      "likes come out too often. Only what is lacking may be drawn."),
        Misconception("replaced from q", _rule(instead=lambda p, q: q.clone()),
                      "you replace a refused guess by another draw from q: what the draft says too "
                      "seldom still comes too seldom."),
        Misconception("in equal shares", _rule(instead=lambda p, q: _scaled((p > q).float())),
                      "you replace in equal shares. Of some tokens more is lacking than of others: "
                      "p - q says how much.",
                      also=(_rule(instead=lambda p, q: torch.full_like(p, 1 / len(p))),)),
        Misconception("what is refused of p", _rule(instead=lambda p, q: _scaled(
                          p * (1 - _keep(p, q)))),
                      "you replace by tokens in the share in which they are refused. Those are the "
                      "ones that come too often."),
        Misconception("p and q swapped", lambda p, q: (_keep(q, p), _scaled(_lacking(q, p))),
                      "p is the model's distribution and q the draft's: you took one for the "
                      "other."),
        Misconception("not rescaled", _rule(instead=_lacking),
                      "what replaces a refused guess is a distribution: it has to sum to 1.",
                      also=(_rule(instead=lambda p, q: _lacking(p, q) / _lacking(p, q).max()),
                            _rule(instead=lambda p, q: _lacking(p, q) / _lacking(p, q).mean()),
                            _rule(instead=lambda p, q: _lacking(p, q) / len(p)))),
        Misconception("kept by the difference", _rule(lambda p, q: 1 - (q - p).clamp(min=0)),
                      "you keep by a difference. Drawn and kept is q times your chance, and that "
                      "has to be min(p, q): so it is a ratio.",
                      also=(_rule(lambda p, q: 1 - (p - q).abs()), _rule(_lacking),
                            _rule(lambda p, q: (p - q).abs()),
                            _rule(lambda p, q: 1 - _lacking(p, q)))),
        Misconception("never kept", _rule(lambda p, q: torch.zeros_like(p), lambda p, q: p.clone()),
                      "the output is right and nothing is won: you refuse every guess. Keep as "
                      "often as the first condition allows."),
        Misconception("too cautious", _cautious(lambda p, q: p),
                      "the output is right, and you keep guesses less often than you could. For "
                      "each token, q times its chance may rise until it meets p.",
                      also=(_cautious(lambda p, q: torch.minimum(p, q)),
                            _cautious(lambda p, q: (p / (p + q)).nan_to_num(0)),
                            _cautious(lambda p, q: (p >= q).float()),
                            _cautious(lambda p, q: _keep(p, q) / 2),
                            _cautious(lambda p, q: _keep(p, q) * 0.9))),
        Misconception("too cautious, and the gap not filled", _rule(lambda p, q: _keep(p, q) / 2),
                      "you keep guesses less often than you could; and then `instead` does not "
                      "fill the gap any more, so that p does not come out. For each token, q times "
                      "its chance may rise until it meets p.",
                      also=(_rule(lambda p, q: _keep(p, q)**2), _rule(lambda p, q: p * q),
                            _rule(lambda p, q: p / q.max()), _rule(lambda p, q: 1 - q),
                            _rule(lambda p, q: (p / q / (p / q).nan_to_num(0, posinf=0).max())
                                  .nan_to_num(1.0, posinf=1.0)))),
        Misconception("refused for kept", _rule(lambda p, q: 1 - _keep(p, q)),
                      "that is the chance to refuse. `keep` is the chance to keep."),
        Misconception("what comes out together", lambda p, q: (torch.minimum(p, q),
                                                               _lacking(p, q)),
                      "you return how often a token comes out through each door. `keep` is the "
                      "chance of one that *was* drawn: divide by q. And `instead` is a "
                      "distribution: divide by its sum."),
        Misconception("kept as a distribution", _rule(lambda p, q: (p / q) / (p / q).sum()),
                      "you divided the ratios by their sum. `keep` is a chance for each token by "
                      "itself, and no distribution over tokens."),
        Misconception("at least one", _rule(lambda p, q: (p / q).clamp(min=1).nan_to_num(1)),
                      "your chances are 1 or more. They are at most 1: clamp(max=1)."),
        Misconception("always kept", _rule(lambda p, q: torch.ones_like(p)),
                      "you keep every guess, so the output is the draft's.",
                      also=(_rule(lambda p, q: torch.ones_like(p), lambda p, q: p.clone()),)),
        Misconception("one chance for all", _rule(
                          lambda p, q: torch.minimum(p, q).sum().expand_as(p).clone()),
                      "you keep each token with the same chance. On average it is right; but a "
                      "token that the draft says too often must be refused more often."),
        Misconception("in shares of p", _rule(instead=lambda p, q: _scaled(p * (p > q))),
                      "the right tokens, in the wrong shares: what lacks of a token is p - q, not "
                      "p."),
        Misconception("the overlap instead", _rule(instead=lambda p, q: _scaled(
                          torch.minimum(p, q))),
                      also=(_rule(instead=lambda p, q: torch.minimum(p, q)
                                  / torch.minimum(p, q).sum()),), why=
                      "you replace by what both have. Of that there is enough: it has come out "
                      "through the guesses that were kept."),
        Misconception("kept with the model's probability", _rule(lambda p, q: p.clone()),
                      "you keep a token with chance p. It is drawn with chance q before that, so "
                      "it would come out with p q."),
        Misconception("kept by threshold", _rule(lambda p, q: (p >= q).float()),
                      "you keep a token if p is at least q, and never else. A token that the draft "
                      "likes too much has a share in p too: keep it sometimes.",
                      also=(_rule(lambda p, q: (p > q).float()),)),
        Misconception("upside down", _rule(lambda p, q: (q / p).clamp(max=1).nan_to_num(1.0)),
                      also=(_rule(lambda p, q: torch.minimum(p, q) / p),
                            _rule(lambda p, q: (q / p).clamp(max=1)),
                            _rule(lambda p, q: (q / p).nan_to_num(1.0, posinf=1.0))), why=
                      "your ratio is upside down: the more the draft overrates a token, the more "
                      "often you keep it."),
        Misconception("chances above one",
                      _rule(lambda p, q: (p / q).nan_to_num(1.0, posinf=1.0)),
                      "some of your chances are above 1. No guess can be kept more often than "
                      "always."),
        Misconception("the overlap", _rule(torch.minimum),
                      "min(p, q) is how often a token is drawn *and* kept. The chance to keep one "
                      "that was drawn is that, divided by q."),
        Misconception("kept in proportion", _rule(lambda p, q: (p / (p + q)).nan_to_num(0)),
                      "p / (p + q) is below 1 even where the draft says a token too seldom. Such a "
                      "token may always be kept."),
        Misconception("both directions", _rule(instead=lambda p, q: _scaled((p - q).abs())),
                      also=(_rule(instead=lambda p, q: _scaled(torch.maximum(p, q))),
                            _rule(instead=lambda p, q: (p + q) / 2)), why=
                      "your replacement also draws tokens of which there is too much already. Only "
                      "those come in question of which q has too little."),
        Misconception("the wrong side", _rule(instead=lambda p, q: _scaled(_lacking(q, p))),
                      also=(_rule(instead=lambda p, q: _scaled(1 - _keep(p, q))),), why=
                      "you replace by tokens that the draft says too often. Those are lacking that "
                      "it says too seldom."),
        Misconception("softmax of the difference",
                      _rule(instead=lambda p, q: (p - q).softmax(-1)),
                      "a softmax gives every token a share, also those of which there is enough. "
                      "These are probabilities: set what is below 0 to 0 and divide by the sum.",
                      also=(_rule(instead=lambda p, q: _lacking(p, q).softmax(-1)),)),
        Misconception("the likeliest instead",
                      _rule(instead=lambda p, q: one_hot(p.argmax(), len(p)).float()),
                      "you replace a refused guess by one fixed token. All that are lacking must "
                      "come out, each in its share.",
                      also=(_rule(instead=lambda p, q: one_hot((p - q).argmax(),
                                                               len(p)).float()),)),
        Misconception("squares", _rule(instead=lambda p, q: _scaled(_lacking(p, q)**2)),
                      "the right tokens, in the wrong shares: what lacks of a token is p - q, not "
                      "its square."),
        Misconception("by the ratio", _rule(instead=lambda p, q: _scaled(
                          (p / q - 1).clamp(min=0).nan_to_num(0.0, posinf=0.0))),
                      "you replace in proportion to p / q. What lacks of a token is a difference."),
        Misconception("difference not cut", _rule(instead=lambda p, q: p - q),
                      "your replacement has negative numbers: where q is above p nothing is "
                      "lacking.",
                      also=(_rule(instead=lambda p, q: _scaled(p - q)),
                            _rule(instead=lambda p, q: (p - q) / (p - q).abs().sum()))),
    ),
    hints=(
        "Follow one token x. It comes out if it is drawn and kept, or if some guess is refused and "
        "x is drawn instead. Write the chance of both; the sum has to be p(x).",
        "Drawn and kept: q(x) keep(x), at most q(x) and at most p(x). As large as possible, that "
        "is min(p(x), q(x)). So keep(x) is ...",
        "What lacks is p(x) - min(p(x), q(x)). Divide by its sum, and it is a distribution.",
    ),
    adapt=_where_it_matters)

EXERCISES = [ACCEPT]
