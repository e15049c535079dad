"""A path beside the weights: nothing at first, the only thing that learns, and merged the same."""

import pytest
import torch
from models import distance, loud_model, some_tokens, tiny_config
from torch import nn

from llama_edu.compress.quant import Int4Linear, int4, int8, int8_on_cpu
from llama_edu.compress.surgery import replace_linears
from llama_edu.losses import next_token
from llama_edu.training import lora
from llama_edu.training.lora import add_lora, merge, paths, weight_of
from llama_edu.training_loop import adamw, train

CONFIG = tiny_config()
ROUNDED = {"int4": int4(16), "int8": int8, "int8_on_cpu": int8_on_cpu}


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def adapted_model(where="all", *, rank=4, alpha=12.0, model=None):
    """A model whose every path does something."""
    model = model or loud_model(CONFIG)
    add_lora(model, where, rank=rank, alpha=alpha, generator=torch.Generator().manual_seed(1))
    for n, path in enumerate(paths(model).values()):
        path.b.data = 0.1 * drawn(*path.b.shape, seed=n)
    return model


# -- one layer ---------------------------------------------------------------------------------

def adds_what_the_paper_says(rank, alpha):
    """W x + (alpha / rank) B A x, spelled out in float64."""
    model, x = adapted_model("wq", rank=rank, alpha=alpha), drawn(3, 64, seed=5)
    path = model.layers[0].attention.wq
    w, a, b, x64 = (each.detach().double() for each in (path.base.weight, path.a, path.b, x))
    expected = x64 @ w.T + (alpha / rank) * (x64 @ a.T @ b.T)
    torch.testing.assert_close(path(x).double(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("rank", "alpha"), [(1, 1.0), (4, 4.0), (4, 16.0), (16, 8)])
def test_a_path_adds_what_the_paper_says(rank, alpha):
    adds_what_the_paper_says(rank, alpha)


def changes_nothing_at_first():
    model, tokens = loud_model(CONFIG), some_tokens(CONFIG)
    before = model(tokens)
    add_lora(model, "all", rank=4, alpha=8)
    assert torch.equal(model(tokens), before)


def test_a_new_path_changes_nothing():
    changes_nothing_at_first()


def test_a_is_drawn_as_in_the_papers_code():
    """Kaiming's uniform distribution with the slope sqrt(5): within 1 / sqrt(in)."""
    wide = loud_model(tiny_config(dim=256))
    add_lora(wide, "w1", rank=32, alpha=8, generator=torch.Generator().manual_seed(0))
    a = wide.layers[0].feed_forward.w1.a
    assert a.shape == (32, 256)
    assert 0.99 / 16 < a.abs().max() < 1 / 16
    assert a.std().item() == pytest.approx(1 / 16 / 3**0.5, rel=0.03)   # of 8192 numbers


@pytest.mark.parametrize("seed", [0, 1])
def test_a_seed_decides_a(seed):
    one, same, other = (loud_model(CONFIG) for _ in range(3))
    for model, s in ((one, seed), (same, seed), (other, seed + 1)):
        add_lora(model, "wq", rank=4, alpha=8, generator=torch.Generator().manual_seed(s))
    a, b, c = (model.layers[1].attention.wq.a for model in (one, same, other))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


# -- which layers ------------------------------------------------------------------------------

@pytest.mark.parametrize(("where", "per_layer"), [
    ("wq wv", "attention.wq attention.wv"), ("w2", "feed_forward.w2"),
    ("attention", "attention.wq attention.wk attention.wv attention.wo"),
    ("feed_forward wo", "attention.wo feed_forward.w1 feed_forward.w2 feed_forward.w3"),
    (r"layers\..*\.w[13]", "feed_forward.w1 feed_forward.w3")])
def test_words_name_layers(where, per_layer):
    model = loud_model(CONFIG)
    names = add_lora(model, where, rank=2, alpha=4)
    assert sorted(names) == sorted(f"layers.{n}.{name}" for n in (0, 1)
                                   for name in per_layer.split())
    assert names == list(paths(model))


def test_all_are_the_seven_of_every_block_and_the_output_can_be_named():
    assert len(add_lora(loud_model(CONFIG), "all", rank=2, alpha=4)) == 14
    assert add_lora(loud_model(CONFIG), r"output layers\.1\..*w1", rank=2, alpha=4) == [
        "layers.1.feed_forward.w1", "output"]


@pytest.mark.parametrize("where", ["wq w4", "query", "", r"output"])
def test_a_word_that_names_nothing_is_refused_and_nothing_changes(where):
    model = loud_model(tiny_config(tied_embeddings=True)).requires_grad_(True)
    with pytest.raises(ValueError, match="must match a linear layer of this model. There are: la"):
        add_lora(model, where, rank=2, alpha=4)
    assert not paths(model)
    assert all(p.requires_grad for p in model.parameters())


# -- learning ----------------------------------------------------------------------------------

@pytest.mark.parametrize("make", [None, int4(16)], ids=["plain", "int4"])
def test_only_the_path_learns(make):
    model = loud_model(CONFIG).requires_grad_(True)
    if make:
        replace_linears(model, r"layers\..*", make)
    add_lora(model, "all", rank=4, alpha=8)
    before = {name: w.clone() for name, w in model.state_dict().items()}
    batch = {"tokens": some_tokens(CONFIG, 4, 32)}
    losses = [step.loss for step in train(
        model, [batch] * 8, next_token, lr=lambda _: 1e-2, steps=8, optimizer=adamw(model))]
    assert losses[-1] < losses[0] - 0.3
    moved = {name for name, w in model.state_dict().items() if not torch.equal(w, before[name])}
    assert moved == {f"{name}.{half}" for name in paths(model) for half in "ab"}
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 2 * 4 * (
        2 * (64 + 64) + 2 * (64 + 32) + 3 * (64 + 192))


def test_a_path_over_bfloat16_keeps_updates_that_bfloat16_would_lose():
    model = adapted_model(model=loud_model(CONFIG).bfloat16())
    path = model.layers[0].attention.wq
    assert path.a.dtype == path.b.dtype == torch.float32
    assert path.base.weight.dtype == path(drawn(2, 64).bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("make", [int4(16), int8], ids=["int4", "int8"])
def test_gradients_over_rounded_weights_are_those_of_the_dequantised_model(make):
    rounded = loud_model(CONFIG)
    replace_linears(rounded, r"layers\..*", make)
    plain = loud_model(CONFIG)
    for name, part in plain.named_modules():
        if isinstance(part, nn.Linear) and name.startswith("layers"):
            part.weight.data = rounded.get_submodule(name).dequantised()
    gradients = []
    for model in (rounded, plain):
        adapted_model(model=model)
        next_token(model, {"tokens": some_tokens(CONFIG)}).total.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.requires_grad})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        assert distance(gradient, gradients[1][name]) < 1e-4, name     # sums in another order
        assert gradient.abs().max() > 0


@pytest.mark.parametrize("make", ROUNDED.values(), ids=ROUNDED)
def test_the_gradient_of_an_input_is_that_of_the_dequantised_layer(make):
    layer = nn.Linear(64, 48, bias=False)
    layer.weight.data = drawn(48, 64)
    rounded, x, wanted = make("w", layer), drawn(3, 64, seed=1).requires_grad_(), drawn(3, 48)
    (lora.Frozen.apply(x, rounded) * wanted).sum().backward()
    torch.testing.assert_close(x.grad, wanted @ rounded.dequantised())


def kept_for_the_way_back(model):
    """Numbers that a forward pass keeps for the backward pass, parameters and buffers apart."""
    own = {w.untyped_storage().data_ptr() for w in (*model.parameters(), *model.buffers())}
    kept = {}

    def count(w):
        if w.untyped_storage().data_ptr() not in own:
            kept[w.untyped_storage().data_ptr()] = w.untyped_storage().nbytes() // 4
        return w

    with torch.autograd.graph.saved_tensors_hooks(count, lambda w: w):
        loss = next_token(model, {"tokens": some_tokens(CONFIG, 1, 4)}).total
    return sum(kept.values()), loss


def test_no_dequantised_weights_are_kept_for_the_way_back(monkeypatch):
    """Four tokens: their activations are small beside the weights."""
    model = loud_model(CONFIG)
    replace_linears(model, r"layers\..*", int4(16))
    add_lora(model, "all", rank=1, alpha=1)
    weights = sum(weight_of(path.base).numel() for path in paths(model).values())
    assert kept_for_the_way_back(model)[0] < weights / 5
    monkeypatch.setattr(lora.Frozen, "apply", lambda x, layer: layer(x))    # autograd's own way
    assert kept_for_the_way_back(model)[0] > weights * 0.9      # layer 0 has no input to change


# -- merged ------------------------------------------------------------------------------------

@pytest.mark.parametrize("make", [None, *ROUNDED.values()], ids=["plain", *ROUNDED])
def test_merged_equals_unmerged(make):
    model, tokens = loud_model(CONFIG), some_tokens(CONFIG)
    if make:
        replace_linears(model, r"layers\..*", make)
    adapted_model(model=model)
    with torch.no_grad():
        before = model(tokens)
        names = merge(model)
        assert type(model.get_submodule(names[0])) is nn.Linear
        assert not paths(model)
        # float32 sums in another order; on a CPU int8 rounds inputs too, until it is merged
        assert distance(model(tokens), before) < (0.2 if make is int8_on_cpu else 1e-4)
        assert distance(before, loud_model(CONFIG)(tokens)) > 0.3


def test_a_merged_weight_is_rounded_once():
    model = adapted_model(model=loud_model(CONFIG).bfloat16())
    path = model.layers[0].attention.wq
    exact = path.base.weight.double() + path.scale * path.b.double() @ path.a.double()
    merge(model)
    merged = model.layers[0].attention.wq.weight
    # float32 may fall on the other side of a tie now and then, by one step of bfloat16
    assert (merged == exact.bfloat16()).float().mean() > 0.999
    assert merged.dtype == torch.bfloat16
    assert not merged.requires_grad


def test_merging_leaves_other_users_of_a_weight_alone():
    model = loud_model(CONFIG)
    base = model.layers[0].attention.wq.weight
    before = base.clone()
    merge(adapted_model(model=model))
    assert torch.equal(base, before)


# -- mistakes that others shipped ----------------------------------------------------------------

def without_the_rank(self, base, a, b, *, alpha, made=lora.LoRALinear.__init__):
    made(self, base, a, b, alpha=alpha)
    self.scale = alpha


def with_b_at_random(self, base, a, b, *, alpha, made=lora.LoRALinear.__init__):
    made(self, base, a, torch.randn_like(b) / 64, alpha=alpha)


@pytest.mark.parametrize(("mistake", "found_by"), [
    (without_the_rank, lambda: adds_what_the_paper_says(4, 16.0)),
    (with_b_at_random, changes_nothing_at_first)])
def test_mistakes_that_others_shipped_are_found(monkeypatch, mistake, found_by):
    found_by()
    monkeypatch.setattr(lora.LoRALinear, "__init__", mistake)
    with pytest.raises(AssertionError):
        found_by()


# -- errors ------------------------------------------------------------------------------------

@pytest.mark.parametrize(("rank", "alpha"), [(0, 1.0), (-1, 1.0), (2.0, 1.0), (4, 0), (4, -1.0),
                                             (4, torch.inf), (4, torch.nan)])
def test_sizes_that_make_no_path_are_refused(rank, alpha):
    with pytest.raises(ValueError, match=f"rank {rank} and alpha {alpha} were given; a whole num"):
        add_lora(loud_model(CONFIG), "all", rank=rank, alpha=alpha)


def test_a_second_adapter_is_refused():
    model = adapted_model()
    with pytest.raises(ValueError, match="has an adapter already; .*Merge that one first"):
        add_lora(model, "all", rank=4, alpha=8)
    merge(model)
    add_lora(model, "all", rank=4, alpha=8)


def test_a_bias_is_refused_and_nothing_is_replaced():
    model = loud_model(CONFIG)
    model.layers[1].feed_forward.w2 = nn.Linear(192, 64)
    with pytest.raises(ValueError, match=r"layers.1.feed_forward.w2 has a bias; .*Leave this"):
        add_lora(model, "all", rank=4, alpha=8)
    assert not paths(model)


def test_a_model_without_an_adapter_cannot_be_merged_or_saved(tmp_path):
    for act in (merge, lambda model: lora.save_adapter(tmp_path / "x", model)):
        with pytest.raises(ValueError, match="the model has no adapter; one is needed. Give it"):
            act(loud_model(CONFIG))
    assert list(tmp_path.iterdir()) == []


def test_blocks_of_four_bits_stay_four_bits_under_a_path():
    model = loud_model(CONFIG)
    replace_linears(model, r"layers\..*", int4(16))
    adapted_model(model=model)
    assert all(type(path.base) is Int4Linear for path in paths(model).values())
