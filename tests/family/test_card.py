"""The card of a release: computed lines, and what fits on which GPU."""

from dataclasses import replace

import pytest

from llama_edu.family.accounting import GIB, kv_bytes
from llama_edu.family.card import SPARE_GIB, card, verdict, weight_gib
from llama_edu.family.hardware import GPUS, Gpu, gpu
from llama_edu.family.releases import RELEASES, release


@pytest.mark.parametrize("r", RELEASES, ids=lambda r: r.id)
def test_every_release_has_a_card_with_all_its_sections(r):
    text = card(r)
    for section in ("shape", "parameters", "weights", "kv cache, 16 bits, one text", "training",
                    "fits on"):
        assert f"\n\n{section}\n" in text
    assert all(note in text for note in r.notes)
    assert "None" not in text
    assert "nan" not in text


def test_the_card_of_the_8b_is_what_we_computed_by_hand():
    text = card(release("llama-3-8b"))
    for line in ("total             8,030,261,248", "16 bits              14.96 GiB",
                 "4 bits (4.5)          4.21 GiB", "per token         131,072 bytes",
                 "8,192 tokens          1.00 GiB",
                 "tokens            about 1.5e+13, 1868 a parameter",
                 "operations, 6ND   about 7.23e+23", "154 TFLOPS a GPU, 15.6% of its peak",
                 "390 t as printed, 385.39 t by the papers' formula",
                 "1 of 16,060,522,496 bytes"):
        assert line in text


def test_what_fits_fits_to_the_last_token():
    r, made_up = release("llama-3.1-8b"), Gpu("made up", 20.0, 1, 1.0)
    said = int("".join(c for c in verdict(r, made_up, 16) if c.isdigit()))
    for tokens, fits in ((said, True), (said + 1, False)):
        gib = weight_gib(r, 16) + kv_bytes(r.config, tokens=tokens, batch=1, bits=16) / GIB
        assert (gib + SPARE_GIB <= made_up.gib) is fits


def test_verdicts_on_real_cards():
    big, small = release("llama-3.1-405b"), release("llama-3.2-1b")
    assert verdict(big, gpu("H100-80GB"), 16) == "no, 10 cards"
    assert verdict(big, gpu("H200"), 8.5) == "no, 3 cards"
    assert verdict(small, gpu("RTX 4060"), 16) == "yes, whole context"
    assert all(verdict(small, card, 4.5) == "yes, whole context" for card in GPUS)


def test_a_card_that_holds_the_weights_and_no_token_is_not_enough():
    r = release("llama-3.1-8b")
    assert verdict(r, Gpu("tight", weight_gib(r, 16) + SPARE_GIB, 1, 1.0), 16) == "no, 2 cards"


def test_a_vision_model_weighs_what_both_its_halves_weigh():
    r = release("llama-3.2-11b-vision")
    assert weight_gib(r, 16) == r.whole_parameters * 2 / GIB
    assert weight_gib(replace(r, whole_parameters=None), 16) < weight_gib(r, 16)


def test_the_unreleased_one_says_never_and_the_guards_say_that_nothing_was_published():
    assert "released          never" in card(release("llama-2-34b"))
    guard = release("llama-guard-2-8b")
    bare = replace(guard, training=replace(guard.training, start=None))
    assert "training\n  tokens            nothing was published" in card(bare)
