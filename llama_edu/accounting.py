"""What a model costs, computed from its config: parameters, memory, arithmetic, energy.

Whole numbers, no torch. Bytes are bytes; GiB is 2**30 of them.
"""

from dataclasses import dataclass

from .config import ModelConfig

GIB = 2**30


@dataclass(frozen=True)
class Parameters:
    """Where the parameters of a model sit. `total` counts a shared table once."""

    embedding: int          # the table that turns tokens into vectors
    attention: int          # wq wk wv wo of all layers
    feed_forward: int       # w1 w2 w3 of all layers
    norms: int              # two per layer, and the last one
    output: int             # 0 when the embedding is used again

    @property
    def total(self) -> int:
        return (self.embedding + self.attention + self.feed_forward + self.norms + self.output)

    @property
    def non_embedding(self) -> int:
        """Everything but the two tables of vocabulary size."""
        return self.total - self.embedding - self.output


def parameters(config: ModelConfig) -> Parameters:
    """Count every parameter of a text model.

    >>> from llama_edu.releases import release
    >>> parameters(release("llama-2-7b").config).total
    6738415616
    """
    c, n = config, config.n_layers
    table = c.vocab_size * c.dim
    queries_and_out = 2 * c.dim * c.n_heads * c.head_dim
    keys_and_values = 2 * c.dim * c.n_kv_heads * c.head_dim
    return Parameters(
        embedding=table,
        attention=n * (queries_and_out + keys_and_values),
        feed_forward=n * 3 * c.dim * c.hidden_dim,
        norms=(2 * n + 1) * c.dim,
        output=0 if c.tied_embeddings else table)


def weight_bytes(config: ModelConfig, *, bits: int) -> int:
    """Bytes of all weights stored with this many bits each, scales of a quantiser not counted."""
    return parameters(config).total * bits // 8


def kv_bytes_per_token(config: ModelConfig, *, bits: int) -> int:
    """Bytes that one more token adds to the cache: a key and a value in every layer."""
    return 2 * config.n_layers * config.n_kv_heads * config.head_dim * bits // 8


def kv_bytes(config: ModelConfig, *, tokens: int, batch: int, bits: int) -> int:
    """Bytes of a full cache."""
    return batch * tokens * kv_bytes_per_token(config, bits=bits)


def training_flops(parameters: int, tokens: float) -> float:
    """The rule of thumb: 6 operations per parameter and token (Kaplan et al. 2020, section 2.1)."""
    return 6.0 * parameters * tokens


def days(gpu_hours: float, *, gpus: int) -> float:
    """Days on the wall for so many GPU hours on so many GPUs at once."""
    return gpu_hours / gpus / 24


def tonnes_co2(gpu_hours: float, *, watts: float, pue: float = 1.1,
               kg_per_kwh: float = 0.385) -> float:
    """Tonnes of CO2 by the formula of the Llama papers (Touvron et al. 2023a, section 6).

    pue: data-centre power per GPU power; both factors are the ones that the papers use.
    """
    return gpu_hours * watts / 1000 * pue * kg_per_kwh / 1000
