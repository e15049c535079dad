"""What params.json says, what it leaves open, and where the answers come from."""

import json
from dataclasses import replace

import pytest
import torch
from folders import change_json
from meta_folders import SECOND, change, eight_heads, shard_files, written

from llama_edu.config import RopeScaling, from_meta
from llama_edu.family.releases import RELEASES, release
from llama_edu.formats import meta, meta_params
from llama_edu.formats.meta_params import BESIDE, PARAMS


def test_a_folder_of_the_first_generations_is_read(tmp_path):
    model = written(tmp_path, eight_heads(rope_theta=1e4, norm_eps=1e-6, max_seq_len=2048),
                    n_shards=4)
    params = json.loads((tmp_path / PARAMS).read_text()) | {"vocab_size": -1}
    del params["rope_theta"], params["use_scaled_rope"]
    params["n_kv_heads"] = 2
    (tmp_path / PARAMS).write_text(json.dumps({"model": params}))
    (tmp_path / BESIDE).unlink()
    for file in shard_files(tmp_path):
        change(file, lambda table: table.update({"rope.freqs": torch.ones(4)}))
    read = meta.open_folder(tmp_path)
    assert read.config == model.config
    assert list(read.tensors) == list(model.state_dict())
    table = torch.load(tmp_path / "consolidated.00.pth", weights_only=True)
    assert table["tok_embeddings.weight"].shape == (96, 16)     # cut by feature
    assert table["layers.0.attention.wk.weight"].shape == (8, 64)   # one head, as in another shard
    for name, w in model.state_dict().items():
        assert torch.equal(read.tensors[name].read(), w)


def test_from_llama_3_on_the_embedding_is_cut_by_token(tmp_path):
    written(tmp_path, eight_heads(), n_shards=4)
    table = torch.load(tmp_path / "consolidated.00.pth", weights_only=True)
    assert table["tok_embeddings.weight"].shape == (24, 64)


@pytest.mark.parametrize("r", RELEASES, ids=lambda r: r.id)
def test_every_release_is_recognised_by_its_numbers(r):
    for n_shards in (r.shards, 16) if "405b" in r.id else (r.shards,):
        params = meta_params.params_fields(r.config, n_shards)
        base = from_meta(params, vocab_size=r.config.vocab_size, max_seq_len=1)
        said = meta_params.conclude(base, n_shards).config
        if r.id == "llama-guard-3-1b":      # only its tables tell it from Llama 3.2 1B
            assert said == release("llama-3.2-1b").config
        else:
            assert said == r.config
    pruned = r.id == "llama-guard-3-1b-int4"    # its width does not follow from the rule
    assert pruned == ((params["multiple_of"], params.get("ffn_dim_multiplier"))
                      != (r.multiple_of, r.ffn_dim_multiplier))


def test_the_largest_llama_in_16_shards_says_16_heads_and_has_8():
    params = meta_params.params_fields(release("llama-3.1-405b").config, 16)
    assert params["n_kv_heads"] == 16


@pytest.mark.parametrize(("changes", "context"), [
    (dict(rope_theta=1e4, norm_eps=1e-6), 2048), (dict(rope_theta=1e4), 4096),
    (dict(rope_theta=1e6), 16_384), (dict(rope_theta=5e5), 8192),
    (dict(rope_theta=5e5, rope_scaling=RopeScaling(8.0, 1.0, 4.0, 8192)), 131_072)])
def test_other_shapes_have_the_context_of_their_generation(tmp_path, changes, context):
    written(tmp_path, eight_heads(max_seq_len=context, n_kv_heads=8, **changes), n_shards=2)
    assert not (tmp_path / BESIDE).exists()     # nothing is left to say
    assert meta.open_folder(tmp_path).config.max_seq_len == context


def test_two_tables_that_are_equal_are_tied_only_where_a_release_or_our_writer_says_so(tmp_path):
    written(tmp_path, eight_heads(tied_embeddings=True), n_shards=2)
    read = meta.open_folder(tmp_path)
    assert read.config.tied_embeddings
    assert "output.weight" not in read.tensors
    (tmp_path / BESIDE).unlink()
    read = meta.open_folder(tmp_path)
    assert not read.config.tied_embeddings
    assert torch.equal(*(read.tensors[name].read()
                         for name in ("tok_embeddings.weight", "output.weight")))


@pytest.mark.parametrize("equal", [True, False])
def test_the_tables_tell_llama_3_2_from_the_guard_of_its_shape(tmp_path, monkeypatch, equal):
    tied = eight_heads(tied_embeddings=True, max_seq_len=131_072, n_kv_heads=8,
                       rope_scaling=RopeScaling(32.0, 1.0, 4.0, 8192))
    small = replace(release("llama-3.2-1b"), config=tied)
    monkeypatch.setattr(meta_params, "RELEASES", (small,))
    written(tmp_path, tied, n_shards=2)
    assert not (tmp_path / BESIDE).exists()
    if not equal:
        change(tmp_path / SECOND, lambda table: table["output.weight"][3, 4].add_(1) and None)
    config = meta.open_folder(tmp_path).config
    assert config == replace(tied, tied_embeddings=equal)
    assert config.rope_scaling.factor == 32


@pytest.mark.parametrize("hidden_dim", [1, 7, 100, 169, 170, 171, 192, 255, 6400])
def test_the_width_rule_of_params_json_gives_every_width(hidden_dim):
    config = eight_heads(hidden_dim=hidden_dim)
    params = meta_params.params_fields(config, 1)
    assert from_meta(params, vocab_size=96, max_seq_len=128) == config


def test_params_json_may_be_changed_by_hand_where_the_files_agree(tmp_path):
    written(tmp_path, eight_heads(), n_shards=1)
    change_json(tmp_path / PARAMS, norm_eps=2e-5)
    assert meta.open_folder(tmp_path).config.norm_eps == 2e-5
