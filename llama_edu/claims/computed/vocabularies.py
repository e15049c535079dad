"""Counts on real vocabularies that are installed, and what a larger one costs and saves."""

from collections import Counter
from dataclasses import replace
from functools import cache

from ...config import ModelConfig
from ...data.samples import parallel, sample
from ...family.accounting import parameters
from ...family.releases import release
from ...tokenizer import Tokenizer, load
from ...tokenizer.installed import path
from ...tokenizer.tiktoken_bpe import N_SPECIAL

IDEOGRAPHS = range(0x4E00, 0x4E00 + 20_902)     # the block as it began, in Unicode 1.1


@cache
def _vocabulary(name: str) -> Tokenizer:
    return load(path(name))


def tokens_known(name: str) -> int:
    """Tokens of an installed vocabulary, special ones counted in."""
    return _vocabulary(name).n_vocab


def ranks_known() -> int:
    """Pieces of Llama 3's vocabulary that were learnt by merging; special tokens are not."""
    return tokens_known("llama3") - N_SPECIAL


def tokens_in(name: str, text: str) -> int:
    """Tokens of a text in an installed vocabulary."""
    return len(_vocabulary(name).encode(text, bos=False, eos=False))


def characters_by_tokens(name: str) -> list[tuple[int, int]]:
    """How many of 20,902 Chinese characters take one token, two, three: (tokens, characters)."""
    counts = Counter(tokens_in(name, chr(number)) for number in IDEOGRAPHS)
    return sorted(counts.items())


def share_of_single_characters(name: str) -> float:
    """What part of 20,902 Chinese characters is one token by itself, in per cent."""
    return 100 * dict(characters_by_tokens(name))[1] / len(IDEOGRAPHS)


def fewer_tokens(kind: str) -> float:
    """Tokens that Llama 3's vocabulary saves on one of our samples, in per cent.

    Compared with the open one of 32,000 pieces, which stands in for Llama 2's; a kind is a
    language of `parallel` or the name of a `sample`.
    """
    languages = parallel()
    text = "\n".join(languages[kind]) if kind in languages else sample(kind)
    return 100 * (1 - tokens_in("llama3", text) / tokens_in("sentencepiece_32k", text))


def multiplied_per_token(config: ModelConfig) -> int:
    """Parameters that every token is multiplied with: all but the table it is looked up in."""
    count = parameters(config)
    return count.total - count.embedding


def work_with_larger_vocabulary(id: str, *, vocab_size: int, saved: float) -> float:
    """Arithmetic for the same text, relative to now, if only the vocabulary of a model grew.

    saved: the share of tokens that the larger vocabulary saves.
    """
    now = release(id).config
    grown = replace(now, vocab_size=vocab_size)
    return (1 - saved) * multiplied_per_token(grown) / multiplied_per_token(now)
