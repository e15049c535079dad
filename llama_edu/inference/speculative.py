"""Speculative decoding: a small model guesses ahead, the large one checks all guesses in one pass.

What comes out is distributed as if the large model had been asked for every token; a bad draft
costs time, never quality. Leviathan et al. 2023.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from ..cache import KVCache
from ..generation import count_pads
from ..model import Llama
from ..sampling import Rule, probabilities


def verify(p: Tensor, q: Tensor, guesses: Tensor, *, generator: torch.Generator | None = None
           ) -> Tensor:
    """The guesses up to the first that is refused, and one token more: 1 to t + 1 tokens.

    p: the model's probabilities `t+1 v`; q: the draft's, `t v`, from which the guesses `t` were
    drawn. A guess x is kept with chance min(1, p(x) / q(x)); where one is refused, the token in
    its place comes from max(0, p - q), rescaled. Leviathan et al. 2023, algorithm 1.
    """
    t = len(guesses)
    rows = torch.arange(t, device=p.device)
    draws = torch.rand(t, dtype=p.dtype, device=p.device, generator=generator)
    kept = (draws < p[rows, guesses] / q[rows, guesses]).long().cumprod(0)
    n = int(kept.sum())
    rest = p[n] if n == t else (p[n] - q[n]).clamp(min=0)
    rest = rest if rest.any() else p[n]     # refused by rounding alone: the two are equal
    return torch.cat([guesses[:n], torch.multinomial(rest, 1, generator=generator)])


def distributions(model: Llama, text: Tensor, cache: KVCache, rules: Sequence[Rule], *, t: int
                  ) -> Tensor:
    """What may follow the last t prefixes of a text `1 s`: `t v`; the cache ends up holding it."""
    hidden = model.hidden(text[:, cache.length:], cache)[0, -t:]
    end = text.shape[1]
    rows = []
    for n, row in enumerate(model.logits(hidden), start=end - t + 1):
        logits = row[None]
        for rule in rules:
            logits = rule(logits, text[:, :n])
        rows.append(probabilities(logits))
    return torch.cat(rows)


def guess(draft: Llama, text: Tensor, cache: KVCache, rules: Sequence[Rule], *, t: int,
          generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """t tokens that the draft would say after a text `1 s`, and what it drew each from: `t v`."""
    q = torch.empty(t, draft.config.vocab_size, device=text.device)
    for row in q:
        row.copy_(distributions(draft, text, cache, rules, t=1)[0])
        text = torch.cat([text, torch.multinomial(row, 1, generator=generator)[None]], dim=1)
    return text[0, text.shape[1] - t:], q


def speculate(model: Llama, draft: Llama, prompt: Tensor, *rules: Rule, max_new: int, ahead: int,
              generator: torch.Generator | None = None) -> Iterator[Tensor]:
    """Yield tokens `1 1` after a prompt `1 t`, distributed as `stream` would draw them.

    The draft guesses `ahead` tokens at a time; both models must share one vocabulary. The rules
    reshape both distributions. Raises as `rounds` does.
    """
    for _, new in rounds(model, draft, prompt, *rules, max_new=max_new, ahead=ahead,
                         generator=generator):
        yield from new[:, None, None]


@torch.inference_mode()
def rounds(model: Llama, draft: Llama, prompt: Tensor, *rules: Rule, max_new: int, ahead: int,
           generator: torch.Generator | None = None) -> Iterator[tuple[int, Tensor]]:
    """Yield, for each pass of the model, how many tokens the draft guessed, and those that come
    out: the guesses that are kept, and one more.

    Raises ValueError for several prompts, for two vocabularies, for fewer than one token or guess,
    and for a text longer than a context of the two.
    """
    _check_pair(model, draft, prompt, max_new=max_new, ahead=ahead)
    length = prompt.shape[1] + max_new
    cache, draft_cache = (m.new_cache(1, length) for m in (model, draft))
    text = prompt
    while (left := length - text.shape[1]) > 0:
        t = min(ahead, left - 1)            # one token of each pass is the model's own
        guesses, q = guess(draft, text, draft_cache, rules, t=t, generator=generator)
        p = distributions(model, torch.cat([text, guesses[None]], dim=1), cache, rules, t=t + 1)
        new = verify(p, q, guesses, generator=generator)
        text = torch.cat([text, new[None]], dim=1)
        for memory in (cache, draft_cache):     # forget guesses that were refused
            memory.rewind(min(memory.length, text.shape[1] - 1))
        yield t, new


def _check_pair(model: Llama, draft: Llama, prompt: Tensor, *, max_new: int, ahead: int) -> None:
    if len(prompt) != 1:
        raise ValueError(f"a batch of {len(prompt)} prompts was given; one is needed, for each "
                         "would keep another number of guesses. Loop over the prompts.")
    if ahead < 1:
        raise ValueError(f"{ahead} guesses ahead were asked for; 1 or more is needed. "
                         "Without a draft, use stream.")
    ours, theirs = model.config.vocab_size, draft.config.vocab_size
    if ours != theirs:
        raise ValueError(f"the draft knows {theirs} tokens and the model {ours}; one vocabulary is "
                         "needed. Choose a draft of the same family.")
    for m in (model, draft):
        count_pads(m, prompt, max_new=max_new)


def early_exit(model: Llama, n_layers: int) -> Llama:
    """A draft that costs no memory: the model's own first blocks, and then its norm and output.

    All weights are the model's. It guesses well only where the model was trained to stop early
    (Elhoushi et al. 2024); others need nearly all of their blocks to know the next token.
    Raises ValueError unless one block or more is kept, and one left out.
    """
    if not 1 <= n_layers < model.config.n_layers:
        raise ValueError(f"a draft of the first {n_layers} blocks was asked for; 1 to "
                         f"{model.config.n_layers - 1} of this model's {model.config.n_layers} "
                         "are needed. Choose fewer, or more than none.")
    draft = Llama.__new__(Llama)
    nn.Module.__init__(draft)           # the parts are another's: nothing is drawn at random
    draft.config = replace(model.config, n_layers=n_layers)
    draft.tok_embeddings, draft.layers = model.tok_embeddings, model.layers[:n_layers]
    draft.norm, draft.output = model.norm, model.output
    return draft
