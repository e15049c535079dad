"""Answers to chapter 02: right ones, written otherwise, pass; common slips get their name."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from llama_edu.exercises import check


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the reader's own progress out of it."""
    monkeypatch.chdir(tmp_path)


def turn(x: Tensor, angles: Tensor) -> Tensor:
    """By complex numbers of length one."""
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)).contiguous())
    turned = pairs * torch.polar(torch.ones_like(angles), angles)
    return torch.view_as_real(turned).flatten(-2).type_as(x)


def by_matrices(x, positions, freqs):
    plane = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64)
    whole = torch.block_diag(*(freq.double() * plane for freq in freqs))
    turns = torch.matrix_exp(positions.double()[:, None, None] * whole)
    return torch.einsum("tij, bhtj -> bhti", turns, x.double()).type_as(x)


def by_a_loop(keys, start, stop, freqs):
    kept = [i for i in range(keys.shape[2]) if not start <= i < stop]
    moved = [turn(keys[:, :, i], (new - i) * freqs) for new, i in enumerate(kept)]
    return torch.stack(moved, 2)


def as_transformers_does(head_dim, theta, scaling):
    freqs = 1 / theta ** (torch.arange(0, head_dim, 2).double() / head_dim)
    waves = 2 * torch.pi / freqs
    longest = scaling.original_context / scaling.low_freq_factor
    shortest = scaling.original_context / scaling.high_freq_factor
    keep = (scaling.original_context / waves - scaling.low_freq_factor) / (
        scaling.high_freq_factor - scaling.low_freq_factor)
    blended = (1 - keep) * freqs / scaling.factor + keep * freqs
    stretched = torch.where(waves > longest, freqs / scaling.factor, freqs)
    return torch.where((waves >= shortest) & (waves <= longest), blended, stretched).float()


def sorted_by_index(w, head_dim):
    order = torch.arange(len(w)).view(-1, head_dim // 2, 2).transpose(1, 2).flatten()
    return w[order]


def hand(query: Callable, key: Callable) -> Callable:
    """Both vectors from cosines and sines: of (1, 0) in each pair, turned to a place."""
    def answer(distance, freqs):
        return tuple(torch.stack([(place(distance) * freqs).cos(), (place(distance) * freqs).sin()],
                                 -1).flatten() * 20 for place in (query, key))
    return answer


@pytest.mark.parametrize(("id", "answer"), [
    ("2.1", lambda d, theta: torch.logspace(0, -(d - 2) / d, d // 2, base=theta)),
    ("2.1", lambda d, theta: torch.tensor([1 / theta ** (2 * i / d) for i in range(d // 2)])),
    ("2.2", lambda x, positions, freqs: turn(x, torch.outer(positions.float(), freqs))),
    ("2.2", by_matrices),
    ("2.4", by_a_loop),
    ("2.5", as_transformers_does),
    ("2.6", sorted_by_index),
    ("2.7", hand(lambda distance: -distance, lambda distance: 0)),
    ("2.7", hand(lambda distance: 0, lambda distance: distance)),
    ("2.7", hand(lambda distance: -distance / 2, lambda distance: distance / 2)),
])  # fmt: skip
def test_a_right_answer_passes_however_it_is_written(id: str, answer: Callable):
    report = check(id, answer)
    assert report.passed, report


def narrow(x, positions, freqs):
    angles = positions.to(x.dtype)[:, None] * freqs.to(x.dtype)
    first, second = x[..., 0::2], x[..., 1::2]
    return torch.stack([first * angles.cos() - second * angles.sin(),
                        first * angles.sin() + second * angles.cos()], -1).flatten(-2)


def with_sines(layout):
    def answer(x, positions, freqs):
        angles = torch.outer(positions.float(), freqs)
        return (x.float() + layout(angles.sin(), angles.cos())).type_as(x)
    return answer


def cut_in_the_middle(head_dim, theta, scaling):
    freqs = theta ** -(torch.arange(0, head_dim, 2) / head_dim)
    turns = scaling.original_context * freqs / (2 * torch.pi)
    middle = (scaling.low_freq_factor + scaling.high_freq_factor) / 2
    return torch.where(turns > middle, freqs, freqs / scaling.factor)


def slowest_alone(size):
    def answer(distance, freqs):
        q, k = torch.zeros(2, 2 * len(freqs))
        angle, k[-2] = distance * freqs[-1], size
        q[-2], q[-1] = angle.cos(), -angle.sin()
        return q, k
    return answer


@pytest.mark.parametrize(("id", "answer", "mistake"), [
    ("2.1", lambda d, theta: theta ** (-2 * (torch.arange(d // 2) - 1.0) / d), "one too few"),
    ("2.1", lambda d, theta: torch.linspace(1, 1 / theta, d // 2), "straight line"),
    ("2.2", with_sines(lambda sin, cos: torch.cat([sin, cos], -1)), "added"),
    ("2.2", with_sines(lambda sin, cos: torch.stack([cos, sin], -1).flatten(-2)), "added"),
    ("2.2", narrow, "narrow angles"),
    ("2.2", lambda x, p, freqs: turn(x, torch.deg2rad(torch.outer(p.float(), freqs))), "degrees"),
    ("2.2", lambda x, p, freqs: turn(x, torch.outer(p + 1.0, freqs)), "one place off"),
    ("2.5", lambda d, theta, scaling: 2 * torch.pi / as_transformers_does(d, theta, scaling),
     "wavelengths returned"),
    ("2.5", cut_in_the_middle, "no blend"),
    ("2.6", lambda w, head_dim: torch.cat([w[:, 0::2], w[:, 1::2]], 1), "columns"),
    ("2.1", lambda d, theta: theta ** (-torch.arange(1, d, 2) / d), "odd exponents"),
    ("2.2", lambda x, p, freqs: turn(x, torch.outer(p.float(), freqs.flip(0))), "pairs reversed"),
    ("2.2", lambda x, p, freqs: turn(x, torch.outer(p[0] + torch.arange(len(p)), freqs)),
     "without gaps"),
    ("2.4", lambda keys, start, stop, freqs: keys[:, :, :start].clone(), "later ones lost"),
    ("2.6", lambda w, head_dim: torch.cat([part[i::2] for part in w.chunk(len(w) // head_dim)
                                           for i in (0, 0)]), "evens twice"),
    ("2.7", slowest_alone(30), "one hand"),
    ("2.7", slowest_alone(1e5), "one hand"),
    ("2.7", hand(lambda distance: distance, lambda distance: 0), "forward"),
    ("2.7", lambda distance, freqs: [torch.ones(2 * len(freqs))] * 2, "nothing turned"),
])  # fmt: skip
def test_a_common_slip_has_a_name(id: str, answer: Callable, mistake: str):
    assert check(id, answer).diagnosis == mistake


@pytest.mark.parametrize("answer", [
    lambda distance, freqs: torch.ones(2 * len(freqs)),
    lambda distance, freqs: (torch.ones(len(freqs)), torch.ones(len(freqs))),
    lambda distance, freqs: None,
])  # fmt: skip
def test_2_7_says_which_two_vectors_are_needed(answer: Callable):
    assert "two vectors of" in check("2.7", answer).message
