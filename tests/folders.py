"""Folders as transformers saves them, with a model and a tokenizer made on the spot."""

import json
from pathlib import Path

import torch
from models import loud_model, tiny_config
from oracles import huggingface_twin
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast

from llama_edu.config import ModelConfig

CORPUS = (
    "Once upon a time there was a llama who could not sleep.",
    "The llama counted sheep, but the sheep counted llamas, and nobody slept.",
    "Es war einmal ein Lama, das nicht schlafen konnte. Süße Träume!",
    "Il était une fois un lama qui ne dormait pas. Ça alors, déjà l'été?",
)
SPECIALS = ["<unk>", "<s>", "</s>"]


def bytes_tokenizer() -> Tokenizer:
    """The kind of Llama 3: pieces over bytes, so no text is unknown."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.train_from_iterator(CORPUS, trainers.BpeTrainer(
        vocab_size=320, special_tokens=SPECIALS, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    return inner


def spaces_tokenizer() -> Tokenizer:
    """The kind of Llama 2: pieces over characters, spaces as ▁, bytes for what is unknown."""
    inner = Tokenizer(models.BPE(unk_token="<unk>"))
    inner.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    inner.train_from_iterator(CORPUS, trainers.BpeTrainer(
        vocab_size=120, special_tokens=SPECIALS, show_progress=False))
    fields = json.loads(inner.to_str())
    vocab = fields["model"]["vocab"]
    vocab |= {f"<0x{byte:02X}>": len(vocab) + byte for byte in range(256)}
    fields["model"]["byte_fallback"] = True
    inner = Tokenizer.from_str(json.dumps(fields))
    inner.decoder = decoders.Sequence([
        decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
        decoders.Strip(content=" ", left=1)])
    return inner


def save_tokenizer(inner: Tokenizer, folder: Path) -> Path:
    """tokenizer.json, by whose rule a whole text begins with <s> as in the Llamas', and beside it
    which pieces begin and end a text."""
    inner.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", inner.token_to_id("<s>"))])
    PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", bos_token="<s>",
                            eos_token="</s>").save_pretrained(folder)
    return folder


def save_folder(folder: Path, inner: Tokenizer | None = None, *, dtype: torch.dtype = torch.float32,
                max_shard_size: str = "1GB", **changes: object) -> ModelConfig:
    """A whole folder: config.json, one or several .safetensors, tokenizer.json."""
    inner = inner or bytes_tokenizer()
    config = tiny_config(**{"vocab_size": inner.get_vocab_size() + 5} | changes)
    model = loud_model(config)
    # A row of zeros is never the likeliest token: no bytes and specials, no rows beyond the pieces.
    never = [i for piece, i in inner.get_vocab().items() if piece.startswith("<")]
    table = model.tok_embeddings.weight if model.output is None else model.output.weight
    table[never] = 0
    table[inner.get_vocab_size():] = 0
    twin = huggingface_twin(model).to(dtype)
    twin.config.dtype = dtype
    twin.save_pretrained(folder, max_shard_size=max_shard_size)
    save_tokenizer(inner, folder)
    return config


def text_by_transformers(folder: Path, text: str, *, max_new: int) -> str:
    """What transformers' own greedy generate writes, the prompt included."""
    words = AutoTokenizer.from_pretrained(folder)
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = [words.bos_token_id, *words(text, add_special_tokens=False)["input_ids"]]
    out = model.generate(torch.tensor([ids]), attention_mask=torch.ones(1, len(ids)),
                         max_new_tokens=max_new, do_sample=False, pad_token_id=0)
    return words.decode(out[0], skip_special_tokens=True, clean_up_tokenization_spaces=False)


def change_json(file: Path, **changes: object) -> None:
    """Edit a JSON file; a value of None takes the field out."""
    fields = json.loads(file.read_text(encoding="utf-8")) | changes
    file.write_text(json.dumps({k: v for k, v in fields.items() if v is not None}),
                    encoding="utf-8")
