"""The bug hunt of chapter 09: six loaders of one file, each of which gives logits."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from einops import rearrange
from torch import Tensor

from ..checkpoint import load_model
from ..formats.names import halves_to_pairs, pairs_to_halves
from ..model import Llama
from .hunts import HEALTHY, Bug, Hunt

Weights = dict[str, Tensor]
THETA = 500_000.0           # Llama 3's; the tale teller has 10,000


def _suspect(spoil: Callable[[Weights], Weights] = dict, **changes: float
             ) -> Callable[[Tensor], Tensor]:
    """Tokens `b t` to logits `b t v` of the tale teller, loaded with a mistake."""
    right = load_model("tales")
    model = Llama(replace(right.config, **changes))
    model.load_state_dict(spoil(right.state_dict()))
    return torch.inference_mode()(model.eval())


def _each(weights: Weights, names: tuple[str, ...], change: Callable[[Tensor], Tensor]) -> Weights:
    """The same change to all tensors with such a name."""
    return {name: change(w) if name.endswith(names) else w for name, w in weights.items()}


def _exchanged(weights: Weights, one: str, other: str) -> Weights:
    turn = {one: other, other: one}
    return {next((name.replace(a, b) for a, b in turn.items() if a in name), name): w
            for name, w in weights.items()}


def _too_narrow(w: Tensor) -> Tensor:
    """Keys sorted by Hugging Face, and sorted back as if there were as many heads as queries."""
    return halves_to_pairs(pairs_to_halves(w, 24), 12)


def _in_turn(weights: Weights) -> Weights:
    """Query heads 0, 1, 2, 3 that ask key heads 0, 1, 0, 1, and not 0, 0, 1, 1."""
    heads = {"wq.weight": "(k g d) c -> (g k d) c", "wo.weight": "c (k g d) -> c (g k d)"}
    for name, pattern in heads.items():
        weights = _each(weights, (name,), partial(rearrange, pattern=pattern, k=2, g=2))
    return weights


def _look(suspect: Callable[[Tensor], Tensor]) -> Tensor:
    """Logits at the first, the second and the last of some forty tokens."""
    tokens = torch.arange(100, 140)[None]
    return suspect(tokens)[0, [0, 1, -1]]


LOADERS = Hunt(
    "9.5", "Which mistake is in which loader?", "A bug hunt", _suspect,
    bugs={
        "queries alone sorted": Bug(
            lambda: _suspect(partial(_each, names=("wq.weight",),
                                     change=partial(pairs_to_halves, head_dim=24))),
            "is right on one token, and equals your own copy whose `wq` alone was sorted"),
        "keys cut by n_heads": Bug(
            lambda: _suspect(partial(_each, names=("wk.weight",), change=_too_narrow)),
            "is right on one token, and equals your own copy with `wk` cut by n_heads on any text"),
        "scores not divided": Bug(
            lambda: _suspect(partial(_each, names=("wq.weight",), change=lambda w: w * 24**0.5)),
            "is right on one token, and equals your own copy with `wq` times the root of 24"),
        "theta of Llama 3": Bug(
            lambda: _suspect(rope_theta=THETA),
            "is right on one token and nearly right on two, and grows wrong with distance"),
        "rows of the table moved": Bug(
            lambda: _suspect(partial(_each, names=("tok_embeddings.weight",),
                                     change=lambda w: w.roll(1, 0))),
            "is wrong on one token, and right on it if you move the tokens and the logits"),
        "gate and up exchanged": Bug(
            lambda: _suspect(partial(_exchanged, one="w1", other="w3")),
            "has on one token the very logits of your own copy with w1 and w3 exchanged: compare"),
        "layers 1 and 2 exchanged": Bug(
            lambda: _suspect(partial(_exchanged, one="layers.1.", other="layers.2.")),
            "has on one token the very logits of your own copy with these layers exchanged: "
            "compare"),
        "key heads in turn": Bug(
            lambda: _suspect(_in_turn),
            "has on one token the very logits of your own copy whose query heads 1 and 2 have "
            "changed places, in `wq` and in `wo`: compare"),
    },
    hidden={"a": "theta of Llama 3", "b": "rows of the table moved", "c": "queries alone sorted",
            "d": HEALTHY, "e": "key heads in turn", "f": "scores not divided"},
    look=_look,
    hints=(
        "Begin with one token. What a position or a score does cannot be seen there: who is right?",
        "Then two tokens, and the last of a long text. Whose error is small first and grows?",
        "Token 7 means piece 7. If the rows have moved, which token do you have to give for it, "
        "and where among the logits is then the one for piece 9?",
        "Where two verdicts are left, make both: spoil `ours`, fill a model, compare logits.",
    ))

EXERCISES = [LOADERS]
