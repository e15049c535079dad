"""A device, what it was measured to do, and models that are built and timed on it."""

import gc
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from llama_edu.compress.quant import int4, int8
from llama_edu.compress.surgery import replace_linears
from llama_edu.config import ModelConfig
from llama_edu.family.accounting import GIB, kv_bytes, parameters, weight_bytes
from llama_edu.inference.static import SHORTEST, StaticLlama
from llama_edu.model import Llama

from ._gpu_peer import peer
from ._rounds import Work, interleaved

KINDS = {"bf16": None, "int8": int8, "int4": int4(64)}      # of weights; the first as they are
REPEATS = 10        # of a copy and a product in a round: the wait at the end shall not count
HEAD = ("| | texts | tokens before | tokens/s | GiB a pass reads | copy, GB/s | share |",
        "|---|--:|--:|--:|--:|--:|--:|")


@dataclass(frozen=True)
class Plan:
    """What is built, and at which sizes it is timed."""

    config: ModelConfig
    dtype: torch.dtype
    context: int                        # tokens before those that are timed
    new: int                            # tokens in a round
    prompts: tuple[int, ...]            # lengths of prompts that are read in one pass
    batches: tuple[tuple[int, int], ...]        # texts at once, and tokens before in each
    side: int                           # of the square matrices
    copied: int                         # bytes
    rounds: int
    compiled: bool


class Bench:
    """One device, what it was measured to do, and what is run on it."""

    def __init__(self, plan: Plan, device: torch.device):
        self.plan, self.device, self.gpu = plan, device, device.type == "cuda"
        self.predicted = self.used = 0          # bytes, at the fullest moment
        a = torch.randn(plan.side, plan.side, dtype=plan.dtype, device=device)
        source = torch.zeros(plan.copied, dtype=torch.uint8, device=device)
        target = torch.empty_like(source)
        self.yardsticks = {"copy": self.synced(lambda: target.copy_(source), times=REPEATS),
                           "product": self.synced(lambda: a @ a, times=REPEATS)}

    def synced(self, work: Work, *, times: int = 1) -> Work:
        """A work, done so many times, that ends when the device has done it."""
        def done() -> None:
            for _ in range(times):
                work()
            if self.gpu:
                torch.cuda.synchronize()

        return done

    def timed(self, **works: Work) -> dict[str, float]:
        """Seconds: medians over rounds in which a copy and a product take their turns."""
        every = {name: self.synced(work) for name, work in works.items()} | self.yardsticks
        times = interleaved(every, rounds=self.plan.rounds)
        return {name: statistics.median(seconds) / (REPEATS if name in self.yardsticks else 1)
                for name, seconds in times.items()}

    def build(self, kind: str, *, batch: int, max_len: int, t: int) -> StaticLlama:
        """The model on the device, whose weights were never anywhere else."""
        gc.collect()        # a recorded pass and its model hold each other
        torch.compiler.reset()
        self.expect(kind, batch=batch, max_len=max_len, t=t)
        with torch.device("meta"):
            model = StaticLlama(Llama(self.plan.config).to(self.plan.dtype))
        model = model.to_empty(device=self.device).requires_grad_(False)
        torch.manual_seed(0)
        for w in model.parameters():
            w.fill_(1) if w.ndim == 1 else w.normal_(std=w.shape[1] ** -0.5)
        if KINDS[kind] is not None:
            replace_linears(model, ".*", KINDS[kind])
        return model

    def expect(self, kind: str, *, batch: int, max_len: int, t: int) -> None:
        """Predict the memory that a step needs; ValueError for what cannot fit."""
        c, size = self.plan.config, self.plan.dtype.itemsize
        room = max(SHORTEST, 1 << (max_len - 1).bit_length())       # of a StaticCache
        cache = kv_bytes(c, tokens=room, batch=batch, bits=8 * size)
        stream = batch * t * (4 * c.hidden_dim + 3 * c.dim) * size  # gate and up, silu, product
        moments = [cache + stream]                                  # a prompt
        if KINDS[kind] is not None:         # all that was rounded, and a table thrice in 32 bits
            moments += [weight_bytes(c, bits=int(kind[3:])) + 3 * 4 * c.vocab_size * c.dim]
        needed = weight_bytes(c, bits=8 * size) + max(moments) + 2 * self.plan.copied
        self.predicted = max(self.predicted, needed)
        if self.gpu and needed > (there := torch.cuda.mem_get_info()[1]):
            raise ValueError(f"{needed / GIB:.1f} GiB are needed for {kind}, {batch} texts and "
                             f"{max_len} tokens; this GPU has {there / GIB:.1f}. Leave that part "
                             "out, with --parts.")

    @contextmanager
    def transformers(self) -> Iterator[nn.Module]:
        """The peer, alone on the device; what it needs is not counted as ours."""
        self.note_memory()
        yield peer(self.plan.config, dtype=self.plan.dtype, device=self.device)
        gc.collect()
        if self.gpu:
            torch.cuda.reset_peak_memory_stats()

    def note_memory(self) -> None:
        gc.collect()
        if self.gpu:
            self.used = max(self.used, torch.cuda.max_memory_allocated())

    def text(self, batch: int, t: int) -> Tensor:
        gen = torch.Generator().manual_seed(t)
        return torch.randint(self.plan.config.vocab_size, (batch, t), generator=gen).to(self.device)

    def goes_on(self, model: Llama, batch: int, context: int) -> Work:
        """`new` tokens after a text that is read once; always the same ones."""
        cache = model.new_cache(batch, context + self.plan.new)
        first = model.logits(model.hidden(self.text(batch, context), cache)[:, -1]).argmax(-1)

        def work() -> None:
            cache.rewind(context)
            token = first[:, None]
            for _ in range(self.plan.new):
                token = model.logits(model.hidden(token, cache)[:, -1]).argmax(-1, keepdim=True)

        return work

    def row(self, name: str, batch: int, context: int, seconds: float, copy: float, weights: int
            ) -> tuple[str, float]:
        """A line of a table, and the share of the bandwidth; seconds are those of one pass."""
        fast = 2 * self.plan.copied / copy      # a copy reads and writes
        read = weights + kv_bytes(self.plan.config, tokens=context, batch=batch,
                                  bits=8 * self.plan.dtype.itemsize)
        share = read / seconds / fast
        return (f"| {name} | {batch} | {context} | {batch / seconds:.1f} | {read / GIB:.3f} | "
                f"{fast / 1e9:.0f} | {share:.0%} |"), share


def weights_read(model: nn.Module, embedding: nn.Module, output: nn.Module) -> int:
    """Bytes of all that a pass multiplies with; of the embedding it only looks up rows."""
    parts = {part.data_ptr(): part for part in (*model.parameters(), *model.buffers())}
    table = embedding.weight.data_ptr()
    shared = table in {part.data_ptr() for part in output.state_dict().values()}
    return sum(part.nbytes for place, part in parts.items() if place != table or shared)


def prefill_flops(config: ModelConfig, t: int) -> int:
    """Products with weights, scores and sums over t (t + 1) / 2 pairs, one row of logits."""
    p = parameters(config)
    pairs = config.n_layers * config.n_heads * config.head_dim * t * (t + 1) // 2
    return 2 * (p.attention + p.feed_forward) * t + 4 * pairs + 2 * config.vocab_size * config.dim
