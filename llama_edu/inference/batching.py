"""Continuous batching: a text that ends leaves the batch at once, and the next one takes its place.

A batch of texts that begin together is as slow as its longest. Here every pass chooses its rows
anew (Yu et al. 2022, Orca), and their keys and values lie in pages. Each answer is what `stream`
gives that prompt alone.
"""

from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..generation import count_pads
from ..model import Llama
from ..sampling import Rule, pick
from .paging import PagedCache, Pool, Table


@dataclass(eq=False)
class Request:
    """A prompt that is to be continued, how, and the answer so far."""

    text: list[int]             # the prompt's tokens, then the answer's
    n_prompt: int
    rules: Sequence[Rule]
    max_new: int
    stop_ids: Collection[int]
    generator: torch.Generator | None
    table: Table = field(default_factory=Table)

    @property
    def answer(self) -> list[int]:
        """The tokens that follow the prompt, with the stop token where one was said."""
        return self.text[self.n_prompt:]

    @property
    def done(self) -> bool:
        said = len(self.text) - self.n_prompt
        return said == self.max_new or said > 0 and self.text[-1] in self.stop_ids

    def say(self, logits: Tensor) -> None:
        """Draw the next token from logits `1 v`, by this request's rules and chance alone."""
        tokens = torch.tensor([self.text], device=logits.device)
        for rule in self.rules:
            logits = rule(logits, tokens)
        self.text.append(int(pick(logits, generator=self.generator)))


class Engine:
    """Answers requests as they come, at most `max_batch` at once, from a pool of `n_blocks` blocks.

        engine = Engine(model, 512, block_size=16, max_batch=8)
        request = engine.submit(prompt, top_k(1), max_new=100)
        engine.run()
        request.answer

    Where blocks run out, the request that came last is put back, and read again later. passes,
    tokens: how often the model ran and how many tokens it read. Raises ValueError where there is
    room for nothing.
    """

    def __init__(self, model: Llama, n_blocks: int, *, block_size: int, max_batch: int):
        if max_batch < 1:
            raise ValueError(f"a batch of at most {max_batch} requests was asked for; 1 or more is "
                             "needed.")
        self.model, self.max_batch = model, max_batch
        self.pool = Pool(model, n_blocks, block_size=block_size)
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []        # the first to come is the first
        self.passes = self.tokens = 0

    @property
    def wasted(self) -> int:
        """Places for tokens that are held and empty: less than a block of each running request."""
        return sum(len(request.table.blocks) * self.pool.block_size - request.table.length
                   for request in self.running)

    def submit(self, prompt: Sequence[int], *rules: Rule, max_new: int,
               stop_ids: Collection[int] = (), generator: torch.Generator | None = None) -> Request:
        """Let a prompt wait for its turn; arguments as in `stream`, for this one request.

        Raises ValueError for one that could never be answered: no tokens, unknown ones, more than
        the context or all blocks have room for.
        """
        n_vocab, pool = self.model.config.vocab_size, self.pool
        count_pads(self.model, torch.tensor([prompt], dtype=torch.long), max_new=max_new)
        if strangers := [token for token in prompt if not 0 <= token < n_vocab]:
            raise ValueError(f"token {strangers[0]} was given; this model knows 0 to "
                             f"{n_vocab - 1}. Encode the prompt with the model's own tokenizer.")
        needed = pool.blocks_for(len(prompt) + max_new - 1)     # the last token is never read
        if needed > pool.n_blocks:
            raise ValueError(f"a prompt of {len(prompt)} tokens and {max_new} more need {needed} "
                             f"blocks of {pool.block_size}; the pool has {pool.n_blocks}. Ask for "
                             "fewer tokens, or make an engine with more blocks.")
        request = Request(list(prompt), len(prompt), rules, max_new, stop_ids, generator)
        self.waiting.append(request)
        return request

    def run(self) -> None:
        """Go on until every request is answered."""
        while self.waiting or self.running:
            self.step()

    @torch.inference_mode()
    def step(self) -> None:
        """Read the requests for which there is room, each alone, for the next may begin like it;
        then one token of all that run, in one pass."""
        while self._admit():
            self._pass(self.running[-1:])
        for request in list(self.running):      # those before it have their room
            while request in self.running and not self.pool.grow(request.table, len(request.text)):
                self._put_back()
        if self.running:
            self._pass(list(self.running))

    def _admit(self) -> bool:
        """Whether the next request could be let in. A block is left for each that runs, or it
        would soon be put back."""
        if not self.waiting or len(self.running) == self.max_batch:
            return False
        request = self.waiting[0]
        request.table = self.pool.find(request.text)
        if not self.pool.grow(request.table, len(request.text), spare=len(self.running)):
            self.pool.release(request.table)
            return False
        self.running.append(self.waiting.popleft())
        return True

    def _put_back(self) -> None:
        """The last to come waits again, before all others, and keeps what it has said."""
        request = self.running.pop()
        self.pool.release(request.table)
        self.waiting.appendleft(request)

    def _pass(self, requests: Sequence[Request]) -> None:
        """Read what these requests' tables lack, equally much of each; then each says a token."""
        tokens = torch.tensor([request.text[request.table.length:] for request in requests],
                              device=self.pool.memory.device)
        cache = PagedCache(self.pool, [request.table for request in requests], t=tokens.shape[1])
        x = self.model.hidden(tokens, cache, positions=cache.positions, mask=cache.mask)
        self.passes, self.tokens = self.passes + 1, self.tokens + tokens.numel()
        for request, logits in zip(requests, self.model.logits(x[:, -1]).split(1), strict=True):
            self.pool.filled(request.table, request.text)
            request.say(logits)
            if request.done:
                self.running.remove(request)
                self.pool.release(request.table)
