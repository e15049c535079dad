"""ChatML: <|im_start|>, who speaks, a line end, the message, <|im_end|>. Relatives talk so."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from .dialog import Format, Message, Part, Special, Text

START, END = "<|im_start|>", "<|im_end|>"


@dataclass(frozen=True)
class ChatML(Format):
    """No piece begins the whole; what the model is told where nobody tells it anything differs.

    The assistant's header is read by itself, as when it was asked to go on after it: an answer
    that begins with a line end is not joined to the header's.
    """

    name: str
    default: str                # the system message of a dialog that has none; "" for nothing
    roles: tuple[str, ...] = ("system", "user", "assistant")
    stops: tuple[Special, ...] = (Special(END),)
    strips: bool = False
    one_text: bool = False

    def parts(self, messages: Sequence[Message]) -> Iterator[Part]:
        if self.default and messages[0].role != "system":
            messages = [Message("system", self.default), *messages]
        for message in messages:
            yield Special(START)
            if message.role == "assistant":
                yield Text(("assistant\n",))
                yield Text(("", message.content))
            else:
                yield Text((f"{message.role}\n{message.content}",))
            yield Special(END, message.role == "assistant" and not message.cut)
            yield Text(("\n",))
        if messages[-1].role != "assistant":
            yield Special(START)
            yield Text(("assistant\n",))


CHATML = ChatML("chatml", default="")
SMOLLM2 = ChatML("smollm2", default="You are a helpful AI assistant named SmolLM, trained by "
                                    "Hugging Face")
