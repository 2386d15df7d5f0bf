"""Declare the options of `extract`; this module imports no library of models, so that what is wrong is said at once."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .arguments import checked, file_name, shown

FORMATS = ("float32", "float16", "bfloat16")  # of features that are kept, as torch names them
PRECISIONS = {"bf16": "bfloat16", "fp16": "float16"}
POOLINGS = ("mean", "last", "first", "none", "grid:N")
TASKS = ("understanding", "generation")


def check_pooling(pooling: str) -> None:
    """Raise ValueError for an unknown pooling."""
    checked("pooling", pooling, str)
    if pooling not in POOLINGS[:-1] and not re.fullmatch(r"grid:[1-9]\d*", pooling):
        raise ValueError(f"unknown pooling {pooling!r}: expected one of {', '.join(POOLINGS)}, such as grid:4")


def checked_times(timesteps: Any) -> tuple[float, ...]:
    """Return timesteps as numbers, or raise ValueError for what are none, or lie outside their range.

    Parameters
    ----------
    timesteps : Any
        What was given for them.

    Returns
    -------
    tuple of float
        Each above 0, the clean image, and at most 1, noise.

    Raises
    ------
    ValueError
        They are no sequence of numbers, or one lies outside the range.
    """
    try:
        if isinstance(timesteps, str | Mapping):
            raise TypeError
        listed = tuple(timesteps)
        if any(isinstance(time, bool | str | bytes) for time in listed):
            raise TypeError
        times = tuple(float(time) for time in listed)
    except (TypeError, ValueError):
        raise ValueError(f"timesteps is {shown(timesteps)}: expected a sequence of numbers, such as (0.5,)") from None
    if not all(0 < t <= 1 for t in times):
        raise ValueError(f"timesteps {times} must lie in 0 (clean image, excluded) to 1 (noise)")
    return times


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

    Raises
    ------
    ValueError, TypeError
        A field has an unknown value, a number out of its range or another type, or two contradict each other. What
        depends on the subject is checked by `fitted` (probes/extraction/options.py).

    Notes
    -----
    The metadata of a field are keywords of `argparse.ArgumentParser.add_argument`. The help of a field whose default is
    None says what None stands for. `dtype` is kept as a name, whether it was given as one or as torch's.
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
    tokens: Mapping[str, Any] | None = field(
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
    dtype: Any = field(
        default=FORMATS[0],
        metadata={"help": "The number format of the features that are kept.", "type": str, "choices": FORMATS},
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

    def __post_init__(self) -> None:
        for name in ("joint", "special", "sinks", "cleaned", "check"):
            object.__setattr__(self, name, checked(name, getattr(self, name), bool))
        checked("task", self.task, str | None, known=TASKS)
        object.__setattr__(self, "batch_size", checked("batch_size", self.batch_size, int, least=1))
        checked("precision", self.precision, str | None, known=PRECISIONS)
        if self.store is not None:
            file_name("store", self.store)
        checked("tokens", self.tokens, Mapping | None, remedy="name tokens by modality, as {'text': slice(1, None)}")
        generate = checked(
            "generate", self.generate, int | Mapping | None, least=1, remedy="it is a number of new tokens"
        )
        object.__setattr__(self, "generate", generate)
        object.__setattr__(self, "calls", checked("calls", self.calls, int | str | None, least=1, known=("all",)))
        check_pooling(self.pooling)
        object.__setattr__(self, "timesteps", checked_times(self.timesteps))
        name = str(self.dtype).removeprefix("torch.")
        if name not in FORMATS:
            given = self.dtype if isinstance(self.dtype, str) else shown(self.dtype)
            raise ValueError(f"dtype is {given}: expected torch.float32, float16 or bfloat16")
        object.__setattr__(self, "dtype", name)
        if self.generate is not None and (self.joint or self.timesteps):
            raise ValueError("written tokens have no joint pass and no timesteps: leave joint and timesteps out")
        if self.special and self.pooling.startswith("grid:"):
            raise ValueError("special tokens have no place on a patch grid: leave special or the grid out")
