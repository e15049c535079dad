"""Functions that the rows of the ledger may call, a module for each topic.

A function here computes what a claim speaks of: from the releases, from a figure that was
published (kept beside it, with its source), or from a small experiment.
"""

import pkgutil
from collections.abc import Callable, Iterable
from importlib import import_module
from inspect import isfunction
from types import ModuleType


def functions() -> dict[str, Callable]:
    """Every public function of the modules in this folder, by its name."""
    return collect(import_module(f"{__name__}.{module.name}")
                   for module in pkgutil.iter_modules(__path__))


def collect(modules: Iterable[ModuleType]) -> dict[str, Callable]:
    """The public functions that these modules define. Raises where two have the same name."""
    found: dict[str, Callable] = {}
    for module in modules:
        for name, thing in vars(module).items():
            if name.startswith("_") or not isfunction(thing) or thing.__module__ != module.__name__:
                continue
            if name in found:
                raise ValueError(f"{module.__name__} and {found[name].__module__} both define "
                                 f"{name}; a row could mean either. Rename one of them.")
            found[name] = thing
    return found
