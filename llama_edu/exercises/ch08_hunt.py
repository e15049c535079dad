"""The bug hunt of chapter 08, 8.7: five optimisers, told apart by a few steps."""

from collections.abc import Callable

import torch
from torch import Tensor

from ..training_loop import BETAS, EPS
from .hunts import HEALTHY, Bug, Hunt


def _length(gradients: Tensor) -> Tensor:
    return gradients.norm()


def _optimiser(*, length: Callable[[Tensor], Tensor] = _length, lengthen: bool = False,
               l2: bool = False, with_rate: bool = True, correct: bool = True,
               inside: bool = False, forget: bool = False, betas: tuple[float, float] = BETAS
               ) -> Callable[..., Tensor]:
    """Clipping and AdamW for p tensors of c numbers, healthy unless told otherwise."""

    def update(weights: Tensor, gradients: Tensor, lr: float, decay: float, max_norm: float
               ) -> Tensor:
        m, v = torch.zeros_like(weights), torch.zeros_like(weights)
        for n, g in enumerate(gradients, start=1):
            scale = max_norm / length(g).clamp(min=1e-30)
            g = g * (scale if lengthen else scale.clamp(max=1.0))
            g = g + decay * weights if l2 else g
            if forget:
                m, v, n = torch.zeros_like(m), torch.zeros_like(v), 1
            m, v = betas[0] * m + (1 - betas[0]) * g, betas[1] * v + (1 - betas[1]) * g * g
            m_hat, v_hat = (m / (1 - betas[0]**n), v / (1 - betas[1]**n)) if correct else (m, v)
            if not l2:
                weights = weights * (1 - (lr * decay if with_rate else decay))
            weights = weights - lr * m_hat / ((v_hat + EPS).sqrt() if inside
                                              else v_hat.sqrt() + EPS)
        return weights

    return update


def _look(update: Callable[..., Tensor]) -> Tensor:
    """Several small experiments, side by side."""
    weights = torch.tensor([[1.0, -2.0], [3.0, 0.5]])
    step = torch.tensor([[0.3, 0.001], [-0.2, 0.6]])
    three = torch.stack([step, -0.5 * step, 2.0 * step.flip(0)])
    return torch.stack([
        update(weights, step[None], 0.1, 0.0, 100.0),               # one step and nothing else
        update(weights, 1e-4 * step[None], 0.1, 0.0, 100.0),        # tiny gradients
        update(weights, 0 * three, 0.1, 0.2, 1.0),                  # nothing but decay
        update(weights, three, 0.1, 0.0, 100.0),                    # memory
        update(weights, torch.stack([step, 30 * step]), 0.1, 0.0, 0.5),     # clipping
        update(weights, torch.stack([30 * step, step * 0.1]), 0.1, 0.0, 1.0)])


def _one_by_one(gradients: Tensor) -> Tensor:
    return gradients.norm(dim=1, keepdim=True)


OPTIMISERS = Hunt(
    "8.7", "Five optimisers", "Find the bug: five optimisers",
    healthy=_optimiser,
    bugs={
        "clipped one by one": Bug(
            lambda: _optimiser(length=_one_by_one),
            "measures each tensor by itself, so a short tensor keeps its length beside a long one"),
        "lengthened, too": Bug(
            lambda: _optimiser(lengthen=True),
            "makes a short gradient as long as max_norm, so after a long one it counts as much"),
        "decay in the gradient": Bug(
            lambda: _optimiser(l2=True),
            "turns the decay into a step of the learning rate's length where the gradient is zero"),
        "decay without the learning rate": Bug(
            lambda: _optimiser(with_rate=False),
            "shrinks the weights even where the learning rate is 0"),
        "no bias correction": Bug(
            lambda: _optimiser(correct=False),
            "makes a first step of 0.45 of the learning rate"),
        "eps inside the root": Bug(
            lambda: _optimiser(inside=True),
            "hardly moves for a gradient of 0.0001 and moves as usual for one of 1"),
        "means forgotten": Bug(
            lambda: _optimiser(forget=True),
            "gives every step the length of the first, whatever came before"),
        "betas exchanged": Bug(
            lambda: _optimiser(betas=BETAS[::-1]),
            "has a right first step and remembers the gradient's sign for longer"),
    },
    hidden={"a": "means forgotten", "b": "clipped one by one", "c": HEALTHY,
            "d": "decay in the gradient", "e": "eps inside the root"},
    look=_look,
    hints=(
        "Switch things off: decay 0, a huge max_norm, one step. What is left is Adam's first "
        "step. Then switch them on again, one at a time.",
        "Gradients of zero leave the decay alone; gradients of 0.0001 make eps visible; a second "
        "gradient of zero shows what is remembered.",
        "Clipping needs two tensors, one long and one short, and two steps: in the first step "
        "alone Adam forgets the length.",
    ))

EXERCISES = [OPTIMISERS]
