"""Tools of Llama 3.1 and later, against the documents and the code in Meta's own package."""

import importlib.resources
import json
import re
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
    lambda name: name not in {"brave_search", "wolfram_alpha", "photogen", "as", "if", "in", "is",
                              "or", "and", "not", "for", "def", "del", "try", "elif", "else",
                              "from", "pass", "with", "while", "yield", "break", "class", "raise",
                              "async", "await", "except", "return", "import", "lambda", "assert",
                              "global"})
simple = st.one_of(st.integers(), st.booleans(), st.none(),
                   st.text("abc é{}[]()<>,=:;'/ ", max_size=9))
calls = st.builds(Call, names, st.dictionaries(names, simple, max_size=3))


@settings(max_examples=100, deadline=None)
@given(calls)
def test_calls_are_written_as_meta_writes_them(call):
    theirs = ToolCall(call_id="1", tool_name=call.name, arguments=call.arguments)
    for ours, form in ((json_call(call), ToolPromptFormat.json),
                       (tag_call(call), ToolPromptFormat.function_tag),
                       (python_calls([call]), ToolPromptFormat.python_list)):
        assert ours == ToolUtils.encode_tool_call(theirs, form)
        assert read_calls(ours) == (call,)


def test_a_builtin_call_is_read_back():
    assert read_calls(builtin_call("brave_search", "gold")) == (
        Call("brave_search", {"query": "gold"}),)


def test_several_calls_in_one_answer_are_all_read():
    assert read_calls("[get_weather(city='San Francisco', metric='celsius'), now()]") == (
        Call("get_weather", {"city": "San Francisco", "metric": "celsius"}), Call("now", {}))


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(names, st.one_of(st.text(max_size=9), st.lists(simple, max_size=3)),
                       min_size=1))
def test_a_python_call_keeps_quotes_line_ends_and_lists(arguments):
    """Meta's own writer breaks at a double quote."""
    arguments = {name: [*value] if type(value) is list else value.replace("\x00", "")
                 for name, value in arguments.items()}
    assert read_calls(python_calls([Call("f", arguments)])) == (Call("f", arguments),)


@pytest.mark.parametrize("text", [
    "", "The sky is blue.", "[1, 2]", "[f(1)]", "f(x=1)", "[f(x=g())]", "[a.b(x=1)]", "{}",
    '{"name": "f"}', '{"name": 3, "parameters": {}}', "<function=f>{broken}</function>", "[" * 500,
    '["f"]', "None", "[f(**{'a': 1})]", "brave_search.call(query=1)", "\x00", "[f(x=1)"])
def test_prose_and_broken_calls_are_no_calls(text):
    assert read_calls(text) == ()
