"""Read every error and warning of the packages from their source: what it says, when, where, and who can meet it."""

from __future__ import annotations

import ast
import builtins
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from .placeholders import Part, variants

ROOT = Path(__file__).parents[2]
PACKAGES = ("probes", "models", "figures", "studies")
LEFT_OUT = ("probes/stimuli/noto/", "studies/quotes/")  # they make and check files of the repository itself
INNER = {"AssertionError", "NotImplementedError", "StopIteration", "AttributeError"}  # meant for other code
ERRORS = {name for name, kind in vars(builtins).items() if isinstance(kind, type) and issubclass(kind, Exception)}
OURS = {"StimulusDiffers", "LayerNeverRan", "LayerRanAgain", "AmbiguousStreams"}  # subclasses that users meet
LONGEST = 140  # of a condition: a longer one explains nothing


class Place(NamedTuple):
    """Hold where a message stands: its file, the function around it, what that does, and when it is raised."""

    file: str
    function: str
    about: str
    condition: str


class Message(NamedTuple):
    """Hold one message: the kind of error, its parts, and every place that raises it."""

    kind: str
    parts: tuple[Part, ...]
    places: tuple[Place, ...]

    @property
    def text(self) -> str:
        """Return the message with its placeholders in words."""
        return " ".join("".join(part.text if part.fixed else f"<{part.text}>" for part in self.parts).split())

    @property
    def words(self) -> list[str]:
        """Return the words that are the same whenever it is raised."""
        fixed = " ".join(part.text if part.fixed else " " for part in self.parts)
        return re.findall(r"[^\W\d_]{2,}", fixed.lower())


def sources() -> list[Path]:
    """Return the modules whose errors a user can meet."""
    files = [*sorted(ROOT.glob("*.py")), *(file for top in PACKAGES for file in sorted((ROOT / top).rglob("*.py")))]
    return [file for file in files if not file.relative_to(ROOT).as_posix().startswith(LEFT_OUT)]


def kind_of(call: ast.Call) -> str | None:
    """Return which error or warning a call makes, or None."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if name == "warn" and isinstance(call.func, ast.Attribute) and ast.unparse(call.func.value) == "warnings":
        return "warning"
    if name in ("SystemExit", "exit") or (name == "error" and ast.unparse(call.func) == "parser.error"):
        return "end of the command"
    return name if name in (ERRORS | OURS) - INNER else None


def condition_of(node: ast.AST, above: dict[ast.AST, ast.AST]) -> str:
    """Return the source of the nearest condition around a node, up to its function."""
    while (parent := above.get(node)) is not None and not isinstance(parent, (ast.FunctionDef, ast.ClassDef)):
        if isinstance(parent, ast.ExceptHandler):
            return f"except {ast.unparse(parent.type)}" if parent.type else ""
        if isinstance(parent, ast.If) and node is not parent.test:
            test = ast.unparse(parent.test)
            return test if node in parent.body else f"not ({test})"
        node = parent
    return ""


def values_in(node: ast.AST) -> dict[str, ast.expr]:
    """Return what each name that is given one value in a module or function stands for."""
    found: defaultdict[str, list[ast.expr]] = defaultdict(list)
    for each in ast.walk(node) if isinstance(node, ast.FunctionDef) else ast.iter_child_nodes(node):
        if isinstance(each, ast.Assign) and len(each.targets) == 1 and isinstance(each.targets[0], ast.Name):
            found[each.targets[0].id].append(each.value)
        elif isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name) and each.value is not None:
            found[each.target.id].append(each.value)
        elif isinstance(each, ast.AugAssign) and isinstance(each.target, ast.Name):
            found[each.target.id] += [each.value, each.value]  # more than one value: its words are not known
    return {name: values[0] for name, values in found.items() if len(values) == 1}


def summary(node: ast.AST) -> str:
    """Return the first sentence of a docstring."""
    documented = isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
    text = (ast.get_docstring(node) or "") if documented else ""
    return " ".join(text.split("\n\n")[0].split())


def messages_of(file: Path) -> Iterator[Message]:
    """Yield the messages of one module, in the order of its lines."""
    module = ast.parse(file.read_text(encoding="utf-8"))
    above = {child: parent for parent in ast.walk(module) for child in ast.iter_child_nodes(parent)}
    constants = values_in(module)
    for call in (node for node in ast.walk(module) if isinstance(node, ast.Call)):
        kind = kind_of(call)
        if kind is None or not call.args:
            continue
        chain: list[ast.FunctionDef | ast.ClassDef] = []
        node: ast.AST = call
        while node in above:
            node = above[node]
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                chain.insert(0, node)
        values = dict(constants)
        for scope in chain:
            values |= values_in(scope) if isinstance(scope, ast.FunctionDef) else {}
        function = ".".join(scope.name for scope in chain)
        about = next((text for scope in reversed(chain) if (text := summary(scope))), summary(module))
        condition = condition_of(call, above)
        place = Place(
            file.relative_to(ROOT).as_posix(), function, about, condition if len(condition) <= LONGEST else ""
        )
        for parts in variants(call.args[0], values):
            message = Message(kind, tuple(parts), (place,))
            if len(message.words) > 1:
                yield message


@cache
def messages() -> tuple[Message, ...]:
    """Return all messages, each once, in the order of the files."""
    found: dict[tuple[str, str], Message] = {}
    for file in sources():
        for message in messages_of(file):
            key = message.kind, message.text
            known = found.get(key)
            found[key] = message if known is None else known._replace(places=known.places + message.places)
    return tuple(found.values())
