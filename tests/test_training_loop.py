"""The loop, its schedule and its optimiser, each against a formula of its own."""

import math

import pytest
import torch
from models import loud_model, some_tokens, tiny_config
from torch import nn

from llama_edu.losses import Loss, next_token
from llama_edu.model import Llama
from llama_edu.training.packing import lay_out
from llama_edu.training_loop import adamw, cosine, evaluate, initialise, train

# -- schedule ----------------------------------------------------------------------------------


def test_the_rate_rises_to_the_peak_and_falls_to_a_tenth():
    lr = cosine(3e-4, warmup=4, steps=104)
    assert [lr(i) for i in range(4)] == pytest.approx([0.75e-4, 1.5e-4, 2.25e-4, 3e-4])
    assert lr(3 + 50) == pytest.approx(3e-4 * 0.55)         # half-way between 1 and 0.1
    assert lr(3 + 25) == pytest.approx(3e-4 * (0.1 + 0.9 * math.cos(math.pi / 8) ** 2))
    assert lr(103) == pytest.approx(3e-5)
    assert lr(1000) == pytest.approx(3e-5)


def test_the_schedule_falls_without_a_jump_after_the_warm_up():
    rates = [cosine(1.0, warmup=10, steps=200)(i) for i in range(200)]
    assert max(rates) == rates[9] == 1.0
    assert all(a > b for a, b in zip(rates[9:], rates[10:], strict=False))
    assert max(abs(a - b) for a, b in zip(rates[9:], rates[10:], strict=False)) < 0.01


def test_a_schedule_may_have_no_warm_up():
    assert cosine(1.0, warmup=0, steps=10)(0) == pytest.approx(0.1 + 0.9 * (1 + math.cos(
        math.pi / 10)) / 2)


@pytest.mark.parametrize(("warmup", "steps"), [(10, 10), (-1, 10), (0, 0)])
def test_a_warm_up_that_does_not_fit_is_refused(warmup, steps):
    with pytest.raises(ValueError, match=f"a warm-up of {warmup} steps in {steps} was asked for"):
        cosine(1.0, warmup=warmup, steps=steps)


# -- optimiser ---------------------------------------------------------------------------------


def test_adamw_takes_the_steps_of_the_paper():
    model = nn.Linear(3, 2)
    with torch.no_grad():
        model.weight.copy_(torch.arange(6.0).view(2, 3) / 3 - 1)
    weights = {name: p.detach().double().clone() for name, p in model.named_parameters()}
    first = {name: torch.zeros_like(w) for name, w in weights.items()}
    second = {name: torch.zeros_like(w) for name, w in weights.items()}
    optimizer, gen = adamw(model), torch.Generator().manual_seed(0)
    for t, rate in enumerate((0.1, 0.03), start=1):
        for name, p in model.named_parameters():
            g = torch.randn(p.shape, generator=gen)
            p.grad, g = g.clone(), g.double()
            first[name] = 0.9 * first[name] + 0.1 * g
            second[name] = 0.95 * second[name] + 0.05 * g * g
            decay = 0.1 if name == "weight" else 0.0
            update = (first[name] / (1 - 0.9**t)) / ((second[name] / (1 - 0.95**t)).sqrt() + 1e-5)
            weights[name] = weights[name] - rate * decay * weights[name] - rate * update
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
    for name, p in model.named_parameters():
        # float32 against float64; L2 in place of decoupled decay is wrong by more than 1e-3
        assert (p.detach() - weights[name]).abs().max().item() < 1e-6


def test_matrices_decay_and_norms_do_not():
    model = Llama(tiny_config())
    decayed, kept = adamw(model).param_groups
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.1, 0.0)
    assert len(kept["params"]) == 5                         # two norms a layer and the last
    assert {p.ndim for p in decayed["params"]} == {2}
    assert len(decayed["params"]) + 5 == len(list(model.parameters()))


def test_frozen_weights_are_not_given_to_the_optimiser():
    model = Llama(tiny_config())
    model.tok_embeddings.requires_grad_(False)
    given = {id(p) for group in adamw(model).param_groups for p in group["params"]}
    assert id(model.tok_embeddings.weight) not in given


def test_first_weights_are_drawn_as_said_and_from_the_seed():
    config = tiny_config(dim=128, n_layers=8, hidden_dim=256)
    one, two, other = (initialise(Llama(config), std=0.02,
                                  generator=torch.Generator().manual_seed(seed))
                       for seed in (0, 0, 1))
    for name, p in one.named_parameters():
        assert torch.equal(p, two.get_parameter(name))
        if p.ndim == 1:
            assert torch.equal(p, torch.ones_like(p))
            continue
        assert not torch.equal(p, other.get_parameter(name))
        expected = 0.02 / 4 if name.endswith(("wo.weight", "w2.weight")) else 0.02
        # 8,192 draws or more: their deviation is within 4 / sqrt(2 * 8192) = 3 % of the true one
        assert p.std().item() == pytest.approx(expected, rel=0.03), name


# -- loop --------------------------------------------------------------------------------------


def fresh(seed=0, **changes):
    return initialise(Llama(tiny_config(**changes)), std=0.05,
                      generator=torch.Generator().manual_seed(seed))


def ragged(n):
    gen = torch.Generator().manual_seed(3)
    lengths = torch.randint(3, 30, (n,), generator=gen).tolist()
    return [[torch.randint(96, (length,), generator=gen)] for length in lengths]


def weights_after(batches, **options):
    model = fresh()
    steps = list(train(model, batches, next_token, **options))
    return model, steps


def test_the_loop_learns_a_text_by_heart():
    tokens = some_tokens(tiny_config(), 2, 12)
    model = fresh()
    steps = list(train(model, iter(lambda: {"tokens": tokens}, None), next_token,
                       lr=cosine(1e-2, warmup=5, steps=60), steps=60))
    assert [step.index for step in steps] == list(range(60))
    assert steps[0].loss == pytest.approx(math.log(96), abs=0.5)    # it knows nothing at first
    assert steps[-1].loss < 0.1
    assert steps[0].count == 22
    assert evaluate(model, [{"tokens": tokens}], next_token) < 0.1


def test_one_batch_of_eight_and_eight_batches_of_one_give_one_model():
    rows = ragged(16)
    together = [lay_out(rows[i:i + 8], length=30) for i in (0, 8)]
    single = [lay_out([row], length=30) for row in rows]
    one, steps_one = weights_after(together, lr=lambda i: 1e-3, steps=2)
    eight, steps_eight = weights_after(single, lr=lambda i: 1e-3, steps=2, accumulate=8)
    for a, b in zip(steps_one, steps_eight, strict=True):
        assert a.count == b.count
        assert a.loss == pytest.approx(b.loss, rel=1e-6)            # float32 sums, another order
        assert a.grad_norm == pytest.approx(b.grad_norm, rel=1e-5)
    for (name, p), q in zip(one.named_parameters(), eight.parameters(), strict=True):
        # Adam divides by the root of the squared gradient, so where that is tiny a rounding
        # error of the gradient grows; the steps themselves are 1e-3.
        assert (p - q).abs().max().item() < 2e-5, name


def test_a_gradient_above_the_limit_is_shortened_and_its_norm_reported():
    tokens = some_tokens(tiny_config(), 2, 12)
    norms, seen = [], []
    for limit in (1e9, 0.25):
        model = fresh()
        optimizer = adamw(model)
        optimizer.register_step_pre_hook(lambda *_, model=model: seen.append(
            torch.cat([p.grad.flatten() for p in model.parameters()]).norm().item()))
        (step,) = train(model, [{"tokens": tokens}], next_token, lr=lambda i: 0.0, steps=1,
                        max_grad_norm=limit, optimizer=optimizer)
        norms.append(step.grad_norm)
    assert norms[0] == norms[1] > 0.25
    assert seen == pytest.approx([norms[0], 0.25], rel=1e-5)        # float32


def test_notes_are_sums_that_become_means():
    def objective(model, batch):
        loss = next_token(model, batch)
        return Loss(loss.total, loss.count, {"double": 2.0 * loss.count})
    rows = ragged(3)
    batches = [lay_out([row], length=30) for row in rows]
    (step,) = train(fresh(), batches, objective, lr=lambda i: 1e-3, steps=1, accumulate=3)
    assert step.notes == {"double": 2.0}


def test_the_loop_can_go_on_where_another_stopped():
    batches = [lay_out([row], length=30) for row in ragged(6)]
    rate = cosine(1e-3, warmup=2, steps=6)
    whole, _ = weights_after(batches, lr=rate, steps=6)
    model = fresh()
    optimizer = adamw(model)
    for step in train(model, batches, next_token, lr=rate, steps=6, optimizer=optimizer):
        if step.index == 2:
            break
    later = list(train(model, batches[3:], next_token, lr=rate, steps=6, start=3,
                       optimizer=optimizer))
    assert [step.index for step in later] == [3, 4, 5]
    for p, q in zip(whole.parameters(), model.parameters(), strict=True):
        assert torch.equal(p, q)


def test_evaluation_is_a_mean_over_tokens_and_leaves_no_gradient():
    model = fresh()
    rows = ragged(5)
    at_once = evaluate(model, [lay_out(rows, length=30)], next_token)
    one_by_one = evaluate(model, (lay_out([row], length=30) for row in rows), next_token)
    assert at_once == pytest.approx(one_by_one, rel=1e-6)           # float32 sums, another order
    assert all(p.grad is None for p in model.parameters())


# -- errors ------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_stops_before_any_update(bad):
    model = fresh()
    optimizer = adamw(model)
    tokens = some_tokens(model.config, 2, 12)

    def objective(model, batch):
        loss = next_token(model, batch)
        spoil = bad if batch["spoilt"] else 0.0
        return Loss(loss.total + spoil * model.norm.weight.sum(), loss.count)

    batches = [{"tokens": tokens, "spoilt": torch.tensor(spoilt)} for spoilt in (False, True)]
    loop = train(model, batches, objective, lr=lambda i: 1e-3, steps=2, optimizer=optimizer)
    next(loop)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    moments = [state["exp_avg"].clone() for state in optimizer.state.values()]
    with pytest.raises(FloatingPointError, match=r"at step 1 of 2 the gradient is (nan|inf), first "
                                                 r"in norm.weight; .* Nothing was updated"):
        next(loop)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert all(torch.equal(state["exp_avg"], old) for state, old in
               zip(optimizer.state.values(), moments, strict=True))
    assert {state["step"].item() for state in optimizer.state.values()} == {1.0}


def test_batches_that_end_early_are_named():
    batch = {"tokens": some_tokens(tiny_config(), 1, 5)}
    with pytest.raises(ValueError, match="the batches ended at step 2 of 5; 1 for every step"):
        list(train(fresh(), [batch, batch], next_token, lr=lambda i: 1e-3, steps=5))


def test_a_batch_with_nothing_to_learn_is_an_error():
    tokens = some_tokens(tiny_config(), 1, 5)
    batch = {"tokens": tokens, "learn": torch.zeros_like(tokens, dtype=torch.bool)}
    with pytest.raises(ValueError, match="at step 0 of 1 the batch held nothing to learn"):
        list(train(fresh(), [batch], next_token, lr=lambda i: 1e-3, steps=1))
    with pytest.raises(ValueError, match="1 batches held nothing to learn"):
        evaluate(fresh(), [batch], next_token)


def test_models_that_are_loud_still_have_finite_gradients():
    model = loud_model(tiny_config()).requires_grad_(True)
    (step,) = train(model, [{"tokens": some_tokens(model.config)}], next_token,
                    lr=lambda i: 1e-3, steps=1)
    assert math.isfinite(step.grad_norm)
