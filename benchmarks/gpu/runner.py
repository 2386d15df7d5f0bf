"""Run the parts within a time: each in a share of it, one row whatever happens, and the next part goes on.

A part is the module of its name, with a function `measure`. It is imported when its turn comes.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path

from .rows import Row, append, begin, read
from .sizes import SHARES, SIZES, Setting

TOOK, FAILED, OVER, NOT_BEGUN = "seconds in all", "failed", "ran over its time", "not begun"
CLOSED = 3  # the exit code of a process whose last part has ended with a row of its own
GRACE = 60.0  # seconds until a process that does not end itself is killed


def work(
    parts: Sequence[str], size: str, device: str, path: Path, until: float, ends_process: Callable[[int], object]
) -> None:
    """Run parts in this process, in order, and write each row as it comes.

    Parameters
    ----------
    parts : sequence of str
        Names of `SHARES`.
    size : str
        A name of `SIZES`.
    device : str
        "cuda" or "cpu".
    path : Path
        The file of results, which has been begun.
    until : float
        When all parts must have ended, as `time.monotonic` counts, on one machine the same in all processes.
    ends_process : callable
        Called with `CLOSED` where a part has failed, or does not end in time: from another thread, with the part still
        running. Where it returns, the next part follows.
    """
    from ...probes.extraction.memory_shortage import free_memory
    from ..support.inputs import machine, use_all_cores

    card = machine(device)
    if device == "cuda":  # the CPU scores some maps as well
        use_all_cores()
    ends = until
    for number, name in enumerate(parts):
        shares = [SHARES[each] for each in parts[number:]]
        began = time.monotonic()
        allowed = max(0.0, ends - began) * shares[0] / sum(shares)

        def write(row: Row, name: str = name, began: float = began) -> None:
            append(path, name, row, card, time.monotonic() - began)

        def stop(write: Callable[[Row], None] = write, allowed: float = allowed) -> None:
            write(Row(OVER, None, note=f"it had {allowed:.0f} s, and was stopped"))
            ends_process(CLOSED)

        watch = threading.Timer(allowed, stop)
        watch.daemon = True
        watch.start()
        try:
            measure = import_module(f".{name}", __package__).measure
            for row in measure(Setting(SIZES[size], device, allowed)):
                write(row)
        except Exception as error:  # whatever it is, the other parts can go on
            watch.cancel()
            lines = str(error).strip().splitlines()
            write(Row(FAILED, None, note=f"{type(error).__name__}: {lines[0] if lines else 'no reason given'}"))
            ends_process(CLOSED)
        else:
            watch.cancel()
            write(Row(TOOK, time.monotonic() - began, "s"))
        free_memory()


def run(parts: Sequence[str], size: str, device: str, path: Path, seconds: float) -> None:
    """Run parts in other processes: one for all, and another one behind each part that fails or does not end.

    Parameters
    ----------
    parts : sequence of str
        Names of `SHARES`.
    size : str
        A name of `SIZES`.
    device : str
        "cuda" or "cpu".
    path : Path
        The file of results. An older one is replaced.
    seconds : float
        How long all parts may take.
    """
    begin(path)
    ends = time.monotonic() + seconds
    waiting = list(parts)
    while waiting and (left := ends - time.monotonic()) > 0:
        # The end, and not the time that is left: a process takes some seconds to begin.
        until = f"{time.monotonic() + left:.1f}"
        command = [sys.executable, "-m", __package__ or "", "--until", until, "--size", size, "--device", device]
        command += ["--results", str(path), "--parts", *waiting]
        try:
            code = subprocess.run(command, timeout=left + GRACE).returncode
        except subprocess.TimeoutExpired:
            code = None
        closed = {row["part"] for row in read(path) if row["quantity"] in (TOOK, FAILED, OVER)}
        waiting = [part for part in waiting if part not in closed]
        if waiting and code != CLOSED:
            how = "was killed, for it did not end" if code is None else f"ended with exit code {code}"
            append(path, waiting.pop(0), Row(FAILED, None, note=f"its process {how}"), device, seconds - left)
    for part in waiting:
        append(path, part, Row(NOT_BEGUN, None, note="no time was left for it"), device, 0.0)


def end_process(code: int) -> None:
    """End this process at once, whatever its other threads wait for."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
