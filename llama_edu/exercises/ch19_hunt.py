"""The bug hunt of chapter 19, 19.5: six PPO runs on four answers, told apart by their curves."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..alignment.ppo import clipped
from .hunts import HEALTHY, Bug, Hunt

CLIP, LR = 0.2, 1.0
Curves = list[tuple[float, float, float]]


def _loss(now: Tensor, before: Tensor, better: Tensor) -> Tensor:
    return clipped(now - before, better, CLIP)


def _unclipped(now: Tensor, before: Tensor, better: Tensor) -> Tensor:
    return -(now - before).exp() * better


def _row(log_p: Tensor, reference: Tensor, worth: Tensor, beyond: float
         ) -> tuple[float, float, float]:
    """Expected score, KL from the reference in nats, and the share beyond the clip."""
    p = log_p.exp()
    return (p @ worth).item(), (p @ (log_p - reference)).item(), beyond


def _run(*, loss: Callable[[Tensor, Tensor, Tensor], Tensor] = _loss, price: float = 1.0,
         follows: bool = False, recomputed: bool = False, sign: float = 1.0,
         centred: bool = True) -> Callable[..., Curves]:
    """PPO on answers that can be counted, so nothing is drawn: healthy unless told otherwise."""

    @torch.inference_mode(False)
    @torch.enable_grad()
    def run(start: Sequence[float], reference: Sequence[float], scores: Sequence[float], *,
            beta: float = 0.1, rounds: int = 10, epochs: int = 4) -> Curves:
        worth = torch.tensor(scores, dtype=torch.float64)
        original = torch.tensor(reference, dtype=torch.float64).log()
        logits = torch.tensor(start, dtype=torch.float64).log()
        held, curves = original, [_row(logits.log_softmax(-1), original, worth, 0.0)]
        for _ in range(rounds):
            old = logits.log_softmax(-1)
            better = worth - price * beta * (old - held)
            if centred:
                better = better - old.exp() @ better
            far = 0.0
            for _ in range(epochs):
                logits = logits.detach().requires_grad_(True)
                now = logits.log_softmax(-1)
                before = now.detach() if recomputed else old
                far = (old.exp() * ((now - before).exp() - 1).abs().gt(CLIP)).sum().item()
                (old.exp() * loss(now, before, sign * better)).sum().backward()
                logits = logits.detach() - LR * logits.grad
            new = logits.log_softmax(-1)
            curves.append(_row(new, original, worth, far))
            held = new if follows else held
        return curves

    return run


def _look(run: Callable[..., Curves]) -> Tensor:
    """Nothing to gain, far from the reference; much to gain, in many epochs; the same and ten."""
    even, odd = [0.25] * 4, [0.7, 0.1, 0.1, 0.1]
    return torch.tensor([*run(odd, even, [0.0] * 4, beta=1.0),
                         *run(even, even, [1.0, 0.0, -1.0, 2.0], epochs=8),
                         *run(even, even, [11.0, 10.0, 9.0, 12.0], epochs=8)])


RUNS = Hunt(
    "19.5", "Six runs", "Find the bug: six runs",
    healthy=_run,
    bugs={
        "no clip": Bug(
            lambda: _run(loss=_unclipped),
            "goes twice as far in one round with twice the epochs, and on and on"),
        "old recomputed": Bug(
            lambda: _run(recomputed=True),
            "never has a ratio beyond the clip, however many the epochs: its column is 0"),
        "KL's sign": Bug(
            lambda: _run(price=-1.0),
            "moves away from the reference where nothing is to be gained"),
        "KL left out": Bug(
            lambda: _run(price=0.0),
            "never leaves its first row when all scores are 0, however far from the reference it "
            "starts: not in round 1 either"),
        "reference follows": Bug(
            lambda: _run(follows=True),
            "goes towards the reference in round 1, and in no other"),
        "wrong direction": Bug(
            lambda: _run(sign=-1.0),
            "has a score that falls"),
        "no baseline": Bug(
            lambda: _run(centred=False),
            "runs otherwise when ten is added to every score"),
    },
    hidden={"a": "reference follows", "b": "no baseline", "c": HEALTHY, "d": "old recomputed",
            "e": "KL's sign", "f": "no clip"},
    look=_look,
    hints=(
        "Take two things apart. With all scores 0 only the price acts: begin far from the "
        "reference, with beta 1, and watch the second column.",
        "With beta 0 only the scores act. How far does one round go with 4 epochs, how far with "
        "16? What does the third column say?",
        "Add ten to every score: what has changed? Nothing should, but the first column by ten.",
    ))

EXERCISES = [RUNS]
