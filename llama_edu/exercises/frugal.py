"""Exercises that are to be solved by hand and with little memory: no autograd, no large tensor."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def by_hand(ask: Callable[[], Any], *, most: int, too_large: str, derive: str) -> Any:
    """What `ask` returns, without autograd and without a tensor of more than `most` numbers.

    Raises MemoryError, with `too_large`, where one is made, and RuntimeError, with `derive`, where
    a gradient is.
    """
    with torch.inference_mode(), _NoLarger(most, too_large, derive):
        try:
            return ask()
        except RuntimeError as error:
            if "does not require grad" not in str(error):
                raise
            raise RuntimeError(derive) from None


class _NoLarger(TorchDispatchMode):
    """Stops whoever makes a tensor of more numbers than this, or has a gradient made."""

    def __init__(self, most: int, too_large: str, derive: str):
        super().__init__()
        self.most, self.too_large, self.derive = most, too_large, derive

    def __torch_dispatch__(self, function: Callable, types: Any, args: tuple = (),
                           kwargs: dict | None = None) -> Any:
        if "backward" in str(function):         # torch.func does not ask whether autograd is on
            raise RuntimeError(self.derive)
        made = function(*args, **(kwargs or {}))
        if not function.is_view and any(    # a view takes no memory
                isinstance(each, Tensor) and each.numel() > self.most
                for each in tree_leaves(made)):
            raise MemoryError(self.too_large)
        return made
