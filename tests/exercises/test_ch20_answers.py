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


# -- wrong ones that readers wrote -----------------------------------------------------------------

def by_answer(row: Callable[[Tensor, Tensor], Tensor]) -> Callable:
    """20.1 row by row: row(logits that speak of the answer's tokens, these tokens)."""
    def answer(logits: Tensor, tokens: Tensor, marks: Tensor) -> Tensor:
        found = []
        for said, read, mark in zip(logits, tokens, marks, strict=True):
            at = mark.nonzero().flatten()
            found.append(row(said[at - 1], read[at]))
        return torch.stack(found)

    return answer


def odds(said: Tensor, read: Tensor) -> Tensor:
    return said.softmax(-1)[torch.arange(len(read)), read]


def one_late(logits: Tensor, tokens: Tensor, answer: Tensor) -> Tensor:
    told = logits[:, 1:].log_softmax(-1).gather(-1, tokens[:, :-1, None]).squeeze(-1)
    return (told * answer[:, 1:]).sum(1)


def over_time(logits: Tensor, tokens: Tensor, answer: Tensor) -> Tensor:
    told = logits[:, :-1].log_softmax(1).gather(-1, tokens[:, 1:, None]).squeeze(-1)
    return torch.where(answer[:, 1:], told, 0.0).sum(1)


def gap(c: Tensor, r: Tensor, c0: Tensor, r0: Tensor) -> Tensor:
    return c - c0 - r + r0


@pytest.mark.parametrize(("id", "answer", "diagnosis"), [
    ("20.1", by_answer(lambda said, read: odds(said, read).prod().log()),
     "the logarithm of the product"),
    ("20.1", by_answer(lambda said, read: odds(said, read).log().sum()), "softmax, then log"),
    ("20.1", by_answer(lambda said, read: odds(said, read).prod()), "the probability itself"),
    ("20.1", by_answer(lambda said, read: odds(said, read).sum().log()),
     "the logarithm of a sum"),
    ("20.1", by_answer(lambda said, read: odds(said, read).sum()), "probabilities"),
    ("20.1", one_late, "shifted the wrong way"),
    ("20.1", over_time, "over the wrong axis"),
    ("20.2", lambda *of: -(of[4] * gap(*of[:4])).sigmoid().log().mean(), "sigmoid, then log"),
    ("20.2", lambda *of: (1 + (-of[4] * gap(*of[:4])).exp()).log().mean(), "sigmoid, then log"),
    ("20.2", lambda c, r, c0, r0, beta: -torch.nn.functional.logsigmoid(
        beta * ((c0 - c) - (r0 - r))).mean(), "exchanged"),
    ("20.2", lambda *of: torch.nn.functional.softplus(-of[4] * gap(*of[:4]).mean()),
     "of the mean margin"),
    ("20.2", lambda c, r, c0, r0, beta: torch.nn.functional.softplus(
        beta * (r / r0 - c / c0)).mean(), "logarithms divided"),
    ("20.2", lambda c, r, c0, r0, beta: torch.nn.functional.softplus(
        beta * (r.exp() / r0.exp() - c.exp() / c0.exp())).mean(), "ratios for logarithms"),
    ("20.2", lambda *of: torch.clamp(1 - of[4] * gap(*of[:4]), min=0).mean(), "a hinge"),
    ("20.3", lambda *of: of[4] / (1 + gap(*of[:4]).exp()), "beta outside alone"),
    ("20.4", lambda p, w, beta: (p.log() + w[:, 0] / beta).softmax(0), "win rates for rewards"),
    ("20.4", lambda p, w, beta: (p.log() + w[:, 0].log() / beta).softmax(0), "log for logit"),
    ("20.4", lambda p, w, beta: (p.log() + w.mean(1).logit() / beta).softmax(0),
     "the logit of a mean"),
    ("20.4", lambda p, w, beta: (p.log() + w.logit().sum(1) / (len(p) - 1) / beta).softmax(0),
     "a mean over the others"),
    ("20.4", lambda p, w, beta: p * (w[:, 0] / w[0])**(1 / beta), "not normalised"),
])  # fmt: skip
def test_a_wrong_answer_of_a_reader_is_named(id: str, answer: Callable, diagnosis: str):
    assert check(id, answer).diagnosis == diagnosis


def test_margins_of_the_wrong_sign_are_said_to_have_two_causes():
    report = check("20.2", lambda c, r, c0, r0, beta: loss_by_odds(c0, r0, c, r, beta))
    assert "policy and reference" in report.message
