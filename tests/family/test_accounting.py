"""What a model costs: every release to the last parameter, and the formulas on small numbers."""

import pytest
import torch
from models import some_tokens, tiny_config
from torch.utils.flop_counter import FlopCounterMode

from llama_edu.family import accounting
from llama_edu.family.hardware import GPUS, gpu
from llama_edu.family.releases import RELEASES, release
from llama_edu.model import Llama

# Computed from Meta's published model classes. For vision models: the text trunk.
PUBLISHED = (
    # id, parameters, without the two tables, of one layer, cache bytes per token in 16 bits
    ("llama-1-7b", 6_738_415_616, 6_476_271_616, 202_383_360, 524_288),
    ("llama-1-13b", 13_015_864_320, 12_688_184_320, 317_204_480, 819_200),
    ("llama-1-33b", 32_528_943_616, 32_102_959_616, 535_049_216, 1_597_440),
    ("llama-1-65b", 65_285_660_672, 64_761_372_672, 809_517_056, 2_621_440),
    ("llama-2-7b", 6_738_415_616, 6_476_271_616, 202_383_360, 524_288),
    ("llama-2-13b", 13_015_864_320, 12_688_184_320, 317_204_480, 819_200),
    ("llama-2-34b", 33_743_970_304, 33_219_682_304, 692_076_544, 196_608),
    ("llama-2-70b", 68_976_648_192, 68_452_360_192, 855_654_400, 327_680),
    ("code-llama-7b-base", 6_738_546_688, 6_476_271_616, 202_383_360, 524_288),
    ("code-llama-7b-python", 6_738_415_616, 6_476_271_616, 202_383_360, 524_288),
    ("code-llama-7b-instruct", 6_738_546_688, 6_476_271_616, 202_383_360, 524_288),
    ("code-llama-13b-base", 13_016_028_160, 12_688_184_320, 317_204_480, 819_200),
    ("code-llama-13b-python", 13_015_864_320, 12_688_184_320, 317_204_480, 819_200),
    ("code-llama-13b-instruct", 13_016_028_160, 12_688_184_320, 317_204_480, 819_200),
    ("code-llama-34b-base", 33_743_970_304, 33_219_682_304, 692_076_544, 196_608),
    ("code-llama-34b-python", 33_743_970_304, 33_219_682_304, 692_076_544, 196_608),
    ("code-llama-34b-instruct", 33_743_970_304, 33_219_682_304, 692_076_544, 196_608),
    ("code-llama-70b-base", 68_976_910_336, 68_452_360_192, 855_654_400, 327_680),
    ("code-llama-70b-python", 68_976_910_336, 68_452_360_192, 855_654_400, 327_680),
    ("code-llama-70b-instruct", 68_976_910_336, 68_452_360_192, 855_654_400, 327_680),
    ("llama-3-8b", 8_030_261_248, 6_979_588_096, 218_112_000, 131_072),
    ("llama-3-70b", 70_553_706_496, 68_452_360_192, 855_654_400, 327_680),
    ("llama-3.1-8b", 8_030_261_248, 6_979_588_096, 218_112_000, 131_072),
    ("llama-3.1-70b", 70_553_706_496, 68_452_360_192, 855_654_400, 327_680),
    ("llama-3.1-405b", 405_853_388_800, 401_650_696_192, 3_187_703_808, 516_096),
    ("llama-3.2-1b", 1_235_814_400, 973_146_112, 60_821_504, 32_768),
    ("llama-3.2-3b", 3_212_749_824, 2_818_747_392, 100_669_440, 114_688),
    ("llama-3.2-11b-vision", 8_030_261_248, 6_979_588_096, 218_112_000, 131_072),
    ("llama-3.2-11b-vision-instruct", 8_030_261_248, 6_979_588_096, 218_112_000, 131_072),
    ("llama-3.2-90b-vision", 70_553_706_496, 68_452_360_192, 855_654_400, 327_680),
    ("llama-3.3-70b-instruct", 70_553_706_496, 68_452_360_192, 855_654_400, 327_680),
    ("llama-guard-1-7b", 6_738_415_616, 6_476_271_616, 202_383_360, 524_288),
    ("llama-guard-2-8b", 8_030_261_248, 6_979_588_096, 218_112_000, 131_072),
    ("llama-guard-3-8b", 8_030_261_248, 6_979_588_096, 218_112_000, 131_072),
    ("llama-guard-3-1b", 1_498_482_688, 973_146_112, 60_821_504, 32_768),
    ("llama-guard-3-1b-int4", 1_123_076_096, 597_739_520, 49_811_456, 24_576),
    ("llama-guard-3-11b-vision", 8_030_261_248, 6_979_588_096, 218_112_000, 131_072),
)
SHAPES = sorted({r.config for r in RELEASES}, key=repr)


def test_every_release_is_in_the_table():
    assert [row[0] for row in PUBLISHED] == [r.id for r in RELEASES]
    assert len(PUBLISHED) == 37


@pytest.mark.parametrize(("id", "total", "non_embedding", "per_layer", "kv_bytes"), PUBLISHED,
                         ids=[row[0] for row in PUBLISHED])
def test_the_counts_of_every_release_are_exact(id, total, non_embedding, per_layer, kv_bytes):
    config = release(id).config
    counted = accounting.parameters(config)
    assert counted.total == total
    assert counted.non_embedding == non_embedding
    layers = counted.attention + counted.feed_forward + counted.norms - config.dim
    assert layers == config.n_layers * per_layer
    assert accounting.kv_bytes_per_token(config, bits=16) == kv_bytes
    assert accounting.weight_bytes(config, bits=16) == 2 * total


@pytest.mark.parametrize("config", SHAPES, ids=lambda c: f"{c.dim}x{c.n_layers}-{c.vocab_size}")
def test_the_model_itself_has_as_many_parameters(config):
    with torch.device("meta"):
        model = Llama(config)
    sizes = {name: w.numel() for name, w in model.named_parameters()}
    counted = accounting.parameters(config)
    assert sum(sizes.values()) == counted.total
    for part, pattern in (("attention", ".attention.w"), ("feed_forward", ".feed_forward.w"),
                          ("norms", "norm.weight"), ("embedding", "tok_embeddings."),
                          ("output", "output.")):
        assert sum(n for name, n in sizes.items() if pattern in name) == getattr(counted, part)


def test_a_tied_table_is_counted_once():
    untied, tied = (accounting.parameters(tiny_config(tied_embeddings=t)) for t in (False, True))
    assert untied.output == untied.embedding == 96 * 64
    assert tied.output == 0
    assert untied.total - tied.total == 96 * 64
    assert untied.non_embedding == tied.non_embedding


def test_the_cache_of_llama_2_7b_takes_two_gib_for_its_context():
    config = release("llama-2-7b").config
    assert accounting.kv_bytes(config, tokens=4096, batch=1, bits=16) == 2 * accounting.GIB
    assert accounting.kv_bytes(config, tokens=4096, batch=3, bits=8) == 3 * accounting.GIB


def test_four_bits_halve_the_bytes_of_eight():
    config = release("llama-3.1-8b").config
    assert accounting.weight_bytes(config, bits=8) == 8_030_261_248
    assert accounting.weight_bytes(config, bits=4) == 8_030_261_248 // 2


def test_training_arithmetic_of_llama_1():
    assert accounting.training_flops(7, 100) == 4200
    # 1,022,362 hours on 2,048 GPUs: "approximately 21 days" (Touvron et al. 2023a, section 2.4).
    assert accounting.days(1_022_362, gpus=2048) == pytest.approx(20.8, abs=0.01)
    # 82,432 hours at 400 W: the card's 14 tonnes.
    assert round(accounting.tonnes_co2(82_432, watts=400)) == 14
    assert accounting.tonnes_co2(1000, watts=1000, pue=1.0, kg_per_kwh=1.0) == 1.0


# -- shards ------------------------------------------------------------------------------------

# Sizes of the published files of the 405B, listed in llama-models' sku_list.py.
LISTED = {8: 101_470_976_045, 16: 51_268_302_389}


@pytest.mark.parametrize("shards", LISTED)
def test_the_files_of_the_405b_are_predicted_to_a_thousandth_of_a_percent(shards):
    config = release("llama-3.1-405b").config
    predicted = accounting.shard_bytes(config, shards=shards, bits=16)
    assert predicted == pytest.approx(LISTED[shards], rel=1e-5)
    assert predicted < LISTED[shards]       # a file has a header as well


def test_sixteen_files_hold_more_than_eight_because_key_heads_are_repeated():
    config = release("llama-3.1-405b").config
    repeated = config.n_layers * 2 * config.dim * config.n_kv_heads * config.head_dim * 2
    norms = accounting.parameters(config).norms * 2
    eight, sixteen = (n * accounting.shard_bytes(config, shards=n, bits=16) for n in (8, 16))
    assert sixteen - eight == repeated + 8 * norms


def test_one_file_holds_everything_and_both_tables():
    config = release("llama-2-7b").config
    assert (accounting.shard_bytes(config, shards=1, bits=16)
            == accounting.weight_bytes(config, bits=16))
    tied = release("llama-3.2-1b").config
    table = 2 * tied.vocab_size * tied.dim
    assert (accounting.shard_bytes(tied, shards=1, bits=16)
            == accounting.weight_bytes(tied, bits=16) + table)


# -- arithmetic --------------------------------------------------------------------------------

def test_matrix_products_cost_what_pytorch_counts():
    config = tiny_config()
    model = Llama(config).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(some_tokens(config, batch=1, length=32))
    counted = sum(flops for operation, flops in counter.get_flop_counts()["Global"].items()
                  if "attention" not in str(operation))
    looks = 4 * config.n_layers * config.n_heads * config.head_dim * (32 * 33 // 2)
    assert accounting.forward_flops(config, tokens=32) == counted + looks


def test_a_pass_costs_the_same_with_a_cache_and_without():
    config = tiny_config()
    whole = accounting.forward_flops(config, tokens=12)
    assert whole == (accounting.forward_flops(config, tokens=7)
                     + accounting.forward_flops(config, tokens=5, before=7))


def test_the_rule_of_thumb_is_close_for_short_texts_and_too_low_for_long_ones():
    config = release("llama-3-8b").config
    rule = accounting.training_flops(accounting.parameters(config).total, 15e12)
    short, long = (accounting.exact_training_flops(config, tokens=15e12, context=t)
                   for t in (1024, 131_072))
    assert short / rule == pytest.approx(1.0, abs=0.06)     # less a table, plus some attention
    assert long / rule > 2


def test_utilisation_of_llama_3_8b_is_far_below_the_400_tflops_that_circulate():
    flops = accounting.training_flops(8_030_261_248, 15e12)
    assert accounting.tflops_per_gpu(flops, gpu_hours=1.3e6) == pytest.approx(154.4, abs=0.1)
    share = accounting.mfu(flops, gpu_hours=1.3e6, peak_tflops=gpu("H100-80GB").tflops)
    assert share == pytest.approx(0.156, abs=0.001)
    assert accounting.gpu_hours(35.0, gpus=2048) == 1_720_320
    assert accounting.days(1_720_320, gpus=2048) == 35.0


@pytest.mark.parametrize("name", [r.id for r in RELEASES if r.family in ("Llama 1", "Llama 2")])
def test_carbon_agrees_with_the_cards_to_their_last_digit(name):
    t = release(name).training
    digit = 0.01 if name.startswith("llama-2") else 0.5     # Llama 1's card prints whole tonnes
    assert accounting.tonnes_co2(t.gpu_hours, watts=t.watts) == pytest.approx(
        t.tonnes_co2, abs=digit)


def test_decoding_is_bounded_by_reading_the_weights_and_the_cache():
    config = release("llama-3.1-8b").config
    p = accounting.parameters(config)
    fast = accounting.tokens_per_second(config, gb_per_second=3350, bits=16)
    assert fast == pytest.approx(3350e9 / (2 * (p.total - p.embedding)))
    slow = accounting.tokens_per_second(config, gb_per_second=3350, bits=16, context=8192)
    assert 1 / slow - 1 / fast == pytest.approx(2**30 / 3350e9)    # 1 GiB of keys and values


def test_a_batch_reads_the_weights_once_and_computes_for_each_text():
    config = release("llama-3.1-8b").config
    asked = {"before": 8192, "bits": 16, "cache_bits": 16, "gb_per_second": 3350, "tflops": 989.4}
    reading, computing = accounting.pass_seconds(config, batch=1, **asked)
    assert reading == pytest.approx(1 / accounting.tokens_per_second(
        config, gb_per_second=3350, bits=16, context=8192))
    more, computed = accounting.pass_seconds(config, batch=4, **asked)
    assert more - reading == pytest.approx(3 * 2**30 / 3350e9)      # three caches of 1 GiB
    assert computed == pytest.approx(4 * computing)
    assert computing == pytest.approx(
        accounting.forward_flops(config, tokens=1, before=8192) / 989.4e12)
    _, prompt = accounting.pass_seconds(config, batch=1, new=100, **asked)
    assert prompt > 99 * computing


def test_a_tied_table_is_read_for_the_output_and_fewer_bits_are_read_sooner():
    config = release("llama-3.2-1b").config
    asked = {"batch": 1, "before": 0, "cache_bits": 16, "gb_per_second": 100, "tflops": 1}
    assert config.tied_embeddings
    reading, computing = accounting.pass_seconds(config, bits=16, **asked)
    assert reading == pytest.approx(2 * accounting.parameters(config).total / 100e9)
    assert accounting.pass_seconds(config, bits=8, **asked) == (reading / 2, computing)


def test_arithmetic_of_all_cards_is_of_one_kind_with_sums_in_float32():
    """Multiprocessors x their clock in GHz x operations of one in a clock tick: a consumer card
    (RTX) does 512 with sums in float32, and 1,024 with sums in float16."""
    made_of = {"RTX 4060": (24, 2.46, 512), "RTX 3060": (28, 1.777, 512),
               "RTX 4090": (128, 2.52, 512), "T4": (40, 1.59, 1024),
               "A100-40GB": (108, 1.41, 2048), "A100-80GB": (108, 1.41, 2048),
               "H100-80GB": (132, 1.83, 4096), "H200": (132, 1.83, 4096)}
    for card in GPUS:
        units, ghz, at_once = made_of[card.name]
        assert card.tflops == pytest.approx(units * ghz * at_once / 1000, rel=2e-3)


def test_a_card_is_found_by_its_name_or_refused_with_the_names_there_are():
    assert gpu("T4").gib == 15.0
    assert len({card.name for card in GPUS}) == len(GPUS)
    with pytest.raises(KeyError, match="no card 'H1000' in the table; there are RTX 4060, .*H200"):
        gpu("H1000")
