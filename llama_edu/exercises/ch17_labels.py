"""The exercise of chapter 17 on how torch is told what is learnt, 17.2: inputs and labels."""

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from ..training.packing import lay_out
from .data import Exercise, Misconception, Probe, count

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

EXERCISES = [LABELS]
