"""What an error tells a person to do works when it is done."""

import re
import subprocess
import sys

import pytest
import torch
from folders import change_json, save_folder
from gguf_files import source_of
from models import loud_model, some_tokens, tiny_config
from safetensors.torch import load_file

from llama_edu import checkpoint
from llama_edu.formats.gguf import weights as gguf


@pytest.fixture
def model(tmp_path):
    """A folder of transformers, and its logits."""
    save_folder(tmp_path / "model")
    return tmp_path / "model", logits(checkpoint.load(tmp_path / "model")[0])


@torch.inference_mode()
def logits(model):
    return model(some_tokens(model.config))


def follow(message, folder):
    """Type the command of a message, with a folder in the place of NEW_FOLDER."""
    code = re.search(r'python -c "(.*)"', message)[1].replace("NEW_FOLDER", str(folder))
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def as_a_pickle(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def test_a_folder_of_pickles_is_written_anew_with_transformers(model, tmp_path):
    as_a_pickle(model[0])
    with pytest.raises(ValueError, match="in pytorch_model.bin, a pickle") as refused:
        checkpoint.load(model[0])
    follow(str(refused.value), tmp_path / "new")
    assert torch.equal(logits(checkpoint.load(tmp_path / "new")[0]), model[1])


def test_a_gguf_without_a_vocabulary_takes_one_that_is_brought(model, tmp_path):
    config = tiny_config(vocab_size=checkpoint.open_source(model[0]).config.vocab_size)
    gguf.write(tmp_path / "x.gguf", source_of(loud_model(config)), kind="F32")
    with pytest.raises(ValueError, match=r"has no tokenizer; .*load\(\.\.\., tokenizer=\.\.\.\)"):
        checkpoint.load(tmp_path / "x.gguf")
    _, words = checkpoint.load(tmp_path / "x.gguf", tokenizer=model[0])
    assert words.encode("llama") == checkpoint.load(model[0])[1].encode("llama")


def test_a_gguf_with_a_foreign_cut_takes_a_tokenizer_that_is_brought(model, tmp_path):
    gguf.write(tmp_path / "x.gguf", checkpoint.open_source(model[0]), kind="F32")
    content = (tmp_path / "x.gguf").read_bytes()
    (tmp_path / "x.gguf").write_bytes(content.replace(b"gpt-2", b"new-1"))
    with pytest.raises(ValueError, match=r"pre is 'new-1'.*tokenizer=FOLDER"):
        checkpoint.load(tmp_path / "x.gguf")
    _, words = checkpoint.load(tmp_path / "x.gguf", tokenizer=model[0])
    assert words.decode(words.encode("llama")) == "llama"


def test_a_config_of_one_line_beside_a_gguf_does_not_hide_it(model, tmp_path):
    gguf.write(tmp_path / "ggufs" / "x.gguf", checkpoint.open_source(model[0]), kind="F32")
    (tmp_path / "ggufs" / "config.json").write_text('{"model_type": "llama"}', encoding="utf-8")
    assert torch.equal(logits(checkpoint.load(tmp_path / "ggufs")[0]), model[1])


def test_a_quantised_folder_is_refused_by_name_and_not_to_be_edited(model):
    change_json(model[0] / "config.json", quantization_config={"quant_method": "gptq", "bits": 4})
    with pytest.raises(ValueError, match="quant_method = 'gptq'") as refused:
        checkpoint.load(model[0])
    assert "unquantised model, or a GGUF file" in str(refused.value)
    assert "emove" not in str(refused.value)
