"""Coordinate the processes that torchrun starts: workers share the shards, parts of one model are one worker."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import torch.distributed as dist

from .heartbeats import Watch, begin, messages

LAST = 60.0  # seconds that the process which keeps the messages waits for the others to have read them
_contexts = 0  # every process opens the same contexts in the same order


class Processes:
    """A context in which the processes of one run share out the work, wait for one another and hear of errors.

    No process group is started. A process that leaves the context by an error tells the
    others, which raise RuntimeError when they next wait.

    Parameters
    ----------
    parts : sequence of int
        The ranks that hold parts of this process's model (`parallel_models.ranks_of`); empty where it is whole.

    Attributes
    ----------
    rank : int
        This process's number; 0 where it is alone.
    world : int
        The number of processes; 1 without torchrun, unless the model has parts on several.
    worker, workers : int
        The number of this process's worker, and of all workers. Processes that hold parts of one model are one worker.
    leads : bool
        Whether this process is the first of its worker, which writes what the worker makes.
    """

    def __init__(self, parts: Sequence[int] = ()) -> None:
        self.rank = int(os.environ.get("RANK", "0"))
        self.world = int(os.environ.get("WORLD_SIZE", "1"))
        self._everyone, self._parts = range(self.world), list(parts)
        if self.world == 1 and len(parts) > 1:  # started by other means than torchrun
            self.rank, self.world, self._everyone = dist.get_rank(), len(parts), list(parts)  # type: ignore[assignment]
        self.worker, self.workers, self.leads = self.rank, self.world, True
        self._members: Sequence[int] = [self.rank]
        self._sent = {False: 0, True: 0}
        self._store: Any = None

    def __enter__(self) -> Processes:
        global _contexts
        if self.world > 1:
            store = begin(self.rank)
            _contexts += 1
            self._watch, self._store = Watch(store), dist.PrefixStore(str(_contexts), store)
            try:
                self._join()
            except BaseException as error:
                self.__exit__(type(error), error)
                raise
        return self

    def _join(self) -> None:
        """Find the workers: ranks that share a part of a model, or whose parts share one, belong together."""
        groups: list[set[int]] = []
        for rank, parts in zip(self._everyone, self.share(self._parts), strict=True):
            mine = {rank, *parts}
            if outside := mine - set(self._everyone):
                raise ValueError(
                    f"the model has parts on rank {min(outside)}, which does not take part: call extract on every rank"
                )
            for other in [group for group in groups if group & mine]:
                groups.remove(other)
                mine |= other
            groups.append(mine)
        groups.sort(key=min)
        self.workers = len(groups)
        self.worker = next(number for number, group in enumerate(groups) if self.rank in group)
        self._members = sorted(groups[self.worker])
        self.leads = self._members[0] == self.rank

    def share(self, value: Any, within: bool = False) -> list[Any]:
        """Return the values that all processes share here, by rank, after waiting for them.

        Parameters
        ----------
        value : object
            Plain JSON.
        within : bool
            Only the processes of this worker share.

        Returns
        -------
        list
            The values, as JSON reads them.

        Raises
        ------
        RuntimeError
            Another process left the context by an error, died or never started.
        """
        if self._store is None:
            return [value]
        self._sent[within] += 1
        name = f"{'within' if within else 'all'}/{self._sent[within]}"
        self._store.set(f"{name}/{self.rank}", json.dumps(value))
        keys = {rank: f"{name}/{rank}" for rank in (self._members if within else self._everyone)}
        pause = 0.002
        with messages():
            while not self._store.check([*keys.values()]):
                self.check()
                self._watch.check(rank for rank, key in keys.items() if not self._store.check([key]))
                time.sleep(pause)
                pause = min(pause * 1.2, 0.2)
            return [json.loads(self._store.get(key)) for key in keys.values()]

    def wait(self) -> None:
        """Wait until all processes have come here."""
        self.share(None)

    def check(self) -> None:
        """Raise RuntimeError where another process left the context by an error."""
        if self._store is not None and self._store.check(["failed"]):
            rank, message = json.loads(self._store.get("failed"))
            if rank != self.rank:
                raise RuntimeError(f"rank {rank} failed, and this one cannot end without it: {message}")

    def __exit__(self, kind: Any, error: BaseException | None, *_: object) -> None:
        if self._store is None:
            return
        if error is not None:
            with suppress(dist.DistError):  # nobody is there to hear it
                if not self._store.check(["failed"]):
                    self._store.set("failed", json.dumps([self.rank, f"{type(error).__name__}: {error}"]))
        else:
            done = self._store.add("left", 1)
            if self.rank == min(self._everyone):  # it may keep the store, which ends with it
                until = time.monotonic() + LAST
                while done < self.world and time.monotonic() < until:
                    time.sleep(0.01)
                    done = self._store.add("left", 0)


def check_alike(made: Sequence[dict[str, Any] | None]) -> None:
    """Refuse ranks that would write features of different models or stimuli into one store.

    Parameters
    ----------
    made : sequence of dict or None
        What each rank's features would be made of (`provenance.made_of`); None for a rank that does not write.

    Raises
    ------
    ValueError
        They differ.
    """
    for other in made:
        if other is None or other == made[0]:
            continue
        rank, field, first, second = made.index(other), "options", made[0] or {}, other
        while isinstance(first, dict) and isinstance(second, dict):
            field = next(name for name in first.keys() | second.keys() if first.get(name) != second.get(name))
            first, second = first.get(field), second.get(field)
        raise ValueError(
            f"rank {rank} has another {field!r} than rank 0, and they would share one store: give all ranks the same "
            "model, whole or sharded by tensor parallelism or fully_shard (stages of a pipeline are not probed), the "
            "same stimuli and the same options"
        )
