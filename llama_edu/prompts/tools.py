"""Tools of Llama 3.1 and later: how they are announced, and how a call is written and read.

The announcements are texts for a system or a user message, to the byte as Meta's generators
write them; a model was taught on them and on nothing else.
"""

import ast
import json
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, NamedTuple


@dataclass(frozen=True)
class Parameter:
    """One argument of a tool. `kind` is what its author calls its type: int, string, ..."""

    kind: str
    description: str
    required: bool = True
    default: str | None = None


@dataclass(frozen=True)
class Tool:
    """A function that the reader's program offers."""

    name: str
    description: str
    parameters: Mapping[str, Parameter]

    @property
    def required(self) -> list[str]:
        return [name for name, parameter in self.parameters.items() if parameter.required]


class Call(NamedTuple):
    """A tool that the assistant wants to be run, and its arguments by name."""

    name: str
    arguments: dict[str, Any]


# -- announcing them ---------------------------------------------------------------------------

def system_text(text: str, *, today: date, builtin: Sequence[str] = ()) -> str:
    """A system message that switches tools on, with the two dates that Meta puts into it.

    `Environment: ipython` alone means the code interpreter; brave_search and wolfram_alpha are
    named on a line of their own.
    """
    named = ", ".join(name for name in builtin if name != "code_interpreter")
    return (f"Environment: ipython\n{f'Tools: {named}' if named else ''}\n"
            f"Cutting Knowledge Date: December 2023\nToday Date: {today:%d %B %Y}\n"
            + (f"\n{text}\n" if text else ""))


def json_tools(tools: Sequence[Tool]) -> str:
    """Ask for calls as JSON objects (Llama 3.1), in a user message."""
    listed = "\n".join(_json_tool(tool) for tool in tools)
    return ("Answer the user's question by making use of the following functions if needed.\n"
            "If none of the function can be used, please say so.\n"
            f"Here is a list of functions in JSON format:\n{listed}\n\n"
            "Return function calls in JSON format.")


def _json_tool(tool: Tool) -> str:
    """Properties are a list, their types are all "object", and `required` stands on one line:
    Meta's own form, which no JSON schema has."""
    properties = [{name: {"type": "object", "description": p.description}}
                  for name, p in tool.parameters.items()]
    whole = {"type": "function", "function": {
        "name": tool.name, "description": tool.description, "parameters": {
            "type": "object", "properties": properties, "required": None}}}
    head, _, tail = json.dumps(whole, indent=4, ensure_ascii=False).rpartition("null")
    return head + json.dumps(tool.required) + tail


def tag_tools(tools: Sequence[Tool]) -> str:
    """Ask for calls in tags, <function=name>{...}</function> (Llama 3.1), in a user message."""
    listed = "".join(
        f"Use the function '{tool.name}' to '{tool.description}':\n"
        f'{{"name": "{tool.name}", "description": "{tool.description}", "parameters": '
        f"{json.dumps(_plain(tool), sort_keys=True)}}}\n\n" for tool in tools)
    return (f"You have access to the following functions:\n\n{listed}"
            "Think very carefully before calling functions.\n"
            "If you choose to call a function ONLY reply in the following format with no prefix "
            "or suffix:\n\n"
            '<function=example_function_name>{"example_name": "example_value"}</function>\n\n'
            "Reminder:\n"
            "- If looking for real time information use relevant functions before falling back to "
            "brave_search\n"
            "- Function calls MUST follow the specified format, start with <function= and end "
            "with </function>\n"
            "- Required parameters MUST be specified\n"
            "- Only call one function at a time\n"
            "- Put the entire function call reply on one line")


def _plain(tool: Tool) -> dict[str, dict[str, Any]]:
    return {name: {"description": p.description, "param_type": p.kind, "required": p.required}
            for name, p in tool.parameters.items()}


def python_tools(tools: Sequence[Tool]) -> str:
    """Ask for calls as a Python list (Llama 3.2 and 3.3), as the system message."""
    listed = json.dumps([_python_tool(tool) for tool in tools], indent=4, ensure_ascii=False)
    return ("You are an expert in composing functions. You are given a question and a set of "
            "possible functions.\n"
            "Based on the question, you will need to make one or more function/tool calls to "
            "achieve the purpose.\n"
            "If none of the function can be used, point it out. If the given question lacks the "
            "parameters required by the function,\n"
            "also point it out. You should only return the function call in tools call "
            "sections.\n\n"
            "If you decide to invoke any of the function(s), you MUST put it in the format of "
            "[func_name1(params_name1=params_value1, params_name2=params_value2...), "
            "func_name2(params)]\n"
            "You SHOULD NOT include any other text in the response.\n\n"
            f"Here is a list of functions in JSON format that you can invoke.\n\n{listed}")


def _python_tool(tool: Tool) -> dict[str, Any]:
    properties = {name: {"type": p.kind, "description": p.description}
                  | ({} if p.default is None else {"default": p.default})
                  for name, p in tool.parameters.items()}
    return {"name": tool.name, "description": tool.description, "parameters": {
        "type": "dict", "required": tool.required, "properties": properties}}


# -- calling them ------------------------------------------------------------------------------

def builtin_call(name: str, query: str) -> str:
    """A call of a search tool, in a message with python_tag and eom."""
    return f'{name}.call(query="{query}")'


def json_call(call: Call) -> str:
    """A call as a JSON object."""
    return json.dumps({"type": "function", "name": call.name, "parameters": call.arguments})


def tag_call(call: Call) -> str:
    """A call in a tag."""
    return f"<function={call.name}>{json.dumps(call.arguments)}</function>"


def python_calls(calls: Sequence[Call]) -> str:
    """Calls as a Python list, with Meta's lists, [1, "a"], and Meta's dicts, {k=1}.

    Where Meta's writer breaks, this one writes Python: "\\"" in a string, {"two words": 1}. Raises
    ValueError for an argument that is not None, a bool, a number, a string, or a list or dict of
    these.
    """
    return f"[{', '.join(f'{call.name}({_arguments(call)})' for call in calls)}]"


def _arguments(call: Call) -> str:
    return ", ".join(f"{name}={_literal(value)}" for name, value in call.arguments.items())


def _literal(value: Any) -> str:
    match value:
        case str():     # half a surrogate pair is no text by itself
            return json.dumps(value, ensure_ascii=False).encode(
                errors="backslashreplace").decode()
        case None | bool() | int() | float():
            return str(value)
        case list():
            return f"[{', '.join(map(_literal, value))}]"
        case dict():
            return f"{{{', '.join(_item(*item) for item in value.items())}}}"
    raise ValueError(f"a {type(value).__name__} cannot be written into a call; None, bools, "
                     "numbers, strings, lists and dicts can. Make it one of these.")


def _item(key: Any, value: Any) -> str:
    named = type(key) is str and NAME.fullmatch(key)
    return f"{key}={_literal(value)}" if named else f"{_literal(key)}: {_literal(value)}"


# -- reading them ------------------------------------------------------------------------------

def read_calls(text: str) -> tuple[Call, ...]:
    """The calls in an answer, in whichever of the four forms it has; none in ordinary prose.

    Nothing is run, and nothing raises, whatever a model wrote: what does not fit is no call. In a
    Python list only arguments by name can be told apart. They are literals: None, True, False,
    numbers, strings, lists (a tuple is one), and dicts, {"k": 1} or {k=1}.
    """
    text = text.strip()
    if tag := re.fullmatch(r"<function=([^>]+)>(\{.*\})(</function>)?", text, re.DOTALL):
        found = _json(tag[2])
        return () if found is None else (Call(tag[1], found),)
    if found := _json(text):
        named = type(found.get("name")) is str and type(found.get("parameters")) is dict
        return (Call(found["name"], found["parameters"]),) if named else ()
    if query := re.fullmatch(r'(\w+)\.call\(query="([^"]*)"\)', text):
        return (Call(query[1], {"query": query[2]}),)
    return _python_list(text)


def _json(text: str) -> dict[str, Any] | None:
    """The object that a text spells, or None."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if type(found) is dict else None


# Python's own parser knows no {k=1} and no argument called `from`, and it can be driven out of
# memory; so a list of calls is read here, piece by piece: a string, a word or number, a mark.
NAME = re.compile(r"[^\W\d]\w*")
PIECE = re.compile(r"""[rR]?(\"{3}|'{3}|"|')(?:\\.|(?!\1)[^\\])*+\1"""
                   r"""|[-+]?\.?\w+\.?\w*(?:(?<=[eE])[-+]\d+)?|\S""", re.DOTALL)
NON_FINITE = {word: float(word) for word in ("inf", "-inf", "nan")}     # words, as Meta writes them


def _python_list(text: str) -> tuple[Call, ...]:
    pieces = (found[0] for found in PIECE.finditer(text))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")     # of a "\d": the model's, not the reader's
            calls = _series(pieces, "]", _call) if next(pieces) == "[" else []
    except (StopIteration, SyntaxError, ValueError, RecursionError):
        return ()
    return () if any(pieces) else tuple(calls)


def _series(pieces: Iterator[str], end: str, read: Callable[[str, Iterator[str]], Any]
            ) -> list[Any]:
    """What stands between commas, up to the closing bracket. `read` is given its first piece."""
    found, piece = [], next(pieces)
    while piece != end:
        found.append(read(piece, pieces))
        if (piece := next(pieces)) == ",":
            piece = next(pieces)
        elif piece != end:
            raise ValueError(piece)
    return found


def _call(name: str, pieces: Iterator[str]) -> Call:
    if not NAME.fullmatch(name) or next(pieces) != "(":
        raise ValueError(name)
    pairs = _series(pieces, ")", _argument)
    if len(dict(pairs)) < len(pairs):       # which one is meant?
        raise ValueError(name)
    return Call(name, dict(pairs))


def _argument(name: str, pieces: Iterator[str]) -> tuple[str, Any]:
    if not NAME.fullmatch(name) or next(pieces) != "=":
        raise ValueError(name)
    return name, _value(next(pieces), pieces)


def _pair(key: str, pieces: Iterator[str]) -> tuple[Any, Any]:
    mark = next(pieces)
    if mark not in ":=" or (mark == "=" and not NAME.fullmatch(key)):
        raise ValueError(key)
    return key if mark == "=" else _leaf(key), _value(next(pieces), pieces)


def _value(piece: str, pieces: Iterator[str]) -> Any:
    if piece == "[":
        return _series(pieces, "]", _value)
    if piece == "{":
        return dict(_series(pieces, "}", _pair))
    if piece == "(":
        found = _series(pieces, ")", _value)
        if len(found) == 1:                 # (1) is a number, (1,) a tuple: too easily confused
            raise ValueError(piece)
        return found
    return _leaf(piece)


def _leaf(piece: str) -> Any:
    """None, a bool, a number or a string."""
    found = NON_FINITE[piece] if piece in NON_FINITE else ast.literal_eval(piece)
    if type(found) is complex:
        raise ValueError(piece)
    return found
