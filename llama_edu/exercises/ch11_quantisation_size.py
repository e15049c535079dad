"""The exercise of chapter 11 on files, 11.3: how many bytes do the tensors of a Q4_0 file have?"""

from collections.abc import Callable
from math import ceil, prod

from torch import Generator

from ..config import ModelConfig, tensor_shapes
from ..formats.gguf.file_types import data_bytes
from .data import Exercise, Inputs, Misconception, Probe, count


def _package_size(config: ModelConfig) -> int:
    return data_bytes(config, "Q4_0")


def _model(rng: Generator, *, dim: int, heads: int, kv: int, hidden: int, tied: bool,
           vocab: int) -> Inputs:
    """Another number of layers and of tokens with each seed."""
    return {"config": ModelConfig(
        dim=dim, n_layers=count(rng, 3, 40), n_heads=heads, n_kv_heads=kv, hidden_dim=hidden,
        vocab_size=vocab + count(rng, 1, 60), norm_eps=1e-5, rope_theta=1e4, max_seq_len=512,
        tied_embeddings=tied)}


def _probe(name: str, **shape: object) -> Probe:
    return Probe(name, lambda rng: _model(rng, **shape))


def _count(*, norm: int = 4, least: tuple[int, int] = (18, 32), padded: bool = True,
           whole: bool = False, fallback: bool = True, output: bool = True, both: bool = False,
           twice: bool = False, keep: Callable[[str], bool] = lambda name: True,
           shape: Callable[[str, tuple[int, ...], ModelConfig], tuple[int, ...]] =
           lambda name, shape, c: shape, unit: int = 1) -> Callable:
    """A way to count, right unless told otherwise."""

    def size(name: str, shape: tuple[int, ...], tied: bool) -> int:
        if len(shape) == 1:
            return norm * shape[0]
        last = name == ("tok_embeddings.weight" if tied else "output.weight")
        if both and name in ("tok_embeddings.weight", "output.weight"):
            last = True
        if output and last:
            wide = shape[1] % 256 and fallback
            return prod(shape) * 34 // 32 if wide else prod(shape) * 210 // 256
        return prod(shape) * least[0] // least[1]

    def answer(config: ModelConfig) -> int:
        total = 0
        for name, given in tensor_shapes(config):
            if not keep(name) or (name == "output.weight" and config.tied_embeddings and not twice):
                continue
            n = size(name, shape(name, given, config), config.tied_embeddings)
            total += ceil(n / 32) * 32 if padded else n
        return (ceil(total / 32) * 32 if whole else total) // unit

    return answer


def _as_queries(name: str, shape: tuple[int, ...], c: ModelConfig) -> tuple[int, ...]:
    return (c.dim, c.dim) if ".wk." in name or ".wv." in name else shape


SIZE = Exercise(
    "11.3", "A file's size to the byte", "Your turn: a file's size to the byte", _package_size,
    probes=(
        _probe("a model with its own output", dim=256, heads=8, kv=2, hidden=704, tied=False,
               vocab=900),
        _probe("one table", dim=256, heads=8, kv=8, hidden=704, tied=True, vocab=900),
        _probe("rows of 576", dim=576, heads=9, kv=3, hidden=1536, tied=True, vocab=1000),
        _probe("norms that do not fill 32 bytes", dim=96, heads=6, kv=2, hidden=224, tied=False,
               vocab=77),
        _probe("rows of 320", dim=320, heads=5, kv=5, hidden=864, tied=False, vocab=333),
    ),
    misconceptions=(
        Misconception("norms left out", _count(keep=lambda name: "norm" not in name),
                      "the norms are missing. They stay in float32, four bytes a number."),
        Misconception("norms in two bytes", _count(norm=2),
                      "you gave the norms two bytes a number. They stay in float32."),
        Misconception("the scales forgotten", _count(least=(16, 32)),
                      "you counted four bits a weight. 32 of them share a scale of two bytes: "
                      "18 bytes a block."),
        Misconception("scales in float32", _count(least=(20, 32)),
                      "you counted 20 bytes a block: a scale of four bytes, or one with an offset. "
                      "Q4_0 has one float16."),
        Misconception("the output, too", _count(output=False),
                      "you gave the output 4.5 bits. It is a Q6_K: 210 bytes for 256 weights."),
        Misconception("both tables in Q6_K", _count(both=True),
                      "you gave six bits to the embedding as well. Where there is an output of its "
                      "own, only that is a Q6_K."),
        Misconception("the table twice", _count(twice=True),
                      "you counted a shared table twice. The file has it once, as the output that "
                      "it also is."),
        Misconception("blocks of 256 that do not fit", _count(fallback=False),
                      "you cut rows into blocks of 256 that 256 does not divide. Such a matrix is "
                      "a Q8_0: 34 bytes for 32."),
        Misconception("no padding", _count(padded=False),
                      "every tensor begins at a multiple of 32 bytes. Fill each one up.",
                      also=(_count(padded=False, whole=True),)),
        Misconception("keys like queries", _count(shape=_as_queries),
                      "your wk and wv are as large as wq. They have n_kv_heads heads."),
        Misconception("the last norm forgotten", _count(keep=lambda name: name != "norm.weight"),
                      "one norm is missing: the one before the output."),
        Misconception("two matrices a feed-forward", _count(keep=lambda name: ".w3." not in name),
                      "your feed-forward layer has two matrices. It has three."),
        Misconception("in KiB", _count(unit=1024), "that is in KiB. Bytes are asked for."),
    ),
    hints=(
        "tensor_shapes(config) gives (name, shape) of every tensor, and output.weight too where "
        "the table is shared: skip it then.",
        "One axis: 4 bytes a number. The output, or a shared table: 210 bytes a 256, or 34 a 32 "
        "where 256 does not divide a row. All else: 18 a 32.",
        "Then -(-n // 32) * 32 for each tensor, and the sum.",
    ))

EXERCISES = [SIZE]
