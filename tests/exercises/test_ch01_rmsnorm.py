"""The exercises of chapter 01 do what their text says."""

import torch
from torch import nn
from torch.nn import functional as F

from llama_edu.exercises.judge import SEED
from llama_edu.exercises.registry import exercises


def test_a_layer_without_its_mean_spares_layer_norm_the_first_step():
    exercise = exercises()["1.2"]
    for probe in exercise.probes:
        w, b = probe.inputs(seed=SEED).values()
        h = torch.randn(4, w.shape[1], generator=torch.Generator().manual_seed(0))
        for eps in (1e-2, 1.0):
            spared = F.rms_norm(F.linear(h, *exercise.reference(w, b)), b.shape, eps=eps)
            full = F.layer_norm(F.linear(h, w, b), b.shape, eps=eps)
            # float32 sums of a few terms in two orders
            torch.testing.assert_close(spared, full, rtol=1e-4, atol=1e-5)


def test_what_pre_norm_is_handed_are_modules():
    for probe in exercises()["1.3"].probes:
        given = probe.inputs(seed=SEED)
        assert isinstance(given["norm"], nn.Module)
        assert isinstance(given["sublayer"], nn.Module)


def test_a_norms_weight_and_bias_go_into_the_layer_that_reads_it():
    exercise = exercises()["1.5"]
    for probe in exercise.probes:
        norm_weight, norm_bias, w, b = probe.inputs(seed=SEED).values()
        y = torch.randn(4, w.shape[1], generator=torch.Generator().manual_seed(0))
        apart = F.linear(y * norm_weight + norm_bias, w, b)
        folded = F.linear(y, *exercise.reference(norm_weight, norm_bias, w, b))
        # two orders of the same sums of a few terms in float32
        torch.testing.assert_close(folded, apart, rtol=1e-5, atol=1e-5)


def test_making_a_token_longer_moves_no_output_of_a_norm_where_eps_is_zero():
    rng = torch.Generator().manual_seed(0)
    x, weight = torch.randn(8, generator=rng), torch.randn(8, generator=rng)
    slopes = exercises()["1.7"].reference(x, weight, 0.0)
    # what is left of eight float32 products of about 1
    torch.testing.assert_close(slopes @ x, torch.zeros(8), rtol=0, atol=1e-5)


def test_the_slopes_of_a_norm_are_those_of_small_moves():
    for probe in exercises()["1.7"].probes:
        x, weight, eps = probe.inputs(seed=SEED).values()
        x, weight, step = x.double(), weight.double(), 1e-6
        moved = [F.rms_norm(x + sign * step * torch.eye(len(x)).double(), x.shape, weight, eps)
                 for sign in (1, -1)]
        slopes = (moved[0] - moved[1]).T / (2 * step)
        # a difference of two numbers of about 1, with a step of 1e-6 in float64
        torch.testing.assert_close(exercises()["1.7"].reference(x, weight, eps), slopes,
                                   rtol=1e-6, atol=1e-8)
