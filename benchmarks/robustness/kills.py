"""Stop commands at random moments, start them again, and compare what they leave with that of an undisturbed run.

    python -m bridgework.benchmarks.robustness.kills FOLDER   # half an hour on an idle core; writes kills.csv

Every run is a process of its own that begins with everything imported. It gets SIGKILL, or SIGINT as of Ctrl+C, at a
moment that is drawn from a seed: after a share of the processor seconds that the undisturbed run took, or at one of its
file operations, where the file that was written last is cut to its half. The same command is then run to its end. All
files that it leaves must be those of the undisturbed run, byte for byte, and nothing else may lie beside them. Settings
are tiny, and seconds of a step, which no two runs share, count as 0.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from ...__main__ import main as run_command
from ...probes.files import write_csv
from .small_runs import RUNS, Run, load_everything

RESULTS = Path(__file__).parents[1] / "results"
WRITES_TOO = "SIGKILL in a write"
WRITES = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir")  # audit events of file operations


class Ended(NamedTuple):
    """Hold how a process ended: exit status or minus the signal, processor seconds, file operations, what it said."""

    status: int
    seconds: float
    writes: int
    said: str


def run_apart(
    run: Run,
    stores: Path,
    out: Path,
    after: float | None = None,
    at_write: int | None = None,
    number: int = signal.SIGKILL,
) -> Ended:
    """Run a command in a process of its own, which a signal ends if it has not ended before.

    Parameters
    ----------
    run : Run
        The command.
    stores : Path
        Where the stores lie that it reads.
    out : Path
        The folder that it writes.
    after : float, optional
        The signal is sent after so many processor seconds, which do not depend on what else the machine does.
    at_write : int, optional
        SIGKILL is sent at this file operation.
    number : int
        The signal.

    Returns
    -------
    Ended
        How the process ended.
    """
    log, counted = out.with_suffix(".log"), out.with_suffix(".writes")
    counted.unlink(missing_ok=True)
    child = os.fork()
    if not child:
        _as_child(run, stores, out, at_write, log, counted)
    while not (found := os.wait4(child, os.WNOHANG))[0]:
        if after is not None and _seconds_of(child) > after:
            os.kill(child, number)
            found = os.wait4(child, 0)
            break
        time.sleep(0.003)
    seconds = found[2].ru_utime + found[2].ru_stime
    writes = int(counted.read_text()) if counted.exists() else 0
    return Ended(os.waitstatus_to_exitcode(found[1]), seconds, writes, log.read_text(errors="replace"))


def _seconds_of(process: int) -> float:
    """Return the processor seconds that a process has taken, and 0 for one that has ended."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _as_child(run: Run, stores: Path, out: Path, at_write: int | None, log: Path, counted: Path) -> None:
    status = 1
    try:
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
        counts = [0]
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for what runs behind it
        random.seed(0)  # Python seeds its own generator anew in every process, and checkpoints hold its state
        np.random.seed(0)
        torch.manual_seed(0)
        sys.addaudithook(_counter(out, at_write, counts))
        with run.settings():
            run_command([part.format(stores=stores, out=out) for part in run.arguments.split()])
        counted.write_text(str(counts[0]))
        status = 0
    except SystemExit as error:
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)
        status = error.code if isinstance(error.code, int) else 1
    except BaseException as error:
        print(f"Traceback {type(error).__name__}: {error}", file=sys.stderr)
    finally:
        with suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _counter(out: Path, at_write: int | None, counts: list[int]) -> Callable[[str, tuple[Any, ...]], None]:
    """Return an audit hook that counts file operations below a folder, and kills the process at one of them."""
    inside = str(out)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in WRITES or not str(arguments[0]).startswith(inside):
            return
        if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)):
            return
        counts[0] += 1
        if counts[0] == at_write:
            cut_newest(out)
            os.kill(os.getpid(), signal.SIGKILL)

    return hook


def cut_newest(out: Path) -> None:
    """Cut the partial file that was written last to its half, as an end in the middle of writing it leaves it."""
    partial = [path for path in out.rglob("*") if path.is_file() and ("state.new" in path.parts or _is_left(path))]
    if partial:
        newest = max(partial, key=lambda path: path.stat().st_mtime_ns)
        os.truncate(newest, newest.stat().st_size // 2)


def _is_left(path: Path) -> bool:
    """Return whether a file is one that only lies there while something is written."""
    return any(part.endswith(".partial") or part in (".writing", "state.new", "state.old") for part in path.parts)


def contents(out: Path) -> dict[str, bytes]:
    """Return the bytes of every file of a folder, by its path."""
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


def stop(
    run: Run, kind: str, folder: Path, whole: tuple[Ended, dict[str, bytes]], rng: np.random.Generator
) -> dict[str, Any]:
    """Stop a command once, run it again to its end, and compare.

    Parameters
    ----------
    run : Run
        The command.
    kind : str
        "SIGKILL", "SIGINT", or "SIGKILL in a write".
    folder : Path
        Where to work; the stores lie there.
    whole : (Ended, dict)
        The undisturbed run, and what it left.
    rng : Generator
        Draws the moment.

    Returns
    -------
    dict
        A row of the table.
    """
    ended, files = whole
    out = folder / "stopped"
    while True:  # a run that was quicker than its moment is no kill: it is drawn again
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        if kind == WRITES_TOO:
            write = int(rng.integers(1, ended.writes + 1))
            moment = f"file operation {write} of {ended.writes}"
            stopped = run_apart(run, folder, out, at_write=write)
        else:
            share = float(rng.uniform(0.02, 0.98))
            moment, number = f"{share:.2f} of the run", getattr(signal, kind)
            stopped = run_apart(run, folder, out, after=share * ended.seconds, number=number)
        if stopped.status != 0:
            break
    row = {"command": run.name, "signal": kind, "moment": moment, "status": stopped.status}
    row["said"] = _last_line(stopped.said) if kind == "SIGINT" else ""
    row["partial files"] = sum(_is_left(path) for path in out.rglob("*") if path.is_file())
    again = run_apart(run, folder, out)
    found = contents(out)
    other = sorted(name for name in found.keys() | files.keys() if found.get(name) != files.get(name))
    row |= {"again": again.status, "equal": again.status == 0 and not other}
    return row | {"differing": " ".join(other[:3]) if again.status == 0 else _last_line(again.said)}


def _last_line(said: str) -> str:
    lines = [line for line in said.replace("\r", "\n").splitlines() if line.strip()]
    return f"{'Traceback: ' if 'Traceback' in said else ''}{lines[-1].strip()}"[:200] if lines else ""


def measure(
    folder: Path, runs: Sequence[str], times: Mapping[str, int], seed: int, file: Path | None = None
) -> pd.DataFrame:
    """Stop every command, and return one row for each stop.

    Parameters
    ----------
    folder : Path
        Where to work; it is emptied.
    runs : sequence of str
        Names of `RUNS`.
    times : mapping of str to int
        How often each is stopped, by kind.
    seed : int
        Of the moments.
    file : Path, optional
        Where the table is written, again after every row.

    Returns
    -------
    DataFrame
        command; signal; moment, which was drawn; status, how the stopped run ended, minus the signal or the exit
        status; said, its last line; partial files, how many it left; again, the exit status of the second run; equal,
        whether all files are those of the undisturbed run; differing, which are not.
    """
    rows: list[dict[str, Any]] = []
    load_everything()
    with tqdm() as bar:
        for name in runs:
            run, rng = RUNS[name], np.random.default_rng([seed, list(RUNS).index(name)])
            place = folder / name
            shutil.rmtree(place, ignore_errors=True)
            (out := place / "whole").mkdir(parents=True)
            run.prepare(place)
            ended = run_apart(run, place, out)
            if ended.status:
                raise RuntimeError(f"{name} fails undisturbed: {ended.said[-500:]}")
            whole = contents(out)
            shutil.move(out, place / "undisturbed")  # paths that are written into files are those of one folder
            for kind in (kind for kind, often in times.items() for _ in range(often)):
                if kind == WRITES_TOO and not run.in_writes:
                    continue
                rows.append(stop(run, kind, place, (ended, whole), rng))
                if file is not None:
                    write_csv(file, pd.DataFrame(rows))
                bar.set_postfix(command=name, equal=sum(row["equal"] for row in rows), of=len(rows))
                bar.update()
    return pd.DataFrame(rows)


def main() -> None:
    """Write and print the table."""
    parser = argparse.ArgumentParser(prog="python -m bridgework.benchmarks.robustness.kills", description=__doc__)
    parser.add_argument("folder", type=Path, help="where to work")
    parser.add_argument("--runs", nargs="+", default=list(RUNS), choices=list(RUNS), metavar="RUN")
    parser.add_argument("--kills", type=int, default=20, help="how often each command is killed")
    parser.add_argument("--kills-in-writes", type=int, default=20, help="how often train is killed while it writes")
    parser.add_argument("--interruptions", type=int, default=5, help="how often each command is interrupted")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where kills.csv is written")
    options = parser.parse_args()
    times = {"SIGKILL": options.kills, WRITES_TOO: options.kills_in_writes, "SIGINT": options.interruptions}
    table = measure(options.folder.absolute(), options.runs, times, options.seed, options.results / "kills.csv")
    print(table.groupby(["command", "signal"])["equal"].agg(["sum", "count"]))
    print(table[~table["equal"]].to_string())


if __name__ == "__main__":
    main()
