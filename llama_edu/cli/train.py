"""`llama-edu train`: train a model as a recipe says; go on if it was stopped."""

import argparse
import json
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .say import say

if TYPE_CHECKING:
    from ..training.run import Run

RECIPE = "recipe.toml"


def add(commands: Any) -> None:
    train = commands.add_parser("train", help="train a model as a recipe says; go on if stopped")
    add_recipe(train, what="a recipe that works")
    train.set_defaults(run=run)


def add_recipe(command: argparse.ArgumentParser, *, what: str) -> None:
    """A recipe, or --example and where it is written."""
    asked = command.add_mutually_exclusive_group(required=True)
    asked.add_argument("recipe", nargs="?", metavar="RECIPE.toml")
    asked.add_argument("--example", type=Path, metavar="DIR",
                       help=f"write {what} into this folder, and train nothing")


def run(options: argparse.Namespace) -> int:
    """Train, or go on after a stop; what happens on stderr, the outcome on stdout."""
    if options.example is not None:
        print(write_example(options.example, "train", "train.toml"))
        return 0
    from ..training import recipe
    plan = recipe.read(options.recipe)

    def begin() -> "Run":
        from ..training.run import Run
        return Run(plan, say=say)

    return carry_out(begin)


def carry_out(begin: Callable[[], "Run"]) -> int:
    """Carry out the run that `begin` makes; 130 where it was stopped."""
    try:
        run = begin()
        for refused in run.resume():
            say(refused)
    except KeyboardInterrupt:
        say("stopped by you before the first step; nothing that was trained is lost.")
        raise
    _announce(run)
    if not _trained(run):
        return 130
    print(run.summary())
    return 0


def _announce(run: "Run") -> None:
    plan = run.recipe.training
    if run.finished is not None:
        say(f"the run of {run.finished:,} steps is finished; going on to {plan.steps:,}. The "
            "learning rate is where the longer schedule has it by then.")
    elif run.start == plan.steps:
        say(f"the run of {run.start:,} steps is finished; with more `steps` in the recipe it goes "
            "on.")
    elif run.start:
        say(f"going on after step {run.start}.")
    if run.start < plan.steps:
        n = sum(p.numel() for p in run.model.parameters() if p.requires_grad)
        say(f"training {n:,} parameters to step {plan.steps:,} on {run.amount()}; Ctrl-C stops "
            "after a step, and saves it.")


def _trained(run: "Run") -> bool:
    """Whether all steps were done. Ctrl-C ends them after the next whole one, which is saved; a
    second one ends them at once."""
    from tqdm import tqdm
    plan, saved = run.recipe.training, run.start
    try:
        with _stop_asked() as stop, tqdm(total=plan.steps, initial=run.start, unit="step",
                                         disable=None) as bar:
            for step in run.steps():
                done = step.index + 1
                bar.set_postfix(loss=f"{step.loss:.3f}", refresh=False)
                bar.update()
                if run.saved_after(done):
                    saved = done
                if run.sampled_after(done):
                    with bar.external_write_mode():
                        say(f"step {done:,}, loss {step.loss:.3f}; it says: {run.sample()!r}")
                if stop and done < plan.steps:
                    run.save(done)
                    say(f"stopped by you after step {done:,} of {plan.steps:,}, which is saved: "
                        "the same command goes on from there.")
                    return False
    except KeyboardInterrupt:
        say(f"stopped by you at once: what was trained after step {saved:,} is lost. The same "
            "command goes on from there.")
        raise
    return True


@contextmanager
def _stop_asked() -> Iterator[list[int]]:
    """A list that a first Ctrl-C fills; a second one raises KeyboardInterrupt, as ever."""
    asked: list[int] = []

    def note(number: int, frame: object) -> None:
        asked.append(number)
        signal.signal(signal.SIGINT, before)
        with suppress(RuntimeError):        # stderr may be in the middle of a line
            say("Ctrl-C: saving after this step; a second one stops at once.")

    before = signal.signal(signal.SIGINT, note)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)


def write_example(folder: Path, command: str, template: str, *beside: str) -> str:
    """Write a recipe, and files beside it; what to type next. Raises ValueError where one of them
    is there already."""
    from ..formats.whole_files import write_whole
    file, ours = folder / RECIPE, files("llama_edu.training") / "examples"
    for each in (file, *(folder / name for name in beside)):
        if each.exists():
            raise ValueError(f"{each} is there already; a folder without it is needed. Choose "
                             f"another, or use what is there: llama-edu {command} {file}")
    text = (ours / template).read_text(encoding="utf-8").replace("{folder}", folder.as_posix(), 1)
    for name in ("run", *beside):
        written = json.dumps((folder / name).as_posix(), ensure_ascii=False)
        text = text.replace(f"{{{name}}}", written, 1)
    for name in beside:
        write_whole(folder / name, (ours / name).read_bytes())
    write_whole(file, text.encode())
    return f"{file} is written. Look at it, change it, and then:\n  llama-edu {command} {file}"
