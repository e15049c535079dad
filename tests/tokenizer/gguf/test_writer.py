"""The vocabulary inside a GGUF file: written from every kind that we read, and read again."""

import io
import json
import shutil
import warnings
from dataclasses import replace

import gguf as package
import pytest
import sentencepiece
from folders import CORPUS, bytes_tokenizer, change_json, save_tokenizer, spaces_tokenizer
from gguf_files import source_of
from llama_cpp_judge import Judge
from models import loud_model, tiny_config
from tokenizers import processors

from llama_edu import tokenizer
from llama_edu.formats.gguf import general
from llama_edu.formats.gguf import header as gguf_header
from llama_edu.formats.gguf import weights as gguf
from llama_edu.tokenizer import carried, installed
from llama_edu.tokenizer.bpe import LLAMA3_PATTERN
from llama_edu.tokenizer.gguf.cuts import CUTS

TEXTS = ("", "Once upon a time", " two  spaces\n\n", "Süße Träume! 🦙", "</s><|eot_id|>", "12345")


@pytest.fixture(scope="module", params=["over bytes", "over characters"])
def words(request, tmp_path_factory):
    """A folder with a tokenizer of Llama 3's or of Llama 2's kind."""
    make = {"over bytes": bytes_tokenizer, "over characters": spaces_tokenizer}[request.param]
    return save_tokenizer(make(), tmp_path_factory.mktemp("words"))


def test_a_tokenizer_comes_back_from_the_file_itself(tmp_path, words):
    before = tokenizer.load(words)
    config = tiny_config(vocab_size=before.n_vocab + 5)     # five rows without a token
    gguf.write(tmp_path / "x.gguf", source_of(loud_model(config), words, stop_ids=(2, 5)),
               kind="F16")
    source = gguf.open_file(tmp_path / "x.gguf")
    assert source.tokenizer == tmp_path / "x.gguf"
    assert source.stop_ids == (2, 5)
    after = tokenizer.load(source.tokenizer, stop_ids=source.stop_ids)
    assert (after.n_vocab, after.bos_id, after.eos_id) == (before.n_vocab, 1, 2)
    assert after.stop_ids == {2, 5}
    for text in TEXTS:
        ids = after.encode(text, bos=True, eos=True)
        assert ids == before.encode(text, bos=True, eos=True)
        assert after.decode(ids) == text
        allowed = after.encode(text, bos=False, eos=False, allow_special={"</s>"})
        assert (2 in allowed) == ("</s>" in text)


def test_a_gguf_file_gives_its_tokenizer_to_the_next(tmp_path, words):
    first, second = tmp_path / "1.gguf", tmp_path / "2.gguf"
    source = source_of(loud_model(tiny_config(vocab_size=380)), words)
    gguf.write(first, source, kind="F16")
    gguf.write(second, gguf.open_file(first), kind="F16")
    assert gguf_header.read(second).fields == gguf_header.read(first).fields
    assert second.read_bytes() == first.read_bytes()


def test_transformers_would_begin_a_text_as_the_file_says(tmp_path):
    folder = save_tokenizer(bytes_tokenizer(), tmp_path)
    gguf.write(tmp_path / "x.gguf", source_of(loud_model(tiny_config(vocab_size=320)), folder),
               kind="F16")
    words = tokenizer.load(tmp_path / "x.gguf")
    assert words.inner.encode("llama").ids == words.encode("llama", bos=True, eos=False)
    content = (tmp_path / "x.gguf").read_bytes()
    at = content.index(b"add_bos_token") + len("add_bos_token") + 4
    assert content[at] == 1
    (tmp_path / "x.gguf").write_bytes(content[:at] + b"\0" + content[at + 1:])
    words = tokenizer.load(tmp_path / "x.gguf")
    assert words.inner.encode("llama").ids == words.encode("llama", bos=False, eos=False)


def test_newer_files_over_characters_write_their_spaces_elsewhere(tmp_path):
    folder = save_tokenizer(spaces_tokenizer(), tmp_path)
    before, fields = tokenizer.load(folder), json.loads((folder / "tokenizer.json").read_text())
    for scheme, prefix in (("first", True), ("always", True), ("never", False)):
        metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme,
                     "split": False}
        changed = fields | {"normalizer": None, "pre_tokenizer": metaspace}
        (folder / "tokenizer.json").write_text(json.dumps(changed))
        source = source_of(loud_model(tiny_config(vocab_size=376)), folder)
        with warnings.catch_warnings(record=True) as lost:
            warnings.simplefilter("always")
            gguf.write(tmp_path / "x.gguf", source, kind="F16")
        assert [str(each.message)[-29:] for each in lost] == [
            "such texts are cut otherwise."] * prefix
        after = tokenizer.load(tmp_path / "x.gguf")
        ids = after.encode("two llamas", bos=False, eos=False)
        assert (ids == before.encode("two llamas", bos=False, eos=False)) == prefix
        assert after.decode(ids) == "two llamas"


def test_a_word_that_is_a_piece_stays_whole_only_where_the_file_says_so(tmp_path):
    fields = {"model": "gpt2", "tokens": ["a", "b", "c", "ab", "bc", "abc"], "merges": ["b c"]}
    for rule, expected in (("llama-bpe", [5]), ("llama3", [5]), ("dbrx", [0, 4])):
        writer = package.GGUFWriter(tmp_path / "x.gguf", "llama")
        for name, value in (fields | {"pre": rule}).items():
            getattr(writer, gguf.ADDERS[type(value)])(f"tokenizer.ggml.{name}", value)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.close()
        words = tokenizer.load(tmp_path / "x.gguf")
        assert words.encode("abc", bos=False, eos=False) == expected
    assert CUTS["llama-bpe"] == ((LLAMA3_PATTERN,), True, True)


BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}


@pytest.mark.parametrize(("change", "message"), [
    (dict(normalizer={"type": "Lowercase"}),
     "a rule that a GGUF file cannot say: it changes text by"),
    (dict(pre_tokenizer={"type": "Whitespace"}),
     "it cuts text by .*Whitespace.*Write another format"),
    (dict(pre_tokenizer={"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": " "}, "behavior": "Removed", "invert": False},
        BYTES]}), "it cuts text by .*Removed"),
    (dict(pre_tokenizer={"type": "Sequence", "pretokenizers": [
        {"type": "Punctuation", "behavior": "Isolated"}, BYTES]}), "it cuts text by .*Punctuation"),
    (dict(pre_tokenizer=BYTES | {"add_prefix_space": True}), "add_prefix_space': True"),
], ids=["lowercase", "other words", "removed", "punctuation", "a space more"])
def test_a_tokenizer_that_llama_cpp_has_no_name_for_is_refused(tmp_path, change, message):
    folder = save_tokenizer(bytes_tokenizer(), tmp_path)
    fields = json.loads((folder / "tokenizer.json").read_text()) | change
    (folder / "tokenizer.json").write_text(json.dumps(fields))
    source = source_of(loud_model(tiny_config(vocab_size=320)), folder)
    with pytest.raises(ValueError, match=message):
        gguf.write(tmp_path / "x.gguf", source, kind="F16")


def test_a_vocabulary_that_no_llama_has_is_refused(tmp_path):
    source = source_of(loud_model(tiny_config()), installed.path("tekken_131k"))
    with pytest.raises(ValueError, match="vocabulary of kind 'tekken'; one of gguf, json, ranks"):
        gguf.write(tmp_path / "x.gguf", source, kind="F16")


def test_three_unusual_ends_of_an_answer_are_too_many(tmp_path, words):
    source = source_of(loud_model(tiny_config(vocab_size=380)), words, stop_ids=(5, 6, 7))
    with pytest.raises(ValueError, match=r"end an answer; a GGUF file has room for 2 such"):
        gguf.write(tmp_path / "x.gguf", source, kind="F16")


def test_a_tokenizer_larger_than_the_embedding_is_refused(tmp_path, words):
    with pytest.raises(ValueError, match="knows 3.. tokens; the model's embedding has 96 rows"):
        gguf.write(tmp_path / "x.gguf", source_of(loud_model(tiny_config()), words), kind="F16")


def test_the_ends_of_an_answer_are_named_by_what_they_mean(tmp_path):
    source = source_of(loud_model(tiny_config(
        dim=16, n_heads=2, n_kv_heads=1, n_layers=1, hidden_dim=16, vocab_size=128_256)),
        installed.path("llama3"))
    gguf.write(tmp_path / "x.gguf", source, kind="F16")
    fields = gguf_header.read(tmp_path / "x.gguf").fields
    named = {name: fields[f"tokenizer.ggml.{name}_token_id"] for name in ("eos", "eot", "eom")}
    assert named == {"eos": 128_001, "eot": 128_009, "eom": 128_008}


def test_a_file_has_the_name_and_the_size_of_its_model(tmp_path, words):
    source = replace(source_of(loud_model(tiny_config(vocab_size=380)), words), name="A llama")
    gguf.write(tmp_path / "x.gguf", source, kind="F16")
    fields = gguf_header.read(tmp_path / "x.gguf").fields
    assert (fields["general.name"], fields["general.size_label"]) == ("A llama", "147K")
    assert gguf.open_file(tmp_path / "x.gguf").name == "A llama"


def test_pieces_that_were_added_to_a_sentencepiece_model_arrive(tmp_path):
    shutil.copy(installed.path("sentencepiece_32k"), tmp_path / "tokenizer.model")
    (tmp_path / "added_tokens.json").write_text('{"<|im_start|>": 32000, "<|im_end|>": 32001}')
    (tmp_path / "tokenizer_config.json").write_text('{"add_bos_token": false}')
    ours = tokenizer.load(tmp_path)
    text = "<|im_start|>Hi there<|im_end|>"
    ids = ours.encode(text, allow_special=["<|im_start|>", "<|im_end|>"])
    assert (ours.n_vocab, ours.adds_bos, ids[0], ids[-1]) == (32_002, False, 32_000, 32_001)
    assert ours.decode(ids) == "Hi there"
    assert len(ours.encode(text)) > len(ids)        # what somebody types is text
    source = source_of(loud_model(tiny_config(dim=16, n_heads=2, n_kv_heads=1, n_layers=1,
                                              hidden_dim=16, vocab_size=32_002)), tmp_path)
    gguf.write(tmp_path / "x.gguf", source, kind="F16")
    again = tokenizer.load(tmp_path / "x.gguf")
    assert again.encode(text, allow_special=["<|im_start|>", "<|im_end|>"]) == ids
    assert again.adds_bos is False
    for wrong in ('{"<pad>": 32005}', '{"<pad>": "x"}', '{"<pad>": [1]}'):
        (tmp_path / "added_tokens.json").write_text(wrong)
        with pytest.raises(ValueError, match="those from 32000 on, without gaps, are needed"):
            tokenizer.load(tmp_path)


def test_pieces_that_users_defined_are_cut_out_first_as_in_llama_cpp(tmp_path):
    trained = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS * 20), model_writer=trained, vocab_size=330, minloglevel=2,
        model_type="bpe", byte_fallback=True, user_defined_symbols=["<tool>", "<end>"],
        remove_extra_whitespaces=False, normalization_rule_name="identity",
        hard_vocab_limit=False, character_coverage=1.0)
    (tmp_path / "tokenizer.model").write_bytes(trained.getvalue())
    n = tokenizer.load(tmp_path).n_vocab
    source = source_of(loud_model(tiny_config(vocab_size=n)), tmp_path)
    gguf.write(tmp_path / "x.gguf", source, kind="F16")
    theirs = Judge(tmp_path / "x.gguf")
    ours = tokenizer.load(tmp_path / "x.gguf")
    for text in ("x <tool> y", "<tool>", "a<end>  b", " <end>the llama", "the llama"):
        assert ours.encode(text) == theirs.encode(text)
    (tmp_path / "hf").mkdir()
    for name, content in carried.files_for_transformers(tmp_path).items():
        (tmp_path / "hf" / name).write_bytes(content)
    assert tokenizer.load(tmp_path / "hf").encode("x <tool> y") == ours.encode("x <tool> y")


def test_a_file_beside_its_notes_brings_them_along(tmp_path, words):
    assert carried.files(words / "tokenizer.json") == carried.files(words)


def test_what_fills_a_text_up_arrives(tmp_path):
    save_tokenizer(bytes_tokenizer(), tmp_path)
    change_json(tmp_path / "tokenizer_config.json", pad_token="</s>")
    gguf.write(tmp_path / "x.gguf", source_of(loud_model(tiny_config(vocab_size=320)), tmp_path),
               kind="F16")
    assert carried.pad(tmp_path / "x.gguf") == "</s>"
    made = json.loads(carried.files(tmp_path / "x.gguf")["tokenizer_config.json"])
    assert (made["pad_token"], made["eos_token"]) == ("</s>", "</s>")


@pytest.mark.parametrize(("given", "read"), [
    ({"do_sample": True, "temperature": 0.5, "top_k": -1}, {"do_sample": True, "temperature": 0.5}),
    ({"do_sample": True, "top_k": 2**40, "top_p": 0.9}, {"do_sample": True, "top_p": 0.9}),
    ({"do_sample": True, "temperature": 1e300}, {}), ({"do_sample": False, "top_k": 5}, {})])
def test_ways_to_pick_that_do_not_fit_are_left_out(given, read):
    assert general.read_sampling(general.sampling_fields(given)) == read


def test_a_temperature_of_zero_is_greedy():
    assert general.read_sampling({"general.sampling.temp": 0.0}) == {"do_sample": False}


def test_a_rule_that_puts_more_than_bos_before_a_text_is_lost_with_a_word(tmp_path):
    folder = save_tokenizer(bytes_tokenizer(), tmp_path)
    inner = tokenizer.load(folder).inner
    inner.post_processor = processors.TemplateProcessing(
        single="<s> </s> $A", pair="$A $B", special_tokens=[("<s>", 1), ("</s>", 2)])
    inner.save(str(folder / "tokenizer.json"))
    with pytest.warns(UserWarning, match="puts 2 tokens around a text; llama.cpp will put no"):
        gguf.write(tmp_path / "x.gguf", source_of(loud_model(tiny_config(vocab_size=320)), folder),
                   kind="F16")
