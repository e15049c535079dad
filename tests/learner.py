"""Three answers to exercise 1.1, for the tests of the engine."""

import torch
from torch import Tensor


def right(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return torch.nn.functional.rms_norm(x.float(), x.shape[-1:], eps=eps).type_as(x) * weight


def wrong(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return right(x, weight, eps) + 1


def stub(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    raise NotImplementedError("Exercise 1.1")
