"""Peers run in turn, several times over; a busy moment of the machine then falls on all alike."""

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

Work = Callable[[], object]
Times = dict[str, list[float]]
BANDWIDTH_FLOATS = 64 * 2**20       # 256 MiB


@contextmanager
def threads(n: int) -> Iterator[None]:
    """torch on so many threads, and then on as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def interleaved(works: dict[str, Work], *, rounds: int) -> Times:
    """Seconds on the wall of every work in every round. One run before that is not counted."""
    times: Times = {name: [] for name in works}
    for counted in [False] + [True] * rounds:
        for name, work in works.items():
            began = time.perf_counter()
            work()
            if counted:
                times[name].append(time.perf_counter() - began)
    return times


def ratios(times: Times, name: str, base: str) -> list[float]:
    """How many times as fast as `base` it was, round by round."""
    return [slow / fast for fast, slow in zip(times[name], times[base], strict=True)]


def spread(values: list[float]) -> str:
    """Median, and from where to where."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def bandwidth() -> tuple[Work, int]:
    """A work that reads a memory which no cache of a processor holds, and its bytes."""
    numbers = torch.ones(BANDWIDTH_FLOATS)
    return numbers.sum, numbers.nbytes


def machine() -> Iterator[str]:
    yield (f"torch {torch.__version__}, {torch.get_num_threads()} threads, float32, "
           f"{torch.backends.cpu.get_cpu_capability()}.")
