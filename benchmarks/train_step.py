"""One training step (forward, backward, clip, AdamW) next to transformers and a plain loop.

All take the same tokens, float32, and AdamW in its fused kernel. The plain loop is the shortest
one that trains a Llama: fused attention told that it is causal, `cross_entropy`, no checks.
"""

import statistics
from collections.abc import Iterator
from itertools import repeat

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llama_edu.config import ModelConfig
from llama_edu.losses import next_token
from llama_edu.model import Llama
from llama_edu.training_loop import adamw, train

from ._rounds import Times, Work, interleaved, machine, ratios, spread, threads
from .decode import transformers_model

COMMON = dict(norm_eps=1e-5, rope_theta=1e4, max_seq_len=256, tied_embeddings=True)
MODELS = {
    "1M": ModelConfig(dim=128, n_layers=5, n_heads=4, n_kv_heads=4, hidden_dim=352,
                      vocab_size=512, **COMMON),
    "15M": ModelConfig(dim=288, n_layers=6, n_heads=6, n_kv_heads=6, hidden_dim=768,
                       vocab_size=32_000, **COMMON)}
SHAPES = {"1M": (8, 128), "15M": (2, 128)}      # texts, tokens learnt in each
THREADS, ROUNDS, LR = 2, 41, 1e-3
OURS, THEIRS, PLAIN, PEAK = "llama_edu", "transformers", "plain loop", "peak"
PEAK_SIZE = 1024                                # of the square matrices whose product is the peak


def run() -> Iterator[str]:
    """The lines of the report."""
    with threads(THREADS):
        yield from machine()
        for name, config in MODELS.items():
            yield ""
            yield from report(name, config, measure(config, *SHAPES[name]))


class PlainLlama(nn.Module):
    """The arithmetic of a Llama in the manner of nanoGPT: joined projections, nothing optional."""

    def __init__(self, c: ModelConfig, t: int):
        super().__init__()
        self.heads, self.eps = c.n_heads, c.norm_eps
        self.wte = nn.Embedding(c.vocab_size, c.dim)
        self.layers = nn.ModuleList(nn.ModuleDict(dict(
            qkv=nn.Linear(c.dim, 3 * c.dim, bias=False), proj=nn.Linear(c.dim, c.dim, bias=False),
            up=nn.Linear(c.dim, 2 * c.hidden_dim, bias=False),
            down=nn.Linear(c.hidden_dim, c.dim, bias=False),
            norm1=nn.RMSNorm(c.dim, c.norm_eps), norm2=nn.RMSNorm(c.dim, c.norm_eps)))
            for _ in range(c.n_layers))
        self.norm = nn.RMSNorm(c.dim, c.norm_eps)
        self.head = nn.Linear(c.dim, c.vocab_size, bias=False)
        self.head.weight = self.wte.weight
        freqs = 1 / c.rope_theta ** (torch.arange(0, c.head_dim, 2) / c.head_dim)
        angles = torch.arange(t)[:, None] * freqs
        self.register_buffer("turn", torch.polar(torch.ones_like(angles), angles))

    def rotate(self, x: Tensor) -> Tensor:
        pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)))
        return torch.view_as_real(pairs * self.turn).flatten(-2)

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        x = self.wte(tokens)
        b, t, c = x.shape
        for layer in self.layers:
            q, k, v = (part.view(b, t, self.heads, -1).transpose(1, 2)
                       for part in layer["qkv"](layer["norm1"](x)).split(c, -1))
            mixed = F.scaled_dot_product_attention(self.rotate(q), self.rotate(k), v,
                                                   is_causal=True)
            x = x + layer["proj"](mixed.transpose(1, 2).reshape(b, t, c))
            gate, up = layer["up"](layer["norm2"](x)).chunk(2, -1)
            x = x + layer["down"](F.silu(gate) * up)
        logits = self.head(self.norm(x))
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def measure(config: ModelConfig, b: int, t: int) -> Times:
    """Seconds of one step of each, and of one product of large matrices."""
    torch.manual_seed(0)
    text = torch.randint(config.vocab_size, (b, t + 1))
    model = Llama(config)
    peer = transformers_model(model).requires_grad_(True).train()
    plain = PlainLlama(config, t)
    steps = train(model, repeat({"tokens": text}), next_token, lr=lambda _: LR, steps=10**6)
    square = torch.randn(PEAK_SIZE, PEAK_SIZE)
    return interleaved({
        OURS: lambda: next(steps),
        THEIRS: loop(peer, lambda: F.cross_entropy(
            peer(text[:, :-1], use_cache=False).logits.flatten(0, 1), text[:, 1:].flatten())),
        PLAIN: loop(plain, lambda: plain(text[:, :-1], text[:, 1:])),
        PEAK: lambda: square @ square,
    }, rounds=ROUNDS)


def loop(model: nn.Module, loss: Work) -> Work:
    """One step as everybody writes it."""
    optimizer = adamw(model)
    for group in optimizer.param_groups:
        group["lr"] = LR

    def step() -> None:
        value = loss()
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        value.item()

    return step


def flops(config: ModelConfig, b: int, t: int) -> int:
    """Of the matrix products in one step: twice forward, four times backward, a weight and token;
    and attention, of which the half that is masked is not counted."""
    c = config
    weights = c.n_layers * (4 * c.dim**2 + 3 * c.dim * c.hidden_dim) + c.vocab_size * c.dim
    return 6 * b * t * weights + 6 * b * c.n_layers * c.dim * t**2


def report(name: str, config: ModelConfig, times: Times) -> Iterator[str]:
    b, t = SHAPES[name]
    peak = [2 * PEAK_SIZE**3 / seconds for seconds in times[PEAK]]
    fastest = min((THEIRS, PLAIN), key=lambda peer: statistics.median(times[peer]))
    yield f"### {name}, {b} texts of {t} tokens"
    yield ""
    yield f"| | ms a step | times {fastest} (least to most) | share of the peak |"
    yield "|---|--:|--:|--:|"
    for engine in (OURS, THEIRS, PLAIN):
        share = statistics.median(flops(config, b, t) / seconds / high for seconds, high in
                                  zip(times[engine], peak, strict=True))
        yield (f"| {engine} | {1e3 * statistics.median(times[engine]):.1f} | "
               f"{spread(ratios(times, engine, fastest))} | {share:.0%} |")
    gain = statistics.median(ratios(times, OURS, fastest))
    yield ""
    yield (f"Peak: {statistics.median(peak) / 1e9:.0f} GFLOP/s. At least as fast as the fastest: "
           f"{'met' if gain >= 1 else 'not met'}.")
