"""Which file holds which vocabulary, and what is said of a file that holds none."""

import base64
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import sentencepiece

from llama_edu import tokenizer
from llama_edu.tokenizer import BytePairs, installed
from llama_edu.tokenizer.sentencepiece_rebuilt import RebuiltSentencePiece
from llama_edu.tokenizer.vocabulary_files import read_ranks, read_sentencepiece, read_tekken

ROOT = Path(__file__).parents[2]
LIBRARIES = {"llama3": tokenizer.TiktokenTokenizer,
             "sentencepiece_32k": tokenizer.SentencePieceTokenizer,
             "tekken_131k": tokenizer.TiktokenTokenizer}


@pytest.mark.parametrize("name", LIBRARIES)
def test_what_a_file_holds_decides_and_not_its_name(name, tmp_path):
    for folder_or_file in (tmp_path, tmp_path / "tokenizer.model"):
        shutil.copy(installed.path(name), tmp_path / "tokenizer.model")
        assert type(tokenizer.load(folder_or_file)) is LIBRARIES[name]


def test_a_folder_with_both_gives_the_json(tmp_path):
    shutil.copy(installed.path("llama3"), tmp_path / "tokenizer.model")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"tokenizer\.json is not a tokenizer.json that can be"):
        tokenizer.load(tmp_path)


def test_stop_tokens_are_added_to_those_of_the_vocabulary(tmp_path):
    assert tokenizer.load(installed.path("sentencepiece_32k"), stop_ids=[5]).stop_ids == {2, 5}
    assert tokenizer.load(installed.path("llama3"), stop_ids=(5,)).stop_ids == {
        5, 128_001, 128_008, 128_009}


@pytest.mark.parametrize("content", [b"", b"version https://git-lfs.github.com/spec/v1\n",
                                     b"<!DOCTYPE html>", b"\x80\x04\x95", b"#version: 0.2\nt h\n"])
def test_a_foreign_file_is_refused(tmp_path, content):
    file = tmp_path / "tokenizer.model"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"begins with b.*, as no vocabulary does; ranks in base64,"
                                         r" a SentencePiece model or a tokenizer.json is needed"):
        tokenizer.load(file)


def cut_short(name, tmp_path, size):
    file = tmp_path / "tokenizer.model"
    file.write_bytes(installed.path(name).read_bytes()[:size])
    return file


def test_a_truncated_file_of_llama_3_is_refused(tmp_path):
    whole = installed.path("llama3").read_bytes()
    lines = whole.splitlines(keepends=True)
    at_line_end = sum(map(len, lines[:127_000]))
    with pytest.raises(ValueError, match="has 127000 ranks; Llama 3's has 128000. If it is"):
        tokenizer.load(cut_short("llama3", tmp_path, at_line_end))
    # "... 126999\n" that ends after "126": a rank, but not the next one
    with pytest.raises(ValueError, match="line 127000 of .* gives rank 126; 126999 and a new"):
        tokenizer.load(cut_short("llama3", tmp_path, at_line_end - 4))
    with pytest.raises(ValueError, match="line 127001 of .* is b'.*'; a piece in base64 and its "):
        tokenizer.load(cut_short("llama3", tmp_path, at_line_end + 3))


def test_ranks_of_another_family_are_refused(tmp_path):
    words = BytePairs.train("a llama and a llama", n_vocab=260)
    words.save(tmp_path / "tokenizer.model")
    with pytest.raises(ValueError, match="has 260 ranks; Llama 3's has 128000.*BytePairs.load"):
        tokenizer.load(tmp_path)


def test_ranks_without_all_bytes_are_refused(tmp_path):
    lines = [base64.b64encode(bytes([b])) + b" %d\n" % b for b in range(200)]
    (tmp_path / "short").write_bytes(b"".join(lines))
    with pytest.raises(ValueError, match="has 200 pieces, and the byte 0xC8 is none of them; all "):
        read_ranks(tmp_path / "short")


def test_the_same_piece_twice_is_refused(tmp_path):
    lines = [base64.b64encode(bytes([b % 255])) + b" %d\n" % b for b in range(256)]
    (tmp_path / "twice").write_bytes(b"".join(lines))
    with pytest.raises(ValueError, match="line 256 of .*; 255 and a new piece are needed"):
        read_ranks(tmp_path / "twice")


@pytest.mark.parametrize("size", [2, 1000, 300_000, 493_400, 493_441])
def test_a_truncated_sentencepiece_model_is_refused(tmp_path, size):
    file = cut_short("sentencepiece_32k", tmp_path, size)
    for read in (tokenizer.load, RebuiltSentencePiece.read):
        with pytest.raises(ValueError, match="is not a SentencePiece model that can be read; a pr"):
            read(file)


@pytest.mark.parametrize("part", [
    b"\x0a\x02\x08\x05",         # a piece whose text is the number 5
    b"\x18\x05",                 # the normalizer is the number 5
    b"\x12\x03\xe0\x02\x05",     # an unknown token is shown as the number 5
], ids=["piece", "normalizer", "unknown"])
def test_a_sentencepiece_model_with_numbers_for_texts_is_refused(tmp_path, part):
    file = tmp_path / "tokenizer.model"
    file.write_bytes(part + installed.path("sentencepiece_32k").read_bytes())
    with pytest.raises(ValueError, match="is not a SentencePiece model that can be read"):
        read_sentencepiece(file)


def test_a_sentencepiece_model_has_every_piece_once(tmp_path):
    whole, file = installed.path("sentencepiece_32k").read_bytes(), tmp_path / "tokenizer.model"
    first = whole[: 2 + whole[1]]       # the piece <unk>
    file.write_bytes(first + whole)
    for read in (tokenizer.load, RebuiltSentencePiece.read):
        with pytest.raises(ValueError, match="has the piece '<unk>' twice; each is needed once"):
            read(file)
    file.write_bytes(first.replace(b"unk", b"UNK") + whole)      # two names for the unknown
    with pytest.raises(ValueError, match="is refused by SentencePiece .*; a whole model is needed"):
        tokenizer.load(file)


def test_bytes_that_are_no_utf8_are_refused(tmp_path):
    whole = installed.path("sentencepiece_32k").read_bytes()
    file = tmp_path / "tokenizer.model"
    file.write_bytes(whole.replace("▁".encode(), b"\xff\xff\xff", 1))
    with pytest.raises(ValueError, match="is not a SentencePiece model that can be read"):
        tokenizer.load(file)
    file = tmp_path / "tokenizer.json"
    file.write_bytes(b'{"model": "\xff"}')
    with pytest.raises(ValueError, match=r"is not a tokenizer.json that can be read"):
        tokenizer.load(file)


def test_a_sentencepiece_model_with_other_rules_is_not_rebuilt(tmp_path):
    for changes, message in [({"model_type": "unigram"}, "it is not a BPE model"),
                             ({"normalization_rule_name": "nfkc"}, "it changes characters"),
                             ({"byte_fallback": False}, "it has no bytes for unknown characters"),
                             ({"user_defined_symbols": ["xx"]}, "pieces that users defined")]:
        settings = {"model_type": "bpe", "normalization_rule_name": "identity",
                    "byte_fallback": True, "remove_extra_whitespaces": False} | changes
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(["a llama and another llama"] * 3), minloglevel=9,
            model_prefix=str(tmp_path / "small"), vocab_size=300 if "byte" not in message else 20,
            hard_vocab_limit=False, **settings)
        with pytest.raises(ValueError, match=f"model is foreign: .*{message}.*SentencePieceTokeni"):
            RebuiltSentencePiece.read(tmp_path / "small.model")


def test_a_tekken_that_is_cut_or_changed_is_refused(tmp_path):
    fields = json.loads(installed.path("tekken_131k").read_text())
    file = tmp_path / "tekken.json"
    for change, message in [({"vocab": fields["vocab"][:1000]}, "has 1000 pieces; its config nee"),
                            ({"vocab": 7}, "is not a tekken.json that can be read"),
                            ({"config": {}}, "is not a tekken.json that can be read")]:
        file.write_text(json.dumps(fields | change))
        with pytest.raises(ValueError, match=message):
            read_tekken(file)


def test_what_sentencepiece_says_of_itself_is_read_without_protobuf():
    file = read_sentencepiece(installed.path("sentencepiece_32k"))
    assert len(file.pieces) == 32_000
    assert file.pieces[0][0] == "<unk>"
    assert (file.model_type, file.split_digits, file.byte_fallback) == (2, True, True)
    assert (file.bos_id, file.eos_id, file.unk_surface) == (1, 2, " ⁇ ")
    assert (file.add_dummy_prefix, file.remove_extra_whitespaces) == (True, False)


@pytest.mark.parametrize("name", LIBRARIES)
@pytest.mark.parametrize("token", [-1, 140_000])
def test_a_token_outside_the_vocabulary_is_refused(name, token):
    words = tokenizer.load(installed.path(name))
    with pytest.raises(ValueError, match=f"token {token} was given; this vocabulary has 0 to"):
        words.decode([5, token])


@pytest.mark.parametrize("name", LIBRARIES)
def test_half_a_surrogate_pair_is_refused(name):
    words = tokenizer.load(installed.path(name))
    with pytest.raises(ValueError, match=r"lone surrogate U\+D83E at position 3; no UTF-8 exists"):
        words.encode("abc\ud83e", bos=False, eos=False)
    with pytest.raises(ValueError, match="lone surrogate"):
        words.pieces("\udfff")


def test_half_a_surrogate_pair_is_refused_by_the_rebuilt_one():
    words = RebuiltSentencePiece.read(installed.path("sentencepiece_32k"))
    with pytest.raises(ValueError, match=r"lone surrogate U\+DFFF at position 0"):
        words.encode("\udfff", bos=False, eos=False)
    with pytest.raises(ValueError, match="token 32000 was given; this vocabulary has 0 to 31999"):
        words.decode([32_000])


def test_a_vocabulary_that_is_not_installed_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(installed, "find_spec", lambda name: None)
    assert installed.find("llama3") is None
    with pytest.raises(ValueError, match=r"the vocabulary of Llama 3 .* is not installed; it lies "
                       r"in llama-models. Get it with: pip install --no-deps llama-models==0.3.0"):
        installed.path("llama3")
    with pytest.raises(KeyError, match="'gpt2' is no vocabulary that we know where to find"):
        installed.find("gpt2")


def test_finding_a_vocabulary_imports_nothing():
    code = ("import sys; from llama_edu.tokenizer import installed; installed.path('llama3');"
            "installed.path('tekken_131k');"
            "assert not {'llama_models', 'mistral_common', 'torch'} & set(sys.modules)")
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_the_pins_are_those_of_the_requirements():
    pins = (ROOT / "requirements-oracles.txt").read_text()
    assert all(source.install in pins for source in installed.SOURCES.values())
