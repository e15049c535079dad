"""Where tensors are cut: the published byte counts follow, and odd numbers of shards do not."""

import math

import pytest
import torch
from models import tiny_config

from llama_edu.family.accounting import shard_bytes
from llama_edu.family.releases import RELEASES
from llama_edu.formats import shards
from llama_edu.model import Llama


@pytest.mark.parametrize("n_shards", [1, 2, 4, 8, 16])
def test_the_table_of_cuts_gives_the_bytes_that_accounting_counts(n_shards):
    for r in RELEASES:
        if r.config.n_heads % n_shards == 0:
            parts = shards.layout(r.config, n_shards, embedding="v").values()
            held = 2 * sum(math.prod(part.shape) for part in parts)
            assert held == shard_bytes(r.config, shards=n_shards, bits=16), r.id


def test_the_table_of_cuts_knows_the_tensors_of_our_model():
    for n_layers in (1, 3):
        with torch.device("meta"):
            ours = Llama(tiny_config(n_layers=n_layers)).state_dict()
        layout = shards.layout(tiny_config(n_layers=n_layers), 1, embedding="v")
        assert {name: part.whole for name, part in layout.items()} == {
            name: tuple(w.shape) for name, w in ours.items()}
        assert shards.count(n_layers) == len(ours)


@pytest.mark.parametrize(("changes", "complaint"), [
    (dict(hidden_dim=191), "191 feed-forward features cannot be shared out to 2 shards"),
    (dict(vocab_size=97), "97 rows of the vocabulary cannot be shared out to 2 shards"),
    (dict(dim=48, n_heads=12, n_kv_heads=3), "3 key/value heads cannot be shared out to 2 shards"),
])
def test_sizes_that_cannot_be_shared_out_are_refused(changes, complaint):
    with pytest.raises(ValueError, match=complaint):
        shards.layout(tiny_config(**changes), 2, embedding="v")
