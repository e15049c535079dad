"""One change in a piece of code, of the kinds that people make by mistake."""

import ast
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

LONGEST = 28        # characters of code that a sentence quotes
COMPARED = {ast.Lt: (ast.LtE, ast.Gt), ast.LtE: (ast.Lt, ast.GtE), ast.Gt: (ast.GtE, ast.Lt),
            ast.GtE: (ast.Gt, ast.LtE), ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,),
            ast.In: (ast.NotIn,), ast.NotIn: (ast.In,), ast.Is: (ast.IsNot,),
            ast.IsNot: (ast.Is,)}
COMPUTED = {ast.Add: (ast.Sub,), ast.Sub: (ast.Add,), ast.Mult: (ast.Div, ast.Add),
            ast.Div: (ast.Mult, ast.FloorDiv), ast.FloorDiv: (ast.Mod,),
            ast.Mod: (ast.FloorDiv,), ast.Pow: (ast.Mult,), ast.BitAnd: (ast.BitOr,),
            ast.BitOr: (ast.BitAnd,), ast.MatMult: ()}
SIGNS = {ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!=",
         ast.In: "in", ast.NotIn: "not in", ast.Is: "is", ast.IsNot: "is not", ast.Add: "+",
         ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.FloorDiv: "//", ast.Mod: "%",
         ast.Pow: "**", ast.BitAnd: "&", ast.BitOr: "|", ast.MatMult: "@", ast.USub: "-",
         ast.Not: "not", ast.Invert: "~", ast.And: "and", ast.Or: "or", ast.UAdd: "+",
         ast.LShift: "<<", ast.RShift: ">>", ast.BitXor: "^"}
CONFUSED = [("sum", "mean"), ("amax", "amin"), ("max", "min"), ("argmax", "argmin"),
            ("sin", "cos"), ("any", "all"), ("sqrt", "rsqrt"), ("tril", "triu"),
            ("repeat", "repeat_interleave"), ("cumsum", "cumprod"), ("exp", "log"),
            ("softmax", "log_softmax"), ("floor", "ceil"), ("square", "abs"), ("sigmoid", "tanh"),
            ("zeros", "ones"), ("lstrip", "rstrip"), ("index", "rindex"), ("find", "rfind"),
            ("std", "var"), ("mean", "amax"), ("sum", "amax"), ("round", "floor"),
            ("append", "extend"), ("min", "sum"), ("silu", "sigmoid"), ("silu", "gelu")]


@dataclass
class Place:
    """A place in a tree, what stands there, and what could; `said` is read after "with"."""

    holder: ast.AST
    field: str
    index: int | None
    old: Any
    new: Any
    definition: ast.stmt            # the definition at the file's top level that holds the place
    said: str

    def put(self, node: Any) -> None:
        if self.index is None:
            setattr(self.holder, self.field, node)
        else:
            getattr(self.holder, self.field)[self.index] = node


def mutations(tree: ast.Module, lines: Collection[int]) -> Iterator[Place]:
    """Every change of the code in functions on these lines, one at a time."""
    for definition in tree.body:
        for holder in ast.walk(definition):
            for field, value in ast.iter_fields(holder):
                for index, node in enumerate(value) if isinstance(value, list) else [(None, value)]:
                    if getattr(node, "lineno", None) in lines:
                        for said, new in _changes(node):
                            yield Place(holder, field, index, node, new, definition, said)


def _changes(node: ast.AST) -> Iterator[tuple[str, Any]]:
    kinds = {ast.Compare: _compare, ast.BinOp: _binary, ast.UnaryOp: _unary, ast.BoolOp: _boolean,
             ast.Constant: _constant, ast.Call: _call, ast.Slice: _slice, ast.IfExp: _choice,
             ast.AugAssign: _augmented, ast.If: _branch, ast.Assign: _assigned,
             ast.Break: _dropped, ast.Continue: _dropped, ast.Expr: _dropped,
             ast.Subscript: _subscript, ast.ListComp: _filter, ast.GeneratorExp: _filter,
             ast.Attribute: _attribute}
    return kinds.get(type(node), lambda node: iter(()))(node)


def _quoted(code: str | ast.AST, before: str = "") -> str:
    text = before + (code if isinstance(code, str) else ast.unparse(code))
    return f"`{text}`" if len(text) <= LONGEST else "a term"


def _for(new: Any, old: Any) -> str:
    return f"`{SIGNS[new]}` for `{SIGNS[old]}`"


def _compare(node: ast.Compare) -> Iterator[tuple[str, Any]]:
    for i, op in enumerate(node.ops):
        for new in COMPARED[type(op)]:
            ops = [*node.ops[:i], new(), *node.ops[i + 1:]]
            yield _for(new, type(op)), ast.Compare(node.left, ops, node.comparators)


def _binary(node: ast.BinOp) -> Iterator[tuple[str, Any]]:
    old = type(node.op)
    yield f"{_quoted(node.right, SIGNS[old] + ' ')} left out", node.left
    yield f"{_quoted(ast.unparse(node.left) + ' ' + SIGNS[old])} left out", node.right
    for new in COMPUTED.get(old, ()):
        yield _for(new, old), ast.BinOp(node.left, new(), node.right)
    if old in (ast.Sub, ast.Div, ast.FloorDiv, ast.MatMult, ast.Pow, ast.Mod):
        turned = ast.BinOp(node.right, node.op, node.left)
        yield f"the two sides of `{SIGNS[old]}` exchanged", turned


def _unary(node: ast.UnaryOp) -> Iterator[tuple[str, Any]]:
    yield f"a `{SIGNS[type(node.op)]}` left out", node.operand


def _boolean(node: ast.BoolOp) -> Iterator[tuple[str, Any]]:
    new = ast.Or if isinstance(node.op, ast.And) else ast.And
    yield _for(new, type(node.op)), ast.BoolOp(new(), node.values)
    for i, each in enumerate(node.values):
        rest = node.values[:i] + node.values[i + 1:]
        yield f"{_quoted(each)} left out", rest[0] if len(rest) == 1 else ast.BoolOp(node.op, rest)


def _constant(node: ast.Constant) -> Iterator[tuple[str, Any]]:
    if isinstance(node.value, bool):
        yield f"`{not node.value}` for `{node.value}`", ast.Constant(not node.value)
    elif isinstance(node.value, int):
        for new in dict.fromkeys((node.value + 1, node.value - 1, 0, 1, 2 * node.value)):
            if new != node.value:
                yield f"`{new}` for `{node.value}`", ast.Constant(new)
    elif isinstance(node.value, float):
        for new in (1.0, 0.0, 2 * node.value, node.value / 2):
            yield f"`{new:g}` for `{node.value:g}`", ast.Constant(new)


def _call(node: ast.Call) -> Iterator[tuple[str, Any]]:
    name = ast.unparse(node.func).rpartition(".")[2]
    if isinstance(node.func, ast.Attribute):
        yield f"`{name}` left out", node.func.value
    for each in node.args[:2]:
        yield f"`{name}` left out", each
    if len(node.args) >= 2:
        swapped = [node.args[1], node.args[0], *node.args[2:]]
        yield f"the first two values of `{name}` exchanged", ast.Call(node.func, swapped,
                                                                     node.keywords)
    for i, each in enumerate(node.keywords):
        rest = node.keywords[:i] + node.keywords[i + 1:]
        yield f"`{each.arg}` of `{name}` left out", ast.Call(node.func, node.args, rest)
    if isinstance(node.func, ast.Name):
        for new in _confused(name):
            yield f"`{new}` for `{name}`", ast.Call(ast.Name(new, ast.Load()), node.args,
                                                    node.keywords)


def _attribute(node: ast.Attribute) -> Iterator[tuple[str, Any]]:
    for new in _confused(node.attr):
        yield f"`{new}` for `{node.attr}`", ast.Attribute(node.value, new, node.ctx)


def _confused(name: str) -> Iterator[str]:
    for one, other in CONFUSED:
        if name in (one, other):
            yield other if name == one else one


def _slice(node: ast.Slice) -> Iterator[tuple[str, Any]]:
    for name in ("lower", "upper", "step"):
        part = getattr(node, name)
        if part is None:
            continue
        parts = {"lower": node.lower, "upper": node.upper, "step": node.step}
        yield f"the slice's {name} bound left out", ast.Slice(**parts | {name: None})
        for n, said in ((1, "further"), (-1, "earlier")):
            moved = ast.BinOp(part, ast.Add(), ast.Constant(n))
            yield f"the slice's {name} bound one {said}", ast.Slice(**parts | {name: moved})


def _subscript(node: ast.Subscript) -> Iterator[tuple[str, Any]]:
    if isinstance(node.slice, ast.Name | ast.BinOp | ast.Attribute):
        for n, said in ((1, "one further"), (-1, "one earlier")):
            index = ast.BinOp(node.slice, ast.Add(), ast.Constant(n))
            yield f"an index {said}", ast.Subscript(node.value, index, node.ctx)
    if isinstance(node.ctx, ast.Load):
        yield f"{_quoted(node.slice, '[')} ...] left out".replace("` ...]", "]`"), node.value


def _choice(node: ast.IfExp) -> Iterator[tuple[str, Any]]:
    yield f"the case {_quoted(node.test)} taken always", node.body
    yield f"the case {_quoted(node.test)} left out", node.orelse


def _branch(node: ast.If) -> Iterator[tuple[str, Any]]:
    yield f"the case {_quoted(node.test)} left out", ast.If(ast.Constant(False), node.body,
                                                             node.orelse)
    yield f"the case {_quoted(node.test)} taken always", ast.If(ast.Constant(True), node.body, [])


def _augmented(node: ast.AugAssign) -> Iterator[tuple[str, Any]]:
    yield f"{_quoted(node)} left out", ast.Pass()
    for new in COMPUTED.get(type(node.op), ()):
        yield (f"`{SIGNS[new]}=` for `{SIGNS[type(node.op)]}=`",
               ast.AugAssign(node.target, new(), node.value))
    if isinstance(node.target, ast.Name):
        yield f"`=` for `{SIGNS[type(node.op)]}=`", ast.Assign([node.target], node.value)


def _assigned(node: ast.Assign) -> Iterator[tuple[str, Any]]:
    yield f"the step {_quoted(node)} left out", ast.Pass()


def _dropped(node: ast.stmt) -> Iterator[tuple[str, Any]]:
    if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
        yield f"the step {_quoted(node)} left out", ast.Pass()


def _filter(node: ast.ListComp | ast.GeneratorExp) -> Iterator[tuple[str, Any]]:
    for i, each in enumerate(node.generators):
        if each.ifs:
            free = ast.comprehension(each.target, each.iter, [], each.is_async)
            rest = [*node.generators[:i], free, *node.generators[i + 1:]]
            yield f"{_quoted(each.ifs[0], 'if ')} left out", type(node)(node.elt, rest)
