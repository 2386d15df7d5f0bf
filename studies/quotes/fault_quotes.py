"""Quote what kills, flipped bits and long work did, and what maps took of the memory they were allowed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from .markers import table
from .rounding import whole


def numbers(results: Path) -> dict[str, str]:
    """Return every quotable number of faults and load by name."""
    kills, flips, load = (pd.read_csv(results / f"{name}.csv") for name in ("kills", "flips", "load"))
    return {
        "kills.all": whole(len(kills)),
        "kills.equal": whole(kills["equal"].sum()),
        "flips.kinds": whole(flips["kind"].nunique()),
        "flips.all": whole(len(flips)),
        "flips.noticed": whole(flips["noticed"].sum()),
        "load.rounds": whole(len(load)),
        "load.minutes": whole(load["seconds"].iloc[-1] / 60),
    }


def tables(results: Path) -> dict[str, Callable[[], str]]:
    """Return what writes each table of faults and load, by name."""
    return {
        "kills": lambda: kills_table(results),
        "flips": lambda: flips_table(results),
        "load": lambda: load_table(results),
        "map memory": lambda: map_memory_table(results),
    }


def kills_table(results: Path) -> str:
    """Return how often each command was stopped, and how often it then left the bytes of an undisturbed run."""
    kills = pd.read_csv(results / "kills.csv")
    rows = [
        [f"`{command}`", signal, whole(len(part)), whole(part["equal"].sum())]
        for (command, signal), part in kills.groupby(["command", "signal"], sort=False)
    ]
    return table(["command", "stopped by", "times", "equal to the undisturbed run"], rows)


def flips_table(results: Path) -> str:
    """Return how many flipped bits were noticed in each kind of file."""
    flips = pd.read_csv(results / "flips.csv")
    rows = [
        [kind, f"`{part['file'].iloc[0]}`", whole(len(part)), whole(part["noticed"].sum())]
        for kind, part in flips.groupby("kind", sort=False)
    ]
    return table(["kind of file", "file", "flips", "noticed"], rows)


def load_table(results: Path) -> str:
    """Return what the process held after the rounds in which caches fill, and at the end."""
    load = pd.read_csv(results / "load.csv")
    counted = [name for name in load.columns if name not in ("round", "seconds", "machine")]
    settled, last = load.iloc[6:12][counted].mean(), load.iloc[-6:][counted].mean()
    rows = [[name, whole(settled[name]), whole(last[name])] for name in counted]
    return table(["held", "mean of rounds 7 to 12", "mean of the last six rounds"], rows)


def map_memory_table(results: Path) -> str:
    """Return what the map of each metric took beside its features, and the bound where the metric has one."""
    found = pd.read_csv(results / "map_memory.csv")
    rows = []
    for metric, part in found.groupby("metric", sort=False):
        took = part.set_index("shape")["took MB"]
        bound = whole(part["bound MB"].iloc[0]) if part["bounded"].iloc[0] else "none"
        cells = [whole(took[shape]) if shape in took else "" for shape in ("tall", "wide")]
        rows.append([f"`{metric}`", bound, *cells])
    return table(["metric", "bound (MB)", "4,096 x 256 (MB)", "1,024 x 1,024 (MB)"], rows)
