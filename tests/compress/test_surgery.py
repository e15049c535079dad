"""Linear layers are replaced by name, all or none."""

import pytest
import torch
from models import loud_model, some_tokens, tiny_config
from torch import nn

from llama_edu.compress.surgery import replace_linears

CONFIG = tiny_config()


class Doubled(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return 2 * self.layer(x)


def test_matching_layers_are_replaced_and_no_others():
    model = loud_model(CONFIG)
    names = replace_linears(model, r"layers\.\d+\.attention\.w[qv]", lambda _, old: Doubled(old))
    assert names == [f"layers.{n}.attention.{w}" for n in (0, 1) for w in ("wq", "wv")]
    changed = [name for name, part in model.named_modules() if isinstance(part, Doubled)]
    assert changed == names


def test_the_answer_changes_as_the_layers_do():
    model, tokens = loud_model(CONFIG), some_tokens(CONFIG)
    before = model(tokens)
    replace_linears(model, "output", lambda _, old: Doubled(old))
    assert torch.equal(model(tokens), 2 * before)


def test_layers_replaced_by_themselves_change_nothing():
    model, tokens = loud_model(CONFIG), some_tokens(CONFIG)
    before = model(tokens)
    assert len(replace_linears(model, ".*", lambda _, old: old)) == 15      # 2 x 7 and the output
    assert torch.equal(model(tokens), before)


def test_make_is_told_the_name_and_the_layer():
    model, seen = loud_model(CONFIG), {}
    replace_linears(model, ".*w2", lambda name, old: seen.setdefault(name, old))
    assert seen == {name: model.get_submodule(name) for name in (
        "layers.0.feed_forward.w2", "layers.1.feed_forward.w2")}


def test_nothing_is_replaced_when_one_cannot_be():
    model = loud_model(CONFIG)

    def make(name, old):
        if name.startswith("layers.1"):
            raise RuntimeError("no")
        return Doubled(old)

    with pytest.raises(RuntimeError, match="no"):
        replace_linears(model, r".*w1", make)
    assert not any(isinstance(part, Doubled) for part in model.modules())


@pytest.mark.parametrize("pattern", ["wq", "layers", "norm"])
def test_a_pattern_that_matches_nothing_is_refused(pattern):
    with pytest.raises(ValueError, match=f"'{pattern}' was given; .*There are: layers.0.attention"):
        replace_linears(loud_model(CONFIG), pattern, lambda _, old: old)
