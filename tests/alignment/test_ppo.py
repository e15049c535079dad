"""PPO: rewards, advantages and losses against slow loops; what they must never do."""

import copy
import math
from itertools import islice

import pytest
import torch
from models import loud_model, tiny_config
from torch.autograd import grad

from llama_edu.alignment.ppo import (
    ActorCritic,
    advantages,
    clipped,
    experience,
    ppo,
    spread,
    token_rewards,
    values,
)
from llama_edu.alignment.reward import RewardModel
from llama_edu.losses import learnt_log_probs
from llama_edu.training_loop import add_up, train

LENGTHS = (4, 1, 6)             # of answers, which begin at place 2
ACTS = torch.tensor([[i >= 2 and i < 2 + n for i in range(9)] for n in LENGTHS])


def numbers(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def both(*, seed=0):
    model = loud_model(tiny_config(), seed=seed).double()
    critic = RewardModel.of(loud_model(tiny_config(), seed=seed + 1)).double()
    torch.nn.init.normal_(critic.head.weight, generator=torch.Generator().manual_seed(seed))
    return ActorCritic(model, critic).requires_grad_(True)


def a_batch(model, *, moved=0.0):
    """Three answers; the log-probabilities and values kept are off by what is `moved`."""
    tokens = torch.randint(2, 90, (3, 10), generator=torch.Generator().manual_seed(3))
    learn = torch.cat([torch.zeros(3, 1, dtype=torch.bool), ACTS], dim=1)
    batch = {"tokens": tokens, "learn": learn}
    with torch.no_grad():
        now, found = learnt_log_probs(model.policy, batch), values(model.critic, tokens[:, :-1])
    return batch | {"log_probs": (now + moved * numbers(4, 3, 9)) * ACTS,
                    "values": (found + moved * numbers(5, 3, 9)) * ACTS,
                    "advantages": numbers(6, 3, 9) * ACTS, "returns": numbers(7, 3, 9) * ACTS}


# -- against slow loops ------------------------------------------------------------------------

def test_rewards_are_a_price_for_each_token_and_the_score_at_the_last():
    scores, log_probs, reference = numbers(0, 3), numbers(1, 3, 9), numbers(2, 3, 9)
    found = token_rewards(scores, log_probs, reference, ACTS, beta=0.1)
    for i, n in enumerate(LENGTHS):
        for t in range(9):
            expected = -0.1 * (log_probs[i, t] - reference[i, t]) if 2 <= t < 2 + n else 0.0
            assert found[i, t] == pytest.approx(float(expected + scores[i] * (t == 1 + n)))


def test_advantages_are_the_sums_of_surprises_to_come():
    rewards, expected = numbers(1, 3, 9) * ACTS, numbers(2, 3, 9)
    found, returns = advantages(rewards, expected, ACTS, discount=0.9, lam=0.7)
    for i, n in enumerate(LENGTHS):
        end = 2 + n
        surprise = [float(rewards[i, t] + (0.9 * expected[i, t + 1] if t + 1 < end else 0)
                          - expected[i, t]) for t in range(2, end)]
        for t in range(2, end):
            value = sum((0.9 * 0.7)**k * surprise[t - 2 + k] for k in range(end - t))
            assert found[i, t] == pytest.approx(value)
            assert returns[i, t] == pytest.approx(value + float(expected[i, t]))
    assert (found[~ACTS] == 0).all()
    assert (returns[~ACTS] == 0).all()


def test_with_lambda_one_it_is_the_return_less_the_value():
    rewards, expected = numbers(1, 3, 9) * ACTS, numbers(2, 3, 9)
    found, _ = advantages(rewards, expected, ACTS, discount=1.0, lam=1.0)
    to_come = rewards.flip(-1).cumsum(-1).flip(-1)
    torch.testing.assert_close(found, (to_come - expected) * ACTS)


def test_values_behind_an_answer_change_nothing():
    rewards, expected = numbers(1, 3, 9) * ACTS, numbers(2, 3, 9)
    other = torch.where(ACTS, expected, 1e3)
    torch.testing.assert_close(*(advantages(rewards, each, ACTS) for each in (other, expected)))


def test_spread_is_of_actions_alone():
    found = spread(numbers(1, 3, 9) + 100 * ~ACTS, ACTS)
    assert found[ACTS].mean().item() == pytest.approx(0, abs=1e-12)
    assert found[ACTS].var().item() == pytest.approx(1)
    assert (found[~ACTS] == 0).all()


@pytest.mark.parametrize(("ratio", "advantage", "loss"), [
    (1.0, 2.0, -2.0), (1.5, 2.0, -2.4), (0.5, 2.0, -1.0), (1.5, -2.0, 3.0), (0.5, -2.0, 1.6)])
def test_the_clip_takes_gains_away_and_never_losses(ratio, advantage, loss):
    log_ratio = torch.tensor(math.log(ratio), requires_grad=True)
    found = clipped(log_ratio, torch.tensor(advantage), 0.2)
    assert found.item() == pytest.approx(loss)
    moves = grad(found, log_ratio)[0].item()
    held = (ratio, advantage) in ((1.5, 2.0), (0.5, -2.0))
    assert moves == (0 if held else pytest.approx(-ratio * advantage))


def test_the_loss_is_that_of_every_action():
    model = both()
    batch = a_batch(model, moved=0.3)
    loss = ppo(model, batch, clip=0.2, value_weight=0.5)
    policy = model.policy(batch["tokens"])
    total, n_beyond, n_value = 0.0, 0, 0.0
    for i, t in ACTS.nonzero().tolist():
        now = policy[i, t].log_softmax(-1)[batch["tokens"][i, t + 1]].item()
        ratio, a = math.exp(now - batch["log_probs"][i, t].item()), batch["advantages"][i, t].item()
        total += max(-ratio * a, -min(max(ratio, 0.8), 1.2) * a)
        n_beyond += abs(ratio - 1) > 0.2
        ends = torch.tensor([t])
        value = model.critic(batch["tokens"][i:i + 1], ends).item()
        before, aim = batch["values"][i, t].item(), batch["returns"][i, t].item()
        held = min(max(value, before - 0.2), before + 0.2)
        n_value += max((value - aim)**2, (held - aim)**2) / 2
    assert loss.count == sum(LENGTHS)
    assert loss.total.item() == pytest.approx(total + 0.5 * n_value, rel=1e-6)
    assert 0 < n_beyond < loss.count
    assert loss.notes["clipped"] == n_beyond
    assert loss.notes["value"] == pytest.approx(n_value, rel=1e-6)


# -- what must hold ----------------------------------------------------------------------------

def test_at_first_the_ratio_is_one():
    model = both()
    batch = a_batch(model)
    loss = ppo(model, batch, value_weight=0.0)
    assert loss.notes["clipped"] == 0
    assert loss.notes["moved"] == pytest.approx(0, abs=1e-9)
    assert loss.total.item() == pytest.approx(-batch["advantages"].sum().item())


def gradients(model, batch, *, pieces=1):
    model = copy.deepcopy(model)
    parts = (dict(zip(batch, rows, strict=True)) for rows in zip(
        *(tensor.chunk(pieces) for tensor in batch.values()), strict=True))
    loss = add_up(model, parts, ppo, accumulate=pieces, where="here")
    return [p.grad / loss.count for p in model.parameters() if p.grad is not None]


def test_a_batch_in_pieces_gives_the_same_gradient():
    model = both()
    batch = a_batch(model, moved=0.3)
    torch.testing.assert_close(gradients(model, batch), gradients(model, batch, pieces=3))


def test_prompt_and_padding_teach_nothing():
    model = both()
    batch = a_batch(model, moved=0.3)
    other = {name: torch.where(ACTS, batch[name], 1e3)
             for name in ("log_probs", "advantages", "values", "returns")}
    padded = batch["tokens"].clone()
    padded[1, 5:] = 11
    torch.testing.assert_close(gradients(model, batch),
                               gradients(model, batch | {"tokens": padded}))
    torch.testing.assert_close(gradients(model, batch), gradients(model, batch | other))


def test_actor_and_critic_learn_apart():
    model = both()
    batch = a_batch(model, moved=0.3)
    loss = ppo(model, batch | {"advantages": torch.zeros(3, 9)}, value_weight=0.1).total
    assert all(g is None or not g.any() for g in
               grad(loss, list(model.policy.parameters()), allow_unused=True, retain_graph=True))
    assert grad(loss, model.critic.head.weight)[0].abs().sum() > 0


def prefers(token):
    return lambda prompts, answers: torch.tensor(
        [float((answer == token).float().mean()) for answer in answers])


def experienced(model, reference, **kinds):
    prompts = [torch.tensor([1, i]) for i in range(20, 36)]
    return experience(model, reference, prompts, prefers(33), size=16, max_new=3, stop_ids=(2,),
                      beta=0.01, generator=torch.Generator().manual_seed(0), pieces=2, **kinds)


def test_it_learns_what_is_rewarded_and_leaves_the_reference_alone():
    policy = loud_model(tiny_config(), seed=0).requires_grad_(True)
    reference = copy.deepcopy(policy)
    kept = copy.deepcopy(reference.state_dict())
    model = ActorCritic(policy, RewardModel.of(policy))
    seen = []
    batches = experienced(model, reference, epochs=2,
                          tell=lambda batch: seen.append(batch["scores"].mean().item()))
    for _ in train(model, batches, ppo, lr=lambda step: 3e-3, steps=60):
        pass
    assert len(seen) == 15
    assert sum(seen[-3:]) > 3 * sum(seen[:3]) + 0.5
    assert all((kept[name] == value).all() for name, value in reference.state_dict().items())
    assert all(p.grad is None for p in reference.parameters())


def test_answers_are_drawn_by_the_policy_as_it_has_become():
    policy = loud_model(tiny_config(), seed=0).requires_grad_(True)
    model = ActorCritic(policy, RewardModel.of(policy))
    batches = experienced(model, copy.deepcopy(policy))
    list(islice(batches, 2))
    with torch.no_grad():
        policy.tok_embeddings.weight.mul_(1.1)
    again = next(batches)
    torch.testing.assert_close(learnt_log_probs(policy, again), again["log_probs"])
    assert (again["log_probs"] - again["reference"]).abs().max() > 0.01


def test_an_answer_without_a_token_is_refused():
    with pytest.raises(ValueError, match="an answer without a token"):
        token_rewards(torch.ones(3), *torch.zeros(2, 3, 9), ACTS & torch.tensor([[0], [1], [1]]),
                      beta=0.1)
