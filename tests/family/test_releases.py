"""The table of the family: shapes, dates and the traps in Meta's own documents."""

import re
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest

from llama_edu.config import LLAMA_3_1_SCALING, swiglu_width
from llama_edu.family.releases import (
    RELEASES,
    Training,
    read_rows,
    release,
)

# The shape of every checkpoint, as Meta's files and cards state it: a row a release.
HEADER, *SHAPES = (
    line.split() for line in Path(__file__).with_name("releases.txt")
    .read_text(encoding="utf-8").splitlines())


def test_the_table_has_all_releases_and_no_other():
    assert [row[0] for row in SHAPES] == [r.id for r in RELEASES]


@pytest.mark.parametrize("row", SHAPES, ids=[row[0] for row in SHAPES])
def test_the_shape_of_every_release(row):
    r = release(row[0])
    c = r.config
    stretch = c.rope_scaling.factor if c.rope_scaling else 0
    ours = (r.id, r.released or "never", c.dim, c.n_layers, c.n_heads, c.n_kv_heads,
            c.hidden_dim, c.vocab_size, f"{c.norm_eps:g}", f"{c.rope_theta:g}", f"{stretch:g}",
            c.max_seq_len, "yes" if c.tied_embeddings else "no", r.shards)
    assert dict(zip(HEADER, map(str, ours), strict=True)) == dict(zip(HEADER, row, strict=True))
    if c.rope_scaling is not None:
        assert c.rope_scaling in (LLAMA_3_1_SCALING, release("llama-3.2-1b").config.rope_scaling)


@pytest.mark.parametrize("r", RELEASES, ids=lambda r: r.id)
def test_the_width_rule_gives_every_width_but_the_pruned_one(r):
    width = swiglu_width(r.config.dim, multiple_of=r.multiple_of,
                         multiplier=r.ffn_dim_multiplier or 1.0)
    if r.id == "llama-guard-3-1b-int4":
        assert (width, r.config.hidden_dim) == (5632, 6400)
    else:
        assert width == r.config.hidden_dim


def test_ids_are_unique_and_shards_divide_the_heads():
    assert len({r.id for r in RELEASES}) == len(RELEASES)
    for r in RELEASES:
        assert r.config.n_heads % r.shards == 0


def test_families_appear_in_the_order_of_their_dates():
    first = {}
    for r in RELEASES:
        first.setdefault(r.family, r.released)
    generations = [first[f"Llama {n}"] for n in ("1", "2", "3", "3.1", "3.2", "3.3")]
    assert generations == sorted(generations)
    assert all(date(2023, 2, 24) <= r.released <= date(2024, 12, 6)
               for r in RELEASES if r.released is not None)


def test_every_start_is_a_release_of_the_same_day_or_before():
    for r in RELEASES:
        if r.training.start is not None:
            before = release(r.training.start)
            assert before.released is None or r.released is None or before.released <= r.released


def test_only_one_model_was_trained_and_withheld():
    assert [r.id for r in RELEASES if r.released is None] == ["llama-2-34b"]


def test_the_large_vocabulary_comes_with_its_tokenizer():
    for r in RELEASES:
        assert (r.tokenizer == "tiktoken-128256") == (r.config.vocab_size == 128_256)
        assert (r.tokenizer == "sentencepiece-32016") == (r.config.vocab_size == 32_016)


def test_vision_models_state_the_size_of_the_whole():
    whole = {r.id: r.whole_parameters for r in RELEASES if r.whole_parameters is not None}
    assert whole == {
        "llama-3.2-11b-vision": 10_616_650_275, "llama-3.2-11b-vision-instruct": 10_629_184_035,
        "llama-3.2-90b-vision": 88_552_318_523, "llama-guard-3-11b-vision": 10_629_184_035}


@pytest.mark.parametrize(("id", "tokens", "gpu_hours", "tonnes"), [
    ("llama-1-65b", 1.4e12, 1_022_362, 173), ("llama-2-70b", 2e12, 1_720_320, 291.42),
    ("llama-3-70b", 15e12, 6.4e6, 1900), ("llama-3.1-405b", 15.6e12, 30.84e6, 8930),
    ("llama-3.2-1b", 9e12, 370e3, 107), ("llama-3.3-70b-instruct", 15e12, 7.0e6, 2040)])
def test_what_the_cards_say_of_training(id, tokens, gpu_hours, tonnes):
    t = release(id).training
    assert (t.tokens, t.gpu_hours, t.tonnes_co2) == (tokens, gpu_hours, tonnes)


def test_a_release_is_found_in_any_case_and_has_a_name():
    assert release("Llama-3.1-8B") is release("llama-3.1-8b")
    assert release("llama-3.1-8b").name == "Llama 3.1 8B"
    assert release("code-llama-70b-instruct").name == "Code Llama 70B Instruct"
    assert all(re.fullmatch(r"[A-Z][A-Za-z0-9. ]+", r.name) for r in RELEASES)


def test_an_unknown_release_is_answered_with_the_known_ones():
    with pytest.raises(KeyError, match=r"no release is called 'llama-4'; .* Did you mean llama-"):
        release("llama-4")


# -- the rows ----------------------------------------------------------------------------------

FIRST = """
[a]
family = "Llama 1"
released = 2023-02-24
variants = ["base"]
licence = "none"
dim = 64
n_layers = 2
n_heads = 4
n_kv_heads = 4
hidden_dim = 192
multiple_of = 64
vocab_size = 96
tokenizer = "x"
norm_eps = 1e-6
rope_theta = 1e4
max_seq_len = 64
shards = 1
notes = ["odd"]
training = { tokens = 1e12 }
"""


def test_a_row_has_what_it_is_like_and_what_it_says():
    first, second = read_rows(FIRST + "[b]\nlike = 'a'\ndim = 128\nrope_factor = 8.0\n")
    assert second.config == replace(first.config, dim=128, rope_scaling=LLAMA_3_1_SCALING)
    assert (second.family, second.licence, second.shards) == ("Llama 1", "none", 1)
    assert (first.notes, first.training.tokens) == (("odd",), 1e12)
    assert (second.released, second.notes, second.training) == (None, (), Training())


@pytest.mark.parametrize(("text", "message"), [
    ("[b]\nlike = 'c'\n", "b is like 'c'; one that stands above it is needed: a. Correct"),
    ("[b]\nlike = 'b'\n", "b is like 'b'; one that stands above it is needed"),
    ("[b]\nlike = 'a'\nn_layer = 3\n", "b has the key 'n_layer', which means nothing here"),
    ("[b]\nlike = 'a'\ntraining = { token = 3 }\n", "b does not make a release .*'token'"),
    ("[b]\ndim = 3\n", "b does not make a release .*missing"),
    ("[b]\nlike = 'a'\ndim = 65\n", "dim 65 does not split into 4 heads")])
def test_a_row_that_means_nothing_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        read_rows(FIRST + text)
