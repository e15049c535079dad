"""Which file holds which vocabulary, and what is said of a file that holds none."""

import base64
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import pytest
import sentencepiece

from llama_edu import tokenizer
from llama_edu.tokenizer import BytePairs, installed
from llama_edu.tokenizer.sentencepiece_rebuilt import RebuiltSentencePiece
from llama_edu.tokenizer.tiktoken_bpe import TEKKEN_PATTERN
from llama_edu.tokenizer.vocabulary_files import (
    MAX_BYTES,
    read_notes,
    read_ranks,
    read_sentencepiece,
    read_tekken,
)

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
    file.write_bytes(installed.path("sentencepiece_32k").read_bytes() + part)
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


# -- files that only cost time and memory ------------------------------------------------------


@pytest.fixture
def frugal():
    """What a test may take: a second of one core, and 64 MiB."""
    tracemalloc.start()
    began = time.process_time()
    yield
    seconds, (_, peak) = time.process_time() - began, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert seconds < 1
    assert peak < 2**26


def test_a_number_without_an_end_is_refused_after_ten_bytes(tmp_path, frugal):
    file = tmp_path / "tokenizer.model"
    for content in (b"\x0a" + b"\xff" * 2_000_000, b"\x0a\xff" * 100_000,
                    b"\x0a" + b"\x80" * 9 + b"\x02"):
        file.write_bytes(content)
        with pytest.raises(ValueError, match="is not a SentencePiece model that can be read"):
            tokenizer.load(file)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer.model", "tekken.json"])
def test_a_file_of_gigabytes_is_not_read(tmp_path, name, monkeypatch):
    heads = {"tokenizer.json": b"{", "tokenizer.model": b"\x0a",
             "tekken.json": b'{"default_num_special_tokens"'}
    (tmp_path / name).write_bytes(heads[name])
    os.truncate(tmp_path / name, 2**33)     # a hole: it takes no room on the disk
    with pytest.raises(ValueError, match=f"has 8,589,934,592 bytes; no such .* than {MAX_BYTES:,}"):
        tokenizer.load(tmp_path)


def test_no_vocabulary_has_millions_of_parts(tmp_path):
    file = tmp_path / "tokenizer.model"
    file.write_bytes(b"\x0a\x00" * (2**20 + 1))
    with pytest.raises(ValueError, match="is not a SentencePiece model that can be read"):
        tokenizer.load(file)


def test_a_rank_of_thousands_of_digits_is_no_long_message(tmp_path, frugal):
    (tmp_path / "ranks").write_bytes(b"AA== " + b"9" * 4000)
    with pytest.raises(ValueError, match="gives rank 99999999999999999999; 0 and a new piece"):
        read_ranks(tmp_path / "ranks")
    (tmp_path / "ranks").write_bytes(b"A" * 10**6)
    with pytest.raises(ValueError, match="line 1 of .* is b'A{40}'; a piece in base64"):
        read_ranks(tmp_path / "ranks")


@pytest.mark.parametrize("config", [
    {"default_num_special_tokens": 5 * 10**6, "default_vocab_size": 5 * 10**6 + 256},
    {"default_num_special_tokens": -10}, {"default_num_special_tokens": 5.0},
    {"default_num_special_tokens": True}, {"default_num_special_tokens": "5"},
    {"default_vocab_size": 10**30}, {"default_vocab_size": -1}, {"default_vocab_size": 4},
    {"default_vocab_size": 261.5}, {"default_vocab_size": None},
], ids=str)
def test_a_tekken_does_not_claim_what_it_has_not(tmp_path, config, frugal):
    small_tekken(tmp_path / "tekken.json", config=config)
    with pytest.raises(ValueError, match="tekken.json (is not a|has 256 pieces; its config needs)"):
        tokenizer.load(tmp_path)


@pytest.mark.parametrize(("changes", "message"), [
    (dict(rank=10**12), "its ranks are not 0, 1, 2"), (dict(rank=8), "its ranks are not 0, 1, 2"),
    (dict(rank=-1), "its ranks are not"), (dict(rank="9"), "its ranks are not"),
    (dict(token_bytes="AAEC!"), "can be read"), (dict(token_bytes=7), "can be read"),
    (dict(token_bytes="AA=="), "has 255 pieces; its config needs 256"),
], ids=str)
def test_a_tekken_has_every_rank_and_piece_once(tmp_path, changes, message):
    small_tekken(tmp_path / "tekken.json", row=changes)
    with pytest.raises(ValueError, match=message):
        tokenizer.load(tmp_path)


@pytest.mark.parametrize("name", ["", "<s>", 7, None, "x" * 1000], ids=lambda name: repr(name)[:9])
def test_a_tekken_names_each_special_piece_once(tmp_path, name):
    small_tekken(tmp_path / "tekken.json", special=[{"rank": 3, "token_str": name}])
    with pytest.raises(ValueError, match="its special pieces have no names, or one name twice"):
        tokenizer.load(tmp_path)


@pytest.mark.parametrize("pattern", [7, None, "(a+)+b", "(((x{999}){999}){999}){999}", "("])
def test_a_tekken_cuts_text_as_the_published_ones_do(tmp_path, pattern):
    small_tekken(tmp_path / "tekken.json", config={"pattern": pattern})
    with pytest.raises(ValueError, match="cuts text by .*; the pattern of the tekken.json that we"):
        tokenizer.load(tmp_path)


def small_tekken(file, *, config=(), row=(), special=()):
    """Five special pieces and 256 bytes; the tenth of these can be changed."""
    rows = [{"rank": i, "token_bytes": base64.b64encode(bytes([i])).decode()} for i in range(256)]
    rows[9] |= dict(row)
    file.write_text(json.dumps({
        "config": {"pattern": TEKKEN_PATTERN, "default_vocab_size": 261,
                   "default_num_special_tokens": 5} | dict(config),
        "vocab": rows, "special_tokens": list(special)}))


def test_a_small_tekken_is_read(tmp_path):
    small_tekken(tmp_path / "tekken.json", special=[{"rank": 3, "token_str": "[INST]"}])
    words = tokenizer.load(tmp_path)
    assert words.encode("a b", bos=True) == [1, 5 + 97, 5 + 32, 5 + 98]
    assert words.special == {"<unk>": 0, "<s>": 1, "</s>": 2, "[INST]": 3, "<SPECIAL_4>": 4}


@pytest.mark.parametrize("text", ['{"special": {"x": 1000000000000}, "pattern": null}', "[" * 9999,
                                  '{"special": {}, "pattern": 5}', '{"special": 5, "pattern": ""}'],
                         ids=lambda text: text[:40])
def test_notes_that_claim_too_much_are_refused(tmp_path, text):
    (tmp_path / "notes").write_text(text)
    with pytest.raises(ValueError, match=r"is not what BytePairs\.save notes beside its ranks"):
        read_notes(tmp_path / "notes")


def field(number, content):
    """A part of a protobuf whose length fits in one byte."""
    return bytes([number << 3 | 2, len(content)]) + content


SENSELESS = {
    "half a character": field(1, b"\x0a\x01\xe2"),
    "no number": field(1, b"\x0a\x01x\x15" + struct.pack("<f", float("nan"))),
    "no kind": field(1, b"\x0a\x01x\x18\x07"),
    "no text": field(1, b"\x0a\x00"),
    "no byte": field(1, b"\x0a\x06<0x0G>\x18\x06"),
    "a byte twice": field(1, b"\x0a\x06<0x0A>\x18\x01"),
    "bos is 65535": field(2, b"\xc8\x02\xff\xff\x03"),
    "bos is 0.0": field(2, b"\xcd\x02\0\0\0\0"),
    "bytes and no fallback": field(2, b"\x98\x02\0"),
    "a long unknown": field(2, b"\xe2\x02" + bytes([100]) + b"?" * 100),
    "one letter becomes a hundred": field(3, b"\x12\x65\0\0\0\0" + b"x" * 97),
    "and when it is decoded": field(5, b"\x12\x65\0\0\0\0" + b"x" * 97),
}


@pytest.mark.parametrize("part", SENSELESS.values(), ids=SENSELESS)
def test_a_sentencepiece_model_with_senseless_parts_is_refused(tmp_path, part):
    """The last of several parts is the one that counts, for us and for the library."""
    file = tmp_path / "tokenizer.model"
    file.write_bytes(installed.path("sentencepiece_32k").read_bytes() + part)
    for read in (tokenizer.load, RebuiltSentencePiece.read):
        with pytest.raises(ValueError, match="is not a SentencePiece model that can be read|twice"):
            read(file)


# -- rules of a tokenizer.json that would fill the memory, or end the process -----------------


def test_a_prefix_that_ends_the_process_cannot_hide(tmp_path):
    small_json(tmp_path / "tokenizer.json")
    file = tmp_path / "tokenizer.json"
    file.write_text(file.read_text().replace(
        '"merges"', '"\\u0063ontinuing_subword\\u005Fprefix" : "x", "merges"'))
    with pytest.raises(ValueError, match="names a continuing_subword_prefix; no Llama has one"):
        tokenizer.load(tmp_path)


def step(kind, **more):
    return {"type": kind} | more


DOUBLE = step("Replace", pattern={"String": "a"}, content="aa")
BYTES = step("ByteLevel", add_prefix_space=False, trim_offsets=False, use_regex=False)
PART = {"Sequence": {"id": "A", "type_id": 0}}


@pytest.mark.parametrize("rules", [
    {"normalizer": step("Sequence", normalizers=[DOUBLE] * 60)},
    {"normalizer": step("Replace", pattern={"String": ""}, content="x" * 10**6)},
    {"normalizer": step("Prepend", prepend="x" * 10**6)},
    {"pre_tokenizer": step("Sequence", pretokenizers=[BYTES] * 40)},
    {"normalizer": step("Sequence", normalizers=[step("ByteLevel")] * 40)},
    {"decoder": step("Sequence", decoders=[DOUBLE] * 60)},
    {"post_processor": step("TemplateProcessing", single=[PART] * 10**4, pair=[PART],
                            special_tokens={})},
    {"normalizer": step("Precompiled", precompiled_charsmap="A" * 100)},
    {"model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]],
               "continuing_subword_prefix": "x"}},
], ids=["doubled", "everywhere", "prepended", "bytes of bytes", "bytes of bytes again", "decoded",
        "copies", "a table", "a prefix"])
def test_rules_that_make_a_long_text_of_a_short_one_are_refused(tmp_path, rules):
    small_json(tmp_path / "tokenizer.json", **rules)
    with pytest.raises(ValueError, match="has a rule of .* steps that put in|a contin|be read"):
        tokenizer.load(tmp_path)


@pytest.mark.parametrize("rules", [
    {"pre_tokenizer": step("Split", pattern={"Regex": "(a|a)*c|(a|aa)+$!"}, behavior="Isolated",
                           invert=False)},
    {"model": {"type": "WordLevel", "vocab": {"b": 0}, "unk_token": "?"}},
], ids=["a pattern that explodes", "an unknown piece"])
def test_rules_that_the_library_cannot_follow_are_an_error_of_ours(tmp_path, rules):
    small_json(tmp_path / "tokenizer.json", **rules)
    with pytest.raises(ValueError, match="this text does not suit the rules of this tokenizer.jso"):
        tokenizer.load(tmp_path).encode("a" * 60)


@pytest.mark.parametrize("rules", [
    {"padding": {"strategy": {"Fixed": 10**11}, "direction": "Right", "pad_to_multiple_of": None,
                 "pad_id": 0, "pad_type_id": 0, "pad_token": "a"}},
    {"truncation": {"direction": "Right", "max_length": 3, "strategy": "LongestFirst",
                    "stride": 7}},
], ids=["padding", "truncation"])
def test_rules_for_training_are_not_followed(tmp_path, rules):
    small_json(tmp_path / "tokenizer.json", **rules)
    assert tokenizer.load(tmp_path).encode("a" * 60) == [0] * 60


def small_json(file, **rules):
    file.write_text(json.dumps({
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [],
        "normalizer": None, "pre_tokenizer": None, "post_processor": None, "decoder": None,
        "model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []}} | rules))


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
    with pytest.raises(KeyError, match="'gpt2' is no file that we know where to find"):
        installed.find("gpt2")


def test_finding_a_vocabulary_imports_nothing():
    code = ("import sys; from llama_edu.tokenizer import installed; installed.path('llama3');"
            "installed.path('tekken_131k');"
            "assert not {'llama_models', 'mistral_common', 'torch'} & set(sys.modules)")
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_the_pins_are_those_of_the_requirements():
    pins = "".join((ROOT / f"requirements-{name}.txt").read_text() for name in (
        "oracles", "model"))
    assert all(source.install in pins for source in installed.SOURCES.values())
    told = [pin for file in (ROOT / "chapters" / "src").glob("*.py")
            for pin in re.findall(r"[\w-]+==[\d.]+\d", file.read_text(encoding="utf-8"))]
    assert told
    assert [pin for pin in told if f"{pin}\n" not in pins] == []
