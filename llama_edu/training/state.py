"""Everything that a training run needs to go on as if it had never stopped.

One file a checkpoint: a line that says what it is, the SHA-256 of the rest, and the rest, which
is what `torch.save` makes of a dict. It is written whole or not at all, and read only if every
byte is as it was written.
"""

import hashlib
import io
import re
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..formats import pth
from ..formats.whole_files import write_whole

KIND = b"llama_edu training state 1\n"
KEEP = 2                        # checkpoints: the newest, and one to fall back on
DIGEST = 65                     # letters of a line with a SHA-256
NAME = re.compile(r"step-(\d{8})\.state")
WORDS = pth.WORDS | {"torch ByteStorage"}       # of the random numbers
PLAIN = (int, float, str, bool, type(None))


@dataclass(frozen=True)
class TrainingState:
    """A run after `step` steps. The order of its data follows from the step and the recipe."""

    step: int
    run: str                        # which recipe on which text, see `save`
    model: dict[str, Tensor]
    optimizer: dict[str, Any]
    random: Tensor                  # the state of PyTorch's generator on the CPU

    def restore(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Put everything back where it came from. Raises ValueError where it came from another
        model or optimizer."""
        try:
            model.load_state_dict(self.model)
            optimizer.load_state_dict(self.optimizer)
            torch.set_rng_state(self.random)
        except Exception as foreign:    # a dozen kinds of error, as in `load`
            raise ValueError(f"the checkpoint of step {self.step} does not fit this model and its "
                             f"optimizer ({str(foreign).splitlines()[0]:.100}); one that was "
                             "written for them is needed. Remove it.") from None


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


def load(file: Path, *, run: str, finished: Callable[[int], str] | None = None) -> TrainingState:
    """Read one checkpoint. Raises ValueError for one that is torn, changed or of another run.

    finished: the name of a run that ends with a step, whose last checkpoint is taken as well.
    """
    body = _body(file)
    try:
        places = pth.records(file, WORDS, io.BytesIO(body))
        table = torch.load(io.BytesIO(body), map_location="meta", weights_only=True)
        state = TrainingState(**_filled(table, body, places))
        if (type(state.step), type(state.run)) != (int, str) or not 0 <= state.step < 10**8:
            raise TypeError("a checkpoint is of a run and a step")
    except Exception:           # on broken bytes torch raises a dozen kinds of error
        raise ValueError(f"{file} holds more than numbers, or not those of a checkpoint; what "
                         "`save` wrote is needed. Do not trust it, and remove it.") from None
    if state.run != run and (finished is None or state.run != finished(state.step)):
        raise ValueError(f"{file} was written for another recipe or another text; this run needs "
                         "one of its own. Choose another folder for this run; of a recipe whose "
                         "run is finished, only `steps` may grow.")
    if state.step != int(NAME.fullmatch(file.name)[1]):
        raise ValueError(f"{file} holds step {state.step}; its name says another. Rename it back.")
    return state


def _body(file: Path) -> bytes:
    """What a checkpoint holds past its two lines of head, every byte as it was written."""
    try:
        with file.open("rb") as opened:
            if (kind := opened.read(len(KIND))) != KIND:
                raise ValueError(f"{file} is no checkpoint of this package; it begins with "
                                 f"{kind[:24]!r}. Move it out of the folder.")
            digest, start = opened.readline(DIGEST), opened.tell()
            found = hashlib.file_digest(opened, "sha256").hexdigest()
            if digest != f"{found}\n".encode():
                raise ValueError(f"{file} is damaged or cut short; {opened.tell() - start} bytes "
                                 "do not have the checksum that was noted when it was written. "
                                 "Remove it.")
            opened.seek(start)
            return opened.read()
    except OSError as unreadable:
        raise ValueError(f"{file} cannot be read ({unreadable.strerror}); a checkpoint that you "
                         "may read is needed. Check its rights.") from None


def _filled(value: Any, body: bytes, places: dict[int, int]) -> Any:
    """The same, its tensors filled with bytes of their own from the file. Raises TypeError or
    ValueError for what no checkpoint holds: nothing is made that was not in the file."""
    if type(value) in (dict, OrderedDict):
        return {key: _filled(inner, body, places) for key, inner in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_filled(inner, body, places) for inner in value)
    if type(value) in PLAIN:
        return value
    if type(value) is not Tensor or not value.is_contiguous():
        raise TypeError(f"a {type(value).__name__} is nothing that a checkpoint holds")
    begin, w = pth.offset(value, places), torch.empty(value.shape, dtype=value.dtype)
    memoryview(w.view(-1).view(torch.uint8).numpy())[:] = body[begin : begin + w.nbytes]
    del places[value.untyped_storage()._checkpoint_offset]      # or a thousand could share it
    return w


def newest(folder: Path, *, run: str, finished: Callable[[int], str] | None = None
           ) -> tuple[TrainingState | None, list[str]]:
    """The newest checkpoint that can be used, as `load` says, and why each newer one was refused.

    None where the folder has no checkpoint. Raises ValueError where it has some and none can be
    used: beginning again would overwrite them.
    """
    refused: list[str] = []
    for file in reversed(files(folder)):
        try:
            return load(file, run=run, finished=finished), refused
        except ValueError as problem:
            refused.append(str(problem))
    if refused:
        raise ValueError(f"none of the {len(refused)} checkpoints in {folder} can be used. The "
                         f"newest: {refused[0]} To begin again, remove the folder.")
    return None, []
