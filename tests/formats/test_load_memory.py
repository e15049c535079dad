"""What loading costs, measured in a process of its own. Run as a script, it is that process:

    python test_load_memory.py FOLDER DTYPE once|twice|write

loads the folder, or writes it again, and prints the most memory that it took beyond what Python and
torch take anyway. `twice` keeps a second copy of all tensors, as a careless loader would.
"""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from llama_edu import checkpoint
from llama_edu.config import ModelConfig, tensor_shapes
from llama_edu.formats import huggingface
from llama_edu.formats.source import Source, Stored

# 12.6 million parameters a layer and 16.8 in each table: 218 million bytes in 16 bits.
SHAPE = ModelConfig(dim=1024, n_layers=6, n_heads=16, n_kv_heads=4, hidden_dim=3264,
                    vocab_size=16_384, norm_eps=1e-5, rope_theta=5e5, max_seq_len=2048)
WEIGHTS = 2 * sum(torch.Size(shape).numel() for _, shape in tensor_shapes(SHAPE))


def memory(key: str) -> int:
    """VmRSS, what this process has now, or VmHWM, the most it ever had; in bytes."""
    return 1024 * int(re.search(rf"{key}:\s+(\d+)", Path("/proc/self/status").read_text())[1])


def measure(folder: Path, dtype: torch.dtype, task: str) -> dict[str, int]:
    checkpoint.load(checkpoint.TALES)       # so that every import and first use is paid for
    before = memory("VmRSS")
    source = huggingface.open_folder(folder)
    checkpoint.check_whole(source)
    seen = {"opened": memory("VmHWM") - before}
    if task == "write":
        huggingface.write(folder / "again", source, n_files=2, dtype=dtype)
        seen["written"] = sum(f.stat().st_size for f in folder.glob("again/*.safetensors"))
        seen["written"] -= sum(8 + int.from_bytes(f.open("rb").read(8), "little")
                               for f in folder.glob("again/*.safetensors"))
    else:
        seen["weights"] = load(source, dtype, twice=task == "twice")
    return seen | {"peak": memory("VmHWM") - before}


def load(source: Source, dtype: torch.dtype, *, twice: bool) -> int:
    if twice:
        kept = {name: stored.read() for name, stored in source.tensors.items()}
        source = replace(source, tensors={name: replace(stored, read=kept[name].clone)
                                          for name, stored in source.tensors.items()})
    model = checkpoint.read_model(source, "cpu", dtype)
    return sum(w.nbytes for w in model.parameters())


def write(folder: Path, dtype: torch.dtype, **changes: object) -> None:
    """Write random weights."""
    config = ModelConfig(**vars(SHAPE) | changes)
    tensors = {name: Stored(shape, dtype, lambda shape=shape: torch.rand(shape, dtype=dtype))
               for name, shape in tensor_shapes(config)}
    huggingface.write(folder, Source(config, tensors, None, ()), n_files=1, dtype=dtype)


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(measure(Path(sys.argv[1]), getattr(torch, sys.argv[2]), sys.argv[3])))


# -- the tests ---------------------------------------------------------------------------------

pytestmark = pytest.mark.skipif(sys.platform != "linux",
                                reason="the highest memory of a process is read from Linux' /proc")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("bfloat16")
    write(path, torch.bfloat16)
    return path


def measured(folder, dtype, task="once"):
    done = subprocess.run([sys.executable, __file__, str(folder), dtype, task],
                          capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_loading_costs_the_size_of_the_weights_once(folder):
    seen = measured(folder, "bfloat16")
    assert seen["weights"] == WEIGHTS > 200e6
    # Torch's own code, and the rows of wq and wk while they are put in order: a few millions.
    assert seen["peak"] < 1.15 * seen["weights"]
    assert seen["opened"] < 2e6         # the headers alone


def test_a_second_copy_would_be_seen(folder):
    seen = measured(folder, "bfloat16", "twice")
    assert seen["peak"] > 1.9 * seen["weights"]


def test_a_file_of_wider_numbers_is_never_in_memory_as_a_whole(tmp_path):
    write(tmp_path, torch.float32)
    seen = measured(tmp_path, "bfloat16")
    assert seen["weights"] == WEIGHTS
    # Beside the weights, one table at a time in float32, which is 0.3 of them, and the holes that
    # smaller ones leave in the allocator's heap. The whole file in memory would make it 3.
    assert seen["peak"] < 2 * seen["weights"]


def test_a_tied_table_is_in_memory_once(tmp_path):
    write(tmp_path, torch.bfloat16, tied_embeddings=True)
    seen = measured(tmp_path, "bfloat16")
    assert seen["weights"] == WEIGHTS - 2 * SHAPE.vocab_size * SHAPE.dim
    assert seen["peak"] < 1.15 * seen["weights"]


def test_writing_costs_less_than_two_of_the_largest_tensor(folder):
    seen = measured(folder, "float32", "write")
    assert seen["written"] == 2 * WEIGHTS
    # Twice the largest tensor, and what is imported and held back by the allocator on the way.
    assert seen["peak"] < 2 * 4 * SHAPE.vocab_size * SHAPE.dim + 64e6 < seen["written"] / 2
