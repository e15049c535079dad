"""llama.cpp cuts texts as we do, by the vocabulary in a GGUF file that we wrote."""

import json
import random

import pytest
from folders import bytes_tokenizer, save_tokenizer, spaces_tokenizer
from gguf_files import source_of
from llama_cpp_judge import Judge
from models import loud_model, tiny_config
from tokenizers import models

from llama_edu import checkpoint, tokenizer
from llama_edu.data import samples
from llama_edu.formats.gguf import weights as gguf
from llama_edu.tokenizer import installed
from llama_edu.tokenizer.bpe import LLAMA3_PATTERN
from llama_edu.tokenizer.vocabulary_files import NORMAL, read_sentencepiece

pytest.importorskip("xllamacpp")

ODD = ["", " ", "  a", "a  ", "\n", "\n\n\n a", "\t\tx\t", "\r\n\r\n", "<s>", "</s>a", "<unk>",
       "<0x41>", "<|eot_id|>", "<|begin_of_text|>hi", "[PAD1]", "1234567", "3.14159e10", "K'S ſ",
       "don't DON'T I'LL we'Ve", "🦙🦙\u200d🦙", "e\u0301", "\u00a0x", "\u3000\u3000", "ﷺ",
       "a\x00b", "\x7f", "▁a▁b", " ▁", "foo_bar__baz", "((((()))))", "İstanbul", "x" * 300, "ก็ ཨོཾ"]


@pytest.fixture(scope="module")
def texts():
    lines = [line for lines in samples.parallel().values() for line in lines[:8]]
    draw = random.Random(0)
    parts = [*"aé 1\n'▁<>|🦙中", "ll", " the", "  "]
    mixed = ["".join(draw.choices(parts, k=12)) for _ in range(60)]
    texts = ODD + lines + mixed + [samples.sample(name)[:500] for name in samples.SAMPLES]
    assert len(texts) >= 190
    return texts


def saved_with_llama_3s_cuts(folder, *, whole_words: bool):
    """A tokenizer.json with Llama 3's pattern, and words that are pieces whole or not."""
    save_tokenizer(bytes_tokenizer(), folder)
    fields = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    cut = {"type": "Split", "pattern": {"Regex": LLAMA3_PATTERN}, "behavior": "Isolated",
           "invert": False}
    fields["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [
        cut, fields["pre_tokenizer"] | {"use_regex": False}]}
    fields["model"]["ignore_merges"] = whole_words
    fields["model"]["merges"] = [merge for merge in fields["model"]["merges"]
                                 if all(len(part) == 1 for part in merge)]
    (folder / "tokenizer.json").write_text(json.dumps(fields), encoding="utf-8")
    return folder


def save_as_json(folder):
    """The 32k pieces as Llama 2's tokenizer.json has its own: with all pairs that make a piece."""
    stored = read_sentencepiece(installed.path("sentencepiece_32k")).pieces
    vocab = {piece: i for i, (piece, _, _) in enumerate(stored)}
    pairs = [(-score, (piece[:at], piece[at:])) for piece, score, kind in stored if kind == NORMAL
             for at in range(1, len(piece)) if piece[:at] in vocab and piece[at:] in vocab]
    inner = spaces_tokenizer()
    inner.model = models.BPE(vocab, [pair for _, pair in sorted(pairs, key=lambda row: row[0])],
                             unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    inner.add_special_tokens(["<unk>", "<s>", "</s>"])
    return save_tokenizer(inner, folder)


MAKERS = {
    "Llama 3's ranks": lambda folder: installed.path("llama3"),
    "32k SentencePiece": lambda folder: installed.path("sentencepiece_32k"),
    "32k tokenizer.json": save_as_json,
    "tales": lambda folder: checkpoint.TALES,
    "GPT-2's cuts": lambda folder: save_tokenizer(bytes_tokenizer(), folder),
    "Llama 2's tokenizer.json": lambda folder: save_tokenizer(spaces_tokenizer(), folder),
    "whole words": lambda folder: saved_with_llama_3s_cuts(folder, whole_words=True),
    "merges only": lambda folder: saved_with_llama_3s_cuts(folder, whole_words=False),
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_llama_cpp_and_the_reread_tokenizer_give_our_tokens(tmp_path, texts, make):
    path = make(tmp_path)
    ours = tokenizer.load(path)
    config = tiny_config(dim=32, n_heads=2, n_kv_heads=1, n_layers=1, hidden_dim=32,
                         vocab_size=ours.n_vocab + 3)
    gguf.write(tmp_path / "x.gguf", source_of(loud_model(config), path), kind="Q8_0")
    again = tokenizer.load(tmp_path / "x.gguf")
    assert (again.n_vocab, again.bos_id, again.eos_id, again.stop_ids) == (
        ours.n_vocab, ours.bos_id, ours.eos_id, ours.stop_ids)
    theirs = Judge(tmp_path / "x.gguf")
    assert (theirs.special("bos"), theirs.special("eos")) == (ours.bos_id, ours.eos_id)
    for text in texts:
        ids = ours.encode(text, bos=False, eos=False)
        assert theirs.encode(text) == ids, text
        assert again.encode(text, bos=False, eos=False) == ids
        assert again.decode(ids) == ours.decode(ids)
    assert theirs.encode("llama", bos=True) == ours.encode("llama", bos=ours.adds_bos)


def test_whole_words_and_merges_only_are_two_rules(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    whole, merged = (tokenizer.load(saved_with_llama_3s_cuts(tmp_path / name, whole_words=rule))
                     for name, rule in (("a", True), ("b", False)))
    assert len(whole.pieces("the llama")) < len(merged.pieces("the llama"))


def test_special_pieces_are_special_in_llama_cpp_too(tmp_path):
    ours = tokenizer.load(checkpoint.TALES)
    config = tiny_config(vocab_size=ours.n_vocab)
    gguf.write(tmp_path / "x.gguf", source_of(loud_model(config), checkpoint.TALES), kind="F16")
    theirs = Judge(tmp_path / "x.gguf")
    text = "One<|end_of_text|> day"
    assert theirs.encode(text, special=True) == ours.encode(
        text, bos=False, eos=False, allow_special={"<|end_of_text|>"})
