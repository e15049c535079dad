"""Tools of Llama 3.1 and later, against the documents and the code in Meta's own package."""

import importlib.resources
import json
import math
import re
import time
from datetime import date

import pytest
from dialogs import A, S, T, U, dialog
from hypothesis import given, settings
from hypothesis import strategies as st
from llama_models.datatypes import ToolCall, ToolPromptFormat
from llama_models.llama3.tool_utils import ToolUtils

from llama_edu.prompts import Message, dialog_text, named
from llama_edu.prompts.tools import (
    Call,
    Parameter,
    Tool,
    builtin_call,
    json_call,
    json_tools,
    python_calls,
    python_tools,
    read_calls,
    system_text,
    tag_call,
    tag_tools,
)

LLAMA_31 = named("llama-3.1")
SONGS = Tool("trending_songs", "Returns the trending songs on a Music site", {
    "n": Parameter("int", "The number of songs to return"),
    "genre": Parameter("str", "The genre of the songs to return", required=False)})
WEATHER = Tool("get_weather", "Get weather info for places", {
    "city": Parameter("string", "The name of the city to get the weather for"),
    "metric": Parameter("string", "The metric for weather. Options are: celsius, fahrenheit",
                        required=False, default="celsius")})


def printed(release, name):
    """The prompts that Meta's document shows, as its own renderer wrote them."""
    text = importlib.resources.files("llama_models").joinpath(release, name).read_text("utf-8")
    found = re.findall(r"##### Input Prompt Format\n```\n(.*?)\n```", text, re.DOTALL)
    assert len(found) >= 6
    return found


@pytest.fixture(scope="module")
def prompts_31():
    return printed("llama3_1", "prompt_format.md")


@pytest.fixture(scope="module")
def prompts_32():
    return printed("llama3_2", "text_prompt_format.md")


def shown(*messages):
    """A dialog as those documents print it: with a line end after it."""
    return dialog_text(messages, LLAMA_31)


def test_the_builtin_tools_of_llama_31(prompts_31):
    on = system_text("You are a helpful assistant.", today=date(2024, 9, 21),
                     builtin=("brave_search", "wolfram_alpha"))
    question = "Search the web for the latest price of 1oz gold?"
    assert shown(*dialog((S, on), (U, question))) in prompts_31
    # the code interpreter has no name of its own in the list
    assert on == system_text("You are a helpful assistant.", today=date(2024, 9, 21), builtin=(
        "code_interpreter", "brave_search", "wolfram_alpha"))


def test_the_code_interpreter_of_llama_32(prompts_32):
    on = system_text("", today=date(2024, 9, 24))
    question = "Write code to check if number is prime. Use it to verify if number 7 is prime"
    assert shown(*dialog((S, on), (U, question))) in prompts_32


@pytest.mark.parametrize("announce", [json_tools, tag_tools])
def test_own_functions_of_llama_31(prompts_31, announce):
    on = system_text("You are a helpful assistant.", today=date(2024, 9, 21))
    assert shown(*dialog((S, on), (U, announce([SONGS])),
                         (U, "Use tools to get latest trending songs"))) in prompts_31


def test_own_functions_of_llama_32_as_a_python_list(prompts_32):
    on = python_tools([WEATHER])
    assert shown(*dialog((S, on), (U, "What is the weather in SF and Seattle?"))) in prompts_32
    call = python_calls([Call("get_weather", {"city": "San Francisco", "metric": "celsius"})])
    assert shown(Message(S, on), Message(U, "What is the weather in SF?"),
                 Message(A, call, python_tag=True), Message(T, '"25 C"')) in prompts_32


def test_a_whole_round_with_a_builtin_tool(prompts_31):
    start = "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nEnvironment: ipython\n"
    prompt = next(p for p in prompts_31 if p.startswith(start) and '"queryresult"' in p)
    result = prompt.partition("ipython<|end_header_id|>\n\n")[2].partition("<|eot_id|>")[0]
    assert json.loads(result)["queryresult"]["pods"][2]["primary"]
    assert shown(
        Message(S, "Environment: ipython\nTools: brave_search, wolfram_alpha\n"),
        Message(U, "What is the 100th decimal of pi?"),
        Message(A, builtin_call("wolfram_alpha", "100th decimal of pi"), python_tag=True, eom=True),
        Message(T, result)) == prompt


def test_plain_talk_of_both(prompts_31, prompts_32):
    system = (S, "You are a helpful assistant")
    assert shown(*dialog(system, (U, "Answer who are you in the form of jeopardy?"))) in prompts_31
    assert shown(*dialog(system, (U, "Who are you?"))) in prompts_32


def test_several_tools_are_listed_one_after_the_other():
    assert json_tools([SONGS, WEATHER]).count('"type": "function"') == 2
    assert tag_tools([SONGS, WEATHER]).count("Use the function") == 2
    listed = python_tools([SONGS, WEATHER])
    names = [tool["name"] for tool in json.loads(listed[listed.index("\n[\n"):])]
    assert names == ["trending_songs", "get_weather"]


# -- calls -------------------------------------------------------------------------------------

names = st.from_regex(r"[a-z_][a-z0-9_]{0,8}", fullmatch=True).filter(
    lambda name: name not in {"brave_search", "wolfram_alpha", "photogen"})
numbers = st.one_of(st.none(), st.booleans(), st.integers(), st.floats())


def literals(texts, keys):
    """Whatever an argument may be: a leaf, or lists and dicts of them, in each other."""
    return st.recursive(numbers | texts, lambda inner: st.lists(inner, max_size=3)
                        | st.dictionaries(keys, inner, max_size=3), max_leaves=8)


# Meta's writer breaks at a double quote, a backslash and a line end; so these have none.
smooth = st.builds(Call, names, st.dictionaries(
    names, literals(st.text("abc é{}[]()<>,=:;'/ ", max_size=9), names), max_size=3))
rough = st.builds(Call, names, st.dictionaries(
    names, literals(st.text(max_size=9), st.text(max_size=5) | numbers), max_size=3))


def same(some, others):
    """Equal, and of equal types; nan is like nan."""
    return repr(some) == repr(others)


@settings(max_examples=100, deadline=None)
@given(smooth)
def test_calls_are_written_as_meta_writes_them(call):
    theirs = ToolCall.model_construct(tool_name=call.name, arguments=call.arguments)
    for ours, form in ((json_call(call), ToolPromptFormat.json),
                       (tag_call(call), ToolPromptFormat.function_tag),
                       (python_calls([call]), ToolPromptFormat.python_list)):
        assert ours == ToolUtils.encode_tool_call(theirs, form)
        assert same(read_calls(ours), (call,))


def test_lists_and_dicts_in_a_python_call_are_metas():
    """Its dicts, {k=1}, are no Python: Meta's own reader finds no call in them."""
    call = Call("f", {"a": ["x", None, 1.5, []], "b": {"k": "it's", "n": {"m": [True]}}, "c": {}})
    text = python_calls([call])
    assert text == """[f(a=["x", None, 1.5, []], b={k="it's", n={m=[True]}}, c={})]"""
    assert ToolUtils.maybe_extract_custom_tool_call(text) is None
    assert read_calls(text) == (call,)


def test_what_breaks_metas_writer_is_written_as_python():
    call = Call("f", {"a": 'say "hi"\n', "b": {"two words": "\\d", 3: "\ud800", "é": "é"}})
    text = python_calls([call])
    assert text == r"""[f(a="say \"hi\"\n", b={"two words": "\\d", 3: "\ud800", é="é"})]"""
    assert read_calls(text) == (call,)


@settings(max_examples=100, deadline=None)
@given(st.lists(rough, max_size=3))
def test_python_calls_are_read_back(calls):
    assert same(read_calls(python_calls(calls)), tuple(calls))


@pytest.mark.parametrize("value", [{1}, (1, 2), b"x", 1j, object(), [{"k": {1}}], {(1,): 2}])
def test_what_no_call_can_hold_is_refused(value):
    with pytest.raises(ValueError, match="cannot be written into a call; None, bools, numbers"):
        python_calls([Call("f", {"x": value})])


def test_a_builtin_call_is_read_back():
    assert read_calls(builtin_call("brave_search", "gold")) == (
        Call("brave_search", {"query": "gold"}),)


def test_several_calls_in_one_answer_are_all_read():
    assert read_calls("[get_weather(city='San Francisco', metric='celsius'), now()]") == (
        Call("get_weather", {"city": "San Francisco", "metric": "celsius"}), Call("now", {}))


@pytest.mark.parametrize(("value", "meant"), [
    ("{'k': 1, 'l': [2,],}", {"k": 1, "l": [2]}), ("{ k = 1 , 'l' : 2 }", {"k": 1, "l": 2}),
    ("(3, -4)", [3, -4]), ("()", []), ("-.5", -0.5), ("+1", 1), ("1e-5", 1e-5), ("2E+3", 2000.0),
    ("1.", 1.0), ("0x10", 16), ("1_000", 1000), ("-inf", -math.inf), ("1e999", math.inf),
    ("""'it\\'s'""", "it's"), ('"""a "b"\n"""', 'a "b"\n'), (r'r"\d"', r"\d"),
    (r'"\d"', r"\d"), (r'"\x41\u00e9"', "Aé"), ('"# [f(x=1)]"', "# [f(x=1)]"), ("{}", {})])
@pytest.mark.filterwarnings("error")
def test_the_spellings_of_an_argument(value, meant):
    """As models vary them; a tuple is a list."""
    assert same(read_calls(f"[f(from = {value},\n  b=0)]"), (Call("f", {"from": meant, "b": 0}),))


def test_json_is_read_as_python_reads_it():
    """A name given twice counts as last said, NaN is a number."""
    found, = read_calls('{"name": "f", "name": "g", "parameters": {"a": 1, "a": NaN}}')
    assert found.name == "g"
    assert math.isnan(found.arguments["a"])
    assert read_calls('<function=f>{"a": 1, "a": "\\ud800"}') == (Call("f", {"a": "\ud800"}),)


@pytest.mark.parametrize("text", [
    "", "The sky is blue.", "[1, 2]", "[f(1)]", "f(x=1)", "[f(x=g())]", "[a.b(x=1)]", "{}",
    '{"name": "f"}', '{"name": 3, "parameters": {}}', "<function=f>{broken}</function>", "[" * 500,
    '["f"]', "None", "[f(**{'a': 1})]", "brave_search.call(query=1)", "\x00", "[f(x=1)", "[]",
    # only a list is a list of calls
    "f(a=1), g(b=2)", "(f(a=1), g(b=2))", "{f(a=1)}", "[f(a=1)], [g(b=2)]", "[f(a=1)] Done.",
    "[[f(a=1)]]", "[f(a=1) g(b=2)]", "[f(a=1),,]", "[,]",
    # only literals by name are arguments
    '[f(a={{"k": "v"}})]', "[f(a={[1]: 2})]", "[f(a=1, a=2)]", "[f(a: 1)]", '[f("a": 1)]',
    "[f(a=b)]", "[f(a=...)]", "[f(a=1j)]", "[f(a=(1))]", "[f(a=1+1)]", "[f(a=f'{1}')]", "[f(*a)]",
    "[1(a=1)]", "[f(1=1)]", "[f(a==1)]", '["f"(a=1)]', "[f(a={k})]", "[f(a={1=2})]", "[f(a=010)]",
    # nothing that Python cannot hold
    "[f(a=" + "1" * 5000 + ")]", '{"name": "f", "parameters": {"a": ' + "1" * 5000 + "}}",
    "[f(a='\ud800')]", "[f(a='\x00')]", "[f(a='\n')]", r"[f(a='\x4')]", r"[f(a='\N{no}')]",
    '{"name": ["f"], "parameters": {}}', '{"name": "f", "parameters": [1]}', '[{"name": "f"}]'])
def test_prose_and_broken_calls_are_no_calls(text):
    assert read_calls(text) == ()


@pytest.mark.parametrize("piece", [
    "[", "{", "(", "[f(a=", "[f(a={b=", '{"a":', "<function=f>{", '"', "'", '\\"', '"""', "-",
    "1+", "a.", "[f(a=1),", "1", " ", "a", "a=", "_=a"])
@pytest.mark.parametrize("start", ["", "[f(a=", '[f(a="', "[f(a={b=[", '{"name":', "<function=f>{"])
def test_a_long_text_takes_no_long_time(start, piece):
    """A quadratic reader would need minutes."""
    began = time.process_time()
    assert read_calls(start + piece * 200_000) == read_calls(piece * 100_000 + ")]") == ()
    assert time.process_time() - began < 5


def test_a_long_call_is_read_whole():
    call = Call("f", {"a": [*range(10_000)], "b": "x\n" * 100_000})
    assert read_calls(python_calls([call])) == (call,)
