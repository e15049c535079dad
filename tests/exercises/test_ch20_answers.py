"""Answers to chapter 20: unusual right ones, the optimum found by training, and the hunt."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from llama_edu.exercises import check, suspects
from llama_edu.exercises.ch20_dpo import PULL
from llama_edu.exercises.ch20_optimum import OPTIMUM
from llama_edu.exercises.data import SEED


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the reader's own progress out of it."""
    monkeypatch.chdir(tmp_path)


def sum_in_loops(logits: Tensor, tokens: Tensor, answer: Tensor) -> Tensor:
    rows = []
    for said, row, marks in zip(logits, tokens, answer, strict=True):
        rows.append(sum(said[i - 1, row[i]] - said[i - 1].logsumexp(0)
                        for i in range(1, len(row)) if marks[i]))
    return torch.stack(rows)


def loss_by_odds(c: Tensor, r: Tensor, c0: Tensor, r0: Tensor, beta: float) -> Tensor:
    """Bradley and Terry, as a softmax over the two implicit rewards."""
    rewards = beta * torch.stack([c - c0, r - r0])
    return -rewards.log_softmax(0)[0].mean()


def pull_by_the_chance_to_be_wrong(c: Tensor, r: Tensor, c0: Tensor, r0: Tensor, beta: float
                                   ) -> Tensor:
    return beta / (1 + (beta * (c - c0 - r + r0)).exp())


def tilted(p: Tensor, wins: Tensor, beta: float) -> Tensor:
    odds = (wins[:, 1] / wins[1, :]) ** (1 / beta)
    return p * odds / (p * odds).sum()


@pytest.mark.parametrize(("id", "answer"), [
    ("20.1", sum_in_loops), ("20.2", loss_by_odds), ("20.3", pull_by_the_chance_to_be_wrong),
    ("20.4", tilted)])
def test_other_ways_to_the_same_end_pass(id: str, answer: Callable):
    assert check(id, answer).passed


@pytest.mark.parametrize("probe", OPTIMUM.probes[:4], ids=lambda each: each.name)
def test_training_by_dpo_and_the_priced_optimum_both_end_there(probe):
    p, wins, beta = probe.inputs(seed=SEED).values()
    expected = OPTIMUM.reference(p, wins, beta)
    rewards = wins.logit()[:, 0]

    logits = p.log().clone().requires_grad_(True)
    fit = torch.optim.LBFGS([logits], max_iter=300, tolerance_grad=1e-12, tolerance_change=1e-14,
                            line_search_fn="strong_wolfe")

    def dpo() -> Tensor:
        """Every pair as often as it is preferred."""
        fit.zero_grad()
        implicit = beta * (logits.log_softmax(0) - p.log())
        loss = -(wins * torch.nn.functional.logsigmoid(implicit[:, None] - implicit)).sum()
        loss.backward()
        return loss

    fit.step(dpo)
    torch.testing.assert_close(logits.detach().softmax(0), expected, rtol=1e-4, atol=1e-5)

    def worth(q: Tensor) -> float:
        return float(q @ rewards - beta * (q @ (q / p).log()))

    for seed in range(5):
        noise = 0.1 * torch.randn(len(p), generator=torch.Generator().manual_seed(seed),
                                  dtype=torch.float64)
        assert worth((expected.log() + noise).softmax(0)) < worth(expected) + 1e-12


def test_the_pull_is_the_gradient():
    held = PULL.probes[0].inputs(seed=SEED)
    c, r, c0, r0, beta = held.values()
    step = 1e-6
    moved = (-loss_by_odds(c + step, r, c0, r0, beta) + loss_by_odds(c - step, r, c0, r0, beta))
    assert len(c) * moved.item() / (2 * step) == pytest.approx(
        PULL.reference(**held).sum().item(), rel=1e-5)


def test_the_losses_of_the_hunt_show_what_the_chapter_says_of_them():
    found = suspects("20.5")
    margin = {name: suspect([1], [2], [3])[1] for name, suspect in found.items()}
    assert margin["b"] == pytest.approx(0.05)
    assert [name for name, each in margin.items() if each != pytest.approx(0.05)] == ["a"]
    assert margin["a"] == pytest.approx(0.15)
    assert found["e"]([1], [4, 4], [4, 4, 4, 4])[1] == pytest.approx(0)
    ended = {name: suspect([1], [4, 9], [5, 5])[1] for name, suspect in found.items()}
    assert ended["f"] == pytest.approx(0.2)
    assert all(ended[name] == pytest.approx(-0.15) for name in "bcd")
    filled = {name: suspect([1], [4, 9], [4])[1] for name, suspect in found.items()}
    assert filled["d"] == pytest.approx(0)
    assert filled["b"] == filled["c"] == pytest.approx(-0.9 + 0.1 + 0.45)
    small = {name: suspect([1], [2], [3], 1e-9)[0] for name, suspect in found.items()}
    assert small.pop("c") < 1e-6
    assert all(each == pytest.approx(math.log(2)) for each in small.values())
