"""The exercises of chapter 07, continued: 7.5 and 7.6, ragged prompts and where rows end."""

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Generator, Tensor

from ..cache import KVCache
from ..config import ModelConfig
from ..generation import places, stream
from ..layers import causal_mask
from ..sampling import NO_TOKEN
from .data import Exercise, Inputs, Misconception, Probe, count

# -- 7.5: ragged prompts --------------------------------------------------------------------------


def _package_places(pads: Tensor, t: int) -> tuple[Tensor, Tensor]:
    return places(pads, 0, t)


def _any_integers(answer: Callable, pads: Tensor, t: int) -> Any:
    """The answer, its positions as int64: any kind of integer will do."""
    made = answer(pads, t)
    if type(made) is not tuple or len(made) != 2 or not isinstance(made[0], Tensor):
        return made
    kinds = (torch.int32, torch.int16, torch.int8, torch.uint8)
    return (made[0].long() if made[0].dtype in kinds else made[0], made[1])


def _places_slip(name: str, why: str, *,
                 positions: Callable = lambda pads, t: places(pads, 0, t)[0],
                 mask: Callable = lambda pads, t: places(pads, 0, t)[1],
                 also: tuple[Callable, ...] = ()) -> Misconception:
    """One of the two done wrongly."""
    return Misconception(name, lambda pads, t: (positions(pads, t), mask(pads, t)), why, also=also)


def _real(pads: Tensor, t: int) -> Tensor:
    """`b t`, True where a column has a token."""
    return torch.arange(t) >= pads[:, None]


def _seen(pads: Tensor, t: int) -> Tensor:
    """The right mask, before empty places see themselves."""
    return causal_mask(t, t) & _real(pads, t)[:, None]


def _eye(t: int) -> Tensor:
    return torch.eye(t, dtype=torch.bool)


PLACES = Exercise(
    "7.5", "Positions and mask of ragged prompts", "Many prompts at once", _package_places,
    probes=(
        Probe("two rows", lambda rng: {"pads": torch.tensor([0, 2]), "t": 4}),
        Probe("three rows", lambda rng: {"pads": torch.tensor([3, 0, 1]), "t": 5}),
        Probe("drawn", lambda rng: {"pads": torch.randint(1, 5, (3,), generator=rng),
                                    "t": count(rng, 6, 8)}),
        Probe("one token", lambda rng: {"pads": torch.tensor([2, 0]), "t": 3}),
        Probe("nothing empty", lambda rng: {"pads": torch.tensor([0]), "t": 1}),
        Probe("short integers", lambda rng: {"pads": torch.tensor([1, 3], dtype=torch.int32),
                                             "t": 4}),
    ),
    misconceptions=(
        _places_slip("positions by column",
                     "you numbered the columns. A row's first token stands at 0, wherever its "
                     "column is.", positions=lambda pads, t: torch.arange(t).repeat(len(pads), 1)),
        _places_slip("positions from one",
                     "your first token stands at 1. Positions start at 0: a cumsum of ones has to "
                     "lose one.", positions=lambda pads, t: _real(pads, t).long().cumsum(1)),
        _places_slip("empty places at one",
                     "your empty places stand at position 1. Here they stand at 0.",
                     positions=lambda pads, t: places(pads, 0, t)[0].masked_fill(
                         ~_real(pads, t), 1)),
        _places_slip("the first token hidden",
                     "you hide a row's first token too: it stands in column `pads`, and columns "
                     "count from 0.", mask=lambda pads, t: causal_mask(t, t)
                     & (torch.arange(t) > pads[:, None])[:, None] | _eye(t)),
        _places_slip("the first row's mask", "every row has the mask of the first.",
                     mask=lambda pads, t: places(pads[:1], 0, t)[1].repeat(len(pads), 1, 1)),
        _places_slip("negative positions",
                     "your empty places have negative positions. Set them to 0: clamp(min=0).",
                     positions=lambda pads, t: torch.arange(t) - pads[:, None],
                     also=(lambda pads, t: ((torch.arange(t) - pads[:, None]).clamp(min=-1),
                                            places(pads, 0, t)[1]),)),
        _places_slip("positions as on the right",
                     "you counted as if the empty places were on the right. They are on the left.",
                     positions=lambda pads, t: torch.arange(t).expand(len(pads), t).masked_fill(
                         torch.arange(t) >= t - pads[:, None], 0)),
        _places_slip("padding visible", "tokens see the empty places before them. Hide those "
                     "columns.", mask=lambda pads, t: causal_mask(t, t).repeat(len(pads), 1, 1)),
        _places_slip("padding sees nothing",
                     "your empty places see nothing at all, and a softmax over nothing is NaN. Let "
                     "each see itself.", mask=_seen),
        _places_slip("padding sees all",
                     "your empty places see each other. Each sees itself only.",
                     mask=lambda pads, t: causal_mask(t, t)
                     & (_real(pads, t)[:, None] | ~_real(pads, t)[:, :, None]),
                     also=(lambda pads, t: (places(pads, 0, t)[0],
                                            _seen(pads, t) | ~_real(pads, t)[:, :, None]),)),
        _places_slip("rows hidden",
                     "you silenced the rows of the empty places. It is their columns that nobody "
                     "may see.", mask=lambda pads, t: causal_mask(t, t)
                     & _real(pads, t)[:, :, None] | _eye(t)),
        _places_slip("not causal", "tokens see the future: the causal mask is missing.",
                     mask=lambda pads, t: _real(pads, t)[:, None].repeat(1, t, 1) | _eye(t),
                     also=(lambda pads, t: (places(pads, 0, t)[0],
                                            _real(pads, t)[:, None].repeat(1, t, 1)),)),
        _places_slip("hidden on the right",
                     "you hid the last columns. The empty places are on the left.",
                     mask=lambda pads, t: causal_mask(t, t)
                     & (torch.arange(t) < t - pads[:, None])[:, None] | _eye(t)),
        _places_slip("inverted", "your mask is True where a column may not look. Here True means: "
                     "may look.", mask=lambda pads, t: ~places(pads, 0, t)[1]),
    ),
    hints=(
        "columns = torch.arange(t); a column is real in a row if columns >= pads[:, None].",
        "Positions are columns - pads[:, None], not below 0. The mask is causal_mask(t, t) and the "
        "real columns.",
        "real[:, None, :] speaks of columns, real[:, :, None] of rows. At the end: | torch.eye(t, "
        "dtype=torch.bool).",
    ),
    adapt=_any_integers)

# -- 7.6: where rows of a batch end ----------------------------------------------------------------


def _package_stop(drawn: Tensor, stop_ids: list[int]) -> Tensor:
    """What `stream` yields when a stand-in for the model is sure of each drawn token in turn."""
    v, script = int(drawn.max()) + 1, iter(drawn.T)
    config = ModelConfig(dim=2, n_layers=1, n_heads=1, n_kv_heads=1, hidden_dim=1, vocab_size=v,
                         norm_eps=1e-5, rope_theta=1e4, max_seq_len=drawn.shape[1] + 1)

    def hidden(*_: Any, **__: Any) -> Tensor:
        return torch.nn.functional.one_hot(next(script), v)[:, None].float().log()

    actor = SimpleNamespace(config=config, hidden=hidden, logits=torch.nn.Identity(),
                            new_cache=partial(KVCache, 1))
    prompt = torch.zeros(len(drawn), 1, dtype=torch.long)
    return torch.cat(list(stream(actor, prompt, max_new=drawn.shape[1], stop_ids=stop_ids)), 1)


def _marked(drawn: Tensor, stop_ids: list[int]) -> tuple[Tensor, Tensor]:
    """Where the stop tokens are, and how many stand before each place."""
    stops = torch.isin(drawn, torch.tensor(stop_ids)).long()
    return stops, stops.cumsum(1) - stops


def _filled(drawn: Tensor, silent: Tensor, ended: Tensor, fill: int = NO_TOKEN) -> Tensor:
    """Rows silent where told, without the columns where the batch has ended."""
    return drawn.masked_fill(silent, fill)[:, ~ended]


def _stop_slip(name: str, change: Callable[[Tensor, Tensor, Tensor, list[int]], Tensor],
               why: str, *, also: tuple[Callable, ...] = ()) -> Misconception:
    """A wrong result made from what was drawn, the stops, and the stops before each place."""
    return Misconception(name, lambda drawn, stop_ids: change(
        drawn, *_marked(drawn, stop_ids), stop_ids), why, also=also)


def _stop_inputs(rng: Generator, at: list[list[int]], n: int, stop_ids: list[int]) -> Inputs:
    """Rows of n tokens with stop tokens at given places, one kind after another."""
    drawn = torch.randint(10, 99, (len(at), n), generator=rng)
    for i, (row, here) in enumerate(zip(drawn, at, strict=True)):
        for j, place in enumerate(here):
            row[place] = stop_ids[(i + j) % len(stop_ids)]
    return {"drawn": drawn, "stop_ids": stop_ids}


STOP = Exercise(
    "7.6", "Where each row of a batch ends", "Stream", _package_stop,
    probes=(
        Probe("two rows", lambda rng: _stop_inputs(rng, [[1], [3]], 6, [2])),
        Probe("a row that never stops", lambda rng: _stop_inputs(rng, [[2], [], [0]], 5, [7])),
        Probe("two kinds of stop", lambda rng: _stop_inputs(rng, [[1], [3], [4]], 7, [2, 5])),
        Probe("a second stop later", lambda rng: _stop_inputs(rng, [[1, 3], [5]], 7, [3])),
        Probe("no row stops", lambda rng: _stop_inputs(rng, [[], []], 3, [4])),
        Probe("stop token 0", lambda rng: _stop_inputs(rng, [[2], [1]], 5, [0])),
        Probe("all stop at once", lambda rng: _stop_inputs(rng, [[0], [0]], 4, [0, 3])),
        Probe("no stop tokens", lambda rng: _stop_inputs(rng, [[]], 4, [])),
    ),
    misconceptions=(
        _stop_slip("the first ends all", lambda drawn, stops, before, _:
                   _filled(drawn, before > 0, (before > 0).any(0)),
                   "the first row that stops ends the whole batch. Go on until all rows have "
                   "stopped."),
        _stop_slip("rows go on", lambda drawn, stops, before, _:
                   _filled(drawn, before < 0, (before > 0).all(0)),
                   "a row that has stopped goes on talking while the others finish. From its stop "
                   "token on it has nothing to say: -1."),
        _stop_slip("never ended", lambda drawn, stops, before, _:
                   drawn.masked_fill(before > 0, NO_TOKEN),
                   "when every row has stopped you still return columns. The stream ends there."),
        _stop_slip("stop token left out", lambda drawn, stops, before, _:
                   _filled(drawn, before + stops > 0, (before > 0).all(0)),
                   "you hid the stop token itself. It is yielded: the caller wants to know which "
                   "one it was.",),
        _stop_slip("stop token left out and cut", lambda drawn, stops, before, _:
                   _filled(drawn, before + stops > 0, (before + stops > 0).all(0)),
                   "you hid the stop token itself. It is yielded: the caller wants to know which "
                   "one it was."),
        _stop_slip("first kind only", lambda drawn, stops, before, ids:
                   _package_stop(drawn, ids[:1]),
                   "you looked for the first stop token only. Any of them ends a row."),
        _stop_slip("last kind only", lambda drawn, stops, before, ids:
                   _package_stop(drawn, ids[-1:]),
                   "you looked for the last stop token only. Any of them ends a row."),
        _stop_slip("stop token 0 ignored", lambda drawn, stops, before, ids:
                   _package_stop(drawn, [each for each in ids if each]),
                   "you take the stop token 0 for no stop token. 0 is a token like any other; ask "
                   "`in`, not whether it is true."),
        _stop_slip("a row without stop ends at once", lambda drawn, stops, before, _:
                   _filled(drawn, torch.arange(drawn.shape[1]) > stops.argmax(1)[:, None],
                           (before > 0).all(0)),
                   "a row that never stops is cut after its first token: argmax of nothing but "
                   "zeros is 0.",
                   also=(lambda drawn, ids: drawn.masked_fill(
                       torch.arange(drawn.shape[1]) > _marked(drawn, ids)[0].argmax(1)[:, None],
                       NO_TOKEN),)),
        _stop_slip("one column too few", lambda drawn, stops, before, ids:
                   _package_stop(drawn, ids)[:, :-1],
                   "your last column is missing. The column in which the last row stops is still "
                   "said."),
        _stop_slip("one column too many", lambda drawn, stops, before, _:
                   _filled(drawn, before > 0, torch.cat([
                       torch.zeros(1, dtype=torch.bool), (before > 0).all(0)[:-1]])),
                   "you return one column more, in which nobody says anything."),
        _stop_slip("one too late", lambda drawn, stops, before, _:
                   _filled(drawn, torch.cat([before[:, :1], before[:, :-1]], 1) > 0,
                           (before > 0).all(0)),
                   "a row says one token more after its stop token. Mark it done as soon as the "
                   "stop token is out."),
        _stop_slip("silent only once", lambda drawn, stops, before, _:
                   _filled(drawn, before % 2 == 1, (before > 0).all(0)),
                   "a second stop token wakes a row up again. Once done, a row stays done."),
        _stop_slip("only where it stands", lambda drawn, stops, before, _:
                   _filled(drawn, stops > 0, (before > 0).all(0)),
                   "you hid the stop token and let the row go on. Show it, and hide all that "
                   "follows.",
                   also=(lambda drawn, ids: drawn.masked_fill(
                             _marked(drawn, ids)[0] > 0, NO_TOKEN),
                         lambda drawn, ids: _filled(
                             drawn, (found := _marked(drawn, ids))[0] > 0,
                             (sum(found) > 0).all(0)))),
        _stop_slip("filled with the stop token", lambda drawn, stops, before, ids:
                   _filled(drawn, before > 0, (before > 0).all(0), ids[0]),
                   "you filled up with a stop token. The filler is -1, which no model can say."),
        _stop_slip("filled with 0", lambda drawn, stops, before, _:
                   _filled(drawn, before > 0, (before > 0).all(0), 0),
                   "you filled up with 0, which is a token like any other. The filler is -1."),
    ),
    hints=(
        "Count, for each place, the stop tokens before it: cumsum minus itself.",
        "Where that count is above 0 the row is silent. Where it is above 0 in all rows, the "
        "batch has ended.",
        "torch.isin(drawn, torch.tensor(stop_ids)) finds all kinds of stop at once.",
    ))

EXERCISES = [PLACES, STOP]
