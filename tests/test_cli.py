"""The command `llama-edu`: text equal to transformers', and one sentence for every mistake."""

import io
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from folders import (
    bytes_tokenizer,
    change_json,
    save_folder,
    spaces_tokenizer,
    text_by_transformers,
)
from models import STRETCH_8, STRETCH_32
from safetensors.torch import load_file, save_file

from llama_edu import checkpoint, claims
from llama_edu.cli import main
from llama_edu.family.releases import RELEASES
from llama_edu.formats.gguf import header as gguf_header
from llama_edu.formats.gguf import weights as gguf
from llama_edu.formats.gguf.file_types import FILE_TYPES, data_bytes

TEXT = "Once upon a time, the llama"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("folder")
    save_folder(path)
    return path


@pytest.fixture
def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


@pytest.fixture
def failing(capsys):
    """Run a command that must fail: exit code 2, nothing on stdout, one sentence on stderr."""
    def run(*arguments):
        code = main([str(a) for a in arguments])
        out, err = capsys.readouterr()
        assert code == 2
        assert err.startswith("llama-edu: ")
        assert err.count("\n") == 1
        assert "Traceback" not in err
        return out, err
    return run


def generated(capsys, folder, *arguments, text=TEXT):
    capsys.readouterr()     # the progress bars of transformers
    code = main(["generate", "--model", str(folder), text, *map(str, arguments)])
    out, err = capsys.readouterr()
    assert code == 0
    assert err == "" or err.startswith("llama-edu: cut after ")
    return out


# -- generate ----------------------------------------------------------------------------------

FOLDERS = {
    "plain": {},
    "several files": {"max_shard_size": "100KB"},
    "tied": {"tied_embeddings": True},
    "stretched by 8": {"rope_scaling": STRETCH_8, "max_seq_len": 16_384},
    "tied, stretched by 32": {"rope_scaling": STRETCH_32, "max_seq_len": 16_384,
                              "tied_embeddings": True},
    "every head its own keys": {"n_kv_heads": 4, "rope_theta": 1e4},
    "bfloat16 files": {"dtype": torch.bfloat16},
}


@pytest.mark.parametrize("inner", [bytes_tokenizer, spaces_tokenizer], ids=["bytes", "spaces"])
@pytest.mark.parametrize("kind", FOLDERS.values(), ids=FOLDERS.keys())
def test_greedy_text_equals_that_of_transformers(tmp_path, capsys, kind, inner):
    save_folder(tmp_path, inner(), **kind)
    theirs = text_by_transformers(tmp_path, TEXT, max_new=40)
    assert len(theirs) > len(TEXT) + 20
    assert generated(capsys, tmp_path, "--max-new", 40) == theirs + "\n"


def test_a_folder_of_an_older_transformers_gives_the_same_text(tmp_path, capsys):
    save_folder(tmp_path, rope_scaling=STRETCH_8, max_seq_len=16_384)
    now = generated(capsys, tmp_path, "--max-new", 40)
    file = tmp_path / "config.json"
    change_json(file, rope_parameters=None, rope_theta=5e5, torch_dtype="float32", dtype=None,
                rope_scaling={"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                              "original_max_position_embeddings": 8192, "rope_type": "llama3"})
    weights = load_file(tmp_path / "model.safetensors")
    weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(8)
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert generated(capsys, tmp_path, "--max-new", 40) == now


def test_text_outside_the_corpus_is_written_back_whole(folder, capsys):
    text = "日本語 🦙 Süße"
    out = generated(capsys, folder, "--max-new", 5, text=text)
    assert out == text_by_transformers(folder, text, max_new=5) + "\n"


def test_a_seed_decides_a_random_text(folder, capsys):
    warm = ("--temperature", 1.5, "--top-p", 0.95, "--max-new", 20)
    one, two, other = (generated(capsys, folder, *warm, "--seed", seed) for seed in (1, 1, 2))
    assert one == two != other


def test_a_tiny_top_p_is_greedy(folder, capsys):
    greedy = generated(capsys, folder, "--max-new", 20)
    assert generated(capsys, folder, "--temperature", 1, "--top-p", 1e-6, "--max-new", 20) == greedy


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_sixteen_bits_run(folder, capsys, dtype):
    assert generated(capsys, folder, "--max-new", 3, "--dtype", dtype).startswith(TEXT)


# -- mistakes ----------------------------------------------------------------------------------

@pytest.mark.parametrize(("arguments", "message"), [
    (("--max-new", 0), "0 new tokens were asked for; 1 or more is needed"),
    (("--max-new", -4), "-4 new tokens were asked for"),
    (("--temperature", -1), "--temperature -1 was given; 0 or a number from 1e-06 on is needed"),
    (("--temperature", "1e-9"), "0 takes the likeliest token always"),
    (("--temperature", "nan"), "--temperature nan was given"),
    (("--temperature", "inf"), "--temperature inf was given"),
    (("--top-p", 0), "--top-p 0 was given"),
    (("--top-p", 1.5), "--top-p 1.5 was given"),
    (("--top-p", "nan", "--temperature", 1), "--top-p nan was given"),
    (("--top-k", 0), "--top-k 0 was given; 1 or more is needed"),
    (("--device", "cuda:99"), "device 'cuda:99' cannot be used on this machine"),
    (("--device", "meta"), "device 'meta' cannot be used on this machine"),
    (("--device", "toaster"), "device 'toaster' cannot be used on this machine"),
    (("--seed", 2**70), "a whole number from 0 to 2**63 - 1 is needed"),
    (("--seed", -1), "seed -1 was given"),
])
def test_an_impossible_option_is_answered_in_one_sentence(failing, folder, arguments, message):
    out, err = failing("generate", "--model", folder, TEXT, *arguments)
    assert message in err
    assert out == ""


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_cuda_without_a_gpu_is_answered_in_one_sentence(failing, folder):
    _, err = failing("generate", "--model", folder, TEXT, "--device", "cuda")
    assert "device 'cuda' cannot be used on this machine; cpu always can" in err


def test_a_prompt_longer_than_the_context(failing, folder):
    _, err = failing("generate", "--model", folder, "llama " * 500, "--max-new", 1)
    assert "this model's context is 128. Shorten the prompt" in err


def test_an_empty_text_without_a_first_token(failing, copy):
    change_json(copy / "tokenizer.json", post_processor=None)
    _, err = failing("generate", "--model", copy, "")
    assert "the text is empty, and texts of this model begin with no token of their own" in err


def test_weights_that_are_no_numbers(failing, copy):
    weights = load_file(copy / "model.safetensors")
    weights["model.norm.weight"][0] = float("nan")
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    _, err = failing("generate", "--model", copy, TEXT)
    assert "norm.weight holds NaN or infinity" in err


def test_no_folder(failing, tmp_path):
    _, err = failing("generate", "--model", tmp_path / "nowhere", TEXT)
    assert "there is no folder" in err


SPOILED = {
    "config.json": (b"{", "config.json is not JSON"),
    "model.safetensors": (b"1234", "cannot be read as safetensors"),
    "tokenizer.json": (b"{}", "is not a tokenizer.json that can be read"),
    "tokenizer_config.json": (b"nonsense", "tokenizer_config.json is not JSON"),
    "generation_config.json": (b"[", "generation_config.json is not JSON"),
}


@pytest.mark.parametrize("name", SPOILED)
def test_a_broken_file_is_answered_in_one_sentence(failing, copy, name):
    content, message = SPOILED[name]
    (copy / name).write_bytes(content)
    out, err = failing("generate", "--model", copy, TEXT)
    assert message in err
    assert out == ""


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_missing_file_is_answered_in_one_sentence(failing, copy, name):
    (copy / name).unlink()
    _, err = failing("generate", "--model", copy, TEXT)
    assert name in err


def test_a_config_of_another_family(failing, copy):
    change_json(copy / "config.json", model_type="gpt2")
    assert "model_type = 'gpt2'; a Llama has 'llama'" in failing(
        "generate", "--model", copy, TEXT)[1]


def test_the_installed_command_fails_without_a_traceback(tmp_path):
    """The same road as a learner's, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", "import sys; from llama_edu.cli import main; sys.exit(main())",
         "generate", "--model", str(tmp_path / "nowhere"), "hello"],
        capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("llama-edu: there is no folder")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("arguments", [
    [], ["sing"], ["generate"], ["generate", "--model", "x"],
    ["generate", "--model", "x", "text", "--max-new", "many"],
    ["generate", "--model", "x", "text", "--dtype", "int3"]])
def test_a_command_that_cannot_be_understood_ends_with_2(capsys, arguments):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: llama-edu" in capsys.readouterr().err


# -- check-claims ------------------------------------------------------------------------------

def test_check_claims_prints_a_table_and_the_sums(capsys):
    assert main(["check-claims", "--writeup", "B", "--verdict", "wrong"]) == 0
    out = capsys.readouterr().out
    assert "B18    wrong" in out
    assert "840.0 hours" in out
    assert "0 of them disagree" in out


def test_check_claims_fails_where_a_value_is_another(capsys, monkeypatch):
    hours = claims.find("B18")
    monkeypatch.setattr(claims, "select", lambda **_: (replace(hours, value=35.0),))
    assert main(["check-claims"]) == 1
    assert "1 of them disagree" in capsys.readouterr().out


def test_a_filter_that_fits_nothing_is_no_success(failing):
    assert "no claim fits all that was asked" in failing("check-claims", "--chapter", "99")[1]


def test_one_claim_is_shown_in_full(capsys, failing):
    assert main(["check-claims", "B18"]) == 0
    assert "gives 840.0 hours" in capsys.readouterr().out
    assert "no claim is called 'X1'" in failing("check-claims", "X1")[1]


# -- info --------------------------------------------------------------------------------------

def test_info_lists_every_release(capsys):
    assert main(["info"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [r.id for r in RELEASES]
    assert "1,235,814,400 parameters" in next(x for x in lines if x.startswith("llama-3.2-1b "))


@pytest.mark.parametrize("r", RELEASES, ids=lambda r: r.id)
def test_info_of_every_release_prints(capsys, r):
    assert main(["info", r.id]) == 0
    assert capsys.readouterr().out.startswith(r.name + "\n")


def test_info_of_one_release_has_its_numbers(capsys):
    main(["info", "Llama-3.2-1B"])
    out = capsys.readouterr().out
    for row in ("total             1,235,814,400", "output          0 (tied)",
                "rope              theta 500000, scaling factor 32",
                "16 bits               2.30 GiB", "per token         32,768 bytes",
                "context           131,072 tokens"):
        assert row in out


# -- chat --------------------------------------------------------------------------------------

def test_chat_works_on_a_fresh_machine(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.StringIO("Once upon a time\n"))
    assert main(["chat", "--temperature", "0", "--max-new", "9"]) == 0
    out, err = capsys.readouterr()
    assert "> " in out
    assert "lived" in out
    assert "(Cut after 9 tokens. An empty line goes on.)" in out
    assert err == ""


def test_chat_in_a_format_whose_pieces_are_missing(failing):
    out, err = failing("chat", "--model", checkpoint.TALES, "--format", "llama-3")
    assert "the format llama-3 does not fit this model" in err


def test_a_pipe_that_closes_early_is_no_error():
    child = subprocess.run(
        [sys.executable, "-c", "import os, sys; r, w = os.pipe(); os.close(r); os.dup2(w, 1);"
         "from llama_edu.cli import main; sys.exit(main(['info']))"],
        stderr=subprocess.PIPE, text=True, check=False)
    assert (child.returncode, child.stderr) == (0, "")


def test_chat_with_a_folder_needs_its_format(failing, folder):
    _, err = failing("chat", "--model", folder)
    assert "--model was given without --format, and the files of this model do not say" in err


# -- a tokenizer that is brought -----------------------------------------------------------------

def test_a_tokenizer_is_brought_where_the_file_has_none(folder, tmp_path, capsys, failing):
    source = replace(checkpoint.open_source(folder), tokenizer=None)
    gguf.write(tmp_path / "x.gguf", source, kind="F32")
    assert "has no tokenizer" in failing("generate", "--model", tmp_path / "x.gguf", TEXT)[1]
    said = generated(capsys, tmp_path / "x.gguf", "--tokenizer", folder, "--max-new", 8)
    assert said == generated(capsys, folder, "--max-new", 8)
    assert main(["convert", str(tmp_path / "x.gguf"), str(tmp_path / "hf"), "--format", "hf",
                 "--tokenizer", str(folder)]) == 0
    capsys.readouterr()
    assert generated(capsys, tmp_path / "hf", "--max-new", 8) == said


def test_what_a_conversion_loses_is_said(tmp_path, capsys):
    save_folder(tmp_path / "newer", spaces_tokenizer())
    change_json(tmp_path / "newer" / "tokenizer.json", normalizer=None, pre_tokenizer={
        "type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False})
    assert main(["convert", str(tmp_path / "newer"), str(tmp_path / "x.gguf"),
                 "--format", "gguf"]) == 0
    out, err = capsys.readouterr()
    assert out.endswith("is written.\n")
    assert "llama-edu: tokenizer.json puts no space before a text that begins with one, or" in err


# -- convert -----------------------------------------------------------------------------------

def test_a_converted_model_goes_on_as_the_original_does(folder, tmp_path, capsys):
    said = []
    for model in (folder, tmp_path / "x.gguf", tmp_path / "meta"):
        if model != folder:
            format = "gguf" if model.suffix else "meta"
            assert main(["convert", str(folder), str(model), "--format", format]) == 0
            assert capsys.readouterr().out == f"{model} is written.\n"
        assert main(["generate", "--model", str(model), "--max-new", "8", TEXT]) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1] == said[2]


@pytest.mark.parametrize("option", ["--dtype", "--type"])
def test_a_conversion_takes_llama_cpps_names_in_any_case(folder, tmp_path, capsys, option):
    for name in ("Q4_K_M", "q8_0"):
        file = tmp_path / f"{name}.gguf"
        assert main(["convert", str(folder), str(file), "--format", "gguf", option, name]) == 0
        header = gguf_header.read(file)
        config = checkpoint.open_source(file).config
        assert file.stat().st_size == header.start + data_bytes(config, name.upper())
        assert header.fields["general.file_type"] == FILE_TYPES[name.upper()].number
        assert generated(capsys, file, "--max-new", 4)


def test_a_type_that_is_not_there_is_answered_with_the_nearest(folder, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["convert", str(folder), str(tmp_path / "x"), "--format", "gguf", "--type", "Q4_K"])
    assert "invalid choice: 'q4_k'" in (told := capsys.readouterr().err)
    assert "q4_k_m" in told.rpartition(").")[2]


def test_convert_onto_what_is_there(failing, folder):
    assert "exists already" in failing("convert", folder, folder, "--format", "hf")[1]


# -- info --------------------------------------------------------------------------------------

def test_info_of_the_withheld_model_says_never(capsys):
    main(["info", "llama-2-34b"])
    assert "released          never" in capsys.readouterr().out


def test_info_of_an_unknown_release(failing):
    _, err = failing("info", "lama-3.1-8b")
    assert "no release is called 'lama-3.1-8b'; `llama-edu info` lists" in err
    assert "Did you mean llama-3.1-8b or" in err
    assert "no model is called 'smolm2'. Did you mean smollm2?" in failing("info", "smolm2")[1]
