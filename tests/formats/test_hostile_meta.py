"""Folders in Meta's format that contradict themselves: one clear error each."""

import json
import math
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch
from meta_folders import FIRST, change, read_all, refused, write_sound

from llama_edu.formats import meta, shards
from llama_edu.formats.convert import convert
from llama_edu.formats.meta_params import BESIDE, PARAMS
from llama_edu.tokenizer import carried


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    return write_sound(tmp_path_factory.mktemp("sound"))


@pytest.fixture
def folder(sound, tmp_path) -> Path:
    """A copy to spoil."""
    return shutil.copytree(sound, tmp_path / "folder")


def edit_json(file: Path, **changes: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_a_missing_shard_is_named(folder):
    (folder / FIRST).unlink()
    refused(folder, f"has 1 shards and no {FIRST}")
    (folder / "consolidated.01.pth").unlink()
    refused(folder, f"has 0 shards and no {FIRST}")


@pytest.mark.parametrize("make", ["mkdir", "mkfifo"])
@pytest.mark.parametrize("name", [FIRST, PARAMS])
def test_what_is_no_plain_file_is_missing(folder, name, make):
    (folder / name).unlink()
    if not hasattr(os, make):
        pytest.skip("this system has no such thing")
    getattr(os, make)(folder / name)
    refused(folder, f"no {name}")


def test_the_last_shard_missing_shows_in_the_shapes(folder):
    (folder / "consolidated.01.pth").unlink()
    refused(folder, r"1 shards of this model need \(12, 16\)|divides")


@pytest.mark.parametrize("extra", ["consolidated.02.pth", "consolidated.old.pth"])
def test_a_shard_too_many_is_refused(folder, extra):
    shutil.copyfile(folder / FIRST, folder / extra)
    refused(folder, "shared out to 3 shards|shards of this model need|has 3 shards and no")


@pytest.mark.parametrize(("name", "error", "complaint"), [
    ("layers.0.attention.wq.bias", KeyError, "wq.bias.*no text Llama has one"),
    ("layers.0.cross_attention.wq.weight", KeyError, "no text Llama has one"),
    ("../../etc/passwd", KeyError, "no text Llama has one"),
    ("layers.1.ffn_norm.weight", ValueError, "holds 13 tensors; params.json says n_layers = 1"),
    ("layers.00.ffn_norm.weight", ValueError, "holds 13 tensors"),
])
def test_a_tensor_too_many_is_named(folder, name, error, complaint):
    change(folder / FIRST, lambda table: table.update({name: torch.ones(16)}))
    refused(folder, complaint, error)


def test_a_tensor_too_few_is_refused(folder):
    change(folder / FIRST, lambda table: [table.pop("norm.weight"), None][1])
    refused(folder, "consolidated.00.pth holds 11 tensors; params.json says n_layers = 1")


def test_a_tensor_under_another_layers_number_is_named(folder):
    def move(table):
        table["layers.3.ffn_norm.weight"] = table.pop("layers.0.ffn_norm.weight")
    change(folder / FIRST, move)
    refused(folder, r"first layers\.0\.ffn_norm\.weight")


@pytest.mark.parametrize("w", [torch.ones(15), torch.ones(16, 1), torch.ones(16).half()],
                         ids=["shape", "axes", "dtype"])
def test_a_tensor_of_another_shape_or_kind_is_named(folder, w):
    change(folder / "consolidated.01.pth", lambda table: table.update({"norm.weight": w}))
    refused(folder, r"norm\.weight is \(.*in consolidated\.01\.pth; 2 shards of this model need")


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["norm.weight", "layers.0.feed_forward.w2.weight"])
def test_weights_that_are_no_numbers_are_named(folder, name, bad):
    change(folder / FIRST, lambda table: table[name].view(-1)[3].fill_(bad) and None)
    refused(folder, f"{name} (holds NaN or infinity|differ)|copies of {name} differ")


def test_norms_must_be_equal_in_all_shards(folder):
    change(folder / "consolidated.01.pth", lambda table: table["norm.weight"][3].add_(1) and None)
    refused(folder, r"the copies of norm\.weight differ \(seen in consolidated\.01\.pth\)")


def test_repeated_heads_must_be_equal(sound, tmp_path):
    source = meta.open_folder(sound)
    meta.write(tmp_path, source, n_shards=4, dtype=torch.float32)
    name = "layers.0.attention.wv.weight"
    assert torch.equal(meta.open_folder(tmp_path).tensors[name].read(), source.tensors[name].read())
    change(tmp_path / "consolidated.03.pth", lambda table: table[name][0, 0].add_(1) and None)
    refused(tmp_path, r"the copies of layers\.0\.attention\.wv\.weight differ")


def test_tables_that_our_writer_called_one_must_be_equal(folder):
    edit_json(folder / BESIDE, tied_embeddings=True)
    refused(folder, "output.weight differs from tok_embeddings.weight; llama_edu.json ties them")


# -- links -------------------------------------------------------------------------------------

LINKS = pytest.mark.skipif(sys.platform == "win32", reason="Windows makes no links without rights")


@LINKS
@pytest.mark.parametrize("name", [FIRST, PARAMS, BESIDE, *carried.NAMES])
def test_a_link_out_of_the_folder(folder, tmp_path, name):
    if not (folder / name).exists():
        (folder / name).write_text("{}")
    (folder / name).rename(tmp_path / "secret")
    (folder / name).symlink_to(tmp_path / "secret")
    refused(folder, f"{name} is a link to .*secret, outside the folder; the file itself is needed")


@LINKS
def test_what_a_link_shows_is_not_carried_into_another_folder(folder, tmp_path):
    (tmp_path / "secret").write_text('{"secret": 1}')
    (folder / "special_tokens_map.json").symlink_to(tmp_path / "secret")
    with pytest.raises(ValueError, match="is a link to"):
        convert(folder, tmp_path / "new", format="meta")
    assert not (tmp_path / "new").exists()


@LINKS
@pytest.mark.parametrize("blobs", ["blobs", "elsewhere"])
def test_links_inside_the_cache_of_the_hub_are_its_way(folder, tmp_path, blobs):
    home = tmp_path / "models--owner--llama" / "snapshots" / "0123"
    home.mkdir(parents=True)
    (home.parent.parent / blobs).mkdir()
    for file in folder.iterdir():
        file.rename(home.parent.parent / blobs / file.name)
        (home / file.name).symlink_to(Path("..", "..", blobs, file.name))
    if blobs == "blobs":
        read_all(home)
    else:
        refused(home, "outside the folder")


# -- params.json -------------------------------------------------------------------------------


@pytest.mark.parametrize(("fields", "complaint"), [
    (dict(n_layers=10**9), "says n_layers = 1000000000; .* no Llama has more than 16,777,216"),
    (dict(dim=10**400), "says dim = 1000"), (dict(vocab_size=2**31), "says vocab_size"),
    (dict(multiple_of=10**300), "says multiple_of"), (dict(n_heads=10**18), "says n_heads"),
    (dict(n_layers=10**6), "holds 12 tensors; params.json says n_layers = 1000000"),
    (dict(n_layers="many"), "says n_layers = 'many'"), (dict(n_layers=-1), "says n_layers = -1"),
    (dict(n_layers=None), "says n_layers = None"), (dict(n_layers=2), "says n_layers = 2"),
    (dict(dim="x" * 10**5), "says dim = 'xxx"), (dict(dim=17), "does not split into 4 heads"),
    (dict(dim=32), "is .* in consolidated.00.pth; 2 shards of this model need"),
    (dict(vocab_size=13), "rows of the vocabulary cannot be shared out|need"),
    (dict(vocab_size=0), "vocab_size is 0"), (dict(norm_eps="small"), "says norm_eps = 'small'"),
    (dict(ffn_dim_multiplier=1e9), "= 1000000000.0; a number above 0 and up to 100 is needed"),
    (dict(ffn_dim_multiplier="1.3"), "says ffn_dim_multiplier = '1.3'"),
    (dict(use_scaled_rope=1), "says use_scaled_rope = 1; true or false"),
    (dict(vision_chunk_size=448), "fields that no Llama has: vision_chunk_size"),
    (dict(quantization_args={}), "fields that no Llama has: quantization_args"),
    (dict(model=[]), r"holds \[\] as its model"), (dict(model={"dim": 16}), "n_layers = None"),
    (dict(n_kv_heads=3), "cannot share 3 key/value heads|contradicts"),
])
def test_sizes_that_make_no_sense_are_refused(folder, fields, complaint):
    edit_json(folder / PARAMS, **fields)
    refused(folder, complaint)


def test_a_million_layers_are_counted_before_they_are_listed(folder, monkeypatch):
    monkeypatch.setattr(shards, "names", lambda n_layers: pytest.fail("they were listed"))
    edit_json(folder / PARAMS, n_layers=10**6)
    refused(folder, "holds 12 tensors; params.json says n_layers = 1000000")


@pytest.mark.parametrize(("text", "complaint"), [
    ("", "is not JSON"), ("{", "is not JSON"), ("[" * 10**5, "is not JSON"), ("[]", "holds a list"),
    ('{"dim": NaN}', "is not JSON"), ('{"dim": ' + "9" * 5000 + "}", "is not JSON"),
    ('{"dim": 1e999}', "is not JSON"), (" " * 10**7, "is not JSON"),
])
def test_params_that_are_no_json_object_are_refused(folder, text, complaint):
    (folder / PARAMS).write_text(text)
    refused(folder, complaint)


def test_a_folder_without_params_is_refused(folder):
    (folder / PARAMS).unlink()
    refused(folder, "there is no params.json in")


@pytest.mark.parametrize(("fields", "complaint"), [
    (dict(max_seq_len=10**12), "cannot be used .*no Llama has more than"),
    (dict(max_seq_len=None), "cannot be used"), (dict(n_kv_heads=4), "contradicts params.json"),
    (dict(rope_scaling={"factor": 8}), "cannot be used"),
    (dict(rope_scaling=[1]), "cannot be used"),
    (dict(tied_embeddings="no"), "cannot be used"), (dict(stop_ids="ab"), "says stop_ids"),
    (dict(stop_ids=[-1]), "says stop_ids"), (dict(stop_ids=3), "cannot be used"),
    (dict(more=1), "contradicts params.json"),
    (dict(rope_scaling=dict(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                            original_context=8192)), "contradicts params.json"),
])
def test_the_file_beside_is_checked_as_well(folder, fields, complaint):
    edit_json(folder / BESIDE, **fields)
    refused(folder, complaint)
