"""Facts about shapes and blocks: read off the configs, or tried out on a model of a few numbers."""

from dataclasses import fields

import torch

from ...config import ModelConfig
from ...family.accounting import parameters, shard_bytes
from ...family.releases import RELEASES, release
from ...layers import causal_mask, rope_frequencies, rope_table, rotate
from ...model import Block, Llama, Pass
from ...training_loop import initialise

SMALL = ModelConfig(dim=16, n_layers=2, n_heads=4, n_kv_heads=2, hidden_dim=32, vocab_size=20,
                    norm_eps=1e-5, rope_theta=1e4, max_seq_len=16)
# Bytes of each file of the bfloat16 checkpoint: llama-models 0.3.0, sku_list.py.
LISTED_BYTES = {"llama-3.1-405b": 101_470_976_045}


def ids_of(family: str) -> list[str]:
    """The releases of a family, the withheld one too."""
    return [r.id for r in RELEASES if r.family == family]


def withheld(family: str) -> list[str]:
    """The models of a family that were trained and never released."""
    return [r.id for r in RELEASES if r.family == family and r.released is None]


def months_of(family: str) -> list[str]:
    """The months in which something of a family was released, each once."""
    return sorted({f"{r.released:%Y-%m}" for r in RELEASES if r.family == family and r.released})


def billions(id: str) -> float:
    """Parameters of a text model, in 10**9."""
    return parameters(release(id).config).total / 1e9


def with_grouped_heads(family: str) -> list[str]:
    """The models of a family whose query heads share key/value heads."""
    return [r.id for r in RELEASES
            if r.family == family and r.config.n_kv_heads < r.config.n_heads]


def changed_settings(old: str, new: str) -> list[str]:
    """The names of the settings in which two releases differ."""
    a, b = release(old).config, release(new).config
    return [f.name for f in fields(ModelConfig) if getattr(a, f.name) != getattr(b, f.name)]


def size_against_plain_layer(id: str) -> float:
    """Parameters of the feed-forward layer, relative to two matrices that are 4 * dim wide."""
    c = release(id).config
    return parameters(c).feed_forward / (c.n_layers * 2 * 4 * c.dim * c.dim)


def bytes_beyond_dense(id: str) -> int:
    """Bytes of a published file beyond the weights of a dense model of this shape."""
    r = release(id)
    return LISTED_BYTES[id] - shard_bytes(r.config, shards=r.shards, bits=16)


def matrices_by_file_size(id: str) -> float:
    """How many matrices of dim times hidden_dim a layer has, by the size of a published file."""
    r, c, p = release(id), release(id).config, parameters(release(id).config)
    cut = (LISTED_BYTES[id] // 2 - p.norms) * r.shards      # the matrices of all files together
    rest = p.embedding + p.output + p.attention
    return (cut - rest) / (c.n_layers * c.dim * c.hidden_dim)


def share_of_hidden_scores(tokens: int) -> float:
    """The part of all scores that a causal mask hides: they need not be computed."""
    return (~causal_mask(tokens, tokens)).float().mean().item()


@torch.no_grad()
def change_of_the_past() -> float:
    """How far the logits of earlier tokens move when the last token is another one."""
    model = Llama(SMALL)
    initialise(model, std=0.5, generator=torch.Generator().manual_seed(0))
    first, second = torch.arange(8)[None], torch.arange(8)[None].clone()
    second[0, -1] = 19
    return (model(first)[:, :-1] - model(second)[:, :-1]).abs().max().item()


@torch.no_grad()
def distance_from_written_block() -> float:
    """How far a block is from: norm, attention, add; norm, feed-forward, add."""
    block = Block(SMALL, 0)
    random = torch.Generator().manual_seed(0)
    initialise(block, std=0.5, generator=random)
    x = torch.randn(1, 6, SMALL.dim, generator=random)
    freqs = rope_frequencies(SMALL.head_dim, SMALL.rope_theta)
    now = Pass(rope_table(freqs, torch.arange(6)[None, None]), causal_mask(6, 6)[None, None], None)
    middle = x + block.attention(block.attention_norm(x), now.rope, now.mask)
    written = middle + block.feed_forward(block.ffn_norm(middle))
    return (block(x, now) - written).abs().max().item()


def turned_by(positions: int) -> list[float]:
    """Radians that RoPE's fastest pair has turned at each of the first positions."""
    freqs = rope_frequencies(2, 1e4)
    cos, sin = rope_table(freqs, torch.arange(positions))
    pair = rotate(torch.tensor([1.0, 0.0]).expand(1, 1, positions, 2), cos, sin)[0, 0]
    return torch.atan2(pair[:, 1], pair[:, 0]).tolist()
