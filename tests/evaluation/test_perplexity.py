"""Perplexity as llama.cpp counts it: against slow loops, one over transformers, one over itself."""

import math

import pytest
import torch
from folders import CORPUS, bytes_tokenizer, save_folder, spaces_tokenizer
from llama_cpp_judge import Judge
from transformers import AutoTokenizer, LlamaForCausalLM

from llama_edu.checkpoint import load
from llama_edu.evaluation.perplexity import perplexity, surprise, windows
from llama_edu.formats.convert import convert

TEXT = " ".join(CORPUS * 3)
LETTERS = TEXT.encode("ascii", "ignore").decode()      # llama.cpp tells nothing of half a letter
SAME = 1e-5     # of float32 sums taken in another order, over some hundred tokens


@pytest.fixture(scope="module", params=[bytes_tokenizer, spaces_tokenizer], ids=["bytes", "spaces"])
def folder(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("folder")
    save_folder(path, request.param())
    return path


@pytest.fixture(scope="module")
def loaded(folder):
    return load(folder)


def cut(ids: list[int], bos: int, context: int) -> list[list[int]]:
    """Windows as llama.cpp cuts them; ids begin with bos."""
    whole = range(0, len(ids) - context + 1, context)
    return [[bos, *ids[start + 1: start + context]] for start in whole]


def estimate(costs: list[float]) -> tuple[float, float]:
    """Perplexity and error, by the sums that llama.cpp keeps."""
    n = len(costs)
    mean, square = sum(costs) / n, sum(x * x for x in costs) / n
    return math.exp(mean), math.exp(mean) * math.sqrt((square - mean * mean) / (n - 1))


@pytest.mark.parametrize("context", [32, 33, 3])
def test_it_is_what_a_slow_loop_over_transformers_finds(folder, loaded, context):
    words = AutoTokenizer.from_pretrained(folder)
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    costs, rows = [], cut(words(TEXT)["input_ids"], words.bos_token_id, context)
    for row in rows:
        with torch.inference_mode():
            logits = model(torch.tensor([row])).logits[0].double()
        costs += [-logits[at].log_softmax(-1)[row[at + 1]].item()
                  for at in range(context // 2, context - 1)]
    found = perplexity(*loaded, TEXT, context=context)
    assert (found.n_windows, len(found.nats)) == (len(rows), len(costs))
    assert (found.perplexity, found.error) == pytest.approx(estimate(costs), rel=SAME)


def test_it_is_what_llama_cpp_finds_token_by_token(folder, loaded, tmp_path):
    convert(folder, tmp_path / "x.gguf", format="gguf", dtype="float32")
    theirs = Judge(tmp_path / "x.gguf")
    rows = cut(theirs.encode(LETTERS, bos=True), theirs.special("bos"), 64)
    costs = [theirs.cost(row[:n]) for row in rows for n in range(64 // 2 + 2, 64 + 1)]
    found = perplexity(*loaded, LETTERS, context=64)
    assert (found.perplexity, found.error) == pytest.approx(estimate(costs), rel=1e-4)


def test_equal_logits_cost_the_vocabulary(loaded):
    model, tokenizer = loaded
    flat = type(model)(model.config).eval()
    flat.output.weight.data.zero_()
    found = perplexity(flat, tokenizer, TEXT)
    assert found.perplexity == pytest.approx(model.config.vocab_size, rel=1e-6)
    assert found.error == pytest.approx(0, abs=1e-3)


def test_what_the_first_half_of_a_window_costs_is_not_counted(loaded):
    window = torch.arange(3, 35)
    with torch.inference_mode():
        costs = surprise(loaded[0], window)
        nearer = surprise(loaded[0], window[8:])
    assert len(costs) == 15         # of 32: the token in the middle is only read
    assert len(nearer) == 11
    assert (costs[-11:] - nearer).abs().max() > 0.01        # which sees eight tokens less


def test_a_byte_costs_its_share_of_a_token(loaded):
    found = perplexity(*loaded, TEXT, context=16)
    n = len(loaded[1].encode(TEXT))
    assert found.nats_per_byte * len(TEXT.encode()) == pytest.approx(found.nats_per_token * n)
    assert found.perplexity == pytest.approx(math.exp(found.nats_per_token))


def test_a_window_begins_with_bos_only_where_texts_do():
    assert windows(range(9), 4, bos=None).tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert windows(range(9), 4, bos=70).tolist() == [[70, 0, 1, 2], [70, 4, 5, 6]]
    assert windows(range(7), 4, bos=70).shape == (2, 4)        # bos is one of the tokens


def test_windows_are_shown_as_they_come(loaded):
    seen = []

    def watch(rows):
        for row in rows:
            seen.append(len(row))
            yield row

    found = perplexity(*loaded, TEXT, context=20, watch=watch)
    assert seen == [20] * found.n_windows


def test_a_short_text_is_refused(loaded):
    n = len(loaded[1].encode(CORPUS[0])) + 1
    with pytest.raises(ValueError, match=rf"the text has {n} tokens; 256 or more, two windows of "
                                         r"128, are needed. Give a longer text, or .*--context N"):
        perplexity(*loaded, CORPUS[0])
    with pytest.raises(ValueError, match=r"the text has 7 tokens; 8 or more"):
        windows(range(7), 4, bos=None)


@pytest.mark.parametrize("context", [-1, 0, 2, 129])
def test_a_context_that_the_model_has_not_is_refused(loaded, context):
    with pytest.raises(ValueError, match=f"a context of {context} tokens was asked for; one from "
                                         "3 to 128, which this model has, is needed"):
        perplexity(*loaded, TEXT, context=context)
