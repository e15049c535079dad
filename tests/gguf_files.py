"""Models as sources that a GGUF file is made from, and back."""

import struct
from pathlib import Path

import gguf as package
import numpy as np
import pytest
import torch
from folders import bytes_tokenizer, save_tokenizer, spaces_tokenizer
from models import STRETCH_8, loud_model, tiny_config
from torch import Tensor

from llama_edu import checkpoint
from llama_edu.config import ModelConfig
from llama_edu.formats.gguf import weights as gguf
from llama_edu.formats.source import Source, Stored
from llama_edu.model import Llama

KIND = package.GGMLQuantizationType
SCALES = {"Q8_0": (0,), "Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2),
          "Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,),
          "IQ4_NL": (0,), "IQ4_XS": (0,)}       # bytes of a block at which a float16 begins
COUNTS = {"version": (4, "I"), "tensors": (8, "Q"), "fields": (16, "Q")}    # where, and how stored


def source_of(model: Llama, words: Path | None = None, *, stop_ids: tuple[int, ...] = (),
              dtype: torch.dtype = torch.float32) -> Source:
    """A model in memory, handed out as if it lay in files."""
    weights = {name: w.to(dtype) for name, w in model.state_dict().items()}
    tensors = {name: Stored(tuple(w.shape), dtype, lambda w=w: w) for name, w in weights.items()}
    return Source(model.config, tensors, words, stop_ids)


def weights_of(source: Source) -> dict[str, Tensor]:
    return {name: stored.read() for name, stored in source.tensors.items()}


def model_of(file: Path) -> Llama:
    """The model in a GGUF file, in float32."""
    source = gguf.open_file(file)
    with torch.device("meta"):
        model = Llama(source.config)
    checkpoint.fill(model, weights_of(source).items(), device="cpu", dtype=torch.float32)
    return model.eval()


def two_files(folders: pytest.TempPathFactory) -> list[bytes]:
    """Two whole files: vocabularies over bytes and over characters, weights as Q8_0 and F16."""
    made = []
    for make, kind in ((bytes_tokenizer, "Q8_0"), (spaces_tokenizer, "F16")):
        folder = folders.mktemp("words")
        words, n = save_tokenizer(make(), folder), make().get_vocab_size()
        config = tiny_config(dim=32, hidden_dim=32, n_layers=1, vocab_size=n, rope_theta=1e4,
                             rope_scaling=STRETCH_8)
        gguf.write(folder / "x.gguf", source_of(loud_model(config), words), kind=kind)
        made.append((folder / "x.gguf").read_bytes())
    return made


def with_count(content: bytes, what: str, value: int) -> bytes:
    """The same file, with another number in its first 24 bytes."""
    at, letter = COUNTS[what]
    number = struct.pack("<" + letter, value)
    return content[:at] + number + content[at + len(number):]


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def header(*parts: bytes, n_tensors: int = 0, n_fields: int = 0, version: int = 3) -> bytes:
    """A file made by hand: the first 24 bytes, and what follows."""
    return b"GGUF" + struct.pack("<IQQ", version, n_tensors, n_fields) + b"".join(parts)


# -- files by the package of the makers of the format ----------------------------------------------


def theirs(file: Path, config: ModelConfig, tensors: dict[str, tuple[np.ndarray, int | None]], *,
           split_max_tensors: int = 0, **fields: object) -> None:
    """A file by the package's own writer: tensors as bytes of their kind, under GGUF's names."""
    writer = package.GGUFWriter(file, "llama", split_max_tensors=split_max_tensors)
    for name, number in dict(
            context_length=config.max_seq_len, embedding_length=config.dim,
            block_count=config.n_layers, feed_forward_length=config.hidden_dim,
            head_count=config.n_heads, head_count_kv=config.n_kv_heads,
            layer_norm_rms_eps=config.norm_eps, rope_freq_base=config.rope_theta).items():
        getattr(writer, f"add_{name}")(number)
    for name, value in fields.items():
        getattr(writer, f"add_{name}")(value)
    for name, (stored, kind) in tensors.items():
        writer.add_tensor(name, stored, raw_dtype=kind)
    for step in ("header", "kv_data", "tensors"):
        getattr(writer, f"write_{step}_to_file")()
    writer.close()


def random_blocks(kind: str, n: int, seed: int = 0) -> np.ndarray:
    """`n bytes`: random bytes, where scales are between 0.001 and 0.01 if their place is known."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (n, package.GGML_QUANT_SIZES[KIND[kind]][1]), dtype=np.uint8)
    for at in SCALES.get(kind, ()):
        scale = rng.uniform(0.001, 0.01, (n, 1)).astype(np.float16)
        blocks[:, at : at + 2] = scale.view(np.uint8)
    return blocks


def by_the_package(blocks: np.ndarray, kind: str) -> np.ndarray:
    """`n numbers`, float32."""
    with np.errstate(all="ignore"):
        return package.dequantize(blocks, KIND[kind])


def matrices(config: ModelConfig, *kinds: str) -> dict[str, tuple[np.ndarray, int | None]]:
    """The tensors of a model for `theirs`: the matrices random blocks of these kinds in turn."""
    made = {}
    for seed, (name, w) in enumerate(loud_model(config).state_dict().items()):
        row, number = gguf.find(name, "meta")
        stored, kind = w.numpy(), None
        if w.ndim == 2 and (of := kinds[seed % len(kinds)]) != "F32":
            kind = KIND[of]
            blocks = random_blocks(of, w.numel() // package.GGML_QUANT_SIZES[kind][0], seed)
            blocks[~np.isfinite(by_the_package(blocks, of)).all(1)] = 0     # of kinds in no table
            stored = blocks.reshape(len(w), -1)
        made[row.gguf.replace("#", number)] = stored, kind
    return made
