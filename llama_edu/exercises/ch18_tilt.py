"""The exercise of chapter 18 on the policy that the best of n is, 18.7: its odds and its KL."""

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from .data import Exercise, Inputs, Misconception, Probe, count

Policy = tuple[Tensor, float]


def _best_of(p: Tensor, scores: Tensor, n: int) -> Policy:
    """Exact, by what lies below and beside an answer. A test holds it against `rejection.choose`,
    asked for every way to draw n."""
    p = p.double()
    below = ((scores[None] < scores[:, None]) * p).sum(1)
    level = ((scores[None] == scores[:, None]) * p).sum(1)
    q = _q(p, below, level, n)
    return q, _kl(q, p)


def _q(p: Tensor, below: Tensor, level: Tensor, n: int) -> Tensor:
    """A level is the highest drawn where none is above it, and not all are below."""
    return ((below + level)**n - below**n) * (p / level).nan_to_num()


def _kl(q: Tensor, p: Tensor) -> float:
    return (torch.xlogy(q, q) - torch.xlogy(q, p)).sum().item()


def _given(p: list[float], scores: list[float], n: int) -> Callable[[Generator], Inputs]:
    """These odds; the other seed of a check turns them, and draws another n."""
    def make(rng: Generator) -> Inputs:
        turn = count(rng, 0, len(p) - 1)
        return {"p": torch.tensor(p, dtype=torch.float64).roll(turn),
                "scores": torch.tensor(scores).roll(count(rng, 0, len(p) - 1)), "n": n}

    return make


def _drawn(rng: Generator, m: int, n: int, *, levels: int = 0) -> Inputs:
    scores = torch.randint(levels, (m,), generator=rng) if levels else torch.randn(m, generator=rng)
    p = (1.5 * torch.randn(m, generator=rng, dtype=torch.float64)).softmax(-1)
    return {"p": p, "scores": scores.float(), "n": n + count(rng, 0, 2)}


def _policy(weigh: Callable[[Tensor, Tensor, Tensor, int], Tensor], *,
            kl: Callable[[Tensor, Tensor], float] = _kl) -> Callable:
    """Other odds, made of p and what lies below and at the level of each answer."""
    def answer(p: Tensor, scores: Tensor, n: int) -> Policy:
        p = p.double()
        below = ((scores[None] < scores[:, None]) * p).sum(1)
        level = ((scores[None] == scores[:, None]) * p).sum(1)
        q = weigh(p, below, level, n)
        return q, kl(q, p)

    return answer


def _other_kl(kl: Callable[[Tensor, Tensor], float]) -> Callable:
    return _policy(_q, kl=kl)


def _alone(p: Tensor, below: Tensor, level: Tensor, n: int) -> Tensor:
    return (below + p)**n - below**n


def _in_order(p: Tensor, scores: Tensor, n: int) -> Policy:
    """Equals in the order of the table, not of the draw: the first of them takes it all."""
    order = scores.argsort(stable=True, descending=True)
    above = p.double()[order].cumsum(0)
    left = (1 - above).clamp(min=0)
    q = torch.empty_like(above)
    q[order] = (left + p.double()[order])**n - left**n
    return q, _kl(q, p.double())


def _last_in_order(p: Tensor, scores: Tensor, n: int) -> Policy:
    q, kl = _in_order(p.flip(0), scores.flip(0), n)
    return q.flip(0), kl


def _bound(p: Tensor, scores: Tensor, n: int) -> Policy:
    n_nats = torch.tensor(float(n)).double().log().item() - (n - 1) / n
    return _best_of(p, scores, n)[0], n_nats


TILT = Exercise(
    "18.7", "What best of n is", "Harder: the policy that best of n is", _best_of,
    probes=(
        Probe("five answers", _given([0.4, 0.3, 0.15, 0.1, 0.05], [2.0, -1.0, 0.5, 3.0, 1.0], 3)),
        Probe("two that score alike", _given([0.3, 0.25, 0.2, 0.25], [1.0, 2.0, 2.0, 0.0], 2)),
        Probe("three of four alike", _given([0.4, 0.2, 0.3, 0.1], [1.0, 1.0, 1.0, 0.0], 4)),
        Probe("one that is never said", _given([0.6, 0.0, 0.25, 0.15], [0.0, 3.0, 1.0, 2.0], 4)),
        Probe("many answers", lambda rng: _drawn(rng, 30, 6)),
        Probe("many on few levels", lambda rng: _drawn(rng, 12, 3, levels=4)),
    ),
    misconceptions=(
        Misconception("ties shared equally", _policy(
                          lambda p, below, level, n: ((below + level)**n - below**n)
                          / (level[:, None] == level).sum(1)),
                      "you shared a level equally among its answers. The first drawn is taken, so "
                      "they come in the shares in which they are drawn: p over the level's sum."),
        Misconception("ties each for itself", _policy(_alone),
                      "each of the equals counts only those strictly below it, as if no other "
                      "stood beside it: your odds sum to less than 1. Take the level as a whole, "
                      "then share it."),
        Misconception("ties win all", _policy(lambda p, below, level, n:
                                              (below + level)**n - below**n),
                      "each of the equals has the odds of its whole level: they sum to more than "
                      "1. Share them."),
        Misconception("ties by their place", _in_order,
                      "of equals you took the one that stands first in the table. The one *drawn* "
                      "first is taken.", also=(_last_in_order,)),
        Misconception("all equally likely", lambda p, scores, n: _best_of(
                          torch.full_like(p.double(), 1 / len(p)), scores, n),
                      "you took all answers for equally likely. Each is drawn with its own p."),
        Misconception("the bound", _bound,
                      "log n - (n-1)/n is the KL where no answer is likely by itself. Here it is "
                      "less: sum q log(q/p) over these very answers."),
        Misconception("the other direction", _other_kl(lambda q, p: _kl(p, q)),
                      "you took KL(p || q), which is infinite where the new policy never says what "
                      "the old one did. Weigh with q: that is what is said now."),
        Misconception("bits", _other_kl(lambda q, p: _kl(q, p) / 0.6931471805599453),
                      "your KL is in bits. Use the natural logarithm."),
        Misconception("entropy", _other_kl(lambda q, p: -torch.xlogy(q, q).sum().item()),
                      "you returned the entropy of q. The KL compares it with p."),
        Misconception("0 times infinity", _other_kl(lambda q, p: (q * (q / p).log()).sum().item()),
                      "an answer is never said, and 0 times the logarithm of 0 is NaN. It counts "
                      "as 0: torch.xlogy knows that.",
                      also=(_policy(lambda p, below, level, n: (
                          (below + level)**n - below**n) * (p / level),
                          kl=lambda q, p: (q * (q.log() - p.log())).sum().item()),)),
        Misconception("the best of n - 1", _policy(lambda p, below, level, n: _q(
                          p, below, level, n - 1)),
                      "you drew one too few."),
        Misconception("the worst of n", lambda p, scores, n: _best_of(p, -scores, n),
                      "you kept the worst of n."),
        Misconception("weights that do not subtract", _policy(
                          lambda p, below, level, n: (below + level)**n),
                      "(below + level)**n is the chance that all n score no higher. That all n "
                      "score *lower* is in it: subtract below**n."),
        Misconception("drawn at least once", _policy(lambda p, below, level, n: 1 - (1 - p)**n),
                      "that is the chance that an answer is drawn at all. It must also be the best "
                      "of what was drawn."),
        Misconception("one of n, the rest below", _policy(
                          lambda p, below, level, n: n * p * below**(n - 1)),
                      "that is the chance that one draw is this answer and all others score lower. "
                      "The same answer may be drawn twice.",
                      also=(_policy(lambda p, below, level, n: n * p * (below + level)**(n - 1)),)),
        Misconception("a softmax", _policy(lambda p, below, level, n: (
                          p * (below + level)**(n - 1)) / (p * (below + level)**(n - 1)).sum()),
                      "you weighed p by a power and divided by the sum. No sum needs mending: "
                      "count how often a level is the highest drawn."),
    ),
    hints=(
        "When is the highest score drawn of a given level? When no draw is above it, and not all "
        "are below it.",
        "P(all at or below) - P(all below) = (below + level)**n - below**n, with below and level "
        "the sums of p. Who is first of a level? Each with its share p / level.",
        "q = ((below + level)**n - below**n) * (p / level).nan_to_num(); "
        "kl = (torch.xlogy(q, q) - torch.xlogy(q, p)).sum().item()",
    ))

EXERCISES = [TILT]
