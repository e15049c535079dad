"""Exercise of chapter 03: the causal mask, with a cache."""

import torch
from torch import Tensor

from ..layers import causal_mask
from .data import Exercise, Misconception, Probe, count


def _ones(t: int, s: int) -> Tensor:
    return torch.ones(t, s, dtype=torch.bool)


MASK = Exercise(
    "3.1", "The causal mask, with a cache", "Your turn: who may look", causal_mask,
    probes=(
        Probe("no cache", lambda rng: {"t": 4, "s": 4}),
        Probe("two new tokens, five in all", lambda rng: {"t": 2, "s": 5}),
        Probe("three new tokens, seven in all", lambda rng: {"t": 3, "s": 7}),
        Probe("one new token", lambda rng: {"t": 1, "s": 6}),
        Probe("other sizes", lambda rng: {"t": count(rng, 2, 4), "s": count(rng, 6, 12)}),
    ),
    misconceptions=(
        Misconception("inverted", lambda t, s: ~causal_mask(t, s),
                      "your mask is True where a token may not look. Here True means: may look.",
                      also=(lambda t, s: _ones(t, s).triu(1),)),
        Misconception("peeks ahead", lambda t, s: _ones(t, s).tril(s - t + 1),
                      "every token sees one token too many: the next one, which is what it has "
                      "to predict."),
        Misconception("edge moved the wrong way", lambda t, s: _ones(t, s).tril(t - s),
                      "you moved the edge to the left. The s - t old tokens come before the new "
                      "ones, so the first new token sees them all: the edge moves right, by s - t.",
                      also=(lambda t, s: _ones(t, s).tril(t - s - 1),)),
        Misconception("edge moved by t", lambda t, s: _ones(t, s).tril(t),
                      "you moved the edge by t. The first new token sees the s - t old ones and "
                      "itself: the edge moves by s - t.",
                      also=(lambda t, s: _ones(t, s).tril(t - 1), lambda t, s: _ones(t, s).tril(-t),
                            lambda t, s: _ones(t, s).tril(s // t))),
        Misconception("only itself",
                      lambda t, s: torch.arange(s) == torch.arange(s - t, s)[:, None],
                      "each token sees itself alone. It also looks at all that came before it.",
                      also=(lambda t, s: torch.eye(t, s, dtype=torch.bool),)),
        Misconception("only the old", lambda t, s: (torch.arange(s) < s - t).repeat(t, 1),
                      "the new tokens see the old ones alone. Each also sees itself, and the new "
                      "ones before it."),
        Misconception("all as the first", lambda t, s: (torch.arange(s) <= s - t).repeat(t, 1),
                      "every row is as the first new token sees it. Each one after it sees one "
                      "token more."),
        Misconception("columns backwards", lambda t, s: causal_mask(t, s).flip(1),
                      "your columns run from the last token to the first. Column 0 is the oldest "
                      "token.", also=(lambda t, s: _ones(t, s).triu().flip(0),)),
        Misconception("rows backwards", lambda t, s: causal_mask(t, s).flip(0),
                      "your rows run from the last new token to the first, so the first one sees "
                      "the most. Each token sees one more than the one before it."),
        Misconception("not itself", lambda t, s: _ones(t, s).tril(s - t - 1),
                      "no token sees itself. The diagonal belongs to what a token may see."),
        Misconception("aligned at the start", lambda t, s: _ones(t, s).tril(),
                      "you aligned the mask at the first token. With a cache the new tokens are "
                      "the last t of the s, so the first of them sees s - t + 1.",
                      also=(lambda t, s: _ones(t, s).tril(1), lambda t, s: _ones(t, s).tril(-1))),
        Misconception("all of the new", lambda t, s: _ones(t, s),
                      "every token sees every other. A new token must not see the new ones after "
                      "it, for these it is to predict."),
        Misconception("upper triangle", lambda t, s: _ones(t, s).triu(s - t),
                      "each token sees itself and what comes after. Tokens look back: the lower "
                      "triangle.",
                      also=(lambda t, s: _ones(t, s).triu(), lambda t, s: _ones(t, s).triu(t - s),
                            lambda t, s: _ones(t, s).triu(s - t - 1))),
        Misconception("old tokens hidden",
                      lambda t, s: causal_mask(t, s) & (torch.arange(s) >= s - t),
                      "your new tokens see only each other. What is in the cache came before "
                      "them: they see all of it."),
        Misconception("new tokens first", lambda t, s: torch.cat([
            causal_mask(t, t), _ones(t, s - t)], dim=1),
                      "you put the new tokens at the start. They are the last t of the s: the "
                      "first columns are the cache, which all may see."),
        Misconception("on its side", lambda t, s: causal_mask(t, s).T,
                      "your mask is `s t`. A row stands for a token that looks, a column for one "
                      "that is looked at: `t s`."),
        Misconception("zeros and infinities",
                      lambda t, s: torch.zeros(t, s).masked_fill(~causal_mask(t, s), -torch.inf),
                      "you made numbers to add to the scores, 0 and -inf. Here a mask is of "
                      "booleans: True where a token may look."),
        Misconception("cache left out", lambda t, s: causal_mask(t, t),
                      "your mask is `t t`, as if there were no cache. A new token also looks at "
                      "what came before: `t s`."),
    ),
    hints=(
        "Draw t = 2, s = 5: two rows, five columns. The last row is all True.",
        "The first new token stands at position s - t. It sees positions 0 to s - t.",
        "torch.ones(t, s, dtype=torch.bool).tril(k) keeps columns up to row + k. Which k?",
    ))

EXERCISES = [MASK]
