"""Adapters between this package and peft, with equal logits; on models of every format."""

import json

import peft
import pytest
import torch
from folders import change_json
from models import distance, loud_model, some_tokens, tiny_config
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

from llama_edu import checkpoint
from llama_edu.cli import main
from llama_edu.formats.convert import convert
from llama_edu.training import adapter_files
from llama_edu.training.lora import add_lora, load_adapter, merge, paths, save_adapter

TOLERANCE = 1e-4    # of the reference's scale: float32 sums taken in another order differ by 1e-6
PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@pytest.fixture(scope="module")
def tales(tmp_path_factory):
    """The shipped model as our own writer exports it for transformers."""
    folder = tmp_path_factory.mktemp("tales") / "hf"
    convert("tales", folder, format="hf", dtype="float32")
    return folder


@pytest.fixture(scope="module")
def tokens():
    return torch.randint(300, (2, 40), generator=torch.Generator().manual_seed(0))


def loud_paths(model):
    for n, path in enumerate(paths(model).values()):
        gen = torch.Generator().manual_seed(n)
        path.b.data = 0.1 * torch.randn(path.b.shape, generator=gen)
    return model


def adapted_tales(where="all", **sizes):
    model = checkpoint.load_model("tales")
    add_lora(model, where, **{"rank": 4, "alpha": 6.0} | sizes)
    return loud_paths(model)


def by_peft(base, folder):
    return peft.PeftModel.from_pretrained(LlamaForCausalLM.from_pretrained(base), folder).eval()


@torch.inference_mode()
def peft_logits(base, folder, tokens):
    return by_peft(base, folder)(tokens).logits


@torch.inference_mode()
def logits(model, tokens):
    return model(tokens)


# -- from here to peft -------------------------------------------------------------------------

@pytest.mark.parametrize("where", ["all", "wq", "attention", r"layers\.[02]\..*w[qk2]"])
def test_peft_loads_our_adapter_with_equal_logits(tales, tokens, tmp_path, where, recwarn):
    model = adapted_tales(where)
    save_adapter(tmp_path / "adapter", model)
    theirs = peft_logits(tales, tmp_path / "adapter", tokens)
    assert not [w for w in recwarn if "adapter" in str(w.message)]      # of keys missing or odd
    assert distance(logits(model, tokens), theirs) < TOLERANCE
    assert distance(logits(checkpoint.load_model("tales"), tokens), theirs) > 0.01


def test_the_rows_of_queries_and_keys_are_reordered_or_logits_differ(tales, tokens, tmp_path,
                                                                     monkeypatch):
    model = adapted_tales("wq wk")
    monkeypatch.setattr(adapter_files, "_rows", lambda layer, b, *_, **__: b)
    save_adapter(tmp_path / "adapter", model)
    assert distance(logits(model, tokens), peft_logits(tales, tmp_path / "adapter", tokens)) > 0.01


def test_the_config_says_layers_in_few_words_where_it_can(tmp_path):
    save_adapter(tmp_path / "a", adapted_tales("attention"))
    config = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    assert config["target_modules"] == ["k_proj", "o_proj", "q_proj", "v_proj"]
    assert (config["r"], config["lora_alpha"], config["use_rslora"]) == (4, 6.0, False)
    save_adapter(tmp_path / "b", adapted_tales(r"layers\.1\..*wq"))
    config = json.loads((tmp_path / "b" / "adapter_config.json").read_text())
    assert config["target_modules"] == ["model.layers.1.self_attn.q_proj"]


def test_an_adapter_of_the_output_is_lm_heads(tmp_path):
    model = loud_model(tiny_config())
    add_lora(model, "output", rank=2, alpha=4)
    save_adapter(tmp_path / "a", loud_paths(model))
    assert load_file(tmp_path / "a" / adapter_files.WEIGHTS).keys() == {
        f"base_model.model.lm_head.lora_{half}.weight" for half in "AB"}
    again = loud_model(tiny_config())
    assert load_adapter(again, tmp_path / "a") == ["output"]
    assert torch.equal(again(some_tokens(model.config)), model(some_tokens(model.config)))


# -- from peft to here -------------------------------------------------------------------------

@pytest.fixture(scope="module")
def of_peft(tales, tmp_path_factory):
    """An adapter that peft made: all seven layers, each with a path that does something."""
    folder = tmp_path_factory.mktemp("peft")
    torch.manual_seed(0)
    made = peft.get_peft_model(LlamaForCausalLM.from_pretrained(tales), peft.LoraConfig(
        r=8, lora_alpha=20, lora_dropout=0.1, target_modules=PROJECTIONS, task_type="CAUSAL_LM"))
    for name, w in made.named_parameters():
        if "lora_B" in name:
            w.data = 0.1 * torch.randn(w.shape)
    made.save_pretrained(folder)
    return folder


def test_an_adapter_of_peft_gives_its_logits_here(tales, of_peft, tokens):
    model = checkpoint.load_model("tales")
    names = load_adapter(model, of_peft)
    assert len(names) == 7 * model.config.n_layers
    theirs = peft_logits(tales, of_peft, tokens)
    assert distance(logits(model, tokens), theirs) < TOLERANCE
    merge(model)
    assert distance(logits(model, tokens), theirs) < TOLERANCE


def test_there_and_back_is_exact(of_peft, tmp_path):
    model = checkpoint.load_model("tales")
    load_adapter(model, of_peft)
    save_adapter(tmp_path / "again", model)
    ours, theirs = (load_file(f / adapter_files.WEIGHTS) for f in (tmp_path / "again", of_peft))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(w, theirs[name]) for name, w in ours.items())


def test_a_loaded_adapter_goes_on_learning_and_nothing_else_does(of_peft):
    model = checkpoint.load_model("tales")
    names = load_adapter(model, of_peft)
    learnt = {name for name, p in model.named_parameters() if p.requires_grad}
    assert learnt == {f"{name}.{half}" for name in names for half in "ab"}


def test_a_second_save_replaces_the_first(tmp_path):
    for where in ("all", "wq"):
        save_adapter(tmp_path / "a", adapted_tales(where))
    model = checkpoint.load_model("tales")
    assert len(load_adapter(model, tmp_path / "a")) == model.config.n_layers


# -- on models of every format -----------------------------------------------------------------

@pytest.mark.parametrize(("format", "dtype"), [
    ("hf", None), ("meta", None), ("gguf", None), ("gguf", "q8_0")], ids=str)
def test_an_adapter_fits_a_model_of_any_format_and_convert_merges_it(
        of_peft, tokens, tmp_path, format, dtype, capsys):
    convert("tales", tmp_path / "base.gguf", format=format, dtype=dtype)
    model = checkpoint.load_model(tmp_path / "base.gguf")
    load_adapter(model, of_peft)
    expected = logits(model, tokens)
    assert main(["convert", str(tmp_path / "base.gguf"), str(tmp_path / "merged"), "--format", "hf",
                 "--dtype", "float32", "--adapter", str(of_peft)]) == 0
    merged = checkpoint.load_model(tmp_path / "merged")
    assert distance(logits(merged, tokens), expected) < TOLERANCE
    theirs = LlamaForCausalLM.from_pretrained(tmp_path / "merged")
    assert distance(theirs(tokens).logits.detach(), expected) < TOLERANCE


def test_a_merged_model_keeps_the_dtype_of_its_files_and_is_rounded_once(of_peft, tmp_path):
    convert("tales", tmp_path / "merged", format="hf", adapter=of_peft)
    base, merged = (checkpoint.open_source(p).tensors for p in ("tales", tmp_path / "merged"))
    assert {w.dtype for w in (*base.values(), *merged.values())} == {torch.bfloat16}
    model = checkpoint.load_model("tales")
    load_adapter(model, of_peft)
    merge(model)
    for name, w in model.state_dict().items():
        assert torch.equal(merged[name].read(), w.bfloat16()), name


def test_a_merge_that_convert_refuses_leaves_nothing(of_peft, tmp_path, capsys):
    assert main(["convert", "tales", str(tmp_path / "to"), "--format", "hf", "--adapter",
                 str(tmp_path / "nowhere")]) == 2
    assert "there is no adapter_config.json in" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


# -- what is refused ---------------------------------------------------------------------------

@pytest.fixture
def folder(of_peft, tmp_path):
    for file in (adapter_files.CONFIG, adapter_files.WEIGHTS):
        (tmp_path / file).write_bytes((of_peft / file).read_bytes())
    return tmp_path


def refused(folder, message, model=None):
    with pytest.raises(ValueError, match=message):
        load_adapter(model or checkpoint.load_model("tales"), folder)


@pytest.mark.parametrize(("changes", "message"), [
    ({"use_rslora": True}, "says use_rslora = True; plain LoRA, .* Merge this adapter with peft"),
    ({"use_dora": True}, "says use_dora = True"),
    ({"rank_pattern": {"q_proj": 2}}, "says rank_pattern = {'q_proj': 2}"),
    ({"alpha_pattern": {"q_proj": 2}}, "says alpha_pattern"),
    ({"modules_to_save": ["lm_head"]}, "says modules_to_save"),
    ({"bias": "all"}, "says bias = 'all'"),
    ({"init_lora_weights": "pissa"}, "says init_lora_weights = 'pissa'"),
    ({"something_new": 3}, "says something_new = 3"),
    ({"peft_type": "LOHA"}, "says peft_type = 'LOHA'; adapters of the kind 'LORA' are read here"),
    ({"peft_type": None}, "says peft_type = None"),
    ({"r": 0}, "gives rank 0 and alpha 20; a whole number from 1 on"),
    ({"lora_alpha": "20"}, "gives rank 8 and alpha '20'"),
    ({"r": 4}, r"the adapter has {'A': \(8, 256\), .* rank 4 need A \(4, 256\)"),
])
def test_what_is_no_plain_lora_is_refused_by_name(folder, changes, message):
    change_json(folder / adapter_files.CONFIG, **changes)
    refused(folder, message)


@pytest.mark.parametrize("changes", [
    {"use_dora": False, "something_new": None, "another": {}}, {"init_lora_weights": "gaussian"},
    {"base_model_name_or_path": "somewhere"}, {"lora_dropout": 0.5}])
def test_what_changes_nothing_is_read(folder, changes):
    change_json(folder / adapter_files.CONFIG, **changes)
    load_adapter(checkpoint.load_model("tales"), folder)


def respelled(folder, change):
    tensors = load_file(folder / adapter_files.WEIGHTS)
    save_file(change(tensors), folder / adapter_files.WEIGHTS, metadata={"format": "pt"})


FIRST = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


def renamed(name):
    return lambda tensors: {name if n == FIRST else n: w for n, w in tensors.items()}


@pytest.mark.parametrize(("change", "message"), [
    (renamed("x.lora_A.weight"), "holds x.lora_A.weight, which is not A or B of a linear layer"),
    (renamed("model.layers.0.self_attn.rotary_emb.inv_freq"), "which is not A or B of a linear"),
    (renamed(FIRST.replace("lora_A", "lora_C")), "which is not A or B"),
    (renamed(FIRST.replace("layers.0", "layers.77")), "a path for layers.77.attention.wq; this"),
    (renamed("base_model.model.model.embed_tokens.lora_A.weight"), "a path for tok_embeddings"),
    (renamed("base_model.model.model.norm.lora_A.weight"), "a path for norm; this model has no"),
    (lambda tensors: {n: w for n, w in tensors.items() if n != FIRST}, r"adapter has {'B': "),
    (lambda tensors: tensors | {FIRST: tensors[FIRST] / 0}, "holds NaN or infinity"),
    (lambda tensors: {}, "holds no tensors; A and B of one layer or more are needed"),
])
def test_weights_that_fit_nothing_are_refused(folder, change, message):
    respelled(folder, change)
    refused(folder, message)


def test_an_adapter_of_another_size_of_model_is_refused(folder):
    refused(folder, r"has {'A': \(8, 256\), 'B': \(96, 8\)} for layers.0.feed_forward.w2; a layer "
                    r"of 64 times 192 and .* belong to this", loud_model(tiny_config(n_layers=9)))


@pytest.mark.parametrize("missing", [adapter_files.CONFIG, adapter_files.WEIGHTS])
def test_half_a_folder_is_refused(folder, missing):
    (folder / missing).unlink()
    refused(folder, f"there is no {missing} in .*; a folder of save_adapter, or of peft's")
