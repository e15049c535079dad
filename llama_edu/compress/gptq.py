"""GPTQ: rounding a matrix column by column, so that later weights make up for earlier errors.

Round to nearest asks each weight alone. What a layer is for is its product, and weights that were
moved by D spoil it by the mean over inputs x of |D x|^2, which is tr(D H D^T) with the second
moment H of the inputs: what the inputs have in common lets errors cancel. When one weight of a row
is rounded, the best move of all that are still free is known (Hassibi & Stork 1993, the "optimal
brain surgeon"):

    error = (w_i - q_i) / [H^-1]_ii,    w -= error * [H^-1]_i

and then row and column i leave H, which is inverted anew. GPTQ (Frantar et al. 2023) takes the
weights of all rows in one order, so that all share these inverses, and reads them out of one
factor, U^T U = H^-1 (Cholesky): row i of U is row i of the inverse that is left when i comes, over
the root of its diagonal.

Why this one and not AWQ (Lin et al. 2024), which scales up the columns that meet large inputs, by
powers that a search finds, and then rounds to nearest? Because here every step is the answer to an
equation, and a test can solve that equation another way.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from ..model import Llama, begin
from .grid import grid, grouped

DAMPING = 0.01      # of the mean of H's diagonal, added to it: for directions that no text showed
Make = Callable[[str, Tensor, Tensor], Tensor]      # name, weights, second moment: other weights


def gptq(weight: Tensor, moment: Tensor, *, bits: int, group: int | None = None,
         symmetric: bool = False, damping: float = DAMPING) -> Tensor:
    """Weights `out in` on the levels of a `grid`, each moved for the errors before it.

    moment: of the layer's inputs, `in in`, as `calibrate` hands it over. Columns are taken from the
    left, and a group's levels are laid when its first column comes. In float32 or wider; the dtype
    is kept. Raises ValueError as `grid`, `grouped` and `inverse_factor` do.
    """
    w = weight.to(torch.promote_types(weight.dtype, torch.float32), copy=True)
    size = grouped(w, group).shape[-1]
    factor = inverse_factor(moment, w.shape[1], damping=damping).to(w.dtype)
    for start in range(0, w.shape[1], size):
        end = start + size
        block, errors = w[:, start:end], []
        levels = grid(block, bits=bits, symmetric=symmetric)
        for i in range(size):
            row = factor[start + i, start + i:end]
            column = block[:, i:i + 1]
            fixed = levels.nearest(column)
            errors.append((column - fixed) / row[0])
            block[:, i + 1:] -= errors[-1] * row[1:]
            column.copy_(fixed)
        w[:, end:] -= torch.cat(errors, 1) @ factor[start:end, end:]
    return w.type_as(weight)


def inverse_factor(moment: Tensor, n: int, *, damping: float) -> Tensor:
    """The upper triangle U with U^T U = (H + damping * mean(diagonal))^-1, in float64.

    Raises ValueError for a moment that is not `n n`, not finite, or that has no inverse.
    """
    if moment.shape != (n, n) or not moment.isfinite().all():
        raise ValueError(f"a second moment of shape {tuple(moment.shape)} was given; finite "
                         f"numbers of shape {(n, n)} are needed. Gather it from this layer's own "
                         "inputs.")
    wide = moment.double()
    damped = wide + damping * wide.diagonal().mean() * torch.eye(n).to(wide)
    factor, failed = torch.linalg.cholesky_ex(damped)
    if failed:
        raise ValueError(f"the inputs span fewer than {n} directions, and with a damping of "
                         f"{damping} their second moment has no inverse. Calibrate with more "
                         f"tokens than {n}, or with more damping.")
    return torch.linalg.cholesky(torch.cholesky_inverse(factor), upper=True)


@torch.no_grad()
def calibrate(model: Llama, tokens: Tensor, make: Make) -> None:
    """Put `make(name, weight, moment)` in the place of each weight in the blocks, in running order.

    moment, `in in`, is the mean of x x^T over a layer's inputs x while tokens `b t` pass. A block
    reads what the blocks before it, changed already, have made of the text; its seven matrices are
    changed together. The head stays as it is.
    """
    now = begin(model.config, tokens, None, None, None)
    x = model.tok_embeddings(tokens)
    for i, block in enumerate(model.blocks()):
        for name, (layer, moment) in second_moments(block, partial(block, x, now)).items():
            layer.weight.copy_(make(f"layers.{i}.{name}", layer.weight, moment))
        x = block(x, now)


def second_moments(part: nn.Module, run: Callable[[], object]
                   ) -> dict[str, tuple[nn.Linear, Tensor]]:
    """Each linear layer in a part of a model, and the mean of x x^T over its inputs in one run."""
    linears = {name: each for name, each in part.named_modules() if isinstance(each, nn.Linear)}
    moments: dict[str, Tensor] = {}

    def note(name: str) -> Callable:
        def hook(layer: nn.Module, given: tuple[Tensor]) -> None:
            x = given[0].flatten(0, -2)
            moments[name] = x.T @ x / len(x)
        return hook

    hooks = [each.register_forward_pre_hook(note(name)) for name, each in linears.items()]
    try:
        run()
    finally:
        for each in hooks:
            each.remove()
    return {name: (linears[name], moment) for name, moment in moments.items()}
