"""A model tuned on pairs of answers, where the recipe has a table [dpo]: a tuning like others."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import Any

from torch import Tensor, nn

from ..alignment import message_files, pair_files
from ..alignment.dpo import (
    NOTES,
    AnswerPair,
    answer_pair,
    batches,
    dpo,
    rewards,
    together,
    with_reference,
)
from ..alignment.preferences import orders, right
from ..losses import Batch, Loss
from ..prompts import Message
from ..tokenizer import Tokenizer
from .tune import Tuning, read_each
from .tune_recipe import TuneRecipe


@dataclass
class PairTuning(Tuning):
    """A tuning by direct preference optimisation.

    The reference is the model as it begins, with LoRA the base without the adapter: a path adds
    nothing at first. It is asked once for what this run will see, also by a run that goes on, and
    no second model is kept.
    """

    notes = NOTES
    unit = "pair"

    def begin(self) -> None:
        """Read model and pairs as a tuning does, and ask the model for the references. Raises
        ValueError, too, where the pairs do not fill a batch."""
        super().begin()
        plan, rows = self.recipe.training, self.corpus.rows
        some = islice(orders(len(rows), size=plan.batch, seed=self.recipe.seed),
                      plan.steps * plan.accumulate)
        seen = sorted({*chain.from_iterable(some)})
        self.say(f"reading {len(seen) + len(self.corpus.held_out):,} pairs as the model is ...")
        for place, found in zip(seen, self.referred([rows[i] for i in seen]), strict=True):
            rows[place] = found
        self.corpus = replace(self.corpus, held_out=self.referred(self.corpus.held_out))

    def referred(self, pairs: list[AnswerPair]) -> list[AnswerPair]:
        """The same pairs with their references."""
        return with_reference(self.model, pairs, size=self.recipe.training.batch)

    def objective(self, model: nn.Module, batch: Batch) -> Loss:
        """`dpo` with the recipe's constants."""
        return dpo(model, batch, beta=self.recipe.dpo.beta, nll=self.recipe.dpo.nll)

    def read(self, tokenizer: Tokenizer) -> tuple[list[list[Message]], list[AnswerPair]]:
        """The prompts and the pairs of the file's lines."""
        plan, ends = self.recipe.text, self.recipe.dpo.end_counts

        def read(line: bytes) -> tuple[list[Message], AnswerPair]:
            asked = pair_files.parse(line)
            return asked.prompt, answer_pair(*asked, tokenizer, self.form, length=plan.row_length,
                                             end_counts=ends)

        return read_each(plan, message_files.lines(plan.source), read, what="pairs", say=self.say)

    def tensors(self, found: list[AnswerPair]) -> list[Tensor]:
        return [text for each in found for text in (each.chosen, each.rejected)]

    def rows(self, found: list[AnswerPair]) -> list[AnswerPair]:
        return found

    def floor(self, found: list[AnswerPair]) -> None:
        """Not known."""

    def batches(self) -> Iterator[Batch]:
        plan = self.recipe.training
        return batches(self.corpus.rows, size=plan.batch, seed=self.recipe.seed,
                       start=self.start * plan.accumulate)

    def held_out_batches(self) -> Iterator[Batch]:
        size, pairs = self.recipe.training.batch, self.corpus.held_out
        return (together(pairs[start:start + size]) for start in range(0, len(pairs), size))

    def amount(self) -> str:
        return (f"{len(self.corpus.rows):,} pairs of texts of up to {self.recipe.text.row_length} "
                "tokens")

    def result(self, loss: float) -> str:
        pairs, plan = self.corpus.held_out, self.recipe
        chosen, rejected = rewards(self.model, pairs, size=plan.training.batch,
                                   beta=plan.dpo.beta).T
        return (f"Held-out loss: {loss:.4f} nats per pair; the chosen answer has the higher reward "
                f"in {right(chosen - rejected).mean():.0%} of {len(pairs)} pairs.")


def tuning(recipe: TuneRecipe, *, say: Callable[[str], Any]) -> Tuning:
    """The run that a recipe asks for."""
    return (Tuning if recipe.dpo is None else PairTuning)(recipe, say=say)
