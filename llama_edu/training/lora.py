"""Low-rank adaptation (Hu et al. 2021): the weights stay as they are, a narrow path beside each is
learnt.

    add_lora(model, "wq wv", rank=8, alpha=16)      freezes the model, and adds nothing at first
    for step in train(model, ...): ...
    save_adapter("adapter", model)                  a folder that `peft` loads, too
    merge(model)                                    ordinary layers again, as quick as before

The layers may be quantised ones of `compress.quant`: that is QLoRA (Dettmers et al. 2023) with
another rounding. An adapter learnt over rounded weights makes up for their rounding, too: it fits
these weights best.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn import init

from ..compress.quant import Int4Linear, Int8Linear, Int8LinearOnCPU
from ..compress.surgery import replace_linears
from ..layers import widen
from ..model import Llama
from . import adapter_files
from .adapter_files import Adapter

QUANTISED = Int8Linear, Int4Linear, Int8LinearOnCPU
GROUPS = {"attention": ("wq", "wk", "wv", "wo"), "feed_forward": ("w1", "w2", "w3")}
GROUPS["all"] = GROUPS["attention"] + GROUPS["feed_forward"]
Factors = Callable[[str, nn.Module], tuple[Tensor, Tensor]]     # A and B for a layer and its name


class LoRALinear(nn.Module):
    """x (W + s B A)^T with W frozen and s = alpha / rank, `... in` to `... out`.

    base: a layer without bias, ordinary or quantised. a: `rank in`; b: `out rank`, both in float32
    or wider: bfloat16 would lose most updates. Dividing by the rank keeps a learning rate good when
    the rank is changed (Hu et al. 2021, eq. 3 and section 4.1).
    """

    def __init__(self, base: nn.Module, a: Tensor, b: Tensor, *, alpha: float):
        super().__init__()
        self.base = base.requires_grad_(False)
        self.alpha, self.scale = alpha, alpha / len(a)
        self.a, self.b = nn.Parameter(widen(a)), nn.Parameter(widen(b))

    def forward(self, x: Tensor) -> Tensor:
        plain = self.base(x) if isinstance(self.base, nn.Linear) else Frozen.apply(x, self.base)
        beside = F.linear(F.linear(x.type_as(self.a), self.a), self.b)
        return plain + (self.scale * beside).type_as(plain)

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """The same map as one ordinary layer; its weights are added in float32 and rounded once."""
        weight = weight_of(self.base)
        whole = adapter_files.add(weight, self.a, self.b, self.scale).type_as(weight)
        with torch.device("meta"):      # no memory for numbers that are replaced at once
            layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        layer.weight = nn.Parameter(whole, requires_grad=False)
        return layer


class Frozen(torch.autograd.Function):
    """What a quantised layer computes, with the gradient of its input: `... in` to `... out`.

    Its weights are dequantised once more on the way back. What `autograd` would keep by itself is
    the dequantised copy, of every layer at once: all the memory that the rounding had saved.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: nn.Module) -> Tensor:
        ctx.layer = layer
        return layer(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient @ ctx.layer.dequantised().type_as(gradient), None


def weight_of(layer: nn.Module) -> Tensor:
    """The weights `out in` that a layer computes with, ordinary or quantised."""
    return layer.weight if isinstance(layer, nn.Linear) else layer.dequantised()


def add_lora(model: Llama, where: str, *, rank: int, alpha: float,
             generator: torch.Generator | None = None) -> list[str]:
    """Freeze a model and give the layers named by `where` a path that can be learnt; their names.

    where: words between spaces: wq, wk, wv, wo, w1, w2, w3, "attention", "feed_forward", "all" (of
    these seven), or a regular expression for whole dotted names, such as `layers\\.[0-3]\\..*`.
    A is drawn as the paper's code draws it, uniformly within 1 / sqrt(in), and B is zero: the model
    computes what it did. generator: on the CPU.

    Raises ValueError where a word names no linear layer, for a rank or an alpha that is not
    positive, for a layer with a bias, and for a model that has an adapter already.
    """
    if type(rank) is not int or rank < 1 or not 0 < alpha < math.inf:
        raise ValueError(f"rank {rank} and alpha {alpha} were given; a whole number from 1 on and "
                         "a positive number are needed. Usual are 8 and 16.")

    def drawn(_: str, base: nn.Module) -> tuple[Tensor, Tensor]:
        out, into = weight_of(base).shape
        a = init.kaiming_uniform_(torch.empty(rank, into), a=math.sqrt(5), generator=generator)
        return a, torch.zeros(out, rank)

    return _put(model, patterns(where), drawn, alpha)


def patterns(where: str) -> list[str]:
    """The regular expressions for dotted names that the words of `where` stand for."""
    return [rf"layers\..*\.({'|'.join(GROUPS.get(word, [word]))})"
            if word in (*GROUPS, *GROUPS["all"]) else word for word in where.split()]


def _put(model: Llama, found_by: list[str], factors: Factors, alpha: float) -> list[str]:
    """Make all layers that the patterns find a `LoRALinear`; none, where one fails."""
    if paths(model):
        raise ValueError("the model has an adapter already; one without is needed. Merge that one "
                         "first.")

    def make(name: str, base: nn.Module) -> LoRALinear:
        if getattr(base, "bias", None) is not None:
            raise ValueError(f"{name} has a bias; Llama's linear layers have none, and none is "
                             "expected here. Leave this layer out.")
        device = weight_of(base).device
        a, b = factors(name, base)
        return LoRALinear(base, a.to(device), b.to(device), alpha=alpha)

    kinds = (nn.Linear, *QUANTISED)
    for pattern in found_by:        # each must find something; nothing is replaced yet
        replace_linears(model, pattern, lambda _, base: base, kinds=kinds)
    names = replace_linears(model, "|".join(found_by), make, kinds=kinds)
    for name, p in model.named_parameters():
        p.requires_grad_(name.rpartition(".")[0] in names)      # A and B, and not what lies in base
    return names


def paths(model: nn.Module) -> dict[str, LoRALinear]:
    """The adapted layers of a model, by their dotted names; empty where it has no adapter."""
    return {name: part for name, part in model.named_modules() if isinstance(part, LoRALinear)}


def merge(model: Llama) -> list[str]:
    """Add every path into its layer, which is an ordinary one from then on; their names.

    A quantised layer is dequantised for it. Raises ValueError for a model without an adapter.
    """
    for name, path in (found := _needed(model)).items():
        model.set_submodule(name, path.merged())
    return list(found)


def _needed(model: Llama) -> dict[str, LoRALinear]:
    if not (found := paths(model)):
        raise ValueError("the model has no adapter; one is needed. Give it one with add_lora or "
                         "load_adapter.")
    return found


# -- on disk -----------------------------------------------------------------------------------


def save_adapter(folder: str | Path, model: Llama) -> None:
    """Write what was learnt as a folder that `load_adapter` and `peft` read.

    Raises ValueError for a model without an adapter, and where the system refuses to write.
    """
    found = _needed(model)
    first = next(iter(found.values()))
    adapter_files.write(Path(folder), model.config, Adapter(len(first.a), first.alpha, {
        name: (path.a.detach(), path.b.detach()) for name, path in found.items()}))


def load_adapter(model: Llama, folder: str | Path) -> list[str]:
    """Put an adapter of this package or of `peft` on a model, to use it or to go on learning; the
    names of the adapted layers. All else of the model is frozen.

    Raises ValueError for files that are broken, do more than LoRA or belong to another model, and
    for a model that has an adapter already.
    """
    adapter = adapter_files.read(Path(folder), model.config)
    exact = [name.replace(".", r"\.") for name in adapter.factors]
    return _put(model, exact, lambda name, _: adapter.factors[name], adapter.alpha)
