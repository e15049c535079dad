"""The exercise of chapter 05 on what surrounds the merging in Llama 2: prefix, spaces, bytes."""

import re
from collections.abc import Callable, Mapping

from torch import Generator

from ..tokenizer import RebuiltSentencePiece
from ..tokenizer.vocabulary_files import BYTE, CONTROL, NORMAL, UNKNOWN, SentencePieceFile
from .data import Exercise, Inputs, Misconception, Probe, count
from .texts import hard_probes, touched

SPACE, BOS, FIRST_BYTE = "▁", 1, 3


def _package_llama2(text: str, ids: Mapping[str, int]) -> list[int]:
    """A vocabulary file in memory: Llama 2's first 259 pieces, then these."""
    pieces = [("<unk>", 0.0, UNKNOWN), ("<s>", 0.0, CONTROL), ("</s>", 0.0, CONTROL)]
    pieces += [(f"<0x{byte:02X}>", 0.0, BYTE) for byte in range(256)]
    by_id = {i: piece for piece, i in ids.items()}
    pieces += [(by_id.get(i, ""), 0.0, NORMAL) for i in range(len(pieces), max(by_id) + 1)]
    tokenizer = RebuiltSentencePiece(SentencePieceFile(
        pieces, model_type=2, split_digits=True, byte_fallback=True, bos_id=1, eos_id=2,
        unk_surface=" ⁇ ", charsmap=b"", add_dummy_prefix=True, remove_extra_whitespaces=False,
        escape_whitespaces=True))
    return tokenizer.encode(text, bos=True, eos=False)


def _llama2(text: str, ids: Mapping[str, int], *, prefix: str = " ", space: str = SPACE,
            unknown: Callable[[str], list[int]] = lambda c: [FIRST_BYTE + b for b in c.encode()],
            start: tuple[int, ...] = (BOS,)) -> list[int]:
    """The rules one by one, with room for slips."""
    tokens = list(start)
    for character in (prefix + text if text else "").replace(" ", space):
        tokens += [ids[character]] if character in ids else unknown(character)
    return tokens


def _known(rng: Generator, text: str) -> Inputs:
    """Tokens for some characters; their numbers are drawn."""
    first = count(rng, 259, 900)
    return {"text": text, "ids": {piece: first + 2 * i for i, piece in enumerate("▁alms1234")}}


LLAMA2 = Exercise(
    "5.5", "The rules of Llama 2", "Two families, side by side", _package_llama2,
    probes=(
        Probe("one word", lambda rng: _known(rng, "llama")),
        Probe("two words and a number", lambda rng: _known(rng, "small 1234")),
        Probe("a space in front", lambda rng: _known(rng, " all")),
        Probe("an emoji and a letter that are not known", lambda rng: _known(rng, "a 🦙é")),
        Probe("two spaces inside, one at the end", lambda rng: _known(rng, "a  b ")),
        Probe("nothing", lambda rng: _known(rng, "")),
        *hard_probes(_known),
    ),
    misconceptions=(
        Misconception("no dummy prefix", lambda text, ids: _llama2(text, ids, prefix=""),
                      "you forgot the dummy prefix: a text begins with one more ▁."),
        Misconception("prefix only where needed", lambda text, ids: _llama2(
            text, ids, prefix="" if text.startswith(" ") else " "),
                      "a text that begins with a space came out one ▁ short. The prefix comes in "
                      "front of every text, and no space of the text is dropped."),
        Misconception("a space dropped", lambda text, ids: _llama2(text.strip(), ids),
                      "you dropped a space of the text. Each of them stays, as one ▁.",
                      also=(lambda text, ids: _llama2(text.rstrip(), ids),
                            lambda text, ids: _llama2(text.lstrip(), ids),
                            lambda text, ids: _llama2(text.strip(" "), ids),
                            lambda text, ids: _llama2(text.lstrip(" "), ids),
                            lambda text, ids: _llama2(text.rstrip(" "), ids),
                            lambda text, ids: _llama2(text.rstrip("\n"), ids),
                            lambda text, ids: _llama2(text.replace("  ", " "), ids),
                            lambda text, ids: _llama2(" ".join(text.split()), ids),
                            lambda text, ids: _llama2(
                                text.replace("  ", " "), ids,
                                prefix="" if text.startswith(" ") else " "))),
        Misconception("prefix on nothing", lambda text, ids: _llama2(
            text, ids, start=(BOS,) if text else (BOS, ids[SPACE])),
                      "you gave an empty text a dummy prefix. It is BOS alone."),
        Misconception("BOS twice", lambda text, ids: _llama2(text, ids, start=(BOS, BOS)),
                      "you put BOS there twice. A model has never seen that."),
        Misconception("no BOS", lambda text, ids: _llama2(text, ids, start=()),
                      "you left out BOS, token 1: it comes first, whatever the text is.",
                      also=(lambda text, ids: _llama2(text, ids, start=() if text else (BOS,)),
                            lambda text, ids: _llama2(text, ids, start=(BOS,) if text else ()))),
        Misconception("unknown as <unk>", lambda text, ids: _llama2(
            text, ids, unknown=lambda character: [0]),
                      "you made an unknown character <unk>, and it is lost. Spell it in bytes."),
        Misconception("bytes without the offset", lambda text, ids: _llama2(
            text, ids, unknown=lambda character: [*character.encode()]),
                      "you took a byte's value for its token. Three pieces come before the bytes: "
                      "byte b is token 3 + b."),
        Misconception("a number for bytes", lambda text, ids: _llama2(
            text, ids, unknown=lambda character: [FIRST_BYTE + ord(character)]),
                      "you took the character's number for a byte. UTF-8 gives it several: "
                      "character.encode().", also=(lambda text, ids: _llama2(
                          text, ids, unknown=lambda character: [ord(character)]),)),
        Misconception("spaces as bytes", lambda text, ids: _llama2(text, ids, space=" "),
                      "you left spaces as they are, so they came out as byte 32. A space is "
                      "written ▁ (U+2581), those in the text as well as the one in front.",
                      also=(lambda text, ids: _llama2(text, ids, prefix=SPACE, space=" "),)),
        Misconception("other white space", lambda text, ids: _llama2(
            re.sub(r"\s", " ", text), ids),
                      "you wrote a tab or a line end as ▁. Only the space becomes ▁; other white "
                      "space is a character like any other, here spelled in bytes.",
                      also=tuple(lambda text, ids, these=these: _llama2(
                          re.sub(these, " ", text), ids) for these in ("\n", "\t", "[\n\t]",
                                                                       "[\r\n]", r"\r?\n"))),
        *touched(lambda change: lambda text, ids: _llama2(change(text), ids),
                 but=("stripped", "white space squeezed")),
    ),
    hints=(
        "First change the text: what comes in front, and how is a space written?",
        "Then go character by character: known ones have a token in ids.",
        "An unknown character gives one token for each of character.encode().",
    ))

EXERCISES = [LLAMA2]
