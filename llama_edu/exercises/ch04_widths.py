"""The exercises of chapter 04 on widths: the rule of the releases, and what shared keys pay for."""

import math
from collections.abc import Callable
from dataclasses import replace

from torch import Generator

from ..config import ModelConfig, swiglu_width
from ..family.accounting import parameters
from ..family.releases import release
from .data import Exercise, Inputs, Misconception, Probe, count

# -- 4.5 -----------------------------------------------------------------------------------------

def _up(width: float, multiple_of: int) -> int:
    return multiple_of * math.ceil(width / multiple_of)


def _two_thirds(dim: int) -> int:
    return int(2 * 4 * dim / 3)


def _published(id: str) -> Probe:
    row = release(id)
    return Probe(row.name, lambda rng: {"dim": row.config.dim, "multiple_of": row.multiple_of,
                                        "multiplier": row.ffn_dim_multiplier or 1.0})


def _drawn(low: int, high: int, multiplier: float) -> Callable[[Generator], Inputs]:
    return lambda rng: {"dim": count(rng, low, high), "multiple_of": count(rng, 20, 30),
                        "multiplier": round(multiplier + count(rng, 1, 9) / 10, 1)}


WIDTH = Exercise(
    "4.5", "The width rule", "Why eight thirds",
    lambda dim, multiple_of, multiplier: swiglu_width(dim, multiple_of=multiple_of,
                                                      multiplier=multiplier),
    probes=(
        Probe("a small layer", _drawn(100, 200, 1.0)),
        Probe("a wide one", _drawn(1000, 2000, 1.5)),
        Probe("nothing to round up", lambda rng: {"dim": 96, "multiple_of": 64, "multiplier": 1.0}),
        Probe("two fractions", lambda rng: {"dim": 13, "multiple_of": 1, "multiplier": 1.6}),
        Probe("a fraction at the end", lambda rng: {"dim": 11, "multiple_of": 43,
                                                    "multiplier": 1.5}),
        Probe("a small fraction", lambda rng: {"dim": 14, "multiple_of": 1, "multiplier": 1.3}),
        Probe("a multiplier above two", lambda rng: {"dim": 30, "multiple_of": 7,
                                                     "multiplier": 2.6}),
        *map(_published, ("llama-1-7b", "llama-1-13b", "llama-2-70b", "llama-3-8b",
                          "llama-3.1-405b", "llama-3.2-1b")),
    ),
    misconceptions=(
        Misconception("2/3 of dim", lambda dim, multiple_of, multiplier:
                      _up(int(multiplier * int(2 * dim / 3)), multiple_of),
                      "you took two thirds of dim. It is two thirds of 4 * dim, the classic "
                      "width."),
        Misconception("4 dim", lambda dim, multiple_of, multiplier:
                      _up(int(multiplier * 4 * dim), multiple_of),
                      "you kept the classic width of 4 * dim. Three matrices of that width hold "
                      "half as much again; take two thirds of it."),
        Misconception("rounded down", lambda dim, multiple_of, multiplier:
                      multiple_of * (int(multiplier * _two_thirds(dim)) // multiple_of),
                      "you rounded down to a multiple. Meta rounds up."),
        Misconception("rounded to nearest", lambda dim, multiple_of, multiplier:
                      multiple_of * round(int(multiplier * _two_thirds(dim)) / multiple_of),
                      "you rounded to the nearest multiple. That agrees for the 7B and the 70B, "
                      "and is one multiple short for the 13B. Meta rounds up."),
        Misconception("one multiple too many", lambda dim, multiple_of, multiplier:
                      multiple_of * (int(multiplier * _two_thirds(dim)) // multiple_of + 1),
                      "you added a multiple even where nothing was left over. `//` rounds down: "
                      "add multiple_of - 1 before you divide."),
        Misconception("multiplier after rounding", lambda dim, multiple_of, multiplier:
                      int(multiplier * _up(_two_thirds(dim), multiple_of)),
                      "you rounded first and multiplied afterwards, so the result is no multiple "
                      "any more. The rounding comes last."),
        Misconception("rounded up twice", lambda dim, multiple_of, multiplier: _up(
                          int(multiplier * _up(_two_thirds(dim), multiple_of)), multiple_of),
                      "you rounded up before the multiplier, and once more behind it. Only the "
                      "last step rounds up."),
        Misconception("multiplier cut", lambda dim, multiple_of, multiplier:
                      _up(int(multiplier) * _two_thirds(dim), multiple_of),
                      "you cut the multiplier to a whole number. What is cut is the product."),
        Misconception("fraction kept", lambda dim, multiple_of, multiplier:
                      _up(int(multiplier * 8 * dim / 3), multiple_of),
                      "you carried the fraction of 8 * dim / 3 into the multiplication. Meta cuts "
                      "it off first: int, then the multiplier, then int again.",
                      also=(lambda dim, multiple_of, multiplier:
                            _up(multiplier * 8 * dim / 3, multiple_of),)),
        Misconception("second cut left out", lambda dim, multiple_of, multiplier:
                      _up(multiplier * _two_thirds(dim), multiple_of),
                      "you rounded up from a fraction. The width is cut to a whole number after "
                      "the multiplier as well, before the rounding up."),
        Misconception("rounded, not cut", lambda dim, multiple_of, multiplier:
                      _up(round(multiplier * _two_thirds(dim)), multiple_of),
                      "you rounded a fraction where Meta cuts it off: int, and neither round nor "
                      "ceil. See the rows with dim 10 and 11.",
                      also=tuple(
                          lambda dim, multiple_of, multiplier, last=last, first=first:
                          _up(last(multiplier * first(8 * dim / 3)), multiple_of)
                          for last, first in ((round, round), (int, round), (float, math.ceil),
                                              (int, math.ceil)))),
        Misconception("the number of multiples", lambda dim, multiple_of, multiplier:
                      _up(int(multiplier * _two_thirds(dim)), multiple_of) // multiple_of,
                      "you returned how many multiples there are. The width is that many times "
                      "multiple_of."),
        Misconception("the rest added", lambda dim, multiple_of, multiplier:
                      int(multiplier * _two_thirds(dim))
                      + int(multiplier * _two_thirds(dim)) % multiple_of,
                      "you added what is left over. What is missing to the next multiple is to be "
                      "added: -width % multiple_of."),
        Misconception("dim cut first", lambda dim, multiple_of, multiplier:
                      _up(int(multiplier * 8 * (dim // 3)), multiple_of),
                      "you divided dim before you multiplied, so more is cut off. Multiply first: "
                      "8 * dim, then a third.",
                      also=(lambda dim, multiple_of, multiplier:
                            _up(int(multiplier * 4 * (2 * dim // 3)), multiple_of),)),
        Misconception("3/8", lambda dim, multiple_of, multiplier:
                      _up(int(multiplier * (3 * dim // 8)), multiple_of),
                      "your fraction is another one than 8/3: two thirds of 4 * dim.",
                      also=tuple(lambda dim, multiple_of, multiplier, k=k:
                                 _up(int(multiplier * int(k * dim)), multiple_of)
                                 for k in (3, 2, 3.5, 2.67, 4 / 3, 16 / 3))),
        Misconception("one third cut", lambda dim, multiple_of, multiplier:
                      _up(int(multiplier * 2 * (4 * dim // 3)), multiple_of),
                      "you cut a third of 4 * dim and doubled it. Cut two thirds: the doubling "
                      "comes first."),
        Misconception("multiplier forgotten", lambda dim, multiple_of, multiplier:
                      _up(_two_thirds(dim), multiple_of), "you left the multiplier out."),
        Misconception("not rounded", lambda dim, multiple_of, multiplier:
                      int(multiplier * _two_thirds(dim)),
                      "you did not round up to a multiple of multiple_of."),
    ),
    hints=(
        "Where multiple_of is 1 nothing is rounded up. 8/3 of 10 is 26.67, and 1.5 times that is "
        "40, but the row says 39. What was cut off, and when?",
        "int() cuts the fraction off: once on 8 * dim / 3, and once more after the multiplier.",
        "To round up in whole numbers: multiple_of * ((width + multiple_of - 1) // multiple_of).",
    ))

# -- 4.6 -----------------------------------------------------------------------------------------


def _paid_width(config: ModelConfig, n_kv_heads: int, multiple_of: int) -> int:
    def total(hidden_dim: int) -> int:
        return parameters(replace(config, n_kv_heads=n_kv_heads, hidden_dim=hidden_dim)).total

    one_more = total(2 * multiple_of) - total(multiple_of)
    left = parameters(config).total - total(multiple_of)
    return multiple_of * (1 + left // one_more)


def _saved(config: ModelConfig, n_kv_heads: int) -> int:
    return 2 * config.dim * (config.n_kv_heads - n_kv_heads) * config.head_dim


def _down(width: float, multiple_of: int) -> int:
    return int(width // multiple_of) * multiple_of


def _spends(share: float) -> Callable[[ModelConfig, int, int], int]:
    """Spend another share of what shared keys save in one layer."""
    return lambda config, n_kv_heads, multiple_of: _down(
        config.hidden_dim + share * _saved(config, n_kv_heads) / (3 * config.dim), multiple_of)


def _of(id: str, keys: int, multiple_of: int, **changes: int) -> Probe:
    row = release(id)
    inputs = {"config": replace(row.config, **changes), "n_kv_heads": keys,
              "multiple_of": multiple_of}
    made_up = ", made up" * bool(changes)
    return Probe(f"{row.name}{made_up}, {keys} key heads", lambda rng: inputs)


def _drawn_shape(rng: Generator) -> Inputs:
    config = replace(release("llama-1-7b").config, dim=96, n_heads=8, n_kv_heads=8, own_head_dim=16,
                     n_layers=count(rng, 2, 9), hidden_dim=count(rng, 200, 300))
    return {"config": config, "n_kv_heads": 2, "multiple_of": count(rng, 5, 9)}


PAID = Exercise(
    "4.6", "What shared keys pay for", "In the Llamas", _paid_width,
    probes=(
        Probe("a small model", _drawn_shape),
        _of("llama-2-70b", 8, 256, n_kv_heads=64, hidden_dim=22_016),
        _of("llama-1-7b", 8, 256),
        _of("llama-2-13b", 1, 512),
        _of("llama-3-8b", 2, 100),
        _of("llama-3-8b", 8, 1024),
        _of("llama-1-7b", 16, 1),
        _of("llama-3.2-1b", 4, 64, hidden_dim=8_100),
    ),
    misconceptions=(
        Misconception("keys only", _spends(1 / 2),
                      "you saved on the keys and forgot the values: wk and wv both shrink."),
        Misconception("queries and output too", _spends(2),
                      "you let wq and wo shrink as well. The query heads stay as many as they "
                      "were; only wk and wv have fewer."),
        Misconception("two matrices", _spends(3 / 2),
                      "you paid for two matrices. One more hidden feature costs a row of w1, a "
                      "row of w3 and a column of w2."),
        Misconception("one matrix", _spends(3),
                      "you paid for one matrix. One more hidden feature costs a row of w1, a "
                      "row of w3 and a column of w2."),
        Misconception("the gain alone", lambda config, n_kv_heads, multiple_of:
                      _down(_saved(config, n_kv_heads) / (3 * config.dim), multiple_of),
                      "you returned what is added. The new width is the old one and that."),
        Misconception("rounded up", lambda config, n_kv_heads, multiple_of: -_down(
                          -config.hidden_dim - _saved(config, n_kv_heads) / (3 * config.dim),
                          multiple_of),
                      "you rounded up, and the model then has more parameters than before. Here "
                      "the budget decides: round down."),
        Misconception("rounded to nearest", lambda config, n_kv_heads, multiple_of: _down(
                          config.hidden_dim + _saved(config, n_kv_heads) / (3 * config.dim)
                          + multiple_of / 2, multiple_of),
                      "you rounded to the nearest multiple, which may be more than is paid for. "
                      "Round down."),
        Misconception("only the gain rounded", lambda config, n_kv_heads, multiple_of:
                      config.hidden_dim
                      + _down(_saved(config, n_kv_heads) / (3 * config.dim), multiple_of),
                      "you rounded what is added. The width itself is to be a multiple, and the "
                      "old one need not be."),
        Misconception("not rounded", lambda config, n_kv_heads, multiple_of:
                      config.hidden_dim + _saved(config, n_kv_heads) // (3 * config.dim),
                      "you did not round down to a multiple of multiple_of."),
        Misconception("all layers", lambda config, n_kv_heads, multiple_of: _down(
                          config.hidden_dim
                          + config.n_layers * _saved(config, n_kv_heads) / (3 * config.dim),
                          multiple_of),
                      "you spent the savings of all layers on one. Each layer saves, and each "
                      "grows: n_layers falls out."),
        Misconception("one layer for all", lambda config, n_kv_heads, multiple_of: _down(
                          config.hidden_dim
                          + _saved(config, n_kv_heads) / (3 * config.dim * config.n_layers),
                          multiple_of),
                      "you spent the savings of one layer on all. Each layer saves, and each "
                      "grows: n_layers falls out."),
        Misconception("head_dim from dim", lambda config, n_kv_heads, multiple_of: _down(
                          config.hidden_dim + 2 * (config.n_kv_heads - n_kv_heads) * config.dim
                          / config.n_heads / 3, multiple_of),
                      "you took dim / n_heads for the features of a head. A config may say "
                      "otherwise: use config.head_dim.",
                      also=(lambda config, n_kv_heads, multiple_of: _down(
                          config.hidden_dim + 2 * (config.n_kv_heads - n_kv_heads)
                          * (config.dim // config.n_heads) // 3, multiple_of),)),
        Misconception("head_dim forgotten", lambda config, n_kv_heads, multiple_of: _down(
                          config.hidden_dim + 2 * (config.n_kv_heads - n_kv_heads) / 3,
                          multiple_of),
                      "you counted a head as one number. It has config.head_dim features."),
        Misconception("what is left", lambda config, n_kv_heads, multiple_of: _down(
                          config.hidden_dim + 2 * n_kv_heads * config.head_dim / 3, multiple_of),
                      "you spent what the remaining key/value heads cost. What is saved is what "
                      "the missing ones cost."),
        Misconception("from n_heads", lambda config, n_kv_heads, multiple_of: _down(
                          config.hidden_dim + 2 * (config.n_heads - n_kv_heads)
                          * config.head_dim / 3, multiple_of),
                      "you counted from n_heads. The model may share its keys already: it had "
                      "config.n_kv_heads of them."),
        Misconception("dim not cancelled", lambda config, n_kv_heads, multiple_of:
                      _down(config.hidden_dim + _saved(config, n_kv_heads) / 3, multiple_of),
                      "you spent numbers as if each bought a hidden feature. One more feature "
                      "costs 3 * dim numbers in a layer.",
                      also=(lambda config, n_kv_heads, multiple_of: _down(
                          config.hidden_dim + 2 * (config.n_kv_heads - n_kv_heads) * config.dim / 3,
                          multiple_of),)),
        Misconception("three for two", _spends(9 / 4),
                      "you turned the fraction round: what is saved counts twice, for wk and wv, "
                      "and one more feature costs three times."),
        Misconception("narrower", _spends(-1),
                      "you made the layer narrower by what was saved. What was saved is spent: "
                      "the layer grows."),
        Misconception("a multiple too few", lambda config, n_kv_heads, multiple_of:
                      _spends(1)(config, n_kv_heads, multiple_of) - multiple_of,
                      "you stopped one multiple too early: one more can still be paid for."),
        Misconception("in proportion", lambda config, n_kv_heads, multiple_of: _down(
                          config.hidden_dim * config.n_kv_heads / n_kv_heads, multiple_of),
                      "you let the width grow in proportion as the heads shrink. What counts is "
                      "how many numbers are saved, and what one more feature costs."),
        Misconception("the number of multiples", lambda config, n_kv_heads, multiple_of:
                      _spends(1)(config, n_kv_heads, multiple_of) // multiple_of,
                      "you returned how many multiples there are. The width is that many times "
                      "multiple_of."),
        Misconception("all heads", lambda config, n_kv_heads, multiple_of: _down(
                          config.hidden_dim + 2 * config.n_kv_heads * config.head_dim / 3,
                          multiple_of),
                      "you spent what all of the old key/value heads cost. Those that stay cost "
                      "still."),
        Misconception("times 1.3", lambda config, n_kv_heads, multiple_of:
                      _down(1.3 * config.hidden_dim, multiple_of),
                      "you took the multiplier of the 70B. It spends more than sharing saves; "
                      "the exercise asks for what is paid for."),
    ),
    hints=(
        "In one layer, wk and wv together hold 2 * dim * n_kv_heads * head_dim numbers. How many "
        "go?",
        "One more hidden feature costs 3 * dim numbers in one layer. dim and n_layers fall out.",
        "Add what can be bought to config.hidden_dim, then go down to a multiple.",
    ))

EXERCISES = [WIDTH, PAID]
