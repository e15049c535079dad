"""Texts on which ways to cut a text differ: digits, scripts, marks, runs of spaces and lines."""

import random

ODD = (
    "", " ", "  a", "a  ", "\n", "\n\n\n a", "\t\tx\t", "\r\n\r\n", "  \n  \n\n   x\n ",
    "end of line \n", "tab\tTab\t\t", "1234567", "3.14159e10", "12345 678 90", "a1b22c333d4444",
    "1. foo\n2. bar/\n//baz", "price: $12,345.67+8=^~|`<>", "K'S ſ", "don't DON'T I'LL we'Ve",
    "'s 'S s'", "foo_bar__baz", "((((()))))", "(a|b.c,d!e?f…g。h，i、j।k۔l،m)",
    "helloWorld FOOBar ÄÖÜber",
    "x" * 300, "a" * 40 + " " + "9" * 10, "🦙🦙\u200d🦙", "👨‍👩‍👧 ok",
    "e\u0301", "A\u030a\u0323 B", "ąéñ̃ Ελληνικά Привет",
    "\u00a0x", "\u3000\u3000", "\u2028\u2029 \u0085 x\u2009y", "a\u200bb\ufeffc", "\u1680x\u202f",
    "a\x00b", "\x7f", "ﷺ", "İstanbul", "ก็ ཨོཾ", "\u0e33\u0e4d", "١٢٣٤ ²³½ Ⅷ",
    "हिन्दी ক্ষ नि १२३",
    "中文字123符，。！ \u3000全角ＡＢＣ１２", "日本語のカナとかな　한국어 텍스트",
    "ꙮ 𐐷 𝒳 𝟘", "▁a▁b", " ▁", "<0x41>",
    "def f(x):\n    return x  # 12 lines\n\n\nprint(f(3))\n")


def mixed(n: int, *, seed: int = 0) -> list[str]:
    """Texts of 14 parts each that cuts treat differently."""
    draw = random.Random(seed)
    parts = [*"aéZ 1\n'|🦙中,.$", "ll", " the", "  ", "\r\n", "Ab", "\u0301", "12", "한"]
    return ["".join(draw.choices(parts, k=14)) for _ in range(n)]


def hard_texts(n_mixed: int = 100) -> list[str]:
    """The odd ones and so many mixed ones."""
    return [*ODD, *mixed(n_mixed)]
