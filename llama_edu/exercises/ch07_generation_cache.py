"""The exercises of chapter 07, continued: 7.1, attention with a cache."""

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from ..cache import KVCache
from ..layers import attend, causal_mask, rope_frequencies, rope_table, rotate
from .data import Exercise, Inputs, Misconception, Probe, between, normal

# -- 7.1: attention with a cache ----------------------------------------------------------------


def _turn(x: Tensor, freqs: Tensor, start: int) -> Tensor:
    """Rotate `b h t d` as tokens that stand at `start` and after."""
    return rotate(x, *rope_table(freqs, torch.arange(start, start + x.shape[2])))


def _package_attention(q: Tensor, k: Tensor, v: Tensor, past_k: Tensor, past_v: Tensor,
                       freqs: Tensor) -> Tensor:
    (b, _, t, _), p = q.shape, past_k.shape[2]
    cache = KVCache(1, b, p + t)
    cache.slot(0).append(past_k, past_v)
    cache.length = p
    keys, values = cache.slot(0).append(_turn(k, freqs, p), v)
    return attend(_turn(q, freqs, p), keys, values, causal_mask(t, p + t))


def _ones(t: int, s: int) -> Tensor:
    return torch.ones(t, s, dtype=torch.bool)


def _past_attention(*, q_at: Callable = lambda p: p, k_at: Callable = lambda p: p,
                    keys: Callable = lambda past, k, freqs: torch.cat([past, k], 2),
                    values: Callable = lambda past, v, freqs: torch.cat([past, v], 2),
                    mask: Callable = causal_mask, scale: Callable = lambda d: 1.0,
                    q_rope: Callable | None = None, k_rope: Callable | None = None) -> Callable:
    """Cached attention with one part done wrongly; a position of None leaves out the rotation.

    scale: by what the scores differ from those over sqrt(d); q_rope, k_rope: the positions,
    from p and 0, 1, ..., where they do not just start elsewhere.
    """
    def turned(x: Tensor, freqs: Tensor, p: int, at: Callable, where: Callable | None) -> Tensor:
        if where is not None:
            return rotate(x, *rope_table(freqs, where(p, torch.arange(x.shape[2]))))
        return x if at(p) is None else _turn(x, freqs, at(p))

    def attention(q: Tensor, k: Tensor, v: Tensor, past_k: Tensor, past_v: Tensor,
                  freqs: Tensor) -> Tensor:
        p = past_k.shape[2]
        all_keys = keys(past_k, turned(k, freqs, p, k_at, k_rope), freqs)
        all_values = values(past_v, v, freqs)
        return attend(turned(q, freqs, p, q_at, q_rope) * scale(q.shape[-1]), all_keys, all_values,
                      mask(q.shape[2], all_keys.shape[2]))
    return attention


def _new_first(past: Tensor, new: Tensor, freqs: Tensor) -> Tensor:
    return torch.cat([new, past], 2)


def _attention_inputs(rng: Generator, b: int, h: int, k: int, t: int, p: int, d: int) -> Inputs:
    freqs = rope_frequencies(d, between(rng, 5, 50))
    return {"q": normal(rng, b, h, t, d, mean=0.5), "k": normal(rng, b, k, t, d, mean=0.5),
            "v": normal(rng, b, k, t, d, mean=2.0),
            "past_k": _turn(normal(rng, b, k, p, d, mean=0.5), freqs, 0),
            "past_v": normal(rng, b, k, p, d, mean=2.0), "freqs": freqs}


def _one_place(where: Callable[[int, int], int]) -> Callable:
    def all_there(p: int, places: Tensor) -> Tensor:
        return torch.full_like(places, where(p, len(places)))
    return _past_attention(q_rope=all_there, k_rope=all_there)


def _with_table(table: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> Callable:
    """`table` makes cosines and sines of the frequencies and the right places."""
    def attention(q: Tensor, k: Tensor, v: Tensor, past_k: Tensor, past_v: Tensor,
                  freqs: Tensor) -> Tensor:
        t, p = q.shape[2], past_k.shape[2]
        rope = table(freqs, torch.arange(p, p + t))
        return attend(rotate(q, *rope), torch.cat([past_k, rotate(k, *rope)], 2),
                      torch.cat([past_v, v], 2), causal_mask(t, p + t))
    return attention


def _heads_apart(q: Tensor, k: Tensor, v: Tensor, past_k: Tensor, past_v: Tensor,
                 freqs: Tensor) -> Tensor:
    g = q.shape[1] // k.shape[1]
    repeated = (each.repeat(1, g, 1, 1) for each in (k, v, past_k, past_v))
    return _package_attention(q, *repeated, freqs)


def _starting_at(start: Callable[[Tensor], int]) -> Callable:
    def attention(q: Tensor, k: Tensor, v: Tensor, past_k: Tensor, past_v: Tensor,
                  freqs: Tensor) -> Tensor:
        at = start(past_k)
        return _past_attention(q_at=lambda p: at, k_at=lambda p: at)(
            q, k, v, past_k, past_v, freqs)
    return attention


def _turned_with(change: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> Callable:
    return _with_table(lambda freqs, places: change(*rope_table(freqs, places)))


def _keys_for_values(q: Tensor, k: Tensor, v: Tensor, past_k: Tensor, past_v: Tensor,
                     freqs: Tensor) -> Tensor:
    t, p = q.shape[2], past_k.shape[2]
    return attend(_turn(q, freqs, p), torch.cat([past_v, v], 2),
                  torch.cat([past_k, _turn(k, freqs, p)], 2), causal_mask(t, p + t))


CACHED = Exercise(
    "7.1", "Attention with a cache", "The idea", _package_attention,
    probes=(
        Probe("one new token", lambda rng: _attention_inputs(rng, 1, 2, 2, 1, 4, 4)),
        Probe("three new tokens", lambda rng: _attention_inputs(rng, 2, 2, 1, 3, 5, 6)),
        Probe("an empty cache", lambda rng: _attention_inputs(rng, 1, 1, 1, 3, 0, 4)),
        Probe("grouped heads", lambda rng: _attention_inputs(rng, 2, 6, 2, 2, 7, 4)),
    ),
    misconceptions=(
        Misconception("positions restarted", _past_attention(q_at=lambda p: 0, k_at=lambda p: 0),
                      "your new tokens start at position 0 again. They stand behind the p tokens "
                      "of the cache: positions p to p + t - 1."),
        Misconception("only the query restarted", _past_attention(q_at=lambda p: 0),
                      "your queries start at position 0 and your keys at p. Both stand at p."),
        Misconception("only the key restarted", _past_attention(k_at=lambda p: 0),
                      "your new keys start at position 0 and your queries at p. Both stand at p."),
        Misconception("one position late",
                      _past_attention(q_at=lambda p: p + 1, k_at=lambda p: p + 1),
                      "your positions start at p + 1. The cache holds 0 to p - 1, so p is free."),
        Misconception("one position early",
                      _past_attention(q_at=lambda p: p - 1, k_at=lambda p: p - 1),
                      "your positions start at p - 1, where the last token of the cache stands."),
        Misconception("not scaled", _past_attention(scale=lambda d: d**0.5),
                      "your scores are not divided by the root of d: the softmax is too sharp."),
        Misconception("scaled by d", _past_attention(scale=lambda d: d**-0.5),
                      "you divided the scores by d. It is its root."),
        Misconception("all at one place", _one_place(lambda p, t: p),
                      "all your new tokens stand at the same position. They stand one behind the "
                      "other: p, p + 1, ...",
                      also=(_one_place(lambda p, t: p + t - 1),)),
        Misconception("the start from another axis", _starting_at(lambda past: past.shape[1]),
                      "your positions start at another number of the cache's shape. The tokens "
                      "are its third axis: p = past_k.shape[2].",
                      also=(_starting_at(lambda past: past.shape[0]),
                            _starting_at(lambda past: past.shape[3]))),
        Misconception("queries at one place", _past_attention(q_rope=lambda p, t: p + 0 * t),
                      "all your queries stand at the same position. They stand one behind the "
                      "other: p, p + 1, ...",
                      also=(_past_attention(q_rope=lambda p, t: p + t.max() + 0 * t),)),
        Misconception("queries and keys apart", _past_attention(q_at=lambda p: p + 1),
                      "your queries and your new keys do not start at the same position. Both "
                      "start at p.",
                      also=(_past_attention(q_at=lambda p: p - 1),
                            _past_attention(k_at=lambda p: p - 1),
                            _past_attention(k_at=lambda p: p + 1),
                            _past_attention(q_rope=lambda p, t: p + len(t) + t))),
        Misconception("the new ones counted twice", _past_attention(
                          q_rope=lambda p, t: p + len(t) + t, k_rope=lambda p, t: p + len(t) + t),
                      "your positions start at p + t. The cache holds 0 to p - 1, so p is free."),
        Misconception("positions back to front", _past_attention(
                          k_rope=lambda p, t: p + t.max() - t, q_rope=lambda p, t: p + t.max() - t),
                      "your positions fall from the first new token to the last. They rise: p, "
                      "p + 1, ..."),
        Misconception("cosines and sines swapped", _turned_with(lambda cos, sin: (sin, cos)),
                      "you gave the sines for the cosines: rope_table returns (cos, sin), and "
                      "rotate takes them in this order."),
        Misconception("queries rotated twice", _past_attention(
                          q_rope=lambda p, t: 2 * (p + t)),
                      "you rotated the queries twice, so they stand twice as far as they should."),
        Misconception("new keys rotated twice", _past_attention(
                          k_rope=lambda p, t: 2 * (p + t)),
                      "you rotated the new keys twice, so they stand twice as far as they should."),
        Misconception("the table's arguments swapped",
                      _with_table(lambda freqs, places: rope_table(places, freqs)),
                      "you made the table of angles with its arguments swapped: "
                      "rope_table(freqs, positions)."),
        Misconception("heads paired wrongly", _heads_apart,
                      "your query heads hear the wrong key heads. With 6 and 2 the first three "
                      "share the first: repeat_interleave, not repeat; or leave it to `attend`."),
        Misconception("appended before rotation",
                      _past_attention(k_at=lambda p: None, keys=lambda past, k, freqs:
                                      _turn(torch.cat([past, k], 2), freqs, 0)),
                      "you rotated the whole cache again: its keys are rotated already, and every "
                      "pass would turn them further. Rotate the new ones, then append."),
        Misconception("mask aligned at the start",
                      _past_attention(mask=lambda t, s: _ones(t, s).tril()),
                      "your mask is aligned at the first token, so a single new one sees only the "
                      "first of the text: what is_causal=True does. Align it at the last."),
        Misconception("one token ahead", _past_attention(
                          mask=lambda t, s: _ones(t, s).tril(s - t + 1)),
                      "your new tokens see one token too far: the one that follows them."),
        Misconception("the new ones apart", _past_attention(
                          mask=lambda t, s: _ones(t, s).tril(s - t) & (
                              _ones(t, s).tril(s - t - 1).logical_not()
                              | (torch.arange(s) < s - t))),
                      "your new tokens see the past and themselves, and not the new ones before "
                      "them. Those are their past too."),
        Misconception("the first token hidden", _past_attention(
                          mask=lambda t, s: causal_mask(t, s) & (torch.arange(s) > 0)),
                      "you hide the text's first token. Positions count from 0.",
                      also=(_past_attention(mask=lambda t, s: causal_mask(t, s) & (
                          (torch.arange(s) > 0) | (s == t))),)),
        Misconception("the mask reversed", _past_attention(
                          mask=lambda t, s: _ones(t, s).triu(s - t)),
                      "your comparison is the wrong way round: new tokens see themselves and what "
                      "follows, and nothing before."),
        Misconception("the mask inverted", _past_attention(
                          mask=lambda t, s: ~causal_mask(t, s)),
                      "your mask is True where a token may not look. Here True means: may look. "
                      "The last token sees nothing at all, and that is NaN."),
        Misconception("no mask", _past_attention(mask=_ones),
                      "your new tokens see each other's future. One alone needs no mask; several "
                      "do."),
        Misconception("the newest unseen",
                      _past_attention(mask=lambda t, s: _ones(t, s).tril(s - t - 1)),
                      "a new token does not see itself."),
        Misconception("new ones in front",
                      _past_attention(keys=_new_first, values=_new_first),
                      "you put the new keys before the old ones. They come after: the mask relies "
                      "on it."),
        Misconception("only the values in front", _past_attention(values=_new_first),
                      "your new keys come last and your new values first: every weight falls on "
                      "another token's value."),
        Misconception("only the keys in front", _past_attention(keys=_new_first),
                      "your new keys come first and your new values last: every weight falls on "
                      "another token's value."),
        Misconception("keys and values swapped", _keys_for_values,
                      "you took the values for the keys and the keys for the values: "
                      "attend(q, keys, values, mask)."),
        Misconception("the cache rotated instead", _past_attention(
                          k_at=lambda p: None,
                          keys=lambda past, k, freqs: torch.cat([_turn(past, freqs, 0), k], 2)),
                      "you rotated the keys of the cache, which are rotated, and not the new ones, "
                      "which are not."),
        Misconception("queries not rotated", _past_attention(q_at=lambda p: None),
                      "you did not rotate the queries."),
        Misconception("keys not rotated", _past_attention(k_at=lambda p: None),
                      "you did not rotate the new keys; those in the cache are rotated."),
        Misconception("nothing rotated",
                      _past_attention(q_at=lambda p: None, k_at=lambda p: None),
                      "you rotated neither queries nor new keys."),
        Misconception("values rotated",
                      _past_attention(values=lambda past, v, freqs:
                                      torch.cat([past, _turn(v, freqs, past.shape[2])], 2)),
                      "you rotated the values. A position says who is heard, not what is said."),
        Misconception("cache unused",
                      _past_attention(keys=lambda past, k, freqs: k,
                                      values=lambda past, v, freqs: v),
                      "you never looked at the cache: the new tokens see only each other."),
    ),
    hints=(
        "Four steps: positions, rotate, append, attend.",
        "p = past_k.shape[2]; the new tokens stand at torch.arange(p, p + t).",
        "keys = torch.cat([past_k, rotate(k, cos, sin)], dim=2). A new token at position i sees "
        "all positions up to i: compare the two.",
    ))

EXERCISES = [CACHED]
