"""GGUF files that lie, are broken or were made to do harm: one clear error each, and quickly."""

import struct
import time
import tracemalloc

import gguf as package
import pytest
from gguf_files import header, text, two_files, weights_of, with_count

from llama_edu import tokenizer
from llama_edu.formats.gguf import header as gguf_header
from llama_edu.formats.gguf import weights as gguf

AGAIN = "It is damaged or cut short; download it again"
U32, F32, STRING, LIST = (struct.pack("<I", kind) for kind in (4, 6, 8, 9))


@pytest.fixture(scope="module")
def contents(tmp_path_factory):
    return two_files(tmp_path_factory)


@pytest.fixture
def refused(tmp_path):
    """Checks that a file of these bytes is refused with this message, without much work."""
    def check(content: bytes, message: str, read=gguf.open_file) -> None:
        (tmp_path / "x.gguf").write_bytes(content)
        tracemalloc.start()
        started = time.process_time()
        try:
            with pytest.raises(ValueError, match=message):
                read(tmp_path / "x.gguf")
            assert tracemalloc.get_traced_memory()[1] < 50e6
        finally:
            tracemalloc.stop()
        assert time.process_time() - started < 5
    return check


def changed(content: bytes, field: str, value: bytes, *, kind: bytes) -> bytes:
    """The same file, where a number of this kind in a field, named llama.*, is another one."""
    place = text(f"llama.{field}") + kind
    assert content.count(place) == 1
    at = content.index(place) + len(place)
    return content[:at] + value + content[at + len(value):]


def listed(name: str, *dims: int, kind: int = 0, offset: int = 0) -> bytes:
    """A tensor in a list made by hand."""
    return text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)


# -- the header ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("content", "message"), [
    (b"", "it has 0 bytes; a header alone has 24. " + AGAIN),
    (b"GGUF\x03\0\0\0", "it has 8 bytes; a header alone has 24"),
    (b"\x80\x04pickle" + bytes(40), "it begins with b'.x80.x04pi', not b'GGUF'"),
    (header(version=1), "it has version 1; versions 2 and 3 can be read"),
    (header(version=99), "it has version 99; versions 2 and 3"),
    (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "its numbers are big-endian"),
    (header(n_tensors=2**60), f"it claims {2**60} tensors, and has 8 bytes for them"),
    (header(n_fields=2**60), f"it claims {2**60} fields, and has 0 bytes"),
    (header(bytes(100), n_fields=8), "it claims 8 fields, and has 100 bytes"),
    (header(struct.pack("<Q", 2**62), bytes(8), n_fields=1), f"promises a string of {2**62} bytes"),
    (header(text("x"), STRING, struct.pack("<Q", 9), n_fields=1), "a string of 9 bytes at byte 45"),
    (header(text("x"), STRING, bytes(4), n_fields=1), "it promises a string of .* must end by 41"),
    (header(text("x"), STRING, struct.pack("<Q", 1), b"\xff", n_fields=1), "byte 45 is not UTF-8"),
    (header(text("xx"), struct.pack("<I", 13), b"\0", n_fields=1), "'xx' is of type 13, which"),
    (header(text("x"), LIST, LIST, bytes(8), n_fields=1), "'x' is a list of type 9; lists of num"),
    (header(text("x"), LIST, bytes(4), struct.pack("<Q", 2**60), n_fields=1),
     f"claims {2**60} numbers in 'x', and has 0 bytes"),
    (header(text("x"), LIST, STRING, struct.pack("<Q", 2**40), bytes(800), n_fields=1),
     f"claims {2**40} strings in 'x', and has 800"),
    (header(*[text("x") + U32 + bytes(4)] * 2, n_fields=2), "it has two fields called 'x'"),
    (header(*[listed("x", 1)] * 2, n_tensors=2), "it has two tensors called 'x'"),
    (header(listed("x" * 65, 1), n_tensors=1), "called .x*.; up to 64 letters of ASCII"),
    (header(listed("x\n", 1), n_tensors=1), r"a tensor is called 'x.n'; up to 64 letters of ASCII"),
    (header(listed("x"), bytes(8), n_tensors=1), "x has 0 dimensions; 1 to 4 are possible"),
    (header(listed("x", *[1] * 100), n_tensors=1), "x has 100 dimensions; 1 to 4"),
    (header(text("general.alignment"), U32, bytes(4), n_fields=1), "general.alignment is 0; a pow"),
    (header(text("general.alignment"), U32, b"\x21\0\0\0", n_fields=1), "alignment is 33; a power"),
    (header(text("general.alignment"), U32, b"\0\0\0\x80", n_fields=1), "alignment is 2147483648"),
    (header(text("general.alignment"), STRING, text("32"), n_fields=1), "alignment is '32'; a pow"),
])
def test_a_header_that_lies_is_refused_before_anything_is_done(refused, content, message):
    refused(content, message)
    refused(content, "." if content[:4] != b"GGUF" else message, tokenizer.load)


def test_many_small_lists_have_no_more_room_than_one_large_one(refused, monkeypatch):
    monkeypatch.setattr(gguf_header, "MAX_ENTRIES", 1000)
    numbers = LIST + bytes(4) + struct.pack("<Q", 90) + bytes(90)
    fields = [text(f"x{i}") + numbers for i in range(20)]
    refused(header(*fields, n_fields=20), "claims 90 numbers in 'x10'")


def test_a_header_has_an_end_though_the_file_goes_on(refused, monkeypatch):
    monkeypatch.setattr(gguf_header, "MAX_BYTES", 100)
    refused(header(text("x"), STRING, text("y" * 200), n_fields=1), "the header must end by 100")


def test_a_folder_or_a_missing_file_is_named(tmp_path):
    for path in (tmp_path, tmp_path / "none.gguf"):
        with pytest.raises(ValueError, match="cannot be read .*; a GGUF file that you may read"):
            gguf.open_file(path)


def test_a_file_is_refused_wherever_it_is_cut(refused, contents):
    for content in contents:
        for at in (24, 100, 1_000, len(content) // 2, len(content) - 1):
            refused(content[:at], "claims|promises|lies at bytes")


def test_the_gguf_packages_own_reader_believes_its_file(tmp_path):
    # Why we have a reader of our own: it looks for 2^14 bytes that the file has not, one by one,
    # and from 2^60 of them it would not come back.
    lie = header(text("x"), LIST, bytes(4), struct.pack("<Q", 2**14), n_fields=1)
    (tmp_path / "x.gguf").write_bytes(lie)
    field = package.GGUFReader(tmp_path / "x.gguf").fields["x"]
    assert len(field.data) == 2**14


# -- tensors and config ----------------------------------------------------------------------------


@pytest.mark.parametrize(("field", "value", "message"), [
    ("block_count", 10**9, "block_count = 1000000000; 9 tensors a layer are needed, and it lists"),
    ("block_count", 0, "n_layers is 0; a whole number of 1 or more"),
    ("embedding_length", 2**31, "dim is 2147483648; no Llama has more"),
    ("embedding_length", 2**20, "head_count gives 262144, and in every Llama the two agree"),
    ("embedding_length", 33, "dim 33 does not split into 4 heads"),
    ("attention.head_count", 8, r"llama.rope.dimension_count = 8; .*gives 4, and in every Llama"),
    ("attention.head_count", 0, "n_heads is 0; a whole number"),
    ("attention.head_count_kv", 4, r"attention.wk.weight is \(16, 32\) in .*need \(32, 32\)"),
    ("feed_forward_length", 2**30, r"w1.weight is \(32, 32\) in the GGUF file; its fields need"),
    ("vocab_size", 7, "llama.vocab_size = 7; its embedding has 320 rows"),
    ("context_length", 0, "max_seq_len is 0; a whole number"),
])
def test_a_config_that_the_tensors_contradict_is_refused(refused, contents, field, value, message):
    refused(changed(contents[0], field, struct.pack("<I", value), kind=U32), message)


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_numbers_that_no_model_has_are_refused(refused, contents, value):
    for field, name in (("attention.layer_norm_rms_epsilon", "norm_eps"),
                        ("rope.freq_base", "rope_theta")):
        refused(changed(contents[0], field, struct.pack("<f", value), kind=F32),
                f"{name} is {value!r}; a positive number")


@pytest.mark.parametrize(("old", "new", "message"), [
    (text("llama.block_count"), text("llama.block_couns"), "no field llama.block_count; a Llama"),
    (STRING + text("llama"), STRING + text("qwen2"), "architecture = 'qwen2'; 'llama' is needed"),
    (text("llama.vocab_size"), text("llama.expert_cnt"), "token_embd"),
    (text("token_embd.weight"), text("token_embd.weighs"), "no token_embd.weight; a whole text"),
    (text("output.weight"), text("outpux.weight"), "called 'outpux.weight'; no text Llama has"),
    (text("blk.0.attn_q.weight"), text("blk.7.attn_q.weight"), "differ by 2, first layers.0.atten"),
    (text("blk.0.attn_q.weight"), text("blk.0.attn_q.lora_a"), "'blk.0.attn_q.lora_a'; no text"),
    (text("rope_freqs.weight"), text("rope_freqs.weighs"), "called 'rope_freqs.weighs'; no text"),
])
def test_names_that_no_llama_has_are_refused(refused, contents, old, new, message):
    assert contents[0].count(old) == 1
    if message == "token_embd":     # a field that nobody knows changes nothing
        return
    refused(contents[0].replace(old, new), message)


@pytest.mark.parametrize(("field", "value", "message"), [
    ("llama.expert_count", 8, "a Llama has 0. This package does not guess"),
    ("llama.attention.sliding_window", 4096, "sliding_window = 4096; a Llama has 0"),
    ("split.count", 3, "x.gguf says that it is one of 3 parts; the name they were published")])
def test_what_we_do_not_have_is_refused(refused, contents, field, value, message):
    more = text(field) + U32 + struct.pack("<I", value)
    n_fields, = struct.unpack_from("<Q", contents[0], 16)
    content = with_count(contents[0][:24] + more + contents[0][24:], "fields", n_fields + 1)
    refused(content, message)


def retold(content: bytes, name: str, *, dims=None, kind=None, offset=None) -> bytes:
    """The same file, whose list says other things of one tensor."""
    at = content.index(text(name) + struct.pack("<I", 2)) + len(text(name)) + 4
    old = struct.unpack_from("<2QIQ", content, at)
    *old_dims, old_kind, old_offset = old
    new = struct.pack("<2QIQ", *(dims or old_dims), old_kind if kind is None else kind,
                      old_offset if offset is None else offset)
    return content[:at] + new + content[at + 28:]


@pytest.mark.parametrize(("changes", "message"), [
    (dict(offset=2**63), "output.weight lies at bytes .* which are not free"),
    (dict(offset=7), r"output.weight lies at bytes .* in steps of 32.\. The file is cut"),
    (dict(offset=0), "lies at bytes .* which are not free"),
    (dict(dims=(2**62, 2**62)), "output.weight lies at bytes .* which are not free"),
    (dict(dims=(0, 32)), r"output.weight is \(32, 0\) in blocks of 32; whole blocks in every row"),
    (dict(dims=(33, 32)), r"output.weight is \(32, 33\) in blocks of 32; whole blocks"),
    (dict(dims=(32, 64)), r"output.weight is \(64, 32\) in the GGUF file; its fields need"),
    (dict(kind=24), "output.weight is stored as I8; F32, F16, BF16, .*, NVFP4 can be read. Take"),
    (dict(kind=9), "output.weight is stored as Q8_1; F32, F16"),
    (dict(kind=4), "output.weight is stored as kind 4; F32, F16"),
    (dict(kind=999), "output.weight is stored as kind 999; F32, F16"),
])
def test_a_tensor_that_lies_elsewhere_is_refused(refused, contents, changes, message):
    refused(retold(contents[0], "output.weight", **changes), message)


def test_a_stretch_that_nobody_published_is_refused(refused, contents, tmp_path):
    (tmp_path / "x.gguf").write_bytes(contents[0])
    found = gguf_header.read(tmp_path / "x.gguf")
    at = found.start + found.tensors["rope_freqs.weight"].offset
    factors = struct.pack("<4f", 1, 1, 1, 7)
    refused(contents[0][:at] + factors + contents[0][at + 16:], "stretches by 1 to 7; neither")
    refused(retold_factors(contents[0], 2), r"rope_freqs.weight is \(2,\) in .* each of 4 pairs")


def retold_factors(content: bytes, n: int) -> bytes:
    at = content.index(text("rope_freqs.weight")) + len(text("rope_freqs.weight")) + 4
    return content[:at] + struct.pack("<Q", n) + content[at + 8:]


@pytest.mark.parametrize("number", [b"\0\x7e", b"\0\x7c", b"\0\xfc"], ids=["nan", "inf", "-inf"])
def test_weights_that_are_not_finite_are_named(tmp_path, contents, number):
    (tmp_path / "x.gguf").write_bytes(contents[0])
    found = gguf_header.read(tmp_path / "x.gguf")
    at = found.start + found.tensors["blk.0.ffn_up.weight"].offset      # a scale, as float16
    (tmp_path / "x.gguf").write_bytes(contents[0][:at] + number + contents[0][at + 2:])
    with pytest.raises(ValueError, match="blk.0.ffn_up.weight holds NaN or infinity"):
        weights_of(gguf.open_file(tmp_path / "x.gguf"))


# -- vocabularies ----------------------------------------------------------------------------------


def with_fields(**fields: object) -> bytes:
    """A file without tensors, whose fields tokenizer.ggml.* are these."""
    writer = package.GGUFWriter(None, "llama")
    packed = []
    for name, value in fields.items():
        getattr(writer, gguf.ADDERS[type(value)])(f"tokenizer.ggml.{name}", value)
    for name, value in writer.kv_data[0].items():
        packed.append(text(name) + bytes(writer._pack_val(value.value, value.type, add_vtype=True)))
    return header(*packed, n_fields=len(packed))


BYTES_, CHARACTERS = dict(model="gpt2", pre="llama-bpe"), dict(model="llama")


@pytest.mark.parametrize(("fields", "message"), [
    ({}, "tokenizer.ggml.model is None; one of llama, gpt2 is needed"),
    (dict(model="bert"), "tokenizer.ggml.model is 'bert'; one of llama, gpt2"),
    (dict(model=["llama"]), r"tokenizer.ggml.model is \['llama'\]; one of"),
    (BYTES_, "it has no list of pieces. Download the file again"),
    (BYTES_ | dict(tokens="abc"), "it has no list of pieces"),
    (BYTES_ | dict(tokens=[1, 2]), "it has no list of pieces"),
    (BYTES_ | dict(tokens=["a", "b", "a"]), "it has the piece 'a' twice"),
    (BYTES_ | dict(tokens=["a"], pre="qwen9"), "tokenizer.ggml.pre is 'qwen9'; one of llama-bpe"),
    (BYTES_ | dict(tokens=["a"], pre=7), "tokenizer.ggml.pre is 7; one of llama-bpe"),
    (BYTES_ | dict(tokens=["a"], merges=[1]), "its merges are not a list of strings"),
    (BYTES_ | dict(tokens=["a"], merges=["aa"]), "its merge 'aa' is not two pieces with a space"),
    (BYTES_ | dict(tokens=["a"], merges=["a a a"]), "its merge 'a a a' is not two pieces"),
    (BYTES_ | dict(tokens=["a"], merges=["a b"]), "its merges do not fit its pieces"),
    (BYTES_ | dict(tokens=["a"], token_type=[1, 1]), "it has no list of 1 kinds from 1 to 6"),
    (BYTES_ | dict(tokens=["a"], token_type=[9]), "it has no list of 1 kinds from 1 to 6"),
    (BYTES_ | dict(tokens=["a"], bos_token_id=1), "bos_token_id is 1, and there are 1 pieces"),
    (BYTES_ | dict(tokens=[":"], bos_token_id=0), r"no text can stand between its tokens 0 and"),
    (BYTES_ | dict(tokens=["a"], eos_token_id="a"), "eos_token_id is 'a', and there are 1"),
    (CHARACTERS | dict(tokens=["a"]), "it has no list of 1 scores, one for each piece"),
    (CHARACTERS | dict(tokens=["a"], scores=[float("nan")]), "it has no list of 1 scores"),
    (CHARACTERS | dict(tokens=["a"], scores=[0.0]), "bos_token_id is 1, and there are 1 pieces"),
    (CHARACTERS | dict(tokens=["a", "b", "c"], scores=[0.0] * 3), "SentencePiece refuses"),
    (CHARACTERS | dict(tokens=["a", "a", "c"], scores=[0.0] * 3), "SentencePiece refuses"),
])
def test_a_vocabulary_that_cannot_work_is_refused(refused, fields, message):
    refused(with_fields(**fields), message, tokenizer.load)


def test_a_vocabulary_of_another_model_is_refused(refused, contents):
    more, name = contents[0], "one more than before"       # 32 bytes more in all: a whole step
    for field, row in (("tokens", text(name)), ("token_type", struct.pack("<i", 1))):
        at = more.index(text(f"tokenizer.ggml.{field}")) + len(text(f"tokenizer.ggml.{field}")) + 8
        n = struct.unpack_from("<Q", more, at)[0]
        more = more[:at] + struct.pack("<Q", n + 1) + row + more[at + 8:]
    refused(more, "has 321 tokens; the embedding has 320 rows. They belong to two models")
