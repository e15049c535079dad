"""Documents of any length into rows of one length, without letting one see another."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import torch
from torch import Tensor

# Tokens `t`, of which the first is given and all others are learnt; or, as dialogs are, `t 2`, each
# token beside whether it is learnt.
Document = Sequence[int] | Tensor
Row = list[Document]

OPEN_ROWS = 64                  # that wait for a document that fits
PADDING = -1                    # the number of no document


def pack(documents: Iterable[Document], *, length: int) -> Iterator[Row]:
    """Lay documents into rows of `length` tokens at most, each into the fullest row it fits in.

    A document that is longer than a row is cut, and each part stands as a document of its own: it
    begins with the last token of the part before, so that every token but the first is learnt.
    Some rows wait for a fitting document, so that little of them stays empty; all are yielded.
    Raises ValueError for rows in which nothing could be learnt.
    """
    if length < 2:
        raise ValueError(f"rows of {length} tokens were asked for; 2 or more are needed, one to "
                         "see and one to predict. Make them longer.")
    rows: list[tuple[int, Row]] = []                    # how full, and what is in it
    for document in documents:
        for part in _cut(document, length):
            fitting = [row for row in rows if row[0] + len(part) <= length]
            best = max(fitting, key=lambda row: row[0], default=(0, []))
            if fitting:
                rows.remove(best)
            elif len(rows) == OPEN_ROWS:
                fullest = max(rows, key=lambda row: row[0])
                rows.remove(fullest)
                yield fullest[1]
            rows.append((best[0] + len(part), [*best[1], part]))
    yield from (row for _, row in rows)


def _cut(document: Document, length: int) -> Iterator[Document]:
    """Parts of `length` tokens that overlap by one: learnt in one part, and given in the next."""
    return (document[at:at + length] for at in range(0, len(document) - 1, length - 1))


def lay_out(rows: Sequence[Row], *, length: int) -> dict[str, Tensor]:
    """A batch, as `losses` reads it, of packed rows; the same as its documents one by one.

    In every document positions count from 0, a token sees those before it and no other document,
    and the first token is not learnt. What is left of a row is padding, never learnt.
    """
    tokens = torch.zeros(len(rows), length, dtype=torch.long)
    positions = torch.arange(length).repeat(len(rows), 1)
    owner = torch.full((len(rows), length), PADDING)
    learn = torch.zeros(len(rows), length, dtype=torch.bool)
    for b, row in enumerate(rows):
        end = 0
        for number, document in enumerate(row):
            start, end = end, end + len(document)
            marked = torch.as_tensor(document)
            if marked.ndim == 1:
                marked = torch.stack([marked, torch.ones_like(marked)], dim=1)
            tokens[b, start:end] = marked[:, 0]
            positions[b, start:end] = torch.arange(len(document))
            owner[b, start:end] = number
            learn[b, start + 1:end] = marked[1:, 1].bool()
    return {"tokens": tokens, "learn": learn, "positions": positions, "mask": document_mask(owner)}


def document_mask(owner: Tensor) -> Tensor:
    """True where a token may look: back, inside its own document. `b t` numbers to `b t t`."""
    same = owner[:, :, None] == owner[:, None, :]
    return same.tril()


def in_order(rows: Iterable[Row], *, size: int, length: int) -> Iterator[dict[str, Tensor]]:
    """Batches of `size` rows, each row once; the last has what is left."""
    waiting = iter(rows)
    while batch := list(islice(waiting, size)):
        yield lay_out(batch, length=length)


def shuffled(rows: Sequence[Row], *, size: int, length: int, seed: int, start: int = 0
             ) -> Iterator[dict[str, Tensor]]:
    """Batches of `size` rows without end; every epoch has an order of its own, from `seed`.

    The order depends on nothing else, so a run that begins at batch number `start` sees what
    another sees from there on. Rows that do not fill an epoch's last batch wait for the next.
    Raises ValueError where the rows do not fill one batch.
    """
    per_epoch = len(rows) // size
    if per_epoch < 1:
        raise ValueError(f"the text fills {len(rows)} rows of {length} tokens; a batch needs "
                         f"{size}. Give more text, or make batches smaller or rows shorter.")
    epoch, first = divmod(start, per_epoch)
    while True:
        order = torch.randperm(len(rows), generator=_chance(seed, epoch)).tolist()
        for number in range(first, per_epoch):
            yield lay_out([rows[i] for i in order[number * size:(number + 1) * size]],
                          length=length)
        epoch, first = epoch + 1, 0


def _chance(seed: int, epoch: int) -> torch.Generator:
    """A source of random numbers for one epoch of one seed."""
    return torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)
