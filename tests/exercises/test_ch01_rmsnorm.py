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


def test_the_gradient_of_a_norm_has_no_part_along_the_token_where_eps_is_zero():
    rng = torch.Generator().manual_seed(0)
    grad, x, weight = (torch.randn(shape, generator=rng) for shape in ((5, 8), (5, 8), (8,)))
    for_x, _ = exercises()["1.7"].reference(grad, x, weight, 0.0)
    # what is left of eight float32 products of about 1
    torch.testing.assert_close((for_x * x).sum(-1), torch.zeros(5), rtol=0, atol=1e-5)
