"""The exercises of chapter 07, continued: 7.5, guessing ahead (speculative decoding), greedily."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor
from torch.nn.functional import one_hot

from ..inference.speculative import verify
from .data import Exercise, Inputs, Misconception, Probe


def _package_greedy(guesses: Tensor, best: Tensor) -> Tensor:
    """`verify` with a model and a draft that are both sure."""
    v = int(torch.cat([guesses, best]).max()) + 1
    return verify(one_hot(best, v).float(), one_hot(guesses, v).float(), guesses)


def _any_integers(answer: Callable, *values: Any) -> Any:
    """The answer, its tokens as int64: any kind of integer will do."""
    made = answer(*values)
    whole = isinstance(made, Tensor) and not (made.is_floating_point() or made.dtype == torch.bool
                                              or made.is_complex())
    return made.long() if whole else made


def _run(guesses: Tensor, best: Tensor) -> int:
    """How many guesses hold, up to the first that does not."""
    return int((guesses == best[:-1]).long().cumprod(0).sum())


def _guessed(rng: Generator, t: int, *wrong: int) -> Inputs:
    """t guesses after which the model would say `best`; those at the places `wrong` are not it."""
    best = torch.randint(0, 50, (t + 1,), generator=rng) + 50 * torch.arange(t + 1)
    guesses = best[:-1].clone()
    guesses[list(wrong)] += 7
    return {"guesses": guesses, "best": best}


GREEDY = Exercise(
    "7.5", "One pass over guesses", "Guess ahead", _package_greedy,
    probes=(
        Probe("the second is wrong", lambda rng: _guessed(rng, 4, 1)),
        Probe("all hold", lambda rng: _guessed(rng, 3)),
        Probe("the first is wrong", lambda rng: _guessed(rng, 3, 0)),
        Probe("two are wrong", lambda rng: _guessed(rng, 6, 2, 4)),
        Probe("the last is wrong", lambda rng: _guessed(rng, 2, 1)),
        Probe("no guess", lambda rng: _guessed(rng, 0)),
        Probe("a guess that comes too early", lambda rng: {
            "guesses": torch.tensor([4, 6, 9]), "best": torch.tensor([4, 5, 6, 8])}),
        Probe("a token said twice", lambda rng: {
            "guesses": torch.tensor([4, 4, 9]), "best": torch.tensor([4, 4, 6, 8])}),
    ),
    misconceptions=(
        Misconception("all of the model's tokens", lambda guesses, best: best.clone(),
                      "you took all the model's tokens. Those after a wrong guess answer another "
                      "text: the one with the wrong guess in it."),
        Misconception("guesses after a refusal",
                      lambda guesses, best: torch.cat([
                          guesses[guesses == best[:-1]], best[_run(guesses, best)][None]]),
                      "you kept guesses behind a wrong one. They continue a text that nobody "
                      "wrote: stop at the first that differs.",
                      also=(lambda guesses, best: torch.cat([
                                guesses[guesses == best[:-1]],
                                best[int((guesses == best[:-1]).sum())][None]]),
                            lambda guesses, best: torch.cat([
                                guesses[guesses == best[:-1]], best[-1:]]),
                            lambda guesses, best: best[:int((guesses == best[:-1]).sum()) + 1])),
        Misconception("the last token behind the run",
                      lambda guesses, best: torch.cat([
                          guesses[:_run(guesses, best)], best[-1:]]),
                      "behind n guesses that hold comes best[n]. You took the last of `best`, "
                      "which answers a text with the wrong guess in it."),
        Misconception("one more than that",
                      lambda guesses, best: best[:_run(guesses, best) + 2].clone(),
                      "you took one token too many: it answers a text with the wrong guess in "
                      "it."),
        Misconception("guesses thrown away", lambda guesses, best: best[:1].clone(),
                      "you take one token of the model and throw away all guesses, also those that "
                      "hold.",
                      also=(lambda guesses, best: best[_run(guesses, best)][None],)),
        Misconception("only the first guess",
                      lambda guesses, best: best[:len(best) if _run(guesses, best) else 1].clone(),
                      "you looked at the first guess only. Each of the others has to hold as well.",
                      also=(lambda guesses, best: best[:2 if _run(guesses, best) else 1],
                            lambda guesses, best: torch.cat([guesses, best[-1:]])
                            if _run(guesses, best) else best[:1])),
        Misconception("the last wrong one", lambda guesses, best: best[:int(
                          max((guesses != best[:-1]).nonzero().flatten().tolist(),
                              default=len(guesses))) + 1],
                      "you went on to the last wrong guess. At the first one the run ends."),
        Misconception("refused without a token",
                      lambda guesses, best: best.clone() if _run(guesses, best) == len(guesses)
                      else best[:_run(guesses, best)],
                      "where a guess is refused you return those before it and nothing more. The "
                      "model has said what belongs in its place: that token is free."),
        Misconception("none wrong taken for the first wrong",
                      lambda guesses, best: best[:_run(guesses, best) % max(len(guesses), 1) + 1],
                      "where all guesses hold you return a single token: argmax and argmin give 0 "
                      "where there is nothing to find."),
        Misconception("the correction behind the wrong guess",
                      lambda guesses, best: torch.cat([
                          guesses[:_run(guesses, best) + 1],
                          best[_run(guesses, best)][None]]),
                      "you kept the wrong guess and put the model's own token behind it. It comes "
                      "in its place.",
                      also=(lambda guesses, best: torch.cat([
                          guesses[:_run(guesses, best) + 1],
                          best[min(_run(guesses, best) + 1, len(guesses))][None]]),)),
        Misconception("all that agree", lambda guesses, best: best[:-1][guesses == best[:-1]],
                      "you took the guesses that agree, also those behind a wrong one, and nothing "
                      "of the model's own. Stop at the first that differs; there the model's token "
                      "comes."),
        Misconception("from the end", lambda guesses, best: best[
                          len(best) - _run(guesses, best) - 1:].clone(),
                      "you took as many tokens as are sure, and the last of `best`. The first are "
                      "the sure ones."),
        Misconception("found anywhere", lambda guesses, best: best[
                          :int(torch.isin(guesses, best).long().cumprod(0).sum()) + 1].clone(),
                      "you looked for each guess anywhere in `best`. It holds if it stands at its "
                      "own place."),
        Misconception("filled up", lambda guesses, best: torch.cat([
                          best[:_run(guesses, best) + 1],
                          best.new_full((len(guesses) - _run(guesses, best),), -1)]),
                      "you filled the rest up. Only the tokens that are sure are asked for: n + 1 "
                      "of them.",
                      also=(lambda guesses, best: torch.cat([
                          best[:_run(guesses, best) + 1],
                          best.new_zeros(len(guesses) - _run(guesses, best))]),)),
        Misconception("all guesses", lambda guesses, best: torch.cat([guesses, best[-1:]]),
                      "you kept all guesses, right or wrong."),
        Misconception("the model's own token forgotten",
                      lambda guesses, best: guesses[:_run(guesses, best)].clone(),
                      "you return the guesses that hold and nothing more. The pass has also said "
                      "what comes after them: that token is free."),
        Misconception("no token after the last guess",
                      lambda guesses, best: best[:_run(guesses, best) + 1][:len(guesses)],
                      "where all guesses hold you forget the token after them: `best` has one more "
                      "than there are guesses."),
        Misconception("the wrong guess kept",
                      lambda guesses, best: torch.cat([guesses, best[-1:]])
                      [:_run(guesses, best) + 1],
                      "you kept the guess that was refused. In its place comes the model's own "
                      "token.",
                      also=(lambda guesses, best: guesses[:_run(guesses, best) + 1].clone(),)),
        Misconception("one place late",
                      lambda guesses, best: (lambda n: torch.cat([guesses[:n], best[n:n + 1]]))(
                          int((guesses == best[1:]).long().cumprod(0).sum())),
                      "you compared a guess with the model's token for the next place. Before the "
                      "first guess the model has spoken already: best[0] stands against "
                      "guesses[0]."),
        Misconception("the token after next",
                      lambda guesses, best: torch.cat([
                          guesses[:_run(guesses, best)],
                          best[min(_run(guesses, best) + 1, len(guesses))][None]]),
                      "behind n guesses that hold comes best[n]: you took another place."),
        Misconception("all or nothing",
                      lambda guesses, best: best[:1] if _run(guesses, best) < len(guesses)
                      else best.clone(),
                      "you threw away all guesses because one was wrong. Those before it hold."),
    ),
    hints=(
        "Say it for guesses 5 6 7 and best 5 6 9 4. What does the text look like afterwards?",
        "Find n, the number of guesses before the first that differs from best at its place.",
        "(guesses == best[:-1]).long().cumprod(0).sum() counts them. The answer is n + 1 long.",
    ),
    adapt=_any_integers)

EXERCISES = [GREEDY]
