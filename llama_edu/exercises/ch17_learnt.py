"""The exercise of chapter 17 on what is learnt of a dialog, 17.1, and how torch is told, 17.2."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from ..alignment.messages import learnt_tokens
from ..prompts.dialog import Message
from ..prompts.llama3 import LLAMA_3
from ..training.packing import lay_out
from .data import Exercise, Inputs, Misconception, Probe, count
from .dialog_pieces import EOT, WORDS, Words, pieces_of

# -- 17.1: which tokens are learnt ---------------------------------------------------------------

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


def _dialog(rng: Generator, *said: tuple[str, int], plus: Sequence[str] = ()) -> Inputs:
    """A dialog in pieces: who speaks, and how many words; `plus` ends the first message."""
    talk = [[role, [WORDS[count(rng, 0, len(WORDS) - 1)] for _ in range(n)]] for role, n in said]
    talk[0][1] += plus
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


def _from_the_word(pieces: Sequence[str]) -> list[bool]:
    """Switched on by the word "assistant" wherever it stands, off by an end token."""
    marked, on = [], 0
    for piece in pieces:
        marked.append(on >= HEADER - 1)
        on = 0 if piece == EOT else on + 1 if on or piece == "assistant" else 0
    return marked


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

# -- 17.2: inputs and labels ---------------------------------------------------------------------

IGNORED = -100                  # what F.cross_entropy leaves out
Documents = list[tuple[list[int], list[bool]]]
Batch = tuple[Tensor, Tensor]


def _package_labels(documents: Documents, pad: int) -> Batch:
    length = max(len(tokens) for tokens, _ in documents)
    rows = [[torch.tensor([tokens, learnt]).T] for tokens, learnt in documents]
    batch = lay_out(rows, length=length)
    lengths = torch.tensor([len(tokens) for tokens, _ in documents])
    past = torch.arange(length) >= lengths[:, None]
    labels = batch["tokens"].masked_fill(~batch["learn"], IGNORED)
    return batch["tokens"].masked_fill(past, pad)[:, :-1], labels[:, 1:]


def _documents(rng: Generator, *marks: str, end: int | None = None) -> Documents:
    """Documents whose tokens are learnt where a mark is "x"; each may end with the same token."""
    made = []
    for each in marks:
        tokens = [count(rng, 11, 99) for _ in each]
        if end is not None:
            tokens[-1] = end
        made.append((tokens, [mark == "x" for mark in each]))
    return made


def _padded(documents: Documents, pad: int, *, left: bool = False
            ) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, what is learnt, and what is padding."""
    length = max(len(tokens) for tokens, _ in documents)
    rows = []
    for tokens, learnt in documents:
        own, empty = (list(zip(tokens, learnt, [False] * len(tokens), strict=True)),
                      [(pad, False, True)] * (length - len(tokens)))
        rows.append(empty + own if left else own + empty)
    tokens, learnt, past = torch.tensor(rows).permute(2, 0, 1)
    return tokens, learnt.bool(), past.bool()


def _labels(change: Callable[[Tensor, Tensor, Tensor, int], Batch], **padding: bool
            ) -> Callable[[Documents, int], Batch]:
    """An answer that pads rightly, unless told otherwise, and then does this."""
    return lambda documents, pad: change(*_padded(documents, pad, **padding), pad)


def _marked_by(learn: Callable[[Tensor, Tensor, Tensor, int], Tensor], other: int = IGNORED
               ) -> Callable[[Documents, int], Batch]:
    """Right but for what is learnt."""
    return _labels(lambda tokens, learnt, past, pad: (
        tokens[:, :-1], tokens.masked_fill(~learn(tokens, learnt, past, pad), other)[:, 1:]))


LABELS = Exercise(
    "17.2", "Inputs and labels", "Your turn: a batch for any library",
    _package_labels,
    probes=(
        Probe("one document", lambda rng: {
            "documents": _documents(rng, "..xx"), "pad": count(rng, 0, 9)}),
        Probe("two lengths", lambda rng: {
            "documents": _documents(rng, "..x.xx", "...x"), "pad": count(rng, 0, 9)}),
        Probe("padding is the end token", lambda rng: {
            "documents": _documents(rng, ".xx", ".x..xxx", end=8), "pad": 8}),
        Probe("three lengths", lambda rng: {
            "documents": _documents(rng, ".x.x.x.x", "..xxx", ".x"), "pad": count(rng, 0, 9)}),
        Probe("learnt from the first token on", lambda rng: {
            "documents": _documents(rng, "xxx", "x....x"), "pad": count(rng, 0, 9)}),
    ),
    misconceptions=(
        Misconception("prompt learnt", _marked_by(lambda tokens, learnt, past, pad: ~past),
                      "your labels leave out padding and nothing else: that is the attention mask. "
                      "What others said is seen, and not learnt."),
        Misconception("padding learnt", _marked_by(lambda tokens, learnt, past, pad: learnt | past),
                      "you learn the padding: the model would fill its answers up with it."),
        Misconception("everything learnt", _labels(lambda tokens, learnt, past, pad: (
                          tokens[:, :-1], tokens[:, 1:])),
                      "you learn every token, padding too. Put -100 where nothing is learnt."),
        Misconception("padding known by its number",
                      _marked_by(lambda tokens, learnt, past, pad: learnt & (tokens != pad)),
                      "where padding and end token are one number, you leave out the real end "
                      "tokens with it, and the model never learns to stop. Tell padding by its "
                      "place."),
        Misconception("labels not shifted", _labels(lambda tokens, learnt, past, pad: (
                          tokens[:, :-1], tokens.masked_fill(~learnt, IGNORED)[:, :-1])),
                      "your labels are the inputs themselves. At each place the label is the next "
                      "token."),
        Misconception("marks not shifted", _labels(lambda tokens, learnt, past, pad: (
                          tokens[:, :-1], tokens[:, 1:].masked_fill(~learnt[:, :-1], IGNORED))),
                      "you shifted the tokens and not their marks, so the first word of each "
                      "answer is not learnt. Shift both."),
        Misconception("marks shifted twice", _labels(lambda tokens, learnt, past, pad: (
                          tokens[:, :-1], tokens[:, 1:].masked_fill(
                              ~learnt[:, 1:].roll(-1, 1), IGNORED))),
                      "your marks stand one place early. A label is learnt where its own token is "
                      "marked."),
        Misconception("whole rows", _labels(lambda tokens, learnt, past, pad: (
                          tokens, tokens.masked_fill(~learnt, IGNORED))),
                      "you returned whole rows. The last token has no successor, so it is no "
                      "input; the first has none before it, so it is no label."),
        Misconception("padded on the left", _labels(lambda tokens, learnt, past, pad: (
                          tokens[:, :-1], tokens.masked_fill(~learnt, IGNORED)[:, 1:]), left=True),
                      "you padded on the left, as generation wants it. Here the documents begin "
                      "where the rows begin."),
        Misconception("0 for -100", _marked_by(lambda tokens, learnt, past, pad: learnt, other=0),
                      "you put 0 where nothing is learnt. 0 is a token: `F.cross_entropy` leaves "
                      "out -100."),
        Misconception("-1 for -100", _marked_by(lambda tokens, learnt, past, pad: learnt, other=-1),
                      "you put -1 where nothing is learnt. `F.cross_entropy` leaves out -100."),
        Misconception("pad as label", lambda documents, pad: _marked_by(
                          lambda tokens, learnt, past, pad: learnt, other=pad)(documents, pad),
                      "you put the padding's number where nothing is learnt. `F.cross_entropy` "
                      "would learn it; it leaves out -100."),
        Misconception("question hidden", _labels(lambda tokens, learnt, past, pad: (
                          tokens.masked_fill(~learnt, pad)[:, :-1],
                          tokens.masked_fill(~learnt, IGNORED)[:, 1:])),
                      "you took the question out of the inputs. It is not learnt, and it is seen."),
        Misconception("cut to the shortest", lambda documents, pad: _labels(
                          lambda tokens, learnt, past, pad: (
                              tokens[:, :-1], tokens.masked_fill(~learnt, IGNORED)[:, 1:]))(
                          [(tokens[:min(len(each) for each, _ in documents)],
                            learnt[:min(len(each) for each, _ in documents)])
                           for tokens, learnt in documents], pad),
                      "you cut all documents to the shortest. Pad the short ones."),
        Misconception("the others learnt",
                      _marked_by(lambda tokens, learnt, past, pad: ~learnt & ~past),
                      "you learn what is not marked, and leave out what is."),
    ),
    hints=(
        "Pad the tokens to the longest document, and their marks with False.",
        "Inputs are all columns but the last, labels all columns but the first. Marks go with the "
        "labels.",
        "labels = tokens.masked_fill(~learnt, -100)[:, 1:]",
    ))

EXERCISES = [LEARNT, LABELS]
