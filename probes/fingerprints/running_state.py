"""Put aside what a model's own passes change in it, so that it is described as it was before them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any
from weakref import WeakKeyDictionary, ref

from torch import nn
from torch.utils.weak import WeakIdKeyDictionary

from ..hooks.parallel_models import ranks_of
from ..single_contexts import single_context
from .described_values import digest
from .model_description import describe_parts
from .preprocessing_hash import preprocessing_of

Place = tuple[str, str | None]  # of an entry of a description, or of one within an entry

_left: WeakKeyDictionary[nn.Module, dict[Place, tuple[Any, Any]]] = WeakKeyDictionary()  # by place: before, after
_left_by_inputs: WeakIdKeyDictionary = WeakIdKeyDictionary()  # by what makes inputs, and name: before, after


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


def describe_preprocessing(subject: Any) -> dict[str, str]:
    """Hash what a subject makes inputs with, as `preprocessing_of` does, as it was before its passes.

    Parameters
    ----------
    subject : Subject
        The subject.

    Returns
    -------
    dict of str
        As of `preprocessing_of`. What calls have changed in it, such as a cache of read images, and nobody has changed
        since, is described as before them.
    """
    found: dict[str, str | None] = dict(preprocessing_of(subject))
    for maker in _makers(subject):
        for name, (before, after) in _left_by_inputs.get(maker, {}).items():
            if found.get(name) == after:
                found[name] = before
    return {name: content for name, content in found.items() if content is not None}


def _makers(subject: Any) -> Iterator[Any]:
    """Yield what makes a subject's inputs: its functions and objects, of a method its object."""
    for name, value in getattr(subject, "__dict__", {}).items():
        maker = getattr(value, "func", value)  # of a partial
        maker = getattr(maker, "__self__", maker)
        if not name.startswith("_") and not isinstance(maker, nn.Module):
            with suppress(TypeError):  # a plain value
                ref(maker)
                yield maker


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


@single_context
def within_passes(
    *models: nn.Module, subject: Any = None, described: Mapping[str, Any] | None = None
) -> Iterator[None]:
    """Remember what changes in models while the context lasts, in which they run and nobody edits them.

    Parameters
    ----------
    *models : torch.nn.Module
        The models.
    subject : Subject, optional
        What they are models of: what changes in that which makes its inputs is remembered too.
    described : mapping, optional
        "models" (of `describe_model`, in the order of `models`) and "preprocessing" (of `describe_preprocessing`),
        where both were described just now, so that nothing is described twice.
    """
    described = described or {}
    known = (described.get("models") or {}).values()
    before = [_flatten(each) for each in known or map(describe_model, models)]
    made = described["preprocessing"] if described else describe_preprocessing(subject)
    try:
        yield
    except BaseException:
        _remember_inputs(subject, made)
        if not ranks_of(*models):  # the ranks of one model hash it together, and the others may not have failed
            _remember(models, before)
        raise
    _remember_inputs(subject, made)
    _remember(models, before)


def _remember(models: Sequence[nn.Module], before: Sequence[dict[Place, Any]]) -> None:
    for model, then in zip(models, before, strict=True):
        now = _flatten(describe_parts(model))
        changed = {place: (then.get(place), now.get(place)) for place in then | now}
        changed = {place: pair for place, pair in changed.items() if pair[0] != pair[1]}
        if changed:
            _left[model] = _left.get(model, {}) | changed


def _remember_inputs(subject: Any, then: dict[str, str]) -> None:
    now = preprocessing_of(subject)
    changed = {name: (then.get(name), now.get(name)) for name in then | now if then.get(name) != now.get(name)}
    if changed:
        for maker in _makers(subject):
            _left_by_inputs[maker] = _left_by_inputs.get(maker, {}) | changed


def _flatten(description: dict[str, Any]) -> dict[Place, Any]:
    flat: dict[Place, Any] = {}
    for key, value in description.items():
        flat |= {(key, name): part for name, part in value.items()} if isinstance(value, dict) else {(key, None): value}
    return flat
