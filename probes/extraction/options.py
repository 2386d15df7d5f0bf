"""Declare and check the options of `extract`."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from ..arguments import checked
from ..features.layer_features import ALLOWED, DTYPES
from ..fingerprints.described_values import describe, digest
from ..hooks.model_state import dispatched
from ..reading.generated_tokens import generation_settings
from ..reading.layer_names import layer_paths
from ..stimuli.stimulus_set import Stimuli
from ..subjects.subject import Subject
from ..workers.devices import chosen_device
from .token_selection import Chosen

PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16}
POOLINGS = ("mean", "last", "first", "none", "grid:N")


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
    if not all(0 < t <= 1 for t in timesteps):
        raise ValueError(f"timesteps {tuple(timesteps)} must lie in 0 (clean image, excluded) to 1 (noise)")
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


def check_pooling(pooling: str) -> None:
    """Raise ValueError for an unknown pooling."""
    checked("pooling", pooling, str)
    if pooling not in POOLINGS[:-1] and not re.fullmatch(r"grid:[1-9]\d*", pooling):
        raise ValueError(f"unknown pooling {pooling!r}: expected one of {', '.join(POOLINGS)}, such as grid:4")


def _dtype(name: str) -> torch.dtype | str:
    return getattr(torch, name, name)  # an unknown name is refused where choices are checked


def _calls(text: str) -> int | str:
    return int(text) if text.isdigit() else text


@dataclass(frozen=True)
class ExtractionOptions:
    """Hold the options of `extract`, each with the sentence that `bridgework extract --help` shows.

    Attributes
    ----------
    task, timesteps, joint, layers, pooling, tokens, special, sinks, cleaned, dtype, precision, device, batch_size
    check, calls, generate, store
        As the keywords of `extract` (probes/extraction/extracting.py).

    Notes
    -----
    The metadata of a field are keywords of `argparse.ArgumentParser.add_argument`. The help of a field whose default is
    None says what None stands for.
    """

    task: str | None = field(
        default=None,
        metadata={"help": "The task to probe: understanding or generation. (default: the expert's only task)"},
    )
    timesteps: Sequence[float] = field(
        default=(),
        metadata={
            "help": "Noise levels that a generation expert is probed at, above 0 (clean image) up to 1 (noise).",
            "type": float,
            "nargs": "*",
            "metavar": "T",
        },
    )
    joint: bool = field(
        default=False,
        metadata={"help": "Show image and text together in one pass, and not each without the other."},
    )
    layers: Sequence[str] | None = field(
        default=None,
        metadata={
            "help": "Names of the layers and sites to read, such as embeddings 0 7 7.mlp. (default: all layers)",
            "nargs": "+",
            "metavar": "LAYER",
        },
    )
    pooling: str = field(
        default="mean",
        metadata={"help": "How tokens become one vector: mean, last, first, none, or a patch grid such as grid:4."},
    )
    tokens: Mapping[str, Chosen] | None = field(
        default=None,
        metadata={
            "help": "For a modality, some of its tokens: a slice, positions or a mask. (default: all of them)",
        },
    )
    special: bool = field(
        default=False,
        metadata={"help": "Pool the special tokens of a modality as well, such as sinks and class tokens."},
    )
    sinks: bool = field(
        default=False,
        metadata={"help": "Pool text tokens that are attention sinks as well, which the mean leaves out."},
    )
    cleaned: bool = field(
        default=False,
        metadata={"help": "Keep clamped and z-scored features beside the raw ones."},
    )
    dtype: torch.dtype = field(
        default=torch.float32,
        metadata={
            "help": "The number format of the features that are kept.",
            "type": _dtype,
            "choices": DTYPES,
            "metavar": "{float32,float16,bfloat16}",
        },
    )
    precision: str | None = field(
        default=None,
        metadata={"help": "Run the expert under autocast: bf16 or fp16. (default: the expert's own precision)"},
    )
    device: str = field(
        default="auto",
        metadata={
            "help": "The device that the expert runs on, such as cpu or cuda:1; auto takes a GPU if there is one."
        },
    )
    batch_size: int = field(
        default=32,
        metadata={"help": "How many stimuli are shown at once; it is halved where memory does not suffice."},
    )
    check: bool = field(
        default=True,
        metadata={"help": "Show one stimulus again, alone, and compare it with what was kept."},
    )
    calls: int | str | None = field(
        default=None,
        metadata={
            "help": "How often blocks run in a pass, where a model loops: a number, or all. (default: once)",
            "type": _calls,
            "metavar": "N",
        },
    )
    generate: int | Mapping[str, Any] | None = field(
        default=None,
        metadata={
            "help": "Let the model write up to N tokens, and pool those. (default: the tokens of the stimulus)",
            "type": int,
            "metavar": "N",
        },
    )
    store: str | os.PathLike[str] | None = field(
        default=None,
        metadata={"help": "The folder to write the features to. (default: features stay in memory)"},
    )

    def checked(self, subject: Subject) -> ExtractionOptions:
        """Return the options as they are meant for a subject, or raise for the first one that does not fit it.

        Parameters
        ----------
        subject : Subject
            What is probed.

        Returns
        -------
        ExtractionOptions
            With the task named, the timesteps as a tuple of float, and the names of all layers that are read, in depth
            order.

        Raises
        ------
        ValueError
            The subject does not have what is asked for, two options contradict each other, or a value is unknown.
        TypeError
            It is no subject.
        """
        _check_subject(subject)
        for name in ("joint", "special", "sinks", "cleaned", "check"):
            checked(name, getattr(self, name), bool)
        checked("batch_size", self.batch_size, int, least=1)
        checked("precision", self.precision, str | None, known=PRECISIONS)
        checked("store", self.store, str | os.PathLike | None, remedy="it is the folder that features are written to")
        checked("tokens", self.tokens, Mapping | None, remedy="name tokens by modality, as {'text': slice(1, None)}")
        checked("generate", self.generate, int | Mapping | None, least=1, remedy="it is a number of new tokens")
        times = _times(self.timesteps)
        task = check_task(subject, self.task, times, self.joint)
        check_pooling(self.pooling)
        chosen_device(self.device)
        if unknown := [modality for modality in subject.modalities if modality not in ALLOWED["modality"]]:
            raise ValueError(
                f"{subject.name} has the modality {unknown[0]!r}: expected {', '.join(ALLOWED['modality'])}; name it "
                "by the one that it is like"
            )
        if not isinstance(self.dtype, torch.dtype) or self.dtype not in DTYPES:
            raise ValueError(f"dtype is {self.dtype}: expected torch.float32, float16 or bfloat16")
        checked("calls", self.calls, int | str | None, least=1, known=("all",))
        if self.generate is not None:
            generation_settings(subject.model, self.generate)
            if self.joint or self.timesteps:
                raise ValueError("written tokens have no joint pass and no timesteps: leave joint and timesteps out")
        if unknown := [modality for modality in self.tokens or {} if modality not in subject.modalities]:
            raise ValueError(
                f"tokens of {unknown[0]!r} are chosen: expected some of {', '.join(subject.modalities)}, as "
                f"{subject.name} has them"
            )
        if self.special and self.pooling.startswith("grid:"):
            raise ValueError("special tokens have no place on a patch grid: leave special or the grid out")
        if dispatched(subject.model) and self.device != "auto":
            raise ValueError(f"accelerate has laid out {subject.name} over devices: leave device at 'auto'")
        return replace(
            self,
            task=task,
            timesteps=times,
            layers=tuple(layer_paths(subject, self.layers)),
            tokens=dict(self.tokens or {}),
        )

    def recorded(self) -> dict[str, Any]:
        """Return what a store records of checked options, plain JSON; keys, order and values are part of its format."""
        return {
            "task": self.task,
            "timesteps": list(self.timesteps),
            "noise": "a function of each stimulus's id" if self.timesteps else None,
            "pass": "joint" if self.joint else "separate",
            "layers": list(self.layers or ()),
            "pooling": self.pooling,
            "tokens": {modality: _plain(chosen) for modality, chosen in (self.tokens or {}).items()},
            "special": self.special,
            "sinks": self.sinks,
            "cleaned": self.cleaned,
            "dtype": str(self.dtype).removeprefix("torch."),
            "precision": self.precision,
            "batch_size": self.batch_size,
            # Options that came later are recorded where they are used, so that older stores still fit.
            **({"calls": self.calls} if self.calls is not None else {}),
            **({"generate": _plain_settings(self.generate)} if self.generate is not None else {}),
        }


def _times(timesteps: Any) -> tuple[float, ...]:
    try:
        if isinstance(timesteps, str | Mapping):
            raise TypeError
        listed = tuple(timesteps)
        if any(isinstance(time, bool | str | bytes) for time in listed):
            raise TypeError
        return tuple(float(time) for time in listed)  # one beyond the range is named by `check_task`
    except (TypeError, ValueError):
        raise ValueError(f"timesteps is {timesteps!r}: expected a sequence of numbers, such as (0.5,)") from None


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
