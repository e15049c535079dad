"""The exercises of chapter 07, continued: 7.7, how many tokens a pass of guesses yields."""

import math
from collections.abc import Callable

from .data import Exercise, Inputs, Misconception, Probe, between


def _expected_tokens(rate: float, ahead: int) -> float:
    """The chance of at least i guesses that hold, summed over i; i = 0 is the model's own token."""
    return float(sum(rate**i for i in range(ahead + 1)))


def _tokens(rate: float, ahead: int) -> Inputs:
    return {"rate": rate, "ahead": ahead}


def _series(first: Callable[[int], int], last: Callable[[int], int]) -> Callable:
    return lambda rate, ahead: float(sum(rate**i for i in range(first(ahead), last(ahead) + 1)))


def _until_refused(rate: float, ahead: int) -> float:
    """Guesses that hold before a refusal among `ahead`, the runs without a refusal left out."""
    return float(sum(held * rate**held * (1 - rate) for held in range(ahead)))


LENGTH = Exercise(
    "7.7", "Tokens a pass", "Does it pay?", _expected_tokens,
    probes=(
        Probe("two guesses", lambda rng: _tokens(between(rng, 0.4, 0.6), 2)),
        Probe("five guesses", lambda rng: _tokens(between(rng, 0.7, 0.9), 5)),
        Probe("one guess", lambda rng: _tokens(between(rng, 0.2, 0.4), 1)),
        Probe("all hold", lambda rng: _tokens(1.0, 3)),
        Probe("none holds", lambda rng: _tokens(0.0, 4)),
        Probe("no guess", lambda rng: _tokens(between(rng, 0.4, 0.6), 0)),
    ),
    misconceptions=(
        Misconception("guesses alone", _series(lambda n: 1, lambda n: n),
                      "you counted the guesses that hold. One token more comes out of every pass: "
                      "the model's own.",
                      also=(lambda rate, ahead: rate * (1 - rate**ahead) / (1 - rate),)),
        Misconception("each for itself", lambda rate, ahead: 1 + rate * ahead,
                      "you counted every guess by itself. One counts only if all before it hold "
                      "too."),
        Misconception("each for itself, without the own", lambda rate, ahead: rate * ahead,
                      "you counted every guess by itself, and forgot the model's own token. A "
                      "guess counts only if all before it hold too."),
        Misconception("all or nothing", lambda rate, ahead: 1 + ahead * rate**ahead,
                      "you counted guesses only where all hold. Those before the first that is "
                      "refused are won as well.",
                      also=(lambda rate, ahead: (1 + ahead) * rate**ahead,
                            lambda rate, ahead: 1 + rate**ahead)),
        Misconception("runs that hold forgotten",
                      lambda rate, ahead: float(sum((held + 1) * rate**held * (1 - rate)
                                                    for held in range(ahead))),
                      "you averaged over the place of the first refusal and forgot the passes "
                      "without one: ahead + 1 tokens, with chance rate**ahead.",
                      also=(lambda rate, ahead: 1 + _until_refused(rate, ahead),)),
        Misconception("refused behind the last guess",
                      lambda rate, ahead: float(sum((held + 1) * rate**held * (1 - rate)
                                                    for held in range(ahead + 1))),
                      "all guesses hold with the chance rate**ahead, without a factor 1 - rate: "
                      "behind the last guess nothing is left that could be refused.",
                      also=(lambda rate, ahead: 1 + _until_refused(rate, ahead + 1),)),
        Misconception("runs that hold forgotten, and the own token", _until_refused,
                      "you averaged the guesses before the first refusal. Passes without one are "
                      "missing, and so is the model's own token, which every pass yields."),
        Misconception("refused behind the last guess, and the own token",
                      lambda rate, ahead: _until_refused(rate, ahead + 1),
                      "the model's own token is missing, which every pass yields. And all guesses "
                      "hold with the chance rate**ahead, without a factor 1 - rate."),
        Misconception("the chance of a refusal",
                      lambda rate, ahead: float(sum((1 - rate)**i for i in range(ahead + 1))),
                      "you took `rate` for the chance of a refusal. It is the chance to be kept."),
        Misconception("one too few", _series(lambda n: 0, lambda n: n - 1),
                      "your sum ends one guess early: with one guess, two tokens may come.",
                      also=(lambda rate, ahead: (1 - rate**ahead) / (1 - rate),
                            lambda rate, ahead: ahead + 1.0 if rate == 1 else
                            (1 - rate**ahead) / (1 - rate))),
        Misconception("a chance for a number", lambda rate, ahead: rate**ahead,
                      "that is a chance, and no number of tokens. Every pass yields one at least.",
                      also=(lambda rate, ahead: 1 - rate**ahead,
                            lambda rate, ahead: rate**(ahead + 1),
                            lambda rate, ahead: 1 - rate**(ahead + 1))),
        Misconception("weighted once more", lambda rate, ahead: 1 + float(
                          sum(i * rate**i for i in range(ahead + 1))),
                      "rate**i is the chance of i guesses *or more*. Summed over i, it has counted "
                      "each guess already; times i, it counts them again.",
                      also=(lambda rate, ahead: float(
                                sum(i * rate**i for i in range(ahead + 1))),
                            lambda rate, ahead: float(
                                sum((i + 1) * rate**i for i in range(ahead + 1))))),
        Misconception("the own token twice", lambda rate, ahead: 1 + _expected_tokens(
                          rate, ahead),
                      "you counted the model's own token twice: rate**0 is it already.",
                      also=(lambda rate, ahead: 1 + float(sum(rate**i for i in range(ahead))),)),
        Misconception("multiplied", lambda rate, ahead: (1 + rate)**ahead,
                      "you multiplied 1 + rate for each guess. A guess kept adds one token and "
                      "opens the way to the next; it does not double what there is."),
        Misconception("a whole number", lambda rate, ahead: round(
                          _expected_tokens(rate, ahead)),
                      "you rounded. An average need not be whole.",
                      also=(lambda rate, ahead: int(_expected_tokens(rate, ahead)),
                            lambda rate, ahead: math.ceil(_expected_tokens(rate, ahead)))),
        Misconception("the own token with a chance", _series(lambda n: 1, lambda n: n + 1),
                      "the model's own token is sure: it comes with chance 1, and not with `rate`.",
                      also=(lambda rate, ahead: (ahead + 1) * rate,)),
        Misconception("for each guess", lambda rate, ahead: _expected_tokens(
                          rate, ahead) / (ahead + 1),
                      "you divided by the number of tokens. What one pass yields is asked, all "
                      "together.",
                      also=(lambda rate, ahead: _expected_tokens(rate, ahead) / max(ahead, 1),)),
        Misconception("one too many", _series(lambda n: 0, lambda n: n + 1),
                      "your sum goes on behind the last guess."),
        Misconception("without end",
                      lambda rate, ahead: 1 / (1 - rate) if rate < 1 else float("inf"),
                      "that is for guesses without end. Here there are `ahead` of them.",
                      also=(lambda rate, ahead: 1 / (1 - rate),
                            lambda rate, ahead: float(ahead + 1) if rate == 1 else
                            min(1 / (1 - rate), ahead + 1),
                            lambda rate, ahead: rate / (1 - rate) if rate < 1 else ahead)),
        Misconception("the closed form at 1",
                      lambda rate, ahead: (1 - rate**(ahead + 1)) / (1 - rate),
                      "your formula divides by zero where every guess holds. There the answer is "
                      "ahead + 1; the sum itself has no such hole."),
        Misconception("another number at 1", lambda rate, ahead: 0.0 if rate == 1 else
                      (1 - rate**(ahead + 1)) / (1 - rate),
                      "where every guess holds, ahead + 1 tokens come.",
                      also=(lambda rate, ahead: 1.0 if rate == 1 else
                            (1 - rate**(ahead + 1)) / (1 - rate),
                            lambda rate, ahead: float(ahead) if rate == 1 else
                            (1 - rate**(ahead + 1)) / (1 - rate))),
    ),
    hints=(
        "With one guess: one token surely, and a second with chance `rate`.",
        "The i-th guess is won with chance rate to the power i: it and all before it must hold.",
        "Sum rate**i for i from 0 to ahead. Or go guess by guess: with one guess more, the pass "
        "yields one token and then, with chance `rate`, what it yielded before.",
    ))

EXERCISES = [LENGTH]
