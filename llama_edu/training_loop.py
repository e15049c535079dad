"""One training loop. What is learnt differs only in the objective and in the batches."""

import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from .losses import Batch, Loss, Objective, next_token

# How Llama 2 was trained (Touvron et al. 2023b, section 2.2).
BETAS, EPS = (0.9, 0.95), 1e-5
WEIGHT_DECAY = 0.1
LAST_SHARE = 0.1                # of the peak learning rate, at the end
MAX_GRAD_NORM = 1.0


@dataclass(frozen=True)
class Step:
    """What happened in one optimiser step. The reader of the loop decides what to do with it."""

    index: int
    loss: float                 # mean over all that was learnt in this step
    lr: float
    grad_norm: float            # before clipping
    count: int                  # things learnt: for `next_token`, tokens
    seconds: float
    notes: dict[str, float] = field(default_factory=dict)       # means, too


def cosine(peak: float, *, warmup: int, steps: int, last: float = LAST_SHARE
           ) -> Callable[[int], float]:
    """Llama's schedule: rise linearly for `warmup` steps to the peak, fall along half a cosine.

    The last step, number steps - 1, has `last` of the peak, and so have all after it. Raises
    ValueError for a warm-up that leaves no step to fall.
    """
    if not 0 <= warmup < steps:
        raise ValueError(f"a warm-up of {warmup} steps in {steps} was asked for; 0 or more, and "
                         "fewer than all, are needed. Make it shorter, or train longer.")

    def lr(index: int) -> float:
        if index < warmup:
            return peak * (index + 1) / warmup
        done = min(1.0, (index + 1 - warmup) / (steps - warmup))
        return peak * (last + (1 - last) * (1 + math.cos(math.pi * done)) / 2)

    return lr


def adamw(model: nn.Module, *, weight_decay: float = WEIGHT_DECAY) -> torch.optim.AdamW:
    """AdamW with Llama 2's constants. Matrices decay; the weights of norms do not.

    The learning rate is 0 until `train` sets it. Loshchilov & Hutter 2019, algorithm 2.
    """
    learnt = [p for p in model.parameters() if p.requires_grad]
    matrices, vectors = ([p for p in learnt if (p.ndim >= 2) is big] for big in (True, False))
    return torch.optim.AdamW([{"params": matrices, "weight_decay": weight_decay},
                              {"params": vectors, "weight_decay": 0.0}],
                             lr=0.0, betas=BETAS, eps=EPS, fused=True)


@torch.no_grad()
def initialise(model: nn.Module, *, std: float, generator: torch.Generator) -> nn.Module:
    """Draw every matrix from a normal distribution, and set every norm's weight to 1.

    The matrices that write into the residual stream (wo, w2) are drawn smaller, by the root of
    how many they are: their sum then begins at one size, however deep the model
    (Radford et al. 2019, section 2.3). Llama's papers do not say how their weights began.

    generator: on the CPU; the same weights come out on every device, and however they are sharded
    (each process draws all of a matrix and keeps its part).
    """
    parameters = dict(model.named_parameters())
    writers = [name for name in parameters if name.endswith(("wo.weight", "w2.weight"))]
    for name, p in parameters.items():
        if p.ndim < 2:
            p.fill_(1.0)
        else:
            scale = std / math.sqrt(len(writers)) if name in writers else std
            p.copy_(_laid_out(scale * torch.randn(p.shape, generator=generator), like=p))
    return model


def _laid_out(whole: Tensor, *, like: Tensor) -> Tensor:
    """The same numbers on the device of another tensor, cut as that one is."""
    whole = whole.to(like.device)
    if not is_sharded(like):
        return whole
    from torch.distributed.tensor import distribute_tensor
    return distribute_tensor(whole, like.device_mesh, like.placements, src_data_rank=None)


def is_sharded(tensor: Tensor) -> bool:
    """Whether it is a DTensor, of which this process has a part. Who has one has loaded its
    module, which takes a second: others need not."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def train(model: nn.Module, batches: Iterable[Batch], objective: Objective = next_token, *,
          lr: Callable[[int], float], steps: int, start: int = 0, accumulate: int = 1,
          max_grad_norm: float = MAX_GRAD_NORM, optimizer: torch.optim.Optimizer | None = None
          ) -> Iterator[Step]:
    """Yield one Step per update. Stop reading to stop training; do anything in between.

        for step in train(model, batches, lr=cosine(3e-4, warmup=20, steps=1000), steps=1000):
            losses.append(step.loss)

    accumulate: batches whose gradients are added up for one update. start: steps already done.
    Where the model is wrapped so that several processes share its gradients (DDP, FSDP), each has
    batches of its own, and the mean is over what all of them learn.
    Raises ValueError when the batches end early or hold nothing to learn, FloatingPointError when
    a gradient is not finite; the weights and the optimiser are then as they were before the step.
    """
    optimizer = optimizer or adamw(model)
    source = iter(batches)
    for index in range(start, steps):
        began, where = time.perf_counter(), f"step {index} of {steps}"
        model.train()
        optimizer.zero_grad(set_to_none=True)
        loss = add_up(model, source, objective, accumulate=accumulate, where=where)
        loss, ranks = over_ranks(model, loss, where=where)
        norm = mean_and_clip(model, loss.count / ranks, max_grad_norm, where=where)
        for group in optimizer.param_groups:
            group["lr"] = lr(index)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        yield Step(index, loss.total.item() / loss.count, lr(index), norm, loss.count,
                   time.perf_counter() - began,
                   {name: total / loss.count for name, total in loss.notes.items()})


def add_up(model: nn.Module, source: Iterator[Batch], objective: Objective, *, accumulate: int,
           where: str) -> Loss:
    """The sums of several batches; their gradients lie added up in the model.

    Raises ValueError when there are fewer batches. where: what an error calls this step.
    """
    whole = Loss(torch.zeros(()), 0)
    for _ in range(accumulate):
        if (batch := next(source, None)) is None:
            raise ValueError(f"the batches ended at {where}; {accumulate} for every step are "
                             "needed. Give more, or an endless iterator.")
        part = objective(model, on_device(batch, model))
        part.total.backward()
        whole.total = whole.total + part.total.detach().cpu()
        whole.count += part.count
        for name, total in part.notes.items():
            whole.notes[name] = whole.notes.get(name, 0.0) + total
    return whole


def on_device(batch: Batch, model: nn.Module) -> Batch:
    """The same batch where the model is."""
    device = next(model.parameters()).device
    return {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}


def over_ranks(model: nn.Module, loss: Loss, *, where: str) -> tuple[Loss, int]:
    """The sums over all processes that share the gradients of this model, and how many these are.

    PyTorch averages gradients over processes, whatever each has learnt. So a sum of gradients is
    to be divided by the mean count, `loss.count / ranks`, and by the same one everywhere.
    Raises ValueError where nothing was learnt by any.
    """
    shared = isinstance(model, DistributedDataParallel) or any(map(is_sharded, model.parameters()))
    ranks = distributed.get_world_size() if shared else 1
    if ranks > 1:
        sums = torch.tensor([loss.total.double(), loss.count, *loss.notes.values()],
                            dtype=torch.float64, device=next(model.parameters()).device)
        distributed.all_reduce(sums)
        total, count, *notes = sums.tolist()
        loss = Loss(torch.tensor(total), round(count),
                    dict(zip(loss.notes, notes, strict=True)))
    if loss.count == 0:
        raise ValueError(f"at {where} the batch held nothing to learn; one token with another "
                         "before it is needed. Look at its `learn`.")
    return loss, ranks


def mean_and_clip(model: nn.Module, count: float, max_norm: float, *, where: str = "this step"
                  ) -> float:
    """Turn sums of gradients into means no longer than `max_norm`; their length before that.

    Raises FloatingPointError where it is not finite; the gradients are then gone.
    """
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    norm = gathered(nn.utils.get_total_norm(gradients.values())).item() / count
    if not math.isfinite(norm):
        wrong = [name for name, g in gradients.items() if not gathered(g).isfinite().all()]
        model.zero_grad(set_to_none=True)
        raise FloatingPointError(
            f"at {where} the gradient is {norm}, first in {wrong[0] if wrong else 'the sum'}; a "
            "finite one is needed. Nothing was updated: lower the learning rate, or look at this "
            "batch.")
    scale = min(1.0, max_norm / norm) if norm else 1.0
    for gradient in gradients.values():
        gradient.mul_(scale / count)
    return norm


def gathered(tensor: Tensor) -> Tensor:
    """All of a tensor, of which this process may have a part."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor


@torch.no_grad()
def evaluate(model: nn.Module, batches: Iterable[Batch], objective: Objective = next_token
             ) -> float:
    """The mean loss over all batches, which must end. The model stays as it is.

    Raises ValueError where they hold nothing to learn.
    """
    was_training = model.training
    model.eval()
    losses = [objective(model, on_device(batch, model)) for batch in batches]
    model.train(was_training)
    if not (count := sum(loss.count for loss in losses)):
        raise ValueError(f"{len(losses)} batches held nothing to learn; one token with another "
                         "before it is needed. Give some text to evaluate on.")
    return sum(loss.total.item() for loss in losses) / count
