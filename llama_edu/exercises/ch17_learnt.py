"""The exercise of chapter 17 on what is learnt of a dialog, 17.1."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import Generator

from ..alignment.messages import learnt_tokens
from ..prompts.dialog import Message
from ..prompts.llama3 import LLAMA_3
from .data import Exercise, Inputs, Misconception, Probe, count
from .dialog_pieces import EOT, GAP, WORDS, Words, pieces_of

HEADER = 4                      # a special piece, the role, a special piece, two line ends


class _Span(NamedTuple):
    """One message in a list of pieces."""

    role: str
    start: int                  # of its header
    end: int                    # its end token


def _spans(pieces: Sequence[str]) -> list[_Span]:
    ends = [i for i, piece in enumerate(pieces) if piece == EOT]
    starts = [1, *(end + 1 for end in ends)]
    return [_Span(pieces[start + 1], start, end)
            for start, end in zip(starts, ends, strict=False)]


def _package_learnt(pieces: list[str]) -> list[bool]:
    messages = [Message(role, " ".join(pieces[start + HEADER:end]))
                for role, start, end in _spans(pieces)]
    return learnt_tokens(messages, Words(), LLAMA_3, answers="all").said


def _dialog(rng: Generator, *said: tuple[str, int], plus: Sequence[str] = (), to: int = 0
            ) -> Inputs:
    """A dialog in pieces: who speaks, and how many words; `plus` ends one message, the first."""
    talk = [[role, [WORDS[count(rng, 0, len(WORDS) - 1)] for _ in range(n)]] for role, n in said]
    talk[to][1] += plus
    longer = count(rng, 0, 3)           # another seed, another length
    talk[0][1] += WORDS[:longer]
    return {"pieces": pieces_of([(role, words) for role, words in talk])}


def _marked(pieces: Sequence[str], *, roles: tuple[str, ...] = ("assistant",), begin: int = HEADER,
            end: int = 1, which: slice = slice(None)) -> list[bool]:
    """The messages of some roles, from so many pieces after their start to so many after the last
    word."""
    marked = [False] * len(pieces)
    for _, start, stop in [span for span in _spans(pieces) if span.role in roles][which]:
        for i in range(start + begin, min(stop + end, len(pieces))):
            marked[i] = True
    return marked


def _slip(**changes: object) -> Callable[[list[str]], list[bool]]:
    return lambda pieces: _marked(pieces, **changes)


def _from_the_word(pieces: Sequence[str], *, after: int = HEADER - 1) -> list[bool]:
    """Switched on by the word "assistant" wherever it stands, so many pieces later, off by an end
    token."""
    marked, on = [], 0
    for piece in pieces:
        marked.append(on >= after)
        on = 0 if piece == EOT else on + 1 if on or piece == "assistant" else 0
    return marked


def _at_once(after: int) -> Callable[[list[str]], list[bool]]:
    return lambda pieces: _from_the_word(pieces, after=after)


def _without(left_out: str) -> Callable[[list[str]], list[bool]]:
    """Right but for one piece, which is never learnt."""
    return lambda pieces: [own and piece != left_out
                           for own, piece in zip(_marked(pieces), pieces, strict=True)]


def _never_off(pieces: Sequence[str]) -> list[bool]:
    first = _marked(pieces).index(True)
    return [i >= first for i in range(len(pieces))]


def _everybodys_ends(pieces: Sequence[str]) -> list[bool]:
    return [own or piece == EOT for own, piece in zip(_marked(pieces), pieces, strict=True)]


LEARNT = Exercise(
    "17.1", "What is learnt of a dialog", "Your turn: what is learnt?",
    _package_learnt,
    probes=(
        Probe("one question, one answer",
              lambda rng: _dialog(rng, ("user", 2), ("assistant", 3))),
        Probe("two turns", lambda rng: _dialog(rng, ("user", 3), ("assistant", 2), ("user", 1),
                                               ("assistant", 4))),
        Probe("a system message", lambda rng: _dialog(rng, ("system", 2), ("user", 1),
                                                      ("assistant", 1))),
        Probe("an empty answer", lambda rng: _dialog(rng, ("user", 2), ("assistant", 0))),
        Probe("a user who says “assistant”",
              lambda rng: _dialog(rng, ("user", 1), ("assistant", 2),
                                  plus=("assistant", "is", "a", "long", "word"))),
        Probe("a blank line in an answer",
              lambda rng: _dialog(rng, ("user", 2), ("assistant", 2), to=1,
                                  plus=(GAP, "red", GAP, "fox"))),
        Probe("three turns, a system message",
              lambda rng: _dialog(rng, ("system", 1), ("user", 1), ("assistant", 2), ("user", 2),
                                  ("assistant", 1), ("user", 1), ("assistant", 3))),
    ),
    misconceptions=(
        Misconception("prompt not masked", lambda pieces: [True] * len(pieces),
                      "you learn every token, the user's too. The model is to answer, not to ask: "
                      "only the assistant's words are learnt, and their end tokens.",
                      section="The idea: the same loss, on fewer tokens", also=(
                          lambda pieces: [i > 0 for i in range(len(pieces))],
                          _slip(roles=("system", "user", "assistant")))),
        Misconception("end token not learnt", _slip(end=0),
                      "you leave out the end token. It is the assistant's last word: a model that "
                      "never learnt it never stops."),
        Misconception("header learnt", _slip(begin=0),
                      "you learn the header of the answer. It is given: whoever asks writes it.",
                      also=(_slip(begin=1), _slip(begin=2))),
        Misconception("line ends learnt", _slip(begin=3),
                      "you begin one token early, with the line ends. They belong to the header."),
        Misconception("first token not learnt", _slip(begin=5),
                      "you begin one token late: the first word of the answer is learnt, too. It "
                      "is predicted from the header's last token."),
        Misconception("one place late", _slip(begin=5, end=2),
                      "your marks stand one place late: the first word of the answer is missing, "
                      "and a token after the end token is learnt. Mark the tokens to be predicted, "
                      "not those after them."),
        Misconception("one place early", _slip(begin=3, end=0),
                      "your marks stand one place early, on the tokens from which the answer is "
                      "predicted. Mark the tokens to be predicted; the loss shifts."),
        Misconception("one token too many", _slip(end=2),
                      "you go on one token too far: after the end token somebody else speaks."),
        Misconception("only end tokens", lambda pieces: [
                          own and piece == EOT for own, piece in zip(_marked(pieces), pieces,
                                                                     strict=True)],
                      "you learn the end tokens of the answers, and not their words."),
        Misconception("everybody's end tokens", _everybodys_ends,
                      "you also learn the end tokens of others. When the user has finished is not "
                      "the assistant's to say."),
        Misconception("only the last answer", _slip(which=slice(-1, None)),
                      "you learn the last answer only. Here all are learnt."),
        Misconception("only the first answer", _slip(which=slice(1)),
                      "you learn the first answer only. Here all are learnt."),
        Misconception("never switched off", _never_off,
                      "once the first answer has begun you learn all that follows, the next "
                      "question, too. An answer ends with its end token."),
        Misconception("word taken for a role", _from_the_word,
                      "a user who says “assistant” switches your learning on. A role stands right "
                      "after <|start_header_id|>, and nowhere else."),
        Misconception("switched on at once", _at_once(1),
                      "the word “assistant” switches your learning on at once, wherever it stands: "
                      "in a user's text, and in the header, the rest of which you learn, too. A "
                      "role stands right after <|start_header_id|>, and its answer three tokens "
                      "later.", also=(_at_once(2),)),
        Misconception("blank lines left out", _without(GAP),
                      "you leave out every blank line, those within an answer, too. Only the one "
                      "right after <|end_header_id|> belongs to the header."),
        Misconception("nothing learnt", lambda pieces: [False] * len(pieces),
                      "you learn nothing. An answer has a header of four tokens, and it ends with "
                      "the first <|eot_id|> after that: `pieces.index(\"<|eot_id|>\")` finds the "
                      "user's, `pieces.index(\"<|eot_id|>\", i)` looks from i on."),
        Misconception("the others learnt", lambda pieces: [not own for own in _marked(pieces)],
                      "you learn what was said to the assistant, and not what it said."),
        Misconception("the user learnt", _slip(roles=("user",)),
                      "you learn the user's words. The assistant's are to be learnt."),
        Misconception("system learnt, too", _slip(roles=("system", "assistant")),
                      "you learn the system's message, too. It is given."),
    ),
    hints=(
        "Go through the pieces once and remember whose turn it is. What tells you that it changes?",
        "After <|start_header_id|> comes the role, then <|end_header_id|> and the line ends; then "
        "the message begins. It ends with <|eot_id|>, which belongs to whoever spoke.",
        "An answer whose header begins at i is learnt from i + 4 to its <|eot_id|>, included.",
    ))

EXERCISES = [LEARNT]
