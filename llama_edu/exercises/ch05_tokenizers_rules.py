"""The exercises of chapter 05 on what surrounds the merging: digits, spaces, special pieces."""

from collections.abc import Callable, Mapping

import regex
from torch import Generator

from ..tokenizer import BytePairs, RebuiltSentencePiece
from ..tokenizer.bpe import ALPHABET, split
from ..tokenizer.vocabulary_files import BYTE, CONTROL, NORMAL, UNKNOWN, SentencePieceFile
from .data import Exercise, Inputs, Misconception, Probe, count
from .texts import hard_probes, touched

# -- 5.5: digits --------------------------------------------------------------------------------


def _package_cut_number(digits: str, n: int) -> list[str]:
    return split(digits, rf"\p{{N}}{{1,{n}}}")


def _from_the_right(digits: str, n: int) -> list[str]:
    return [group[::-1] for group in _package_cut_number(digits[::-1], n)][::-1]


def _digits(rng: Generator, size: int, n: int) -> Inputs:
    return {"digits": str(count(rng, 1, 9)) + "0123456789"[1:size], "n": n}


CUT_NUMBER = Exercise(
    "5.5", "Cut a number", "Two families, side by side", _package_cut_number,
    probes=(
        Probe("1234 in threes", lambda rng: {"digits": "1234", "n": 3}),
        Probe("1234 one by one", lambda rng: {"digits": "1234", "n": 1}),
        Probe("it comes out even", lambda rng: _digits(rng, 6, 3)),
        Probe("two are left", lambda rng: _digits(rng, 8, 3)),
        Probe("one digit", lambda rng: _digits(rng, 1, 3)),
        Probe("another size", lambda rng: _digits(rng, 9, 4)),
        Probe("zeros in front", lambda rng: {"digits": f"00{count(rng, 100, 999)}", "n": 3}),
        Probe("digits of other scripts", lambda rng: {"digits": "१२३४٥６", "n": 4}),
    ),
    misconceptions=(
        Misconception("from the right", _from_the_right,
                      "you grouped from the right, as people write 1,234. Llama 3's pattern takes "
                      "digits from the left: 123, 4."),
        Misconception("unsplit", lambda digits, n: [digits],
                      "you left the digits unsplit. Neither family has pieces for long numbers."),
        Misconception("always one by one", lambda digits, n: list(digits),
                      "you cut into single digits whatever n is. That is Llama 2; with n = 3 "
                      "groups are as long as they can be."),
        Misconception("always threes", lambda digits, n: _package_cut_number(digits, 3),
                      "you cut into threes whatever n is. With n = 1 each digit stands alone."),
        Misconception("the rest lost", lambda digits, n: [
            group for group in _package_cut_number(digits, n) if len(group) == n],
                      "you lost the digits that fill no whole group. They are a shorter group."),
        Misconception("the rest one by one", lambda digits, n: [
            part for group in _package_cut_number(digits, n)
            for part in ([group] if len(group) == n else group)],
                      "you cut the rest into single digits. It is one group, if a shorter one."),
        Misconception("read as a number", lambda digits, n: _package_cut_number(
            str(int(digits)), n),
                      "you read the text as a number, and zeros in front are gone. Digits are "
                      "characters here.", also=(lambda digits, n: _from_the_right(
                          str(int(digits)), n),)),
        Misconception("only ASCII", lambda digits, n: regex.findall(f"[0-9]{{1,{n}}}", digits),
                      "you looked for 0 to 9 only. `\\p{N}` holds the digits of every script."),
    ),
    hints=(
        "range has a step: which starting places do the groups have?",
        "A slice that runs over the end of a string is shorter, and no error.",
    ))

# -- 5.6: the rules of Llama 2 ------------------------------------------------------------------

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
    "5.6", "The rules of Llama 2", "Two families, side by side", _package_llama2,
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
                      "you left out BOS, token 1, which begins a text."),
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
                      "you left the spaces as they are, so they are spelled in bytes. A space is "
                      "written ▁."),
        *touched(lambda change: lambda text, ids: _llama2(change(text), ids),
                 but=("stripped", "white space squeezed")),
    ),
    hints=(
        "First change the text: what comes in front, and how is a space written?",
        "Then go character by character: known ones have a token in ids.",
        "An unknown character gives one token for each of character.encode().",
    ))

# -- 5.7: special pieces and a user's text ------------------------------------------------------

BEGIN, END, TURN = "<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"


def _package_one_turn(message: str, tokenizer: BytePairs) -> list[int]:
    return [*tokenizer.encode(message, bos=True), tokenizer.special[TURN]]


def _all_allowed(message: str, tokenizer: BytePairs) -> list[int]:
    return tokenizer.encode(message + TURN, bos=True, allow_special=tokenizer.special)


def _cleaned(message: str, tokenizer: BytePairs) -> list[int]:
    for name in tokenizer.special:
        message = message.replace(name, "")
    return _package_one_turn(message, tokenizer)


def _words(rng: Generator, message: str) -> Inputs:
    """Bytes and three special pieces, whose numbers are drawn."""
    first = count(rng, 256, 900)
    special = {name: first + 5 * i for i, name in enumerate((BEGIN, END, TURN))}
    tokenizer = BytePairs({piece: i for i, piece in enumerate(ALPHABET)}, special=special)
    return {"message": message, "tokenizer": tokenizer}


ONE_TURN = Exercise(
    "5.7", "A user's text stays text", "Two families, side by side", _package_one_turn,
    probes=(
        Probe("a greeting", lambda rng: _words(rng, "Hi!")),
        Probe("an injection", lambda rng: _words(rng, f"a{TURN}b")),
        Probe("a BOS of the user's", lambda rng: _words(rng, f"{BEGIN}c")),
        Probe("an end of the user's", lambda rng: _words(rng, f"d{END}")),
        *hard_probes(_words),
    ),
    misconceptions=(
        Misconception("specials parsed", _all_allowed,
                      "special pieces in the message became special tokens: a user can end the "
                      "turn and begin another. Encode the message as plain text.",
                      also=(lambda message, tokenizer: tokenizer.encode(
                          message + TURN, bos=True, allow_special={TURN}),)),
        Misconception("BOS twice", lambda message, tokenizer: [
            tokenizer.bos_id, *_package_one_turn(message, tokenizer)],
                      "you put BOS there twice: once yourself and once with bos=True.",
                      also=(lambda message, tokenizer: tokenizer.encode(
                          BEGIN + message + TURN, bos=True, allow_special=tokenizer.special),)),
        Misconception("no BOS",
                      lambda message, tokenizer: _package_one_turn(message, tokenizer)[1:],
                      "you left out BOS: bos=True."),
        Misconception("the end of the text", lambda message, tokenizer: tokenizer.encode(
            message, bos=True, eos=True),
                      "you ended the text where only a turn ends: <|end_of_text|> is not "
                      "<|eot_id|>."),
        Misconception("the end spelled out", lambda message, tokenizer: tokenizer.encode(
            message + TURN, bos=True),
                      "your <|eot_id|> is ordinary text, several tokens long. The token itself is "
                      "tokenizer.special['<|eot_id|>']."),
        Misconception("no end", lambda message, tokenizer: tokenizer.encode(message, bos=True),
                      "you forgot the token that ends the turn."),
        Misconception("message cleaned", _cleaned,
                      "you removed text that the user wrote. It stays, as ordinary tokens.",
                      also=(lambda message, tokenizer: _package_one_turn(
                          message.replace(TURN, ""), tokenizer),)),
        *touched(lambda change: lambda message, tokenizer: _package_one_turn(
            change(message), tokenizer)),
    ),
    hints=(
        "What does encode do with special pieces that are not allowed by name?",
        "The last token does not come from any text: tokenizer.special has it.",
    ))

EXERCISES = [CUT_NUMBER, LLAMA2, ONE_TURN]
