"""Real vocabularies and random dialogs, for the tests of every prompt format."""

from functools import cache

from hypothesis import strategies as st

from llama_edu import tokenizer
from llama_edu.prompts import DialogTokens, Message
from llama_edu.prompts.llama2 import CODE_LLAMA
from llama_edu.tokenizer import BytePairs, Tokenizer, installed

S, U, A, T = "system", "user", "assistant", "tool"
TYPED = ("<|eot_id|>", "<|begin_of_text|>", "<|start_header_id|>", "</s>", "<s>", "<|im_end|>",
         "☺", "▁", "🦙")


@cache
def llama3() -> Tokenizer:
    """Llama 3's own vocabulary."""
    return tokenizer.load(installed.path("llama3"))


@cache
def spm() -> Tokenizer:
    """A vocabulary with the rules of Llama 2's, which is not free to be passed on."""
    return tokenizer.load(installed.path("sentencepiece_32k"))


@cache
def chatml() -> Tokenizer:
    """A small vocabulary with the two pieces of ChatML."""
    return BytePairs.train("user assistant system Hello there", n_vocab=280,
                           special=("<|im_start|>", "<|im_end|>"))


def dialog(*said: tuple[str, str]) -> list[Message]:
    return [Message(role, content) for role, content in said]


def contents() -> st.SearchStrategy[str]:
    """Anything that can be typed, special pieces and odd spaces among it, but no tags of Llama 2,
    which are refused (hypothesis finds them in our own source)."""
    parts = st.one_of(st.sampled_from([*TYPED, " ", "\n", "\n\n", "Hello", " there"]),
                      st.text(max_size=8))
    return st.lists(parts, max_size=4).map("".join).filter(
        lambda text: not any(tag in text for tag in CODE_LLAMA.tags))


@st.composite
def dialogs(draw: st.DrawFn, *, system: bool = True, answered: bool | None = None
            ) -> list[Message]:
    """User and assistant in turn, up to three questions; the last answer is there or not."""
    first = [(S, draw(contents()))] if system and draw(st.booleans()) else []
    n = 2 * draw(st.integers(1, 3))
    n -= draw(st.booleans()) if answered is None else not answered
    turns = [((U, A)[i % 2], draw(contents())) for i in range(n)]
    return dialog(*first, *turns)


def runs_said(tokens: DialogTokens) -> list[list[int]]:
    """The assistant's tokens, one list for every time it spoke."""
    runs, before = [], False
    for token, said in zip(*tokens, strict=True):
        if said and not before:
            runs.append([])
        if said:
            runs[-1].append(token)
        before = said
    return runs
