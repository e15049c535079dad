"""Small random models, loud enough that a mistake shows, and the distance between two answers."""

import torch
from torch import Tensor

from llama_edu.alignment.reward import RewardModel
from llama_edu.cache import KVCache
from llama_edu.config import ModelConfig, RopeScaling
from llama_edu.model import Llama

TOLERANCE = 1e-4    # of the reference's scale: float32 sums taken in another order differ by 1e-6
STRETCH_8 = RopeScaling(8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_context=8192)
STRETCH_32 = RopeScaling(32.0, low_freq_factor=1.0, high_freq_factor=4.0, original_context=8192)


def tiny_config(**changes: object) -> ModelConfig:
    """4 query heads of 16 features share 2 key heads; two layers; 96 tokens in the vocabulary."""
    return ModelConfig(**dict(
        dim=64, n_layers=2, n_heads=4, n_kv_heads=2, hidden_dim=192, vocab_size=96, norm_eps=1e-5,
        rope_theta=5e5, max_seq_len=128) | changes)


def loud_model(config: ModelConfig, *, seed: int = 0) -> Llama:
    """Random weights under which every ingredient matters.

    Embeddings are so small that epsilon counts, queries and keys so large that a head looks at
    few tokens, and norms differ from feature to feature.
    """
    gen = torch.Generator().manual_seed(seed)
    model = Llama(config).eval().requires_grad_(False)
    for name, w in model.named_parameters():
        if w.ndim == 1:
            w.copy_(0.5 + 1.5 * torch.rand(w.shape, generator=gen))
        elif "tok_embeddings" in name:
            w.copy_(0.01 * torch.randn(w.shape, generator=gen))
        else:
            w.copy_(torch.randn(w.shape, generator=gen) / w.shape[1] ** 0.5)
    return model


def loud_reward(*, seed: int = 0, **changes: object) -> RewardModel:
    """A reward model whose scores are far apart."""
    model = RewardModel.of(loud_model(tiny_config(**changes), seed=seed))
    chance = torch.Generator().manual_seed(seed + 1)
    torch.nn.init.normal_(model.head.weight, std=0.3, generator=chance)
    return model.requires_grad_(False)


def some_tokens(config: ModelConfig, batch: int = 2, length: int = 64, *, seed: int = 1) -> Tensor:
    gen = torch.Generator().manual_seed(seed)
    return torch.randint(config.vocab_size, (batch, length), generator=gen)


def roomy_cache(model: Llama, batch: int, *, max_len: int | None = None) -> KVCache:
    return model.new_cache(batch, max_len or model.config.max_seq_len)


def distance(ours: Tensor, reference: Tensor) -> float:
    """The largest difference, in units of the reference's largest number."""
    assert ours.shape == reference.shape
    return ((ours - reference).abs().max() / reference.abs().max()).item()


def assert_same(ours: Tensor, reference: Tensor) -> None:
    far = distance(ours, reference)
    assert far < TOLERANCE, f"the logits differ by {far:.1e} of the reference's scale"


@torch.inference_mode()
def cached_logits(model: Llama, tokens: Tensor, *, first: int) -> Tensor:
    """The same answer by another road: `first` tokens in one pass, the others one by one."""
    cache = roomy_cache(model, len(tokens))
    passes = [tokens[:, :first], *tokens[:, first:].split(1, dim=1)]
    return torch.cat([model(part, cache) for part in passes], dim=1)
