"""Activation checkpointing (Chen et al. 2016): remember a block's input, and compute the rest of it
once more on the way back. Memory then grows by one `b t c` a block; a step costs one more pass.
"""

from functools import partial

from torch.utils.checkpoint import checkpoint

from ..model import Llama


def blocks(model: Llama) -> None:
    """Let every block of a model do so, wherever gradients are asked for. Names, values and
    gradients stay as they are: nothing in a block is random, so both passes compute the same."""
    for block in model.layers:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False,
                                preserve_rng_state=False)
