"""The bug hunt of chapter 10, 10.5: six paged caches whose keys are the tokens themselves."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .hunts import HEALTHY, Bug, Hunt


class _Cache:
    """Texts by name, in pages of `size` tokens."""

    def __init__(self, n_blocks: int = 8, size: int = 4):
        self._size, self._holders = size, [0] * n_blocks
        self._memory: list[list[int | None]] = [[None] * size for _ in range(n_blocks)]
        self._idle = list(range(n_blocks))
        self._tables: dict[str, list[int]] = {}
        self._lengths: dict[str, int] = {}

    @property
    def free(self) -> int:
        """Blocks that nobody holds."""
        return len(self._idle)

    def append(self, text: str, tokens: Sequence[int]) -> None:
        """Let a text go on, or begin."""
        table = self._tables.setdefault(text, [])
        self._lengths.setdefault(text, 0)
        for token in tokens:
            i = self._lengths[text]
            while len(table) <= self._entry(i):
                table.append(self._take())
            self._own(table)
            block, place = self._where(text, i)
            self._memory[block][place] = token
            self._lengths[text] = i + 1

    def read(self, text: str) -> list[int | None]:
        """A text from its first token to its last; nothing, where there is none."""
        if text not in self._tables:
            return []
        where = [self._where(text, i) for i in range(self._lengths.get(text, 0))]
        return [self._memory[block][place] for block, place in where]

    def fork(self, old: str, new: str) -> None:
        """A second text that begins with all of the first; no token is copied for it now."""
        self._tables[new] = list(self._tables[old])
        self._lengths[new] = self._lengths[old]
        for block in self._tables[new]:
            self._hold(block)

    def end(self, text: str) -> None:
        """Forget a text. Its name may be used again."""
        for block in self._tables.pop(text, []):
            self._let_go(block)
        self._lengths.pop(text, None)

    def _entry(self, i: int) -> int:
        return i // self._size

    def _where(self, text: str, i: int) -> tuple[int, int]:
        return self._tables[text][self._entry(i)], i % self._size

    def _own(self, table: list[int]) -> None:
        """A last block that others hold as well is copied before it is written."""
        if self._holders[table[-1]] > 1:
            mine = self._take()
            self._copy(table[-1], mine)
            self._let_go(table[-1])
            table[-1] = mine

    def _copy(self, old: int, new: int) -> None:
        self._memory[new] = list(self._memory[old])

    def _take(self) -> int:
        block = self._idle.pop(0)
        self._holders[block] = 1
        return block

    def _hold(self, block: int) -> None:
        self._holders[block] += 1

    def _let_go(self, block: int) -> None:
        self._holders[block] -= 1
        if not self._holders[block]:
            self._idle.insert(0, block)


class _ByToken(_Cache):
    def _where(self, text: str, i: int) -> tuple[int, int]:
        table = self._tables[text]
        return (table[i] if i < len(table) else 0), i % self._size


class _FreedStillRead(_Cache):
    def end(self, text: str) -> None:
        for block in self._tables.get(text, []):
            self._let_go(block)
        self._lengths.pop(text, None)


class _InPlace(_Cache):
    def _own(self, table: list[int]) -> None:
        pass


class _Border(_Cache):
    def _entry(self, i: int) -> int:
        return max(0, i - 1) // self._size


class _OldLength(_Cache):
    def end(self, text: str) -> None:
        for block in self._tables.pop(text, []):
            self._let_go(block)


class _NotCounted(_Cache):
    def _hold(self, block: int) -> None:
        pass


class _EmptyCopy(_Cache):
    def _copy(self, old: int, new: int) -> None:
        self._memory[new] = [None] * self._size


class _Leak(_Cache):
    def _let_go(self, block: int) -> None:
        if self._holders[block] == 1:
            super()._let_go(block)


def _look(make: type[_Cache]) -> Tensor:
    """Alone; a name used again; a fork that goes on; a fork that outlives its beginning."""
    alone, again, forked, outlived = (make(8, 4) for _ in range(4))
    alone.append("x", range(1, 10))
    again.append("x", [1, 2, 3])
    again.end("x")
    again.append("x", [4])
    again.append("y", [9])
    forked.append("x", [1, 2, 3])
    forked.fork("x", "y")
    forked.append("y", [4])
    forked.append("x", [5])
    outlived.append("x", [1, 2, 3, 4])
    outlived.fork("x", "y")
    outlived.end("x")
    outlived.append("z", [9])
    rows = [alone.read("x"), again.read("x"), forked.read("x"), forked.read("y"),
            outlived.read("y")]
    forked.end("x")
    forked.end("y")
    seen = [[-1 if each is None else each for each in row] + [0] * (10 - len(row)) for row in rows]
    return torch.tensor([*seen, [forked.free] * 10], dtype=torch.float64)


CACHES = Hunt(
    "10.5", "Six paged caches", "Find the bug: six paged caches",
    healthy=lambda: _Cache,
    bugs={
        "table indexed by token": Bug(
            lambda: _ByToken,
            "loses tokens of a single text as soon as it is longer than a block, and not only at "
            "the border"),
        "freed block still read": Bug(
            lambda: _FreedStillRead,
            "shows another text's tokens under a name that was ended and is used again"),
        "shared prefix written in place": Bug(
            lambda: _InPlace,
            "changes a text when its fork goes on, and keeps the fork whole when the text ends"),
        "off by one at block border": Bug(
            lambda: _Border,
            "has the fifth token in the place of the first, with blocks of four"),
        "length not reset": Bug(
            lambda: _OldLength,
            "has too many tokens under a name that was ended and is used again"),
        "reference count forgotten": Bug(
            lambda: _NotCounted,
            "gives blocks to others that a fork still reads, once the first text has ended"),
        "copy left empty": Bug(
            lambda: _EmptyCopy,
            "loses the tokens of a shared block that is not full when one of its texts goes on"),
        "shared block never given back": Bug(
            lambda: _Leak,
            "has fewer free blocks than at first when all texts have ended, if some were shared"),
    },
    hidden={"a": "reference count forgotten", "b": "off by one at block border",
            "c": "length not reset", "d": HEALTHY, "e": "shared prefix written in place",
            "f": "freed block still read"},
    look=_look,
    hints=(
        "First one text alone, longer than two blocks. Then end it, use its name again, and let "
        "another come.",
        "Then a fork of three tokens with blocks of four: let both go on, and read both.",
        "Then a fork whose first text ends, and another that takes what is free. Count `free` at "
        "the end of everything.",
    ))

EXERCISES = [CACHES]
