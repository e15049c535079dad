"""Replace the linear layers of a finished model.

LoRA, quantisation and tensor parallelism are each one call with a different `make`.
"""

import re
from collections.abc import Callable

from torch import nn


def replace_linears(model: nn.Module, pattern: str, make: Callable[[str, nn.Linear], nn.Module],
                    *, kinds: tuple[type[nn.Module], ...] = (nn.Linear,)) -> list[str]:
    """Put `make(name, layer)` where a linear layer's dotted name matches; return those names.

    The pattern is a regular expression for the whole name, such as `layers\\..*\\.w[qv]`. Nothing
    is replaced when `make` fails for one of them. kinds: what counts as a linear layer. Raises
    ValueError where no layer matches.
    """
    found = {name: part for name, part in model.named_modules() if isinstance(part, kinds)}
    made = {name: make(name, part) for name, part in found.items() if re.fullmatch(pattern, name)}
    if not made:
        raise ValueError(f"the pattern {pattern!r} was given; it must match a linear layer of this "
                         f"model. There are: {', '.join(found) or 'none'}.")
    for name, part in made.items():
        model.set_submodule(name, part)
    return list(made)
