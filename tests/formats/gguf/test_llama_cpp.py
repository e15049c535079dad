"""GGUF files that we write run in llama.cpp as they run here."""

from pathlib import Path

import pytest
import torch
from folders import bytes_tokenizer, save_tokenizer
from gguf_files import matrices, model_of, source_of, theirs
from llama_cpp_judge import Judge, centred
from models import STRETCH_8, STRETCH_32, distance, loud_model, some_tokens, tiny_config
from torch import Tensor

from llama_edu import checkpoint, tokenizer
from llama_edu.config import ModelConfig
from llama_edu.formats.gguf import weights as gguf
from llama_edu.formats.names import pairs_to_halves
from llama_edu.generation import stream
from llama_edu.model import Llama
from llama_edu.sampling import top_k

pytest.importorskip("xllamacpp")

SHAPES = {"mha": dict(n_kv_heads=4), "gqa": {}, "tied": dict(tied_embeddings=True),
          "stretched by 8": dict(rope_scaling=STRETCH_8),
          "stretched by 32": dict(rope_scaling=STRETCH_32)}
# How far llama.cpp's logits may be from ours on the same weights, in units of their scale, and at
# how many positions at least the likeliest token is the same. llama.cpp rounds what enters a matrix
# product as the matrix is stored: not at all, to 11 bits, to 8 bits, to 127ths of the largest of
# 32; where two tokens are almost equally likely, that decides. (Keys and values are float32 here.)
TOLERANCE = {"F32": (1e-5, 1.0), "F16": (5e-3, 0.95), "BF16": (3e-2, 0.9), "Q8_0": (1e-1, 0.85)}
EXACT, ROUNDED = TOLERANCE["F32"], TOLERANCE["Q8_0"]
N_PIECES = 320      # of the vocabulary that a file needs there
A_VOCABULARY = dict(tokenizer_model="gpt2", tokenizer_pre="gpt-2", token_merges=["a b"],
                    token_list=["a", "b", "ab", *(f"<{i}>" for i in range(3, N_PIECES))],
                    token_types=[1] * N_PIECES)


def config_of(**changes: object) -> ModelConfig:
    return tiny_config(**{"vocab_size": N_PIECES} | changes)


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    assert bytes_tokenizer().get_vocab_size() == N_PIECES
    return save_tokenizer(bytes_tokenizer(), tmp_path_factory.mktemp("words"))


def logits_by_llama_cpp(file: Path, tokens: Tensor) -> Tensor:
    """`t v`, of one row of tokens."""
    return Judge(file).logits(tokens.tolist())


@torch.inference_mode()
def logits(model: Llama, tokens: Tensor) -> Tensor:
    return centred(model(tokens[None])[0])


def assert_close(ours: Tensor, theirs: Tensor, tolerance: tuple[float, float]) -> None:
    """Logits are near each other, and the likeliest token is the same nearly everywhere."""
    far, same = tolerance
    assert distance(ours, theirs) < far
    assert (ours.argmax(-1) == theirs.argmax(-1)).float().mean() >= same


# -- logits ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("kind", TOLERANCE)
def test_llama_cpp_computes_what_we_compute_on_the_weights_as_stored(tmp_path, words, changes,
                                                                    kind):
    gguf.write(tmp_path / "x.gguf", source_of(loud_model(config_of(**changes)), words), kind=kind)
    tokens = some_tokens(config_of(), 1)[0]
    assert_close(logits(model_of(tmp_path / "x.gguf"), tokens),
                 logits_by_llama_cpp(tmp_path / "x.gguf", tokens), TOLERANCE[kind])


@pytest.mark.parametrize("changes", [{}, SHAPES["tied"], dict(hidden_dim=192)],
                         ids=["wide", "tied", "rows of 192"])
@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q4_K_M", "Q5_0", "Q5_1", "Q5_K_M", "Q6_K"])
def test_llama_cpp_runs_files_of_few_bits(tmp_path, words, changes, kind):
    config, file = config_of(**dict(dim=256, hidden_dim=512) | changes), tmp_path / "x.gguf"
    gguf.write(file, source_of(loud_model(config), words), kind=kind)
    tokens = some_tokens(config, 1)[0]
    ours = logits(model_of(file), tokens)
    assert_close(ours, logits_by_llama_cpp(file, tokens), ROUNDED)
    assert distance(ours, logits(loud_model(config), tokens)) > 1e-2     # rounding did happen


@pytest.mark.parametrize("kind", ["F16", "Q8_0"])
def test_weights_read_from_a_smaller_kind_are_those_that_llama_cpp_sees(tmp_path, words, kind):
    # Written again as F32 nothing is rounded any more, so the whole difference is float32's.
    gguf.write(tmp_path / "1.gguf", source_of(loud_model(config_of()), words), kind=kind)
    gguf.write(tmp_path / "2.gguf", gguf.open_file(tmp_path / "1.gguf"), kind="F32")
    tokens = some_tokens(config_of(), 1)[0]
    assert_close(logits(model_of(tmp_path / "1.gguf"), tokens),
                 logits_by_llama_cpp(tmp_path / "2.gguf", tokens), EXACT)


@pytest.mark.parametrize("changes", [SHAPES["stretched by 8"], SHAPES["stretched by 32"]],
                         ids=["8", "32"])
def test_the_stretch_reaches_llama_cpp_over_thousands_of_positions(tmp_path, words, changes):
    config = config_of(max_seq_len=2048, rope_theta=1e4, **changes)
    model = loud_model(config)
    gguf.write(tmp_path / "x.gguf", source_of(model, words), kind="F32")
    tokens, places = some_tokens(config, 1, 2047)[0], range(62, 2047, 64)
    theirs = Judge(tmp_path / "x.gguf", n_ctx=2048).logits(tokens.tolist(), after=places)
    # 1e-4: at position 2,000 an angle in float32 is off by 1e-4 of a radian
    assert distance(logits(model, tokens)[places], theirs) < 1e-4
    plain = loud_model(config_of(max_seq_len=2048, rope_theta=1e4))
    assert distance(logits(plain, tokens)[places], theirs) > 0.1


def test_llama_cpp_reads_a_model_in_parts_as_we_do(tmp_path):
    config, first = config_of(), tmp_path / "x-00001-of-00005.gguf"
    theirs(tmp_path / "x.gguf", config, matrices(config, "F32"), split_max_tensors=5,
           **A_VOCABULARY)
    tokens = some_tokens(config, 1)[0]
    ours = logits(model_of(first), tokens)
    assert torch.equal(ours, logits(loud_model(config), tokens))
    assert_close(ours, logits_by_llama_cpp(first, tokens), EXACT)


def test_rows_in_another_order_would_be_noticed(tmp_path, words):
    model = loud_model(config_of())
    file, tokens = tmp_path / "x.gguf", some_tokens(config_of(), 1)[0]
    for layer in model.layers:
        for w in (layer.attention.wq.weight, layer.attention.wk.weight):
            w.copy_(pairs_to_halves(w, model.config.head_dim))
    gguf.write(file, source_of(model, words), kind="F32")
    assert distance(logits(loud_model(config_of()), tokens),
                    logits_by_llama_cpp(file, tokens)) > 0.1


def test_one_spoiled_tensor_would_be_noticed(tmp_path, words):
    config, file = config_of(), tmp_path / "x.gguf"
    tokens = some_tokens(config, 1)[0]
    for name in loud_model(config).state_dict():
        model = loud_model(config)
        w = model.get_parameter(name)
        w.copy_(1.05 * w + 0.01 * w.roll(1, -1))
        gguf.write(file, source_of(model, words), kind="F32")
        far = distance(logits(loud_model(config), tokens), logits_by_llama_cpp(file, tokens))
        assert far > 100 * EXACT[0], name


# -- kinds that we only read -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K",
                                  "Q6_K", "IQ4_NL", "IQ4_XS"])
def test_llama_cpp_reads_blocks_of_smaller_kinds_as_we_do(tmp_path, kind):
    config = config_of(dim=256, hidden_dim=512)
    made, blocks = matrices(config, "F32"), matrices(config, kind)
    made |= {name: blocks[name] for name in blocks if "ffn_down" in name or name == "output.weight"}
    made["output_norm.weight"][0][:] *= 0.01        # blocks at random are loud
    theirs(tmp_path / "x.gguf", config, made, **A_VOCABULARY)
    tokens = some_tokens(config, 1)[0]
    ours = logits(model_of(tmp_path / "x.gguf"), tokens)
    assert_close(ours, logits_by_llama_cpp(tmp_path / "x.gguf", tokens), ROUNDED)


# -- the model that comes with the package ---------------------------------------------------------


@pytest.fixture(scope="module")
def tales():
    return checkpoint.load(checkpoint.TALES)


def told_by_both(file: Path, ids: list[int]) -> tuple[list[int], list[int]]:
    """The 60 likeliest tokens after a prompt, one by one: ours, and llama.cpp's after the same."""
    told = stream(model_of(file), torch.tensor([ids]), top_k(1), max_new=60)
    ours = [token.item() for token in told]
    theirs = Judge(file).logits(ids + ours[:-1])
    return ours, theirs[len(ids) - 1:].argmax(-1).tolist()


@pytest.mark.parametrize("prompt", ["Once upon a time", "One day", "The fox"])
def test_llama_cpp_tells_the_same_tales(tmp_path, tales, prompt):
    model, words = tales
    f16, q8_0, widened = (tmp_path / f"{name}.gguf" for name in ("F16", "Q8_0", "widened"))
    for file in (f16, q8_0):
        gguf.write(file, source_of(model, checkpoint.TALES), kind=file.stem)
    gguf.write(widened, gguf.open_file(q8_0), kind="F32")
    ids = words.encode(prompt, bos=True, eos=False)
    for file in (f16, q8_0, widened):
        assert Judge(file).encode(prompt, bos=True) == ids
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
