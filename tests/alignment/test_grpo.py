"""GRPO: groups, and the loss against a slow loop."""

import copy
import math
from itertools import islice

import pytest
import torch
from models import loud_model, tiny_config

from llama_edu.alignment.grpo import group_advantages, groups, grpo
from llama_edu.losses import learnt_log_probs
from llama_edu.training_loop import add_up, train

LENGTHS = (4, 1, 6)
ACTS = torch.tensor([[i >= 2 and i < 2 + n for i in range(9)] for n in LENGTHS])


def numbers(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def a_batch(model):
    tokens = torch.randint(2, 90, (3, 10), generator=torch.Generator().manual_seed(3))
    batch = {"tokens": tokens,
             "learn": torch.cat([torch.zeros(3, 1, dtype=torch.bool), ACTS], dim=1)}
    with torch.no_grad():
        now = learnt_log_probs(model, batch)
    return batch | {"log_probs": (now + 0.3 * numbers(1, 3, 9)) * ACTS,
                    "reference": (now + 0.3 * numbers(2, 3, 9)) * ACTS,
                    "advantages": torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)}


def test_a_group_is_its_own_measure():
    found = group_advantages(torch.tensor([1.0, 2.0, 3.0, 10.0, 10.0, 40.0]), n=3)
    assert found.tolist() == pytest.approx([-1, 0, 1, -0.57735, -0.57735, 1.1547], abs=1e-3)
    assert group_advantages(torch.full((4,), 3.0), n=4).tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(("b", "n"), [(4, 1), (5, 2)])
def test_groups_that_are_none_are_refused(b, n):
    with pytest.raises(ValueError, match="whole groups of two or more are needed"):
        group_advantages(torch.zeros(b), n=n)


def test_the_loss_is_the_mean_of_each_answer():
    model = loud_model(tiny_config(), seed=0).double()
    batch = a_batch(model)
    loss = grpo(model, batch, clip=0.2, beta=0.5)
    logits = model(batch["tokens"])
    total = 0.0
    for i, n in enumerate(LENGTHS):
        for t in range(2, 2 + n):
            now = logits[i, t].log_softmax(-1)[batch["tokens"][i, t + 1]].item()
            ratio = math.exp(now - batch["log_probs"][i, t].item())
            a = batch["advantages"][i].item()
            q_p = math.exp(batch["reference"][i, t].item() - now)
            total += (-min(ratio * a, min(max(ratio, 0.8), 1.2) * a)
                      + 0.5 * (q_p - math.log(q_p) - 1)) / n
    assert loss.count == 3
    assert loss.total.item() == pytest.approx(total, rel=1e-6)
    assert loss.notes["kl"] >= 0


def test_a_batch_in_pieces_gives_the_same_gradient():
    model = loud_model(tiny_config(), seed=0).double().requires_grad_(True)
    batch = a_batch(model)
    found = []
    for pieces in (1, 3):
        twin = copy.deepcopy(model)
        parts = (dict(zip(batch, rows, strict=True)) for rows in zip(
            *(tensor.chunk(pieces) for tensor in batch.values()), strict=True))
        add_up(twin, parts, grpo, accumulate=pieces, where="here")
        found.append([p.grad for p in twin.parameters()])
    torch.testing.assert_close(*found)


def test_it_learns_what_is_rewarded():
    policy = loud_model(tiny_config(), seed=0).requires_grad_(True)
    seen = []
    batches = groups(policy, copy.deepcopy(policy), [torch.tensor([1, i]) for i in range(20, 36)],
                     lambda prompts, answers: torch.tensor(
                         [float((answer == 33).float().mean()) for answer in answers]),
                     size=32, n=8, max_new=3, stop_ids=(2,), pieces=2,
                     generator=torch.Generator().manual_seed(0),
                     tell=lambda batch: seen.append(batch["scores"].mean().item()))
    for _ in train(policy, islice(batches, 60), grpo, lr=lambda step: 3e-3, steps=60):
        pass
    assert sum(seen[-3:]) > 3 * sum(seen[:3]) + 0.5
