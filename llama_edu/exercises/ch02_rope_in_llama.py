"""The exercises of chapter 02, continued: 2.4 the rule of Llama 3.1, 2.5 scores with a cache."""

import math
from collections.abc import Callable

import torch
from einops import einsum
from torch import Generator, Tensor

from ..config import LLAMA_3_1_SCALING, RopeScaling
from ..layers import rope_frequencies, rope_table, rotate
from .data import Exercise, Inputs, Misconception, Probe, between, normal

# -- 2.4: the 3.1 rule ---------------------------------------------------------------------------


def _scaling_inputs(rng: Generator, head_dim: int, context: int) -> Inputs:
    scaling = RopeScaling(between(rng, 3, 6), low_freq_factor=between(rng, 1.5, 2.5),
                          high_freq_factor=between(rng, 5, 7), original_context=context)
    return {"head_dim": head_dim, "theta": between(rng, 5e3, 2e4), "scaling": scaling}


def _published(rng: Generator, head_dim: int, factor: float) -> Inputs:
    scaling = RopeScaling(factor, low_freq_factor=1.0, high_freq_factor=4.0, original_context=8192)
    return {"head_dim": head_dim, "theta": between(rng, 4.9e5, 5.1e5), "scaling": scaling}


def _rule_slip(name: str, rule: Callable[[Tensor, Tensor, RopeScaling], Tensor],
               why: str, *also: Callable) -> Misconception:
    """A mistake in the rule, given the frequencies and the share of each that is kept."""
    def wrong(rule: Callable) -> Callable:
        def answer(head_dim: int, theta: float, scaling: RopeScaling) -> Tensor:
            freqs = rope_frequencies(head_dim, theta)
            return rule(freqs, _keep(_turns(freqs, scaling), scaling), scaling)
        return answer
    return Misconception(name, wrong(rule), why, also=tuple(map(wrong, also)))


def _turns(freqs: Tensor, scaling: RopeScaling) -> Tensor:
    return scaling.original_context * freqs / (2 * math.pi)


def _keep(turns: Tensor, scaling: RopeScaling) -> Tensor:
    span = scaling.high_freq_factor - scaling.low_freq_factor
    return ((turns - scaling.low_freq_factor) / span).clamp(0, 1)


def _mixed_inverted(freqs: Tensor, keep: Tensor, scaling: RopeScaling) -> Tensor:
    swapped = torch.where((keep > 0) & (keep < 1), 1 - keep, keep)
    return torch.lerp(freqs / scaling.factor, freqs, swapped)


def _share_by_wavelength(freqs: Tensor, keep: Tensor, scaling: RopeScaling) -> Tensor:
    """The share that is kept falls in a straight line from the short wave to the long one."""
    waves = 1 / _turns(freqs, scaling)                  # in old contexts
    longest, shortest = 1 / scaling.low_freq_factor, 1 / scaling.high_freq_factor
    share = ((longest - waves) / (longest - shortest)).clamp(0, 1)
    return torch.lerp(freqs / scaling.factor, freqs, share)


THE_RULE = Exercise(
    "2.4", "The 3.1 rule", "How did 8K become 128K?", rope_frequencies,
    probes=(
        Probe("head_dim 16, context 300", lambda rng: _scaling_inputs(rng, 16, 300)),
        Probe("head_dim 12, context 1000", lambda rng: _scaling_inputs(rng, 12, 1000)),
        Probe("Llama 3.1", lambda rng: _published(rng, 128, 8.0)),
        Probe("Llama 3.2 1B", lambda rng: _published(rng, 64, 32.0)),
    ),
    misconceptions=(
        _rule_slip("multiplied", lambda f, keep, s: torch.lerp(f * s.factor, f, keep),
                   "you multiplied by the factor, so slow pairs turn faster and wrap round "
                   "sooner. Divide."),
        _rule_slip("all divided", lambda f, keep, s: f / s.factor,
                   "you divided every frequency: that is position interpolation. The 3.1 rule "
                   "leaves the fast pairs alone, for they tell neighbours apart."),
        _rule_slip("bands exchanged", lambda f, keep, s: torch.lerp(f, f / s.factor, keep),
                   "you kept the slow pairs and divided the fast ones. Are low and high swapped, "
                   "or the two shares?"),
        _rule_slip("blend inverted", _mixed_inverted,
                   "the outer bands are right, and the blend runs the wrong way: a pair near the "
                   "fast band must be nearly kept."),
        _rule_slip("no blend", lambda f, keep, s: torch.where(keep > 0, f, f / s.factor),
                   "you cut hard between kept and divided. Between the two bands the frequency "
                   "is a mixture.",
                   lambda f, keep, s: torch.where(keep < 1, f / s.factor, f)),
        _rule_slip("wavelengths blended", lambda f, keep, s: 1 / torch.lerp(s.factor / f, 1 / f,
                                                                             keep),
                   "you blended wavelengths. Meta blends frequencies, and the mean of the inverses "
                   "is not the inverse of the mean."),
        _rule_slip("share by wavelength", _share_by_wavelength,
                   "your straight line runs over wavelengths. It runs over turns in the old "
                   "context, that is, over frequencies."),
        Misconception("theta changed", lambda d, theta, s: rope_frequencies(d, theta * s.factor),
                      "you raised theta. That slows the slow hands too, but it is another rule "
                      "(NTK); here each pair is judged by its turns.",
                      also=(lambda d, theta, s: rope_frequencies(
                          d, theta * s.factor ** (d / (d - 2))),)),
        _rule_slip("no 2 pi",
                   lambda f, keep, s: torch.lerp(
                       f / s.factor, f, _keep(2 * math.pi * _turns(f, s), s)),
                   "you left out 2 pi: turns = context * frequency / (2 pi)."),
        _rule_slip("no clamp",
                   lambda f, keep, s: f / s.factor + (f - f / s.factor) * (
                       _turns(f, s) - s.low_freq_factor) / (s.high_freq_factor - s.low_freq_factor),
                   "you did not limit the mixture to 0 and 1, so it goes on beyond both bands."),
        Misconception("factor 8 for all", lambda d, theta, s: rope_frequencies(
                          d, theta, LLAMA_3_1_SCALING),
                      "you typed in the numbers of Llama 3.1. The 1B and 3B of 3.2 use 32: read "
                      "them from `scaling`."),
    ),
    hints=(
        "How many turns does a pair make in the old context? original_context * freq / (2 pi).",
        "At low_freq_factor turns or fewer the frequency is divided, at high_freq_factor or more "
        "it is kept. In between, go in a straight line from one to the other.",
        "keep = (turns - low) / (high - low), clamped to 0..1, and the answer is "
        "keep * freq + (1 - keep) * freq / factor.",
    ))

# -- 2.5: a cache --------------------------------------------------------------------------------


def _score(q: Tensor, keys: Tensor) -> Tensor:
    return einsum(q, keys, "b h t d, b h s d -> b h t s")


def _turn(x: Tensor, positions: Tensor, freqs: Tensor) -> Tensor:
    return rotate(x, *rope_table(freqs, positions))


def _places(t: int, s: int) -> Tensor:
    return torch.arange(s - t, s)


def _package_scores(q: Tensor, keys: Tensor, freqs: Tensor) -> Tensor:
    return _score(_turn(q, _places(q.shape[2], keys.shape[2]), freqs), keys)


def _place_slip(name: str, place: Callable[[int, int], Tensor], why: str,
                *also: Callable) -> Misconception:
    """A mistake in where the t queries stand among the s keys."""
    def wrong(place: Callable[[int, int], Tensor]) -> Callable:
        return lambda q, keys, freqs: _score(
            _turn(q, place(q.shape[2], keys.shape[2]), freqs), keys)
    return Misconception(name, wrong(place), why, also=tuple(map(wrong, also)))


def _keys_turned(q: Tensor, keys: Tensor, freqs: Tensor) -> Tensor:
    s = keys.shape[2]
    return _package_scores(q, _turn(keys, torch.arange(s), freqs), freqs)


def _keys_unturned(q: Tensor, keys: Tensor, freqs: Tensor) -> Tensor:
    s = keys.shape[2]
    return _package_scores(q, _turn(keys, -torch.arange(s), freqs), freqs)


def _cache_inputs(rng: Generator, h: int, t: int, s: int, d: int) -> Inputs:
    freqs = 0.3 + torch.rand(d // 2, generator=rng)
    return {"q": normal(rng, 2, h, t, d), "keys": normal(rng, 2, h, s, d), "freqs": freqs}


WITH_A_CACHE = Exercise(
    "2.5", "New queries, old keys", "Build it", _package_scores,
    probes=(
        Probe("3 new tokens, 4 in the cache", lambda rng: _cache_inputs(rng, 3, 3, 7, 6)),
        Probe("1 new token, 4 in the cache", lambda rng: _cache_inputs(rng, 1, 1, 5, 4)),
        Probe("an empty cache", lambda rng: _cache_inputs(rng, 2, 3, 3, 4)),
        Probe("30 in the cache", lambda rng: _cache_inputs(rng, 1, 2, 32, 8)),
    ),
    misconceptions=(
        _place_slip("from zero", lambda t, s: torch.arange(t),
                    "your queries begin at position zero again. With s - t tokens in the cache "
                    "the first new one stands at s - t."),
        _place_slip("one late", lambda t, s: _places(t, s) + 1,
                    "your queries stand one place too far. The t new tokens are the last t of the "
                    "s, so the last one is at s - 1."),
        _place_slip("after all keys", lambda t, s: torch.arange(s, s + t),
                    "you placed the queries after all s keys. The new tokens are among them: "
                    "their own keys are the last t."),
        _place_slip("one place for all", lambda t, s: torch.full((t,), s - 1),
                    "all your queries stand at one position. Each new token has its own.",
                    lambda t, s: torch.full((t,), s - t)),
        _place_slip("not turned", lambda t, s: torch.zeros(t),
                    "you did not turn the queries. The keys are turned, so queries must be too."),
        _place_slip("turned backwards", lambda t, s: -_places(t, s),
                    "you turned the queries the other way. Query and key turn in the same sense; "
                    "the subtraction of the two angles happens in the product."),
        Misconception("keys turned twice", _keys_turned,
                      "you turned the keys again. They came out of the cache already turned."),
        Misconception("keys turned back", _keys_unturned,
                      "you took the keys' turn away. It belongs there: the score needs both "
                      "turns, and their difference is the distance."),
        Misconception("scaled", lambda q, keys, freqs:
                      _package_scores(q, keys, freqs) / math.sqrt(q.shape[-1]),
                      "the turning is right, and then you divided by the root of head_dim. That "
                      "belongs to attention (chapter 3); here the plain product is asked for."),
        Misconception("transposed", lambda q, keys, freqs:
                      _package_scores(q, keys, freqs).transpose(-1, -2),
                      "rows and columns are swapped: one row for each query, one column for each "
                      "key."),
    ),
    hints=(
        "Only the queries are left to turn. Where do they stand?",
        "s keys in all, t of them new: the queries are at s - t, ..., s - 1.",
        "rotate(q, *rope_table(freqs, torch.arange(s - t, s))), then the product of each query "
        "with each key.",
    ), gradients=("q", "keys"))

EXERCISES = [THE_RULE, WITH_A_CACHE]
