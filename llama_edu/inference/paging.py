"""Keys and values in pages: a text's memory need not lie in one piece, nor belong to it alone.

A cache for the longest answer that may come is mostly empty. Here all texts share one pool of small
blocks; a text takes the next one when its last is full, and texts that begin alike hold the same.
Kwon et al. 2023 (PagedAttention).
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256

import torch
from einops import rearrange
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ..model import Llama


@dataclass
class Table:
    """Where a text lies: token i at place `i % block_size` of block `blocks[i // block_size]`."""

    blocks: list[int] = field(default_factory=list)
    names: list[bytes] = field(default_factory=list)    # of those blocks that are full
    length: int = 0                                     # tokens that are there


class Pool:
    """Blocks of `block_size` tokens, keys and values of all layers, and how many tables hold each.

    memory: `n_layers 2 n_blocks block_size k d`. A full block has a name, by which texts that begin
    alike find it, even when nobody holds it any more, until it is the next to be taken. Raises
    ValueError where that is room for nothing.
    """

    def __init__(self, model: Llama, n_blocks: int, *, block_size: int):
        if min(n_blocks, block_size) < 1:
            raise ValueError(f"{n_blocks} blocks of {block_size} tokens were asked for; 1 or more "
                             "of both is needed.")
        c, self.n_blocks, self.block_size = model.config, n_blocks, block_size
        self.memory = model.tok_embeddings.weight.detach().new_zeros(
            c.n_layers, 2, n_blocks, block_size, c.n_kv_heads, c.head_dim)
        self.holders = [0] * n_blocks
        self.idle = OrderedDict.fromkeys(range(n_blocks))   # held by none; the next one comes first
        self.named: dict[bytes, int] = {}                   # full blocks
        self.name_of: dict[int, bytes] = {}                 # the same the other way round

    @property
    def block_bytes(self) -> int:
        """Bytes of one block: keys and values of all layers."""
        return self.memory[:, :, 0].nbytes

    @property
    def in_use(self) -> int:
        """Blocks that a table holds; one that several hold counts once."""
        return self.n_blocks - len(self.idle)

    def blocks_for(self, length: int) -> int:
        """How many blocks so many tokens need."""
        return -(-length // self.block_size)

    def find(self, tokens: Sequence[int]) -> Table:
        """A table that holds the full blocks with which these tokens begin, as far as there are
        any. At least one token is left to be read, for its logits."""
        table, end = Table(), self.block_size
        while end <= len(tokens) and (name := self._name(table, tokens)) in self.named:
            block = self.named[name]
            self.idle.pop(block, None)
            self.holders[block] += 1
            table.blocks.append(block)
            table.names.append(name)
            end += self.block_size
        table.length = min(len(table.blocks) * self.block_size, len(tokens) - 1)
        return table

    def grow(self, table: Table, length: int, *, spare: int = 0) -> bool:
        """Make room for `length` tokens, whether or not there was; False where blocks lack, and
        then nothing has changed.

        What others hold as well is copied before it is written: a text writes from
        `table.length` on. spare: blocks that must be left over.
        """
        shared = [i for i in range(table.length // self.block_size, len(table.blocks))
                  if self.holders[table.blocks[i]] > 1]
        n_new = self.blocks_for(length) - len(table.blocks)
        if len(shared) + n_new + spare > len(self.idle):
            return False
        for i in shared:
            theirs, mine = table.blocks[i], self._take()
            self.memory[:, :, mine] = self.memory[:, :, theirs]
            self.holders[theirs] -= 1
            table.blocks[i] = mine
        table.blocks += [self._take() for _ in range(n_new)]
        return True

    def filled(self, table: Table, tokens: Sequence[int]) -> None:
        """These tokens lie in the table now; others may find its full blocks from here on."""
        table.length = len(tokens)
        for block in table.blocks[len(table.names):table.length // self.block_size]:
            name = self._name(table, tokens)
            table.names.append(name)
            if name not in self.named:      # two texts may have written the same at once
                self.named[name], self.name_of[block] = block, name

    def release(self, table: Table) -> None:
        """Hold nothing any more. A text's end is taken before its beginning, which more texts may
        have in common, and what has no name before all that has one."""
        for block in reversed(table.blocks):
            self.holders[block] -= 1
            if not self.holders[block]:
                self.idle[block] = None
                self.idle.move_to_end(block, last=block in self.name_of)
        table.blocks, table.names, table.length = [], [], 0

    def _take(self) -> int:
        block, _ = self.idle.popitem(last=False)
        if block in self.name_of:
            del self.named[self.name_of.pop(block)]
        self.holders[block] = 1
        return block

    def _name(self, table: Table, tokens: Sequence[int]) -> bytes:
        """The next full block's name: from its tokens and, by the name before, all before them."""
        start = len(table.names) * self.block_size
        before = table.names[-1] if table.names else b""
        return sha256(before + repr(list(tokens[start:start + self.block_size])).encode()).digest()


class PagedCache:
    """What a model takes for its cache in one pass: tables of a pool, a row each, however long.

    A row's t new tokens follow its own, so the model is to be told their positions `b t` and what
    they may see, mask `b t s`. Their room must have been made: see `Pool.grow`.
    """

    def __init__(self, pool: Pool, tables: Sequence[Table], *, t: int):
        device = pool.memory.device
        self.pool, self.length = pool, max(table.length for table in tables)
        starts = torch.tensor([table.length for table in tables], device=device)
        self.positions = starts[:, None] + torch.arange(t, device=device)
        columns = torch.arange(self.length + t, device=device)
        self.mask = columns <= self.positions[..., None]
        self.blocks = pad_sequence([torch.tensor(table.blocks, device=device) for table in tables],
                                   batch_first=True)    # nobody looks where a shorter row is padded
        self.places = (self.blocks.gather(1, self.positions // pool.block_size) * pool.block_size
                       + self.positions % pool.block_size)

    def slot(self, layer_id: int) -> "PagedSlot":
        """One layer's part."""
        return PagedSlot(self, *self.pool.memory[layer_id])


@dataclass(frozen=True)
class PagedSlot:
    """One layer's part of a pass over pages: keys and values `n_blocks block_size k d`."""

    cache: PagedCache
    keys: Tensor
    values: Tensor

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Write keys and values `b k t d` each to its place; return every row's, `b k s d`."""
        for pages, new in ((self.keys, k), (self.values, v)):
            pages.flatten(0, 1)[self.cache.places] = rearrange(new, "b k t d -> b t k d")
        return self._gathered(self.keys), self._gathered(self.values)

    def _gathered(self, pages: Tensor) -> Tensor:
        """One copy, and the only one: whole blocks side by side are a text already."""
        blocks = self.cache.blocks
        rows = pages.index_select(0, blocks.flatten())
        rows = rearrange(rows, "(b n) s k d -> b k (n s) d", b=len(blocks))
        return rows[:, :, :self.cache.mask.shape[-1]]
