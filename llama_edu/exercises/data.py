"""An exercise as data: a reference, probes that tell mistakes apart, and the mistakes.

A new exercise is one `Exercise(...)` in the list `EXERCISES` of a file `chNN_topic.py` here.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

SEED, OTHER_SEED = 1, 2         # of the inputs that a check draws
Inputs = dict[str, Any]         # parameter name: value, in the order of the parameters


def call_plainly(answer: Callable, *values: Any) -> Any:
    """Call an answer that is a function of the probe's values, in their order."""
    return answer(*values)


@dataclass(frozen=True)
class Probe:
    """One question put to an answer, with a name that a learner understands.

    `make` draws the inputs from the generator that it is given. It is called again for every
    use, so inputs are always fresh; and with a second seed, to see which parameters matter. So
    values come from the generator, sizes do not.
    """

    name: str
    make: Callable[[Generator], Inputs]

    def inputs(self, *, seed: int) -> Inputs:
        """Fresh inputs: equal for equal seeds, and never shared with an earlier call."""
        return self.make(torch.Generator().manual_seed(seed))


@dataclass(frozen=True)
class Misconception:
    """A mistake that people really make, and the sentence that explains it.

    `why` begins in the middle: it is read after the exercise's id, as in "1.1 you subtracted
    the mean: ...". `wrong` has the form of an answer; `also` are other ways to make the mistake,
    such as the same in the input's own precision. `section` is the heading that explains this
    mistake, where that is not the exercise's own.
    """

    name: str
    wrong: Callable
    why: str
    also: tuple[Callable, ...] = ()
    section: str | None = None


class Numbered:
    """What has an id, "chapter.number", and a section of that chapter to read again."""

    id: str
    section: str

    @property
    def chapter(self) -> int:
        """The chapter's number, the first half of the id."""
        return int(self.id.split(".")[0])

    @property
    def place(self) -> str:
        """Where to read again, as in `chapter 1, "The idea"`."""
        return self.place_of(self.section)

    def place_of(self, section: str | None) -> str:
        """Where another section is, or this one's own."""
        return f'chapter {self.chapter}, "{section or self.section}"'


@dataclass(frozen=True)
class Exercise(Numbered):
    """What `check` knows about one exercise.

    `reference` calls the package itself, never a second copy of it. `section` is the heading to
    read again. `adapt(answer, *values)` says how to ask an answer that is not a plain function:
    a class, for instance, as `lambda cls, dim, x: cls(dim)(x)`. `most_lines` stops an answer
    after so many lines of Python on one probe: fewer where a loop without end would fill memory.
    `gradients` names the inputs that training needs the gradient of, where the answer is a part
    of a model or of its loss: on the first probe, it must equal the reference's.
    """

    id: str                     # "chapter.number", as in "1.1"
    title: str
    section: str
    reference: Callable
    probes: tuple[Probe, ...]
    misconceptions: tuple[Misconception, ...]
    hints: tuple[str, ...]
    adapt: Callable = call_plainly
    most_lines: int = 300_000
    gradients: tuple[str, ...] = ()


def whole(rng: Generator, *shape: int) -> Tensor:
    """Whole numbers from 1 to 9, in float32: probes that one can follow by hand."""
    return torch.randint(1, 10, shape, generator=rng).float()


def normal(rng: Generator, *shape: int, mean: float = 0.0, std: float = 1.0) -> Tensor:
    """Normally distributed numbers in float32. A mean far from zero exposes forgotten centring."""
    return mean + std * torch.randn(shape, generator=rng)


def between(rng: Generator, low: float, high: float) -> float:
    """One number with two decimals, such as an epsilon large enough to be seen."""
    return round(low + (high - low) * torch.rand((), generator=rng).item(), 2)


def count(rng: Generator, low: int, high: int) -> int:
    """One whole number from low to high, both included."""
    return int(torch.randint(low, high + 1, (), generator=rng))
