"""The processes that torchrun starts: each makes its share of the shards in one folder, and all wait for the last."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

PATIENCE = timedelta(days=30)  # of those that are done first


class Processes:
    """This process's rank and their number, 0 and 1 without torchrun. A context: the group ends with it."""

    def __init__(self) -> None:
        self.rank = int(os.environ.get("RANK", "0"))
        self.world = int(os.environ.get("WORLD_SIZE", "1"))
        self._own = False

    def __enter__(self) -> Processes:
        if self.world > 1:
            self._own = not dist.is_initialized()
            if self._own:
                dist.init_process_group("gloo", timeout=PATIENCE)
            # A group of our own waits on the CPU as long as it takes, whatever the caller's is for.
            self._group: Any = dist.new_group(backend="gloo", timeout=PATIENCE)
        return self

    def wait(self) -> None:
        """Until all ranks are here."""
        if self.world > 1:
            dist.barrier(self._group)

    def __exit__(self, *_: object) -> None:
        if self._own:
            dist.destroy_process_group()


def local_device() -> str:
    """The GPU of this rank, or the CPU where there is none."""
    if not torch.cuda.is_available():
        return "cpu"
    return f"cuda:{int(os.environ.get('LOCAL_RANK', '0')) % torch.cuda.device_count()}"
