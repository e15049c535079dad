"""The shape of a Llama in the `config.json` of transformers, read and written."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from ..config import ModelConfig, RopeScaling, needed, none_left

# What these say changes nothing that a model computes: they are about names, numbers of tokens,
# training, dtype, kernels and the draw of tokens. Some are in old files, or of other tools.
HARMLESS = {
    "_attn_implementation", "_attn_implementation_autoset", "_flash_attn_2_enabled",
    "_name_or_path", "_pre_quantization_dtype", "architectures", "attention_dropout",
    "attn_implementation", "bad_words_ids", "begin_suppress_tokens", "bos_token_id",
    "chunk_size_feed_forward", "decoder_start_token_id", "diversity_penalty", "do_sample", "dtype",
    "early_stopping", "encoder_no_repeat_ngram_size", "eos_token_id",
    "exponential_decay_length_penalty", "finetuning_task", "forced_bos_token_id",
    "forced_eos_token_id", "gradient_checkpointing", "id2label", "initializer_range", "is_decoder",
    "is_llama_config", "label2id", "length_penalty", "max_length", "max_new_tokens",
    "max_sequence_length", "min_length", "model_max_length", "no_repeat_ngram_size",
    "num_beam_groups", "num_beams", "num_labels", "num_return_sequences", "output_attentions",
    "output_hidden_states", "output_scores", "pad_token_id", "prefix", "pretraining_tp",
    "problem_type", "remove_invalid_values", "repetition_penalty", "return_dict",
    "return_dict_in_generate", "sep_token_id", "suppress_tokens", "task_specific_params",
    "temperature", "tf_legacy_loss", "tie_encoder_decoder", "tokenizer_class", "top_k", "top_p",
    "torch_dtype", "torchscript", "transformers.js_config", "transformers_version", "typical_p",
    "use_bfloat16", "use_cache",
}
QUANTISED = (None, "the weights are stored in that form, which this package cannot read; it reads "
                   "the unquantised model, or a GGUF file")
DECODER = (False, "a Llama is a decoder alone")
SEES_ALL = "in every layer of a Llama a token sees all before it"
MUST_BE = {     # field: the only value that is read, and why there is no other
    "model_type": ("llama", "a Llama has 'llama', and no other model runs here"),
    "hidden_act": ("silu", "a Llama's feed-forward layers have 'silu'"),
    "attention_bias": (False, "the attention of a Llama adds no biases"),
    "mlp_bias": (False, "the feed-forward layers of a Llama add no biases"),
    "rope_interleaved": (False, "in a Llama's files a pair of features is half a head apart"),
    "partial_rotary_factor": (1.0, "a Llama's RoPE turns all features of a head"),
    "layer_types": ("full_attention", SEES_ALL), "sliding_window": (None, SEES_ALL),
    "use_sliding_window": (False, SEES_ALL), "is_encoder_decoder": DECODER,
    "add_cross_attention": DECODER, "pruned_heads": ({}, "a Llama's layers are all of one shape"),
    "auto_map": (None, "the model brings code of its own, which is not run here"),
    "quantization_config": QUANTISED, "compression_config": QUANTISED, "quantization": QUANTISED,
}


def from_huggingface(fields: Mapping[str, Any]) -> ModelConfig:
    """The config in a `config.json` that `transformers` wrote, old style or new.

    Null means not given. Raises ValueError for a field that is missing, unknown, or would change
    the arithmetic.
    """
    fields = {name: value for name, value in fields.items()
              if not (value is None or name in HARMLESS or name.startswith("unsloth_"))}
    for name, (right, _) in MUST_BE.items():
        _check(name, fields.pop(name, right))
    theta, scaling = _huggingface_rope(fields)
    n_heads = needed(fields, "num_attention_heads")
    config = ModelConfig(
        dim=needed(fields, "hidden_size"), n_layers=needed(fields, "num_hidden_layers"),
        n_heads=n_heads, n_kv_heads=fields.pop("num_key_value_heads", n_heads),
        hidden_dim=needed(fields, "intermediate_size"), vocab_size=needed(fields, "vocab_size"),
        norm_eps=needed(fields, "rms_norm_eps"), rope_theta=theta, rope_scaling=scaling,
        max_seq_len=needed(fields, "max_position_embeddings"),
        tied_embeddings=fields.pop("tie_word_embeddings", False),
        own_head_dim=fields.pop("head_dim", None))
    none_left(fields)
    return config


def _check(name: str, given: Any) -> None:
    right, why = MUST_BE[name]
    if name == "layer_types" and type(given) is list:       # one for each layer
        given = next((kind for kind in given if kind != right), right)
    if given != right:
        if type(given) is dict and "quant_method" in given:
            name, given = f"{name}.quant_method", given["quant_method"]
        raise ValueError(f"config.json says {name} = {given!r:.80}; {why}. Take another, or run "
                         "this one with transformers.")


def _huggingface_rope(fields: dict[str, Any]) -> tuple[float, RopeScaling | None]:
    """Take theta and the stretch out of `fields`: in one table since transformers 5, before in two
    places. What a file says twice must agree: readers follow one or the other.
    """
    theta = fields.pop("rope_theta", None)
    tables = [fields.pop(name, None) for name in ("rope_scaling", "rope_parameters")]
    said = [_rope_table(table, theta) for table in tables if table] or [_rope_table({}, theta)]
    _agree("theta and stretch of RoPE", said[0], said[-1])
    return said[0]


def _rope_table(table: Any, theta: Any) -> tuple[float, RopeScaling | None]:
    """Theta and the stretch in one table; theta: what the file says outside of it."""
    if type(table) is not dict:
        raise ValueError(f"config.json says {table!r:.80} about RoPE; a table of its numbers is "
                         "needed. Copy the model's own config.json again.")
    where = "the rope table of config.json"
    table = {name: value for name, value in table.items() if value is not None}
    own = table.pop("rope_theta", theta)
    _agree("rope_theta", own if theta is None else theta, own)
    kind, scaling = table.pop("rope_type", table.get("type", "default")), None
    _agree("the rope type", kind, table.pop("type", kind))
    _check("partial_rotary_factor", table.pop("partial_rotary_factor", 1.0))
    if kind == "llama3":
        scaling = RopeScaling(
            needed(table, "factor", where),
            low_freq_factor=needed(table, "low_freq_factor", where),
            high_freq_factor=needed(table, "high_freq_factor", where),
            original_context=needed(table, "original_max_position_embeddings", where))
    elif kind == "default":
        table.pop("original_max_position_embeddings", None)     # stretches nothing by itself
        _agree("the factor of a 'default' RoPE", 1.0, table.pop("factor", 1.0))
    else:
        raise ValueError(f"config.json asks for rope type {kind!r:.40}; this package computes the "
                         "two of the Llamas, 'default' and 'llama3'. Run it with transformers.")
    none_left(table, where)
    return 10_000.0 if own is None else own, scaling    # Llama 1 and 2 name no theta


def _agree(what: str, one: Any, other: Any) -> None:
    if one != other:
        raise ValueError(f"config.json gives {what} as {one!r:.150} and as {other!r:.150}; only "
                         "one can be true. Take out what the model was not trained with.")


def config_fields(config: ModelConfig) -> dict[str, Any]:
    """What config.json says of this shape, in the spelling that old and new readers know."""
    scaling = None if config.rope_scaling is None else asdict(config.rope_scaling)
    if scaling is not None:
        scaling["original_max_position_embeddings"] = scaling.pop("original_context")
        scaling["rope_type"] = "llama3"
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama",
        "hidden_size": config.dim, "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads, "num_key_value_heads": config.n_kv_heads,
        "head_dim": config.head_dim, "intermediate_size": config.hidden_dim,
        "vocab_size": config.vocab_size, "max_position_embeddings": config.max_seq_len,
        "rms_norm_eps": config.norm_eps, "rope_theta": config.rope_theta, "rope_scaling": scaling,
        "tie_word_embeddings": config.tied_embeddings, "hidden_act": "silu",
        "attention_bias": False, "mlp_bias": False}
