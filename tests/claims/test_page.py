"""The book's fact check is the ledger, and the boxes of the chapters are where the ledger says."""

import re

import pytest

from llama_edu import claims
from llama_edu.claims import page
from llama_edu.claims.rows import Claim

OUTCOME = claims.Outcome(20.8, True)
CLAIM = Claim(id="A06", claim="It took `21` days & <more>.", verdict="right", source="The paper.",
              compute="days(1)", value=20.8, tolerance=0.005, unit="days", chapter="08")
HERE = {"08": ("../chapters/08.html", ["A06"])}


@pytest.fixture(scope="module")
def root(pytestconfig):
    return pytestconfig.rootpath


@pytest.fixture(scope="module")
def filled(root):
    return page.fill((root / "book/fact_check.md").read_text(encoding="utf-8"), HERE)


def test_the_page_holds_every_row_of_the_ledger_once(filled):
    ids = re.findall(r'<tr id="(\w+)"', filled)
    assert ids == [claim.id.lower() for claim in claims.ledger()]


def test_the_page_holds_every_contradiction_and_no_empty_place(filled):
    assert filled.count("<li><b title=") == sum(len(c.statements) for c in claims.contradictions())
    assert "claims:" not in filled
    assert filled.count("```{raw} html") == 6


def test_the_page_needs_no_network_and_hides_nothing_amiss(filled):
    assert not re.search(r'(?:src|href)="http', filled)
    assert "(amiss:" not in filled


def test_a_row_shows_words_code_value_and_the_way_to_its_box():
    row = page.claim_row(CLAIM, OUTCOME, HERE)
    assert "It took <code>21</code> days &amp; &lt;more&gt;." in row
    assert "<code>days(1)</code> = 20.80 days" in row
    assert 'href="../chapters/08.html#claim-a06">Chapter 08 decides it' in row


def test_a_row_without_a_box_leads_to_its_chapter():
    row = page.claim_row(CLAIM, OUTCOME, {"08": ("../chapters/08.html", [])})
    assert 'href="../chapters/08.html">See chapter 08' in row


def test_a_row_that_is_amiss_says_so_on_the_page():
    row = page.claim_row(CLAIM, claims.Outcome(9.0, False, 0.0, "computed 9.0"), HERE)
    assert "(amiss: computed 9.0)" in row


def shown_in(root) -> dict[str, list[str]]:
    return {path.name[:2]: page.shown(path.read_text(encoding="utf-8"))
            for path in root.glob("chapters/src/*.py")}


def test_boxes_of_a_chapter_are_of_claims_that_name_it(root):
    for chapter, ids in shown_in(root).items():
        assert {claims.find(id).chapter for id in ids} <= {chapter}
        assert len(set(ids)) == len(ids), f"chapter {chapter} shows a claim twice"


def test_a_claim_names_only_chapters_that_exist(root):
    named = {claim.chapter for claim in claims.ledger()} - {None}
    assert named <= set(shown_in(root))


def test_ids_of_boxes_are_read_from_a_source():
    assert page.shown('x\nclaims.show("A06", "D63")\nclaims.show("E13")') == ["A06", "D63", "E13"]
