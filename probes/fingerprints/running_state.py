"""Put aside what a model's own passes change in it, so that it is described as it was before them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

from ..hooks.parallel_models import ranks_of
from .described_values import digest
from .model_description import describe_parts

Place = tuple[str, str | None]  # of an entry of a description, or of one within an entry

_left: WeakKeyDictionary[nn.Module, dict[Place, tuple[Any, Any]]] = WeakKeyDictionary()  # by place: before, after


def describe_model(model: nn.Module) -> dict[str, Any]:
    """Describe a model as `describe_parts` does, as it was before its passes `within_passes`.

    Parameters
    ----------
    model : torch.nn.Module
        Any module.

    Returns
    -------
    dict
        Plain JSON. Where a pass has changed something, such as a cached table or a counter, and nobody has changed it
        since, it stands there as before the pass.
    """
    flat = _flatten(describe_parts(model))
    for place, (before, after) in _left.get(model, {}).items():
        if flat.get(place) == after:
            flat[place] = before
    found: dict[str, Any] = {}
    for (key, name), value in flat.items():
        if name is None:
            found[key] = value
        elif value is not None:
            found.setdefault(key, {})[name] = value
    return found


def fingerprint(model: nn.Module) -> str:
    """Hash all that a model's passes depend on: weights, buffers, settings, adapters, hooks.

    Parameters
    ----------
    model : torch.nn.Module
        Any module. Weights that accelerate has offloaded are hashed where they lie.

    Returns
    -------
    str
        16 hex digits.
    """
    return digest(describe_model(model) | {"revision": None})


@contextmanager
def within_passes(*models: nn.Module) -> Iterator[None]:
    """Remember what changes in models while the context lasts, in which they run and nobody edits them.

    Parameters
    ----------
    *models : torch.nn.Module
        The models.
    """
    before = [_flatten(describe_model(model)) for model in models]
    try:
        yield
    except BaseException:
        if not ranks_of(*models):  # the ranks of one model hash it together, and the others may not have failed
            _remember(models, before)
        raise
    _remember(models, before)


def _remember(models: Sequence[nn.Module], before: Sequence[dict[Place, Any]]) -> None:
    for model, then in zip(models, before, strict=True):
        now = _flatten(describe_parts(model))
        changed = {place: (then.get(place), now.get(place)) for place in then | now}
        changed = {place: pair for place, pair in changed.items() if pair[0] != pair[1]}
        if changed:
            _left[model] = _left.get(model, {}) | changed


def _flatten(description: dict[str, Any]) -> dict[Place, Any]:
    flat: dict[Place, Any] = {}
    for key, value in description.items():
        flat |= {(key, name): part for name, part in value.items()} if isinstance(value, dict) else {(key, None): value}
    return flat
