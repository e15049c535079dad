"""transformers on the same device, as fast as its own settings make it."""

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig

from llama_edu.config import ModelConfig

from ._rounds import Work


def peer(config: ModelConfig, *, dtype: torch.dtype, device: torch.device) -> torch.nn.Module:
    """A Llama of the same shape with random weights, made on the device; attention is fused."""
    rope: dict[str, object] = {"rope_type": "default", "rope_theta": config.rope_theta}
    if (stretch := config.rope_scaling) is not None:
        rope |= {"rope_type": "llama3", "factor": stretch.factor,
                 "low_freq_factor": stretch.low_freq_factor,
                 "high_freq_factor": stretch.high_freq_factor,
                 "original_max_position_embeddings": stretch.original_context}
    shape = LlamaConfig(
        vocab_size=config.vocab_size, hidden_size=config.dim,
        intermediate_size=config.hidden_dim, num_hidden_layers=config.n_layers,
        num_attention_heads=config.n_heads, num_key_value_heads=config.n_kv_heads,
        rms_norm_eps=config.norm_eps, rope_parameters=rope,
        max_position_embeddings=config.max_seq_len, tie_word_embeddings=config.tied_embeddings,
        bos_token_id=None, eos_token_id=None, pad_token_id=0)
    with device:
        model = AutoModelForCausalLM.from_config(shape, dtype=dtype, attn_implementation="sdpa")
    return model.eval().requires_grad_(False)


def says(model: torch.nn.Module, text: Tensor, new: int) -> Work:
    """`generate` with a static cache, which it compiles by itself on a GPU."""
    return lambda: model.generate(text, max_new_tokens=new, do_sample=False,
                                  cache_implementation="static")


def reads(model: torch.nn.Module, text: Tensor) -> Work:
    """One pass over a prompt, keys and values kept, logits of the last token only."""
    return lambda: model(text, use_cache=True, logits_to_keep=1)
