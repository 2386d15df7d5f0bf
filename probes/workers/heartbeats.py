"""Let the processes of one run give signs of life, so that one that died, or never started, is noticed in a minute."""

from __future__ import annotations

import atexit
import os
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch.distributed as dist

PATIENCE = "BRIDGEWORK_PATIENCE"  # the variable with the seconds that replace SILENT
SILENT = 60.0  # seconds without a sign of life after which a rank is given up
BEAT = 5.0  # seconds between two signs of life

_store: Any = None
_ended = threading.Event()


def patience() -> float:
    """Return the seconds after which a rank that gives no sign of life is given up.

    Returns
    -------
    float
        60, or what BRIDGEWORK_PATIENCE says.

    Raises
    ------
    ValueError
        BRIDGEWORK_PATIENCE is no positive number.
    """
    given = os.environ.get(PATIENCE, "")
    try:
        seconds = float(given or SILENT)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e7:
        raise ValueError(f"{PATIENCE} is {given!r}: expected how many seconds a silent rank is waited for, such as 600")
    return seconds


def world_size() -> int:
    """Return how many processes torchrun, or another launcher, has started; 1 without one."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def begin(rank: int | None = None) -> Any:
    """Give signs of life from now on, and return the store in which all ranks leave messages.

    Parameters
    ----------
    rank : int, optional
        The number of this process; that of the launcher if left out.

    Returns
    -------
    torch.distributed.Store
        One for all calls. No process group is started: gloo can wait for ever for ranks that torchrun has just started
        again.

    Raises
    ------
    RuntimeError
        A rank has not started in time.
    """
    global _store
    if _store is not None:
        return _store
    rank = int(os.environ.get("RANK", "0")) if rank is None else rank
    if dist.is_initialized():
        from ..private_names import _get_default_store  # not every build of torch has it

        found = _get_default_store()
    else:
        with _named("a rank has not started"):
            found = next(dist.rendezvous("env://", timeout=timedelta(seconds=patience())))[0]
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    _store = dist.PrefixStore(f"bridgework/{attempt}", found)
    _store.set(f"beat/{rank}", "0")
    beating = threading.Thread(target=_beat, args=(_store, rank), daemon=True, name="bridgework heartbeat")
    beating.start()
    atexit.register(lambda: (_ended.set(), beating.join(1)))
    return _store


def _beat(store: Any, rank: int) -> None:
    number = 0
    while not _ended.wait(BEAT):
        number += 1
        try:
            store.set(f"beat/{rank}", str(number))
        except dist.DistError:  # the store is gone: who needs it says so
            return


class Watch:
    """Notice ranks that give no sign of life.

    Parameters
    ----------
    store : torch.distributed.Store
        As `begin` returns it.
    """

    def __init__(self, store: Any) -> None:
        self.store, self.began = store, time.monotonic()
        self.heard: dict[int, tuple[bytes, float]] = {}
        self.looked = 0.0

    def check(self, ranks: Iterable[int]) -> None:
        """Raise RuntimeError where one of these ranks has been silent for too long.

        Parameters
        ----------
        ranks : iterable of int
            The ranks that are waited for.

        Raises
        ------
        RuntimeError
            The rank, since when, and what to do.
        """
        now = time.monotonic()
        if now - self.looked < min(BEAT, patience() / 4):
            return
        self.looked = now
        for rank in ranks:
            key = f"beat/{rank}"
            beat = self.store.get(key) if self.store.check([key]) else b""
            known, since = self.heard.get(rank, (b"", self.began))
            if beat != known:
                self.heard[rank] = beat, now
            elif now - since > patience():
                what = "has died or hangs" if known else "has not started"
                raise RuntimeError(
                    f"rank {rank} of {world_size()} {what}: it gave no sign of life for {patience():.0f} s; end all "
                    f"ranks and start them again, or set {PATIENCE} to more seconds where it needs longer to begin"
                )


def wait_for_all() -> None:
    """Wait until every rank that the launcher was asked for has given a sign of life.

    Raises
    ------
    RuntimeError
        One has not started in time.
    """
    if world_size() == 1 or dist.is_initialized():
        return
    store = begin()
    watch, missing = Watch(store), list(range(world_size()))
    while missing := [rank for rank in missing if not store.check([f"beat/{rank}"])]:
        watch.check(missing)
        time.sleep(0.05)


@contextmanager
def _named(what: str) -> Iterator[None]:
    """Say in a sentence what an error of the store means."""
    try:
        yield
    except dist.DistError as error:
        raise RuntimeError(
            f"{what}, or the machine of rank 0 cannot be reached ({str(error).splitlines()[0][:120]}): end all ranks "
            f"and start them again, or set {PATIENCE} to more seconds"
        ) from None


def messages() -> Any:
    """Return a context in which errors of the store say that rank 0, which keeps it, is gone."""
    return _named("rank 0, which keeps the messages of all ranks, has ended")
