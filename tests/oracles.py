"""The reference implementations: Meta's official class and transformers', with our weights."""

import inspect
from types import ModuleType, SimpleNamespace

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from llama_edu.config import ModelConfig
from llama_edu.formats.names import translate
from llama_edu.model import Llama


def with_output(model: Llama) -> dict[str, Tensor]:
    """Its weights as classes name them that have an output of their own, tied or not."""
    weights = model.state_dict()
    return {"output.weight": weights["tok_embeddings.weight"]} | weights


def meta_twin(meta: SimpleNamespace, model: Llama, *, max_seq_len: int, batch: int = 2
              ) -> nn.Module:
    """Meta's Transformer with our weights, loaded strictly and without renaming."""
    c = model.config
    args = meta.ModelArgs(
        dim=c.dim, n_layers=c.n_layers, n_heads=c.n_heads, n_kv_heads=c.n_kv_heads,
        vocab_size=c.vocab_size, multiple_of=c.hidden_dim, ffn_dim_multiplier=None,
        norm_eps=c.norm_eps, rope_theta=c.rope_theta, use_scaled_rope=c.rope_scaling is not None,
        max_batch_size=batch, max_seq_len=max_seq_len)
    twin = meta.Transformer(args).eval()
    twin.load_state_dict(with_output(model), strict=True)
    return twin


def stretch_by_32(module: ModuleType, monkeypatch) -> None:
    """Change the one number that Meta's code hard-codes, and nothing else of its rule.

    The 1B and 3B of Llama 3.2 were trained with 32; Meta's public code says 8 for all.
    """
    source = inspect.getsource(module.apply_scaling)
    assert source.count("scale_factor = 8\n") == 1
    scope = dict(vars(module))
    exec(source.replace("scale_factor = 8\n", "scale_factor = 32\n"), scope)
    monkeypatch.setattr(module, "apply_scaling", scope["apply_scaling"])


def huggingface_config(c: ModelConfig) -> LlamaConfig:
    rope: dict[str, object] = {"rope_type": "default", "rope_theta": c.rope_theta}
    if c.rope_scaling is not None:
        rope |= {"rope_type": "llama3", "factor": c.rope_scaling.factor,
                 "low_freq_factor": c.rope_scaling.low_freq_factor,
                 "high_freq_factor": c.rope_scaling.high_freq_factor,
                 "original_max_position_embeddings": c.rope_scaling.original_context}
    return LlamaConfig(
        vocab_size=c.vocab_size, hidden_size=c.dim, intermediate_size=c.hidden_dim,
        num_hidden_layers=c.n_layers, num_attention_heads=c.n_heads,
        num_key_value_heads=c.n_kv_heads, rms_norm_eps=c.norm_eps, rope_parameters=rope,
        max_position_embeddings=c.max_seq_len, tie_word_embeddings=c.tied_embeddings,
        bos_token_id=1, eos_token_id=2, attn_implementation="eager")


def huggingface_twin(model: Llama) -> LlamaForCausalLM:
    """transformers' LlamaForCausalLM with our weights, renamed and with q and k rows reordered."""
    twin = LlamaForCausalLM(huggingface_config(model.config)).eval().requires_grad_(False)
    twin.load_state_dict(dict(translate(with_output(model).items(), "meta", "huggingface",
                                        head_dim=model.config.head_dim)), strict=True)
    return twin


@torch.inference_mode()
def huggingface_logits(twin: LlamaForCausalLM, tokens: Tensor, positions: Tensor | None = None
                       ) -> Tensor:
    if positions is not None:
        positions = positions.expand(tokens.shape)
    return twin(tokens, position_ids=positions).logits
