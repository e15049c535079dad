"""What all tests share: quiet processors, and Meta's official code as an oracle."""

import os
from pathlib import Path
from types import SimpleNamespace

# Two test processes share two cores; the kernels that nbval starts inherit this.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from ranks import on_loopback

from llama_edu.exercises import asking

torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


@pytest.fixture(scope="session")
def meta_transformer():
    """Meta's official `Transformer` and `ModelArgs`, ready to be built on one CPU process.

    Its weights start uninitialised, and its RoPE scaling factor is always 8.
    """
    try:
        from fairscale.nn.model_parallel import initialize
        from llama_models.llama3.args import ModelArgs
        from llama_models.llama3.model import Transformer
    except ImportError as error:
        pytest.fail(
            f"{error}. The parity tests need Meta's code: "
            "pip install --no-deps -r requirements-oracles.txt"
        )
    import torch.distributed as dist

    on_loopback()       # one process talks to itself
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    initialize.initialize_model_parallel(1)
    yield SimpleNamespace(Transformer=Transformer, ModelArgs=ModelArgs)
    initialize.destroy_model_parallel()
    dist.destroy_process_group()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository of the learner's own, in whose chapters/ each test stands."""
    (tmp_path / "book.yml").touch()
    for name in ("chapters", "solutions"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "chapters")
    monkeypatch.setattr(asking, "_hints_given", type(asking._hints_given)())
    return tmp_path
