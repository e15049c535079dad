"""Parity must be able to fail: spoil one ingredient at a time, and see that it does.

The reference is transformers' model. Every spoiled model has the same weights and differs from
ours in one rule or one number; the comparison and its tolerance are those of the passing tests.
"""

import math
from dataclasses import replace

import pytest
import torch
from einops import rearrange, repeat
from models import (
    STRETCH_32,
    TOLERANCE,
    assert_same,
    cached_logits,
    distance,
    loud_model,
    roomy_cache,
    some_tokens,
    tiny_config,
)
from oracles import huggingface_logits, huggingface_twin
from torch.nn import functional as F

from llama_edu import layers
from llama_edu import model as model_module
from llama_edu.config import RopeScaling
from llama_edu.formats.names import translate
from llama_edu.layers import FeedForward, RMSNorm
from llama_edu.model import Block, Llama

MARGIN = 100 * TOLERANCE   # ours is a hundredth of one tolerance off
CONFIG = tiny_config(rope_scaling=replace(STRETCH_32, original_context=48))
TOKENS = some_tokens(CONFIG)
ROPE_FREQUENCIES, ROPE_TABLE, ROTATE = layers.rope_frequencies, layers.rope_table, layers.rotate
ATTEND, MASK = layers.attend_fused, layers.causal_mask


@pytest.fixture(scope="module")
def reference():
    return huggingface_logits(huggingface_twin(loud_model(CONFIG)), TOKENS)


def logits(**changes):
    """The logits of a model with the reference's weights, but with a changed config."""
    model = Llama(replace(CONFIG, **changes)).eval()
    model.load_state_dict(loud_model(CONFIG).state_dict())
    with torch.inference_mode():
        return model(TOKENS)


def test_the_model_passes_before_it_is_spoiled(reference):
    assert_same(logits(), reference)


# -- one number of the config ------------------------------------------------------------------

STRETCH = CONFIG.rope_scaling
NUMBERS = {
    "scaling off": {"rope_scaling": None},
    "factor 8 for 32": {"rope_scaling": replace(STRETCH, factor=8.0)},
    "low factor 2 for 1": {"rope_scaling": replace(STRETCH, low_freq_factor=2.0)},
    "high factor 8 for 4": {"rope_scaling": replace(STRETCH, high_freq_factor=8.0)},
    "original context doubled": {"rope_scaling": replace(STRETCH, original_context=96)},
    "theta of Llama 2": {"rope_theta": 1e4},
    "theta of Code Llama": {"rope_theta": 1e6},
    "epsilon of Llama 1": {"norm_eps": 1e-6},
}


@pytest.mark.parametrize("changes", NUMBERS.values(), ids=NUMBERS.keys())
def test_a_wrong_number_breaks_parity(reference, changes):
    assert distance(logits(**changes), reference) > MARGIN


def test_tied_for_untied_and_untied_for_tied_break_parity(reference):
    tied = loud_model(replace(CONFIG, tied_embeddings=True))
    untied = loud_model(CONFIG)
    with torch.inference_mode():
        assert distance(tied(TOKENS), reference) > MARGIN
        assert distance(untied(TOKENS), huggingface_logits(huggingface_twin(tied), TOKENS)) > MARGIN


# -- one rule of the layers --------------------------------------------------------------------

def swapped_band(head_dim, theta, scaling, **rest):
    """Low and high swapped: RopeScaling refuses this, so it is done behind its back."""
    swapped = object.__new__(RopeScaling)
    vars(swapped).update(vars(scaling), low_freq_factor=scaling.high_freq_factor,
                         high_freq_factor=scaling.low_freq_factor)
    return ROPE_FREQUENCIES(head_dim, theta, swapped, **rest)


def stretched_everywhere(head_dim, theta, scaling, **rest):
    return ROPE_FREQUENCIES(head_dim, theta, **rest) / scaling.factor


def stretched_without_a_blend(head_dim, theta, scaling, **rest):
    freqs = ROPE_FREQUENCIES(head_dim, theta, **rest)
    waves = 2 * math.pi / freqs
    return torch.where(waves > scaling.original_context, freqs / scaling.factor, freqs)


def stretched_twice(head_dim, theta, scaling, **rest):
    return ROPE_FREQUENCIES(head_dim, theta, replace(scaling, factor=scaling.factor**2), **rest)


def halves(x, cos, sin):
    one, two = x.chunk(2, dim=-1)
    return torch.cat([one * cos - two * sin, one * sin + two * cos], -1)


def repeated_in_rounds(q, k, v, mask):
    k, v = (repeat(w, "b k s d -> b (g k) s d", g=q.shape[1] // w.shape[1]) for w in (k, v))
    return ATTEND(q, k, v, mask)


def attend_scaled(scale):
    def attend(q, k, v, mask):
        return F.scaled_dot_product_attention(q, k, v, mask, is_causal=mask is None,
                                              enable_gqa=True, scale=scale)
    return attend


def attend_masked(rule):
    def attend(q, k, v, mask):
        return ATTEND(q, k, v, rule(torch.ones(q.shape[2], k.shape[2])).bool())
    return attend


def normed(statistic, *, shift=0.0):
    def forward(self, x):
        return (x - shift * x.mean(-1, keepdim=True)) / statistic(x, self.eps) * self.weight
    return forward


def rms(x):
    return x.pow(2).mean(-1, keepdim=True).sqrt()


def post_norm(self, x, now):
    x = self.attention_norm(x + self.attention(x, now.rope, now.mask))
    return self.ffn_norm(x + self.feed_forward(x))


def side_by_side(self, x, now):
    return (x + self.attention(self.attention_norm(x), now.rope, now.mask)
            + self.feed_forward(self.ffn_norm(x)))


def one_residual(self, x, now):
    return x + self.feed_forward(self.ffn_norm(
        self.attention(self.attention_norm(x), now.rope, now.mask)))


def norms_exchanged(self, x, now):
    x = x + self.attention(self.ffn_norm(x), now.rope, now.mask)
    return x + self.feed_forward(self.attention_norm(x))


RULES = {
    "low and high swapped": (model_module, "rope_frequencies", swapped_band),
    "every frequency stretched": (model_module, "rope_frequencies", stretched_everywhere),
    "no blend between the bands": (model_module, "rope_frequencies", stretched_without_a_blend),
    "stretched twice": (model_module, "rope_frequencies", stretched_twice),
    "no rotation": (layers, "rotate", lambda x, cos, sin: x),
    "halves for pairs": (layers, "rotate", halves),
    "positions backwards": (model_module, "rope_table",
                            lambda freqs, at: ROPE_TABLE(freqs, at.flip(-1))),
    "one position for all": (model_module, "rope_table",
                             lambda freqs, at: ROPE_TABLE(freqs, 0 * at)),
    "repeat for repeat_interleave": (layers, "attend_fused", repeated_in_rounds),
    "values rotated too": (layers, "attend_fused",
                           lambda q, k, v, mask: ATTEND(q, k, layers.rotate(v, *TABLE), mask)),
    "scores over d": (layers, "attend_fused", attend_scaled(1 / CONFIG.head_dim)),
    "scores over the root of dim": (layers, "attend_fused", attend_scaled(CONFIG.dim**-0.5)),
    "scores not scaled": (layers, "attend_fused", attend_scaled(1.0)),
    "no mask": (layers, "attend_fused", attend_masked(lambda all_: all_)),
    "the next token is seen": (layers, "attend_fused",
                               attend_masked(lambda all_: all_.tril(1))),
    "the token itself is not seen": (layers, "attend_fused", attend_masked(
        lambda all_: all_.tril(-1).index_fill(1, torch.tensor(0), 1))),
    "epsilon outside the root": (RMSNorm, "forward", normed(lambda x, eps: rms(x) + eps)),
    "mean subtracted": (RMSNorm, "forward", normed(
        lambda x, eps: (x.var(-1, keepdim=True, correction=0) + eps).sqrt(), shift=1.0)),
    "sum for mean": (RMSNorm, "forward", normed(
        lambda x, eps: (x.pow(2).sum(-1, keepdim=True) + eps).sqrt())),
    "norm weights left out": (RMSNorm, "forward",
                              lambda self, x: x / (rms(x)**2 + self.eps).sqrt()),
    "w1 and w3 swapped": (FeedForward, "forward",
                          lambda self, x: self.w2(self.w1(x) * F.silu(self.w3(x)))),
    "gelu for silu": (FeedForward, "forward",
                      lambda self, x: self.w2(F.gelu(self.w1(x)) * self.w3(x))),
    "sigmoid for silu": (FeedForward, "forward",
                         lambda self, x: self.w2(F.sigmoid(self.w1(x)) * self.w3(x))),
    "no gate": (FeedForward, "forward", lambda self, x: self.w2(F.silu(self.w1(x)))),
    "post-norm": (Block, "forward", post_norm),
    "attention beside feed-forward": (Block, "forward", side_by_side),
    "no residual around attention": (Block, "forward", one_residual),
    "the two norms exchanged": (Block, "forward", norms_exchanged),
}
TABLE = ROPE_TABLE(ROPE_FREQUENCIES(CONFIG.head_dim, CONFIG.rope_theta, STRETCH), torch.arange(64))


@pytest.mark.parametrize(("owner", "name", "spoiled"), RULES.values(), ids=RULES.keys())
def test_a_wrong_rule_breaks_parity(reference, monkeypatch, owner, name, spoiled):
    monkeypatch.setattr(owner, name, spoiled)
    assert distance(logits(), reference) > MARGIN


def test_rotating_only_the_queries_breaks_parity(reference, monkeypatch):
    heads = {"q": CONFIG.n_heads, "k": CONFIG.n_kv_heads}
    monkeypatch.setattr(layers, "rotate", lambda x, cos, sin: (
        ROTATE(x, cos, sin) if x.shape[1] == heads["q"] else x))
    assert distance(logits(), reference) > MARGIN


def test_leaving_out_the_last_norm_breaks_parity(reference):
    model = loud_model(CONFIG)
    model.norm = torch.nn.Identity()
    with torch.inference_mode():
        assert distance(model(TOKENS), reference) > MARGIN


# -- the order of rows in files ----------------------------------------------------------------

def read_from_huggingface(rows):
    """Our model, filled from transformers' weights by a reader with its own idea of rows."""
    twin = huggingface_twin(loud_model(CONFIG))
    weights = dict(translate(twin.state_dict().items(), "huggingface", "meta",
                             head_dim=CONFIG.head_dim))
    for name in weights:
        if ".wq." in name or ".wk." in name:
            number = name.split(".")[1]
            stored = twin.model.layers[int(number)].self_attn
            w = (stored.q_proj if ".wq." in name else stored.k_proj).weight
            weights[name] = rows(w, ".wk." in name)
    model = Llama(CONFIG).eval()
    model.load_state_dict(weights)
    with torch.inference_mode():
        return model(TOKENS)


def rows_of(w, n_heads):
    return rearrange(w, "(h two d) c -> (h d two) c", two=2, h=n_heads)


def test_rows_in_the_right_order_pass(reference):
    assert_same(read_from_huggingface(
        lambda w, is_key: rows_of(w, CONFIG.n_kv_heads if is_key else CONFIG.n_heads)), reference)


WRONG_ROWS = {
    "rows left as they are": lambda w, is_key: w,
    "only the queries reordered":
        lambda w, is_key: w if is_key else rows_of(w, CONFIG.n_heads),
    "keys cut into as many heads as queries": lambda w, is_key: rows_of(w, CONFIG.n_heads),
    "the reordering done the other way round": lambda w, is_key: rearrange(
        w, "(h d two) c -> (h two d) c", two=2,
        h=CONFIG.n_kv_heads if is_key else CONFIG.n_heads),
}


@pytest.mark.parametrize("rows", WRONG_ROWS.values(), ids=WRONG_ROWS.keys())
def test_rows_in_a_wrong_order_break_parity(reference, rows):
    assert distance(read_from_huggingface(rows), reference) > MARGIN


# -- what only a cache can break ---------------------------------------------------------------

def test_positions_that_restart_in_every_pass_break_cached_generation(reference, monkeypatch):
    monkeypatch.setattr(model_module, "rope_table",
                        lambda freqs, positions: ROPE_TABLE(freqs, positions - positions[..., :1]))
    assert_same(logits(), reference)        # a single pass cannot tell
    assert distance(cached_logits(loud_model(CONFIG), TOKENS, first=40), reference) > MARGIN


def test_a_mask_that_starts_at_the_left_breaks_a_second_pass(reference, monkeypatch):
    monkeypatch.setattr(model_module, "causal_mask",
                        lambda t, s, **_: torch.ones(t, s).tril().bool())
    assert_same(logits(), reference)
    model, cache = loud_model(CONFIG), roomy_cache(loud_model(CONFIG), len(TOKENS))
    parts = [model(part, cache) for part in TOKENS.split([40, TOKENS.shape[1] - 40], dim=1)]
    assert distance(torch.cat(parts, dim=1), reference) > MARGIN


# -- why the weights are loud and the sequences long -------------------------------------------

def test_an_ordinary_parity_test_would_miss_the_stretch():
    """8 tokens, weights of size 0.02, the published numbers: a model without scaling passes."""
    config = tiny_config(rope_scaling=STRETCH_32)
    model, plain = Llama(config), Llama(replace(config, rope_scaling=None))
    gen = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for w in model.parameters():
            w.copy_(1 if w.ndim == 1 else 0.02 * torch.randn(w.shape, generator=gen))
    plain.load_state_dict(model.state_dict())
    tokens = some_tokens(config, length=8)
    with torch.inference_mode():
        assert_same(plain(tokens), huggingface_logits(huggingface_twin(model), tokens))


def test_moving_all_positions_together_changes_nothing(reference, monkeypatch):
    """The one spoiled position that parity rightly cannot see: RoPE is relative."""
    monkeypatch.setattr(model_module, "rope_table",
                        lambda freqs, positions: ROPE_TABLE(freqs, positions + 1))
    assert_same(logits(), reference)
