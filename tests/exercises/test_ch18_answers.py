"""Answers to chapter 18, held against what can be counted; unusual right ones, and wrong ones."""

import itertools
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from llama_edu.alignment.rejection import choose, kl_bound
from llama_edu.exercises import check, suspects
from llama_edu.exercises.ch18_best import BEST
from llama_edu.exercises.ch18_tilt import TILT
from llama_edu.exercises.data import SEED


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the reader's own progress out of it."""
    monkeypatch.chdir(tmp_path)


# -- 18.7: what is asked for is what `choose` does -------------------------------------------------

def by_listing(p: Tensor, scores: Tensor, n: int) -> tuple[Tensor, float]:
    """The odds of every answer, by choosing from every way to draw n."""
    q = torch.zeros(len(p), dtype=torch.float64)
    for drawn in itertools.product(range(len(p)), repeat=n):
        answers = [torch.tensor([i]) for i in drawn]
        kept = choose(torch.tensor([0]), answers,
                      lambda texts: torch.stack([scores[text[1]] for text in texts]))
        q[kept.answer] += math.prod(p[i].item() for i in drawn)
    return q, sum(b * math.log(b / a) for a, b in zip(p.tolist(), q.tolist(), strict=True) if b)


@pytest.mark.parametrize("probe", TILT.probes[:4], ids=lambda each: each.name)
def test_the_policy_is_that_of_every_way_to_draw(probe):
    p, scores, n = probe.inputs(seed=SEED).values()
    q, kl = TILT.reference(p, scores, n)
    expected, distance = by_listing(p, scores, n)
    torch.testing.assert_close(q, expected)
    assert kl == pytest.approx(distance)
    assert q.sum().item() == pytest.approx(1)
    assert kl <= kl_bound(n) + 1e-12


def test_of_many_unlikely_answers_the_bound_is_nearly_met():
    p, scores = torch.full((2_000,), 1 / 2_000, dtype=torch.float64), torch.randn(2_000)
    assert TILT.reference(p, scores, 8)[1] == pytest.approx(kl_bound(8), abs=5e-3)


# -- 18.6: and this is the mean over all subsets ---------------------------------------------------

@pytest.mark.parametrize("probe", BEST.probes[:5], ids=lambda each: each.name)
def test_the_best_is_the_mean_over_all_subsets(probe):
    scores, values, n = probe.inputs(seed=SEED).values()
    kept = [values[max(subset, key=lambda i: scores[i])].item()
            for subset in itertools.combinations(range(len(scores)), n)]
    assert BEST.reference(scores, values, n) == pytest.approx(sum(kept) / len(kept), rel=1e-5)


# -- right answers that go another way -------------------------------------------------------------

def by_logs(chosen: Tensor, rejected: Tensor, margins: Tensor) -> Tensor:
    zero = torch.zeros_like(chosen)
    return torch.stack([zero, margins + rejected - chosen]).logsumexp(0).mean()


def by_entropy(chosen: Tensor, rejected: Tensor, margins: Tensor) -> Tensor:
    gap = chosen - rejected - margins
    return F.binary_cross_entropy_with_logits(gap, torch.ones_like(gap))


def by_rows(found: Tensor, tokens: Tensor, end: int) -> Tensor:
    read = []
    for scores, row in zip(found, tokens.tolist(), strict=True):
        at = len(row) - 1
        while at > 0 and row[at] == row[at - 1] == end:
            at -= 1
        read.append(scores[at])
    return torch.stack(read)


def by_softmax(worths: Tensor, sharpness: float) -> tuple[float, float]:
    odds = (sharpness * worths.double()).softmax(1)
    return odds.amax(1).mean().item(), torch.special.entr(odds).sum(1).mean().item()


def by_lists(helpful: Tensor, safe: Tensor, tagged: Tensor) -> Tensor:
    rewards = [s if t or 1 / (1 + math.exp(-s)) < 0.15 else h
               for h, s, t in zip(helpful.tolist(), safe.tolist(), tagged.tolist(), strict=True)]
    mean = sum(rewards) / len(rewards)
    deviation = math.sqrt(sum((r - mean)**2 for r in rewards) / (len(rewards) - 1))
    return torch.tensor([(r - mean) / (deviation or 1.0) for r in rewards])


@pytest.mark.parametrize(("id", "answer"), [
    ("18.1", by_logs), ("18.1", by_entropy), ("18.2", by_rows), ("18.3", by_softmax),
    ("18.4", by_lists)])
def test_other_ways_to_the_same_end_pass(id: str, answer: Callable):
    assert check(id, answer).passed


# -- wrong ones that others shipped ----------------------------------------------------------------

@pytest.mark.parametrize(("answer", "diagnosis"), [
    (lambda found, tokens, end: found[:, -1], "the last position"),
    (lambda found, tokens, end: found[torch.arange(len(found)), (tokens == end).int().argmax(1)],
     "the first end token"),
    (lambda found, tokens, end: found[
        torch.arange(len(found)), torch.where(tokens != end, torch.arange(tokens.shape[1]),
                                              0).amax(1)], "the last word"),
])  # fmt: skip
def test_scores_read_elsewhere_are_named(answer: Callable, diagnosis: str):
    assert check("18.2", answer).diagnosis == diagnosis


def test_a_loss_cut_off_from_the_scores_is_named():
    report = check("18.1", lambda chosen, rejected, margins: by_logs(
        chosen.detach(), rejected, margins))
    assert "cut off from `chosen`" in report.message


def test_the_pipelines_of_the_hunt_say_what_the_chapter_says_of_them():
    found = suspects("18.5")
    five, three = [[1, 9, 5, 9]], [[1, 9, 3, 9]]
    gaps = {name: suspect(five, three, [0.0])[1][0] for name, suspect in found.items()}
    assert gaps["d"] == pytest.approx(0.2)
    assert gaps["c"] == 0
    assert gaps["a"] == pytest.approx(0.1)
    by_margin = [found["b"](five, three, [margin])[0] for margin in (0.0, 1.0, 2.0)]
    assert [a - b for a, b in itertools.pairwise(by_margin)] == pytest.approx([1, 1])
    longer, shorter = [[1, 9, 4, 4, 9]], [[1, 9, 8, 9]]
    assert found["d"](longer, shorter, [0.0])[1] == pytest.approx([0], abs=1e-6)
    assert found["e"](longer, shorter, [0.0])[1] == pytest.approx([-0.9])
    ended = {name: suspect([[1, 9, 5, 2]], three, [0.0])[1][0] for name, suspect in found.items()}
    assert [name for name in "bdef" if ended[name] == pytest.approx(gaps[name])] == ["f"]
