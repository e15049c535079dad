"""The exercise of chapter 09 on blocks: four bits and two float16 become 32 weights."""

import struct
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Generator, Tensor

from ..formats.gguf import blocks
from .data import Exercise, Inputs, Misconception, Probe

# -- 9.7: blocks of four bits --------------------------------------------------------------------

BLOCK = 20                  # bytes


def _package_weights(stored: bytes) -> Tensor:
    w = torch.empty(len(stored) // BLOCK * 32)
    blocks.decode(np.frombuffer(stored, np.uint8).copy(), "Q4_1", w)
    return w


def _halves(stored: bytes) -> list[int]:
    return [byte & 15 for byte in stored] + [byte >> 4 for byte in stored]


def _weights(stored: bytes, *, form: str = "<ee",
             q: Callable[[bytes], list[int]] = _halves,
             weight: Callable[[float, float, int], float] = lambda s, m, q: s * q + m,
             head: Callable[[int], int] = lambda at: at) -> Tensor:
    """A way to read blocks, right unless told otherwise."""
    made = []
    for at in range(0, len(stored), BLOCK):
        numbers = stored[at:at + BLOCK]
        start = head(at)
        s, m = struct.unpack(form, stored[start:start + 4])
        made += [weight(s, m, each) for each in q(numbers[4:])]
    return torch.tensor(made)


def _as_bfloat16(stored: bytes) -> Tensor:
    wide = b"".join(bytes(2) + stored[at:at + 2] + bytes(2) + stored[at + 2:at + 4]
                    + stored[at + 4:at + BLOCK] for at in range(0, len(stored), BLOCK))
    made = []
    for at in range(0, len(wide), BLOCK + 4):
        s, m = struct.unpack("<ff", wide[at:at + 8])
        made += [s * each + m for each in _halves(wide[at + 8:at + BLOCK + 4])]
    return torch.tensor(made)


def _columns(stored: bytes) -> Tensor:
    """All lower halves of all blocks before all upper ones."""
    w = _package_weights(stored).view(-1, 2, 16)
    return w.transpose(0, 1).flatten()


def _blocks(rng: Generator, n: int, *, scale: float = 0.25, least: float = -2.0) -> Inputs:
    """Blocks as llama.cpp writes them; the first number of each block is 1, the last 14."""
    stored = b""
    for i in range(n):
        q = torch.randint(0, 256, (16,), generator=rng).tolist()
        q[0], q[15] = q[0] & 240 | 1, q[15] & 15 | 224
        s = scale * (1 + torch.rand((), generator=rng).item()) * (i + 1)
        m = least * (1 + torch.rand((), generator=rng).item())
        stored += struct.pack("<ee", s, m) + bytes(q)
    return {"stored": stored}


def _slip(name: str, why: str, **how: object) -> Misconception:
    return Misconception(name, partial(_weights, **how), why)


WEIGHTS = Exercise(
    "9.7", "Four bits a weight", "Does it work on a real file?", _package_weights,
    probes=(
        Probe("one block", lambda rng: _blocks(rng, 1)),
        Probe("three blocks", lambda rng: _blocks(rng, 3)),
        Probe("a minimum above zero", lambda rng: _blocks(rng, 2, least=0.5)),
        Probe("one weight thirty-two times", lambda rng: _blocks(rng, 2, scale=0.0)),
    ),
    misconceptions=(
        _slip("bytes taken apart one by one", "you put the two numbers of a byte side by side. The "
              "lower halves of all 16 bytes are numbers 0 to 15, the upper halves 16 to 31.",
              q=lambda b: [half for byte in b for half in (byte & 15, byte >> 4)]),
        _slip("upper halves first", "you took the upper halves for numbers 0 to 15. They are 16 "
              "to 31.", q=lambda b: [byte >> 4 for byte in b] + [byte & 15 for byte in b]),
        _slip("byte by byte, upper half first", "you put the two numbers of a byte side by side, "
              "the upper one first. All lower halves come first, then all upper ones.",
              q=lambda b: [half for byte in b for half in (byte >> 4, byte & 15)]),
        _slip("upper halves not shifted", "you left the upper halves where they are, from 16 to "
              "240. Shift them down by four bits.",
              q=lambda b: [byte & 15 for byte in b] + [byte & 240 for byte in b]),
        _slip("minimum subtracted", "you subtracted the minimum. It is stored with its sign, so "
              "the weight is s q + m.", weight=lambda s, m, q: s * q - m),
        _slip("minimum forgotten", "you left the minimum out, so no weight has the other sign.",
              weight=lambda s, m, q: s * q),
        _slip("minimum scaled", "you scaled the minimum too. It is added as it stands.",
              weight=lambda s, m, q: s * (q + m)),
        _slip("eight subtracted", "you subtracted 8 from q. That is how Q4_0 gets signs; here the "
              "minimum does.", weight=lambda s, m, q: s * (q - 8) + m),
        _slip("minimum as zero point", "you took the minimum for the number that stands for zero, "
              "s (q - m). It is a weight, not a q: the weight is s q + m.",
              weight=lambda s, m, q: s * (q - m)),
        _slip("q with a sign", "you read q with a sign, from -8 to 7. It runs from 0 to 15.",
              weight=lambda s, m, q: s * (q if q < 8 else q - 16) + m),
        _slip("eight for the minimum", "you read the block as if it were Q4_0, s (q - 8), and left "
              "the minimum out.", weight=lambda s, m, q: s * (q - 8)),
        _slip("three bits", "you kept three bits of a lower half. `byte & 15` keeps four.",
              q=lambda b: [byte & 7 for byte in b] + [byte >> 4 for byte in b]),
        _slip("15 for 16", "you took a byte apart by 15. Four bits count to 15, so there are 16 of "
              "them: `% 16` and `// 16`, or `& 15` and `>> 4`.",
              q=lambda b: [byte % 15 for byte in b] + [byte // 15 for byte in b]),
        _slip("the fifth bit", "you masked with 16, which keeps the fifth bit alone. `byte & 15` "
              "keeps the lower four.",
              q=lambda b: [byte & 16 for byte in b] + [byte >> 4 for byte in b]),
        _slip("shifted by three", "you shifted the upper halves by three bits. They lie four bits "
              "up.", q=lambda b: [byte & 15 for byte in b] + [byte >> 3 for byte in b]),
        _slip("fractions of sixteen", "you divided by 16 with `/`, so a lower half is left behind "
              "as a fraction. q is whole: `//`, or `>> 4`.",
              q=lambda b: [byte & 15 for byte in b] + [byte / 16 for byte in b]),
        _slip("bytes not taken apart", "you took whole bytes for q. Each holds two numbers from 0 "
              "to 15.", q=lambda b: [*b, *b]),
        _slip("lower halves twice", "you took the lower halves twice. The second sixteen numbers "
              "are the upper halves.", q=lambda b: [byte & 15 for byte in b] * 2),
        _slip("upper halves twice", "you took the upper halves twice. The first sixteen numbers "
              "are the lower halves, `byte & 15`.", q=lambda b: [byte >> 4 for byte in b] * 2),
        _slip("bytes from back to front", "you went through a block's bytes from back to front. "
              "The first byte holds numbers 0 and 16.", q=lambda b: _halves(b[::-1])),
        _slip("fifteen steps", "you divided by 15, as if s were the whole span. It is one step: "
              "s q + m.", weight=lambda s, m, q: s * q / 15 + m),
        _slip("stored, not read", "you computed (q - m) / s, the way in. The way out is s q + m.",
              weight=lambda s, m, q: (q - m) / s if s else m),
        _slip("divided by the scale", "you divided by the scale. A step has the size s, and q of "
              "them are taken: s q + m.", weight=lambda s, m, q: q / s + m if s else m),
        _slip("scale forgotten", "you left the scale out. q counts steps, and a step has the size "
              "s.", weight=lambda s, m, q: q + m),
        _slip("q alone", "you returned the numbers q. A weight is s q + m.",
              weight=lambda s, m, q: float(q)),
        _slip("downwards from the minimum", "you counted down from the minimum. The steps go up: "
              "s q + m.", weight=lambda s, m, q: m - s * q),
        _slip("whole numbers for float16", "you read scale and minimum as whole numbers of two "
              'bytes. They are float16, "e" in a format.', form="<hh"),
        _slip("q from one", "you counted q from 1. It counts steps from the minimum, and begins at "
              "0.", weight=lambda s, m, q: s * (q + 1) + m),
        _slip("steps from the top", "you counted steps from the top, 15 - q. They count from the "
              "minimum upwards.", weight=lambda s, m, q: s * (15 - q) + m),
        _slip("eight bytes at a time", "you took the two halves of eight bytes at a time. First "
              "come the lower halves of all 16 bytes, then all the upper ones.",
              q=lambda b: _halves(b[:8]) + _halves(b[8:])),
        _slip("scale and minimum exchanged", "you exchanged scale and minimum. The scale comes "
              "first.", weight=lambda s, m, q: m * q + s),
        _slip("big-endian", "you read the two float16 with the higher byte first. All numbers of "
              "the file are little-endian.", form=">ee"),
        Misconception("bfloat16", _as_bfloat16, "you read scale and minimum as bfloat16. They are "
                      "float16."),
        _slip("computed in float16", "you computed in float16, where each product and each sum is "
              "rounded to three digits. Scale and minimum are stored so; compute in float32.",
              weight=lambda s, m, q: float(np.float16(s) * np.float16(q) + np.float16(m))),
        _slip("the first block's scale for all", "you took scale and minimum of the first block "
              "for all. Each block has its own.", head=lambda at: 0),
        Misconception("first block alone", lambda stored: _weights(stored[:BLOCK]),
                      "you read the first block alone. There are len(stored) / 20 of them."),
        Misconception("lower halves of all blocks first", _columns,
                      "you put the lower halves of all blocks before the upper ones. Each block is "
                      "32 neighbours: finish one before the next."),
    ),
    hints=(
        "Twenty bytes at a time: two float16, then 16 bytes of two numbers each.",
        'struct.unpack("<ee", block[:4]) gives scale and minimum; byte & 15 is a lower half, '
        "byte >> 4 an upper one.",
        "First all 16 lower halves, then all 16 upper ones; each becomes s * q + m.",
    ))

EXERCISES = [WEIGHTS]
