"""Dialogs as tokens: what a message is, and how the parts of a prompt become tokens.

A format cuts a dialog into parts. A part is a text, encoded as a text of its own, or one special
piece, put in by its number: so nothing that somebody types ever becomes a special piece.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from ..tokenizer import Tokenizer

ROLES = "system", "user", "assistant", "tool"


@dataclass(frozen=True)
class Message:
    """What one side said."""

    role: str                   # one of ROLES
    content: str
    cut: bool = False           # the assistant was stopped before it said its end token
    python_tag: bool = False    # Llama 3.1: opens with <|python_tag|>, as calls of tools may
    eom: bool = False           # Llama 3.1: ends with <|eom_id|>, for a tool's result must follow
    destination: str = ""       # Code Llama 70B: to whom it is said

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise ValueError(f"a message of the role {self.role!r} was given; the roles are "
                             f"{', '.join(ROLES)}. Take one of these.")


class Part(Protocol):
    """A piece of a prompt that becomes tokens by itself."""

    @property
    def text(self) -> str: ...

    def encode(self, tokenizer: Tokenizer) -> tuple[list[int], list[bool]]:
        """The tokens, and which of them the assistant said."""
        ...


@dataclass(frozen=True)
class Text:
    """Spans that are encoded as one text. The second, the fourth, ... are the assistant's."""

    spans: tuple[str, ...]

    @property
    def text(self) -> str:
        return "".join(self.spans)

    def encode(self, tokenizer: Tokenizer) -> tuple[list[int], list[bool]]:
        ids = tokenizer.encode(self.text, bos=False, eos=False)
        said, start = [False] * len(ids), 0
        for i in range(1, len(self.spans)):
            before = tokenizer.encode("".join(self.spans[:i]), bos=False, eos=False)
            end = max(start, n_shared(ids, before))
            said[start:end] = [i % 2 == 0] * (end - start)
            start = end
        said[start:] = [len(self.spans) % 2 == 0] * (len(ids) - start)
        return ids, said


@dataclass(frozen=True)
class Special:
    """One special piece, found by its name, or known by its number where it is given."""

    text: str
    said: bool = False
    token: int | None = None

    def encode(self, tokenizer: Tokenizer) -> tuple[list[int], list[bool]]:
        token = special_id(tokenizer, self.text) if self.token is None else self.token
        return [token], [self.said]


@dataclass(frozen=True)
class Edge:
    """What a model knows its texts to begin (or end) with, whatever it is called; perhaps nothing.
    """

    ends: bool
    text: str = ""

    def encode(self, tokenizer: Tokenizer) -> tuple[list[int], list[bool]]:
        begins = tokenizer.bos_id if tokenizer.adds_bos else None
        token = tokenizer.eos_id if self.ends else begins
        return ([], []) if token is None else ([token], [self.ends])


class Format(Protocol):
    """How a family of models was taught to see a dialog."""

    name: str
    roles: tuple[str, ...]      # that it knows
    stops: tuple[Special, ...]  # end an answer
    strips: bool                # whether space around a message is lost
    one_text: bool              # whether an end token ends the whole text, and not a turn

    def parts(self, messages: Sequence[Message]) -> Iterable[Part]:
        """The dialog in parts. If the assistant spoke last it is whole; else it ends where the
        assistant's next word belongs."""
        ...

    def reply(self, content: str, ids: Sequence[int], tokenizer: Tokenizer, *, cut: bool
              ) -> Message:
        """The message that these tokens of an answer are, its end token (if not cut) included."""
        return Message("assistant", content, cut=cut)


class DialogTokens(NamedTuple):
    """The tokens of a dialog, and which of them the assistant said: its words and end tokens."""

    ids: list[int]
    said: list[bool]


def dialog_tokens(messages: Sequence[Message], tokenizer: Tokenizer, form: Format) -> DialogTokens:
    """A dialog as a model of this format reads it: to be answered, or to be trained on.

    The tokens for some messages and a question begin those for the same messages, the question,
    its answer and the next question: a cache stays good from turn to turn. Raises ValueError for a
    dialog that does not fit the format, and a vocabulary that lacks a special piece of it.
    """
    whole = DialogTokens([], [])
    for part in form.parts(checked(messages, form)):
        for all_, new in zip(whole, part.encode(tokenizer), strict=True):
            all_ += new
    return whole


def dialog_text(messages: Sequence[Message], form: Format) -> str:
    """The same dialog as text, special pieces spelled out: to look at, never to be encoded.

    Raises ValueError for a dialog that does not fit the format.
    """
    return "".join(part.text for part in form.parts(checked(messages, form)))


def stop_ids(tokenizer: Tokenizer, form: Format) -> frozenset[int]:
    """The tokens that end an answer: those of the format, and those of the vocabulary.

    Raises ValueError where the vocabulary lacks one of the format's.
    """
    return tokenizer.stop_ids | {piece.encode(tokenizer)[0][0] for piece in form.stops}


def special_id(tokenizer: Tokenizer, piece: str) -> int:
    """The token of a special piece. ValueError where the vocabulary does not have it."""
    return tokenizer.encode(piece, bos=False, eos=False, allow_special=(piece,))[0]


def n_shared(some: Sequence[int], others: Sequence[int]) -> int:
    """How many tokens two sequences share from the start."""
    pairs = enumerate(zip(some, others, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(some), len(others)))


# -- what a dialog must be like ----------------------------------------------------------------

def checked(messages: Sequence[Message], form: Format) -> Sequence[Message]:
    """The same messages. Raises ValueError for none at all, or a role that the format lacks."""
    if not messages:
        raise ValueError("an empty dialog was given; one message or more is needed.")
    if strange := {message.role for message in messages} - set(form.roles):
        raise ValueError(f"a {sorted(strange)[0]} message was given; {form.name} knows "
                         f"{', '.join(form.roles)}. Leave it out, or take another format.")
    return messages


def alternating(messages: Sequence[Message], name: str) -> tuple[str | None, Sequence[Message]]:
    """The system message, if there is one, and the turns: user, assistant, user, ...

    Raises ValueError for roles in another order, and for no turns at all.
    """
    system = messages[0].content if messages[0].role == "system" else None
    turns = messages if system is None else messages[1:]
    wanted = [("user", "assistant")[i % 2] for i in range(len(turns))]
    if not turns or [message.role for message in turns] != wanted:
        given = ", ".join(message.role for message in messages)
        raise ValueError(f"the roles {given} were given; {name} needs user and assistant in turn, "
                         "after a system message or without one. Join messages of one side.")
    return system, turns


def without_tags(messages: Sequence[Message], tags: Collection[str], name: str) -> None:
    """Raises ValueError where a message has a tag that this format writes as plain text."""
    for message in messages:
        if found := next((tag for tag in tags if tag in message.content), None):
            raise ValueError(f"a message of the {message.role} has {found} in it; {name} marks "
                             "turns with that text, so it would be taken for one. Spell it "
                             "another way, or begin a new dialog.")
