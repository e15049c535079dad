"""The texts of our own for looking at tokens."""

import ast
import unicodedata

import pytest

from llama_edu.data import samples

# The script that nearly all letters of a language are written in, by the names of Unicode.
SCRIPTS = {
    "English": ("LATIN",), "German": ("LATIN",), "French": ("LATIN",), "Spanish": ("LATIN",),
    "Swahili": ("LATIN",), "Russian": ("CYRILLIC",), "Arabic": ("ARABIC",),
    "Hindi": ("DEVANAGARI",), "Thai": ("THAI",), "Korean": ("HANGUL",),
    "Japanese": ("HIRAGANA", "KATAKANA", "CJK"), "Chinese": ("CJK",)}


@pytest.fixture(scope="module")
def sentences():
    return samples.parallel()


def test_every_language_has_sixty_sentences_and_none_twice(sentences):
    assert tuple(sentences) == samples.LANGUAGES
    assert len(sentences) == 12
    for lines in sentences.values():
        assert len(set(lines)) == len(lines) == 60
        assert all(line == line.strip() != "" for line in lines)


def test_every_sentence_is_written_in_its_script(sentences):
    for language, lines in sentences.items():
        letters = [c for c in "".join(lines) if c.isalpha() and not c.isspace()]
        names = [unicodedata.name(c).replace("KATAKANA-HIRAGANA", "KATAKANA") for c in letters]
        assert all(name.startswith(SCRIPTS[language]) for name in names), language


def test_every_sentence_is_composed(sentences):
    for lines in sentences.values():
        assert all(unicodedata.is_normalized("NFC", line) or "\u093c" in line for line in lines)


def test_questions_are_questions_in_every_language(sentences):
    # Sentences 1 and 19 ask; Thai writes no question mark, Japanese a full stop.
    for language in set(samples.LANGUAGES) - {"Thai", "Japanese"}:
        for number in (1, 19):
            assert sentences[language][number - 1][-1] in "?？؟", language


def test_the_code_is_code_and_runs():
    names = {}
    exec(compile(ast.parse(samples.sample("python")), "sample", "exec"), names)
    assert names["most_common_pair"]({"banana": 2}) == ("a", "n")
    assert names["Llama"]("Ada").height_cm == 180


def test_there_are_digits_dates_and_emoji():
    assert "1234" in samples.sample("digits")
    assert "2024-04-18" in samples.sample("dates")
    assert "🦙" in samples.sample("emoji")
    with pytest.raises(KeyError, match="there is no sample 'music'; there are python, digits"):
        samples.sample("music")
