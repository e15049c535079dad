"""The objective: its value, what it counts, and that cutting a batch changes nothing."""

import pytest
import torch
from models import loud_model, some_tokens, tiny_config
from torch.nn import functional as F

from llama_edu.losses import log_probs, next_learnt_token, next_token
from llama_edu.training.packing import lay_out


@pytest.fixture
def model():
    return loud_model(tiny_config())


def test_the_loss_is_pytorchs_cross_entropy_of_every_next_token(model):
    tokens = some_tokens(model.config, 3, 20)
    loss = next_token(model, {"tokens": tokens})
    logits = model(tokens)[:, :-1]
    theirs = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="sum")
    assert loss.count == 3 * 19
    assert loss.total.item() == pytest.approx(theirs.item(), rel=1e-5)  # sums in another order


def test_a_token_is_predicted_from_those_before_it_and_never_from_itself(model):
    tokens = some_tokens(model.config, 1, 12)
    changed = tokens.clone()
    changed[0, 7] = (changed[0, 7] + 1) % model.config.vocab_size
    before, after = (log_probs(model, {"tokens": t})[0] for t in (tokens, changed))
    assert torch.equal(before[:6], after[:6])
    assert not torch.isclose(before[6], after[6])           # position 6 predicts token 7
    expected = model(changed[:, :7])[0, -1].log_softmax(-1)[changed[0, 7]]
    # The same sum over another number of rows: float32 rounds to about 1e-6.
    assert after[6].item() == pytest.approx(expected.item(), abs=1e-4)


def test_only_what_is_to_be_learnt_is_counted(model):
    tokens = some_tokens(model.config, 2, 10)
    learn = torch.zeros(2, 10, dtype=torch.bool)
    learn[0, 4] = learn[1, 9] = True
    loss = next_token(model, {"tokens": tokens, "learn": learn})
    every = -log_probs(model, {"tokens": tokens})
    assert loss.count == 2
    assert loss.total.item() == pytest.approx((every[0, 3] + every[1, 8]).item(), rel=1e-6)


def test_the_first_token_of_a_row_is_never_counted(model):
    tokens = some_tokens(model.config, 2, 10)
    learn = torch.zeros(2, 10, dtype=torch.bool)
    learn[:, 0] = True
    loss = next_token(model, {"tokens": tokens, "learn": learn})
    assert (loss.count, loss.total.item()) == (0, 0.0)


def gradient(model, batches, objective=next_token):
    """The gradient of the mean loss over all batches, added up piece by piece."""
    model.zero_grad()
    count = 0
    for batch in batches:
        loss = objective(model, batch)
        loss.total.backward()
        count += loss.count
    return {name: p.grad / count for name, p in model.named_parameters()}


def test_eight_rows_at_once_and_one_by_one_have_one_gradient(model):
    model.requires_grad_(True)
    gen = torch.Generator().manual_seed(0)
    lengths = (3, 30, 7, 19, 2, 25, 11, 30)                 # ragged: 1 to 29 tokens to learn
    rows = [[torch.randint(96, (n,), generator=gen)] for n in lengths]
    at_once = gradient(model, [lay_out(rows, length=30)])
    one_by_one = gradient(model, [lay_out([row], length=30) for row in rows])
    scale = max(g.abs().max() for g in at_once.values())
    for name, g in at_once.items():
        # float32 sums in another order; a mean of means is wrong by more than 1e-2 here
        assert ((g - one_by_one[name]).abs().max() / scale).item() < 1e-6, name
    means = [gradient(model, [lay_out([row], length=30)]) for row in rows]
    wrong = sum(g["output.weight"] for g in means) / len(rows)
    assert (wrong - at_once["output.weight"]).abs().max() / scale > 1e-2


# -- where little is learnt --------------------------------------------------------------------

def some_learnt(share, *, seed=0):
    """Two documents in a row, in each some of the tokens learnt."""
    gen = torch.Generator().manual_seed(seed)
    rows = [[torch.stack([torch.randint(96, (n,), generator=gen),
                          (torch.rand(n, generator=gen) < share).long()], 1) for n in (9, 14)]
            for _ in range(3)]
    return lay_out(rows, length=30)


@pytest.mark.parametrize("tied", [True, False])
def test_logits_of_the_learnt_tokens_alone_have_the_same_loss_and_gradient(tied):
    model = loud_model(tiny_config(tied_embeddings=tied)).requires_grad_(True)
    batch = some_learnt(0.3)
    ours, theirs = next_learnt_token(model, batch), next_token(model, batch)
    assert ours.count == theirs.count > 5
    assert ours.total.item() == pytest.approx(theirs.total.item(), rel=1e-5)
    few, all_of_them = (gradient(model, [batch], each) for each in (next_learnt_token, next_token))
    scale = max(g.abs().max() for g in all_of_them.values())
    for name, g in all_of_them.items():
        # products over another number of rows: float32 rounds to about 1e-7 of the largest
        assert ((g - few[name]).abs().max() / scale).item() < 1e-6, name


def test_without_marks_or_without_anything_learnt_both_are_the_same(model):
    tokens = some_tokens(model.config, 2, 10)
    every, none = {"tokens": tokens}, {"tokens": tokens, "learn": torch.zeros_like(tokens).bool()}
    for batch in (every, none):
        ours, theirs = next_learnt_token(model, batch), next_token(model, batch)
        assert ours.count == theirs.count
        assert ours.total.item() == pytest.approx(theirs.total.item(), rel=1e-5)


def test_no_logits_are_computed_of_what_is_not_learnt(model, monkeypatch):
    asked, logits = [], model.logits
    monkeypatch.setattr(model, "logits", lambda hidden: asked.append(hidden) or logits(hidden))
    loss = next_learnt_token(model, some_learnt(0.3))
    assert [hidden.shape for hidden in asked] == [(loss.count, model.config.dim)]
