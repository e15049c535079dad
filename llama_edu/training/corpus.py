"""The text of a recipe: read or written, its vocabulary, and packed into rows."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from ..data import dialogues_tokenizer, tales
from ..data.scripts import scripts
from ..tokenizer import BytePairs, JsonTokenizer
from ..tokenizer.json_made import to_json
from . import packing, text_files
from .recipe import SCRIPTS, SPECIAL, TALES, Recipe, TextRecipe

SAMPLE = 2_000_000              # characters from which the vocabulary is made
# The sources of text that the package writes, so many from a seed; and which have a vocabulary.
WRITTEN: dict[str, Callable[..., Iterator[str]]] = {TALES: tales.stories, SCRIPTS: scripts}
VOCABULARIES = {SCRIPTS: dialogues_tokenizer}


@dataclass(frozen=True)
class Corpus:
    """Text as a model meets it."""

    tokenizer: JsonTokenizer
    rows: list[packing.Row]         # to train on
    held_out: list[Tensor]          # documents, as tokens, to measure on
    floor: float | None             # nats per held-out token that no model can beat, where known
    digest: str                     # of every token


def silent(text: str) -> None:
    """Say nothing."""


def gather(recipe: Recipe, *, say: Callable[[str], object] = silent) -> Corpus:
    """Read or write the text, make a vocabulary from its beginning, and pack it.

    Raises ValueError for text that cannot be read or leaves nothing to train on, and for a
    vocab_size too large for the text.
    """
    plan = recipe.text
    texts = _texts(plan, seed=recipe.seed, say=say)
    if len(texts) <= plan.held_out:
        raise ValueError(f"{plan.source} has {len(texts)} documents and {plan.held_out} are held "
                         "out; at least one must be left. Hold out fewer.")
    tokenizer = _vocabulary(recipe, texts, say=say)
    say(f"turning {len(texts):,} documents into tokens ...")
    documents = [torch.tensor(tokenizer.encode(each, bos=True, eos=True), dtype=torch.int32)
                 for each in tqdm(texts, unit="document", leave=False, disable=None)]
    digest = hashlib.sha256()
    for document in documents:
        digest.update(document.numpy().tobytes())
    return Corpus(tokenizer, list(packing.pack(documents[plan.held_out:], length=plan.row_length)),
                  documents[:plan.held_out], _floor(plan, texts, documents), digest.hexdigest())


def _texts(plan: TextRecipe, *, seed: int, say: Callable[[str], object]) -> list[str]:
    if plan.source in WRITTEN:
        n = getattr(plan, plan.source)
        say(f"writing {n:,} {plan.source} ...")
        return list(WRITTEN[plan.source](n, seed=seed))
    say(f"reading {plan.source} ...")
    return list(text_files.documents(plan.source, field=plan.field))


def _vocabulary(recipe: Recipe, texts: list[str], *, say: Callable[[str], object]
                ) -> JsonTokenizer:
    """Made from the text's beginning, or the one that the source has."""
    n_vocab = recipe.model.vocab_size
    if known := VOCABULARIES.get(recipe.text.source):
        if (tokenizer := known.tokenizer()).n_vocab != n_vocab:
            raise ValueError(f"[model] vocab_size is {n_vocab}; the vocabulary of "
                             f"{recipe.text.source} has {tokenizer.n_vocab}. Correct the recipe.")
        return tokenizer
    whole = "\n".join(texts)
    say(f"making a vocabulary of {n_vocab:,} pieces from the first "
        f"{min(len(whole), SAMPLE):,} characters ...")
    return to_json(BytePairs.train(whole[:SAMPLE], n_vocab=n_vocab, special=SPECIAL))


def _floor(plan: TextRecipe, texts: list[str], documents: list[Tensor]) -> float | None:
    """The floor under the held-out loss; None for other text than tales, and for tales that a row
    cuts: the grammar says nothing of one that begins in its middle."""
    lengths = [len(document) for document in documents[:plan.held_out]]
    if plan.source != TALES or not lengths or max(lengths) > plan.row_length:
        return None
    predicted = {tale: n - 1 for tale, n in zip(texts, lengths, strict=False)}
    return tales.floor_per_token(texts[:plan.held_out], predicted.__getitem__)
