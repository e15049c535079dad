"""Judging claims before reading on: nothing is given away of what was not judged."""

import pytest

from llama_edu import claims

TRUE = {"A06": "right", "B18": "wrong", "B22": "imprecise"}


def test_verdicts_are_compared_with_the_ledger():
    judged = claims.judge(TRUE | {"D86": "right", "E03": "?"})
    assert judged.n_right == 3
    lines = repr(judged).splitlines()
    assert [line[0] for line in lines[:5]] == ["✓", "✓", "✓", "✗", "○"]
    assert lines[3].startswith("✗ D86 is wrong, not right: ")
    assert lines[5] == "3 of 4 judged as the ledger does, 1 to go"


def test_of_a_claim_that_was_not_judged_nothing_is_given_away():
    judged = claims.judge(dict.fromkeys(TRUE, "?") | {"A20": "wrong"})
    assert [box.claim.id for box in judged.boxes().boxes] == ["A20"]
    for id in TRUE:
        assert claims.find(id).correct not in repr(judged)
        assert claims.find(id).claim in repr(judged)


def test_another_word_than_a_verdict_is_one_sentence():
    with pytest.raises(ValueError, match="A06 was judged 'true'; one of right, wrong"):
        claims.judge({"A06": "true"})
    with pytest.raises(KeyError, match="Z99"):
        claims.judge({"Z99": "right"})
