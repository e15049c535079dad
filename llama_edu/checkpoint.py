"""From a folder of files to a model that runs, and back."""

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from . import tokenizer
from .formats import huggingface
from .model import Llama
from .tokenizer import JsonTokenizer
from .tokenizer.json_made import files

TALES = Path(__file__).parent / "assets" / "tales"      # a small model that comes with the package


def load(path: str | Path, *, device: torch.device | str = "cpu",
         dtype: torch.dtype = torch.float32) -> tuple[Llama, tokenizer.Tokenizer]:
    """The model and the tokenizer in a folder that `transformers` saved.

    The model is built without memory and filled tensor by tensor, straight to `device` and
    `dtype`. Raises ValueError, and returns nothing, when a tensor is missing, left over or of
    another shape than config.json says.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise ValueError(f"there is no folder {str(path)!r}; a folder with config.json, "
                         ".safetensors files and a tokenizer is needed. Check the path.")
    config = huggingface.read_config(folder)
    with torch.device("meta"):
        model = Llama(config)
    fill(model, huggingface.read_weights(folder, config), device=device, dtype=dtype)
    words = tokenizer.load(folder, stop_ids=huggingface.read_stop_ids(folder))
    if words.n_vocab > config.vocab_size:
        raise ValueError(f"the tokenizer in {folder} knows {words.n_vocab} tokens; the model's "
                         f"embedding has {config.vocab_size} rows. They belong to two models.")
    return model.eval(), words


def save(path: str | Path, model: Llama, words: JsonTokenizer, *, dtype: torch.dtype) -> None:
    """Write a folder that `load` and `transformers` read, its weights as `dtype`.

    A folder that is killed half-way has no config.json: `load` refuses it, and a second `save`
    makes it whole.
    """
    if words.n_vocab > model.config.vocab_size:
        raise ValueError(f"the tokenizer knows {words.n_vocab} tokens; the model's embedding has "
                         f"{model.config.vocab_size} rows. Save it with its own tokenizer.")
    ends = {"bos_token_id": words.bos_id, "eos_token_id": words.eos_id}
    huggingface.write(Path(path), model.config, model.state_dict().items(), others=files(words),
                      ends={name: i for name, i in ends.items() if i is not None}, dtype=dtype)


def fill(model: Llama, weights: Iterable[tuple[str, Tensor]], *, device: torch.device | str,
         dtype: torch.dtype) -> None:
    """Give every parameter its tensor; names are Meta's. A tied output may be absent or equal."""
    needed = {name: p.shape for name, p in model.named_parameters(remove_duplicate=False)}
    given: dict[str, Tensor] = {}
    for name, w in weights:
        if name not in needed:
            raise ValueError(f"the files hold {name}, which a model of {model.config.n_layers} "
                             "layers does not have. Does config.json belong to these files?")
        if w.shape != needed[name]:
            raise ValueError(f"{name} is {tuple(w.shape)} in the files; the config needs "
                             f"{tuple(needed[name])}. Does config.json belong to these files?")
        given[name] = w.to(device=device, dtype=dtype)
    if model.config.tied_embeddings and "tok_embeddings.weight" in given:
        table = given["tok_embeddings.weight"]
        if not torch.equal(given.setdefault("output.weight", table), table):
            raise ValueError("output.weight differs from tok_embeddings.weight in the files; the "
                             "config ties them. Set tie_word_embeddings to false.")
    if missing := sorted(set(needed) - set(given)):
        raise ValueError(f"{len(missing)} of {len(needed)} tensors are not in the files, first "
                         f"{missing[0]}. A file is missing; download the folder again.")
    model.load_state_dict(given, assign=True)
    if model.config.tied_embeddings:
        model.output.weight = model.tok_embeddings.weight
