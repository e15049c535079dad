"""Decoding in 8 bits on a CPU next to llama.cpp: a Llama in the shape of 3.2 1B, random weights.

Both engines read the same weights, rounded each in its own way, and go on from the same prompt, in
turn, in one process. It needs 4 GB of memory and, for a while, 1.3 GB of disk.
"""

import importlib.util
import math
import statistics
import tempfile
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from llama_edu.compress.quant import int8_on_cpu
from llama_edu.compress.surgery import replace_linears
from llama_edu.config import ModelConfig
from llama_edu.family.accounting import kv_bytes, parameters
from llama_edu.family.releases import release
from llama_edu.formats.gguf import weights as gguf
from llama_edu.formats.source import Source, Stored
from llama_edu.inference.decoding import DecodingBlock, DecodingLlama, one_linear
from llama_edu.model import Block, Llama

from ._rounds import Times, Work, bandwidth, interleaved, machine, ratios, spread, threads

CONFIG = release("llama-3.2-1b").config
THREADS = 2
SHORT = 128         # tokens of context
NEW = 4             # tokens in a round
ROUNDS = 15
GOAL = 1.0          # times llama.cpp
ALIKE = 0.99        # correlation of the two engines' logits, at least
OURS, PEER = "llama_edu, int8_on_cpu", "llama.cpp, q8_0"
READ, SPEED = "memory", "memory's speed"
BITS = {OURS: 8, PEER: 8.5}     # a weight: a block of 32 has a scale of 16 bits in q8_0


def run() -> Iterator[str]:
    """The lines of the report."""
    if importlib.util.find_spec("llama_cpp") is None:
        yield "llama.cpp is not here (`make bench` builds it): nothing was measured."
        return
    with threads(THREADS):
        yield from machine()
        yield ""
        times, alike = measure(CONFIG)
        yield from report(CONFIG, times, alike)


@torch.inference_mode()
def measure(config: ModelConfig) -> tuple[Times, float]:
    """Seconds of both engines for NEW tokens, and how alike their logits were at the start."""
    source = random_source(config)
    prompt = torch.randint(config.vocab_size, (SHORT,), generator=torch.Generator().manual_seed(0))
    with tempfile.TemporaryDirectory() as folder:
        gguf.write(Path(folder) / "model.gguf", source, kind="Q8_0")
        theirs = Theirs(Path(folder) / "model.gguf", prompt)
    ours = Ours(rounded(source), prompt)
    alike = np.corrcoef(ours.logits.numpy(), theirs.logits)[0, 1]
    read, n_bytes = bandwidth()
    times = interleaved({OURS: go_on(ours), PEER: go_on(theirs), READ: read}, rounds=ROUNDS)
    return times | {SPEED: [n_bytes / seconds / 1e9 for seconds in times[READ]]}, float(alike)


def random_source(config: ModelConfig) -> Source:
    """A model that no memory holds: a tensor is drawn whenever it is read, always the same."""
    with torch.device("meta"):
        model = Llama(config)
    return Source(config, {name: Stored(tuple(p.shape), torch.float32, partial(draw, name, p.shape))
                           for name, p in model.named_parameters()}, tokenizer=None, stop_ids=())


def draw(name: str, shape: torch.Size) -> Tensor:
    """Ones for a norm; for a matrix, numbers under which a stream keeps its size."""
    if len(shape) == 1:
        return torch.ones(shape)
    gen = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    return torch.randn(shape, generator=gen) / math.sqrt(shape[1])


def rounded(source: Source) -> DecodingLlama:
    """The model in 8 bits, made block by block: the whole is never there in 32."""
    with torch.device("meta"):
        model = DecodingLlama(Llama(source.config), join=one_linear)
    for i in range(source.config.n_layers):
        block = filled(partial(Block, source.config, i), source, f"layers.{i}.")
        model.layers[i] = DecodingBlock(block, one_linear)
        replace_linears(model.layers[i], ".*", int8_on_cpu)
    table = source.tensors["tok_embeddings.weight"].read()
    model.tok_embeddings.weight = nn.Parameter(table, requires_grad=False)
    model.norm.weight = nn.Parameter(source.tensors["norm.weight"].read(), requires_grad=False)
    last = source.tensors.get("output.weight", source.tensors["tok_embeddings.weight"])
    model.output.weight = nn.Parameter(last.read(), requires_grad=False)
    replace_linears(model, "output", int8_on_cpu)
    return model


def filled(make: partial, source: Source, prefix: str) -> Block:
    with torch.device("meta"):
        block = make()
    block.load_state_dict({name: source.tensors[prefix + name].read()
                           for name, _ in block.named_parameters()}, assign=True)
    return block


class Ours:
    """A text that grows by one token a call."""

    def __init__(self, model: DecodingLlama, prompt: Tensor):
        self.model = model
        self.cache = model.new_cache(1, room())
        self.read(prompt[None])

    def read(self, tokens: Tensor) -> None:
        self.logits = self.model.logits(self.model.hidden(tokens, self.cache)[:, -1])[0]

    def one_more(self) -> None:
        self.read(self.logits.argmax(-1, keepdim=True)[None])


class Theirs:
    """The same by llama.cpp's own functions, without what its Python class adds."""

    def __init__(self, file: Path, prompt: Tensor):
        import llama_cpp

        self.cpp = llama_cpp
        self.whole = llama_cpp.Llama(str(file), n_ctx=room(), n_threads=THREADS, use_mmap=False,
                                     n_threads_batch=THREADS, verbose=False)
        self.read(prompt.tolist())

    def read(self, tokens: list[int]) -> None:
        kept = (self.cpp.llama_token * len(tokens))(*tokens)    # the batch only points to it
        batch = self.cpp.llama_batch_get_one(kept, len(tokens))
        if failed := self.cpp.llama_decode(self.whole.ctx, batch):
            raise RuntimeError(f"llama_decode returned {failed}; 0 is needed")
        self.logits = np.ctypeslib.as_array(self.cpp.llama_get_logits_ith(self.whole.ctx, -1),
                                            (self.whole.n_vocab(),))

    def one_more(self) -> None:
        self.read([int(self.logits.argmax())])


def room() -> int:
    return SHORT + (ROUNDS + 1) * NEW


def go_on(engine: Ours | Theirs) -> Work:
    def work() -> None:
        for _ in range(NEW):
            engine.one_more()

    return work


def token_bytes(config: ModelConfig, *, bits: float) -> float:
    """What one token reads: every matrix once, one table, and keys and values before it."""
    p = parameters(config)
    table = config.vocab_size * config.dim
    return ((p.attention + p.feed_forward + table) * bits / 8
            + kv_bytes(config, tokens=SHORT, batch=1, bits=32))


def report(config: ModelConfig, times: Times, alike: float) -> Iterator[str]:
    yield f"| | tokens/s | times {PEER} (least to most) | share of the memory's speed |"
    yield "|---|--:|--:|--:|"
    for engine in (OURS, PEER):
        needed = token_bytes(config, bits=BITS[engine]) * NEW / 1e9
        share = statistics.median(needed / seconds / fast for seconds, fast in
                                  zip(times[engine], times[SPEED], strict=True))
        tokens = NEW / statistics.median(times[engine])
        yield f"| {engine} | {tokens:.1f} | {spread(ratios(times, engine, PEER))} | {share:.0%} |"
    gain = statistics.median(ratios(times, OURS, PEER))
    yield ""
    yield (f"The memory was read at {statistics.median(times[SPEED]):.1f} GB/s. Logits correlate: "
           f"{alike:.4f}, {ALIKE} needed: {'met' if alike >= ALIKE else 'not met'}. Goal {GOAL} "
           f"times llama.cpp: {'met' if gain >= GOAL else 'not met'}.")
