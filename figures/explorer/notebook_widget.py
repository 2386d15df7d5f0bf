"""Join the explorer's page to a kernel: the widget of a notebook, made with anywidget."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from .data_bundle import Bundle
from .page_writing import read_script, read_style


def has_widgets() -> bool:
    """Return whether anywidget is installed.

    Returns
    -------
    bool
        Whether `make_widget` can be called.
    """
    return find_spec("anywidget") is not None


def make_widget(
    bundle: Bundle,
    state: dict[str, Any],
    kept: Callable[[dict[str, Any]], None],
    answer: Callable[[dict[str, Any], Callable[..., None]], None],
) -> Any:
    """Make the widget.

    Parameters
    ----------
    bundle : Bundle
        What the page shows.
    state : dict
        What it begins with.
    kept : callable
        Called with the state, when the user has changed it.
    answer : callable
        ``answer(question, send)``: called with a question of the page; ``send(message, buffers)`` answers it.

    Returns
    -------
    anywidget.AnyWidget
        The widget.
    """
    anywidget, traitlets = import_module("anywidget"), import_module("traitlets")
    members = {
        "_esm": read_script("widget.js"),
        "_css": read_style(),
        "header": traitlets.Dict().tag(sync=True),
        "data": traitlets.Bytes().tag(sync=True),
        "state": traitlets.Dict().tag(sync=True),
    }
    kind = type("ExplorerWidget", (anywidget.AnyWidget,), members)
    widget = kind(header=bundle.header, data=bundle.data, state=state)
    widget.observe(lambda change: kept(change["new"]), "state")
    widget.on_msg(lambda _, question, buffers: answer(question, widget.send))
    return widget
