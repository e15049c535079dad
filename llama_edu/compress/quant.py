"""Weights in 8 or 4 bits: a new token has so much less to read, and that is most of its time.

Each is one call on a finished model, and can be limited to some layers:

    replace_linears(model, ".*", int8)                  1 byte a weight, one scale a row
    replace_linears(model, r"layers\\..*", int4(64))     half a byte, two numbers a group of 64
    replace_linears(model, ".*", int8_on_cpu)           int8 in the layout of the CPU's own units

The embedding is looked up, not multiplied: it stays as it is. An output that shares its table with
the embedding gets a rounded copy of its own. Nothing here is for training.
"""

import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Make = Callable[[str, nn.Linear], nn.Module]
# Processors without VNNI add two products in 16 bits, where inputs of 8 bits would overflow.
SEVEN_BITS = not torch.cpu._is_vnni_supported()


class Int8Linear(nn.Module):
    """x W^T with every row of W as whole numbers from -127 to 127 and one scale.

    A weight is off by half a scale at most. `torch.compile` turns the product for one token into
    one kernel that reads the bytes and widens them on the way.
    """

    def __init__(self, weight: Tensor):
        super().__init__()
        whole, scale = in_8_bits(weight)
        self.register_buffer("scale", scale[:, 0])
        self.register_buffer("weight", whole)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.type_as(x)) * self.scale

    def dequantised(self) -> Tensor:
        """The weights `out in` that it computes with."""
        return self.weight * self.scale[:, None]


class Int4Linear(nn.Module):
    """x W^T with W in groups of neighbours of a row: 16 levels from each group's least weight up.

    A weight is off by half a step at most. A byte holds two weights: the low half of it one from
    the first half of the row, the high half the one that lies half a row further.
    """

    def __init__(self, weight: Tensor, *, group: int):
        super().__init__()
        groups = weight.float().unflatten(1, (-1, group))
        low, high = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
        step = least((high - low) / 15, weight.dtype)
        levels = ((groups - low) / step).round().clamp(0, 15).to(torch.uint8).flatten(1)
        first, second = levels.chunk(2, dim=1)
        self.register_buffer("packed", first | second << 4)
        self.register_buffer("step", step[..., 0])
        self.register_buffer("low", low[..., 0].type_as(step))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.dequantised())

    def dequantised(self) -> Tensor:
        """The weights `out in` that it computes with."""
        levels = torch.cat([self.packed & 15, self.packed >> 4], dim=1)
        groups = levels.unflatten(1, (self.step.shape[1], -1)).type_as(self.step)
        return (groups * self.step[..., None] + self.low[..., None]).flatten(1)


class Int8LinearOnCPU(nn.Module):
    """`Int8Linear` in PyTorch's layout for the integer units of a CPU, quickest there.

    Those multiply whole numbers only: inputs, too, are rounded to 8 bits, row by row.
    """

    def __init__(self, weight: Tensor):
        super().__init__()
        rounded = Int8Linear(weight.float())
        with warnings.catch_warnings():     # PyTorch means to replace this kind of tensor one day
            warnings.simplefilter("ignore", UserWarning)
            whole = torch._make_per_channel_quantized_tensor(
                rounded.weight, rounded.scale.double(), torch.zeros(len(weight)).long(), 0)
        self.packed = torch.ops.quantized.linear_prepack(whole, None)

    def forward(self, x: Tensor) -> Tensor:
        wide, product = x.float(), torch.ops.quantized.linear_dynamic
        if x.numel() > x.shape[-1]:     # several rows: each brought to the same size first
            size = least(wide.abs().amax(-1, keepdim=True), wide.dtype)
            return (product(wide / size, self.packed, SEVEN_BITS) * size).type_as(x)
        return product(wide, self.packed, SEVEN_BITS).type_as(x)

    def dequantised(self) -> Tensor:
        """The weights `out in` that it computes with."""
        return torch.ops.quantized.linear_unpack(self.packed)[0].dequantize()


def int8(name: str, layer: nn.Linear) -> Int8Linear:
    """A layer's weights in 8 bits, with one scale per output feature. Raises as `plain` does."""
    return Int8Linear(plain(name, layer))


def int4(group: int) -> Make:
    """What makes an `Int4Linear`; a smaller group is nearer to the weights and takes more room.

    Given a layer, it raises ValueError where the group does not divide its rows, where these have
    an odd length, and as `plain` does.
    """

    def make(name: str, layer: nn.Linear) -> Int4Linear:
        if group < 1 or layer.in_features % group:
            raise ValueError(f"int4({group}) was asked for; {name} has rows of "
                             f"{layer.in_features} weights, and a group must divide them. Choose "
                             "another group, or leave this layer out of the pattern.")
        if layer.in_features % 2:
            raise ValueError(f"{name} has rows of {layer.in_features} weights; two share a byte, "
                             "so their number must be even. Leave this layer out of the pattern.")
        return Int4Linear(plain(name, layer), group=group)

    return make


def int8_on_cpu(name: str, layer: nn.Linear) -> Int8LinearOnCPU:
    """A layer's weights in 8 bits and, as they pass, its inputs.

    Raises ValueError for a layer that is not on the CPU, and as `plain` does.
    """
    if layer.weight.device.type != "cpu":
        raise ValueError(f"{name} is on {layer.weight.device}; int8_on_cpu needs it on the CPU. "
                         "Use int8 there, or move the model first.")
    return Int8LinearOnCPU(plain(name, layer))


def plain(name: str, layer: nn.Linear) -> Tensor:
    """The weights `out in` of a layer that can be rounded.

    Raises ValueError for a layer with a bias, and for weights that are NaN or infinite.
    """
    if layer.bias is not None:
        raise ValueError(f"{name} has a bias; Llama's linear layers have none, and none is "
                         "expected here. Leave this layer out of the pattern.")
    if not layer.weight.isfinite().all():
        raise ValueError(f"{name} has weights that are NaN or infinite; finite ones are needed. "
                         "The file may be damaged; load it again.")
    return layer.weight.detach()


def in_8_bits(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rows `... n` as whole numbers from -127 to 127, int8, and the scale of each, `... 1`, in the
    rows' dtype. A number is off by half a scale at most."""
    wide = x.float()        # a quotient in 16 bits would itself be rounded
    scale = least(wide.abs().amax(-1, keepdim=True) / 127, x.dtype)
    return (wide / scale).round().clamp(-127, 127).to(torch.int8), scale


def least(scale: Tensor, dtype: torch.dtype) -> Tensor:
    """A scale of that dtype by which one can divide: that of nothing but zeros is not zero."""
    return scale.clamp(min=torch.finfo(dtype).tiny).to(dtype)
