"""Every way to cut a text that a GGUF file can name is llama.cpp's of that name."""

import json

import pytest
from gguf_files import matrices, theirs
from hard_texts import hard_texts
from llama_cpp_judge import Judge
from models import tiny_config
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from llama_edu import tokenizer
from llama_edu.tokenizer.gguf.cuts import CUTS

pytest.importorskip("xllamacpp")
TEXTS = hard_texts(60)


@pytest.fixture(scope="module")
def pieces():
    """A vocabulary whose merges cross every border, so that each border shows; and its merges, of
    which some are missing, so that it shows whether a word that is a piece stays whole."""
    inner = Tokenizer(models.BPE())
    whole = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.pre_tokenizer = whole
    inner.train_from_iterator(TEXTS * 3, trainers.BpeTrainer(
        vocab_size=3000, special_tokens=["<s>"], initial_alphabet=whole.alphabet(),
        show_progress=False))
    model = json.loads(inner.to_str())["model"]
    assert len(model["merges"]) > 1000
    merges = [" ".join(merge) for i, merge in enumerate(model["merges"]) if i < 300 or i % 5]
    return sorted(model["vocab"], key=model["vocab"].get), merges


def vocabulary(file, pieces, pre):
    """A GGUF file with a vocabulary, and weights of no weight."""
    config = tiny_config(dim=16, n_heads=2, n_kv_heads=1, n_layers=1, hidden_dim=16,
                         vocab_size=len(pieces[0]))
    theirs(file, config, matrices(config, "F32"), tokenizer_model="gpt2", tokenizer_pre=pre,
           token_list=pieces[0], token_merges=pieces[1],
           token_types=[3] + [1] * (len(pieces[0]) - 1))
    return file


@pytest.mark.parametrize("pre", CUTS)
def test_a_cut_is_llama_cpps(tmp_path, pieces, pre):
    file = vocabulary(tmp_path / "x.gguf", pieces, pre)
    ours = tokenizer.load(file)
    judge = Judge(file)
    for text in TEXTS:
        assert ours.encode(text) == judge.encode(text), (text, ours.pieces(text))


def test_different_cuts_differ_on_these_texts(tmp_path, pieces):
    """Or the test above could not tell one from another."""
    cut = {}
    for pre in {how[:2]: name for name, how in CUTS.items()}.values():
        ours = tokenizer.load(vocabulary(tmp_path / f"{pre}.gguf", pieces, pre))
        cut[pre] = tuple(tuple(ours.encode(text)) for text in TEXTS)
    assert len(set(cut.values())) == len(cut)


def test_a_missing_or_unknown_cut_asks_for_a_tokenizer(tmp_path, pieces):
    with pytest.raises(ValueError, match=r"pre is 'new-one'.*bring the tokenizer.*--tokenizer"):
        tokenizer.load(vocabulary(tmp_path / "x.gguf", pieces, "new-one"))
