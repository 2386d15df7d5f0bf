"""Private names of libraries are used through one module alone, and one that is gone is named with its version."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from importlib.metadata import version

import pytest

from bridgework.probes import private_names
from bridgework.tests.test_style import MODULES, name, parse

# tests look into libraries on purpose: whether a hook is left behind, for instance
FENCED = [file for file in MODULES if name(file).split("/")[0] not in ("tests", "docs")]
FENCE = "probes/private_names.py"
PRIVATE = {each for each in (*private_names.OBJECTS, *private_names.ATTRIBUTES) if each.startswith("_")}
# of argparse, named tuples, notebooks, os and sys
PYTHONS = {"_actions", "_asdict", "_exit", "_fields", "_getframe", "_replace", "_repr_html_", "_repr_mimebundle_"}


parsed = cache(parse)


def is_private(word: str) -> bool:
    return word.startswith("_") and not word.startswith("__")


@cache
def own_names() -> frozenset[str]:
    """The private names that the project itself defines: functions, classes and attributes."""
    found = set()
    for file in FENCED:
        for node in ast.walk(parsed(file)):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                found.add(node.name)
            elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
                found.add(node.id if isinstance(node, ast.Name) else node.attr)
    return frozenset(each for each in found if is_private(each))


def foreign_uses(module: ast.Module) -> Iterator[str]:
    """Yield the private names of libraries that a module uses, with their lines."""
    for node in ast.walk(module):
        words: list[str] = []
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            ours = node.attr in own_names() | PYTHONS and node.attr not in PRIVATE
            words = [] if ours else [node.attr]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            words = [node.value] if node.value in PRIVATE else []
        elif isinstance(node, ast.ImportFrom) and not node.level:
            words = [w for w in [*(node.module or "").split("."), *(a.name for a in node.names)] if is_private(w)]
        elif isinstance(node, ast.Import):
            words = [w for alias in node.names for w in alias.name.split(".") if is_private(w)]
        yield from (f"line {getattr(node, 'lineno', 0)}: {word}" for word in words)


def test_private_names_are_used_in_one_module():
    found = [f"{name(file)}, {use}" for file in FENCED if name(file) != FENCE for use in foreign_uses(parsed(file))]
    assert not found, f"use them through {FENCE}"


@pytest.mark.parametrize(
    "line",
    [
        "module._modules",
        "self._forward_hooks",
        "torch._C.has_cuda",
        "getattr(module, '_hf_hook', None)",
        "from torch.utils._pytree import tree_map",
        "from diffusers.models.modeling_utils import _something",
        "import torch._dynamo",
    ],
)
def test_a_use_is_found(line):
    assert list(foreign_uses(ast.parse(line)))


def test_installed_libraries_have_every_name():
    assert not private_names.missing_names()


def test_a_name_that_is_gone_is_named_with_the_version(monkeypatch):
    monkeypatch.setitem(private_names.OBJECTS, "_gone", "torch._C")
    monkeypatch.setitem(private_names.ATTRIBUTES, "_went", "accelerate/hooks.py")
    first, second = private_names.missing_names()
    assert first.startswith(f"torch {version('torch')} has no torch._C._gone, which bridgework needs: install")
    assert second.startswith(f"accelerate {version('accelerate')} has no _went in hooks.py, which bridgework reads")
    with pytest.raises(ImportError, match=r"torch \S+ has no torch._C._gone, which bridgework needs"):
        from bridgework.probes.private_names import _gone  # noqa: F401
