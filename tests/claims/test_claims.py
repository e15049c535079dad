"""The ledger is whole, every row of it can be computed anew, and every check can fail."""

import dataclasses
import re
import sys
from collections import Counter
from datetime import date
from types import ModuleType

import pytest

from llama_edu import claims
from llama_edu.claims import computed, evaluate, rows
from llama_edu.claims.rows import Claim
from llama_edu.family import releases
from llama_edu.tokenizer import installed

LEAST = {"A": 101, "B": 37, "C": 25, "D": 105, "E": 51, "T": 14, "S": 15}
LEAST_RECOMPUTED = 150      # of the claims of write-ups
SECONDS = 20                # of the processor, for the whole ledger
COMPUTED = [claim for claim in claims.ledger() if claim.compute]
ROW = {"id": "A06", "claim": "It took 21 days.", "verdict": "right", "source": "The paper.",
       "compute": "days(training('llama-1-65b').gpu_hours, gpus=2048)", "value": 20.80,
       "tolerance": 0.005, "unit": "days", "stated": 21, "allowed": 0.5}


def row(**changes) -> Claim:
    """A right row, changed; None takes a key away."""
    return Claim(**{key: value for key, value in (ROW | changes).items() if value is not None})


@pytest.fixture
def change(monkeypatch):
    """Put changed releases in the place of the published ones, wherever a module holds them."""

    def put(by_id: dict[str, releases.Release]) -> None:
        changed = tuple(by_id.get(r.id, r) for r in releases.RELEASES)
        for name, module in list(sys.modules.items()):
            if name.startswith("llama_edu") and "RELEASES" in vars(module):
                monkeypatch.setattr(module, "RELEASES", changed)
        for release in changed:
            monkeypatch.setitem(releases._BY_WORDS, releases._words(release.id), release)

    return put


# What the ledger holds


@pytest.mark.parametrize("claim", COMPUTED, ids=lambda claim: claim.id)
def test_every_row_can_be_computed_anew(claim):
    outcome = claims.recompute(claim)
    if outcome.agrees is None:
        pytest.skip(outcome.remark)
    assert outcome.agrees, outcome.remark


@pytest.mark.parametrize("contradiction", claims.contradictions(), ids=lambda row: row.topic)
def test_every_contradiction_is_resolved_as_computed(contradiction):
    outcome = claims.recompute(contradiction)
    if contradiction.compute is not None and outcome.agrees is None:
        pytest.skip(outcome.remark)
    assert outcome.agrees is not False, outcome.remark


def test_no_claim_is_missing():
    found = Counter(claim.writeup for claim in claims.ledger())
    assert {letter: n for letter, n in LEAST.items() if found[letter] < n} == {}


def test_ids_count_up_without_a_gap():
    for letter in LEAST:
        numbers = [int(c.id[1:]) for c in claims.ledger() if c.writeup == letter]
        assert numbers == list(range(1, len(numbers) + 1)), letter


def test_most_verdicts_rest_on_a_computation():
    assert sum(claim.writeup not in "TS" for claim in COMPUTED) >= LEAST_RECOMPUTED


def test_whole_ledger_is_computed_in_seconds():
    assert sum(claims.recompute(claim).seconds for claim in COMPUTED) < SECONDS


def test_contradictions_speak_of_claims_and_write_ups_that_exist():
    ids = {claim.id for claim in claims.ledger()}
    for contradiction in claims.contradictions():
        assert set(contradiction.claims) <= ids, contradiction.topic
        assert {where for where, _ in contradiction.statements} <= set(claims.writeups())


def test_a_row_names_only_vocabularies_that_can_be_had():
    assert {name for claim in COMPUTED for name in claim.needs} <= set(installed.SOURCES)


def test_texts_hold_no_markup_but_code():
    for claim in claims.ledger():
        for text in (claim.claim, claim.correct, claim.source or ""):
            assert text.count("`") % 2 == 0, claim.id
            assert "$" not in text.replace("$ ", ""), claim.id


# The checks can fail


def test_a_changed_release_turns_its_claims_red_and_no_others(change):
    names = ("A06", "A12", "B18")       # of Llama 1 65B's hours; of contexts; of Llama 2 70B's
    was = releases.release("llama-1-65b")
    assert [claims.recompute(claims.find(id)).agrees for id in names] == [True] * 3
    change({was.id: dataclasses.replace(was, training=dataclasses.replace(
        was.training, gpu_hours=2 * was.training.gpu_hours))})
    assert [claims.recompute(claims.find(id)).agrees for id in names] == [False, True, True]


def spoilt(release: releases.Release, salt: int) -> releases.Release:
    """A release with every fact wrong, each in its own way, so that no ratio survives.

    dim, n_heads and n_kv_heads keep to what a config allows; a number the row lacks stays lacking.
    salt: differs from release to release.
    """
    c, t = release.config, release.training
    config = dataclasses.replace(
        c, dim=6 * c.dim, n_heads=3 * c.n_heads, n_kv_heads=c.n_heads, n_layers=c.n_layers + salt,
        hidden_dim=7 * c.hidden_dim + salt, vocab_size=(11 + salt) * c.vocab_size,
        norm_eps=13 * c.norm_eps, rope_theta=(17 + salt) * c.rope_theta,
        max_seq_len=c.max_seq_len // (2 + salt), tied_embeddings=not c.tied_embeddings,
        rope_scaling=None)
    numbers = {"tokens": 23, "gpu_hours": 29, "watts": 31, "tonnes_co2": 37, "max_lr": 41,
               "batch_tokens": 43, "warmup_steps": 47}
    training = dataclasses.replace(t, **{name: (factor + salt) * getattr(t, name)
                                         for name, factor in numbers.items() if getattr(t, name)})
    day = release.released and date(2030, 1, 1) - 2 * (release.released - date(2023, 1, 1))
    return dataclasses.replace(
        release, config=config, training=dataclasses.replace(training, start="nothing"),
        released=day, licence="none", tokenizer="none", shards=release.shards + salt,
        infilling=not release.infilling, whole_parameters=salt, published_size="none")


def test_rows_that_read_a_config_or_a_training_run_notice_when_all_are_spoilt(change):
    reading = [c for c in COMPUTED if re.search(r"\b(training|config|release)\(", c.compute)]
    assert len(reading) > 60
    change({r.id: spoilt(r, salt) for salt, r in enumerate(releases.RELEASES, 1)})
    unmoved = {c.id: c.compute for c in reading if claims.recompute(c).agrees}
    assert unmoved == {}


@pytest.mark.parametrize(
    ("changes", "remark"),
    [
        ({"value": 20.79}, "computed 20.8.*expects 20.79 within 0.005"),
        ({"stated": 22}, "the claim's 22 is more than 0.5 of it, and the verdict says right"),
        ({"verdict": "wrong", "correct": "No."}, "21 is within 0.5 of it, .* says wrong"),
        ({"compute": "1 / 0"}, "raised ZeroDivisionError"),
        ({"compute": "release('llama-9')"}, "raised KeyError.*no release is called"),
        ({"compute": "open('x')"}, "raised NameError.*open"),
        ({"compute": "__import__('os')"}, "raised NameError"),
        ({"compute": "math"}, "raised TypeError.*Convert it there"),
        ({"compute": "1 +"}, "raised SyntaxError"),
    ],
)
def test_a_row_that_does_not_hold_says_why(changes, remark):
    outcome = claims.recompute(row(**changes))
    assert outcome.agrees is False
    assert re.search(remark, outcome.remark), outcome.remark


def test_a_claim_that_is_imprecise_may_state_any_number():
    assert claims.recompute(row(verdict="imprecise", correct="So.", stated=99)).agrees


def test_true_is_not_one_and_lists_are_compared_item_by_item():
    assert not rows.same(True, 1, tolerance=None)
    assert rows.same(35.0, 35, tolerance=None)
    assert rows.same((1, 2.0), (1, 2.4), tolerance=0.5)
    assert not rows.same((1, 2.0), (1, 2.4), tolerance=0.3)
    assert not rows.same((1,), (1, 2), tolerance=0.3)
    assert not rows.same(float("nan"), 1.0, tolerance=0.3)


def test_without_its_vocabulary_a_row_is_not_recomputed_and_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(installed, "find", lambda name: None)
    outcome = claims.recompute(row(needs=("llama3",)))
    assert outcome.agrees is None
    assert "not recomputed" in outcome.remark
    assert "pip install --no-deps llama-models" in outcome.remark


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"id": "X1"}, "'X1' is no id of a claim"),
        ({"verdict": "maybe"}, "A06 has the verdict 'maybe'; right, wrong, imprecise or open"),
        ({"claim": ""}, "A06 is right and its 'claim' is empty"),
        ({"verdict": "wrong"}, "A06 is wrong and its 'correct' is empty"),
        ({"chapter": "8"}, "A06 names the chapter '8'; two digits"),
        ({"value": None}, "A06 has a compute and no value"),
        ({"compute": None}, "A06 has a value and no compute"),
        ({"tolerance": None}, "A06 expects the float 20.8 without a tolerance"),
        ({"tolerance": -1}, "A06 has the tolerance -1; a number of 0 or more"),
        ({"allowed": None}, "A06 has stated 21 and allowed None; both or neither"),
        ({"value": True, "tolerance": None}, "stated is compared with a computed number"),
        ({"compute": None, "value": None}, "A06 has tolerance and nothing that is computed"),
    ],
)
def test_a_row_that_is_not_whole_is_refused(changes, complaint):
    with pytest.raises(ValueError, match=complaint.replace("(", r"\(")):
        row(**changes)


NOTHING_COMPUTED = dict.fromkeys(["compute", "value", "tolerance", "unit", "stated", "allowed"])


def test_a_verdict_without_evidence_is_refused():
    assert row(**NOTHING_COMPUTED).source
    with pytest.raises(ValueError, match="A06 is right without evidence.* Add compute and value"):
        row(**NOTHING_COMPUTED, source=None)


def test_a_number_that_is_stated_wants_a_computation():
    with pytest.raises(ValueError, match="A06 has stated 21 and the value None"):
        row(**NOTHING_COMPUTED | {"stated": 21, "allowed": 0.5})


FILE = '[[claims]]\nid = "A01"\nclaim = "x"\nverdict = "right"\nsource = "y"\n'


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("a.toml", FILE + "vedrict = 3\n", "A01 in a.toml has keys that mean nothing"),
        ("a.toml", FILE.replace('claim = "x"\n', ""), "A01 in a.toml lacks claim"),
        ("a.toml", FILE + FILE, "the id A01 is given to two claims"),
        ("b.toml", FILE, "b.toml holds A01; its place is a.toml"),
        ("a.toml", "x = ", "a.toml is not TOML"),
        ("a.toml", "x = 3", r"a.toml has no table \[\[claims\]\]"),
    ],
)
def test_a_file_that_is_not_whole_is_refused(tmp_path, name, text, complaint):
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=complaint):
        rows.read(tmp_path / name)


def test_two_functions_of_one_name_are_refused():
    modules = []
    for name in ("one", "two"):
        modules.append(ModuleType(name))
        exec("def total(): pass\ndef _own(): pass", vars(modules[-1]))
    assert list(computed.collect(modules[:1])) == ["total"]
    with pytest.raises(ValueError, match="two and one both define total"):
        computed.collect(modules)


def test_an_unknown_claim_is_one_sentence():
    with pytest.raises(KeyError, match="no claim is called 'A999'; ids go from A01"):
        claims.find("A999")


def test_an_expression_sees_the_accounting_and_no_import():
    names = evaluate.namespace()
    assert {"parameters", "days", "release", "RELEASES", "config", "training", "math"} <= set(names)
    assert "dataclass" not in names
    assert "__import__" not in names["__builtins__"]


# How it is shown


def test_the_table_counts_what_it_shows():
    chosen = claims.select(writeup="B", verdict="wrong")
    outcomes = {claim: claims.recompute(claim) for claim in chosen}
    table = claims.report(outcomes).splitlines()
    assert [line[:3] for line in table[2:2 + len(chosen)]] == [claim.id for claim in chosen]
    assert table[-2] == f"{len(chosen)} claims: {len(chosen)} wrong."


def test_the_table_names_a_row_that_disagrees():
    claim = row(value=20.79)
    table = claims.report({claim: claims.recompute(claim)})
    assert "NO" in table
    assert "A06: computed 20.8" in table
    assert "1 of them disagree" in table


def test_a_box_shows_the_same_in_text_and_in_html():
    boxes = claims.show("A06", "B18")
    html, text = boxes._repr_html_(), repr(boxes)
    assert 'id="claim-a06"' in html
    assert 'id="claim-b18"' in html
    for said in ("20.80 days", claims.find("A06").source, "A06", "✗", "wrong"):
        assert said in text
        assert said in html
    assert "http" not in html


def test_a_text_cannot_break_out_of_its_box():
    words = claims.box.styled("a < b and `c < d`")
    assert words.startswith("a &lt; b and <code")
    assert words.endswith(">c &lt; d</code>")


@pytest.mark.parametrize(
    ("value", "tolerance", "shown"),
    [(20.800008, 0.005, "20.80"), (35.0, None, "35"), (405_853_388_800, None, "405,853,388,800"),
     (2048, None, "2048"), (3.8e25, 5e23, "3.8e+25"), (True, None, "true"), (0.0, 0.1, "0"),
     ((1, 2.5), 0.05, "1, 2.5")],
)
def test_a_value_is_shown_to_the_digits_it_has(value, tolerance, shown):
    assert claims.words.spoken(value, tolerance=tolerance) == shown
