"""What we convert, another program reads as it read the source: every source, every target.

Not the weights alone: tokens, what begins and ends a text, what ends an answer, how a dialog is
rendered, how tokens are picked. A source is judged by the library that it was made for.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import sentencepiece
import torch
from folders import bytes_tokenizer, spaces_tokenizer
from gguf_files import source_of
from hard_texts import hard_texts
from llama_cpp_judge import Judge
from models import loud_model, tiny_config
from tokenizers import Regex, Tokenizer, pre_tokenizers, processors
from transformers import AutoTokenizer, GenerationConfig

from llama_edu import checkpoint, tokenizer
from llama_edu.formats import huggingface, meta
from llama_edu.formats.convert import convert
from llama_edu.formats.gguf import header as gguf_header
from llama_edu.formats.gguf import weights as gguf
from llama_edu.tokenizer import installed
from llama_edu.tokenizer.bpe import LLAMA3_PATTERN
from llama_edu.tokenizer.vocabulary_files import kind

TEXTS = hard_texts(40)


@dataclass(frozen=True)
class Reading:
    """What a program makes of a tokenizer: tokens of texts as they are, with special pieces
    known, and as it would hand them to the model; and the tokens that it takes for ends."""

    plain: Callable[[str], list[int]]
    special: Callable[[str], list[int]]
    whole: Callable[[str], list[int]]
    bos: int | None
    eos: int | None
    ends: set[int]              # of an answer
    template: str | None        # renders a dialog
    sampling: dict[str, float]


def by_transformers(folder: Path) -> Reading:
    words, picks = (kind.from_pretrained(folder) for kind in (AutoTokenizer, GenerationConfig))
    return Reading(
        lambda text: words(text, add_special_tokens=False, split_special_tokens=True)["input_ids"],
        lambda text: words(text, add_special_tokens=False)["input_ids"],
        lambda text: words(text)["input_ids"], words.bos_token_id, words.eos_token_id,
        {*(ends if type(ends := picks.eos_token_id) is list else [ends])}, words.chat_template,
        {name: getattr(picks, name) for name in SAMPLING if picks.do_sample})


def by_llama_cpp(file: Path) -> Reading:
    judge = Judge(file)
    picks = judge.sampling()
    return Reading(
        judge.encode, lambda text: judge.encode(text, special=True),
        lambda text: judge.encode(text, bos=True, special=True),
        judge.special("bos"), judge.special("eos"), judge.ends(),
        gguf_header.read(file).fields.get("tokenizer.chat_template"),
        {"do_sample": True} | picks if picks else {})


def by_the_libraries(file: Path) -> Reading:
    """SentencePiece knows no special pieces in a text; ours cuts it around them."""
    ours = tokenizer.load(file)
    if kind(file) == "sentencepiece":
        inner = sentencepiece.SentencePieceProcessor(model_file=str(file))
        plain, bos, eos = inner.encode, inner.bos_id(), inner.eos_id()
    else:
        from llama_models.llama3.tokenizer import Tokenizer as Metas
        inner = Metas(file)
        bos, eos = inner.bos_id, inner.eos_id

        def plain(text: str) -> list[int]:
            return inner.encode(text, bos=False, eos=False)

    def special(text: str) -> list[int]:
        return ours.encode(text, allow_special={*ours.special})
    return Reading(plain, special, lambda text: [bos, *special(text)], bos, eos, {*ours.stop_ids},
                   None, {})


# -- the sources ---------------------------------------------------------------------------------

TEMPLATE = ("{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + "
            "message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}")
SAMPLING = {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "top_k": 30}


def a_model(path, *, stop_ids=(), **more):
    """A model that is as good as none, with the tokenizer at this path."""
    config = tiny_config(dim=16, n_heads=2, n_kv_heads=1, n_layers=1, hidden_dim=16,
                         vocab_size=tokenizer.load(path).n_vocab)
    source = source_of(loud_model(config), path, stop_ids=stop_ids)
    return replace(source, **more)


def in_metas_format(name):
    def make(folder):
        meta.write(folder, a_model(installed.path(name)), n_shards=1, dtype=torch.bfloat16)
        return folder, by_the_libraries(folder / "tokenizer.model")
    return make


def from_json(change, *, make_inner=bytes_tokenizer, config=None, jinja=False, **fields):
    """A folder of transformers whose tokenizer.json was changed by `change`."""
    def make(folder):
        inner = make_inner()
        inner.add_special_tokens(["<|im_end|>"])
        inner = change(inner) or inner
        words = folder.parent / "words"
        words.mkdir()
        (words / "tokenizer.json").write_text(inner.to_str(), encoding="utf-8")
        notes = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>",
                 "eos_token": "</s>"} | ({} if jinja else {"chat_template": TEMPLATE})
        if jinja:
            (words / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
        (words / "tokenizer_config.json").write_text(json.dumps(notes | (config or {})))
        source = a_model(words, stop_ids=(2, inner.token_to_id("<|im_end|>")), sampling=SAMPLING)
        huggingface.write(folder, source, n_files=1, dtype=torch.float32)
        return folder, by_transformers(folder)
    return make


def begin_with_bos(inner: Tokenizer) -> None:
    inner.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)])


def bos_and_eos(inner: Tokenizer) -> None:
    inner.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> <s> $B </s>",
        special_tokens=[("<s>", 1), ("</s>", 2)])


def digits_alone(inner: Tokenizer) -> None:
    inner.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True), inner.pre_tokenizer])


def as_llama_3_cuts(inner: Tokenizer) -> None:
    begin_with_bos(inner)
    inner.model.ignore_merges = True
    inner.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(LLAMA3_PATTERN), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def as_it_is(inner: Tokenizer) -> None:
    return None


def never_a_prefix(inner: Tokenizer) -> None:
    inner.normalizer = None
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=False)


def from_gguf(folder):
    """The real model's vocabulary, before weights of no weight."""
    if installed.find("smollm2") is None:
        pytest.skip(installed.how_to_get("smollm2"))
    gguf.write(folder / "x.gguf", a_model(installed.path("smollm2")), kind="F16")
    return folder / "x.gguf", by_llama_cpp(installed.path("smollm2"))


SOURCES = {
    "Meta's, SentencePiece": in_metas_format("sentencepiece_32k"),
    "Meta's, Llama 3's ranks": in_metas_format("llama3"),
    "JSON, GPT-2's cut, no bos": from_json(as_it_is),
    "JSON, GPT-2's cut, bos": from_json(begin_with_bos, jinja=True),
    "JSON, bos and eos": from_json(bos_and_eos),
    "JSON, digits alone": from_json(digits_alone, config={"add_bos_token": False}),
    "JSON, Llama 3's cut": from_json(as_llama_3_cuts, jinja=True),
    "JSON, characters, Llama 2's": from_json(begin_with_bos, make_inner=spaces_tokenizer),
    "JSON, characters, no prefix": from_json(never_a_prefix, make_inner=spaces_tokenizer),
    "GGUF, SmolLM2's": from_gguf,
}
SPELLED = ("<s>a b</s>", "a<|im_end|>\nb", "<|im_start|>user\nHi<|im_end|>",
           "<|eot_id|><|begin_of_text|>x", "</s></s>  a")


@pytest.fixture(scope="module", params=SOURCES.values(), ids=SOURCES)
def source(request, tmp_path_factory):
    """A model in files, and how its own library reads its tokenizer."""
    folder = tmp_path_factory.mktemp("source") / "model"
    folder.mkdir()
    return request.param(folder)


# -- the targets ---------------------------------------------------------------------------------


def assert_read_alike(target: Reading, source: Reading) -> None:
    for what in ("bos", "eos", "ends", "template", "sampling"):
        assert getattr(target, what) == getattr(source, what), what
    for text in TEXTS:
        assert target.plain(text) == source.plain(text), text
        assert target.whole(text) == source.whole(text), text
    for text in SPELLED:
        assert target.special(text) == source.special(text), text


def test_transformers_reads_the_target_as_the_source_was_read(tmp_path, source):
    path, reading = source
    convert(path, tmp_path / "hf", format="hf")
    assert_read_alike(by_transformers(tmp_path / "hf"), reading)


def test_llama_cpp_reads_the_target_as_the_source_was_read(tmp_path, source):
    path, reading = source
    convert(path, tmp_path / "x.gguf", format="gguf")
    assert_read_alike(by_llama_cpp(tmp_path / "x.gguf"), reading)


@pytest.mark.parametrize("format", ["hf", "gguf", "meta"])
def test_we_read_the_target_as_the_source(tmp_path, source, format):
    path, _ = source
    convert(path, tmp_path / "target.gguf", format=format)
    before, after = (checkpoint.open_source(each) for each in (path, tmp_path / "target.gguf"))
    ours, again = (checkpoint.load_tokenizer(each, "x") for each in (before, after))
    ends = [(words.n_vocab, words.bos_id, words.eos_id, words.adds_bos, words.adds_eos,
             words.stop_ids) for words in (ours, again)]
    assert ends[0] == ends[1]
    assert [again.encode(text) for text in TEXTS] == [ours.encode(text) for text in TEXTS]
    assert tokenizer.carried.templates(after.tokenizer) == tokenizer.carried.templates(
        before.tokenizer)
    assert {**after.sampling} == {**before.sampling}
