"""The exercises of chapter 02, continued: 2.5 the rule of Llama 3.1."""

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Generator, Tensor

from ..config import LLAMA_3_1_SCALING, RopeScaling
from ..layers import rope_frequencies
from .data import Exercise, Inputs, Misconception, Probe, between


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


def _mix(low: float | None, high: float | None) -> Callable:
    """The mixture, limited below and above or not at all."""
    def rule(f: Tensor, keep: Tensor, s: RopeScaling) -> Tensor:
        share = (_turns(f, s) - s.low_freq_factor) / (s.high_freq_factor - s.low_freq_factor)
        share = share if low is None else share.clamp(min=low)
        return torch.lerp(f / s.factor, f, share if high is None else share.clamp(max=high))
    return rule


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
                      "you changed theta. A larger one slows the slow hands too, but that is "
                      "another rule (NTK-aware); here each pair is judged by its turns.",
                      also=(lambda d, theta, s: rope_frequencies(d, theta / s.factor),
                            lambda d, theta, s: rope_frequencies(
                                d, theta * s.factor ** (d / (d - 2))))),
        _rule_slip("no 2 pi",
                   lambda f, keep, s: torch.lerp(
                       f / s.factor, f, _keep(2 * math.pi * _turns(f, s), s)),
                   "your 2 pi, or its 2, is missing or on the wrong side: turns = context * "
                   "frequency / (2 pi).",
                   *(lambda f, keep, s, more=more: torch.lerp(
                       f / s.factor, f, _keep(more * _turns(f, s), s))
                     for more in (2, 4 * math.pi ** 2, math.pi, 0.5))),
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
        _rule_slip("no clamp", _mix(None, None),
                   "you did not limit the mixture to 0 and 1, so it goes on beyond the bands.",
                   _mix(0, None), _mix(None, 1)),
        _rule_slip("half and half", lambda f, keep, s: torch.lerp(
                       f / s.factor, f, torch.where((keep > 0) & (keep < 1), 0.5, keep)),
                   "between the bands you take the mean of both. The share of the old frequency "
                   "grows in a straight line with the turns."),
        _rule_slip("parts without shares", lambda f, keep, s: keep * f + f / s.factor,
                   "one of the two parts comes in whole. Each has its share: keep * freq and "
                   "(1 - keep) * freq / factor.",
                   lambda f, keep, s: f + (1 - keep) * f / s.factor),
        _rule_slip("turns rounded", lambda f, keep, s: torch.lerp(
                       f / s.factor, f, _keep(_turns(f, s).floor(), s)),
                   "you rounded the turns to whole numbers. Half a turn counts too.",
                   lambda f, keep, s: torch.lerp(f / s.factor, f, _keep(_turns(f, s).round(), s))),
        _rule_slip("outer bands exchanged", lambda f, keep, s: torch.lerp(
                       f / s.factor, f, torch.where(keep == 0, 1, torch.where(keep == 1, 0, keep))),
                   "your mixture is right and the bands on both sides of it are exchanged: many "
                   "turns, kept; few, divided."),
        _rule_slip("divided twice", lambda f, keep, s: torch.lerp(
                       f / s.factor, f, keep) / s.factor,
                   "you divided by the factor once more, behind the mixture: a pair that is kept "
                   "must come out as it was."),
        _rule_slip("middle divided", lambda f, keep, s: torch.where(
                       (keep > 0) & (keep < 1), f / s.factor, f),
                   "the slowest hands are kept. Those of low_freq_factor turns or fewer are "
                   "divided by the factor."),
        _rule_slip("powers mixed", lambda f, keep, s: f * s.factor ** (keep - 1),
                   "you raised the factor to a share. Mix the two frequencies, f and f / factor, "
                   "by their shares."),
        _rule_slip("share by logarithm", lambda f, keep, s: torch.lerp(f / s.factor, f, (
                       (_turns(f, s) / s.low_freq_factor).log() / math.log(
                           s.high_freq_factor / s.low_freq_factor)).clamp(0, 1)),
                   "your share grows with the logarithm of the turns. It grows in a straight line "
                   "with the turns themselves."),
        _rule_slip("by pair", lambda f, keep, s: f * torch.linspace(1, 1 / s.factor, len(f)),
                   "how much you slow a pair depends on its number. It depends on its turns in the "
                   "old context.", lambda f, keep, s: f / torch.linspace(1, s.factor, len(f))),
        _rule_slip("share returned", lambda f, keep, s: keep,
                   "you returned the shares. Asked for are the frequencies that they mix.",
                   lambda f, keep, s: 1 - keep, lambda f, keep, s: _turns(f, s)),
        _rule_slip("nothing changed", lambda f, keep, s: f,
                   "not one frequency has changed. Are frequencies compared with wavelengths? "
                   "`original_context / factor` is a wavelength, 2 pi / freq."),
        _rule_slip("wavelengths returned",
                   lambda f, keep, s: 2 * math.pi / torch.lerp(f / s.factor, f, keep),
                   "you returned wavelengths. Asked for are frequencies, radians per token."),
        _rule_slip("factor on the context", _context_stretched,
                   "you count the turns in the new context. The bands are about the old one: "
                   "original_context, as the model was trained."),
        _rule_slip("context divided", lambda f, keep, s: torch.lerp(
                       f / s.factor, f, _keep(_turns(f, s) / s.factor, s)),
                   "your turns are too few by the factor: you count them in original_context / "
                   "factor, or with frequencies that are divided already. Count them in "
                   "original_context, with the old frequencies."),
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

EXERCISES = [THE_RULE]
