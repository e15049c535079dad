"""What a model costs, computed from its config: parameters, memory, arithmetic, time, energy.

No torch. Bytes are bytes; GiB is 2**30 of them. An operation (FLOP) is one multiplication or one
addition, so a product of two matrices costs two for every weight that a token meets.
"""

from dataclasses import dataclass

from ..config import ModelConfig

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

    >>> from llama_edu.family.releases import release
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


# -- memory ------------------------------------------------------------------------------------

def weight_bytes(config: ModelConfig, *, bits: float) -> int:
    """Bytes of all weights stored with this many bits each.

    bits: with the scales of a quantiser it is no whole number; GGUF's Q8_0 has 8.5, its Q4_0 4.5.
    """
    return int(parameters(config).total * bits / 8)


def shard_bytes(config: ModelConfig, *, shards: int, bits: int) -> int:
    """Bytes of the weights in one of several `consolidated.NN.pth`.

    Every matrix is cut evenly and every norm is in each file. Where there are more files than key
    heads, the key and value heads are repeated until each file has one. Both tables are counted: a
    tied model has less, as its one table lies in a file once, under two names.

    >>> from llama_edu.family.releases import release
    >>> shard_bytes(release("llama-3.1-405b").config, shards=8, bits=16)
    101470601216
    """
    c, p = config, parameters(config)
    keys_and_values = c.n_layers * 2 * c.dim * c.n_kv_heads * c.head_dim
    repeats = max(1, shards // c.n_kv_heads)
    cut = (2 * c.vocab_size * c.dim + p.attention + (repeats - 1) * keys_and_values
           + p.feed_forward)
    return (cut // shards + p.norms) * bits // 8


def kv_bytes_per_token(config: ModelConfig, *, bits: int) -> int:
    """Bytes that one more token adds to the cache: a key and a value in every layer."""
    return 2 * config.n_layers * config.n_kv_heads * config.head_dim * bits // 8


def kv_bytes(config: ModelConfig, *, tokens: int, batch: int, bits: int) -> int:
    """Bytes of a full cache."""
    return batch * tokens * kv_bytes_per_token(config, bits=bits)


# -- arithmetic --------------------------------------------------------------------------------

def forward_flops(config: ModelConfig, *, tokens: int, before: int = 0) -> int:
    """Operations of the matrix products of one pass over `tokens` new tokens of one text.

    before: tokens that lie in the cache already. A token meets every weight but the embedding's
    rows, and each key and value that it may see. Logits are counted for all of the tokens.
    """
    c, p = config, parameters(config)
    weights = p.attention + p.feed_forward + c.vocab_size * c.dim
    seen = tokens * before + tokens * (tokens + 1) // 2
    return 2 * tokens * weights + 4 * c.n_layers * c.n_heads * c.head_dim * seen


def exact_training_flops(config: ModelConfig, *, tokens: float, context: int) -> float:
    """Training on texts of `context` tokens: forward once, and backward twice as much."""
    return 3.0 * forward_flops(config, tokens=context) * tokens / context


def training_flops(parameters: int, tokens: float) -> float:
    """The rule of thumb: 6 operations per parameter and token (Kaplan et al. 2020, section 2.1)."""
    return 6.0 * parameters * tokens


# -- time and energy ---------------------------------------------------------------------------

def days(gpu_hours: float, *, gpus: int) -> float:
    """Days on the wall for so many GPU hours on so many GPUs at once."""
    return gpu_hours / gpus / 24


def gpu_hours(days: float, *, gpus: int) -> float:
    """GPU hours of so many GPUs for so many days."""
    return days * 24 * gpus


def tflops_per_gpu(flops: float, *, gpu_hours: float) -> float:
    """The rate that each GPU must have kept up, in 10**12 operations per second."""
    return flops / (gpu_hours * 3600) / 1e12


def mfu(flops: float, *, gpu_hours: float, peak_tflops: float) -> float:
    """Model FLOPs utilisation: that rate as a share of the card's peak (Chowdhery et al. 2022)."""
    return tflops_per_gpu(flops, gpu_hours=gpu_hours) / peak_tflops


def tokens_per_second(config: ModelConfig, *, gb_per_second: float, bits: float,
                      context: int = 0) -> float:
    """The most that one text can be decoded at: each token reads all weights and the cache once.

    The cache is in 16 bits. One row of the embedding is read, not the table.
    """
    p = parameters(config)
    table = 0 if config.tied_embeddings else p.embedding
    read = (p.total - table) * bits / 8 + kv_bytes(config, tokens=context, batch=1, bits=16)
    return gb_per_second * 1e9 / read


def pass_seconds(config: ModelConfig, *, batch: int, before: int, bits: float, cache_bits: int,
                 gb_per_second: float, tflops: float, new: int = 1) -> tuple[float, float]:
    """The least seconds for reading, and for arithmetic, of a pass over `new` tokens of each text.

    before: tokens of each text that lie in its cache. Weights are read once for all texts, of the
    embedding one row. Both go on at once, so the slower one decides (Williams et al. 2009).
    """
    p = parameters(config)
    table = 0 if config.tied_embeddings else p.embedding
    read = ((p.total - table) * bits / 8
            + kv_bytes(config, tokens=before, batch=batch, bits=cache_bits))
    computed = batch * forward_flops(config, tokens=new, before=before)
    return read / gb_per_second / 1e9, computed / tflops / 1e12


def tonnes_co2(gpu_hours: float, *, watts: float, pue: float = 1.1,
               kg_per_kwh: float = 0.385) -> float:
    """Tonnes of CO2 by the formula of the Llama papers (Touvron et al. 2023a, section 6).

    pue: data-centre power per GPU power; both factors are the ones that the papers use.
    """
    return gpu_hours * watts / 1000 * pue * kg_per_kwh / 1000
