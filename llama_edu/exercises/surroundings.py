"""What an answer could leave behind, put back: random states, settings, patched functions."""

import builtins
import math
import os
import random
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

COURSE = __name__.partition(".")[0]
ABSENT = object()
METHODS = (staticmethod, classmethod, property)


_entered = False            # whether the functions have been put right already, further out


@contextmanager
def undisturbed(*, trusted: bool = False) -> Iterator[None]:
    """Start from known settings and unpatched functions; leave everything as it was found.

    Random states, torch's settings, the working directory, and the functions of torch, Python and
    the course. Only the CPU's generator is seeded: an answer on an accelerator draws as it likes.
    trusted: what runs here is the course's own and patches nothing. There are thousands of
    functions, so they are looked through only where somebody may have changed one.
    """
    global _entered
    remember()
    outermost, _entered = not _entered, True
    patches = _patches() if outermost else []
    for patch in patches:
        _put(patch.owner, patch.name, patch.right)
    found = [read() for read, _ in SETTINGS]
    states = [(write, read()) for read, write in _random_states()]
    with warnings.catch_warnings(), torch.enable_grad():
        warnings.simplefilter("ignore")
        torch.set_default_dtype(torch.float32)
        torch.default_generator.manual_seed(0)
        random.seed(0)
        np.random.seed(0)
        try:
            yield
        finally:
            _entered = not outermost
            for patch in [] if trusted else _patches():     # first: what follows calls these
                _put(patch.owner, patch.name, patch.right)
            for (read, write), value in zip(SETTINGS, found, strict=True):
                if read() != value:
                    write(value)
            for write, state in states:
                write(state)
            for patch in patches:
                _put(patch.owner, patch.name, patch.now)


# -- settings -----------------------------------------------------------------------------------


def folder() -> str | None:
    """The working directory; None if it is gone."""
    with suppress(OSError):
        return os.getcwd()
    return None


def _enter(path: str | None) -> None:
    with suppress(OSError):                 # it may have been removed
        if path is not None:
            os.chdir(path)


def _set_device(device: torch.device) -> None:
    torch.set_default_device(None if device.type == "cpu" else device)


def _deterministic() -> tuple[bool, bool]:
    return (torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled())


SETTINGS: tuple[tuple[Callable[[], Any], Callable[[Any], object]], ...] = (
    (torch.get_default_device, _set_device),
    (torch.get_default_dtype, torch.set_default_dtype),
    (torch.get_num_threads, torch.set_num_threads),
    (_deterministic, lambda held: torch.use_deterministic_algorithms(held[0], warn_only=held[1])),
    (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    (torch.is_grad_enabled, torch.set_grad_enabled),
    (torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
    (sys.getrecursionlimit, sys.setrecursionlimit),
    (folder, _enter),
)


def _random_states() -> Iterator[tuple[Callable[[], Any], Callable[[Any], object]]]:
    """How to read and to write each; those of an accelerator only where one is in use."""
    yield torch.get_rng_state, torch.set_rng_state
    yield random.getstate, random.setstate
    yield np.random.get_state, np.random.set_state
    if torch.cuda.is_initialized():
        yield torch.cuda.get_rng_state_all, torch.cuda.set_rng_state_all
    if torch.backends.mps.is_available():
        yield torch.mps.get_rng_state, torch.mps.set_rng_state


# -- functions ----------------------------------------------------------------------------------

Owner = ModuleType | type


class Patch(NamedTuple):
    """A function that is not what it was when the course was imported."""

    owner: Owner
    name: str
    now: Any
    right: Any


_originals: dict[Owner, dict[str, Any]] = {}
_sizes: dict[Owner, int] = {}
_n_modules = 0              # how many were imported when the originals were last noted


def remember() -> None:
    """Note the functions of torch, of Python and of the course, where that has not been done."""
    global _n_modules
    if len(sys.modules) == _n_modules:
        return
    _n_modules = len(sys.modules)
    course = [module for name, module in list(sys.modules.items())
              if name.partition(".")[0] == COURSE]
    modules = (torch, nn.functional, torch.linalg, torch.special, math, builtins, *course)
    for owner in (*modules, Tensor, *_classes(nn)):
        if owner not in _originals:
            own = _classes(owner) if owner in course else []
            for each in (owner, *own):
                _originals.setdefault(each, _functions(each))
                _sizes.setdefault(each, len(vars(each)))


def _classes(module: ModuleType) -> list[type]:
    """The classes defined in a module, and all of torch.nn's."""
    return [each for each in vars(module).values() if isinstance(each, type)
            and (module is nn or each.__module__ == module.__name__)]


def _functions(owner: Owner) -> dict[str, Any]:
    return {name: value for name, value in vars(owner).items()
            if callable(value) or isinstance(value, METHODS)}


def _patches() -> list[Patch]:
    """Every function replaced, removed, or put before the one that a class inherits."""
    found = []
    for owner, originals in _originals.items():
        now = vars(owner)
        if not originals.items() <= now.items():        # all at once, for speed
            found += [Patch(owner, name, now.get(name, ABSENT), right)
                      for name, right in originals.items() if now.get(name, ABSENT) is not right]
        if isinstance(owner, type) and len(now) != _sizes[owner]:
            found += [Patch(owner, name, value, ABSENT) for name, value in _functions(owner).items()
                      if name not in originals and _inherits(owner, name)]
    return found


def _inherits(owner: type, name: str) -> bool:
    return any(name in vars(base) for base in owner.__mro__[1:])


def _put(owner: Owner, name: str, value: Any) -> None:
    if value is ABSENT:
        if name in vars(owner):
            delattr(owner, name)
    else:
        setattr(owner, name, value)


remember()
