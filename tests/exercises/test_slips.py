"""One change in the right code that does what a wrong answer did is found, and all is put back."""

import ast
import sys
from functools import cache
from pathlib import Path

import pytest
import torch

from llama_edu import layers
from llama_edu.exercises import mutations, slips
from llama_edu.exercises.judge import judge
from llama_edu.exercises.registry import exercises

ATTENTION = exercises()["3.2"]


def attention(q, k, v, mask, *, scale=None, spoil=lambda scores: scores):
    g = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(g, 1), v.repeat_interleave(g, 1)
    scores = q @ k.mT / (q.shape[-1] ** 0.5 if scale is None else scale)
    return spoil(scores).masked_fill(~mask, -torch.inf).softmax(-1) @ v


def said_of(exercise, answer, monkeypatch) -> str:
    """What is said of an answer where no misconception is known."""
    monkeypatch.setattr(sys.modules["llama_edu.exercises.judge"], "diagnose", lambda *_: None)
    return judge(exercise, answer).message


def test_a_step_left_out_is_found_in_the_package(monkeypatch):
    said = said_of(ATTENTION, lambda *x: attention(*x, scale=1.0), monkeypatch)
    assert said == ("returned what the right code gives with "
                    "`/ math.sqrt(q.shape[-1])` left out, in one place.")


def test_equal_lines_at_the_same_place_of_another_file_are_left_alone(monkeypatch):
    source = Path(layers.__file__).read_text(encoding="utf-8")
    copy = {"__name__": "elsewhere", "__package__": layers.__package__}
    exec(compile(source, "elsewhere.py", "exec"), copy)
    assert copy["attend"].__code__ == layers.attend.__code__
    said = said_of(ATTENTION, lambda *x: attention(*x, scale=1.0), monkeypatch)
    assert "left out, in one place" in said


def test_what_no_single_slip_does_is_not_made_up(monkeypatch):
    said = said_of(ATTENTION, lambda *x: attention(*x, spoil=lambda s: s.sin() * 1.7), monkeypatch)
    assert "right code" not in said


def test_the_package_is_as_it_was_afterwards(monkeypatch):
    before = {name: each.__code__ for name, each in vars(layers).items()
              if hasattr(each, "__code__")}
    said_of(ATTENTION, lambda *x: attention(*x, spoil=torch.sin), monkeypatch)
    assert {name: vars(layers)[name].__code__ for name in before} == before
    assert judge(ATTENTION, lambda *x: attention(*x)).passed


def test_a_cache_that_grew_is_emptied():
    @cache
    def double(x):
        return 2 * x

    double.__module__ = "llama_edu.made_up"
    double(1)
    with slips._fresh_caches():
        pass
    assert double.cache_info().currsize == 1
    with slips._fresh_caches():
        double(2)
    assert double.cache_info().currsize == 0


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("return a < b", {("`<=` for `<`", "return a <= b"), ("`>` for `<`", "return a > b")}),
        ("return a - b", {("`- b` left out", "return a"), ("`+` for `-`", "return a + b")}),
        ("return x.sum(-1)", {("`mean` for `sum`", "return x.mean(-1)"),
                              ("`sum` left out", "return x"), ("`2` for `1`", "return x.sum(-2)")}),
        ("return f(a, b)", {("the first two values of `f` exchanged", "return f(b, a)")}),
        ("return x[:n]", {("the slice's upper bound left out", "return x[:]"),
                          ("the slice's upper bound one further", "return x[:n + 1]")}),
        ("x += 1", {("`x += 1` left out", "pass"), ("`=` for `+=`", "x = 1")}),
        ("return a and b", {("`or` for `and`", "return a or b"), ("`a` left out", "return b")}),
        ("return [i for i in x if i]", {("`if i` left out", "return [i for i in x]")}),
        ("return a if c else b", {("the case `c` left out", "return b")}),
    ],
)
def test_changes_are_those_that_people_make(code, expected):
    tree = ast.parse(f"def f(a, b, c, x, n):\n    {code}")
    found = set()
    for place in mutations.mutations(tree, {2}):
        place.put(place.new)
        found.add((place.said, ast.unparse(ast.fix_missing_locations(tree)).split("\n    ")[1]))
        place.put(place.old)
    assert expected <= found
    assert ast.unparse(tree) == f"def f(a, b, c, x, n):\n    {code}"


def test_lines_that_were_not_run_are_left_alone():
    tree = ast.parse("def f(a):\n    b = a + 1\n    return b - 1")
    assert {place.old.lineno for place in mutations.mutations(tree, {3})} == {3}
