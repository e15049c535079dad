"""Run a function in several gloo processes of this machine, and give back what each returned."""

import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import distributed, multiprocessing


def on_ranks(n: int, work: Callable[..., Any], *given: object) -> list[Any]:
    """`work(rank, *given)` in n processes that can talk to each other; their results by rank."""
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(_run, (n, Path(folder), work, given), nprocs=n)
        return [torch.load(Path(folder, f"{rank}.pt"), weights_only=False) for rank in range(n)]


def on_loopback() -> None:
    """Let processes talk through the loopback interface: it is always there, a host name is not."""
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")
    if sys.platform == "win32":
        del os.environ["GLOO_SOCKET_IFNAME"]


def _run(rank: int, n: int, folder: Path, work: Callable[..., Any], given: tuple) -> None:
    torch.set_num_threads(1)
    on_loopback()
    store = distributed.FileStore(str(folder / "store"), n)
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=n)
    torch.save(work(rank, *given), folder / f"{rank}.pt")
    distributed.destroy_process_group()
