"""Coordinate the processes that torchrun starts: each makes its share of the shards, and all wait for the last."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

PATIENCE = timedelta(days=30)  # how long the first to finish wait for the others


class Processes:
    """A context in which the processes of one run wait for one another.

    A process group that the context started ends with it.

    Attributes
    ----------
    rank : int
        This process's number; 0 without torchrun.
    world : int
        The number of processes; 1 without torchrun.
    """

    def __init__(self) -> None:
        self.rank = int(os.environ.get("RANK", "0"))
        self.world = int(os.environ.get("WORLD_SIZE", "1"))
        self._own = False

    def __enter__(self) -> Processes:
        if self.world > 1:
            self._own = not dist.is_initialized()
            if self._own:
                dist.init_process_group("gloo", timeout=PATIENCE)
            # A second group waits on the CPU as long as it takes, whatever the backend and timeout of the caller's.
            self._group: Any = dist.new_group(backend="gloo", timeout=PATIENCE)
        return self

    def wait(self) -> None:
        """Wait until all processes have come here."""
        if self.world > 1:
            dist.barrier(self._group)

    def __exit__(self, *_: object) -> None:
        if self._own:
            dist.destroy_process_group()


def local_device() -> str:
    """Return the device of this process.

    Returns
    -------
    str
        A GPU, chosen by the process's local rank, or "cpu" where there is none.
    """
    if not torch.cuda.is_available():
        return "cpu"
    return f"cuda:{int(os.environ.get('LOCAL_RANK', '0')) % torch.cuda.device_count()}"
