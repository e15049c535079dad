"""What the ledger says that a published table lists is what the installed table lists."""

import pytest

from llama_edu.claims.computed.configurations import (
    LISTED,
    excess_as_listed,
    settings_listed_wrongly,
)
from llama_edu.config import swiglu_width
from llama_edu.family.releases import release

sku_list = pytest.importorskip("llama_models.sku_list")
IN_THE_TABLE = [name for name in LISTED if not name.startswith("CodeLlama")]


@pytest.mark.parametrize("name", IN_THE_TABLE)
def test_settings_are_copied_as_meta_lists_them(name):
    args = sku_list.resolve_model(name).arch_args
    listed = LISTED[name]
    assert (args["multiple_of"], args["ffn_dim_multiplier"]) == (listed.multiple_of,
                                                                 listed.multiplier)
    assert {key: args[key] for key in listed.says} == listed.says


@pytest.mark.parametrize("name", IN_THE_TABLE)
def test_no_other_wrong_setting_was_left_out(name):
    args, truth = sku_list.resolve_model(name).arch_args, release(LISTED[name].id).config
    width = swiglu_width(args["dim"], multiple_of=args["multiple_of"],
                         multiplier=args["ffn_dim_multiplier"])
    found = {key for key in ("dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size", "norm_eps",
                             "rope_theta") if args[key] != getattr(truth, key)}
    assert found | ({"hidden_dim"} if width != truth.hidden_dim else set()) == set(
        settings_listed_wrongly(name))


def test_group_size_of_the_quantised_models_is_256_there():
    model = sku_list.resolve_model("Llama3.2-1B-Instruct:int4-qlora-eo8")
    assert model.arch_args["quantization_args"]["group_size"] == 256


def test_a_configuration_that_is_right_has_nothing_in_excess():
    assert excess_as_listed("Llama-Guard-3-8B") == 0
