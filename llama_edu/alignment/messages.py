"""Dialogs to learn from: their tokens, and which of these are learnt.

    rows = pack(documents(dialogs, tokenizer, form, answers="all", length=512), length=512)
    for batch in shuffled(list(rows), size=8, length=512, seed=0): next_token(model, batch)

Learnt is what the assistant said: its words and the end token after them, without which a model
never learns to stop. What others said is only read. No token is special here by its number: a
padding that is also an end token is told apart by its place.
"""

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from ..prompts.dialog import DialogTokens, Format, Message, dialog_tokens, n_shared
from ..tokenizer import Tokenizer

ANSWERS = "last", "all"
BEGINNING = 40                  # characters of a dialog by which an error names it


def documents(dialogs: Iterable[Sequence[Message]], tokenizer: Tokenizer, form: Format, *,
              answers: str, length: int) -> Iterator[Tensor]:
    """Every dialog as `training.packing` takes it: `t 2`, each token beside whether it is learnt.

    answers: "all" of them are learnt, or the "last" of each dialog (Ghost Attention, and dialogs
    whose earlier answers are another's). A dialog of more than `length` tokens loses its first
    turns: it is never cut inside one.

    Raises ValueError, with the dialog's number and beginning, for one with nothing to learn, one
    whose last turn is too long, and one that does not fit the format.
    """
    if answers not in ANSWERS:
        raise ValueError(f"answers {answers!r} were asked for; there are {', '.join(ANSWERS)}. "
                         "Choose one.")
    for number, messages in enumerate(dialogs):
        try:
            yield document(messages, tokenizer, form, answers=answers, length=length)
        except ValueError as wrong:
            begins = f"{messages[0].content:.{BEGINNING}}" if messages else ""
            raise ValueError(f"dialog {number}, which begins {begins!r}: {wrong.args[0]}") from None


def document(messages: Sequence[Message], tokenizer: Tokenizer, form: Format, *, answers: str,
             length: int) -> Tensor:
    """One dialog, as `documents` yields it. Raises ValueError as `fitting` does."""
    tokens = fitting(messages, tokenizer, form, answers=answers, length=length)
    return torch.tensor([*tokens], dtype=torch.int32).T.contiguous()


def fitting(messages: Sequence[Message], tokenizer: Tokenizer, form: Format, *, answers: str,
            length: int) -> DialogTokens:
    """The tokens of as many of a dialog's last turns as `length` has room for, and which of them
    are learnt.

    Raises ValueError where one turn is too long, and as `learnt_tokens` does.
    """
    last = max((i for i, message in enumerate(messages) if message.role == "assistant"), default=0)
    for some in shorter(messages, upto=last):
        found = learnt_tokens(some, tokenizer, form, answers=answers)
        if len(found.ids) <= length:
            return found
    raise ValueError(f"its last turn has {len(found.ids)} tokens, with what always stands before "
                     f"it, and a row has room for {length}. Make rows longer, or leave it out.")


def shorter(messages: Sequence[Message], *, upto: int | None = None) -> Iterator[list[Message]]:
    """A dialog, and then without its first turn, without its first two, ..., down to its last.

    A turn is a question and all that follows it; a system message at the beginning always stays.
    upto: the message that must be in the last turn; the last one, where left out.
    """
    n_first = int(bool(messages) and messages[0].role == "system")
    first, upto = messages[:n_first], len(messages) if upto is None else upto
    asked = [i for i, message in enumerate(messages) if n_first < i < upto
             and message.role == "user"]
    for start in (n_first, *asked):
        yield [*first, *messages[start:]]


def learnt_tokens(messages: Sequence[Message], tokenizer: Tokenizer, form: Format, *, answers: str
                  ) -> DialogTokens:
    """The tokens of a dialog, and which of them are learnt, those of "all" answers or the "last".

    What follows the last answer is left out: nobody has answered it. An answer that was `cut` is
    learnt without an end token, as it has none. Raises ValueError for a dialog with nothing to
    learn, and as `dialog_tokens` does.
    """
    answered = [i for i, message in enumerate(messages) if message.role == "assistant"]
    messages = messages[:answered[-1] + 1] if answered else []
    ids, learnt = dialog_tokens(messages, tokenizer, form) if messages else DialogTokens([], [])
    if answers == "last" and messages[1:]:
        # Where the two part company the answer begins: its first token may have swallowed a space.
        start = n_shared(ids, dialog_tokens(messages[:-1], tokenizer, form).ids)
        learnt = [False] * start + learnt[start:]
    if not any(learnt[1:]):     # nothing stands before the first, so it cannot be predicted
        raise ValueError("it holds nothing to learn; one word of the assistant, or an end token, "
                         "is needed. Leave it out.")
    return DialogTokens(ids, learnt)
