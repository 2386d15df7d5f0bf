"""Fit the options of `extract` to a subject, and record them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from ..arguments import shown
from ..extraction_options import ExtractionOptions, checked_times
from ..features.layer_features import ALLOWED
from ..fingerprints.described_values import describe, digest
from ..hooks.model_state import dispatched
from ..reading.generated_tokens import generation_settings
from ..reading.layer_names import layer_paths
from ..stimuli.stimulus_set import Stimuli
from ..subjects.subject import Subject
from ..workers.devices import chosen_device
from .token_selection import Chosen


def check_task(subject: Subject, task: str | None, timesteps: Sequence[float] = (), joint: bool = False) -> str:
    """Return the task that is meant: the one that is named, or the only one that the subject has.

    Parameters
    ----------
    subject : Subject
        What is probed.
    task : str or None
        "understanding" or "generation"; None stands for the only task of a subject that has one.
    timesteps : sequence of float
        The timesteps that are asked for, 0 (clean image, excluded) to 1 (noise).
    joint : bool
        Whether a joint pass is asked for.

    Returns
    -------
    str
        The task.

    Raises
    ------
    ValueError
        The subject has no such task, takes no timesteps or needs some, or has no joint pass; or a timestep lies outside
        its range.
    """
    if task is None and len(subject.tasks) == 1:
        task = subject.tasks[0]
    if not isinstance(task, str) or task not in subject.tasks:
        raise ValueError(f"unknown task {task!r}: {subject.name} has {', '.join(subject.tasks)}")
    timed = task in subject.timed_tasks
    if timed != bool(timesteps):
        need = "needs timesteps, such as .5" if timed else "takes no timesteps"
        raise ValueError(f"{subject.name} {need}")
    checked_times(timesteps)
    if joint and len(subject.modalities) < 2:
        raise ValueError(f"{subject.name} sees {subject.modalities[0]} alone: it has no joint pass")
    return task


def check_shown(subject: Any, stimuli: Any) -> None:
    """Raise TypeError for what is no subject, or what is no stimuli.

    Parameters
    ----------
    subject : Any
        What is to be probed.
    stimuli : Any
        What it is to be shown.

    Raises
    ------
    TypeError
        One of them is something else.
    """
    _check_subject(subject)
    if not isinstance(stimuli, Stimuli):
        raise TypeError(
            f"stimuli is a {type(stimuli).__name__}: expected what load_stimuli returns, or Stimuli(samples)"
        )


def _check_subject(subject: Any) -> None:
    # A class with a __getattr__ of its own, such as a dual encoder, says itself what to give instead.
    if isinstance(subject, type) or (not hasattr(subject, "show") and "__getattr__" not in vars(type(subject))):
        raise TypeError(
            f"the subject is a {type(subject).__name__}: expected what open_expert returns, or "
            "AnyModel(model, inputs) around a model of your own"
        )


def fitted(options: ExtractionOptions, subject: Subject) -> ExtractionOptions:
    """Return options as they are meant for a subject, or raise for the first one that does not fit it.

    Parameters
    ----------
    options : ExtractionOptions
        The options.
    subject : Subject
        What is probed.

    Returns
    -------
    ExtractionOptions
        With the task named, and the names of all layers that are read, in depth order.

    Raises
    ------
    ValueError
        The subject does not have what is asked for, or the device is not there.
    TypeError
        It is no subject.
    """
    _check_subject(subject)
    task = check_task(subject, options.task, options.timesteps, options.joint)
    chosen_device(options.device)
    if unknown := [modality for modality in subject.modalities if modality not in ALLOWED["modality"]]:
        raise ValueError(
            f"{subject.name} has the modality {unknown[0]!r}: expected {', '.join(ALLOWED['modality'])}; name it "
            "by the one that it is like"
        )
    if options.generate is not None:
        generation_settings(subject.model, options.generate)
    if unknown := [modality for modality in options.tokens or {} if modality not in subject.modalities]:
        raise ValueError(
            f"tokens of {unknown[0]!r} are chosen: expected some of {', '.join(subject.modalities)}, as "
            f"{subject.name} has them"
        )
    for modality, chosen in (options.tokens or {}).items():
        _check_chosen(f"tokens[{modality!r}]", chosen)
    if dispatched(subject.model) and options.device != "auto":
        raise ValueError(f"accelerate has laid out {subject.name} over devices: leave device at 'auto'")
    return replace(
        options, task=task, layers=tuple(layer_paths(subject, options.layers)), tokens=dict(options.tokens or {})
    )


def _check_chosen(name: str, chosen: Any) -> None:
    """Raise TypeError for what chooses no tokens."""
    if isinstance(chosen, slice):
        return
    try:
        found = torch.as_tensor(chosen)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        found = torch.empty(0)
    if found.ndim != 1 or found.is_meta or found.is_floating_point() or found.is_complex():
        raise TypeError(f"{name} is {shown(chosen)}: expected a slice, positions or a mask of True and False")


def recorded(options: ExtractionOptions) -> dict[str, Any]:
    """Return what a store records of fitted options, plain JSON; keys, order and values are part of its format."""
    return {
        "task": options.task,
        "timesteps": list(options.timesteps),
        "noise": "a function of each stimulus's id" if options.timesteps else None,
        "pass": "joint" if options.joint else "separate",
        "layers": list(options.layers or ()),
        "pooling": options.pooling,
        "tokens": {modality: _plain(chosen) for modality, chosen in (options.tokens or {}).items()},
        "special": options.special,
        "sinks": options.sinks,
        "cleaned": options.cleaned,
        "dtype": options.dtype,
        "precision": options.precision,
        "batch_size": options.batch_size,
        # Options that came later are recorded where they are used, so that older stores still fit.
        **({"calls": options.calls} if options.calls is not None else {}),
        **({"generate": _plain_settings(options.generate)} if options.generate is not None else {}),
    }


def _plain_settings(generate: int | Mapping[str, Any]) -> Any:
    return generate if isinstance(generate, int) else {k: _plain_setting(v) for k, v in sorted(generate.items())}


def _plain_setting(value: Any) -> Any:
    """Return the text of a setting; of objects such as logits processors, whose text is an address, what they hold."""
    text = repr(value)
    if " at 0x" not in text:
        return text
    parts = value if isinstance(value, list | tuple) else [value]
    return digest([[describe(part, True), describe(getattr(part, "__dict__", None), True)] for part in parts])


def _plain(chosen: Chosen) -> Any:
    if isinstance(chosen, slice):
        return str(chosen)
    return torch.as_tensor(chosen).tolist()  # a mask stays one: true and false, not 1 and 0
