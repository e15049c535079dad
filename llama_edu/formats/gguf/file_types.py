"""Which kind of block each tensor gets, by what a whole file is called: Q4_K_M is a mixture.

The mixtures are those of llama.cpp's llama-quantize, without an importance matrix.
"""

import math
from typing import NamedTuple

from ...config import ModelConfig, tensor_shapes
from .blocks import KINDS


class FileType(NamedTuple):
    """A name that people give to files."""

    number: int                 # general.file_type
    kind: str                   # of most matrices
    mixed: bool = False         # those that err most get the kind Q6_K


FILE_TYPES = {
    "F32": FileType(0, "F32"), "F16": FileType(1, "F16"), "BF16": FileType(32, "BF16"),
    "Q8_0": FileType(7, "Q8_0"), "Q6_K": FileType(18, "Q6_K"),
    "Q5_K_M": FileType(17, "Q5_K", mixed=True), "Q5_1": FileType(9, "Q5_1"),
    "Q5_0": FileType(8, "Q5_0"), "Q4_K_M": FileType(15, "Q4_K", mixed=True),
    "Q4_1": FileType(3, "Q4_1"), "Q4_0": FileType(2, "Q4_0")}
NEXT = {"Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}     # where 256 does not divide a row
ALIGNMENT = 32                  # bytes; every tensor begins at a multiple of it


def kinds_of(config: ModelConfig, file_type: str) -> dict[str, str]:
    """The kind of every tensor of a file, by Meta's name. A norm is F32 always; a matrix whose
    rows are not whole blocks gets one of shorter blocks, in the end F16."""
    kinds = {}
    for name, shape in tensor_shapes(config):
        kind = "F32" if len(shape) == 1 else _wished(name, config, FILE_TYPES[file_type])
        while shape[-1] % KINDS[kind].block:
            kind = NEXT.get(kind, "F16")
        kinds[name] = kind
    if config.tied_embeddings:
        del kinds["output.weight"]      # a file has the table once
    return kinds


def _wished(name: str, config: ModelConfig, file_type: FileType) -> str:
    """The kind that a tensor would get if its rows had any length.

    Errors of the output go straight into the logits. Those of wv and w2 go into the residual stream
    of all layers; the first and the last eighth of the layers and every third between count most.
    """
    if file_type.kind in ("F32", "F16", "BF16", "Q8_0"):        # good enough for all
        return file_type.kind
    if name == ("tok_embeddings.weight" if config.tied_embeddings else "output.weight"):
        return "Q6_K"
    if file_type.mixed and name.endswith(("attention.wv.weight", "feed_forward.w2.weight")):
        if _more_bits(int(name.split(".")[1]), config.n_layers):
            return "Q6_K"
        # Llama 70B: eight query heads share a row of wv, so it is small and matters.
        if "wv" in name and config.n_layers == 80 and config.n_kv_heads < config.n_heads:
            return "Q5_K"
    return file_type.kind


def _more_bits(i: int, n: int) -> bool:
    return i < n // 8 or i >= 7 * n // 8 or (i - n // 8) % 3 == 2


def data_bytes(config: ModelConfig, file_type: str) -> int:
    """The bytes of all tensors of a file, where each is filled up to the next multiple of 32.

    What lies before them, the fields with the vocabulary, is a matter of megabytes.
    """
    shapes = dict(tensor_shapes(config))
    sizes = [KINDS[kind].size(shapes[name]) for name, kind in kinds_of(config, file_type).items()]
    if config.rope_scaling is not None:
        sizes.append(KINDS["F32"].size((config.head_dim // 2,)))
    return sum(math.ceil(size / ALIGNMENT) * ALIGNMENT for size in sizes)
