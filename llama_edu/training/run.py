"""A recipe carried out: text to tokens to rows to a model, in a folder that can be killed."""

import csv
import hashlib
import io
import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar

import matplotlib as mpl
import torch
from torch import nn

from .. import checkpoint, plots
from ..formats.whole_files import write_whole
from ..generation import answer
from ..losses import Batch, Objective, next_token
from ..model import Llama
from ..sampling import usual_rules
from ..training_loop import Step, adamw, cosine, evaluate, initialise, train
from . import packing
from . import state as training_state
from .corpus import VOCABULARIES, Corpus, gather, silent
from .recipe import Recipe

SPOKEN = 40                     # tokens that a model says on the way, to be looked at
# What may differ between a run that was stopped and the one that goes on: it changes no weight.
CHANGES_NOTHING = {"out", "save_as", "merged", "checkpoint_every", "sample_every",
                   "checkpoint_activations"}
COLUMNS = [field.name for field in fields(Step) if field.name != "notes"]


@dataclass
class Run:
    """One training run and its folder. Bits are the same on one machine and number of threads.
    `say` is told in words what takes time before the first step.

        run = Run(recipe)
        run.resume()
        for step in run.steps(): ...

    Raises as `gather` does.
    """

    recipe: Recipe
    say: Callable[[str], object] = silent
    objective: ClassVar[Objective] = staticmethod(next_token)
    notes: ClassVar[tuple[str, ...]] = ()       # of the objective, written to the metrics, too
    unit: ClassVar[str] = "token"               # in nats of which the loss is

    def __post_init__(self) -> None:
        self.folder = Path(self.recipe.out)
        self.metrics = self.folder / "metrics.csv"
        torch.manual_seed(self.recipe.seed)
        self.begin()
        self.name = named_run(self.recipe, self.corpus)
        self.optimizer = adamw(self.model)
        self.start = self.done = 0              # steps before this run, and by now
        self.finished: int | None = None        # steps of a shorter run that goes on here

    def begin(self) -> None:
        """Read the text, and make the model and `learnt`: what a checkpoint holds of it."""
        self.corpus = gather(self.recipe, say=self.say)
        self.model = initialise(Llama(self.recipe.model), std=self.recipe.training.init_std,
                                generator=torch.Generator().manual_seed(self.recipe.seed))
        self.learnt: nn.Module = self.model

    def shorter(self, steps: int) -> str:
        """The name of the run of the same recipe that is finished after so many steps; empty where
        no recipe can have so few."""
        plan = self.recipe.training
        if not plan.warmup < steps <= plan.steps:
            return ""
        return named_run(replace(self.recipe, training=replace(plan, steps=steps)), self.corpus)

    def resume(self) -> list[str]:
        """Go on from the newest checkpoint, if there is one; why each newer one was refused.

        The last one of a run that was to have fewer steps, and had them, is as good: this run goes
        on from it, its learning rate where the longer schedule has it by then.

        Raises ValueError where there are checkpoints and none can be used.
        """
        checkpoints = self.folder / "checkpoints"
        state, refused = training_state.newest(checkpoints, run=self.name, finished=self.shorter)
        if state is not None:
            state.restore(self.learnt, self.optimizer)
            self.start = self.done = state.step
            if state.run != self.name:
                self.finished = state.step
            training_state.prune(checkpoints, state.step)   # a kill may have come before it
        write_whole(self.metrics, _metrics_before(self.metrics, self.start, self.columns))
        return refused

    def steps(self) -> Iterator[Step]:
        """Train to the end, step by step; checkpoints, metrics, plot and model are written.

        Raises ValueError where the text does not fill a batch, or the system refuses to write, and
        FloatingPointError where gradients are not finite.
        """
        plan = self.recipe.training
        rate = cosine(plan.peak_lr, warmup=plan.warmup, steps=plan.steps)
        with self.metrics.open("a", newline="", encoding="utf-8") as opened:
            table = csv.writer(opened)
            for step in train(self.model, self.batches(), self.objective, lr=rate,
                              steps=plan.steps, start=self.start, accumulate=plan.accumulate,
                              optimizer=self.optimizer):
                table.writerow([getattr(step, name) for name in COLUMNS]
                               + [step.notes[name] for name in self.notes])
                opened.flush()
                self.done = step.index + 1
                if self.saved_after(self.done):
                    self.save(self.done)
                yield step
        self.finish()
        write_whole(self.folder / "loss.png", self.plot())

    @property
    def columns(self) -> list[str]:
        """Of the metrics."""
        return [*COLUMNS, *self.notes]

    def batches(self) -> Iterator[Batch]:
        """What is trained on from here, without end."""
        plan = self.recipe.training
        return packing.shuffled(self.corpus.rows, size=plan.batch, seed=self.recipe.seed,
                                length=self.recipe.text.row_length,
                                start=self.start * plan.accumulate)

    def held_out_batches(self) -> Iterator[Batch]:
        """What is measured on."""
        length = self.recipe.text.row_length
        return packing.in_order(packing.pack(self.corpus.held_out, length=length),
                                size=self.recipe.training.batch, length=length)

    def amount(self) -> str:
        """How much there is to train on, in words."""
        return f"{len(self.corpus.rows):,} rows of {self.recipe.text.row_length} tokens"

    def finish(self) -> None:
        """Write what the steps have made."""
        known = VOCABULARIES.get(self.recipe.text.source)
        checkpoint.save(self.folder / "model", self.model,
                        known.FOLDER if known else self.corpus.tokenizer,
                        dtype=getattr(torch, self.recipe.save_as))

    def saved_after(self, done: int) -> bool:
        """Whether a checkpoint is written after so many steps."""
        plan = self.recipe.training
        return done % plan.checkpoint_every == 0 or done == plan.steps

    def sampled_after(self, done: int) -> bool:
        """Whether `sample` is worth a look after so many steps."""
        return self.saved_after(done)

    def save(self, done: int) -> None:
        """Write the checkpoint after so many steps."""
        training_state.save(self.folder / "checkpoints", done, self.learnt, self.optimizer,
                            run=self.name)

    def sample(self) -> str:
        """What the model says by now from the beginning of a text. It leaves the run's own random
        numbers alone."""
        self.model.eval()
        return "".join(answer(self.model, self.corpus.tokenizer, "", *usual_rules(0.8, 0.95),
                              max_new=min(SPOKEN, self.recipe.model.max_seq_len - 1),
                              generator=torch.Generator().manual_seed(self.recipe.seed)))

    def held_out_loss(self) -> float | None:
        """Nats per unit on what was held out; None where that is nothing."""
        if not self.corpus.held_out:
            return None
        return evaluate(self.model, self.held_out_batches(), self.objective)

    def plot(self) -> bytes:
        """The loss of every step since the beginning, over the floor where it is known, as PNG."""
        losses = [float(row["loss"]) for row in _rows(self.metrics)]
        with mpl.rc_context(plots.STYLE):
            return self._drawn(losses)

    def _drawn(self, losses: list[float]) -> bytes:
        fig, ax = plots.figure(f"The loss falls from {losses[0]:.2f} to {losses[-1]:.2f}",
                               x="step", y=f"loss (nats per {self.unit})")
        ax.plot(losses, label="loss")
        if self.corpus.floor is not None:
            ax.plot([0, len(losses) - 1], [self.corpus.floor] * 2, "--", color=plots.BLACK,
                    label="floor")
        plots.label_lines(ax)
        picture = io.BytesIO()
        fig.savefig(picture, format="png")
        plots.plt.close(fig)
        return picture.getvalue()

    def summary(self) -> str:
        """Where the model is, and how good: one sentence or two."""
        lines = [f"The model is in {self.folder / 'model'}."]
        if (loss := self.held_out_loss()) is not None:
            lines.append(f"Held-out loss: {loss:.4f} nats per token.")
            if self.corpus.floor is not None:
                lines.append(f"The floor is {self.corpus.floor:.4f}.")
        return " ".join(lines)


def named_run(recipe: Recipe, corpus: Corpus) -> str:
    """The same for all that must give the same weights, and for nothing else."""
    whole = json.dumps([_deciding(asdict(recipe)), corpus.digest], sort_keys=True)
    return hashlib.sha256(whole.encode()).hexdigest()


def _deciding(parts: dict[str, Any]) -> dict[str, Any]:
    return {name: _deciding(part) if type(part) is dict else part
            for name, part in parts.items() if name not in CHANGES_NOTHING}


def _rows(metrics: Path) -> Iterator[dict[str, str]]:
    """The rows of the table that are whole: a kill may have cut the last one short."""
    if metrics.is_file():
        whole = metrics.read_text(encoding="utf-8").rpartition("\n")[0]
        yield from csv.DictReader(io.StringIO(whole))


def _metrics_before(metrics: Path, step: int, columns: list[str]) -> bytes:
    """The table as it was when this many steps were done."""
    kept = itertools.takewhile(lambda row: int(row["index"]) < step, _rows(metrics))
    table = io.StringIO(newline="")
    writer = csv.DictWriter(table, columns)
    writer.writeheader()
    writer.writerows(kept)
    return table.getvalue().encode()
