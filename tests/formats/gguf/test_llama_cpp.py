"""GGUF files that we write run in llama.cpp, and those that it writes run here."""

import ctypes
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf_files import matrices, model_of, source_of, theirs, weights_of
from models import STRETCH_8, STRETCH_32, distance, loud_model, some_tokens, tiny_config
from torch import Tensor

from llama_edu import checkpoint, tokenizer
from llama_edu.formats.gguf import header as gguf_header
from llama_edu.formats.gguf import weights as gguf
from llama_edu.formats.names import pairs_to_halves
from llama_edu.generation import stream
from llama_edu.model import Llama
from llama_edu.sampling import top_k

llama_cpp = pytest.importorskip("llama_cpp")

SHAPES = {"mha": dict(n_kv_heads=4), "gqa": {}, "tied": dict(tied_embeddings=True),
          "stretched by 8": dict(rope_scaling=STRETCH_8),
          "stretched by 32": dict(rope_scaling=STRETCH_32)}
# How far llama.cpp's logits may be from ours on the same weights, in units of their scale, and at
# how many positions at least the likeliest token is the same. llama.cpp rounds what enters a matrix
# product as the matrix is stored: not at all, to 11 bits, to 8 bits, to 127ths of the largest of
# 32; where two tokens are almost equally likely, that decides. (Keys and values are float32 here.)
TOLERANCE = {"F32": (1e-5, 1.0), "F16": (5e-3, 0.95), "BF16": (3e-2, 0.9), "Q8_0": (1e-1, 0.85)}
EXACT, ROUNDED = TOLERANCE["F32"], TOLERANCE["Q8_0"]
F32 = 0     # llama.cpp's number for float32, of the keys and values


def opened(file: Path, **settings: object) -> "llama_cpp.Llama":
    return llama_cpp.Llama(str(file), n_threads=1, n_threads_batch=1, logits_all=True,
                           verbose=False, type_k=F32, type_v=F32, **{"n_ctx": 256} | settings)


def logits_by_llama_cpp(file: Path, tokens: Tensor, **settings: object) -> Tensor:
    """`t v`, of one row of tokens."""
    theirs = opened(file, **settings)
    theirs.eval(tokens.tolist())
    return torch.from_numpy(np.array(theirs.scores[: len(tokens)]))


@torch.inference_mode()
def logits(model: Llama, tokens: Tensor) -> Tensor:
    return model(tokens[None])[0]


def assert_close(ours: Tensor, theirs: Tensor, tolerance: tuple[float, float]) -> None:
    """Logits are near each other, and the likeliest token is the same nearly everywhere."""
    far, same = tolerance
    assert distance(ours, theirs) < far
    assert (ours.argmax(-1) == theirs.argmax(-1)).float().mean() >= same


# -- logits ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("kind", TOLERANCE)
def test_llama_cpp_computes_what_we_compute_on_the_weights_as_stored(tmp_path, changes, kind):
    gguf.write(tmp_path / "x.gguf", source_of(loud_model(tiny_config(**changes))), kind=kind)
    tokens = some_tokens(tiny_config(), 1)[0]
    assert_close(logits(model_of(tmp_path / "x.gguf"), tokens),
                 logits_by_llama_cpp(tmp_path / "x.gguf", tokens), TOLERANCE[kind])


@pytest.mark.parametrize("kind", ["F16", "Q8_0"])
def test_weights_read_from_a_smaller_kind_are_those_that_llama_cpp_sees(tmp_path, kind):
    # Written again as F32 nothing is rounded any more, so the whole difference is float32's.
    gguf.write(tmp_path / "1.gguf", source_of(loud_model(tiny_config())), kind=kind)
    gguf.write(tmp_path / "2.gguf", gguf.open_file(tmp_path / "1.gguf"), kind="F32")
    tokens = some_tokens(tiny_config(), 1)[0]
    assert_close(logits(model_of(tmp_path / "1.gguf"), tokens),
                 logits_by_llama_cpp(tmp_path / "2.gguf", tokens), EXACT)


@pytest.mark.parametrize("changes", [SHAPES["stretched by 8"], SHAPES["stretched by 32"]],
                         ids=["8", "32"])
def test_the_stretch_reaches_llama_cpp_over_thousands_of_positions(tmp_path, changes):
    config = tiny_config(max_seq_len=2048, rope_theta=1e4, **changes)
    model = loud_model(config)
    gguf.write(tmp_path / "x.gguf", source_of(model), kind="F32")
    tokens = some_tokens(config, 1, 2048)[0]
    theirs = logits_by_llama_cpp(tmp_path / "x.gguf", tokens, n_ctx=2048)
    # 1e-4: at position 2,000 an angle in float32 is off by 1e-4 of a radian
    assert distance(logits(model, tokens), theirs) < 1e-4
    plain = loud_model(tiny_config(max_seq_len=2048, rope_theta=1e4))
    assert distance(logits(plain, tokens), theirs) > 0.1


def test_llama_cpp_reads_a_model_in_parts_as_we_do(tmp_path):
    config, first = tiny_config(), tmp_path / "x-00001-of-00005.gguf"
    theirs(tmp_path / "x.gguf", config, matrices(config, "F32"), split_max_tensors=5,
           tokenizer_model="none", vocab_size=96)
    tokens = some_tokens(config, 1)[0]
    ours = logits(model_of(first), tokens)
    assert torch.equal(ours, logits(loud_model(config), tokens))
    assert_close(ours, logits_by_llama_cpp(first, tokens), EXACT)


def test_rows_in_another_order_would_be_noticed(tmp_path):
    model = loud_model(tiny_config())
    file, tokens = tmp_path / "x.gguf", some_tokens(tiny_config(), 1)[0]
    for layer in model.layers:
        for w in (layer.attention.wq.weight, layer.attention.wk.weight):
            w.copy_(pairs_to_halves(w, model.config.head_dim))
    gguf.write(file, source_of(model), kind="F32")
    assert distance(logits(loud_model(tiny_config()), tokens),
                    logits_by_llama_cpp(file, tokens)) > 0.1


# -- the model that comes with the package ---------------------------------------------------------


@pytest.fixture(scope="module")
def tales():
    return checkpoint.load(checkpoint.TALES)


def told_by_both(file: Path, ids: list[int]) -> tuple[list[int], list[int]]:
    """The 60 likeliest tokens after a prompt, one by one: ours and llama.cpp's."""
    ours = stream(model_of(file), torch.tensor([ids]), top_k(1), max_new=60)
    theirs = opened(file).generate(ids, temp=0.0, repeat_penalty=1.0)
    return [token.item() for token in ours], [*islice(theirs, 60)]


@pytest.mark.parametrize("prompt", ["Once upon a time", "One day", "The fox"])
def test_llama_cpp_tells_the_same_tales(tmp_path, tales, prompt):
    model, words = tales
    f16, q8_0, widened = (tmp_path / f"{name}.gguf" for name in ("F16", "Q8_0", "widened"))
    for file in (f16, q8_0):
        gguf.write(file, source_of(model, checkpoint.TALES), kind=file.stem)
    gguf.write(widened, gguf.open_file(q8_0), kind="F32")
    ids = words.encode(prompt, bos=True, eos=False)
    for file in (f16, q8_0, widened):
        assert opened(file, vocab_only=True).tokenize(prompt.encode()) == ids
        assert tokenizer.load(file).encode(prompt, bos=True, eos=False) == ids
    for file in (f16, widened):
        ours, theirs = told_by_both(file, ids)
        assert theirs == ours
    # With both sides rounded to 8 bits, only tokens that are as likely as each other change places.
    text = torch.tensor(ids + ours)
    ours, theirs = logits(model_of(q8_0), text), logits_by_llama_cpp(q8_0, text)
    assert_close(ours, theirs, (0.1, 0.95))
    best, second = ours.topk(2).values.T
    clear = best - second > 0.01 * ours.abs().max()
    assert clear.float().mean() > 0.8
    assert torch.equal(ours.argmax(-1)[clear], theirs.argmax(-1)[clear])


# -- files that llama.cpp writes -------------------------------------------------------------------


def quantised(file: Path, target: Path, kind: int) -> None:
    settings = llama_cpp.llama_model_quantize_default_params()
    settings.ftype, settings.nthread = kind, 1
    done = llama_cpp.llama_model_quantize(str(file).encode(), str(target).encode(),
                                          ctypes.byref(settings))
    assert done == 0


@pytest.mark.parametrize(("name", "kinds"), [
    ("Q4_K_M", {"F32", "Q4_K", "Q6_K"}), ("Q6_K", {"F32", "Q6_K"}), ("Q8_0", {"F32", "Q8_0"}),
    ("Q4_0", {"F32", "Q4_0", "Q6_K"}), ("BF16", {"F32", "BF16"}),
    ("Q5_1", {"F32", "Q5_1", "Q6_K"}), ("Q3_K_M", {"F32", "Q3_K", "Q4_K", "Q5_K", "Q6_K"}),
    ("IQ4_XS", {"F32", "IQ4_XS", "Q6_K"})])
def test_files_that_llama_cpp_quantised_give_its_logits_here(tmp_path, name, kinds):
    config = tiny_config(dim=256, hidden_dim=512, n_layers=2, n_heads=8, n_kv_heads=4)
    gguf.write(tmp_path / "full.gguf", source_of(loud_model(config)), kind="F32")
    quantised(tmp_path / "full.gguf", tmp_path / "x.gguf",
              getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{name}"))
    listed = gguf_header.read(tmp_path / "x.gguf").tensors.values()
    assert {tensor.kind for tensor in listed} == {gguf.KINDS[kind].number for kind in kinds}
    source, tokens = gguf.open_file(tmp_path / "x.gguf"), some_tokens(config, 1)[0]
    assert source.config == config
    ours = logits(model_of(tmp_path / "x.gguf"), tokens)
    # Its own arithmetic rounds what enters each product to 8 bits; without that, float32's error.
    assert_close(ours, logits_by_llama_cpp(tmp_path / "x.gguf", tokens), ROUNDED)
    gguf.write(tmp_path / "again.gguf", source, kind="F32")
    assert_close(ours, logits_by_llama_cpp(tmp_path / "again.gguf", tokens), EXACT)
    assert distance(ours, logits(loud_model(config), tokens)) > 1e-3    # rounding did happen


def test_our_q8_0_is_llama_cpps_to_the_byte(tmp_path):
    config = tiny_config(dim=256, hidden_dim=512)
    gguf.write(tmp_path / "full.gguf", source_of(loud_model(config)), kind="F32")
    quantised(tmp_path / "full.gguf", tmp_path / "theirs.gguf", llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0)
    gguf.write(tmp_path / "ours.gguf", source_of(loud_model(config)), kind="Q8_0")
    ours, theirs = (weights_of(gguf.open_file(tmp_path / f"{who}.gguf"))
                    for who in ("ours", "theirs"))
    assert set(ours) == set(theirs)
    assert all(torch.equal(w, theirs[name]) for name, w in ours.items())
