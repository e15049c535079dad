"""Answers to chapter 19: unusual right ones, wrong ones, and what the chapter says of the hunt."""

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from llama_edu.alignment.ppo import spread
from llama_edu.exercises import check, suspects
from llama_edu.exercises.ch19_baseline import BASELINE
from llama_edu.exercises.data import SEED


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the reader's own progress out of it."""
    monkeypatch.chdir(tmp_path)


# -- right answers that go another way -------------------------------------------------------------

def rewards_in_loops(scores: Tensor, log_probs: Tensor, reference: Tensor, acts: Tensor,
                     beta: float) -> Tensor:
    found = torch.zeros_like(log_probs)
    for i, t in acts.nonzero().tolist():
        found[i, t] = -beta * (log_probs[i, t] - reference[i, t])
    for i, row in enumerate(acts):
        found[i, int(row.nonzero().max())] += scores[i]
    return found


def gae_by_a_matrix(rewards: Tensor, values: Tensor, acts: Tensor, discount: float, lam: float
                    ) -> Tensor:
    """All surprises at once, and a matrix of how much of each reaches whom."""
    t, held = rewards.shape[1], values * acts
    surprise = (rewards + discount * torch.cat([held[:, 1:], held.new_zeros(len(held), 1)], 1)
                - held) * acts
    later = torch.arange(t)[None] - torch.arange(t)[:, None]
    reach = torch.where(later >= 0, (discount * lam)**later.clamp(min=0).float(), 0.0)
    return surprise @ reach.T * acts


def clip_by_cases(now: Tensor, before: Tensor, advantages: Tensor, acts: Tensor, clip: float
                  ) -> Tensor:
    ratio = (now - before).exp()
    over = (advantages > 0) & (ratio > 1 + clip)
    under = (advantages < 0) & (ratio < 1 - clip)
    held = torch.where(over, 1 + clip, torch.where(under, 1 - clip, ratio))
    return -(held * advantages)[acts].mean()


def groups_in_loops(scores: Tensor, n: int) -> Tensor:
    found = []
    for group in scores.split(n):
        found.append((group - group.mean()) / (group.std() + 1e-4))
    return torch.cat(found)


@pytest.mark.parametrize(("id", "answer"), [
    ("19.1", rewards_in_loops), ("19.2", gae_by_a_matrix), ("19.3", clip_by_cases),
    ("19.4", groups_in_loops)])
def test_other_ways_to_the_same_end_pass(id: str, answer: Callable):
    assert check(id, answer).passed


# -- 19.6 ------------------------------------------------------------------------------------------

@pytest.mark.parametrize("probe", BASELINE.probes, ids=lambda each: each.name)
def test_no_other_baseline_is_quieter_and_the_noise_is_that_of_samples(probe):
    p, rewards = probe.inputs(seed=SEED).values()
    best, noise = BASELINE.reference(p, rewards)

    def noise_at(baseline: float) -> float:
        found = (torch.eye(len(p), dtype=torch.float64) - p) * (rewards - baseline)[:, None]
        return float(sum(p[i] * (found[i] - p @ found).square().sum() for i in range(len(p))))

    assert noise_at(best) == pytest.approx(noise, abs=1e-6)
    assert all(noise_at(best + by) > noise - 1e-9 for by in (-0.1, -0.01, 0.01, 0.1))
    drawn = torch.multinomial(p, 40_000, replacement=True,
                              generator=torch.Generator().manual_seed(0))
    found = (torch.eye(len(p), dtype=torch.float64)[drawn] - p) * (rewards[drawn] - best)[:, None]
    assert found.var(0).sum().item() == pytest.approx(noise, rel=0.05, abs=1e-9)


def test_of_the_three_answers_of_the_chapter_it_is_less_than_what_is_expected():
    p = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    assert BASELINE.reference(p, torch.tensor([1.0, 0.0, 0.5]))[0] == pytest.approx(0.46, abs=5e-3)


# -- 19.5: what is said of the runs is so ----------------------------------------------------------

EVEN, ODD = [0.25] * 4, [0.7, 0.1, 0.1, 0.1]
SCORES = [1.0, 0.0, -1.0, 2.0]


def column(curves, which):
    return [row[which] for row in curves]


def test_the_runs_of_the_hunt_show_what_the_chapter_says_of_them():
    runs = suspects("19.5")
    home = {name: column(run(ODD, EVEN, [0.0] * 4, beta=1.0), 1) for name, run in runs.items()}
    for name in "bcdf":
        assert home[name][-1] < 0.2 * home[name][0]
    assert all(b > a for a, b in itertools.pairwise(home["e"]))
    assert home["a"][0] == pytest.approx(home["c"][0])
    assert home["a"][-1] > 2 * home["c"][-1]
    more = {name: column(run(EVEN, EVEN, SCORES, beta=0.0, rounds=1, epochs=40), 1)[0]
            for name, run in runs.items()}
    assert more["f"] > 5 * more["c"]
    beyond = {name: max(column(run(EVEN, EVEN, SCORES, epochs=40), 2))
              for name, run in runs.items()}
    assert [name for name, share in beyond.items() if share == 0] == ["d"]
    lifted = {name: column(run(EVEN, EVEN, [each + 10 for each in SCORES]), 0)
              for name, run in runs.items()}
    for name, run in runs.items():
        plain = [each + 10 for each in column(run(EVEN, EVEN, SCORES), 0)]
        assert (lifted[name] == pytest.approx(plain)) is (name != "b")


# -- wrong ones that others shipped ----------------------------------------------------------------

def test_a_loss_whose_old_side_is_not_held_is_named():
    """The ratio of a thing with itself is 1, and its gradient nothing."""
    report = check("19.3", lambda now, before, advantages, acts, clip: (
        -((now - now).exp() * advantages * acts).sum() / acts.sum()))
    assert not report.passed


def test_whitening_keeps_no_mean():
    """A well-known library adds the mean back: its flag for that is read the wrong way round."""
    acts = torch.ones(2, 3, dtype=torch.bool)
    assert spread(torch.arange(6.0).view(2, 3) + 5, acts).mean().abs() < 1e-6
