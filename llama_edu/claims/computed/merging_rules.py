"""Two libraries, one rule: the tokens of both kinds of vocabulary from the same function."""

from ...data.samples import parallel
from ...tokenizer import BytePairs, RebuiltSentencePiece, SentencePieceTokenizer, TiktokenTokenizer
from ...tokenizer.installed import path
from ...tokenizer.tiktoken_bpe import LLAMA31_SPECIAL


def merged_by_rank_alike(language: str) -> list[bool]:
    """Whether merging by rank gives the tokens of SentencePiece, and those of tiktoken.

    The two rebuilt vocabularies call one function, `tokenizer.merging.merge_all`.
    """
    text, old, new = "\n".join(parallel()[language]), path("sentencepiece_32k"), path("llama3")
    pairs = ((RebuiltSentencePiece.read(old), SentencePieceTokenizer.read(old)),
             (BytePairs.load(new, special=LLAMA31_SPECIAL), TiktokenTokenizer.read(new)))
    return [ours.encode(text, bos=False, eos=False) == theirs.encode(text, bos=False, eos=False)
            for ours, theirs in pairs]
