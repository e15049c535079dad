"""The exercises of chapter 02, continued: 2.5 the rule of Llama 3.1, 2.6 row order."""

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from einops import rearrange
from torch import Generator, Tensor

from ..config import LLAMA_3_1_SCALING, RopeScaling
from ..formats.names import halves_to_pairs, pairs_to_halves
from ..layers import rope_frequencies
from .data import Exercise, Inputs, Misconception, Probe, between, normal

# -- 2.5: the 3.1 rule ---------------------------------------------------------------------------


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


def _context_stretched(freqs: Tensor, keep: Tensor, scaling: RopeScaling) -> Tensor:
    turns = _turns(freqs, scaling) * scaling.factor
    return torch.lerp(freqs / scaling.factor, freqs, _keep(turns, scaling))


def _typed_in(name: str, why: str, *constants: dict[str, float]) -> Misconception:
    """The right rule with one thing not read from `scaling`."""
    def wrong(constant: dict[str, float]) -> Callable:
        return lambda head_dim, theta, scaling: rope_frequencies(
            head_dim, theta, replace(scaling, **constant))
    first, *others = map(wrong, constants)
    return Misconception(name, first, why, also=tuple(others))


THE_RULE = Exercise(
    "2.5", "The 3.1 rule", "How did 8K become 128K?", rope_frequencies,
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
                   "is a mixture. (If you wrote one: are low and high exchanged?)",
                   lambda f, keep, s: torch.where(keep < 1, f / s.factor, f),
                   lambda f, keep, s: torch.where(keep < 0.5, f / s.factor, f)),
        _rule_slip("wavelengths blended", lambda f, keep, s: 1 / torch.lerp(s.factor / f, 1 / f,
                                                                             keep),
                   "you blended wavelengths. Meta blends frequencies, and the mean of the inverses "
                   "is not the inverse of the mean."),
        _rule_slip("share by wavelength", _share_by_wavelength,
                   "your straight line runs over wavelengths. It runs over turns in the old "
                   "context, that is, over frequencies."),
        Misconception("theta changed", lambda d, theta, s: rope_frequencies(d, theta * s.factor),
                      "you raised theta. That slows the slow hands too, but it is another rule "
                      "(NTK-aware); here each pair is judged by its turns.",
                      also=(lambda d, theta, s: rope_frequencies(
                          d, theta * s.factor ** (d / (d - 2))),)),
        _rule_slip("no 2 pi",
                   lambda f, keep, s: torch.lerp(
                       f / s.factor, f, _keep(2 * math.pi * _turns(f, s), s)),
                   "you left out 2 pi, or its 2: turns = context * frequency / (2 pi).",
                   lambda f, keep, s: torch.lerp(f / s.factor, f, _keep(2 * _turns(f, s), s))),
        _rule_slip("slow part forgotten", lambda f, keep, s: keep * f,
                   "your slow pairs stand still: the part (1 - keep) * freq / factor is missing."),
        _rule_slip("turns upside down",
                   lambda f, keep, s: torch.lerp(f / s.factor, f, _keep(1 / _turns(f, s), s)),
                   "you count contexts in a turn. Count turns in the context: original_context / "
                   "wavelength."),
        _rule_slip("line from zero",
                   lambda f, keep, s: torch.lerp(
                       f / s.factor, f, (_turns(f, s) / s.high_freq_factor).clamp(0, 1)),
                   "your straight line does not run from low to high: it is (turns - low) / "
                   "(high - low), 0 at the one and 1 at the other.",
                   lambda f, keep, s: torch.lerp(f / s.factor, f, (
                       (_turns(f, s) - s.low_freq_factor) / s.high_freq_factor).clamp(0, 1))),
        _rule_slip("no clamp",
                   lambda f, keep, s: f / s.factor + (f - f / s.factor) * (
                       _turns(f, s) - s.low_freq_factor) / (s.high_freq_factor - s.low_freq_factor),
                   "you did not limit the mixture to 0 and 1, so it goes on beyond both bands."),
        _rule_slip("nothing changed", lambda f, keep, s: f,
                   "not one frequency has changed. Are frequencies compared with wavelengths? "
                   "`original_context / factor` is a wavelength, 2 pi / freq."),
        _rule_slip("wavelengths returned",
                   lambda f, keep, s: 2 * math.pi / torch.lerp(f / s.factor, f, keep),
                   "you returned wavelengths. Asked for are frequencies, radians per token."),
        _rule_slip("factor on the context", _context_stretched,
                   "you count the turns in the new context. The bands are about the old one: "
                   "original_context, as the model was trained.",
                   lambda f, keep, s: torch.lerp(f / s.factor, f, _keep(
                       _turns(f, s) / s.factor, s))),
        Misconception("factor 8 for all", lambda d, theta, s: rope_frequencies(
                          d, theta, LLAMA_3_1_SCALING),
                      "you typed in the numbers of Llama 3.1. The 1B and 3B of 3.2 use 32: read "
                      "them from `scaling`."),
        _typed_in("factor typed in", "you typed in a factor. Llama 3.1 has 8, the 1B and 3B of "
                  "3.2 have 32: read it from `scaling`.", {"factor": 8.0}, {"factor": 32.0}),
        _typed_in("context typed in", "you typed in the old context of 8,192. Read "
                  "`scaling.original_context`.", {"original_context": 8192}),
        _typed_in("bands typed in", "you typed in 1 or 4 for the bounds of the bands. Read both "
                  "from `scaling`.", {"low_freq_factor": 1.0, "high_freq_factor": 4.0},
                  {"low_freq_factor": 1.0}, {"high_freq_factor": 4.0}),
    ),
    hints=(
        "How many turns does a pair make in the old context? original_context * freq / (2 pi).",
        "At low_freq_factor turns or fewer the frequency is divided, at high_freq_factor or more "
        "it is kept. In between, go in a straight line from one to the other.",
        "keep = (turns - low) / (high - low), clamped to 0..1, and the answer is "
        "keep * freq + (1 - keep) * freq / factor.",
    ))

# -- 2.6: row order ------------------------------------------------------------------------------


def _rows(rng: Generator, heads: int, head_dim: int, c: int) -> Inputs:
    return {"w": normal(rng, heads * head_dim, c), "head_dim": head_dim}


def _columns(w: Tensor, head_dim: int) -> Tensor:
    if w.shape[1] % head_dim:
        return w
    return pairs_to_halves(w.T, head_dim).T


def _all_columns(w: Tensor, head_dim: int) -> Tensor:
    return torch.cat([w[:, 0::2], w[:, 1::2]], 1)


ROW_ORDER = Exercise(
    "2.6", "From Meta's rows to Hugging Face's", "Why does a correct model talk nonsense?",
    pairs_to_halves,
    probes=(
        Probe("3 heads of 6", lambda rng: _rows(rng, 3, 6, 4)),
        Probe("1 head of 8", lambda rng: _rows(rng, 1, 8, 2)),
        Probe("a square matrix", lambda rng: _rows(rng, 2, 6, 12)),
        Probe("bfloat16", lambda rng: _rows(rng, 2, 6, 3) | {"w": normal(rng, 12, 3).bfloat16()}),
    ),
    misconceptions=(
        Misconception("inverse", halves_to_pairs,
                      "you went the other way, from Hugging Face's rows to Meta's. With "
                      "head_dim 4 nobody could tell: there the permutation undoes itself."),
        Misconception("whole matrix", lambda w, head_dim: pairs_to_halves(w, len(w)),
                      "you sorted the rows of the whole matrix, so heads are mixed. Sort inside "
                      "each head."),
        Misconception("columns", _columns,
                      "you permuted columns. Columns read the residual stream, which RoPE never "
                      "touches; rows write the features that turn.",
                      also=(_all_columns,)),
        Misconception("neighbours swapped",
                      lambda w, head_dim: w.unflatten(0, (-1, 2)).flip(1).flatten(0, 1),
                      "you exchanged the two of each pair. Sort: firsts to the front, seconds to "
                      "the back."),
        Misconception("halves swapped", lambda w, head_dim: rearrange(
                          rearrange(w, "(h two d) c -> h two d c", two=2, d=head_dim // 2).flip(1),
                          "h two d c -> (h two d) c"),
                      "you swapped the two halves of each head. Evens come first, then odds."),
        Misconception("odds first", lambda w, head_dim: rearrange(
                          rearrange(w, "(h d two) c -> h two d c", two=2, d=head_dim // 2).flip(1),
                          "h two d c -> (h two d) c"),
                      "you put the odd rows first. The even ones, the firsts of the pairs, lead."),
        Misconception("heads inside", lambda w, head_dim: rearrange(
                          w, "(d two h) c -> (two d h) c", two=2, d=head_dim // 2),
                      "you read the rows as if neighbours belonged to different heads. The rows "
                      "of one head stand together: `(h d)`, not `(d h)`."),
        Misconception("nothing moved", lambda w, head_dim: w.clone(),
                      "the rows are where they were: that is the bug itself."),
    ),
    hints=(
        "Cut the rows into heads, each head into pairs: `(h d two) c`.",
        "In Hugging Face's order the first features of all pairs come first: `(h two d) c`.",
        'One rearrange does it: from "(h d two) c" to "(h two d) c", with two=2.',
    ))

EXERCISES = [THE_RULE, ROW_ORDER]
