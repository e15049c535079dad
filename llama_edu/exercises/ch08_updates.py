"""The exercises of chapter 08 on the update: 8.3 AdamW, 8.4 clipping, 8.5 accumulation."""

from collections.abc import Callable

import torch
from torch import Generator, Tensor, nn

from ..losses import Batch, Loss
from ..training_loop import BETAS, EPS, adamw, add_up, mean_and_clip
from .data import Exercise, Inputs, Misconception, Probe, between, normal

# -- 8.3: AdamW ---------------------------------------------------------------------------------


def _package_adamw(weight: Tensor, gradients: Tensor, lr: float, weight_decay: float) -> Tensor:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight = nn.Parameter(weight.clone())
    optimizer = adamw(layer, weight_decay=weight_decay)
    for group in optimizer.param_groups:
        group["lr"] = lr
    for gradient in gradients:
        layer.weight.grad = gradient.clone()
        optimizer.step()
    return layer.weight.detach()


def _adamw_inputs(rng: Generator, *, size: float = 1.0, decay: float | None = None) -> Inputs:
    """Three steps: a first one that is all bias correction, and two that remember it."""
    return {"weight": normal(rng, 2, 3, mean=2.0), "gradients": size * normal(rng, 3, 2, 3),
            "lr": between(rng, 0.2, 0.5),
            "weight_decay": between(rng, 0.3, 0.6) if decay is None else decay}


def _adam(*, betas: tuple[float, float] = BETAS, sign: float = 1.0,
          given: Callable = lambda g, w, decay: g,
          shrink: Callable = lambda w, lr, decay: w * (1 - lr * decay),
          corrected: tuple[bool, bool] = (True, True),
          second: Callable = lambda g: g * g,
          divide: Callable = lambda m, v: m / (v.sqrt() + EPS),
          after: Callable = lambda w, lr, decay: w) -> Callable[..., Tensor]:
    """A way to take the steps, right unless told otherwise."""

    def answer(weight: Tensor, gradients: Tensor, lr: float, weight_decay: float) -> Tensor:
        w, m, v = weight, torch.zeros_like(weight), torch.zeros_like(weight)
        for step, gradient in enumerate(gradients, start=1):
            g = given(gradient, w, weight_decay)
            m = betas[0] * m + (1 - betas[0]) * g
            v = betas[1] * v + (1 - betas[1]) * second(g)
            now_m, now_v = (x / (1 - beta**step) if right else x
                            for x, beta, right in zip((m, v), betas, corrected, strict=True))
            w = shrink(w, lr, weight_decay) - sign * lr * divide(now_m, now_v)
            w = after(w, lr, weight_decay)
        return w

    return answer


def _no_shrink(w: Tensor, lr: float, decay: float) -> Tensor:
    return w


ADAMW = Exercise(
    "8.3", "AdamW by hand", "Build it", _package_adamw,
    probes=(
        Probe("ordinary gradients", lambda rng: _adamw_inputs(rng)),
        Probe("tiny gradients", lambda rng: _adamw_inputs(rng, size=2e-5)),
        Probe("no decay", lambda rng: _adamw_inputs(rng, decay=0.0)),
        Probe("no gradient", lambda rng: _adamw_inputs(rng, size=0.0)),
    ),
    misconceptions=(
        Misconception("L2 for decoupled decay",
                      _adam(given=lambda g, w, decay: g + decay * w, shrink=_no_shrink),
                      "you added the decay to the gradient: that is L2. Adam's division then "
                      "scales it differently for each weight. AdamW shrinks the weight itself, by "
                      "lr * decay."),
        Misconception("no bias correction", _adam(corrected=(False, False)),
                      "you left out the bias correction. Both averages start at zero and are too "
                      "small at first: divide them by 1 - beta**step."),
        Misconception("first moment not corrected", _adam(corrected=(False, True)),
                      "you corrected v and not m. Both averages start at zero."),
        Misconception("second moment not corrected", _adam(corrected=(True, False)),
                      "you corrected m and not v. Both averages start at zero."),
        Misconception("eps inside the root", _adam(divide=lambda m, v: m / (v + EPS).sqrt()),
                      "you put eps inside the root, as in a norm. Adam adds it after the root."),
        Misconception("no eps", _adam(divide=lambda m, v: m / v.sqrt()),
                      "you left eps out: where there is no gradient, zero is divided by zero."),
        Misconception("another eps", _adam(divide=lambda m, v: m / (v.sqrt() + 1e-8)),
                      "you used 1e-8, PyTorch's eps unless told otherwise. Llama 2 has 1e-5."),
        Misconception("another beta", _adam(betas=(BETAS[0], 0.999)),
                      "you used 0.999 for the mean square, as PyTorch does unless told otherwise. "
                      "Llama has 0.95."),
        Misconception("no root", _adam(divide=lambda m, v: m / (v + EPS)),
                      "you divided by the mean square. Take its root."),
        Misconception("no second moment", _adam(divide=lambda m, v: m),
                      "you did not divide by the root of v: that is momentum, not Adam."),
        Misconception("no first moment", _adam(betas=(0.0, BETAS[1])),
                      "you used this step's gradient and not its running mean m."),
        Misconception("betas exchanged", _adam(betas=(BETAS[1], BETAS[0])),
                      "you exchanged the two betas. 0.9 is for the mean, 0.95 for the mean "
                      "square."),
        Misconception("sizes for squares", _adam(second=torch.abs,
                                                 divide=lambda m, v: m / (v + EPS)),
                      "you averaged the sizes of the gradients. Average their squares, and take "
                      "the root."),
        Misconception("no decay", _adam(shrink=_no_shrink),
                      "you left the weight decay out."),
        Misconception("decay without the learning rate",
                      _adam(shrink=lambda w, lr, decay: w * (1 - decay)),
                      "you shrank by the decay alone. It is multiplied by the learning rate."),
        Misconception("decay after the step",
                      _adam(shrink=_no_shrink, after=lambda w, lr, decay: w * (1 - lr * decay)),
                      "you shrank the weight after the step. Shrink first, then step."),
        Misconception("uphill", _adam(sign=-1.0),
                      "you went uphill. The step is against the gradient."),
    ),
    hints=(
        "Four lines a step: shrink the weight, two running means, one update.",
        "m = 0.9 m + 0.1 g and v = 0.95 v + 0.05 g*g, both from zero; divide each by 1 - beta**n.",
        "weight = weight * (1 - lr * weight_decay) - lr * m_hat / (v_hat.sqrt() + 1e-5)",
    ))

# -- 8.4: clipping ------------------------------------------------------------------------------


def _package_clip(gradients: list[Tensor], max_norm: float) -> list[Tensor]:
    model = nn.ParameterList(torch.zeros_like(gradient) for gradient in gradients)
    for parameter, gradient in zip(model, gradients, strict=True):
        parameter.grad = gradient.clone()
    mean_and_clip(model, 1, max_norm)
    return [parameter.grad for parameter in model]


def _clip_inputs(rng: Generator, *sizes: float) -> Inputs:
    shapes = ((3, 2), (4,), (2, 2))
    gradients = [normal(rng, *shape, mean=1.0) for shape in shapes]
    return {"gradients": [size * g / g.norm() for size, g in zip(sizes, gradients, strict=True)],
            "max_norm": between(rng, 0.9, 1.2)}


def _clip(norm: Callable[[list[Tensor]], Tensor], *, always: bool = False) -> Callable:
    """Clipping with another idea of how long all gradients together are."""

    def answer(gradients: list[Tensor], max_norm: float) -> list[Tensor]:
        scale = max_norm / norm(gradients)
        return [g * (scale if always else min(1.0, scale)) for g in gradients]

    return answer


def _length_slip(name: str, norm: Callable[[list[Tensor]], Tensor], why: str) -> Misconception:
    """Another length, as a tensor or as a Python number: the latter raises where it is zero."""
    return Misconception(name, _clip(norm), why, also=(_clip(lambda gs: float(norm(gs))),))


def _together(gradients: list[Tensor]) -> Tensor:
    return torch.cat([g.flatten() for g in gradients]).norm()


CLIP = Exercise(
    "8.4", "Clip the gradient", "Build it", _package_clip,
    probes=(
        Probe("too long", lambda rng: _clip_inputs(rng, 3.0, 4.0, 0.5)),
        Probe("short enough", lambda rng: _clip_inputs(rng, 0.3, 0.4, 0.1)),
        Probe("long only together", lambda rng: _clip_inputs(rng, 0.8, 0.8, 0.8)),
        Probe("short, but not if added", lambda rng: _clip_inputs(rng, 0.5, 0.5, 0.3)),
        Probe("all zero", lambda rng: _clip_inputs(rng, 0.0, 0.0, 0.0)),
    ),
    misconceptions=(
        Misconception("each on its own",
                      lambda gradients, max_norm:
                      [g * min(1.0, max_norm / g.norm()) for g in gradients],
                      "you clipped each tensor on its own, which bends the direction of the step. "
                      "Measure all gradients together and scale them by one number.",
                      also=(lambda gradients, max_norm:
                            [g * min(1.0, max_norm / g.norm().item()) for g in gradients],)),
        Misconception("always", _clip(_together, always=True),
                      "you scaled every gradient to max_norm, short ones too. Clipping only ever "
                      "shortens.",
                      also=(_clip(lambda gs: _together(gs) or float("inf"), always=True),
                            _clip(lambda gs: _together(gs).item(), always=True))),
        Misconception("numbers clamped",
                      lambda gradients, max_norm: [g.clamp(-max_norm, max_norm) for g in gradients],
                      "you clamped single numbers, which bends the direction of the step. Scale "
                      "all of them by one number."),
        _length_slip("norms added", lambda gs: sum(g.norm() for g in gs),
                     "you added the tensors' norms. Lengths add in squares: the root of the sum "
                     "of all squares."),
        _length_slip("no root", lambda gs: _together(gs) ** 2,
                     "you compared the squared length with max_norm. Take the root."),
        _length_slip("sizes added", lambda gs: sum(g.abs().sum() for g in gs),
                     "you added sizes where the length needs squares and a root."),
        _length_slip("the longest", lambda gs: max(g.norm() for g in gs),
                     "you took the longest tensor for the whole. All of them count together."),
        _length_slip("root mean square",
                     lambda gs: torch.cat([g.flatten() for g in gs]).pow(2).mean().sqrt(),
                     "you took the root of the mean square. The length has a sum under the root."),
        Misconception("divided by zero", _clip(lambda gs: _together(gs).item()),
                      "all gradients were zero and you divided by their length. Leave them as they "
                      "are.", also=(lambda gradients, max_norm:
                                    [g / _together(gradients) * min(_together(gradients), max_norm)
                                     for g in gradients],)),
        Misconception("nothing done", lambda gradients, max_norm: list(gradients),
                      "you returned the gradients as they were."),
    ),
    hints=(
        "One number for the whole model: how long is the gradient if all tensors are one vector?",
        "The root of the sum of all squares; then scale = max_norm / norm.",
        "Never lengthen: min(1.0, max_norm / norm) if norm is above 0, the same for every tensor.",
    ))

# -- 8.5: accumulation --------------------------------------------------------------------------


def _package_accumulate(sums: Tensor, counts: list[int]) -> Tensor:
    """The package's own adding up, on a model whose gradients are these."""
    model = nn.ParameterList([torch.zeros_like(sums[0])])

    def objective(model: nn.Module, batch: Batch) -> Loss:
        return Loss((model[0] * batch["gradient"]).sum(), int(batch["count"]))

    batches = ({"gradient": gradient, "count": torch.tensor(n)}
               for gradient, n in zip(sums, counts, strict=True))
    loss = add_up(model, batches, objective, accumulate=len(counts), where="an exercise")
    mean_and_clip(model, loss.count, float("inf"))
    return model[0].grad


ACCUMULATE = Exercise(
    "8.5", "One update from several batches", "Prove it", _package_accumulate,
    probes=(
        Probe("two batches", lambda rng: {"sums": normal(rng, 2, 3, mean=9.0), "counts": [2, 7]}),
        Probe("one batch", lambda rng: {"sums": normal(rng, 1, 2, mean=9.0), "counts": [5]}),
        Probe("four batches",
              lambda rng: {"sums": normal(rng, 4, 3, mean=9.0), "counts": [8, 3, 3, 1]}),
        Probe("one of them empty",
              lambda rng: {"sums": normal(rng, 3, 2) * torch.tensor([[1.0], [0.0], [1.0]]),
                           "counts": [4, 0, 2]}),
    ),
    misconceptions=(
        Misconception("mean of means",
                      lambda sums, counts: (sums / torch.tensor(counts)[:, None]).mean(0),
                      "you averaged the batches' means, so a token in a small batch weighs more. "
                      "Add sums, add counts, divide once.",
                      also=(lambda sums, counts: (sums / torch.tensor(counts)[:, None]
                                                  .clamp(min=1)).mean(0),)),
        Misconception("sum of means",
                      lambda sums, counts: (sums / torch.tensor(counts)[:, None]).sum(0),
                      "you added the batches' means: the gradient grows with their number.",
                      also=(lambda sums, counts: (sums / torch.tensor(counts)[:, None]
                                                  .clamp(min=1)).sum(0),)),
        Misconception("never divided", lambda sums, counts: sums.sum(0),
                      "you added the sums and did not divide by how many were summed."),
        Misconception("divided by the batches", lambda sums, counts: sums.mean(0),
                      "you divided by the number of batches. Divide by the number of tokens in "
                      "them."),
        Misconception("the last count", lambda sums, counts: sums.sum(0) / counts[-1],
                      "you divided by the last batch's count. Add the counts up, too."),
        Misconception("divided twice",
                      lambda sums, counts: sums.sum(0) / sum(counts) / len(counts),
                      "you divided by the count, and by the number of batches once more."),
        Misconception("only the last batch", lambda sums, counts: sums[-1] / counts[-1],
                      "you kept the last batch only. Gradients add up until they are set to "
                      "zero."),
    ),
    hints=(
        "What would one large batch with all these tokens give?",
        "Its gradient is the sum of the sums, divided by all its tokens.",
        "sums.sum(0) / sum(counts)",
    ))

EXERCISES = [ADAMW, CLIP, ACCUMULATE]
