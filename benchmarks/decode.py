"""Tokens per second at batch 1 next to transformers, and what the memory's speed would allow.

Every engine decodes the same tokens after the same prompt, in turn, in one process. The speeds are
medians on the wall; the ratios are taken round by round, so a busy machine bends them less.
"""

import importlib.util
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM, StaticCache

from llama_edu.config import ModelConfig
from llama_edu.formats.gguf import weights as gguf
from llama_edu.formats.names import translate
from llama_edu.formats.source import Source, Stored
from llama_edu.inference.decoding import DecodingLlama
from llama_edu.model import Llama

from ._rounds import Times, Work, bandwidth, interleaved, machine, ratios, spread, threads

# The shapes of llama2.c's tale tellers, and of a real small model.
COMMON = dict(vocab_size=32_000, norm_eps=1e-5, rope_theta=1e4, max_seq_len=4096,
              tied_embeddings=True)
MODELS = {
    "15M": ModelConfig(dim=288, n_layers=6, n_heads=6, n_kv_heads=6, hidden_dim=768, **COMMON),
    "110M": ModelConfig(dim=768, n_layers=12, n_heads=12, n_kv_heads=12, hidden_dim=2048,
                        **COMMON),
    # The shape of SmolLM2-135M: 30 layers, grouped heads, a large table.
    "135M": ModelConfig(dim=576, n_layers=30, n_heads=9, n_kv_heads=3, hidden_dim=1536,
                        **COMMON | {"vocab_size": 49_152, "rope_theta": 1e5})}
THREADS = 2
SHORT, LONG = 128, 2048             # tokens of context
NEW = {"15M": 16, "110M": 4, "135M": 4}        # tokens in a round
ROUNDS = 9
GOALS = {"15M": 1.6, "110M": 1.25, "135M": 1.3}  # times transformers
KEPT = 0.75                         # of the speed at SHORT, at LONG
DYNAMIC, STATIC = "transformers, dynamic cache", "transformers, static cache"
LLAMA_CPP = "llama.cpp, F32"
PLAIN, QUICK = "llama_edu, Llama", "llama_edu, DecodingLlama"
QUICK_LONG, READ, SPEED = f"{QUICK}, {LONG} tokens", "memory", "memory's speed"


def run() -> Iterator[str]:
    """The lines of the report."""
    with threads(THREADS):
        yield from machine()
        yield f"Missing: {', '.join(missing()) or 'none of the peers'}."
        for name, config in MODELS.items():
            yield ""
            yield from report(name, config, measure(config, new=NEW[name]))


def missing() -> list[str]:
    """Peers that are not here to be measured."""
    absent = [] if llama_cpp_is_here() else ["llama.cpp (llama-cpp-python)"]
    return [*absent, "llama2.c (a C program, not a package)"]


def llama_cpp_is_here() -> bool:
    return importlib.util.find_spec("llama_cpp") is not None


@torch.inference_mode()
def measure(config: ModelConfig, *, new: int) -> Times:
    """Seconds of every engine for `new` tokens, greedily; and the memory's speed in GB/s."""
    torch.manual_seed(0)
    model = Llama(config).eval().requires_grad_(False)
    quick, peer = DecodingLlama(model), transformers_model(model)
    prompt = torch.randint(config.vocab_size, (1, LONG))
    read, n_bytes = bandwidth()
    others = {LLAMA_CPP: by_llama_cpp(model, prompt[:, :SHORT], new)} if llama_cpp_is_here() else {}
    times = interleaved(others | {
        DYNAMIC: theirs(peer, prompt[:, :SHORT], new, lambda: DynamicCache(config=peer.config)),
        STATIC: theirs(peer, prompt[:, :SHORT], new, lambda: StaticCache(
            config=peer.config, max_cache_len=SHORT + (ROUNDS + 1) * new)),
        PLAIN: ours(model, prompt[:, :SHORT], new),
        QUICK: ours(quick, prompt[:, :SHORT], new),
        QUICK_LONG: ours(quick, prompt, new),
        READ: read,
    }, rounds=ROUNDS)
    return times | {SPEED: [n_bytes / seconds / 1e9 for seconds in times[READ]]}


def ours(model: Llama, prompt: torch.Tensor, new: int) -> Work:
    """Each call goes on from the last; every engine's text grows alike."""
    cache = model.new_cache(1, prompt.shape[1] + (ROUNDS + 1) * new)
    model.hidden(prompt, cache)
    token = prompt[:, -1:]

    def work() -> None:
        nonlocal token
        for _ in range(new):
            token = model.logits(model.hidden(token, cache)[:, -1]).argmax(-1, keepdim=True)

    return work


def theirs(model: LlamaForCausalLM, prompt: torch.Tensor, new: int, make_cache: Callable) -> Work:
    """The model's forward pass, without the bookkeeping of `generate`, which is slower still."""
    cache = make_cache()
    model(prompt, past_key_values=cache, logits_to_keep=1)
    token = prompt[:, -1:]

    def work() -> None:
        nonlocal token
        for _ in range(new):
            logits = model(token, past_key_values=cache, logits_to_keep=1).logits
            token = logits[:, -1].argmax(-1, keepdim=True)

    return work


def by_llama_cpp(model: Llama, prompt: torch.Tensor, new: int) -> Work:
    """llama.cpp with the same weights in float32, its forward pass alone."""
    import llama_cpp

    tensors = {name: Stored(tuple(w.shape), w.dtype, lambda w=w: w)
               for name, w in model.state_dict().items()}
    with TemporaryDirectory() as folder:
        gguf.write(Path(folder, "model.gguf"), Source(model.config, tensors, None, ()), kind="F32")
        peer = llama_cpp.Llama(str(Path(folder, "model.gguf")), n_threads=THREADS, verbose=False,
                               n_threads_batch=THREADS, n_ctx=SHORT + (ROUNDS + 1) * new,
                               use_mmap=False)
    peer.eval(prompt[0].tolist())

    def work() -> None:
        for _ in range(new):
            logits = llama_cpp.llama_get_logits(peer.ctx)
            peer.eval([int(np.ctypeslib.as_array(logits, (model.config.vocab_size,)).argmax())])

    return work


def transformers_model(model: Llama) -> LlamaForCausalLM:
    """The same weights in transformers' class, with its fused attention."""
    c = model.config
    peer = LlamaForCausalLM(LlamaConfig(
        vocab_size=c.vocab_size, hidden_size=c.dim, intermediate_size=c.hidden_dim,
        num_hidden_layers=c.n_layers, num_attention_heads=c.n_heads,
        num_key_value_heads=c.n_kv_heads, rms_norm_eps=c.norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": c.rope_theta},
        max_position_embeddings=c.max_seq_len, tie_word_embeddings=c.tied_embeddings,
        attn_implementation="sdpa")).eval().requires_grad_(False)
    weights = dict(translate(model.state_dict().items(), "meta", "huggingface",
                             head_dim=c.head_dim))
    weights.setdefault("lm_head.weight", weights["model.embed_tokens.weight"])
    peer.load_state_dict(weights, strict=True)
    return peer


def token_bytes(config: ModelConfig, context: int) -> int:
    """What one token reads: every matrix once, and the keys and values before it."""
    c = config
    block = (2 * c.n_heads + 2 * c.n_kv_heads) * c.head_dim * c.dim + 3 * c.dim * c.hidden_dim
    memory = 2 * c.n_layers * c.n_kv_heads * c.head_dim * context
    return 4 * (c.n_layers * block + c.vocab_size * c.dim + memory)


def report(name: str, config: ModelConfig, times: Times) -> Iterator[str]:
    new = NEW[name]
    best = min((DYNAMIC, STATIC), key=lambda peer: statistics.median(times[peer]))
    speed = times[SPEED]
    yield f"### {name}, {SHORT} tokens of context unless said"
    yield ""
    yield f"| | tokens/s | times {best} (least to most) | share of the memory's speed |"
    yield "|---|--:|--:|--:|"
    for engine in (name for name in (DYNAMIC, STATIC, PLAIN, QUICK, LLAMA_CPP, QUICK_LONG)
                   if name in times):
        needed = token_bytes(config, LONG if engine == QUICK_LONG else SHORT) * new / 1e9
        share = statistics.median(needed / seconds / fast for seconds, fast in
                                  zip(times[engine], speed, strict=True))
        tokens = new / statistics.median(times[engine])
        against = "" if engine == QUICK_LONG else spread(ratios(times, engine, best))
        yield f"| {engine} | {tokens:.1f} | {against} | {share:.0%} |"
    gain = statistics.median(ratios(times, QUICK, best))
    kept = statistics.median(ratios(times, QUICK_LONG, QUICK))
    bound = token_bytes(config, SHORT) / token_bytes(config, LONG)
    yield ""
    yield (f"The memory was read at {statistics.median(speed):.1f} GB/s. Goal {GOALS[name]} times: "
           f"{'met' if gain >= GOALS[name] else 'not met'}. Speed kept at {LONG} tokens: "
           f"{spread(ratios(times, QUICK_LONG, QUICK))}, goal {KEPT}: "
           f"{'met' if kept >= KEPT else 'not met'}; reading alone would keep {bound:.2f}.")
