"""Answers to chapter 10: unusual right ones, two guesses exactly and by the dice, and the hunt."""

import math
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from torch import Tensor

from llama_edu.exercises import check, suspects
from llama_edu.exercises.ch10_pages import PLACE
from llama_edu.exercises.ch10_two_guesses import TWO
from llama_edu.exercises.data import SEED
from llama_edu.family.accounting import (
    forward_flops,
    kv_bytes,
    parameters,
    pass_seconds,
)
from llama_edu.family.releases import release


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the reader's own progress out of it."""
    monkeypatch.chdir(tmp_path)


def two_clocks(weights: float, cache: float, operations: float, batch: int, bandwidth: float,
               rate: float) -> tuple[float, float]:
    clocks = (weights + cache * batch) / bandwidth, operations * batch / rate
    denominator = operations * bandwidth - cache * rate
    bend = weights * rate / denominator if denominator > 0 else float("inf")
    return sorted(clocks)[-1], bend


def by_index(pages: Tensor, table: Tensor, length: int) -> Tensor:
    i = torch.arange(length)
    size = pages.shape[1]
    return pages[table[i // size], i % size].permute(1, 0, 2)


def by_loop(pages: Tensor, table: Tensor, length: int) -> Tensor:
    rows = [pages[block, place] for block in table.tolist() for place in range(pages.shape[1])]
    return torch.stack(rows[:length], dim=1)


def by_cases(table: list[int], length: int, size: int, holders: list[int], idle: list[int]):
    if length % size and holders[table[length // size]] == 1:
        return table[:], holders[:], idle[:], None
    new, *rest = idle
    counts = [n + (block == new) for block, n in enumerate(holders)]
    if length % size == 0:
        return [*table, new], counts, rest, None
    old = table[length // size]
    counts[old] -= 1
    return [*table[:-1], new], counts, rest, old


def twice(p: Tensor, q: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    def once(p: Tensor) -> tuple[Tensor, Tensor]:
        both = torch.minimum(p, q)
        return both / q, (p - both) / (p - both).sum()

    first, left = once(p)
    return first, *once(left)


@pytest.mark.parametrize(("id", "answer"), [
    ("10.1", two_clocks), ("10.2", by_index), ("10.2", by_loop), ("10.3", by_cases),
    ("10.4", twice)])
def test_other_ways_to_the_same_end_pass(id: str, answer: Callable):
    assert check(id, answer).passed


def clocks_exchanged(*given: float) -> tuple[float, float]:
    return two_clocks(*given)[::-1]


def lists_changed(table: list[int], length: int, size: int, holders: list[int], idle: list[int]):
    found = by_cases(table, length, size, holders, idle)
    table[:], holders[:], idle[:] = found[:3]
    return found


def pages_turned(pages: Tensor, table: Tensor, length: int) -> Tensor:
    return by_index(pages, table, length).flip(0)


def replaced_by_softmax(p: Tensor, q: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    first, second, instead = twice(p, q)
    return first, second, instead.softmax(-1)


@pytest.mark.parametrize(("id", "answer", "said"), [
    ("10.1", clocks_exchanged, "from back to front"),
    ("10.2", pages_turned, "back to front along the axis"),
    ("10.3", lists_changed, "changed its argument `table`"),
    ("10.4", lambda p, q: twice(p, q)[:2], "a length of 2; 3 is needed"),
    ("10.4", replaced_by_softmax, "item 2"),
])
def test_an_answer_that_nobody_foresaw_is_told_what_is_wrong(id: str, answer: Callable, said: str):
    assert said in str(check(id, answer))


def test_the_clocks_are_those_of_the_package():
    config, before, batch = release("llama-3.1-8b").config, 1024, 32
    p = parameters(config)
    reading, computing = pass_seconds(config, batch=batch, before=before, bits=16, cache_bits=16,
                                      gb_per_second=3350, tflops=989.4)
    seconds, bend = two_clocks(
        (p.total - p.embedding) * 2, kv_bytes(config, tokens=before, batch=1, bits=16),
        forward_flops(config, tokens=1, before=before), batch, 3.35e12, 989.4e12)
    assert seconds == pytest.approx(max(reading, computing))
    assert bend == math.inf


def exact(p: list[Fraction], q: list[Fraction]) -> tuple[list[Fraction], Fraction]:
    """What comes out by the rule of 10.4, in fractions, and how often both guesses are refused."""
    def keep(target: list[Fraction]) -> list[Fraction]:
        return [min(Fraction(1), a / b) for a, b in zip(target, q, strict=True)]

    def left(target: list[Fraction]) -> list[Fraction]:
        lacking = [max(Fraction(0), a - b) for a, b in zip(target, q, strict=True)]
        return [each / sum(lacking) for each in lacking]

    first, rest = keep(p), left(p)
    second, instead = keep(rest), left(rest)
    refused = 1 - sum(b * f for b, f in zip(q, first, strict=True))
    again = 1 - sum(b * s for b, s in zip(q, second, strict=True))
    out = [b * f + refused * (b * s + again * r)
           for b, f, s, r in zip(q, first, second, instead, strict=True)]
    return out, refused * again


def test_two_guesses_leave_the_distribution_exactly_as_it_is():
    p = [Fraction(n, 24) for n in (12, 6, 4, 2)]
    q = [Fraction(n, 24) for n in (4, 12, 2, 6)]
    out, refused = exact(p, q)
    assert out == p
    assert refused < sum(abs(a - b) for a, b in zip(p, q, strict=True)) / 2

    tables = torch.tensor([[float(n) for n in row] for row in (p, q)], dtype=torch.float64)
    first, second, instead = TWO.reference(*tables)
    by_table = tables[1] @ (1 - first) * (tables[1] @ (1 - second))
    assert by_table == pytest.approx(float(refused))
    assert instead.sum() == pytest.approx(1)


@pytest.mark.parametrize("probe", TWO.probes, ids=lambda each: each.name)
def test_two_guesses_drawn_and_kept_by_the_dice_come_out_as_p(probe):
    p, q = probe.inputs(seed=SEED).values()
    first, second, instead = TWO.reference(p, q)
    n, dice = 40_000, torch.Generator().manual_seed(0)
    a, b = torch.multinomial(q, 2 * n, replacement=True, generator=dice).view(2, n)
    if not instead.any():
        instead = p
    other = torch.multinomial(instead, n, replacement=True, generator=dice)
    dice_a, dice_b = torch.rand(2, n, generator=dice)
    said = torch.where(dice_a < first[a], a, torch.where(dice_b < second[b], b, other))
    found = said.bincount(minlength=len(p)) / n
    torch.testing.assert_close(found.double(), p, rtol=0, atol=4 / (2 * n**0.5))    # four sigma


@pytest.mark.parametrize("probe", PLACE.probes, ids=lambda each: each.name)
def test_every_block_is_held_or_idle_after_a_token(probe):
    _, holders, idle, _ = PLACE.reference(**probe.inputs(seed=SEED))
    assert sorted(idle) == [block for block, n in enumerate(holders) if not n]


def test_the_caches_of_the_hunt_show_what_the_chapter_says_of_them():
    make = suspects("10.5")
    alone = {name: each(8, 4) for name, each in make.items()}
    for cache in alone.values():
        cache.append("x", [1, 2, 3, 4, 5])
    assert [name for name, cache in alone.items() if cache.read("x") != [1, 2, 3, 4, 5]] == ["b"]
    assert alone["b"].read("x") == [5, 2, 3, 4, 5]

    for cache in alone.values():
        cache.end("x")
        cache.append("x", [6])
        cache.append("y", [7] * 5)
    read = {name: cache.read("x") for name, cache in alone.items()}
    assert read["f"] == [7]
    assert len(read["c"]) == 6
    assert [name for name, row in read.items() if row == [6]] == ["a", "b", "d", "e"]

    forked = {name: each(8, 4) for name, each in make.items() if name in "ade"}
    for cache in forked.values():
        cache.append("x", [1, 2, 3])
        cache.fork("x", "y")
        cache.append("y", [4])
        cache.append("x", [5])
    assert {name: cache.read("y")[-1] for name, cache in forked.items()} == {"a": 5, "d": 4, "e": 5}
    for cache in forked.values():
        cache.end("x")
        cache.append("z", [9])
    assert {name: cache.read("y")[0] for name, cache in forked.items()} == {"a": 9, "d": 1, "e": 1}
