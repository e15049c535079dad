"""The bug hunt of chapter 17, 17.6: six makers of examples, told apart by what they make."""

from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor

from ..alignment.messages import document
from ..data.dialogues_tokenizer import tokenizer
from ..losses import Batch
from ..prompts.dialog import Message
from ..prompts.llama3 import LLAMA_3
from ..training.packing import lay_out
from .hunts import HEALTHY, Bug, Hunt

Said = tuple[str, str]
Documents = list[Tensor]
_tokenizer = cache(tokenizer)


def _maker(*, spoil: Callable[[Tensor], Tensor] = lambda document: document,
           answers: str = "all", after: Callable[[Batch, Documents], Batch] | None = None
           ) -> Callable[[Sequence[Sequence[Said]], int], Batch]:
    """Dialogs packed into one row, healthy unless a document or the batch is spoiled."""

    def make(dialogs: Sequence[Sequence[Said]], length: int) -> Batch:
        documents = [spoil(document([Message(*said) for said in dialog], _tokenizer(), LLAMA_3,
                                    answers=answers, length=length)) for dialog in dialogs]
        batch = lay_out([documents], length=length)
        return after(batch, documents) if after else batch

    return make


def _marked(learn: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """A document with other marks, made from its tokens and its marks."""
    return lambda document: torch.stack(
        [document[:, 0], learn(document[:, 0], document[:, 1].bool()).int()], dim=1)


def _special(name: str) -> int:
    return _tokenizer().special[name]


def _answer_starts(learnt: Tensor) -> Tensor:
    return learnt & ~learnt.roll(1)


def _causal(batch: Batch, documents: Documents) -> Batch:
    return batch | {"mask": torch.ones_like(batch["mask"]).tril()}


def _counting_on(batch: Batch, documents: Documents) -> Batch:
    return batch | {"positions": torch.arange(batch["tokens"].shape[1])[None]}


def _padding_learnt(batch: Batch, documents: Documents) -> Batch:
    n = sum(map(len, documents))
    return batch | {"learn": batch["learn"] | (torch.arange(batch["learn"].shape[1]) >= n)}


def _look(make: Callable[[Sequence[Sequence[Said]], int], Batch]) -> Tensor:
    """Two dialogs, one of two turns, in a row with room to spare."""
    batch = make([[("user", "Hello!"), ("assistant", "Hello!"), ("user", "Who are you?"),
                   ("assistant", "I tell tales.")],
                  [("user", "Thank you!"), ("assistant", "You are welcome.")]], 64)
    return torch.cat([batch[name].flatten().long() for name in sorted(batch)])


EXAMPLES = Hunt(
    "17.6", "Six makers of examples", "Find the bug: six makers of examples",
    healthy=_maker,
    bugs={
        "prompt learnt": Bug(
            lambda: _maker(spoil=_marked(lambda tokens, learnt: torch.ones_like(learnt))),
            "has True in `learn` on the user's words"),
        "end token not learnt": Bug(
            lambda: _maker(spoil=_marked(lambda tokens, learnt:
                                         learnt & (tokens != _special("<|eot_id|>")))),
            "has False in `learn` on every <|eot_id|>"),
        "first token not learnt": Bug(
            lambda: _maker(spoil=_marked(lambda tokens, learnt: learnt & ~_answer_starts(learnt))),
            "has False in `learn` on the first word of every answer"),
        "only the last answer": Bug(
            lambda: _maker(answers="last"),
            "leaves out the first answer of a dialog that has two"),
        "documents attend across": Bug(
            lambda: _maker(after=_causal),
            "lets the second dialog look at the first: its `mask` is a whole triangle"),
        "positions go on": Bug(
            lambda: _maker(after=_counting_on),
            "does not count from 0 again where the second dialog begins"),
        "double bos": Bug(
            lambda: _maker(spoil=lambda document: torch.cat([document[:1], document])),
            "begins a dialog with two tokens <|begin_of_text|>"),
        "padding learnt": Bug(
            lambda: _maker(after=_padding_learnt),
            "has True in `learn` behind the last dialog"),
    },
    hidden={"a": "first token not learnt", "b": "documents attend across", "c": "double bos",
            "d": HEALTHY, "e": "only the last answer", "f": "end token not learnt"},
    look=_look,
    hints=(
        "Make two dialogs, one of them with two answers, and a row with room to spare. Then look "
        "at one field of the batch after the other.",
        "tokenizer.decode([token], special=True) says what a token is. Print it beside `learn`, as "
        "the chapter does.",
        "`mask` has a row for each token: where the second dialog begins, True must stand alone. "
        "`positions` must be 0 there.",
    ))

EXERCISES = [EXAMPLES]
