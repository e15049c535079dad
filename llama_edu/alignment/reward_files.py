"""A reward model as a folder, as `transformers` keeps one: a Llama that tells one class."""

from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from .. import checkpoint
from ..formats import huggingface
from ..formats.source import finite
from ..tokenizer import JsonTokenizer, Tokenizer
from .reward import RewardModel

HEAD = "score.weight"           # `1 c`
CLASS = {"architectures": ["LlamaForSequenceClassification"],
         "id2label": {"0": "reward"}, "label2id": {"reward": 0}}


def save(path: str | Path, model: RewardModel, tokenizer: JsonTokenizer, *, dtype: torch.dtype,
         pad_id: int | None = None) -> None:
    """Write a folder that `load` and `LlamaForSequenceClassification` read, its weights as `dtype`.

    pad_id: a token that ends no text. `transformers` looks for a text's last token by it, and
    without one scores no more than one text at a time; nothing here needs it. Raises as
    `checkpoint.save` does, and ValueError for a pad that ends answers.
    """
    if pad_id in tokenizer.stop_ids:
        raise ValueError(f"token {pad_id} was given to fill up with, and it ends answers; their "
                         "last token would be taken for padding. Choose one that no text ends "
                         "with, or none.")
    fields = CLASS | ({} if pad_id is None else {"pad_token_id": pad_id})
    checkpoint.save(path, model.trunk, tokenizer, dtype=dtype, heads={HEAD: model.head.weight},
                    fields=fields)


def load(path: str | Path, *, device: torch.device | str = "cpu",
         dtype: torch.dtype = torch.float32) -> tuple[RewardModel, Tokenizer]:
    """The reward model and the tokenizer of a folder that `save` or `transformers` wrote.

    Raises ValueError where there is none, or its head has another number of classes than one, and
    as `checkpoint.load` does.
    """
    folder = Path(path)
    if not (folder / "config.json").is_file():
        raise ValueError(f"there is no config.json in {folder}; a folder of a reward model is "
                         "needed. Check the path.")
    source = huggingface.open_folder(folder, heads=(HEAD,))
    found = source.heads[HEAD].shape if HEAD in source.heads else "not there"
    if found != (1, source.config.dim):
        raise ValueError(f"{HEAD} is {found} in {folder}; {(1, source.config.dim)} is needed, one "
                         "number for each text. Give the folder of a reward model.")
    trunk = replace(source, config=replace(source.config, tied_embeddings=True), tensors={
        name: stored for name, stored in source.tensors.items() if name != "output.weight"})
    checkpoint.check_whole(trunk)
    model = RewardModel(checkpoint.read_model(trunk, device, dtype))
    head = finite(source.heads[HEAD].read(), HEAD).to(model.head.weight)
    model.head.weight = nn.Parameter(head)
    return model.eval(), checkpoint.load_tokenizer(trunk, path)
