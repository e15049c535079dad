"""The exercise of chapter 08 on the loss in chunks, 8.8."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..losses import Batch, next_token
from ..training_loop import add_up, mean_and_clip
from .data import Exercise, Inputs, Misconception, Probe, count, normal

NOT_LEARNT = -100


class _Head(nn.Module):
    """A model that is only its last matrix: rows of features in, logits out."""

    def __init__(self, x: Tensor, output: Tensor):
        super().__init__()
        self.x, self.output = nn.Parameter(x.clone()), nn.Parameter(output.clone())
        self.now = slice(0, 0)

    def forward(self, tokens: Tensor, **_: Any) -> Tensor:
        return (self.x[self.now] @ self.output.T)[None]


def _package_chunks(x: Tensor, output: Tensor, targets: Tensor, size: int
                    ) -> tuple[Tensor, Tensor, Tensor]:
    """The package's loss and its adding up, one chunk a batch."""
    model = _Head(x, output)

    def batches() -> Iterator[Batch]:
        for at in range(0, len(x), size):
            model.now = slice(at, at + size)
            row = torch.cat([targets.new_zeros(1), targets[at:at + size]])[None]
            yield {"tokens": row.clamp(min=0), "learn": row != NOT_LEARNT}

    n_chunks = -(-len(x) // size)
    loss = add_up(model, batches(), next_token, accumulate=n_chunks, where="an exercise")
    mean_and_clip(model, loss.count, float("inf"))
    return loss.total / loss.count, model.x.grad, model.output.grad


class _NoLarger(TorchDispatchMode):
    """Stops whoever makes a tensor of more numbers than this."""

    def __init__(self, most: int):
        super().__init__()
        self.most = most

    def __torch_dispatch__(self, function: Callable, types: Any, args: tuple = (),
                           kwargs: dict | None = None) -> Any:
        made = function(*args, **(kwargs or {}))
        if any(isinstance(each, Tensor) and each.numel() > self.most for each in tree_leaves(made)):
            raise MemoryError("that tensor holds more than `size` rows of logits.")
        return made


def _sparingly(answer: Callable, x: Tensor, output: Tensor, targets: Tensor, size: int) -> Any:
    with _NoLarger(max(size * len(output), x.numel(), output.numel())):
        return answer(x, output, targets, size)


def _chunk_inputs(rng: Generator, size: int, *, t: int = 13, holes: tuple[int, ...] = ()) -> Inputs:
    targets = torch.randint(0, 11, (t,), generator=rng)
    targets[list(holes)] = NOT_LEARNT
    return {"x": normal(rng, t, 2), "output": normal(rng, 11, 2), "targets": targets,
            "size": size + count(rng, 0, 1)}


def _chunks(*, hit: float = 1.0, sign: float = 1.0, per: Callable = lambda whole, part: whole,
            add: bool = True, holes: bool = False, axis: int = -1, last: bool = True,
            at_once: bool = False, gradient_per: Callable = lambda n: n,
            unmasked: bool = False) -> Callable:
    """The loss and its gradients by hand, right unless told otherwise."""

    def answer(x: Tensor, output: Tensor, targets: Tensor, size: int
               ) -> tuple[Tensor, Tensor, Tensor]:
        step = len(x) if at_once else size
        loss, dx, dw = x.new_zeros(()), torch.zeros_like(x), torch.zeros_like(output)
        learnt = (targets >= 0) | holes
        stop = len(x) if last else len(x) - len(x) % step
        for at in range(0, stop, step):
            rows, now = slice(at, at + step), learnt[at:at + step, None]
            logits, hits = x[rows] @ output.T, targets[rows].clamp(min=0)[:, None]
            n = per(learnt.sum(), now.sum().clamp(min=1) * -(-len(x) // step))
            surprise = -logits.log_softmax(axis).gather(-1, hits)
            loss = loss + (surprise * now).sum() / n
            d = logits.softmax(axis)
            one = torch.full_like(hits, -hit, dtype=d.dtype)
            d = sign * (now | unmasked) * d.scatter_add(-1, hits, one)
            dx[rows] = d @ output / gradient_per(n)
            dw = d.T @ x[rows] / gradient_per(n) + (dw if add else 0)
        return loss, dx, dw

    return answer


CHUNKS = Exercise(
    "8.8", "The loss and its gradient, in chunks", "Harder: the loss without the logits",
    _package_chunks,
    probes=(
        Probe("several chunks", lambda rng: _chunk_inputs(rng, 3)),
        Probe("tokens that are not learnt", lambda rng: _chunk_inputs(rng, 4, holes=(0, 5, 6, 9))),
        Probe("a chunk with nothing to learn",
              lambda rng: _chunk_inputs(rng, 2, t=11, holes=(2, 3, 4, 5))),
        Probe("chunks that fit exactly", lambda rng: _chunk_inputs(rng, 4, t=20) | {"size": 5}),
        Probe("larger than the text", lambda rng: _chunk_inputs(rng, 9, t=4)),
        Probe("one token a chunk",
              lambda rng: _chunk_inputs(rng, 1, t=7, holes=(3,)) | {"size": 1}),
    ),
    misconceptions=(
        Misconception("all logits at once", _chunks(at_once=True),
                      "right, and with all the logits in memory at once. Make those of one chunk, "
                      "use them, and let them go."),
        Misconception("the target forgotten", _chunks(hit=0.0),
                      "your gradient of the logits is p alone. Subtract 1 at the target: p - 1 "
                      "there, p elsewhere."),
        Misconception("uphill", _chunks(sign=-1.0),
                      "your gradients have the wrong sign: at the logits, p - 1 at the target."),
        Misconception("gradient of the sum", _chunks(gradient_per=lambda n: 1),
                      "your gradients are those of the summed loss. Divide by the learnt tokens, "
                      "as the loss does."),
        Misconception("mean of the chunks' means", _chunks(per=lambda whole, part: part),
                      "you averaged each chunk and then the chunks, so a token in a short chunk "
                      "weighs more. Divide by all learnt tokens."),
        Misconception("divided by all tokens",
                      lambda x, output, targets, size: tuple(
                          each * (targets >= 0).sum() / len(x)
                          for each in _chunks()(x, output, targets, size)),
                      "you divided by all tokens. Only those with a target count."),
        Misconception("gradient of -100", _chunks(unmasked=True),
                      "your loss leaves out the tokens with target -100, your gradient does not. "
                      "Their rows are zero there, too."),
        Misconception("divided by size",
                      lambda x, output, targets, size: tuple(
                          each * (targets >= 0).sum() / size
                          for each in _chunks()(x, output, targets, size)),
                      "you divided by the size of a chunk. Divide by all learnt tokens."),
        Misconception("the last chunk's matrix", _chunks(add=False),
                      "your gradient of `output` is the last chunk's. Every chunk adds to it."),
        Misconception("-100 learnt", _chunks(holes=True),
                      "you learnt tokens whose target is -100. They have none: their rows of the "
                      "gradient are zero."),
        Misconception("softmax over the tokens", _chunks(axis=0),
                      "your softmax runs over the tokens of a chunk. It runs over the pieces."),
        Misconception("a short last chunk dropped", _chunks(last=False),
                      "you left the last, shorter chunk out."),
    ),
    hints=(
        "At the logits, the gradient of one surprise is p, and p - 1 at the target. Where does a "
        "matrix product send it?",
        "For logits = x @ output.T and their gradient d: dx = d @ output, d_output = d.T @ x.",
        "Count the learnt targets first: then each chunk can be divided by that number at once.",
    ), adapt=_sparingly)

EXERCISES = [CHUNKS]
