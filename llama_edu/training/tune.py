"""A model that exists, tuned on dialogs: a run like any other, from other weights and rows."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor, nn

from .. import checkpoint, prompts
from ..alignment import message_files
from ..alignment.messages import document
from ..compress.quant import int4
from ..compress.surgery import replace_linears
from ..data.dialogues import dialogues, floor_per_token
from ..formats import huggingface
from ..formats.source import Source, in_memory
from ..formats.whole_files import write_whole
from ..generation import stream
from ..losses import next_learnt_token
from ..prompts import Format, Message
from ..sampling import known, top_k
from ..tokenizer import Tokenizer
from ..tokenizer.carried import templates
from . import adapter_files, lora, packing, recompute
from .corpus import Corpus
from .run import SPOKEN, Run
from .tune_recipe import DIALOGUES, DialogsRecipe, TuneRecipe

ASKED = 3                       # held-out dialogs that are answered on the way, at most


@dataclass
class Tuning(Run):
    """A tuning run and its folder, used and resumed as a `Run` is.

    It leaves `adapter`, a folder that `peft` reads, too, or, where all weights were learnt or the
    recipe asks for it, `model`. A checkpoint holds what is learnt and nothing of the rest. Raises
    as `read_dialogs`, `add_lora` and `checkpoint.load` do.
    """

    recipe: TuneRecipe
    objective = staticmethod(next_learnt_token)

    def begin(self) -> None:
        """Read model and dialogs, give the model what is to be learnt; a ValueError for rows that
        are longer than its context."""
        recipe, plan = self.recipe, self.recipe.text
        self.say(f"reading {recipe.model} ...")
        self.source = checkpoint.open_source(recipe.model)
        tokenizer = checkpoint.load_tokenizer(self.source, recipe.model)
        self.form = form_of(self.source, plan, recipe.model)
        if plan.row_length - 1 > self.source.config.max_seq_len:
            raise ValueError(f"rows of {plan.row_length} tokens were asked for; the model sees all "
                             "but the last of them, and its context is "
                             f"{self.source.config.max_seq_len}. Shorten the rows.")
        self.say(f"reading {plan.source} ...")
        questions, found = self.read(tokenizer)
        self.model = checkpoint.read_model(self.source, "cpu", torch.float32)
        digest = _digest([*self.tensors(found), *self.model.state_dict().values()])
        self.corpus = Corpus(tokenizer, self.rows(found[plan.held_out:]), found[:plan.held_out],
                             self.floor(found), digest)
        self.asked = [each for each in questions[:plan.held_out] or questions[:1]
                      if self.tokens(each, tokenizer).shape[1] < self.source.config.max_seq_len
                      ][:ASKED]
        self.prepare()
        self.learnt = nn.ParameterList(p for p in self.model.parameters() if p.requires_grad)

    def read(self, tokenizer: Tokenizer) -> tuple[list[list[Message]], list[Any]]:
        """What is asked in each dialog, and its document."""
        return read_dialogs(self.recipe.text, tokenizer, self.form, seed=self.recipe.seed,
                            say=self.say)

    def tensors(self, found: list[Any]) -> list[Tensor]:
        """All tokens that were read."""
        return found

    def rows(self, found: list[Any]) -> list[Any]:
        """What batches are made of."""
        return list(packing.pack(found, length=self.recipe.text.row_length))

    def floor(self, found: list[Any]) -> float | None:
        """The least held-out loss that there can be; None where it is not known."""
        return _floor(self.recipe.text, found, seed=self.recipe.seed)

    def prepare(self) -> None:
        """Give the model its paths, over weights in 4 bits where that was asked for."""
        if self.recipe.training.checkpoint_activations:
            recompute.blocks(self.model)
        if (plan := self.recipe.lora) is not None:
            if plan.int4_group:
                replace_linears(self.model, r"layers\..*", int4(plan.int4_group))
            lora.add_lora(self.model, plan.where, rank=plan.rank, alpha=plan.alpha,
                          generator=torch.Generator().manual_seed(self.recipe.seed))

    def finish(self) -> None:
        """Write the adapter, or the whole model where that was learnt, or both.

        The adapter is merged as `convert` does it: into the weights that the files hold, also where
        it was learnt over weights in 4 bits.
        """
        if (plan := self.recipe.lora) is None:
            self.write_model(replace(self.source, tensors=in_memory(self.model.state_dict())))
            return
        lora.save_adapter(self.folder / "adapter", self.model)
        if plan.merged:
            learnt = adapter_files.read(self.folder / "adapter", self.source.config)
            self.write_model(adapter_files.adapted(self.source, learnt))

    def write_model(self, source: Source) -> None:
        """Write a model as one file of weights, in the recipe's dtype."""
        huggingface.write(self.folder / "model", source, n_files=1,
                          dtype=getattr(torch, self.recipe.save_as))

    def sampled_after(self, done: int) -> bool:
        """Whether held-out prompts are to be answered after so many steps."""
        every = self.recipe.training.sample_every
        return done % every == 0 if every else self.saved_after(done)

    def sample(self) -> str:
        """What the model answers by now to the first questions of some held-out dialogs, written to
        a file of this step in `samples`; the first answer."""
        self.model.eval()
        talks = [[*asked, Message("assistant", self.answer(asked))] for asked in self.asked]
        text = "\n\n".join("\n".join(f"{said.role}: {said.content}" for said in talk)
                           for talk in talks)
        write_whole(self.folder / "samples" / f"step-{self.done:06}.txt", f"{text}\n".encode())
        return talks[0][-1].content if talks else ""

    def answer(self, asked: list[Message]) -> str:
        """The likeliest tokens after a prompt, up to an end or to so many as a sample has."""
        tokenizer = self.corpus.tokenizer
        ids = self.tokens(asked, tokenizer)
        tokens = (int(token) for token in stream(
            self.model, ids, known(tokenizer.n_vocab), top_k(1),
            max_new=min(SPOKEN, self.model.config.max_seq_len - ids.shape[1])))
        stops = prompts.stop_ids(tokenizer, self.form)
        return tokenizer.decode([*takewhile(lambda token: token not in stops, tokens)])

    def tokens(self, asked: list[Message], tokenizer: Tokenizer) -> Tensor:
        """A prompt as the model reads it, `1 t`."""
        return torch.tensor([prompts.dialog_tokens(asked, tokenizer, self.form).ids])

    def summary(self) -> str:
        """Where the result is, and how good: a few sentences."""
        adapter, model, plan = self.folder / "adapter", self.folder / "model", self.recipe.lora
        lines = [f"The model is in {model}." if plan is None else
                 f"The adapter is in {adapter}, and the model with it merged in {model}."
                 if plan.merged else
                 f"The adapter is in {adapter}. To merge it: llama-edu convert {self.recipe.model} "
                 f"NEW_FOLDER --format hf --adapter {adapter}"]
        if (loss := self.held_out_loss()) is not None:
            lines.append(self.result(loss))
            if self.corpus.floor is not None:
                lines.append(f"The floor is {self.corpus.floor:.4f}.")
        return "\n".join(lines)

    def result(self, loss: float) -> str:
        """How good it is on what was held out: a sentence."""
        return f"Held-out loss: {loss:.4f} nats per token of the answers."


def form_of(source: Source, plan: DialogsRecipe, model: str) -> Format:
    """The format of the recipe, or of the model's own template. Raises ValueError where neither
    names one, and KeyError for an unknown name."""
    if plan.format:
        return prompts.named(plan.format)
    form = prompts.of_template(templates(source.tokenizer).get("default", ""))
    if form is None:
        raise ValueError(f"the files of {model!r} name no format of dialogs that is known here; "
                         f"one is needed. Add it under [text]: format = one of "
                         f"{', '.join(prompts.FORMATS)}.")
    return form


def read_dialogs(plan: DialogsRecipe, tokenizer: Tokenizer, form: Format, *, seed: int,
                 say: Callable[[str], object]) -> tuple[list[list[Message]], list[Tensor]]:
    """The first question of every dialog, with what stands before it, and the dialog's document.

    Raises ValueError, with file and line, for a line that cannot be learnt from; where these are
    skipped, `say` is told how many there were. Raises it, too, where none is left to train on.
    """
    def read(line: bytes) -> tuple[list[Message], Tensor]:
        messages = message_files.parse(line)
        first = next((i for i, message in enumerate(messages) if message.role == "assistant"), 0)
        return messages[:first] or messages, document(messages, tokenizer, form,
                                                      answers=plan.answers, length=plan.row_length)

    return read_each(plan, _lines(plan, seed), read, what="dialogs", say=say)


def read_each(plan: DialogsRecipe, lines: Iterable[tuple[str, bytes]],
              read: Callable[[bytes], tuple[list[Message], Any]], *, what: str,
              say: Callable[[str], object]) -> tuple[list[list[Message]], list[Any]]:
    """Both parts of what `read` makes of every line that can be learnt from. what: they are called
    in an error. Raises ValueError as `read_dialogs` does."""
    found, bad = [], []
    for where, line in lines:
        try:
            found.append(read(line))
        except ValueError as wrong:
            bad.append(f"{where}: {wrong.args[0]}")
            if plan.bad == "refuse":
                raise ValueError(bad[0]) from None
    if bad:
        say(f"{len(bad):,} lines of {plan.source} were left out. The first is {bad[0]}")
    if len(found) <= plan.held_out:
        raise ValueError(f"{plan.source} has {len(found)} {what} that can be learnt from, and "
                         f"{plan.held_out} are held out; at least one must be left. Hold out "
                         "fewer.")
    return [asked for asked, _ in found], [learnt for _, learnt in found]


def _lines(plan: DialogsRecipe, seed: int) -> Iterator[tuple[str, bytes]]:
    """Every dialog as a line of JSONL, those that the package makes, too."""
    if plan.source != DIALOGUES:
        return message_files.lines(plan.source)
    talks = dialogues(plan.dialogs, seed=seed, grade=plan.grade)
    return ((f"dialog {number}", json.dumps({"messages": talk}).encode())
            for number, talk in enumerate(talks))


def _floor(plan: DialogsRecipe, documents: list[Tensor], *, seed: int) -> float | None:
    """The least held-out loss that there can be; None where it is not known."""
    known = plan.source == DIALOGUES and plan.grade == "clean" and plan.answers == "all"
    if not known or not plan.held_out:
        return None
    counts = iter([int(document[1:, 1].sum()) for document in documents[:plan.held_out]])
    talks = dialogues(plan.held_out, seed=seed)
    return floor_per_token(talks, lambda _: next(counts))


def _digest(tensors: list[Tensor]) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.numpy())
    return digest.hexdigest()
