"""Answers to chapter 19: unusual right ones, wrong ones, and what the chapter says of the hunt."""

import itertools
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from llama_edu.alignment.ppo import spread
from llama_edu.exercises import check, suspects
from llama_edu.exercises.ch19_baseline import BASELINE
from llama_edu.exercises.ch19_hunt import RUNS
from llama_edu.exercises.data import SEED
from llama_edu.exercises.registry import exercises


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


def quietest_with_deviations(p: Tensor, rewards: Tensor) -> tuple[float, float]:
    gradients = torch.eye(len(p), dtype=p.dtype) - p
    size = (gradients**2).sum(1)
    best = (p * size * rewards).sum() / (p * size).sum()
    drawn = (rewards - best)[:, None] * gradients
    off = drawn - p @ drawn
    return float(best), float((p[:, None] * off**2).sum())


def quietest_by_squares(p: Tensor, rewards: Tensor) -> tuple[float, float]:
    """E g^2 - (E g)^2, as the discussion derives it."""
    gradients = torch.eye(len(p), dtype=p.dtype) - p
    weight = p * gradients.square().sum(1)
    best = float((weight @ rewards) / weight.sum())
    mean = p @ (gradients * rewards[:, None])
    return best, float(weight @ (rewards - best).square() - mean.square().sum())


def quietest_in_lists(p: Tensor, rewards: Tensor) -> tuple[float, float]:
    odds, worth, m = p.tolist(), rewards.tolist(), len(p)
    rows = [[(i == y) - odds[i] for i in range(m)] for y in range(m)]
    weight = [odds[y] * sum(each**2 for each in rows[y]) for y in range(m)]
    best = sum(w * r for w, r in zip(weight, worth, strict=True)) / sum(weight)
    drawn = [[(worth[y] - best) * each for each in rows[y]] for y in range(m)]
    mean = [sum(odds[y] * drawn[y][i] for y in range(m)) for i in range(m)]
    return best, sum(odds[y] * (drawn[y][i] - mean[i])**2 for y in range(m) for i in range(m))


@pytest.mark.parametrize(("id", "answer"), [
    ("19.1", rewards_in_loops), ("19.2", gae_by_a_matrix), ("19.3", clip_by_cases),
    ("19.4", groups_in_loops), ("19.6", quietest_with_deviations), ("19.6", quietest_by_squares),
    ("19.6", quietest_in_lists)])
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
    rewards = torch.tensor([1.0, 0.0, 0.5], dtype=torch.float64)
    assert BASELINE.reference(p, rewards)[0] == pytest.approx(0.46, abs=5e-3)


def test_the_last_hint_is_an_answer():
    def as_the_hint_says(p: Tensor, rewards: Tensor) -> tuple[float, float]:
        g = torch.eye(len(p), dtype=p.dtype) - p
        w = p * g.square().sum(1)
        b = (w @ rewards) / w.sum()
        drawn = g * (rewards - b)[:, None]
        return float(b), float(p @ (drawn - p @ drawn).square().sum(1))

    said = BASELINE.hints[-1]
    for part in ("torch.eye(len(p), dtype=p.dtype) - p", "w = p * g.square().sum(1)",
                 "(w @ rewards) / w.sum()", "drawn = g * (rewards - b)[:, None]",
                 "p @ (drawn - p @ drawn).square().sum(1)"):
        assert part in said
    assert check("19.6", as_the_hint_says).passed


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
    far = sum(p * math.log(p / 0.25) for p in ODD)
    assert all(each[0] == pytest.approx(far) for each in home.values())
    assert all(b > a for a, b in itertools.pairwise(home["e"]))
    assert home["a"][1] == pytest.approx(home["c"][1])
    assert home["a"][1] < 0.9 * home["a"][0]
    assert home["a"][1:] == pytest.approx([home["a"][1]] * 10)
    assert home["a"][-1] > 2 * home["c"][-1]
    more = {name: column(run(EVEN, EVEN, SCORES, beta=0.0, rounds=1, epochs=40), 1)[1]
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


def test_who_takes_the_reference_that_follows_for_none_is_sent_to_the_first_round():
    still = RUNS.make("KL left out")(ODD, EVEN, [0.0] * 4, beta=1.0)
    assert column(still, 1) == pytest.approx([still[0][1]] * 11)
    report = check("19.5", {"a": "KL left out"})
    assert "never leaves its first row" in report.message
    assert "not in round 1 either" in report.message


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


# -- wrong ones that readers wrote -----------------------------------------------------------------

def priced(change: Callable[..., Tensor]) -> Callable:
    """19.1 row by row: change(prices of an answer's tokens, its score, their log-ratios, beta)."""
    def answer(scores: Tensor, log_probs: Tensor, reference: Tensor, acts: Tensor, beta: float
               ) -> Tensor:
        found = torch.zeros_like(log_probs)
        for i, row in enumerate(acts):
            far = log_probs[i][row] - reference[i][row]
            found[i][row] = change(-beta * far, scores[i], far, beta)
        return found

    return answer


def at_last(prices: Tensor, added: Tensor) -> Tensor:
    return torch.cat([prices[:-1], prices[-1:] + added])


def placed(where: Callable[[Tensor, int], int]) -> Callable:
    """19.1 with the score at where(the answer's places, the row's length)."""
    def answer(scores: Tensor, log_probs: Tensor, reference: Tensor, acts: Tensor, beta: float
               ) -> Tensor:
        found = torch.where(acts, beta * (reference - log_probs), 0.0)
        for i, row in enumerate(acts):
            at = where(row.nonzero().flatten(), len(row))
            if at < len(row):
                found[i, at] += scores[i]
        return found

    return answer


def passed_back(r: Tensor, v: Tensor, a: Tensor, g: float, lam: float, *, reset: bool = True,
                zeroed: bool = True, shifted: bool = False) -> Tensor:
    """19.2 with lists of columns, and one thing forgotten."""
    held, found, after = v * a, [], torch.zeros(len(r))
    for i in range(r.shape[1] - 1, -1, -1):
        following = held[:, i + 1] if i + 1 < r.shape[1] else 0.0
        surprise = r[:, i] + (g * v[:, i] - v[:, i - 1] if shifted
                              else g * following - held[:, i])
        here = surprise + g * lam * after
        after = here * a[:, i] if reset else here
        found.append(here)
    found = torch.stack(found[::-1], 1)
    return found * a if zeroed else found


def forwards(r: Tensor, v: Tensor, a: Tensor, g: float, lam: float) -> Tensor:
    surprises = passed_back(r, v, a, g, 0.0)
    found, before = [], torch.zeros(len(r))
    for i in range(r.shape[1]):
        before = (surprises[:, i] + g * lam * before) * a[:, i]
        found.append(before)
    return torch.stack(found, 1)


def whitened_at_the_end(r: Tensor, v: Tensor, a: Tensor, g: float, lam: float) -> Tensor:
    found = passed_back(r, v, a, g, lam)
    return torch.where(a, (found - found[a].mean()) / (found[a].std() + 1e-8), 0.0)


def by_ratio(loss: Callable[[Tensor, Tensor, float], Tensor]) -> Callable:
    """19.3 of the tokens alone: loss(ratio, advantage, clip)."""
    return lambda now, before, advantages, acts, clip: loss(
        (now[acts] - before[acts]).exp(), advantages[acts], clip).mean()


def lesser(r: Tensor, a: Tensor, held: Tensor) -> Tensor:
    return -torch.stack([r * a, held * a]).amin(0)


def noise_of_all_alike(p: Tensor, rewards: Tensor) -> tuple[float, float]:
    best, _ = quietest_with_deviations(p, rewards)
    g = (rewards - best)[:, None] * (torch.eye(len(p), dtype=p.dtype) - p)
    return best, float(((g - p @ g)**2).mean(0).sum())


@pytest.mark.parametrize(("id", "answer", "diagnosis"), [
    ("19.1", priced(lambda prices, score, far, beta: torch.cat([prices[:-1], score[None]])),
     "the score for the price"),
    ("19.1", priced(lambda prices, score, far, beta: at_last(prices, beta * score)),
     "beta on the score"),
    ("19.1", priced(lambda prices, score, far, beta: at_last(prices, score + prices.sum())),
     "charged twice"),
    ("19.1", priced(lambda prices, score, far, beta: at_last(prices.clamp(max=0), score)),
     "nothing back"),
    ("19.1", priced(lambda prices, score, far, beta: at_last(-beta * far.exp(), score)),
     "the ratio for its logarithm"),
    ("19.1", placed(lambda places, t: len(places) - 1), "the prompt forgotten"),
    ("19.1", placed(lambda places, t: int(places[-1]) + 1), "the score behind the answer"),
    ("19.1", placed(lambda places, t: min(int(places[-1]) + 1, t - 1)),
     "the score behind the answer"),
    ("19.2", lambda *of: passed_back(*of, shifted=True), "the value of the token before"),
    ("19.2", lambda *of: passed_back(*of, zeroed=False), "not zero outside"),
    ("19.2", lambda *of: passed_back(*of, reset=False), "masked at the end alone"),
    ("19.2", lambda *of: passed_back(*of, reset=False, zeroed=False), "over the padding"),
    ("19.2", forwards, "forwards"),
    ("19.2", whitened_at_the_end, "whitened"),
    ("19.3", by_ratio(lambda r, a, c: -torch.minimum(r, r.clamp(1 - c, 1 + c)) * a),
     "the advantage outside"),
    ("19.3", by_ratio(lambda r, a, c: lesser(r, a, r.clamp(-c, c) + 1)), "the clip around zero"),
    ("19.3", by_ratio(lambda r, a, c: lesser(r, a, r.clamp(1 / (1 + c), 1 + c))),
     "one over 1 + clip"),
    ("19.3", by_ratio(lambda r, a, c: lesser(r, (a - a.mean()) / (a.std() + 1e-8),
                                             r.clamp(1 - c, 1 + c))), "whitened once more"),
    ("19.3", lambda now, before, advantages, acts, clip: lesser(
        now[acts] / before[acts], advantages[acts],
        (now[acts] / before[acts]).clamp(1 - clip, 1 + clip)).mean(), "the logarithms divided"),
    ("19.6", noise_of_all_alike, "each answer once"),
])  # fmt: skip
def test_a_wrong_answer_of_a_reader_is_named(id: str, answer: Callable, diagnosis: str):
    assert check(id, answer).diagnosis == diagnosis


@pytest.mark.parametrize("id", ["19.1", "19.2", "19.3"])
def test_what_stands_outside_the_answers_is_asked(id: str):
    """With zeros there alone, an answer that reads them would pass."""
    probe = next(each for each in exercises()[id].probes if each.name.endswith("outside")
                 and "7" in each.name)
    inputs = probe.inputs(seed=SEED)
    assert any((each[~inputs["acts"]] == 7).all() for name, each in inputs.items()
               if isinstance(each, Tensor) and name != "acts" and each.ndim == 2)
