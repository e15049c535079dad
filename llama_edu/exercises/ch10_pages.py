"""The exercises of chapter 10 on pages: 10.2, a text's keys from its blocks, and 10.3, where the
next token goes."""

from collections import OrderedDict
from collections.abc import Callable
from types import SimpleNamespace

import torch
from torch import Generator, Tensor

from ..inference.paging import PagedSlot, Pool, Table
from .data import Exercise, Inputs, Misconception, Probe, normal

# -- 10.2: from blocks to a text -------------------------------------------------------------------


def _package_gathered(pages: Tensor, table: Tensor, length: int) -> Tensor:
    told = SimpleNamespace(blocks=table[None], mask=torch.empty(1, 1, length))
    return PagedSlot(told, pages, pages)._gathered(pages)[0]


def _paged(n_blocks: int, size: int, length: int) -> Callable[[Generator], Inputs]:
    def make(rng: Generator) -> Inputs:
        n = -(-length // size)
        return {"pages": normal(rng, n_blocks, size, 2, 5),
                "table": torch.randperm(n_blocks, generator=rng)[:n], "length": length}

    return make


def _shown(rows: Callable[[Tensor, Tensor], Tensor]) -> Callable:
    """The first tokens of some rows `s k d`, as they are asked for."""
    return lambda pages, table, length: rows(pages, table)[:length].transpose(0, 1)


def _row(pages: Tensor, table: Tensor) -> Tensor:
    return pages[table].flatten(0, 1)


GATHER = Exercise(
    "10.2", "A text's keys from its pages", "Your turn: read a text from its pages",
    _package_gathered,
    probes=(
        Probe("two blocks, the second not full", _paged(6, 4, 7)),
        Probe("all blocks full", _paged(7, 3, 9)),
        Probe("less than a block", _paged(5, 4, 3)),
        Probe("many blocks", _paged(12, 3, 23)),
        Probe("a token to a block", _paged(9, 1, 5)),
        Probe("a block that stands twice", lambda rng: {
            "pages": normal(rng, 5, 3, 2, 5), "table": torch.tensor([3, 1, 3]), "length": 8}),
    ),
    misconceptions=(
        Misconception("not cut", lambda pages, table, length: _row(pages, table).transpose(0, 1),
                      "your text is longer than `length`: the last block is not full, and what "
                      "lies in its rest is nobody's."),
        Misconception("cut inside the blocks", lambda pages, table, length: (
                          pages[table][:, :length].flatten(0, 1).transpose(0, 1)),
                      "you cut each block, and not the text: [:length] comes after the blocks have "
                      "been joined."),
        Misconception("no table", _shown(lambda pages, table: _row(
                          pages, torch.arange(len(table)))),
                      "you read the pool's first blocks. Where a text's blocks lie only its table "
                      "knows."),
        Misconception("sorted", _shown(lambda pages, table: _row(pages, table.sort().values)),
                      "you read the right blocks in the order of the pool. Their order in the text "
                      "is the table's.", also=(_shown(lambda pages, table: _row(
                          pages, torch.unique(table))),)),
        Misconception("across the blocks", _shown(lambda pages, table: pages[table].transpose(
                          0, 1).flatten(0, 1)),
                      "you took the first token of each block, then the second of each. A block "
                      "holds tokens that follow each other: token i is in block i // size of the "
                      "table, at place i % size.",
                      also=(lambda pages, table, length: pages[
                          table[torch.arange(length) % len(table)],
                          torch.arange(length) // len(table)].transpose(0, 1),)),
        Misconception("table indexed by token", lambda pages, table, length: pages[
                          table[torch.arange(length).clamp(max=len(table) - 1)],
                          torch.arange(length) % pages.shape[1]].transpose(0, 1),
                      "you looked token i up in the table. The table has an entry for a block, not "
                      "for a token: i // size."),
        Misconception("the last tokens", lambda pages, table, length: _row(
                          pages, table)[-length:].transpose(0, 1),
                      "you kept the last tokens of the blocks. A text begins at the beginning of "
                      "its first block."),
        Misconception("tokens first", lambda pages, table, length: _row(pages, table)[:length],
                      "your axes are `s k d`: as the pool has them. Heads come first here."),
        Misconception("reshaped", lambda pages, table, length: _row(pages, table)[:length].reshape(
                          pages.shape[2], length, pages.shape[3]),
                      "you reshaped where two axes change places: heads and tokens are mixed. "
                      "transpose, or rearrange."),
        Misconception("blocks from one", _shown(lambda pages, table: _row(pages, table - 1)),
                      "you read each block's neighbour: the pool's blocks are counted from 0."),
        Misconception("full blocks alone", lambda pages, table, length: _row(
                          pages, table)[:length // pages.shape[1] * pages.shape[1]].transpose(0, 1),
                      "you left the last block out where it is not full: round up, not down."),
        Misconception("without the newest", lambda pages, table, length: _row(
                          pages, table)[:length - 1].transpose(0, 1),
                      "the newest token is missing."),
        Misconception("backwards", _shown(lambda pages, table: _row(pages, table.flip(0))),
                      "you read the blocks from the last to the first."),
        Misconception("heads for places", lambda pages, table, length: (
                          pages[table].transpose(1, 2).reshape(-1, *pages.shape[2:])[:length]
                          .transpose(0, 1)),
                      "you exchanged places and heads inside each block before joining them."),
    ),
    hints=(
        "pages[table] picks a text's blocks in their order: `blocks size k d`.",
        "Two of these axes are one: the text. flatten(0, 1), and cut at length.",
        "pages[table].flatten(0, 1)[:length].transpose(0, 1). Or with i = torch.arange(length): "
        "pages[table[i // size], i % size].",
    ))

# -- 10.3: where the next token goes ---------------------------------------------------------------

TOY = SimpleNamespace(config=SimpleNamespace(n_layers=1, n_kv_heads=1, head_dim=1),
                      tok_embeddings=SimpleNamespace(weight=torch.zeros(1)))
State = tuple[list[int], list[int], list[int], int | None]


def _package_place(table: list[int], length: int, size: int, holders: list[int], idle: list[int]
                   ) -> State:
    """What the pool does, with each block's own number written in it."""
    pool = Pool(TOY, len(holders), block_size=size)
    pool.memory += torch.arange(len(holders))[:, None, None, None]
    pool.holders, pool.idle = list(holders), OrderedDict.fromkeys(idle)
    held = Table(list(table), [], length)
    pool.grow(held, length + 1)
    said = pool.memory[0, 0, :, 0, 0, 0].long().tolist()
    source = next((said[block] for block in held.blocks if said[block] != block), None)
    return held.blocks, pool.holders, list(pool.idle), source


def _state(n_blocks: int, size: int, length: int, *, last: int = 1, first: int = 1
           ) -> Callable[[Generator], Inputs]:
    """A text of so many tokens; so many tables hold its last block, and its others."""

    def make(rng: Generator) -> Inputs:
        order, n = torch.randperm(n_blocks, generator=rng).tolist(), -(-length // size)
        table, others, idle = order[:n], order[n:n + 2], order[n + 2:]
        holders = [0] * n_blocks
        for block in others:
            holders[block] = 2
        for block in table:
            holders[block] = first
        if table:
            holders[table[-1]] = last
        return {"table": table, "length": length, "size": size, "holders": holders, "idle": idle}

    return make


def _slip(*, full: Callable[[int, int, int], bool] = lambda length, size, n: length == n * size,
          copies: Callable[[int], bool] = lambda n: n > 1, full_too: bool = False,
          take: int = 0, keep_idle: bool = False, count: bool = True, let_go: int = 1,
          replace: bool = True, freed: bool = False, in_place: bool = False,
          source: Callable[[int, int], int | None] = lambda old, new: old) -> Callable[..., State]:
    """The rule of the next token with one thing changed."""

    def answer(table: list[int], length: int, size: int, holders: list[int], idle: list[int]
               ) -> State:
        table, holders, idle, copied = list(table), list(holders), list(idle), None
        new_block = full(length, size, len(table))
        old = table[-1] if table else None
        shared = old is not None and copies(holders[old]) and (full_too or not new_block)
        if in_place or not (new_block or shared):
            return table, holders, idle, copied
        block = idle[take] if keep_idle else idle.pop(take)
        if count:
            holders[block] = 1
        if shared:
            copied = source(old, block)
            holders[old] -= let_go
            if freed:
                idle.append(old)
        if shared and replace and not (full_too and new_block):
            table[-1] = block
        else:
            table.append(block)
        return table, holders, idle, copied

    return answer


def _written_in_place(table: list[int], length: int, size: int, holders: list[int], idle: list[int]
                      ) -> State:
    return _slip(copies=lambda n: False)(table, length, size, holders, idle)


PLACE = Exercise(
    "10.3", "Where the next token goes", "Your turn: where does the next token go?", _package_place,
    probes=(
        Probe("room in a block of its own", _state(7, 4, 6)),
        Probe("the last block is full", _state(7, 4, 8)),
        Probe("an empty text", _state(6, 4, 0)),
        Probe("the last block is shared", _state(8, 4, 6, last=2)),
        Probe("a shared block that is full", _state(8, 4, 8, last=2, first=2)),
        Probe("three hold it", _state(9, 3, 5, last=3, first=3)),
        Probe("one place left", _state(7, 4, 7)),
        Probe("a token to a block", _state(8, 1, 3, last=2)),
        Probe("only what comes before is shared", _state(8, 4, 6, first=3)),
    ),
    misconceptions=(
        Misconception("written in place", _written_in_place,
                      "you wrote into a block that another text holds as well: that text would "
                      "read your token in the middle of its own. Copy it first."),
        Misconception("no new block", _slip(in_place=True),
                      "your table never changes, though there are blocks that are full, and "
                      "others that are not yours alone."),
        Misconception("a full block copied", _slip(full_too=True),
                      "you copied a full block that is shared. Nothing will be written there: the "
                      "next token goes into a block of its own, and the full one stays shared.",
                      also=(_slip(full_too=True, let_go=0),)),
        Misconception("one token late", _slip(full=lambda length, size, n: length > n * size),
                      "at the border you took no new block: a table of n blocks has room for "
                      "n * size tokens, at places 0 to n * size - 1."),
        Misconception("one token early", _slip(
                          full=lambda length, size, n: length + 1 >= n * size),
                      "you took a new block while there was one place left in the last."),
        Misconception("always a new block", _slip(full=lambda length, size, n: True),
                      "you took a new block for each token. The last one has room."),
        Misconception("always copied", _slip(copies=lambda n: True),
                      "you copied a block that nobody else holds. It may be written where it is.",
                      also=(_slip(copies=lambda n: n == 1),)),
        Misconception("not let go of", _slip(let_go=0),
                      "after the copy you still count as a holder of the old block. It would never "
                      "become idle again."),
        Misconception("all let go of", _slip(let_go=2),
                      "you let go of the old block twice: others hold it still.",
                      also=(_slip(let_go=1, freed=True), _slip(let_go=0, freed=True))),
        Misconception("nobody holds the new one", _slip(count=False),
                      "nobody holds the new block by your count: set it to 1."),
        Misconception("still idle", _slip(keep_idle=True),
                      "the block that you took is still idle: the next text will take it, too."),
        Misconception("the last idle one", _slip(take=-1),
                      "you took an idle block from the end; the first comes first."),
        Misconception("the copy appended", _slip(replace=False),
                      "you appended the copy to the table. It stands *in the place* of the shared "
                      "block, whose tokens it has."),
        Misconception("the copy for its source", _slip(source=lambda old, new: new),
                      "you named the new block. From which block are the tokens copied?"),
        Misconception("source not named", _slip(source=lambda old, new: None),
                      "you did not say which block is copied, so the new one stays empty."),
    ),
    hints=(
        "Three cases: the last block is full (or there is none); it has room and is yours alone; "
        "it has room and others hold it too.",
        "Full is `length == len(table) * size`. Copies of the three lists first: the caller may "
        "still need them.",
        "Shared: take idle[0], one holder; the old block has one holder less; table[-1] is the new "
        "one, and the last value you return is the old one.",
    ))

EXERCISES = [GATHER, PLACE]
