"""Contexts of the project are entered once, and say so where somebody enters them again."""

from __future__ import annotations

import ast

import pytest

from bridgework.probes.single_contexts import single_context
from bridgework.tests.test_style import MODULES, name, parse

PACKAGES = ("probes", "models", "figures")
AGAIN = r"^this opened was entered before: call opened again, once for each"


@single_context
def opened(values: list[str], said: str = "open"):
    """Note what happens."""
    values.append(said)
    try:
        yield values
    except KeyError:
        values.append("caught")
    finally:
        values.append("closed")


def test_it_is_a_context_as_contextlib_makes_them():
    values: list[str] = []
    with opened(values, said="begun") as given:
        assert given is values == ["begun"]
    assert values == ["begun", "closed"]
    with opened(values):
        raise KeyError("x")
    assert values[2:] == ["open", "caught", "closed"]
    with pytest.raises(ZeroDivisionError), opened(values):
        raise ZeroDivisionError
    assert values[-1] == "closed"
    assert (opened.__name__, opened.__doc__) == ("opened", "Note what happens.")


@pytest.mark.parametrize("inside", [True, False])
def test_a_second_entrance_is_one_sentence(inside):
    context = opened([])
    with context:
        if inside:
            with pytest.raises(RuntimeError, match=AGAIN):
                context.__enter__()
    with (
        pytest.raises(RuntimeError, match=AGAIN),
        context,
    ):
        pass


@pytest.mark.parametrize("file", [file for file in MODULES if name(file).startswith(PACKAGES)], ids=name)
def test_what_others_enter_says_so(file):
    functions = [node for node in ast.walk(parse(file)) if isinstance(node, ast.FunctionDef)]
    own = [node for node in functions if not node.name.startswith("_")]
    assert not [node.name for node in own if "contextmanager" in map(ast.unparse, node.decorator_list)]
