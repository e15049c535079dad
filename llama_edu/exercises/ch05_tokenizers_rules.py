"""The exercise of chapter 05 on what surrounds the merging in Llama 2: prefix, spaces, bytes."""

import re
from collections.abc import Callable, Iterable, Mapping

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


def _in_bytes(change: Callable[[bytes], Iterable[int]] = list, *, offset: int = FIRST_BYTE,
              encoding: str = "utf-8") -> Callable:
    """Unknown characters in other bytes, in fewer, or with other tokens."""
    return lambda text, ids: _llama2(text, ids, unknown=lambda character: [
        offset + byte for byte in change(character.encode(encoding, "replace"))])


def _all_in_bytes(text: str, ids: Mapping[str, int]) -> list[int]:
    """One unknown character, and the whole text is spelled."""
    spaced = (" " + text if text else "").replace(" ", SPACE)
    if all(character in ids for character in spaced):
        return [BOS, *(ids[character] for character in spaced)]
    return [BOS, *(FIRST_BYTE + byte for byte in spaced.encode())]


def _with(change: Callable[[list[int], int], list[int]], *, always: bool = False) -> Callable:
    """The tokens and that of a space go through a change, where there is a text."""
    def tokens(text: str, ids: Mapping[str, int]) -> list[int]:
        right = _llama2(text, ids)
        return change(right, ids[SPACE]) if text or always else right
    return tokens


def _prefix_on_each(cut: Callable[[str], list[str]]) -> Callable:
    """A dummy prefix in front of every part of the text."""
    return lambda text, ids: [BOS, *(token for part in cut(text)
                                     for token in _llama2(part, ids, start=()))]


def _up_to_an_unknown(text: str, ids: Mapping[str, int], spelled: bool = True) -> list[int]:
    spaced = (" " + text if text else "").replace(" ", SPACE)
    n = next((i for i, character in enumerate(spaced) if character not in ids), len(spaced))
    rest = [FIRST_BYTE + byte for byte in spaced[n : n + 1].encode()] if spelled else []
    return [BOS, *(ids[character] for character in spaced[:n]), *rest]


def _known_only(text: str, ids: Mapping[str, int]) -> list[int]:
    """A KeyError where a character is not known."""
    return [BOS, *(ids[c] for c in (" " + text if text else "").replace(" ", SPACE))]


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
                      "you put BOS there twice. A model has never seen that.",
                      also=(_with(lambda tokens, space: [BOS, *tokens]),)),
        Misconception("EOS at the end", _with(lambda tokens, space: [*tokens, 2]),
                      "you put EOS, token 2, at the end. The answer is still to come.",
                      also=(_with(lambda tokens, space: [*tokens, 2], always=True),)),
        Misconception("another BOS", _with(lambda tokens, space: [0, *tokens[1:]], always=True),
                      "your first token is not BOS. It is 1; 0 is <unk>, and 2 is EOS.",
                      also=(_with(lambda tokens, space: [0, *tokens[1:]]),
                            _with(lambda tokens, space: [2, *tokens[1:]], always=True))),
        Misconception("BOS at the end", _with(lambda tokens, space: [*tokens[1:], BOS]),
                      "your BOS stands at the end. It begins the text."),
        Misconception("prefix before BOS", _with(lambda tokens, space: [space, BOS, *tokens[2:]]),
                      "your prefix stands before BOS. BOS is first; the prefix belongs to the "
                      "text."),
        Misconception("prefix at the end", _with(
            lambda tokens, space: [BOS, *tokens[2:], space]),
                      "you put the extra ▁ at the end. It comes in front of the text."),
        Misconception("prefix twice", _with(lambda tokens, space: [BOS, space, *tokens[1:]]),
                      "you put two ▁ in front of the text. The dummy prefix is one."),
        Misconception("prefix on every part", _prefix_on_each(
            lambda text: text.splitlines(keepends=True)),
                      "you put a dummy prefix in front of every line, or word. It comes once, in "
                      "front of the text.", also=(_prefix_on_each(
                          lambda text: re.findall(r"\S+|\s+", text)),)),
        Misconception("prefix as a byte", lambda text, ids: _llama2(
            " " + text.replace(" ", SPACE) if text else "", ids, prefix="", space=" "),
                      "the space in front came out as byte 32. It is written ▁ as well: first "
                      "put it there, then replace."),
        Misconception("no spaces", lambda text, ids: _llama2(text.replace(" ", ""), ids),
                      "you left out the spaces. Each of them is one ▁.",
                      also=(lambda text, ids: _llama2(text, ids, space=""),)),
        Misconception("a line for a space", lambda text, ids: _llama2(text, ids, space="_"),
                      "you wrote a space as the underscore of the keyboard, `_`. In the vocabulary "
                      "it is ▁ (U+2581).", also=(lambda text, ids: _llama2(
                          text, ids, prefix=SPACE, space="_"),)),
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
        Misconception("bytes with another offset", _in_bytes(offset=2),
                      "your bytes have other tokens. Three pieces come before them, <unk>, <s> and "
                      "</s>: byte b is token 3 + b.",
                      also=tuple(_in_bytes(offset=offset)
                                 for offset in (-3, 1, 4, 5, 6, 256, 258, 259))),
        Misconception("one byte for a character", _in_bytes(lambda spelled: spelled[:1]),
                      "you gave one byte of a character that has several. Each of its bytes has a "
                      "token.", also=(_in_bytes(lambda spelled: spelled[-1:]),)),
        Misconception("bytes the wrong way round", _in_bytes(lambda spelled: spelled[::-1]),
                      "the bytes of a character came in the reverse order. character.encode() "
                      "has them as they are."),
        Misconception("another encoding", _in_bytes(encoding="utf-16-le"),
                      "your bytes are not UTF-8. character.encode() gives them.",
                      also=tuple(_in_bytes(encoding=name) for name in (
                          "utf-16", "utf-16-be", "utf-32", "utf-32-le", "latin-1"))),
        Misconception("all or nothing", _all_in_bytes,
                      "one unknown character, and you spelled the whole text in bytes. Only what "
                      "is not known is spelled.", also=(
                          lambda text, ids: _llama2(text, {}),)),
        Misconception("unknown ones dropped", lambda text, ids: _llama2(
            text, ids, unknown=lambda character: []),
                      "you dropped the characters that are not in `ids`. Spell them in bytes."),
        Misconception("stopped at an unknown one", _up_to_an_unknown,
                      "you stopped at the first character that is not in `ids`. Spell it and go "
                      "on.", also=(lambda text, ids: _up_to_an_unknown(text, ids, spelled=False),)),
        Misconception("only ASCII in bytes", lambda text, ids: _llama2(
            text, ids, unknown=lambda c: [FIRST_BYTE + ord(c)] if c.isascii() else [0]),
                      "you spelled ASCII characters alone. Every unknown one is spelled, in as "
                      "many bytes as it has."),
        Misconception("byte by byte", lambda text, ids: [BOS, *(
            ids.get(chr(byte), FIRST_BYTE + byte)
            for byte in (" " + text if text else "").replace(" ", SPACE).encode())],
                      "you looked up bytes. `ids` holds characters, and ▁ has three bytes: spell "
                      "only what is not in it."),
        Misconception("each token once", _with(lambda tokens, space: [*dict.fromkeys(tokens)]),
                      "you gave each token once. What stands twice has its token twice."),
        Misconception("prefix on words only", lambda text, ids: _llama2(
            text, ids, prefix=" " if text[:1].isalpha() else ""),
                      "you put the prefix in front of a letter only. It comes in front of every "
                      "text that is not empty.", also=(lambda text, ids: _llama2(
                          text, ids, prefix=" " if text[:1].isalnum() else ""),)),
        Misconception("neither BOS nor prefix", lambda text, ids: _llama2(
            text, ids, start=(), prefix=""),
                      "you left out BOS and the dummy prefix: both come first, in this order.",
                      also=(lambda text, ids: _llama2(text, ids, start=() if text else (BOS,),
                                                      prefix=""),)),
        Misconception("EOS for BOS", _with(lambda tokens, space: [*tokens[1:], 2]),
                      "you put EOS at the end in place of BOS in front. BOS, token 1, is first.",
                      also=(_with(lambda tokens, space: [*tokens[1:], 2], always=True),)),
        Misconception("capitals", lambda text, ids: _llama2(text.upper(), ids),
                      "you changed small letters into capitals. Neither family changes case.",
                      also=(lambda text, ids: _llama2(text.title(), ids),
                            lambda text, ids: _llama2(text.capitalize(), ids))),
        Misconception("tabs as spaces", lambda text, ids: _llama2(text.expandtabs(4), ids),
                      "you made a tab several spaces. Only the space becomes ▁; a tab is spelled "
                      "in bytes.", also=(lambda text, ids: _llama2(text.expandtabs(), ids),
                                         lambda text, ids: _llama2(
                                             text.replace("\t", "    "), ids))),
        Misconception("the space not foreseen", lambda text, ids: [
            BOS, *(ids[c] for c in (" " + text if text else ""))],
                      "you asked `ids` for a space. It is written ▁ there."),
        Misconception("the byte's name not foreseen", lambda text, ids: _llama2(
            text, ids, unknown=lambda c: [ids[f"<0x{byte:02X}>"] for byte in c.encode()]),
                      "you asked `ids` for the piece of a byte. It has characters only: byte b is "
                      "token 3 + b."),
        Misconception("unknown not foreseen", _known_only,
                      "you asked `ids` for a character that it does not have. Spell that one in "
                      "bytes."),
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
