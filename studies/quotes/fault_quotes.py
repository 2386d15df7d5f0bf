"""Quote what kills, flipped bits and long work did, and what maps took of the memory they were allowed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from .markers import table
from .rounding import whole, with_interval

WARM = 6  # rounds in which caches fill


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
    rows = []
    for name in counted:
        values = load[name].to_numpy(float)[WARM:]
        found, low, high = slope(values)
        grown = "0" if not np.ptp(values) else with_interval(found, low, high)
        rows.append([name, whole(values[:6].mean()), whole(values[-6:].mean()), grown])
    return table(["held", "mean of rounds 7 to 12", "mean of the last six", "growth a round, with 95 %"], rows)


def slope(values: np.ndarray) -> tuple[float, float, float]:
    """Return by how much a count grows in a round, with its interval of 95 %, by least squares.

    Parameters
    ----------
    values : ndarray
        The counts of consecutive rounds.

    Returns
    -------
    (float, float, float)
        The slope, and its interval. Rounds of one kind return every six, so their means are fitted.
    """
    means = values[: len(values) // 6 * 6].reshape(-1, 6).mean(1)
    if len(means) < 3 or not np.ptp(means):
        return float(np.ptp(means)) if len(means) else float("nan"), 0.0, 0.0
    fitted = stats.linregress(np.arange(len(means)) * 6, means)
    reach = stats.t.ppf(0.975, len(means) - 2) * fitted.stderr
    return fitted.slope, fitted.slope - reach, fitted.slope + reach


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
