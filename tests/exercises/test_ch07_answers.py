"""Answers to chapter 07 that polite probes let through or misnamed; and right ones, unusual."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from llama_edu.exercises import check
from llama_edu.exercises.registry import exercises
from llama_edu.inference.speculative import verify
from llama_edu.layers import attend, causal_mask, rope_table, rotate

INF = torch.inf


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the reader's own progress out of it."""
    monkeypatch.chdir(tmp_path)


def top_p(decide: Callable[[Tensor, float], Tensor]) -> Callable:
    def rule(x: Tensor, p: float) -> Tensor:
        ordered, order = x.sort(-1, descending=True)
        cut = decide(ordered.softmax(-1), p)
        return x.masked_fill(torch.zeros_like(cut).scatter(-1, order, cut), -INF)
    return rule


def shifted(cut: Tensor) -> Tensor:
    return torch.cat([torch.zeros_like(cut[:, :1]), cut[:, :-1]], -1)


def places_by_loops(pads: Tensor, t: int) -> tuple[Tensor, Tensor]:
    positions = [[max(j - pad, 0) for j in range(t)] for pad in pads.tolist()]
    mask = [[[j <= i and j >= pad or i == j for j in range(t)] for i in range(t)]
            for pad in pads.tolist()]
    return torch.tensor(positions, dtype=torch.int32), torch.tensor(mask)


def table_swapped(q: Tensor, k: Tensor, v: Tensor, past_k: Tensor, past_v: Tensor,
                  freqs: Tensor) -> Tensor:
    t, p = q.shape[2], past_k.shape[2]
    cos, sin = rope_table(torch.arange(p, p + t), freqs)
    keys, values = torch.cat([past_k, rotate(k, cos, sin)], 2), torch.cat([past_v, v], 2)
    return attend(rotate(q, cos, sin), keys, values, causal_mask(t, p + t))


def gathered(x: Tensor, p: float) -> Tensor:
    ordered, order = x.sort(-1, descending=True)
    probs = ordered.softmax(-1)
    return ordered.masked_fill(probs.cumsum(-1) - probs >= p, -INF).gather(-1, order)


def padded_on_the_right(pads: Tensor, t: int) -> tuple[Tensor, Tensor]:
    real = torch.arange(t) < t - pads[:, None]
    seen = torch.ones(t, t, dtype=torch.bool).tril() & real[:, None] | torch.eye(t).bool()
    return torch.arange(t).expand(len(pads), t), seen


def held(guesses: Tensor, best: Tensor) -> int:
    n = 0
    while n < len(guesses) and guesses[n] == best[n]:
        n += 1
    return n


def rule_by_loops(p: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
    pairs = list(zip(p.tolist(), q.tolist(), strict=True))
    lacking = torch.tensor([max(a - b, 0) for a, b in pairs])
    return (torch.tensor([min(a / b, 1.0) if b else 0.0 for a, b in pairs]),
            lacking / max(lacking.sum(), 1e-9))


@pytest.mark.parametrize(("exercise", "answer"), [
    ("7.2", top_p(lambda probs, p: shifted(probs.cumsum(-1) >= p))),
    ("7.4", places_by_loops),
    ("7.5", lambda guesses, best: best[:held(guesses, best) + 1].int()),
    ("7.6", rule_by_loops),
    ("7.7", lambda rate, ahead: ahead + 1 if rate == 1 else (1 - rate**(ahead + 1)) / (1 - rate)),
])
def test_a_right_answer_passes_however_it_is_written(exercise: str, answer: Callable):
    assert check(exercise, answer).passed


@pytest.mark.parametrize(("exercise", "answer", "name"), [
    ("7.1", table_swapped, "the table's arguments swapped"), ("7.2", gathered, "sorted twice"),
    ("7.4", padded_on_the_right, "padded on the right"),
    ("7.7", lambda rate, ahead: 1 / (1 - rate), "without end"),
    ("7.7", lambda rate, ahead: 1 + sum(n * rate**n * (1 - rate) for n in range(ahead)),
     "runs that hold forgotten"),
    ("7.2", top_p(lambda probs, p: shifted(probs.cumsum(-1) > p)), "goes on at p"),
    ("7.2", top_p(lambda probs, p: probs.cumsum(0) - probs >= p), "over the batch"),
    ("7.5", lambda guesses, best: best[:1].clone(), "guesses thrown away"),
    ("7.5", lambda guesses, best: best[:int((guesses == best[:-1]).sum()) + 1],
     "guesses after a refusal"),
    ("7.6", lambda p, q: (torch.ones_like(p), p.clone()), "always kept"),
    ("7.6", lambda p, q: (p.clone(), (p - q * p) / (1 - q @ p)), "too cautious"),
    ("7.7", lambda rate, ahead: 1 + rate**ahead, "all or nothing"),
])
def test_a_wrong_answer_is_refused_and_named(exercise: str, answer: Callable, name: str):
    report = check(exercise, answer)
    assert report.status == "wrong"
    assert report.diagnosis == name


def test_verify_draws_as_the_reference_of_7_6_says():
    p, q = torch.tensor([[0.5, 0.25, 0.15, 0.1], [0.25] * 4]), torch.tensor([[0.2, 0.4, 0.1, 0.3]])
    keep, instead = exercises()["7.6"].reference(p[0], q[0])
    dice, n = torch.Generator().manual_seed(0), 4000
    for token in range(4):
        new = [verify(p, q, torch.tensor([token]), generator=dice) for _ in range(n)]
        kept = sum(len(each) == 2 for each in new)
        # four standard deviations of a share of n draws
        assert abs(kept / n - keep[token]) < 4 * (0.25 / n)**0.5
        if kept < n:
            drawn = torch.cat([each for each in new if len(each) == 1]).bincount(minlength=4)
            off = (drawn / drawn.sum() - instead).abs().max()
            assert off < 4 * (0.25 / (n - kept))**0.5
