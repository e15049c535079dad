"""The exercise of chapter 11 on calibration, 11.4: a matrix rounded column by column."""

from collections.abc import Callable, Iterator

import torch
from torch import Generator, Tensor

from ..compress.gptq import gptq
from ..compress.grid import grid
from .data import Exercise, Inputs, Misconception, Probe, count


def _package_columns(w: Tensor, moment: Tensor, bits: int) -> Tensor:
    return gptq(w, moment, bits=bits, damping=0.0)


def _layer(rng: Generator, out: int, n: int, *, rows: int = 400, shared: float = 1.0,
           bits: int | None = None) -> Inputs:
    """Weights, and the second moment of inputs whose features have much in common."""
    mix = torch.eye(n) + shared * torch.randn(n, n, generator=rng)
    x = (torch.randn(rows, n, generator=rng) @ mix).double()
    return {"w": torch.randn(out, n, generator=rng).double(), "moment": x.T @ x / rows,
            "bits": bits or count(rng, 2, 4)}


def _apart(rng: Generator) -> Inputs:
    held = _layer(rng, 3, 6, bits=3)
    held["moment"] = held["moment"].diagonal().diag()
    return held


def _inverses(moment: Tensor) -> Iterator[Tensor]:
    """Of the columns from i on, one i after another."""
    for i in range(len(moment)):
        yield torch.linalg.inv(moment[i:, i:])


def _columns(*, pull: Callable[[Tensor, int], Tensor], sign: float = -1.0, again: bool = False,
             first: bool = False, last: bool = True) -> Callable:
    """Fix the columns from the left; `pull(moment, i)` says how an error moves the later ones."""

    def answer(w: Tensor, moment: Tensor, bits: int) -> Tensor:
        now, levels = w.clone(), grid(w, bits=bits)
        for i in range(w.shape[1] - (not last)):
            if again:
                levels = grid(now[:, i:], bits=bits)
            fixed = levels.nearest(now[:, i:i + 1])
            error = (w if first else now)[:, i:i + 1] - fixed
            now[:, i + 1:] += sign * error * pull(moment, i)
            now[:, i:i + 1] = fixed
        return now

    return answer


def _right(moment: Tensor, i: int) -> Tensor:
    row = torch.linalg.inv(moment[i:, i:])[0]
    return row[1:] / row[0]


def _whole_inverse(moment: Tensor, i: int) -> Tensor:
    row = torch.linalg.inv(moment)[i, i:]
    return row[1:] / row[0]


def _not_divided(moment: Tensor, i: int) -> Tensor:
    return torch.linalg.inv(moment[i:, i:])[0, 1:]


def _by_factor(upper: Callable[[Tensor], Tensor]) -> Callable[[Tensor, int], Tensor]:
    def pull(moment: Tensor, i: int) -> Tensor:
        row = upper(moment)[i, i:]
        return row[1:] / row[0]
    return pull


def _turned(answer: Callable) -> Callable:
    """Columns from the right."""
    return lambda w, moment, bits: answer(w.flip(1), moment.flip(0, 1), bits).flip(1)


def _sorted(answer: Callable) -> Callable:
    """Columns by the size of their inputs, the largest first."""
    def wrong(w: Tensor, moment: Tensor, bits: int) -> Tensor:
        order = moment.diagonal().argsort(descending=True)
        made = answer(w[:, order], moment[order][:, order], bits)
        return made[:, order.argsort()]
    return wrong


def _all_at_once(w: Tensor, moment: Tensor, bits: int) -> Tensor:
    """Round everything, then move every weight for every other's error, and round again."""
    levels = grid(w, bits=bits)
    off = levels.nearest(w) - w
    inverse = torch.linalg.inv(moment)
    pull = inverse / inverse.diagonal()[:, None]
    return levels.nearest(w + off @ (pull - torch.eye(len(moment))))


RIGHT = _columns(pull=_right)
COLUMNS = Exercise(
    "11.4", "Errors that later columns make up for", "Harder: column by column", _package_columns,
    probes=(
        Probe("five rows of eight", lambda rng: _layer(rng, 5, 8)),
        Probe("two bits", lambda rng: _layer(rng, 4, 6, bits=2)),
        Probe("inputs with nothing in common", _apart),
        Probe("much in common", lambda rng: _layer(rng, 6, 12, shared=3.0, bits=3)),
        Probe("one row of two", lambda rng: _layer(rng, 1, 2, bits=3)),
        Probe("many columns", lambda rng: _layer(rng, 3, 24, bits=4)),
    ),
    misconceptions=(
        Misconception("each by itself", lambda w, moment, bits: grid(w, bits=bits).nearest(w),
                      "that is round to nearest: no weight was moved for another one's error."),
        Misconception("the other way", _columns(pull=_right, sign=1.0),
                      "you moved the later columns the wrong way. They doubled the error."),
        Misconception("the inverse of all", _columns(pull=_whole_inverse),
                      "you took one inverse for all columns. Those that are fixed cannot move any "
                      "more: only the moment of the columns that are left is inverted."),
        Misconception("not divided", _columns(pull=_not_divided),
                      "you left out the diagonal: the row of the inverse is divided by its first "
                      "number, as that moves the column itself by exactly its error."),
        Misconception("the moment itself", _columns(pull=lambda h, i: h[i, i + 1:] / h[i, i]),
                      "you used the moment where its inverse belongs. (Divided by its diagonal it "
                      "says how to guess an input from one other, and not what to do to weights.)",
                      also=(_columns(pull=lambda h, i: h[i, i + 1:]),
                            _columns(pull=lambda h, i: h[i, i + 1:] / h[i, i], sign=1.0),
                            _columns(pull=lambda h, i: h[i, i + 1:] / h[i + 1:, i + 1:].diagonal(),
                                     sign=1.0))),
        Misconception("the factor of the moment", _columns(pull=_by_factor(
                          lambda h: torch.linalg.cholesky(h, upper=True))),
                      "you took the Cholesky factor of the moment. It is that of the inverse."),
        Misconception("the other factor", _columns(pull=_by_factor(
                          lambda h: torch.linalg.inv(torch.linalg.cholesky(h)).T)),
                      "you inverted the factor of the moment: that gives U U^T for the inverse. "
                      "Columns from the left need U^T U: invert first, then take the factor."),
        Misconception("the first weights' errors", _columns(pull=_right, first=True),
                      "you took a column's error from the weights as they were in the beginning. "
                      "It is that of the weights as they have been moved."),
        Misconception("levels laid anew", _columns(pull=_right, again=True),
                      "you laid new levels at every column. A row has one set, from its weights as "
                      "they were given."),
        Misconception("from the right", _turned(RIGHT),
                      "you took the columns from the right."),
        Misconception("the largest first", _sorted(RIGHT),
                      "you took the columns with the largest inputs first. That often helps, and "
                      "is another order: from the left, please."),
        Misconception("the last one left", _columns(pull=_right, last=False),
                      "your last column was not rounded."),
        Misconception("all at once", _all_at_once,
                      "you rounded all columns at once. An error is known only after the columns "
                      "before it were fixed."),
        Misconception("only the next", _columns(pull=lambda h, i: _right(h, i) * (
                          torch.arange(len(h) - i - 1) == 0)),
                      "you moved the next column alone. All that are left can help."),
    ),
    hints=(
        "Fix columns 0 to i. For the rest tr(D H D^T) is a parabola: where is its lowest point? "
        "Set the derivative by the free part of D to zero.",
        "One step at a time: with H' the moment of columns i and those after it, the column's "
        "error e moves the later ones by -e P[0, 1:] / P[0, 0], P = inverse(H').",
        "Levels once, from w: low and scale of each row. Then for i from the left: round column i, "
        "take the error (moved weight less rounded one), move the columns behind it.",
    ))

EXERCISES = [COLUMNS]
