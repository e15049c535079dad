"""The experiments and sums behind the ledger, against formulas that they do not use."""

import math
import re
from pathlib import Path

import pytest

from llama_edu.claims import computed, contradictions, ledger
from llama_edu.claims.computed import architecture, papers, published, rope_facts
from llama_edu.family.accounting import parameters
from llama_edu.family.releases import release


def test_pi_begins_as_everyone_knows():
    assert "".join(str(published.decimal_of_pi(i)) for i in range(1, 11)) == "1415926535"


def test_first_wrong_row_of_the_mesh_is_the_third():
    agrees = [published.gpus_in_the_mesh(row) == published.gpus_printed(row) for row in range(3)]
    assert agrees == [True, True, False]


def test_batch_of_the_first_mesh_is_16_binary_millions():
    assert published.batch_of_the_mesh(0) == pytest.approx(2**24 / 1e6)


def test_causes_of_interruptions_add_up_to_the_whole():
    shares = map(published.share_of_interruptions, published.INTERRUPTIONS)
    assert math.isclose(sum(shares), 100)
    assert sum(published.INTERRUPTIONS.values()) == 419     # as section 3.3.4 says


def test_card_before_the_quantised_models_adds_up_to_what_it_prints():
    assert published.card_hours("1B", "3B", "logits") == 916


def test_silu_is_lowest_where_its_slope_is_zero():
    x, y = architecture.lowest_point_of_silu()
    gate = 1 / (1 + math.exp(-x))
    # The grid has steps of 1e-5, and the slope there changes by less than one per unit.
    assert gate * (1 + x * (1 - gate)) == pytest.approx(0, abs=1e-5)
    assert y == pytest.approx(x * gate)


def test_norm_leaves_the_mean_that_the_spread_predicts():
    # A mean of 1 and a variance of 1 have a root mean square of sqrt(2); 4,096 draws leave 0.02.
    assert architecture.mean_after_norm() == pytest.approx(1 / math.sqrt(2), abs=0.02)


def test_reward_falls_when_it_is_taken_for_a_loss():
    assert (architecture.reward_in_the_end(minimised=True) < 1
            < architecture.reward_in_the_end(minimised=False))


def test_rounded_width_is_the_checkpoints_where_there_is_no_multiplier():
    for id in ("llama-1-7b", "llama-1-13b", "llama-1-33b", "llama-1-65b"):
        assert architecture.rounded_width(id, of=4) == release(id).config.hidden_dim


def test_sharing_leaves_what_the_parameters_say():
    old, new = (parameters(release(id).config).attention for id in ("llama-2-7b", "llama-3-8b"))
    assert architecture.work_left_by_sharing("llama-3-8b")[0] == pytest.approx(new / old)


def test_likeness_of_sinusoids_is_the_mean_cosine_of_their_angles():
    angles = [5 * 1e4 ** (-2 * i / 64) for i in range(32)]
    # float32 against double precision
    assert rope_facts.likeness_of_sinusoids(5, dim=64) == pytest.approx(
        sum(map(math.cos, angles)) / 32, abs=1e-5)


def test_scaling_with_its_own_factor_changes_no_pair():
    assert rope_facts.pairs_apart("llama-3.1-8b", factor=8.0) == 0
    assert rope_facts.radians_apart("llama-3.1-8b", factor=8.0, position=1000) == 0


def test_best_tokens_are_at_the_minimum_of_the_fit_for_their_budget():
    size = 1e10
    tokens = papers.best_tokens(size)
    loss = published_loss(size, tokens)
    for times in (0.9, 1.1):        # the same budget, spent differently
        assert published_loss(size * times, tokens / times) > loss


def published_loss(size: float, tokens: float) -> float:
    floor, a, alpha, b, beta = papers.LOSS
    return floor + a / size**alpha + b / tokens**beta


def test_month_of_a_paper_is_read_from_its_id():
    assert papers.month_of_paper("1706.03762") == "2017-06"


def test_every_function_of_the_ledger_is_called_by_a_row_or_by_another_function():
    rows = " ".join(row.compute or "" for row in (*ledger(), *contradictions()))
    code = "".join(file.read_text(encoding="utf-8")
                   for file in sorted(Path(computed.__path__[0]).glob("*.py")))
    idle = [name for name in computed.functions()
            if not re.search(rf"\b{name}\(", rows) and len(re.findall(rf"\b{name}\b", code)) < 2]
    assert idle == []
