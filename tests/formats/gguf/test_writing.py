"""What is left of a GGUF file when writing it fails, and the memory that it takes."""

import gc
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from gguf_files import source_of, weights_of
from models import loud_model, tiny_config

from llama_edu.formats.gguf import weights as gguf
from llama_edu.formats.whole_files import PART


@pytest.fixture(scope="module")
def model():
    return loud_model(tiny_config())


def test_a_kind_that_cannot_be_written_is_refused(tmp_path, model):
    with pytest.raises(ValueError, match="GGUF as 'Q4_K' was asked for; one of F32, .*, Q4_K_M"):
        gguf.write(tmp_path / "x.gguf", source_of(model), kind="Q4_K")


def test_numbers_beyond_f16_are_refused_and_bf16_takes_them(tmp_path):
    model = loud_model(tiny_config())
    model.output.weight[0, 0] = 70_000
    with pytest.raises(ValueError, match=r"output.weight holds numbers from .* to 7e\+04; in F16"):
        gguf.write(tmp_path / "x.gguf", source_of(model), kind="F16")
    for kind, read in (("BF16", 70_144), ("Q8_0", 127 * 551)):      # 551.2 as float16
        gguf.write(tmp_path / "x.gguf", source_of(model), kind=kind)
        assert gguf.open_file(tmp_path / "x.gguf").tensors["output.weight"].read()[0, 0] == read


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -1e7])
def test_numbers_that_q8_0_has_not_are_refused(tmp_path, number):
    model = loud_model(tiny_config())
    model.output.weight[0, 0] = number
    with pytest.raises(ValueError, match="output.weight holds numbers from .*; in Q8_0 they must"):
        gguf.write(tmp_path / "x.gguf", source_of(model), kind="Q8_0")
    assert [*tmp_path.iterdir()] == []


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path, model):
    file = tmp_path / "x.gguf"
    gguf.write(file, source_of(model), kind="F16")
    before, source = file.read_bytes(), source_of(model)

    def fail() -> torch.Tensor:
        assert file.with_name(f"x.gguf{PART}").stat().st_size > 0
        raise ValueError("no such tensor any more")

    last = replace(source.tensors["output.weight"], read=fail)
    with pytest.raises(ValueError, match="no such tensor any more"):
        gguf.write(file, replace(source, tensors=source.tensors | {"output.weight": last}),
                   kind="Q8_0")
    assert file.read_bytes() == before
    assert [*tmp_path.iterdir()] == [file]


def test_a_run_that_dies_leaves_the_old_file_and_the_next_run_cleans_up(tmp_path, model):
    file = tmp_path / "x.gguf"
    gguf.write(file, source_of(model), kind="F16")
    before = file.read_bytes()
    code = """
import os, sys
from dataclasses import replace
from pathlib import Path
from llama_edu.formats.gguf import weights as gguf
file = Path(sys.argv[1])
source = gguf.open_file(file)
die = replace(source.tensors["output.weight"], read=lambda: os._exit(7))
gguf.write(file, replace(source, tensors=source.tensors | {"output.weight": die}), kind="F32")
"""
    assert subprocess.run([sys.executable, "-c", code, str(file)], check=False).returncode == 7
    assert file.read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"x.gguf", f"x.gguf{PART}"}
    gguf.write(file, source_of(model), kind="Q8_0")
    assert [*tmp_path.iterdir()] == [file]


def test_a_folder_that_cannot_be_made_is_named(tmp_path, model):
    (tmp_path / "taken").touch()
    with pytest.raises(ValueError, match="taken/x.gguf cannot be written .*a folder that you may"):
        gguf.write(tmp_path / "taken" / "x.gguf", source_of(model), kind="F16")


def test_nothing_is_read_before_it_is_asked_for_and_no_file_stays_open(tmp_path, model):
    gguf.write(tmp_path / "x.gguf", source_of(model), kind="Q8_0")
    gc.collect()
    n_open = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else None
    source = gguf.open_file(tmp_path / "x.gguf")
    kept = weights_of(source)
    if n_open is not None:
        assert len(os.listdir("/proc/self/fd")) == n_open
        assert "x.gguf" not in Path("/proc/self/maps").read_text()
    (tmp_path / "x.gguf").unlink()
    with pytest.raises(ValueError, match="x.gguf cannot be read any more"):
        source.tensors["norm.weight"].read()
    assert len(kept) == len(source.tensors)


@pytest.mark.skipif(sys.platform != "linux", reason="counts memory as Linux does")
def test_memory_stays_under_two_tensors_while_a_file_is_written_and_read(tmp_path):
    code = """
import resource, sys
from pathlib import Path
import torch
from llama_edu.config import ModelConfig, tensor_shapes
from llama_edu.formats.gguf import weights as gguf
from llama_edu.formats.source import Source, Stored
torch.set_num_threads(1)
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
config = ModelConfig(dim=4096, n_layers=1, n_heads=32, n_kv_heads=8, hidden_dim=64,
                     vocab_size=8192, norm_eps=1e-5, rope_theta=1e4, max_seq_len=64)
made = lambda shape: torch.full(shape, 0.5, dtype=torch.bfloat16)
tensors = {name: Stored(shape, torch.bfloat16, lambda shape=shape: made(shape))
           for name, shape in tensor_shapes(config)}
file, before = Path(sys.argv[1]), peak()
gguf.write(file, Source(config, tensors, None, ()), kind="Q8_0")
for stored in gguf.open_file(file).tensors.values():
    low, high = torch.aminmax(stored.read())
    assert 0.49 < low <= high < 0.51
print(peak() - before)
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "x.gguf")], check=True,
                          capture_output=True, text=True)
    # The largest tensor, the embedding, has 2^25 numbers: 128 MiB as float32, as Q8_0 is read.
    # 64 MiB more for what is converted at once; the whole model is 3.2 times the embedding.
    assert float(done.stdout) < 2 * 128 + 64
