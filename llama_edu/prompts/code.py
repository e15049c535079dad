"""Code Llama beyond chat: filling in the middle of a text, and the turns of the 70B."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..tokenizer import Tokenizer
from .dialog import Format, Message, Part, Special, Text, alternating, without_tags
from .llama2 import CODE_LLAMA

# Tokens that the 7B, the 13B and the 70B base have above the 32,000 of Llama 2. Files disagree
# on what kind of piece they are, so they are known by number.
N_VOCAB, PRE, SUF, MID, EOT, STEP = 32_016, 32_007, 32_008, 32_009, 32_010, 32_015


def infill_tokens(prefix: str, suffix: str, tokenizer: Tokenizer, *,
                  suffix_first: bool = False) -> list[int]:
    """The prompt that asks for what stands between prefix and suffix; the answer ends with EOT.

    suffix_first: Code Llama's other order, in which the answer goes on with the prefix directly.
    Raises ValueError for a vocabulary without Code Llama's special pieces, and for a text that
    spells one of those used here.
    """
    _check_vocabulary(tokenizer)
    before = tokenizer.encode(prefix, bos=True, eos=False)
    after = encode_inside(suffix, tokenizer)
    if sentinels := {PRE, SUF, MID, EOT} & {*before, *after}:
        raise ValueError(f"the text to fill in spells the special piece {min(sentinels)}; it would "
                         "be taken for a border of prefix and suffix. Spell it another way.")
    bos, before = before[:1], before[1:]
    if suffix_first:
        return [*bos, PRE, SUF, *after, MID, *before]
    return [*bos, PRE, *before, SUF, *after, MID]


def infill_text(ids: Sequence[int], tokenizer: Tokenizer) -> str:
    """The text of an answer's tokens up to EOT, with the space that it may begin with."""
    ids = ids[:list(ids).index(EOT)] if EOT in ids else ids
    face = tokenizer.encode(FACE, bos=False, eos=False)
    return tokenizer.decode([*face, *ids]).removeprefix(FACE)


FACE = "☺"      # Meta's choice: a character that merges with nothing


def encode_inside(text: str, tokenizer: Tokenizer) -> list[int]:
    """The tokens of a text that does not begin one: without SentencePiece's dummy prefix."""
    n = len(tokenizer.encode(FACE, bos=False, eos=False))
    return tokenizer.encode(FACE + text, bos=False, eos=False)[n:]


def _check_vocabulary(tokenizer: Tokenizer) -> None:
    if tokenizer.n_vocab != N_VOCAB:
        raise ValueError(f"this vocabulary has {tokenizer.n_vocab:,} tokens; Code Llama's with "
                         f"special pieces has {N_VOCAB:,}. Take a base or instruct model of 7B, "
                         "13B or 70B, and its own tokenizer.")


@dataclass(frozen=True)
class CodeLlama70B(Format):
    """Source and destination in plain text, <step> after each message; a system message always.

    Three texts are encoded apart: a header, a body, and the space that the answer follows.
    """

    name: str = "code-llama-70b"
    roles: tuple[str, ...] = CODE_LLAMA.roles
    stops: tuple[Special, ...] = (Special("<step>", token=STEP),)
    strips: bool = True
    one_text: bool = False

    def parts(self, messages: Sequence[Message]) -> Iterator[Part]:
        without_tags(messages, CODE_LLAMA.tags, self.name)
        system, turns = alternating(messages, self.name)
        yield Special("<s>")
        for message in (Message("system", system or ""), *turns):
            says = message.role == "assistant"
            yield Text((source(message.role, message.destination),))
            if message.content:
                body = "\n\n " + message.content.strip()
                yield Text(("", body) if says else (body,))
            yield Special("<step>", says and not message.cut, token=STEP)
        if turns[-1].role == "user":
            yield Text((source("assistant", "user"),))
            yield Text(("\n\n ",))

    def reply(self, content: str, ids: Sequence[int], tokenizer: Tokenizer, *, cut: bool
              ) -> Message:
        return Message("assistant", content, cut=cut, destination="user")   # as it was asked for


def source(role: str, destination: str) -> str:
    """The header of a message."""
    to = f"\nDestination: {destination.strip()}" if destination else ""
    return f" Source: {role}{to}"


CODE_LLAMA_70B = CodeLlama70B()
