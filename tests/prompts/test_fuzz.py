"""Whatever a model writes, the readers of its answers return, or raise what they say they raise.

The answers are mended and broken valid ones: from a seed, so that every run reads the same, and
from hypothesis, which looks for new ones.
"""

import random
import time

import pytest
from dialogs import A, llama3, spm
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llama_edu.prompts import dialog_tokens, infill_text, named
from llama_edu.prompts.code import EOT
from llama_edu.prompts.guard import read_verdict
from llama_edu.prompts.tools import (
    Call,
    builtin_call,
    json_call,
    python_calls,
    read_calls,
    tag_call,
)

CALL = Call("get_weather", {
    "city": 'Zürich "Nord"\n', "n": -3, "x": 1.5e-7, "on": True, "from": None, "far": float("inf"),
    "places": [1, ["a", "it's"], {}], "more": {"k": {"two words": [False]}, "l": "\\d"}})
CALLS = (python_calls([CALL, Call("now", {})]), json_call(CALL), tag_call(CALL),
         builtin_call("brave_search", "gold"), "[f(a='x', b=(1, 2), c={'k': r\"\\d\"}), g()]")
VERDICTS = "safe", "unsafe\nS1,S9", "\n\nunsafe\nS1, S14\n"
SPLINTERS = (*"[](){}<>,:=.'\"\\#*-+_ \n\t\x00\ud800é²٣🦙", '"""', "'''", "NaN", "None", "inf",
             "1e999", "0x", "1j", "f(", "**", "{{", "lambda:", "\\u", "\\N{", "</function>",
             "unsafe", "S1", "[" * 300, "{a=" * 300, "-" * 300, "9" * 5000)


def broken(text, rng):
    """A text with one to four places cut out, doubled, moved, or filled with splinters."""
    for _ in range(rng.randint(1, 4)):
        i, j = sorted(rng.choices(range(len(text) + 1), k=2))
        j = min(j, i + rng.choice((0, 1, 3, 50)))
        k = rng.randint(0, len(text))
        cut, filled = text[:i] + text[j:], text[:i] + rng.choice(SPLINTERS) + text[j:]
        doubled, copied = text[:j] + text[i:], text[:k] + text[i:j] + text[k:]
        text = rng.choice((cut, filled, doubled, copied, text[i:] + text[:i]))
    return text


def soup(rng):
    """Splinters only."""
    return "".join(rng.choices(SPLINTERS[:-4], k=rng.randint(1, 12)))


def literal(rng, depth=0):
    """Any argument that a call can hold, three brackets deep at most."""
    if depth == 3 or rng.random() < 0.5:
        return rng.choice((None, True, float("inf"), rng.randint(-9**20, 9**20),
                           rng.gauss(0, 1e9), soup(rng)))
    inner = [literal(rng, depth + 1) for _ in range(rng.randint(0, 3))]
    return rng.choice((inner, {f"k{i}": value for i, value in enumerate(inner)},
                       {soup(rng): value for value in inner}))


def well_read(text):
    """The calls in a text; each is a name and arguments, and a Python list can be said again."""
    found = read_calls(text)
    assert type(found) is tuple
    for call in found:
        assert type(call) is Call
        assert type(call.name) is str
        assert type(call.arguments) is dict
        assert all(type(name) is str for name in call.arguments)
    if found and text.strip().startswith("["):
        assert repr(read_calls(python_calls(found))) == repr(found)
    return found


def test_six_thousand_texts_are_read_without_an_exception():
    rng, began = random.Random(0), time.process_time()
    for _ in range(1000):
        call = Call("f", {"a": literal(rng), "from": literal(rng)})
        assert repr(well_read(python_calls([call]))) == repr((call,))
        well_read(broken(python_calls([call]), rng))
    n_read = sum(bool(well_read(broken(rng.choice(CALLS), rng))) for _ in range(3000))
    assert 300 < n_read < 1000      # neither all whole nor all broken
    for _ in range(500):
        well_read(soup(rng))
        well_read(f"[f(a={soup(rng)})]")
    assert time.process_time() - began < 10     # 2 s on an idle core


@settings(max_examples=300, deadline=None)
@given(st.one_of(
    st.text(st.characters(), max_size=40),      # surrogates, null bytes and all
    st.text("[](){}<>,:='\"\\ \n-+.e1fgaNT", max_size=40),
    st.text("[](){},:='\"\\ \n-+.e1rN", max_size=20).map(lambda text: f"[f(a={text})]"),
    st.text('[]{},:"\\ 1e-NaInfity', max_size=20).map(
        lambda text: f'{{"name": "f", "parameters": {{"a": {text}}}}}'),
    st.builds(broken, st.sampled_from(CALLS), st.randoms(use_true_random=False))))
@example('[f(a={{"k": "v"}})]')
def test_any_text_is_calls_or_none(text):
    well_read(text)


def refused(text):
    """Whether a text is no verdict. An error that says anything else goes through."""
    try:
        verdict = read_verdict(text)
    except ValueError as error:
        if "is no verdict" not in str(error):
            raise
        return True
    assert verdict.safe == (text.strip() == "safe")
    assert all(code and code == code.strip() for code in verdict.codes)
    return False


def test_two_thousand_broken_verdicts_are_verdicts_or_refused():
    rng = random.Random(0)
    assert 500 < sum(refused(broken(rng.choice(VERDICTS), rng)) for _ in range(2000)) < 2000


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(), max_size=20) | st.text("safeun,S19 \n\r\t", max_size=20)
       | st.builds(broken, st.sampled_from(VERDICTS), st.randoms(use_true_random=False)))
def test_any_text_is_a_verdict_or_refused(text):
    refused(text)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 31_999), max_size=12), st.lists(st.integers(0, 32_015), max_size=4))
def test_any_tokens_before_the_end_of_an_infill_are_text(ids, after):
    """What comes after the end, special pieces among it, changes nothing."""
    text = infill_text([*ids, EOT, *after], spm())
    assert type(text) is str
    assert text == infill_text(ids, spm())


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 128_255) | st.integers(128_000, 128_255), max_size=12),
       st.booleans())
@pytest.mark.parametrize("name", ["llama-3", "llama-3.1"])
def test_any_tokens_of_an_answer_are_a_message_of_the_next_dialog(name, ids, cut):
    form = named(name)
    message = form.reply(llama3().decode(ids), ids, llama3(), cut=cut)
    assert message.role == A
    assert dialog_tokens([message], llama3(), form).ids
