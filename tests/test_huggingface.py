"""Reading a Hugging Face folder tensor by tensor."""

import json

import pytest
import torch
from folders import change_json, save_folder

from llama_edu.formats import huggingface
from llama_edu.model import Llama


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("several")
    save_folder(path, max_shard_size="100KB")
    return path


def test_the_config_is_read(folder):
    config = huggingface.read_config(folder)
    assert (config.dim, config.n_kv_heads, config.hidden_dim) == (64, 2, 192)


def test_weights_come_one_by_one_under_the_names_of_meta(folder):
    config = huggingface.read_config(folder)
    weights = huggingface.read_weights(folder, config)
    assert iter(weights) is weights
    read = dict(weights)
    with torch.device("meta"):
        expected = {name: w.shape for name, w in Llama(config).state_dict().items()}
    assert {name: w.shape for name, w in read.items()} == expected


def test_stop_tokens_are_looked_for_in_two_files(tmp_path):
    assert huggingface.read_stop_ids(tmp_path) == ()
    for name in ("config.json", "generation_config.json"):
        (tmp_path / name).write_text(json.dumps({}))
    assert huggingface.read_stop_ids(tmp_path) == ()
    change_json(tmp_path / "config.json", eos_token_id=2)
    assert huggingface.read_stop_ids(tmp_path) == (2,)
    change_json(tmp_path / "generation_config.json", eos_token_id=[5, 6])
    assert huggingface.read_stop_ids(tmp_path) == (5, 6)
