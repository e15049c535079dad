"""How much a text surprises a model, counted as llama.cpp's `llama-perplexity` counts it.

The text is cut into windows that do not overlap. The first half of each is only read, so that no
token counts that has less than half a window before it: 255 of 512 do.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..losses import learnt_log_probs
from ..model import Llama
from ..tokenizer import Tokenizer

CONTEXT = 512       # tokens of a window, where the model has room for them
SHORTEST = 3        # of which one is only read, one predicts, and one is predicted


@dataclass(frozen=True)
class Surprise:
    """What each token that counts costs, of a text cut into windows."""

    nats: Tensor                # float64
    n_windows: int
    tokens_per_byte: float      # of the whole text

    @property
    def perplexity(self) -> float:
        """Among how many equally likely tokens the model chooses."""
        return self.nats.mean().exp().item()

    @property
    def error(self) -> float:
        """One standard error of the perplexity, as if tokens cost independently of each other."""
        return self.perplexity * self.nats.std().item() / len(self.nats) ** 0.5

    @property
    def nats_per_token(self) -> float:
        return self.nats.mean().item()

    @property
    def nats_per_byte(self) -> float:
        """Comparable between vocabularies, which perplexity is not."""
        return self.nats_per_token * self.tokens_per_byte


@torch.inference_mode()
def perplexity(model: Llama, tokenizer: Tokenizer, text: str, *, context: int | None = None,
               watch: Callable[[Tensor], Iterable[Tensor]] = iter) -> Surprise:
    """How much a text surprises a model that sees `context` tokens at most.

        perplexity(model, tokenizer, Path("notes.txt").read_text()).perplexity

    context: 512 or, where it has less, what the model has room for. watch: is given the windows,
    hands them out one by one, and may show how far it is. Raises ValueError for a context that
    the model has not, and as `windows` does.
    """
    room = model.config.max_seq_len
    context = min(CONTEXT, room) if context is None else context
    if not SHORTEST <= context <= room:
        raise ValueError(f"a context of {context} tokens was asked for; one from {SHORTEST} to "
                         f"{room}, which this model has, is needed. Choose another: --context N.")
    ids = tokenizer.encode(text)
    rows = windows(ids, context, bos=tokenizer.bos_id if tokenizer.adds_bos else None)
    nats = torch.cat([surprise(model, row) for row in watch(rows)])
    return Surprise(nats, len(rows), len(ids) / len(text.encode()))


def windows(ids: Sequence[int], context: int, *, bos: int | None) -> Tensor:
    """The tokens of a text as `n_windows context`, without the rest that fills no window.

    bos: begins the text, and takes the place of each other window's first token; None where texts
    of the model begin without. Raises ValueError for fewer than two windows.
    """
    text = torch.tensor(ids if bos is None else [bos, *ids], dtype=torch.long)
    n = len(text)
    if n < 2 * context:
        raise ValueError(f"the text has {n} tokens; {2 * context} or more, two windows of "
                         f"{context}, are needed. Give a longer text, or shorter windows: "
                         "--context N.")
    rows = text[: n - n % context].view(-1, context)
    if bos is not None:
        rows[:, 0] = bos
    return rows


def surprise(model: Llama, window: Tensor) -> Tensor:
    """What each token after the middle of a window `t` costs, in nats: float64, on the CPU."""
    tokens = window.to(model.tok_embeddings.weight.device)[None]
    middle = len(window) // 2
    counts = torch.arange(len(window), device=tokens.device)[None] > middle
    log_probs = learnt_log_probs(model, {"tokens": tokens, "learn": counts})
    return -log_probs[0, middle:].double().cpu()
