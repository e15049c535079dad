"""Graphics cards that people run and train Llamas on: memory, bandwidth, arithmetic.

Memory is what the driver shows. Bandwidth and arithmetic are the makers' data sheets, 16 bits,
without sparsity: peaks that no program reaches. Of arithmetic there are two numbers for a consumer
card (RTX): products added up in float16 run twice as fast as those added up in float32. The table
has the latter for all cards: it is the only one for bfloat16, and what PyTorch does unless asked.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Gpu:
    """One kind of card."""

    name: str
    gib: float              # memory
    gb_per_second: int      # of its memory, read or written
    tflops: float           # float16 matrix products with sums in float32, dense


GPUS = (
    Gpu("RTX 4060", 8.0, 272, 30.2),
    Gpu("RTX 3060", 12.0, 360, 25.5),
    Gpu("T4", 15.0, 320, 65.0),             # its tensor cores know no bfloat16
    Gpu("RTX 4090", 24.0, 1008, 165.2),
    Gpu("A100-40GB", 40.0, 1555, 312.0),
    Gpu("A100-80GB", 80.0, 2039, 312.0),
    Gpu("H100-80GB", 79.6, 3350, 989.4),
    Gpu("H200", 140.4, 4800, 989.4),
)


def gpu(name: str) -> Gpu:
    """A card by its name. Raises KeyError with the names that there are."""
    for card in GPUS:
        if card.name == name:
            return card
    raise KeyError(f"there is no card {name!r} in the table; there are "
                   f"{', '.join(card.name for card in GPUS)}. Take one, or make a Gpu(...).")
