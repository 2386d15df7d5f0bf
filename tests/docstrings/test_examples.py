"""Every example of a docstring runs and gives what it shows, or is listed here with the reason why it cannot."""

from __future__ import annotations

import ast
import doctest
import inspect
import warnings
from collections.abc import Iterator
from contextlib import redirect_stdout
from importlib import import_module
from io import StringIO
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import pytest

from bridgework.tests.docstrings import example_names
from bridgework.tests.test_architecture import SOURCES

HUB, OWN = "its model is on a hub", "its models and data are the reader's own"
NOT_RUN = {
    "DualExpert": HUB,
    "LatentGenerator": HUB,
    "open_pipeline": HUB,
    "write_report": OWN,
    "choose_from_features": OWN,
    "extract_on_ray": "it needs a cluster",
    "similarity_map_on_ray": "it needs a cluster",
    "read_hidden_states": "a server of language models writes its files",
    "match_patches": "its features are those of large vision models",
    "Meeting": "its two passes run in lockstep",
    "visiting": "its bridge is the reader's own",
    "AnyModel": OWN,
    "attribute": "it takes a pass for every layer, modality and stimulus",
    "estimate_cost": "it lays out models of billions of parameters, as tests/models/costs does",
    "explained_map": "descent_map runs the same",
    "Fusion": OWN,
    "find_tower": OWN,
    "find_streams": OWN,
    "Recipe": "it trains for many minutes",
    "live_curve": "it trains for many minutes",
}


class Example(NamedTuple):
    """The examples of one docstring."""

    module: str
    name: str
    parts: list[doctest.Example]


def examples() -> Iterator[Example]:
    roots = {f"bridgework.{path.stem}": path for path in (example_names.Path(__file__).parents[2]).glob("[a-z]*.py")}
    for module, file in (SOURCES | roots).items():
        source = file.read_text(encoding="utf-8")
        if ">>>" not in source:
            continue
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Module)):
                parts = doctest.DocTestParser().get_examples(ast.get_docstring(node) or "")
                if parts:
                    yield Example(module, getattr(node, "name", "module"), parts)


EXAMPLES = list(examples())
RUN = [each for each in EXAMPLES if each.name not in NOT_RUN]


def names_in(tree: ast.AST) -> set[str]:
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}


def scope_of(each: Example) -> dict[str, Any]:
    """What the names of an example stand for: its module's own names, then those of `example_names`."""
    tree = ast.parse("\n".join(part.source for part in each.parts))
    own = vars(import_module(each.module))
    scope: dict[str, Any] = {"__name__": "example"}
    for name in names_in(tree):
        if name in own:
            scope[name] = own[name]
        else:
            try:
                scope[name] = example_names.find(name)
            except KeyError:
                continue  # a builtin, or a name that the example defines
    return scope


@pytest.mark.parametrize("each", RUN, ids=[each.name for each in RUN])
def test_example_runs(each, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    example_names.FILES.get(each.name, lambda folder: None)(tmp_path)
    scope, checker = scope_of(each) | example_names.OTHER.get(each.name, {}), doctest.OutputChecker()
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    for part in each.parts:
        printed = StringIO()
        with warnings.catch_warnings(), redirect_stdout(printed):
            warnings.simplefilter("ignore")  # of few samples, which the examples have here
            exec(compile(part.source, each.name, "single"), scope)
        if part.want:
            assert checker.check_output(part.want, printed.getvalue(), flags), printed.getvalue()
    plt.close("all")


def test_examples_that_are_not_run_exist():
    assert set(NOT_RUN) <= {each.name for each in EXAMPLES}


LISTED = [each for each in EXAMPLES if each.name in NOT_RUN]


@pytest.mark.parametrize("each", LISTED, ids=[each.name for each in LISTED])
def test_examples_that_are_not_run_call_what_exists(each):
    """Their calls of functions of the project have arguments that the functions take."""
    own, called = vars(import_module(each.module)), 0
    for node in ast.walk(ast.parse("\n".join(part.source for part in each.parts))):
        if not isinstance(node, ast.Call) or any(isinstance(argument, ast.Starred) for argument in node.args):
            continue
        try:
            path = ast.unparse(node.func).split(".")
            function = own[path[0]] if path[0] in own else example_names.public(path[0])
            for attribute in path[1:]:
                function = getattr(function, attribute)
        except KeyError:
            continue
        words = {word.arg: None for word in node.keywords if word.arg}
        inspect.signature(function).bind(*node.args, **words)
        called += 1
    assert called
