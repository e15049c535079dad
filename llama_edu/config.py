"""The shape of a Llama, as data.

One frozen dataclass tells one text model of the family from another. Nothing here imports
torch, so shapes can be studied on any machine. Sources of the rules: Meta's `params.json` and
model code, and the `config.json` that `transformers` writes.
"""

import difflib
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

LARGEST = 2**31 - 1     # of any size in a config; what is absurd but smaller, the files disprove


def _whole_number(name: str, value: Any) -> None:
    if type(value) is not int or value < 1:
        raise ValueError(f"{name} is {value!r}; a whole number of 1 or more is needed. "
                         "Look it up in llama_edu.family.releases.")
    if value > LARGEST:
        raise ValueError(f"{name} is {value!r:.40}; no Llama has more than {LARGEST:,}. "
                         "Look it up in llama_edu.family.releases, and do not trust the file.")


def _positive(name: str, value: Any) -> None:
    if type(value) not in (int, float) or not 0 < value < math.inf:
        raise ValueError(f"{name} is {value!r}; a positive number is needed. "
                         "Look it up in llama_edu.family.releases.")


@dataclass(frozen=True)
class RopeScaling:
    """How Llama 3.1 stretches slow rotations so that 8k positions reach 128k.

    Waves longer than `original_context / low_freq_factor` positions are slowed by `factor`;
    waves shorter than `original_context / high_freq_factor` are left alone; in between, blend.
    """

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_context: int       # tokens

    def __post_init__(self) -> None:
        for name in ("factor", "low_freq_factor", "high_freq_factor"):
            _positive(name, getattr(self, name))
        if self.factor < 1:
            raise ValueError(f"RoPE scaling factor {self.factor} would speed rotations up; "
                             "it must be 1 or more. The published ones are 8 and 32.")
        if not self.low_freq_factor < self.high_freq_factor:
            raise ValueError(
                f"low_freq_factor {self.low_freq_factor} and high_freq_factor "
                f"{self.high_freq_factor} leave no band to blend; 0 < low < high is needed. "
                "Llama 3.1 uses 1 and 4; perhaps they are swapped.")
        _whole_number("original_context", self.original_context)


LLAMA_3_1_SCALING = RopeScaling(8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                                original_context=8192)


@dataclass(frozen=True)
class ModelConfig:
    """Everything that tells one text-only Llama from another."""

    dim: int                    # width of the residual stream
    n_layers: int
    n_heads: int                # query heads
    n_kv_heads: int             # key/value heads; equal to n_heads before grouped-query attention
    hidden_dim: int             # width inside the feed-forward layer
    vocab_size: int
    norm_eps: float
    rope_theta: float
    max_seq_len: int            # context, in tokens
    rope_scaling: RopeScaling | None = None
    tied_embeddings: bool = False
    own_head_dim: int | None = None     # features of one head, where they are not dim / n_heads

    def __post_init__(self) -> None:
        for name in ("dim", "n_layers", "n_heads", "n_kv_heads", "hidden_dim", "vocab_size",
                     "max_seq_len"):
            _whole_number(name, getattr(self, name))
        for name in ("norm_eps", "rope_theta"):
            _positive(name, getattr(self, name))
        if type(self.tied_embeddings) is not bool:
            raise ValueError(f"tied_embeddings is {self.tied_embeddings!r}; True or False is "
                             "needed. Look it up in llama_edu.family.releases.")
        if self.own_head_dim is not None:
            _whole_number("own_head_dim", self.own_head_dim)
            if self.own_head_dim * self.n_heads == self.dim:    # one way to say one thing
                object.__setattr__(self, "own_head_dim", None)
        elif self.dim % self.n_heads:
            raise ValueError(f"dim {self.dim} does not split into {self.n_heads} heads; "
                             "it must be a multiple. Change dim or n_heads, or say how many "
                             "features a head has: own_head_dim.")
        if self.n_heads % self.n_kv_heads:
            raise ValueError(
                f"{self.n_heads} query heads cannot share {self.n_kv_heads} key/value heads "
                "evenly; n_heads must be a multiple of n_kv_heads. Change one of them.")
        if self.head_dim % 2:
            raise ValueError(f"head_dim is {self.head_dim}, an odd number; RoPE turns pairs of "
                             "features. Change dim, n_heads or own_head_dim.")

    @property
    def head_dim(self) -> int:
        """Features of one head: dim / n_heads, unless the model has its own."""
        return self.own_head_dim or self.dim // self.n_heads


def tensor_shapes(c: ModelConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and shape of every tensor of a model, one after another, as Meta's files have them.
    A tied model's output is the embedding under a second name.
    """
    heads, kv = c.n_heads * c.head_dim, (c.n_kv_heads * c.head_dim, c.dim)
    wide, narrow = (c.hidden_dim, c.dim), (c.dim, c.hidden_dim)
    block = {"attention_norm": (c.dim,), "attention.wq": (heads, c.dim), "attention.wk": kv,
             "attention.wv": kv, "attention.wo": (c.dim, heads), "ffn_norm": (c.dim,),
             "feed_forward.w1": wide, "feed_forward.w2": narrow, "feed_forward.w3": wide}
    yield "tok_embeddings.weight", (c.vocab_size, c.dim)
    for i in range(c.n_layers):
        yield from ((f"layers.{i}.{name}.weight", shape) for name, shape in block.items())
    yield "norm.weight", (c.dim,)
    yield "output.weight", (c.vocab_size, c.dim)


def swiglu_width(dim: int, *, multiple_of: int, multiplier: float = 1.0) -> int:
    """The feed-forward width that Meta derives from `params.json`.

    Three matrices replace the classic two, so 4 * dim shrinks to 2/3 of itself; the result is
    scaled by `multiplier` and rounded up to `multiple_of` for the hardware's sake.

    >>> swiglu_width(4096, multiple_of=256), swiglu_width(4096, multiple_of=1024, multiplier=1.3)
    (11008, 14336)
    """
    width = int(multiplier * int(2 * 4 * dim / 3))
    return multiple_of * ((width + multiple_of - 1) // multiple_of)


def from_meta(params: Mapping[str, Any], *, vocab_size: int, max_seq_len: int) -> ModelConfig:
    """The config in Meta's `params.json`.

    vocab_size and max_seq_len come from the caller: Llama 1 and 2 write -1 for the first, and
    no file of Meta's states the second. `use_scaled_rope` means factor 8, as in Meta's own code;
    the 3.2 models of 1B and 3B were trained with 32, which only `llama_edu.family.releases` knows.
    """
    params, file = dict(params), "params.json"
    given_vocab, scaled = params.pop("vocab_size", -1), params.pop("use_scaled_rope", False)
    dim, n_heads = needed(params, "dim", file), needed(params, "n_heads", file)
    kv_heads, multiplier = params.pop("n_kv_heads", None), params.pop("ffn_dim_multiplier", None)
    multiple_of = needed(params, "multiple_of", file)
    for name, value in (("dim", dim), ("multiple_of", multiple_of)):
        _whole_number(name, value)
    config = ModelConfig(
        dim=dim, n_layers=needed(params, "n_layers", file), n_heads=n_heads,
        n_kv_heads=n_heads if kv_heads is None else kv_heads,
        hidden_dim=swiglu_width(dim, multiple_of=multiple_of,
                                multiplier=1.0 if multiplier is None else multiplier),
        vocab_size=vocab_size if given_vocab == -1 else given_vocab,
        norm_eps=needed(params, "norm_eps", file),
        rope_theta=params.pop("rope_theta", 10_000.0),
        max_seq_len=max_seq_len, rope_scaling=LLAMA_3_1_SCALING if scaled else None)
    none_left(params, "params.json")
    return config


# -- of every name that somebody types -----------------------------------------------------------


def nearest(name: str, known: Iterable[str]) -> str:
    """A question with the names that are spelled most like this one, to end an error with; empty
    where none is. The case of letters counts for nothing."""
    spelt = {each.lower(): each for each in known}
    near = [spelt[each] for each in difflib.get_close_matches(name.lower(), spelt)]
    return f" Did you mean {' or '.join(near)}?" if near else ""


# -- of every file ------------------------------------------------------------------------------


def needed(fields: dict[str, Any], name: str, where: str = "config.json") -> Any:
    """Take a field out. Raises ValueError where it is missing."""
    if name not in fields:
        raise ValueError(f"{where} has no field {name!r}; a Llama cannot be built without it. "
                         "Copy the model's own file again.")
    return fields.pop(name)


def none_left(fields: Mapping[str, Any], where: str = "config.json") -> None:
    """Raises ValueError where a field was not taken out: nobody knows what it means."""
    if fields:
        raise ValueError(f"{where} has fields that no Llama has: {', '.join(sorted(fields))}. "
                         "They may change what the model computes; run it with its makers' own "
                         "code, or ask them before you take one out.")
