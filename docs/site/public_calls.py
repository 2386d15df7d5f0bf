"""Follow calls from public names and commands into the packages, to list an error with the calls that meet it.

The source is read, and nothing is imported. A call is followed where its name says what is called: a function or class
of the module, one that it imports, a method of `self`, or a method whose name one class alone has.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from functools import cache
from pathlib import Path

from .error_messages import PACKAGES, ROOT, sources

Node = tuple[Path, str]  # a file, and the qualified name of what it defines
EXPORT = re.compile(r"^from \.([\w.]+) import (\w+) as (\w+)$", re.M)
MADE = ("__init__", "__post_init__", "__new__")  # what runs when a class is called


@cache
def faces() -> dict[str, dict[str, Node]]:
    """Return where each public name is defined, by face and name, in the order of the stubs."""
    found = {}
    for package in PACKAGES:
        stub = (ROOT / package / "__init__.pyi").read_text(encoding="utf-8")
        found[f"bridgework.{package}"] = {
            public: (ROOT / package / f"{module.replace('.', '/')}.py", name)
            for module, name, public in EXPORT.findall(stub)
        }
    return found


def commands() -> dict[str, Node]:
    """Return the function that each command of the command line runs, by the name of the command."""
    table = ast.parse((ROOT / "__main__.py").read_text(encoding="utf-8"))
    found = {}
    for node in ast.walk(table):
        if isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values):
                if isinstance(key, ast.Constant) and isinstance(value, ast.Call) and len(value.args) > 2:
                    found[f"bridgework {key.value}"] = (ROOT / "commands.py", ast.unparse(value.args[2]).split(".")[-1])
    return found


def _imports(file: Path, module: ast.Module) -> dict[str, Node]:
    found = {}
    for node in ast.walk(module):
        if isinstance(node, ast.ImportFrom) and node.level:
            folder = file.parents[node.level - 1]
            path = folder.joinpath(*(node.module or "").split("."))
            for alias in node.names:
                place = path.with_suffix(".py") if path.with_suffix(".py").is_file() else path / "__init__.py"
                found[alias.asname or alias.name] = (place, alias.name)
    return found


class _Graph:
    """Hold what each function, class and table of the packages refers to."""

    def __init__(self) -> None:
        self.imports: dict[Path, dict[str, Node]] = {}
        self.bodies: dict[Node, ast.AST] = {}
        self.methods: defaultdict[str, list[Node]] = defaultdict(list)
        for file in [*sources(), *(ROOT / top / "__init__.pyi" for top in PACKAGES)]:
            module = ast.parse(file.read_text(encoding="utf-8"))
            file = file.with_suffix(".py")
            self.imports[file] = self.imports.get(file, {}) | _imports(file, module)
            self._define(file, module, "")

    def _define(self, file: Path, scope: ast.AST, prefix: str) -> None:
        for node in ast.iter_child_nodes(scope):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                self.bodies[file, f"{prefix}{node.name}"] = node
                if isinstance(scope, ast.ClassDef):
                    self.methods[node.name].append((file, f"{prefix}{node.name}"))
                self._define(file, node, f"{prefix}{node.name}.")
            elif isinstance(node, (ast.Assign, ast.AnnAssign)) and not prefix:
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                self.bodies |= {(file, each.id): node for each in targets if isinstance(each, ast.Name)}

    def resolve(self, file: Path, name: str) -> Node | None:
        """Return what a name of a module is, through the faces that pass it on."""
        for _ in range(4):
            if (file, name) in self.bodies:
                return file, name
            if name not in self.imports.get(file, {}):
                return None
            file, name = self.imports[file][name]
        return None

    def referred(self, node: Node) -> set[Node]:
        """Return what the body of a node refers to."""
        file, name = node
        body, owner = self.bodies[node], name.rpartition(".")[0]
        if isinstance(body, ast.ClassDef):
            return {(file, f"{name}.{made}") for made in MADE if (file, f"{name}.{made}") in self.bodies}
        found: set[Node | None] = set()
        for each in ast.walk(body):
            if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Load):
                found.add(self.resolve(file, each.id))
            elif isinstance(each, ast.Attribute):
                own = (file, f"{owner}.{each.attr}")
                if isinstance(each.value, ast.Name) and each.value.id in ("self", "cls"):
                    found.add(own if own in self.bodies else None)
                elif len(self.methods[each.attr]) == 1:
                    found.add(self.methods[each.attr][0])
        return {each for each in found if each is not None} - {node}


@cache
def public_calls() -> dict[Node, tuple[str, ...]]:
    """Return what a user calls to reach each function: public names, nearest first; commands, where no name does."""
    graph = _Graph()
    edges = {node: graph.referred(node) for node in graph.bodies}
    names = {
        f"{face}.{public}": node for face, public_names in faces().items() for public, node in public_names.items()
    }
    found = _reached(commands(), edges)
    return found | _reached(names, edges)


def _reached(starts: dict[str, Node], edges: dict[Node, set[Node]]) -> dict[Node, tuple[str, ...]]:
    found: defaultdict[Node, list[tuple[int, str]]] = defaultdict(list)
    for name, node in starts.items():
        methods = {each for each in edges if each[0] == node[0] and each[1].startswith(f"{node[1]}.")}
        seen = fresh = ({node} | methods) & edges.keys()
        distance = 0
        while fresh:
            for each in fresh:
                found[each].append((distance, name))
            fresh = {after for each in fresh for after in edges[each]} - seen
            seen, distance = seen | fresh, distance + 1
    return {node: tuple(name for _, name in sorted(ways)) for node, ways in found.items()}
