"""Texts that an answer of chapter 05 must not touch, and the ways in which answers touch them."""

import re
import unicodedata
from collections.abc import Callable

from .data import Inputs, Misconception, Probe

# Each trips one or more of the changes below: what a polite probe (`llama`) lets through.
HARD_TEXTS = {
    "upper case and accents": "LaMA Élan",
    "spaces at both ends and two inside": "  a  b ",
    "line ends": "\na\r\nb\t\n",
    "Chinese and an emoji": "a羊驼🦙",
    "characters that look like others": "ﬁ²Ａ é e\u0301",
}

Change = Callable[[str], str]


def _form(name: str) -> Change:
    return lambda text: unicodedata.normalize(name, text)


CHANGES: dict[str, tuple[str, tuple[Change, ...]]] = {
    "stripped": (
        "you dropped white space at an end of the text. Spaces and line ends are part of it; the "
        "space before a word tells its piece from another.",
        (str.strip, str.lstrip, str.rstrip, lambda text: text.strip(" "),
         lambda text: text.strip("\n"), lambda text: text.rstrip("\n"))),
    "white space squeezed": (
        "you made several spaces, or a line end, one space. Code lives on its indents: keep every "
        "one.",
        (lambda text: " ".join(text.split()), lambda text: re.sub(r"\s+", " ", text),
         lambda text: re.sub(" +", " ", text), lambda text: text.replace("  ", " "))),
    "line ends changed": (
        "you changed the line ends. `\\r\\n` is two characters, and both come back.",
        (lambda text: text.replace("\r\n", "\n"), lambda text: "\n".join(text.splitlines()),
         lambda text: text.replace("\r", ""), lambda text: text.replace("\n", ""))),
    "lower case": (
        "you made capital letters small. `A` and `a` are different pieces; neither family changes "
        "case.",
        (str.lower, str.casefold,
         lambda text: re.sub("[A-Z]", lambda found: found[0].lower(), text))),
    "normalised": (
        "you normalised the text (Unicode's NFKC or another form): `ﬁ` became `fi`, or an accent "
        "moved. Neither family does that; what goes in must come out.",
        (_form("NFKC"), _form("NFC"), _form("NFKD"), _form("NFD"))),
    "only ASCII": (
        "you dropped, or replaced, what is not ASCII. A text may hold any character there is.",
        (lambda text: text.encode("ascii", "ignore").decode(),
         lambda text: text.encode("ascii", "replace").decode())),
}

ALL_CHANGES = [change for _, changes in CHANGES.values() for change in changes]


def touched(*spoils: Callable[[Change], Callable],
            but: tuple[str, ...] = ()) -> list[Misconception]:
    """One misconception for each change. A spoil makes a wrong answer of a change."""
    return [Misconception(name, wrongs[0], why, also=tuple(wrongs[1:]))
            for name, (why, changes) in CHANGES.items() if name not in but
            for wrongs in [[spoil(change) for spoil in spoils for change in changes]]]


def hard_probes(make: Callable[..., Inputs]) -> list[Probe]:
    """One probe for each hard text; `make(rng, text)` gives the inputs."""
    return [Probe(name, lambda rng, text=text: make(rng, text))
            for name, text in HARD_TEXTS.items()]
