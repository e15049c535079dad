"""The exercises of chapter 02 about scores: 2.3 a hunt, 2.4 a cache that forgets."""

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from ..layers import rope_frequencies, rope_table, rotate
from .ch02_rope_turn import turn
from .data import Exercise, Inputs, Misconception, Probe, count, normal
from .hunts import HEALTHY, Bug, Hunt


def turn_one(x: Tensor, position: float, freqs: Tensor) -> Tensor:
    """One vector `d`, turned to one position."""
    return turn(x.view(1, 1, 1, -1), torch.tensor([position]), freqs).flatten()


# -- 2.3: which mistake is in which score? -------------------------------------------------------


def _at(place: Callable[[int], float] = lambda m: m, *, theta: float = 1e4,
        speed: Callable[[Tensor], Tensor] = lambda freqs: freqs) -> Callable:
    """How a vector is turned: to which place, by which frequencies."""
    return lambda x, m: turn_one(x, place(m), speed(rope_frequencies(len(x), theta)))


def _halves(x: Tensor, m: int) -> Tensor:
    return _at()(torch.stack(x.chunk(2), -1).flatten(), m)      # a product needs no way back


def _slow_still(freqs: Tensor) -> Tensor:
    return torch.where(torch.arange(len(freqs)) < len(freqs) // 2, freqs, 0.0)


def _bfloat16(m: int) -> float:
    return torch.tensor(m).bfloat16().item()


def _score(query: Callable, key: Callable | None = None) -> Callable:
    """What makes a score of a query at m and a key at n, each turned in its way."""
    def score(q: Tensor, k: Tensor, m: int, n: int) -> float:
        return float(query(q, m) @ (key or query)(k, n))
    return lambda: score


def _back(m: int) -> int:
    return -m


WHICH_SCORE = Hunt(
    "2.3", "Which mistake is in which score?", "Which mistake is in which score?", _score(_at()),
    bugs={
        "only queries turned": Bug(
            _score(_at(), lambda k, n: k), "never changes while only the key moves"),
        "key turned the other way": Bug(
            _score(_at(), _at(_back)), "is the same wherever m + n is the same, and not where "
            "m - n is"),
        "both turned the other way": Bug(
            _score(_at(_back)), "equals the healthy score with m and n exchanged"),
        "queries one place late": Bug(
            _score(_at(lambda m: m + 1), _at()), "differs from the plain product where m = n"),
        "pairs i and i + d/2": Bug(
            _score(_halves), "lets feature 0 meet feature 4 as the key moves, and never feature 1"),
        "angles doubled": Bug(
            _score(_at(speed=lambda freqs: 2 * freqs)),
            "turns every pair twice as far: at distance 1, feature 0 against itself gives cos 2"),
        "exponents i/d": Bug(
            _score(_at(theta=1e2)), "turns all pairs but the first too fast, the last by 0.03 "
            "radians per token and not by 0.001"),
        "theta of another model": Bug(
            _score(_at(theta=5e5)), "turns all pairs but the first too slowly: pair 1 by 0.04 "
            "radians per token and not by 0.1"),
        "slow half not turned": Bug(
            _score(_at(speed=_slow_still)),
            "never changes for vectors that live in the last four features"),
        "positions in bfloat16": Bug(
            _score(_at(_bfloat16)), "is right at every place up to 256, and cannot tell 256 from "
            "257"),
    },
    hidden={"a": "theta of another model", "b": "key turned the other way",
            "c": "positions in bfloat16", "d": HEALTHY, "e": "pairs i and i + d/2",
            "f": "both turned the other way"},
    look=lambda score: torch.tensor([
        score(torch.arange(1.0, 9.0), torch.arange(8.0, 0.0, -1.0).roll(i), m, n)
        for i in range(4) for m, n in ((0, 0), (9, 9), (5, 2), (105, 102), (2, 5), (20, 3),
                                       (300, 291))]),
    hints=(
        "First a property: which scores stay when both places move on by the same amount? Try "
        "more than one amount, small and large.",
        "Then look at one pair at a time: a query and a key with a single 1 in them. Feature 0 "
        "against feature 0 shows the cosine of pair 0, feature 0 against 1 its sine and the sign, "
        "feature 0 against 4 should show nothing.",
        "Pair i has features 2i and 2i + 1. At distance 1 you can read its frequency: "
        "math.acos(score). Compare with 1, 0.1, 0.01, 0.001.",
        "And ask far places, one after another: 255, 256, 257, 258.",
    ))

# -- 2.4: a cache that forgets -------------------------------------------------------------------


def _move(keys: Tensor, places: Tensor | int, freqs: Tensor) -> Tensor:
    return turn(keys, torch.as_tensor(places).expand(keys.shape[2]), freqs)


def _close_gap(keys: Tensor, start: int, stop: int, freqs: Tensor) -> Tensor:
    moved = _move(keys[:, :, stop:], start - stop, freqs)
    return torch.cat([keys[:, :, :start], moved], 2)


def _moved(name: str, places: Callable, why: str, *also: Callable) -> Misconception:
    """A mistake in how far the keys behind the gap are turned."""
    def wrong(places: Callable) -> Callable:
        return lambda keys, start, stop, freqs: torch.cat(
            [keys[:, :, :start],
             _move(keys[:, :, stop:], places(start, stop, keys.shape[2]), freqs)], 2)
    return Misconception(name, wrong(places), why, also=tuple(map(wrong, also)))


def _all_moved(keys: Tensor, start: int, stop: int, freqs: Tensor) -> Tensor:
    left = torch.cat([keys[:, :, :start], keys[:, :, stop:]], 2)
    return _move(left, start - stop, freqs)


def _front_moved(sign: int) -> Callable:
    return lambda keys, start, stop, freqs: torch.cat(
        [_move(keys[:, :, :start], sign * (stop - start), freqs), keys[:, :, stop:]], 2)


def _turned_anew(keys: Tensor, start: int, stop: int, freqs: Tensor) -> Tensor:
    left = torch.cat([keys[:, :, :start], keys[:, :, stop:]], 2)
    return _move(left, torch.arange(left.shape[2]), freqs)


def _all_unturned(keys: Tensor, start: int, stop: int, freqs: Tensor) -> Tensor:
    plain = _move(keys, -torch.arange(keys.shape[2]), freqs)
    return torch.cat([plain[:, :, :start], plain[:, :, stop:]], 2)


def _unturned_by_new_places(keys: Tensor, start: int, stop: int, freqs: Tensor) -> Tensor:
    left = torch.cat([keys[:, :, :start], keys[:, :, stop:]], 2)
    return _move(left, -torch.arange(left.shape[2]), freqs)


def _by_halves(keys: Tensor, start: int, stop: int, freqs: Tensor) -> Tensor:
    def exchange(x: Tensor, *, inner: bool) -> Tensor:
        shape = (*x.shape[:-1], *((2, -1) if inner else (-1, 2)))
        return x.reshape(shape).transpose(-1, -2).flatten(-2)

    return exchange(_close_gap(exchange(keys, inner=True), start, stop, freqs), inner=False)


def _gap_inputs(rng: Generator, s: int, start: int, stop: int, d: int) -> Inputs:
    freqs = 0.2 + torch.rand(d // 2, generator=rng)
    return {"keys": normal(rng, 2, 3, s, d), "start": start, "stop": stop, "freqs": freqs}


CLOSE_GAP = Exercise(
    "2.4", "A cache that forgets", "Your turn: a cache that forgets", _close_gap,
    probes=(
        Probe("9 keys, 2 to 4 forgotten", lambda rng: _gap_inputs(
            rng, 9, 2, 4 + count(rng, 1, 1), 6)),
        Probe("the oldest forgotten", lambda rng: _gap_inputs(rng, 7, 0, 4, 4)),
        Probe("the newest forgotten", lambda rng: _gap_inputs(rng, 6, 4, 6, 4)),
        Probe("nothing forgotten", lambda rng: _gap_inputs(rng, 5, 3, 3, 8)),
        Probe("one token left behind the gap", lambda rng: _gap_inputs(rng, 8, 1, 7, 2)),
        Probe("bfloat16", lambda rng: (inputs := _gap_inputs(rng, 6, 1, 4, 4)) | {
            "keys": inputs["keys"].bfloat16()}),
    ),
    misconceptions=(
        _moved("gap left open", lambda start, stop, s: 0,
               "you cut the keys out, and those behind the gap still stand at their old places: "
               "their angles must go back too."),
        _moved("moved forward", lambda start, stop, s: stop - start,
               "you turned the later keys further on, away from the gap. They move to smaller "
               "positions: turn them back."),
        _moved("by stop", lambda start, stop, s: -stop,
               "you moved the later keys by `stop` places. They move by as many as were "
               "forgotten, and end up behind the `start` that stayed."),
        _moved("by start", lambda start, stop, s: -start,
               "you moved the later keys by `start` places. They move by as many as were "
               "forgotten, stop - start."),
        _moved("one off", lambda start, stop, s: start - stop + 1,
               "you moved the later keys by one place too few or too many: stop - start tokens "
               "are gone.", lambda start, stop, s: start - stop - 1),
        _moved("turned by the old place too", lambda start, stop, s: torch.arange(
                   start, start + s - stop),
               "you turned keys that are already turned. Take the old turn away first, or turn "
               "by the difference alone."),
        _moved("by their number", lambda start, stop, s: -torch.arange(s - stop),
               "each of the later keys moves by another number of places. All of them move by "
               "the same, stop - start.", lambda start, stop, s: -torch.arange(1, s - stop + 1)),
        _moved("by what is left", lambda start, stop, s: stop - start - s,
               "you moved the later keys by as many places as keys are left. They move by as many "
               "as were forgotten.", lambda start, stop, s: stop - s, lambda start, stop, s: -s),
        _moved("twice", lambda start, stop, s: 2 * (start - stop),
               "you moved the later keys twice as far as the gap is wide."),
        _moved("unturned", lambda start, stop, s: -torch.arange(stop, s),
               "you took the later keys' turn away, and they need one: that of their new place."),
        Misconception("all moved", _all_moved,
                      "you moved the keys before the gap too. They stay where they are."),
        Misconception("all turned anew", _turned_anew,
                      "you turned all keys by their new places. They came out of the cache "
                      "already turned: only the difference is missing."),
        Misconception("all unturned", _all_unturned,
                      "you took every key's turn away. In the cache keys are kept turned.",
                      also=(_unturned_by_new_places,)),
        Misconception("the front moved", _front_moved(1),
                      "you turned the keys before the gap. They stay where they are; those behind "
                      "it move.", also=(_front_moved(-1),)),
        Misconception("one moved", lambda keys, start, stop, freqs: torch.cat(
                          [_close_gap(keys, start, stop, freqs)[:, :, :start + 1],
                           keys[:, :, stop + 1:]], 2),
                      "you moved the first key behind the gap and left the others where they were. "
                      "All of them move."),
        Misconception("later ones lost", lambda keys, start, stop, freqs: keys[:, :, :start],
                      "you kept the keys before the gap only. Those from `stop` on stay too."),
        Misconception("cos and sin swapped", lambda keys, start, stop, freqs: torch.cat(
                          [keys[:, :, :start], rotate(keys[:, :, stop:], *reversed(rope_table(
                              freqs, torch.full((keys.shape[2] - stop,), start - stop))))], 2),
                      "cosine and sine are swapped. At angle zero nothing may move."),
        Misconception("later ones first", lambda keys, start, stop, freqs: torch.cat(
                          [_close_gap(keys, start, stop, freqs)[:, :, start:],
                           keys[:, :, :start]], 2),
                      "the keys are turned rightly and stand in the wrong order: those before the "
                      "gap come first."),
        Misconception("last one too", lambda keys, start, stop, freqs: _close_gap(
                          keys, start, min(stop + 1, keys.shape[2]), freqs),
                      "you forgot one token too many: `stop` itself stays, as in a slice."),
        Misconception("the rest kept", lambda keys, start, stop, freqs: keys[:, :, start:stop],
                      "you kept what was to be forgotten."),
        Misconception("halves", _by_halves,
                      "the places are right, but you turned feature i with i + d/2. These keys "
                      "were turned in pairs 2i and 2i + 1."),
    ),
    hints=(
        "The keys before the gap stay as they are. Those behind it move, all by the same number "
        "of places.",
        "A key that was turned by R_n is to be turned by R_(n - g). Rotations add up: what is "
        "missing?",
        "Turn keys[:, :, stop:] by -(stop - start), a negative position, and put them behind "
        "keys[:, :, :start] with torch.cat(..., 2).",
    ))

EXERCISES = [WHICH_SCORE, CLOSE_GAP]
