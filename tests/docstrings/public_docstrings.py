"""The docstrings of all public names, with what the code beside them says: signatures, raised errors, bases."""

from __future__ import annotations

import ast
import builtins
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

from numpydoc.docscrape import NumpyDocString, Parameter

from bridgework.tests.test_public_names import ROWS

ROOT = Path(__file__).parents[2]
Function = ast.FunctionDef | ast.AsyncFunctionDef


def source_of(module: str) -> Path:
    """The file of a module, by its dotted name below the package."""
    place = ROOT.joinpath(*module.split("."))
    return place / "__init__.py" if place.is_dir() else place.with_suffix(".py")


@cache
def tree_of(module: str) -> ast.Module:
    return ast.parse(source_of(module).read_text(encoding="utf-8"))


def defined_in(module: str, name: str) -> ast.stmt | None:
    """What a name is defined by; of overloads the last, which has the body."""
    return next((node for node in reversed(tree_of(module).body) if getattr(node, "name", None) == name), None)


def origin_of(module: str, name: str) -> tuple[str, ast.stmt] | None:
    """The module and the definition of a name that a module defines or imports from the package."""
    if node := defined_in(module, name):
        return module, node
    package = module.split(".")[:-1]
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    there = ".".join([*base, *filter(None, [node.module])])
                    if source_of(there).exists() and (found := defined_in(there, alias.name)):
                        return there, found
    return None


def decorators(node: Function) -> list[str]:
    return [ast.unparse(each) for each in node.decorator_list]


def raised_in(node: ast.AST) -> set[str]:
    """The errors that a body raises by name. Errors that are raised again are not among them."""
    found = set()
    for each in ast.walk(node):
        if isinstance(each, ast.Raise) and isinstance(each.exc, ast.Call) and isinstance(each.exc.func, ast.Name):
            found.add(each.exc.func.id)
    return {name for name in found if hasattr(builtins, name)} - {
        "NotImplementedError",
        "AssertionError",
        "AttributeError",
        "StopIteration",
    }


@dataclass(frozen=True)
class Documented:
    """One public function, class, method or property."""

    name: str  # as it is imported, such as probes.Features.save
    module: str
    node: Function | ast.ClassDef
    owner: ast.ClassDef | None = None

    @cached_property
    def text(self) -> str:
        return ast.get_docstring(self.node) or ""

    @cached_property
    def doc(self) -> NumpyDocString:
        return NumpyDocString(self.text)

    @property
    def is_class(self) -> bool:
        return isinstance(self.node, ast.ClassDef)

    @property
    def is_property(self) -> bool:
        return not self.is_class and any("property" in each for each in decorators(self.node))

    @property
    def is_short(self) -> bool:
        """Whether this is a method whose sentences say all: its parameters are named in them."""
        function = self.node if self.owner and not self.is_class else None
        return function is not None and not any(self.doc[section] for section in ("Parameters", "Returns", "Yields"))

    @cached_property
    def lent(self) -> Documented | None:
        """The method that describes the parameters of this one, where the docstring names it."""
        found = re.search(r"as `(\w+\.\w+)` (?:does|describes)", " ".join(self.text.split()))
        return BY_NAME[f"{self.name.split('.')[0]}.{found[1]}"] if found and self.is_short else None

    @property
    def constructor(self) -> Function | None:
        """What is called: the function, or the `__init__` that a class has or inherits."""
        if not isinstance(self.node, ast.ClassDef):
            return self.node
        for _module, node in [(self.module, self.node), *bases(self.module, self.node)]:
            for each in node.body:
                if isinstance(each, ast.FunctionDef) and each.name == "__init__":
                    return each
        return None

    @cached_property
    def parameters(self) -> dict[str, str]:
        """Names, with their stars, and annotations; of a class without a constructor, its fields."""
        function = self.constructor
        if function is None:
            assert isinstance(self.node, ast.ClassDef)
            fields = [each for each in self.node.body if isinstance(each, ast.AnnAssign)]
            named = {ast.unparse(each.target): ast.unparse(each.annotation) for each in fields}
            return {name: kind for name, kind in named.items() if not name.startswith("_")}
        args = function.args
        found = [(each.arg, each) for each in [*args.posonlyargs, *args.args]]
        if (self.owner or self.is_class) and "staticmethod" not in decorators(function):
            found = found[1:]
        found += [("*" + args.vararg.arg, args.vararg)] if args.vararg else []
        found += [(each.arg, each) for each in args.kwonlyargs]
        found += [("**" + args.kwarg.arg, args.kwarg)] if args.kwarg else []
        return {name: ast.unparse(each.annotation) if each.annotation else "" for name, each in found}

    @cached_property
    def described(self) -> dict[str, str]:
        """What the docstring says of each parameter or attribute."""
        if self.lent:
            return self.lent.described
        if self.is_short:
            return {name.lstrip("*"): self.text for name in self.parameters if _stem(name) in self.text.lower()}
        sections = ("Parameters", "Attributes") if self.is_class else ("Parameters",)
        rows: list[Parameter] = [row for section in sections for row in self.doc[section]]
        named = [(name.strip(" *\\"), row) for row in rows for name in row.name.split(",")]
        return {name: " ".join([row.type, *row.desc]) for name, row in named}

    @property
    def returns(self) -> str:
        """The annotation of what is returned; "" for nothing."""
        if isinstance(self.node, ast.ClassDef) or self.node.returns is None:
            return ""
        kind = ast.unparse(self.node.returns)
        return "" if kind in ("None", "Self") else kind

    @cached_property
    def raised(self) -> set[str]:
        """The errors that the body raises, and those of the checks that it calls by name."""
        bodies: list[tuple[str, ast.AST]] = [(self.module, self.node)]
        if isinstance(self.node, ast.ClassDef):
            names = ("__init__", "__post_init__", "__new__")
            bodies = [(self.module, each) for each in self.node.body if getattr(each, "name", None) in names]
        found = set()
        for module, body in bodies:
            found |= raised_in(body)
            for call in ast.walk(body):
                if isinstance(call, ast.Call) and isinstance(call.func, ast.Name):
                    called = call.func.id.lstrip("_")
                    if called.startswith(("check", "refuse")) and (there := origin_of(module, call.func.id)):
                        found |= raised_in(there[1])
        return found


def _stem(name: str) -> str:
    return name.strip("*").removesuffix("s").replace("_", " ")


def bases(module: str, node: ast.ClassDef) -> Iterator[tuple[str, ast.ClassDef]]:
    """The classes of the package that a class inherits from."""
    for base in node.bases:
        there = origin_of(module, ast.unparse(base).split("[")[0])
        if there and isinstance(there[1], ast.ClassDef):
            yield there[0], there[1]
            yield from bases(*there)


def methods(name: str, module: str, node: ast.ClassDef) -> Iterator[Documented]:
    """The public methods of a class, inherited ones as well."""
    seen = set()
    for where, each in [(module, node), *bases(module, node)]:
        for method in each.body:
            if isinstance(method, ast.FunctionDef) and not method.name.startswith("_") and method.name not in seen:
                seen.add(method.name)
                yield Documented(f"{name}.{method.name}", where, method, each)


def public() -> Iterator[Documented]:
    for face, module, name in ROWS:
        package = face.removeprefix("bridgework.")
        node = defined_in(f"{package}.{module}", name)
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            own = Documented(f"{package}.{name}", f"{package}.{module}", node)
            yield own
            if isinstance(node, ast.ClassDef):
                yield from methods(own.name, own.module, node)


PUBLIC = list(public())
BY_NAME = {each.name: each for each in PUBLIC}
