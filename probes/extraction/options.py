"""Declare and check the options of `extract`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch

from ..hooks.capturing import EMBEDDINGS
from ..subjects.subject import Subject
from .token_selection import Chosen

PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16}


def check_task(subject: Subject, task: str | None, timesteps: Sequence[float] = (), joint: bool = False) -> str:
    """The task, its only one where none is named. ValueError for what the subject does not have."""
    if task is None and len(subject.tasks) == 1:
        task = subject.tasks[0]
    if task not in subject.tasks:
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


POOLINGS = ("mean", "last", "first", "none", "grid:N")


def check_pooling(pooling: str) -> None:
    """ValueError for an unknown pooling."""
    if pooling not in POOLINGS[:-1] and not re.fullmatch(r"grid:[1-9]\d*", pooling):
        raise ValueError(f"unknown pooling {pooling!r}: expected one of {', '.join(POOLINGS)}, such as grid:4")


def _named_layers(subject: Subject, asked: Sequence[str] | None) -> dict[str, str]:
    """Names and paths of the layers asked for, in depth order."""
    known = {EMBEDDINGS: EMBEDDINGS} | {str(number): path for number, path in enumerate(subject.blocks)}
    if asked is None:
        return known
    if isinstance(asked, str) or not asked:
        raise ValueError(f"layers is {asked!r}: expected a list of names such as ['embeddings', '7']")
    wanted = {str(name) for name in asked}
    if unknown := wanted - known.keys() - set(known.values()):
        raise ValueError(
            f"{subject.name} has no layer {sorted(unknown)[0]!r}: it has embeddings, 0 to {len(subject.blocks) - 1} "
            f"or their paths, {subject.blocks[0]} to {subject.blocks[-1]}"
        )
    return {name: path for name, path in known.items() if name in wanted or path in wanted}


def _told(chosen: Chosen) -> Any:
    if isinstance(chosen, slice):
        return str(chosen)
    return torch.as_tensor(chosen).tolist()  # a mask stays one: true and false, not 1 and 0
