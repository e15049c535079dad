"""Rounded weights: how far off they may be, what is computed with them, and what they weigh."""

from itertools import islice

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models import loud_model, some_tokens, tiny_config
from torch import nn
from torch.nn import functional as F

from llama_edu import checkpoint
from llama_edu.compress.quant import (
    Int4Linear,
    Int8Linear,
    Int8LinearOnCPU,
    int4,
    int8,
    int8_on_cpu,
)
from llama_edu.compress.surgery import replace_linears
from llama_edu.data import tales
from llama_edu.family.accounting import parameters, weight_bytes
from llama_edu.inference.decoding import DecodingLlama, one_linear
from llama_edu.losses import next_token
from llama_edu.training import packing, recipe
from llama_edu.training_loop import evaluate

ROUNDING = 1 + 1e-4     # float32 has 7 digits; a quotient of up to 127 and its product lose three
MAKES = {"int8": int8, "int4": int4(16), "int8_on_cpu": int8_on_cpu}


def drawn(*shape, seed=0, scale=1.0):
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def linear(weight):
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False).requires_grad_(False)
    layer.weight = nn.Parameter(weight, requires_grad=False)
    return layer


# -- how far off -------------------------------------------------------------------------------

@settings(max_examples=30, deadline=None)
@given(st.integers(0, 99), st.sampled_from([1e-20, 1e-3, 1.0, 1e4]))
def test_an_int8_weight_is_off_by_half_a_scale_at_most(seed, scale):
    weight = drawn(6, 40, seed=seed, scale=scale)
    made = Int8Linear(weight)
    off = (made.dequantised() - weight).abs()
    assert (off <= weight.abs().amax(1, keepdim=True) / 127 / 2 * ROUNDING).all()
    assert (off.amax(1) > 0).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 99), st.sampled_from([1e-20, 1e-3, 1.0, 1e4]), st.sampled_from([1, 4, 20]))
def test_an_int4_weight_is_off_by_half_a_step_of_its_group_at_most(seed, scale, group):
    weight = drawn(6, 40, seed=seed, scale=scale)
    groups = weight.unflatten(1, (-1, group))
    step = (groups.amax(-1) - groups.amin(-1)) / 15
    off = (Int4Linear(weight, group=group).dequantised() - weight).abs().unflatten(1, (-1, group))
    # The least weight of a group is added back: its own last digit may be lost.
    assert (off.amax(-1) <= step / 2 * ROUNDING + groups.abs().amax(-1) * 1e-6).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_of_16_bits_are_rounded_as_finely(dtype):
    weight = drawn(6, 64).to(dtype)
    eight, four = Int8Linear(weight), Int4Linear(weight, group=16)
    assert {eight.scale.dtype, four.step.dtype, four.low.dtype} == {dtype}
    off = (eight.weight.float() * eight.scale.float()[:, None] - weight.float()).abs()
    # The scale is itself rounded to 8 or 11 bits; the numbers are chosen for it as it is.
    assert (off <= eight.scale.float()[:, None] / 2 * ROUNDING).all()
    step = four.step.float().repeat_interleave(16, dim=1)
    # and what is given back is rounded once more, to 8 bits of a weight up to 4
    assert ((four.dequantised() - weight).float().abs() <= step / 2 + 2**-8 * 4).all()


def test_rows_and_groups_of_equal_weights_come_back():
    for value in (0.0, 0.25):
        weight = torch.full((2, 8), value)
        for made in (Int8Linear(weight), Int4Linear(weight, group=4), Int8LinearOnCPU(weight)):
            torch.testing.assert_close(made.dequantised(), weight)
    # 0 / 0 is no number; what it is as a whole number differs from processor to processor.
    nothing = torch.zeros(2, 8)
    assert (Int8Linear(nothing).scale > 0).all()
    assert (Int4Linear(nothing, group=4).step > 0).all()


# -- what is computed --------------------------------------------------------------------------

def test_int8_is_the_plain_loop():
    weight = drawn(3, 8)
    for row, (whole, scale) in zip(weight.tolist(), zip(*map(
            torch.Tensor.tolist, (Int8Linear(weight).weight, Int8Linear(weight).scale)),
            strict=True), strict=True):
        largest = max(map(abs, row))
        assert scale == pytest.approx(largest / 127)
        assert whole == [round(w / largest * 127) for w in row]


def test_int4_is_the_plain_loop_and_two_weights_share_a_byte():
    weight, group = drawn(3, 8), 4
    made = Int4Linear(weight, group=group)
    assert made.packed.shape == (3, 4)
    for row, packed in zip(weight.tolist(), made.packed.tolist(), strict=True):
        levels = []
        for start in range(0, 8, group):
            part = row[start:start + group]
            step = (max(part) - min(part)) / 15
            levels += [round((w - min(part)) / step) for w in part]
        assert packed == [low + 16 * high for low, high in
                          zip(levels[:4], levels[4:], strict=True)]


@pytest.mark.parametrize("make", [int8, int4(16)], ids=["int8", "int4"])
def test_the_product_is_that_with_the_dequantised_weights(make):
    x, made = drawn(2, 5, 64), make("w", linear(drawn(48, 64, seed=1)))
    # A scale before or after the sum: float32 in another order.
    torch.testing.assert_close(made(x), F.linear(x, made.dequantised()), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("n_rows", [1, 7])
def test_on_a_cpu_inputs_are_off_by_half_a_step_of_their_row_at_most(n_rows):
    """Also where one row is ten thousand times as loud as the next."""
    x = drawn(n_rows, 64) * torch.logspace(0, 4, n_rows)[:, None]
    made = int8_on_cpu("w", linear(drawn(48, 64, seed=1)))
    exact = F.linear(x, made.dequantised())
    step = 2 * x.abs().amax(1, keepdim=True) / 127      # 7 bits, where there are no 8
    assert ((made(x) - exact).abs() <= step / 2 * made.dequantised().abs().sum(1) + 1e-5).all()
    assert torch.equal(made.dequantised(), int8("w", linear(drawn(48, 64, seed=1))).dequantised())


def test_on_a_cpu_a_row_of_zeros_disturbs_no_other():
    x, made = drawn(3, 64), int8_on_cpu("w", linear(drawn(48, 64, seed=1)))
    x[1] = 0
    assert torch.equal(made(x)[1], torch.zeros(48))
    torch.testing.assert_close(made(x)[::2], made(x[::2]))


def test_shapes_and_dtypes_are_those_of_a_linear_layer():
    layer = linear(drawn(48, 64))
    for make in MAKES.values():
        for x in (drawn(1, 64), drawn(1, 1, 64), drawn(2, 3, 64)):
            assert make("w", layer)(x).shape == layer(x).shape
    half, x = linear(drawn(48, 64).bfloat16()), drawn(2, 64).bfloat16()
    for make in MAKES.values():
        assert make("w", half)(x).dtype == torch.bfloat16


# -- a whole model -----------------------------------------------------------------------------

@pytest.fixture(scope="module")
def held_out():
    """The tales that the shipped model never saw, as its own test reads them."""
    plan = recipe.read(checkpoint.TALES / "recipe.toml")
    words = checkpoint.load(checkpoint.TALES)[1]
    texts = islice(tales.stories(plan.text.held_out, seed=plan.seed), 60)
    rows = packing.pack([words.encode(tale, bos=True, eos=True) for tale in texts],
                        length=plan.text.row_length)
    return packing.lay_out(list(rows), length=plan.text.row_length)


@pytest.fixture(scope="module")
def loss_of(held_out):
    def loss_of(make):
        model = checkpoint.load(checkpoint.TALES)[0]
        if make is not None:
            replace_linears(model, ".*", make)
        return evaluate(model, [held_out], next_token)

    return loss_of


@pytest.mark.parametrize(("make", "least", "most"), [
    # Measured on all 200 held-out tales: +0.00003, +0.00002 and +0.0018 nats of 0.4426.
    (int8, -5e-4, 5e-4), (int8_on_cpu, -5e-4, 5e-4), (int4(32), 5e-4, 5e-3)],
    ids=["int8", "int8_on_cpu", "int4"])
def test_the_teller_of_tales_loses_little(loss_of, make, least, most):
    assert least < loss_of(make) - loss_of(None) < most


@pytest.mark.parametrize("tied", [False, True])
def test_the_embedding_stays_and_a_tied_output_is_a_copy(tied):
    model = DecodingLlama(loud_model(tiny_config(tied_embeddings=tied)), join=one_linear)
    before, last = model.tok_embeddings.weight.clone(), model.output.weight.clone()
    assert len(replace_linears(model, ".*", int8)) == 9     # 2 x 4 and the output
    assert torch.equal(model.tok_embeddings.weight, before)
    assert torch.equal(model.output.dequantised(), Int8Linear(last).dequantised())


@pytest.mark.parametrize("tied", [False, True])
def test_a_model_weighs_what_accounting_says_and_its_scales(tied):
    config = tiny_config(tied_embeddings=tied)
    p, table = parameters(config), config.vocab_size * config.dim
    kept = 4 * (p.embedding + p.norms)                      # as they were, in float32
    matrices = p.attention + p.feed_forward + table         # a tied output has a copy now
    if not tied:
        assert matrices == weight_bytes(config, bits=8) - p.embedding - p.norms
    rows = config.n_layers * (64 + 32 + 32 + 64 + 192 + 192 + 64) + 96      # qkvo, 1 3 2, output
    for make, n_bytes in ((int8, matrices + 4 * rows),
                          (int4(16), matrices // 2 + 2 * 4 * matrices // 16)):
        model = DecodingLlama(loud_model(config), join=one_linear)
        replace_linears(model, ".*", make)
        parts = (*model.parameters(), *model.buffers())
        assert sum(part.nbytes for part in parts) == kept + n_bytes


@pytest.mark.parametrize("make", MAKES.values(), ids=MAKES)
def test_a_layout_for_generation_is_rounded_as_the_model_is(make):
    """Rows of one input, below each other or apart: each keeps its own scale."""
    model, tokens = loud_model(tiny_config()), some_tokens(tiny_config())
    quick = DecodingLlama(model, join=one_linear)
    for each in (quick, model):
        replace_linears(each, ".*", make)
    difference = (quick(tokens) - model(tokens)).abs().max() / model(tokens).abs().max()
    # On a CPU an input may fall on the other side of a step when a sum is taken in another order.
    assert difference < (0.05 if make is int8_on_cpu else 1e-4)


# -- mistakes ----------------------------------------------------------------------------------

@pytest.mark.parametrize("group", [0, 48, -16])
def test_a_group_that_does_not_divide_is_refused_and_nothing_is_replaced(group):
    model = loud_model(tiny_config())
    with pytest.raises(ValueError, match=rf"int4\({group}\) was asked for; layers.0.attention.wq "
                                         "has rows of 64 weights, .*Choose another group"):
        replace_linears(model, ".*", int4(group))
    assert not any(isinstance(part, Int4Linear) for part in model.modules())


def test_rows_that_do_not_fill_bytes_are_refused():
    with pytest.raises(ValueError, match="w has rows of 15 weights; two share a byte.*Leave this"):
        int4(5)("w", linear(drawn(4, 15)))


@pytest.mark.parametrize("make", MAKES.values(), ids=MAKES)
def test_what_cannot_be_rounded_is_refused(make):
    for bad in (torch.nan, torch.inf, -torch.inf):
        weight = drawn(4, 16)
        weight[2, 3] = bad
        with pytest.raises(ValueError, match="wq has weights that are NaN or infinite; finite one"):
            make("wq", linear(weight))
    with pytest.raises(ValueError, match="wq has a bias; Llama's linear layers have none"):
        make("wq", nn.Linear(16, 4))


def test_the_layout_for_cpus_is_refused_elsewhere():
    with pytest.raises(ValueError, match="wq is on meta; int8_on_cpu needs it on the CPU. Use"):
        int8_on_cpu("wq", nn.Linear(16, 4, bias=False, device="meta"))
