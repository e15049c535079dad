"""Llama 3 chat: a header of special tokens before each message, an end token after it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..tokenizer import Tokenizer
from .dialog import ROLES, Format, Message, Part, Special, Text, special_id

BEGIN, END = "<|begin_of_text|>", "<|end_of_text|>"
EOT, EOM, PYTHON_TAG = "<|eot_id|>", "<|eom_id|>", "<|python_tag|>"


def header(role: str, gap: str = "\n\n") -> Iterator[Part]:
    """Who speaks now. Results of tools have the role ipython, whatever the tool."""
    yield Special("<|start_header_id|>")
    yield Text(("ipython" if role == "tool" else role,))
    yield Special("<|end_header_id|>")
    yield Text((gap,))          # never joined to line ends at the start of the message


@dataclass(frozen=True)
class Llama3(Format):
    """A header, the message, and <|eot_id|>; <|eom_id|> where the assistant awaits a result.

    No default system message. Llama 3 strips messages, 3.1 and later leave them as they are.
    """

    name: str
    roles: tuple[str, ...]
    stops: tuple[Special, ...]
    strips: bool
    one_text: bool = False

    def parts(self, messages: Sequence[Message]) -> Iterator[Part]:
        yield Special(BEGIN)
        for message in messages:
            says = message.role == "assistant"
            self.check(message)
            yield from header(message.role)
            if message.python_tag:
                yield Special(PYTHON_TAG, says)
            content = message.content.strip() if self.strips else message.content
            yield Text(("", content) if says else (content,))
            yield Special(EOM if message.eom else EOT, says and not message.cut)
        if messages[-1].role != "assistant":
            yield from header("assistant")

    def reply(self, content: str, ids: Sequence[int], tokenizer: Tokenizer, *, cut: bool
              ) -> Message:
        tools = "tool" in self.roles and bool(ids)
        return Message("assistant", content, cut=cut,
                       python_tag=tools and ids[0] == special_id(tokenizer, PYTHON_TAG),
                       eom=tools and ids[-1] == special_id(tokenizer, EOM))

    def check(self, message: Message) -> None:
        """Raises ValueError for a call of a tool that is not the assistant's, or not in 3.1."""
        if (message.python_tag or message.eom) and (
                message.role != "assistant" or "tool" not in self.roles):
            raise ValueError(f"a {message.role} message with python_tag or eom was given to "
                             f"{self.name}; only the assistant of Llama 3.1 and later calls "
                             "tools. Leave both out.")


LLAMA_3 = Llama3("llama-3", ROLES[:3], (Special(END), Special(EOT)), strips=True)
LLAMA_31 = Llama3("llama-3.1", ROLES, (Special(END), Special(EOM), Special(EOT)), strips=False)
