"""Several processes that train one model: what each has learnt counts, and they stay equal."""

import pytest
import torch
from models import loud_model, some_tokens, tiny_config
from ranks import on_ranks
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from llama_edu.losses import next_token
from llama_edu.model import Llama
from llama_edu.training_loop import gathered, initialise, train

CONFIG = tiny_config()
COUNTS = (30, 6)        # tokens that each of two processes learns in a step
STEPS = 3


def batch(rank, step):
    tokens = some_tokens(CONFIG, 1, COUNTS[rank] + 1, seed=10 * step + rank)
    return {"tokens": tokens}


def sharded(model):
    for block in model.layers:
        fully_shard(block)
    return fully_shard(model)


WRAPS = {"ddp": DistributedDataParallel, "fsdp": sharded}


def trained(rank, wrap, max_norm):
    """The weights after some steps, and what each step said."""
    model = WRAPS[wrap](loud_model(CONFIG).requires_grad_())
    steps = list(train(model, (batch(rank, step) for step in range(STEPS)), next_token,
                       lr=lambda i: 1e-2, steps=STEPS, max_grad_norm=max_norm))
    weights = [gathered(p.detach()).clone() for p in model.parameters()]
    return weights, [(step.loss, step.grad_norm, step.count) for step in steps]


def in_one_process(max_norm):
    model = loud_model(CONFIG).requires_grad_()
    batches = [batch(rank, step) for step in range(STEPS) for rank in (0, 1)]
    steps = list(train(model, batches, next_token, lr=lambda i: 1e-2, steps=STEPS, accumulate=2,
                       max_grad_norm=max_norm))
    return list(model.parameters()), [(step.loss, step.grad_norm, step.count) for step in steps]


@pytest.mark.parametrize("max_norm", [0.5, 1e9], ids=["clipped", "unclipped"])
@pytest.mark.parametrize("wrap", WRAPS)
def test_ranks_that_learn_unequal_counts_train_as_one_process(wrap, max_norm):
    expected, said = in_one_process(max_norm)
    for weights, told in on_ranks(2, trained, wrap, max_norm):
        for made, w in zip(weights, expected, strict=True):
            # Adam divides by a root of what is nearly zero here and there: a few last digits.
            torch.testing.assert_close(made, w, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(torch.tensor(told), torch.tensor(said), rtol=1e-4, atol=0)
        assert [count for _, _, count in told] == [sum(COUNTS)] * STEPS


def drawn_and_read(rank):
    """A model that was sharded before it had weights; what it computes by `hidden` and in whole."""
    with torch.device("meta"):
        model = Llama(CONFIG)
    model = sharded(model)
    model.to_empty(device="cpu")
    initialise(model, std=0.02, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        tokens = some_tokens(CONFIG)
        return model.hidden(tokens), model.logits(model.hidden(tokens)), model(tokens)


def test_a_sharded_model_is_initialised_and_read_as_a_whole_one():
    model = initialise(Llama(CONFIG), std=0.02, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        tokens = some_tokens(CONFIG)
        expected = model.hidden(tokens), model(tokens), model(tokens)
    for made in on_ranks(2, drawn_and_read):
        for ours, reference in zip(made, expected, strict=True):
            torch.testing.assert_close(ours, reference)


def nothing_learnt(rank):
    """A process whose batch holds nothing to learn beside one that learns."""
    model = DistributedDataParallel(loud_model(CONFIG).requires_grad_())
    given = batch(0, 0) | ({"learn": torch.zeros(1, 31, dtype=torch.bool)} if rank else {})
    step, = train(model, [given], next_token, lr=lambda i: 1e-2, steps=1)
    return step.count, step.grad_norm


def test_a_rank_that_has_nothing_to_learn_takes_part():
    (count, norm), second = on_ranks(2, nothing_learnt)
    assert (count, norm) == second
    assert count == 30


def test_the_mesh_of_one_process_is_no_special_case():
    ((weights, told),) = on_ranks(1, trained, "fsdp", 1.0)
    model = loud_model(CONFIG).requires_grad_()
    steps = list(train(model, [batch(0, step) for step in range(STEPS)], next_token,
                       lr=lambda i: 1e-2, steps=STEPS, max_grad_norm=1.0))
    torch.testing.assert_close(weights, list(model.parameters()), rtol=1e-3, atol=1e-4)
    assert [count for _, _, count in told] == [step.count for step in steps]
