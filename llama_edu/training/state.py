"""Everything that a training run needs to go on as if it had never stopped.

One file a checkpoint: a line that says what it is, the SHA-256 of the rest, and the rest, which
is what `torch.save` makes of a dict. It is written whole or not at all, and read only if every
byte is as it was written.
"""

import hashlib
import io
import pickle
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..formats.whole_files import write_whole

KIND = b"llama_edu training state 1\n"
KEEP = 2                        # checkpoints: the newest, and one to fall back on
NAME = re.compile(r"step-(\d{8})\.state")


@dataclass(frozen=True)
class TrainingState:
    """A run after `step` steps. The order of its data follows from the step and the recipe."""

    step: int
    run: str                        # which recipe on which text, see `save`
    model: dict[str, Tensor]
    optimizer: dict[str, Any]
    random: Tensor                  # the state of PyTorch's generator on the CPU

    def restore(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Put everything back where it came from."""
        model.load_state_dict(self.model)
        optimizer.load_state_dict(self.optimizer)
        torch.set_rng_state(self.random)


def save(folder: Path, step: int, model: nn.Module, optimizer: torch.optim.Optimizer, *, run: str
         ) -> Path:
    """Write the checkpoint after `step` steps, and remove all before the last two.

    run: names the recipe and its text. A checkpoint of another run is never taken for this one's.
    """
    content = io.BytesIO()
    torch.save({"step": step, "run": run, "model": model.state_dict(),
                "optimizer": optimizer.state_dict(), "random": torch.get_rng_state()}, content)
    body = content.getvalue()
    file = folder / _file(step)
    write_whole(file, KIND + hashlib.sha256(body).hexdigest().encode() + b"\n" + body)
    prune(folder, step)
    return file


def prune(folder: Path, step: int) -> None:
    """Remove all checkpoints of `step` and before, except the last two of them."""
    for old in [file for file in files(folder) if file.name <= _file(step)][:-KEEP]:
        old.unlink()


def _file(step: int) -> str:
    return f"step-{step:08d}.state"


def files(folder: Path) -> list[Path]:
    """The checkpoints in a folder by their names, oldest first. Half-written ones are not."""
    return sorted(file for file in folder.glob("*.state") if NAME.fullmatch(file.name))


def load(file: Path, *, run: str) -> TrainingState:
    """Read one checkpoint. Raises ValueError for one that is torn, changed or of another run."""
    kind, _, rest = file.read_bytes().partition(b"\n")
    if kind + b"\n" != KIND:
        raise ValueError(f"{file} is no checkpoint of this package; it begins with "
                         f"{kind[:24]!r}. Move it out of the folder.")
    digest, _, body = rest.partition(b"\n")
    if hashlib.sha256(body).hexdigest().encode() != digest:
        raise ValueError(f"{file} is damaged or cut short; {len(body)} bytes do not have the "
                         "checksum that was noted when it was written. Remove it.")
    try:
        state = TrainingState(**torch.load(io.BytesIO(body), weights_only=True))
    except (pickle.UnpicklingError, RuntimeError, TypeError):
        raise ValueError(f"{file} holds more than numbers, or not those of a checkpoint; what "
                         "`save` wrote is needed. Do not trust it, and remove it.") from None
    if state.run != run:
        raise ValueError(f"{file} was written for another recipe or another text; this run needs "
                         "one of its own. Choose another folder for this run.")
    if state.step != int(NAME.fullmatch(file.name)[1]):
        raise ValueError(f"{file} holds step {state.step}; its name says another. Rename it back.")
    return state


def newest(folder: Path, *, run: str) -> tuple[TrainingState | None, list[str]]:
    """The newest checkpoint that can be used, and why each newer one was refused.

    None where the folder has no checkpoint. Raises ValueError where it has some and none can be
    used: beginning again would overwrite them.
    """
    refused: list[str] = []
    for file in reversed(files(folder)):
        try:
            return load(file, run=run), refused
        except ValueError as problem:
            refused.append(str(problem))
    if refused:
        raise ValueError(f"none of the {len(refused)} checkpoints in {folder} can be used. The "
                         f"newest: {refused[0]} To begin again, remove the folder.")
    return None, []
