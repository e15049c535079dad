"""Llama 2 and Code Llama chat: turns marked by plain text, [INST] and [/INST]."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from .dialog import Edge, Format, Message, Part, Special, Text, alternating, without_tags

TAGS = "[INST]", "[/INST]", "<<SYS>>", "<</SYS>>"


@dataclass(frozen=True)
class Llama2(Format):
    """Each question with its answer is one text between bos and eos.

    The tags are ordinary text to the tokenizer, so a message that has one is refused. The system
    message is folded into the first question; there is no default one (since August 2023).
    """

    name: str
    tags: tuple[str, ...]       # refused in messages
    roles: tuple[str, ...] = ("system", "user", "assistant")
    stops: tuple[Special, ...] = (Special("</s>"),)
    strips: bool = True
    one_text: bool = False

    def parts(self, messages: Sequence[Message]) -> Iterator[Part]:
        without_tags(messages, self.tags, self.name)
        system, turns = alternating(messages, self.name)
        for i in range(0, len(turns), 2):
            folded = f"<<SYS>>\n{system}\n<</SYS>>\n\n" if i == 0 and system is not None else ""
            asked = f"[INST] {(folded + turns[i].content).strip()} [/INST]"
            yield Special("<s>")
            if i + 1 == len(turns):
                yield Text((asked,))
            else:
                yield Text((asked, f" {turns[i + 1].content.strip()} "))
                yield Special("</s>", said=not turns[i + 1].cut)


LLAMA_2 = Llama2("llama-2", TAGS)
CODE_LLAMA = Llama2("code-llama", (*TAGS, "<step>"))


@dataclass(frozen=True)
class Completion(Format):
    """No turns at all: a base model goes on with the text, whoever wrote the last word."""

    name: str = "completion"
    roles: tuple[str, ...] = ("user", "assistant")
    stops: tuple[Special, ...] = ()
    strips: bool = False
    one_text: bool = True

    def parts(self, messages: Sequence[Message]) -> Iterator[Part]:
        spans = [""]
        for message in messages:
            says = message.role == "assistant"
            if says != (len(spans) % 2 == 0):
                spans.append("")
            spans[-1] += message.content if says else joined("".join(spans), message.content)
        yield Edge(ends=False)
        yield Text(tuple(spans))
        if messages[-1].role == "assistant" and not messages[-1].cut:
            yield Edge(ends=True)


def joined(text: str, more: str) -> str:
    """What somebody adds to a text, with a space before it where two words would touch."""
    touch = text and more and not text[-1].isspace() and not more[0].isspace()
    return f" {more}" if touch else more


COMPLETION = Completion()
