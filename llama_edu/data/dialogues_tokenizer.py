"""The vocabulary of the talks: every word of them is one piece, and Llama 3's marks are special.

The tales' own vocabulary has no marks of turns, and cuts what users say into scraps.
"""

from collections.abc import Iterable
from pathlib import Path

from ..tokenizer import BytePairs, JsonTokenizer, load
from ..tokenizer.json_made import files, to_json
from .dialogues import dialogues

FOLDER = Path(__file__).parent.parent / "assets" / "dialogues"
PAD = "<|finetune_right_pad_id|>"
SPECIAL = ("<|begin_of_text|>", "<|end_of_text|>", PAD, "<|start_header_id|>",
           "<|end_header_id|>", "<|eom_id|>", "<|eot_id|>", "<|python_tag|>")
N_VOCAB = 720
N_TALKS = 3_000

# Llama 3's format for transformers, in our words: what stands in `generation` is the assistant's.
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] | trim + '<|eot_id|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] | trim + '<|eot_id|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}")


def tokenizer() -> JsonTokenizer:
    """The vocabulary that comes with the package."""
    return load(FOLDER)


def trained() -> JsonTokenizer:
    """The same, made again: byte pairs of talks, their roles among them. It takes seconds."""
    return to_json(BytePairs.train("\n".join(_lines()), n_vocab=N_VOCAB, special=SPECIAL))


def recipe() -> dict[str, bytes]:
    """The files of the folder, made again."""
    return files(trained(), templates={"default": TEMPLATE}, pad=PAD)


def _lines() -> Iterable[str]:
    for talk in dialogues(N_TALKS, seed=0):
        for message in talk:
            yield f"{message['role']}\n\n{message['content']}"
