"""How outputs are compared, and the forms an exercise may take."""

import numpy as np
import pytest
import torch

from llama_edu.exercises.compare import difference
from llama_edu.exercises.data import Exercise, Misconception, Probe, normal
from llama_edu.exercises.judge import judge


def one_probe(**fields) -> Exercise:
    """An exercise of one probe: double the numbers."""
    plain = {"id": "1.1", "title": "Double", "section": "The idea",
             "reference": lambda x: 2 * x, "misconceptions": (), "hints": ("Twice.",),
             "probes": (Probe("two numbers", lambda rng: {"x": normal(rng, 2)}),)}
    return Exercise(**(plain | fields))


# -- how outputs are compared -----------------------------------------------------------------


@pytest.mark.parametrize(("expected", "got", "kind"), [
    (3, 4, "value"), (3, 3.0, "type"), (3, True, "type"), (True, 1, "type"),
    (0.5, "0.5", "type"), (0.5, float("nan"), "nan"), (0.5, 0.6, "value"),
    ("ab", "ac", "value"), ("ab", b"ab", "type"), ([1, 2], (1, 2), "type"),
    ([1, 2], [1, 2, 3], "length"), ([1, 2], [1, 3], "value"), ((1, "a"), (1, 2), "type"),
    ({"a": 1}, {"b": 1}, "length"), ({"a": 1}, {"a": 2}, "value"), (None, 1, "type"),
    (torch.ones(2), torch.ones(2, 1), "shape"), (torch.ones(2), torch.ones(2).half(), "dtype"),
    (torch.ones(2), torch.tensor([1, torch.nan]), "nan"),
    (torch.ones(2), torch.tensor([1, torch.inf]), "value"),
    (torch.ones(2), torch.tensor([1, 1.001]), "value"),
    (torch.tensor([1, -torch.inf]), torch.tensor([1, -1e9]), "value"),
    (torch.tensor([1, 2]), torch.tensor([1, 3]), "value"),
])
def test_a_difference_is_found_and_named(expected: object, got: object, kind: str):
    assert difference(expected, got).kind == kind


@pytest.mark.parametrize(("expected", "got"), [
    (3, np.int64(3)), (0.5, 0.5 + 1e-9), (2.0, 2), (float("nan"), float("nan")),
    ("ab", "ab"), ([1, [2]], [1, [2]]), ((torch.ones(2), 1), (torch.ones(2), 1)),
    (torch.tensor([1, -torch.inf, torch.nan]), torch.tensor([1, -torch.inf, torch.nan])),
    (torch.ones(2), torch.tensor([1, 1.00001])), (torch.zeros(0), torch.zeros(0)),
    (torch.ones(2).bfloat16(), torch.tensor([1, 1.01]).bfloat16()),
])
def test_equal_up_to_rounding_is_equal(expected: object, got: object):
    assert difference(expected, got) is None


def test_the_first_difference_in_a_list_of_ids_is_shown():
    assert difference([5, 6, 7], [5, 8, 7]).place == "item 1 expected 6, got 8"
    assert difference([5, 6], [5, 6, 7]).place == "at [2], where one of the two ends"


# -- exercises of other forms -----------------------------------------------------------------


def test_an_exercise_may_ask_for_a_class():
    class Twice(torch.nn.Module):
        def forward(self, x):
            return 2 * x

    asks = one_probe(adapt=lambda cls, x: cls()(x), reference=Twice)
    assert judge(asks, Twice).passed
    assert judge(asks, torch.nn.Identity).message == "returned other values than expected."


def test_an_exercise_may_ask_for_an_error():
    def refuse(x):
        raise ValueError("no")

    asks = one_probe(reference=refuse)
    assert judge(asks, refuse).passed
    assert "a ValueError is to be raised here." in judge(asks, lambda x: x).message


def test_a_diagnosis_needs_more_than_the_same_type_of_error():
    def forgot(x):
        return x + torch.ones(9)

    slip = Misconception("nine", forgot, "you added nine ones.")
    asks = one_probe(misconceptions=(slip,))
    assert judge(asks, lambda x: x * torch.ones(9)).diagnosis == "nine"     # the same complaint
    assert judge(asks, lambda x: x @ torch.ones(9)).diagnosis is None       # another complaint


def test_an_answer_that_reuses_its_output_is_judged_by_what_it_returned():
    held = torch.zeros(99)

    def thrifty(x):
        held[:x.numel()] = 2 * x.flatten()
        return held[:x.numel()].view(x.shape)

    probes = tuple(Probe(f"{n}", lambda rng, n=n: {"x": normal(rng, n)}) for n in (2, 3))
    assert judge(one_probe(probes=probes), thrifty).passed
