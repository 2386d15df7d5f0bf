"""Put the placeholders of a message's source into words: `{len(samples)}` is <number of samples>."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from typing import NamedTuple

SAME = {"sorted", "list", "tuple", "set", "str", "repr", "map", "dict", "reversed", "int", "float", "enumerate"}
OPERATORS: dict[type[ast.operator], str] = {
    ast.Add: "+",
    ast.Sub: "-",
    ast.Mult: "x",
    ast.Div: "/",
    ast.FloorDiv: "/",
    ast.BitAnd: "&",
}
DEEPEST = 4  # names that stand for names that stand for text


class Part(NamedTuple):
    """Hold one part of a message: words that are always the same, or a placeholder in words."""

    text: str
    fixed: bool


def spoken(name: str) -> str:
    """Return a name of the source as words."""
    return name.strip("_").replace("_", " ")


def in_words(node: ast.expr) -> str:
    """Return what an expression stands for, as a reader of the message would call it."""
    match node:
        case ast.Name(id=name):
            return spoken(name)
        case ast.Constant(value=value):
            return str(value)
        case ast.Attribute(value=value, attr="__name__"):
            return in_words(value)
        case ast.Attribute(value=ast.Name(id="self" | "cls"), attr=attr):
            return spoken(attr)
        case ast.Attribute(value=value, attr=attr):
            return f"{spoken(attr)} of {in_words(value)}"
        case ast.Subscript(value=value) | ast.Starred(value=value) | ast.FormattedValue(value=value):
            return in_words(value)
        case ast.GeneratorExp(generators=[first, *_]) | ast.ListComp(generators=[first, *_]):
            return in_words(first.iter)
        case ast.SetComp(generators=[first, *_]) | ast.DictComp(generators=[first, *_]):
            return in_words(first.iter)
        case ast.Call(func=ast.Attribute(value=ast.Constant(), attr="join"), args=[joined, *_]):
            return in_words(joined)
        case ast.Call(func=ast.Name(id="len"), args=[counted, *_]):
            return f"number of {in_words(counted)}"
        case ast.Call(func=ast.Name(id="type"), args=[value, *_]):
            return f"type of {in_words(value)}"
        case ast.Call(func=ast.Name(id=name), args=[*_, last]) if name in SAME:
            return in_words(last)
        case ast.Call(func=ast.Attribute(value=value, attr="get" | "strip" | "item" | "tolist" | "keys" | "values")):
            return in_words(value)
        case ast.Call(func=function):
            return in_words(function)
        case ast.BinOp(left=left, op=op, right=right):
            return f"{in_words(left)} {OPERATORS.get(type(op), '-')} {in_words(right)}"
        case ast.BoolOp(values=[first, *_]) | ast.UnaryOp(operand=first) | ast.Compare(left=first):
            return in_words(first)
        case ast.IfExp(body=body, orelse=orelse):
            return " or ".join(filter(None, (in_words(body), in_words(orelse))))
        case ast.JoinedStr(values=values):
            return " ".join("".join(in_words(value) for value in values).split())
    return "..."


def written(node: ast.expr | None, values: Mapping[str, ast.expr], depth: int = 0) -> list[Part] | None:
    """Return the parts of an expression that makes a text, or None where it makes none that can be read here.

    Parameters
    ----------
    node : ast.expr or None
        The expression.
    values : mapping of str to ast.expr
        What names around it stand for.
    depth : int
        How many names were followed already.
    """
    match node:
        case ast.Constant(value=str(text)):
            return [Part(text, True)]
        case ast.JoinedStr(values=pieces):
            parts: list[Part] = []
            for piece in pieces:
                inner = written(piece, values, depth)
                parts += inner if inner is not None else [Part(in_words(piece), False)]
            return parts
        case ast.FormattedValue(value=ast.Name() as name, conversion=-1):
            return written(name, values, depth)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            sides = written(left, values, depth), written(right, values, depth)
            if sides == (None, None):
                return None
            halves = [
                [Part(in_words(side), False)] if found is None else found
                for side, found in zip((left, right), sides, strict=True)
            ]
            return halves[0] + halves[1]
        case ast.Name(id=name) if name in values and depth < DEEPEST:
            return written(values[name], values, depth + 1)
    return None


def variants(node: ast.expr | None, values: Mapping[str, ast.expr]) -> Iterator[list[Part]]:
    """Yield the parts of each message that an expression may make: one for each branch of a condition."""
    if isinstance(node, ast.Name) and isinstance(values.get(node.id), ast.IfExp):
        node = values[node.id]
    if isinstance(node, ast.IfExp):
        yield from variants(node.body, values)
        yield from variants(node.orelse, values)
    elif (parts := written(node, values)) is not None:
        yield parts
