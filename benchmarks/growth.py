"""Measure how time and memory of a layer map grow with samples and with layers.

    python -m bridgework.benchmarks.growth     # hours; writes benchmarks/results/growth.csv and growth.png

Every point is measured in a separate process. `--most 4096` stops at fewer samples, and `--plot` only draws the figure
again.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter

from .support.inputs import machine, stack, use_all_cores

RESULTS = Path(__file__).with_name("results")
DIMS = 256
SAMPLES = tuple(2**power for power in range(9, 17))  # at 6 x 6 layers
LAYERS = (6, 12, 24, 48)  # at 2,048 samples
MOST = {"cka": 65_536, "mutual_knn": 65_536, "svcca": 65_536, "rsa": 8_192}  # the most samples for each metric
MARKERS = dict(zip(MOST, "os^D"))


def peak() -> int:
    """Return the largest resident memory of this process since `forget_peak`, in bytes."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    if not found:
        raise OSError("/proc/self/status has no VmHWM: this benchmark needs Linux")
    return 1024 * int(found.group(1))


def forget_peak() -> None:
    """Let `peak` start again from what is resident now, because making the inputs took more."""
    Path("/proc/self/clear_refs").write_text("5")


def measure(metric: str, layers: int, samples: int) -> dict[str, Any]:
    """Measure one layers x layers map: its seconds, and the peak memory above that of the process with its inputs.

    Maps of less than 20 seconds are repeated, up to three times, and the best counts.

    Parameters
    ----------
    metric : str
        A name of `MOST`.
    layers, samples : int
        Size of each side.

    Returns
    -------
    dict
        A row of growth.csv.
    """
    from ..probes.similarity.scoring import similarity_map

    use_all_cores()
    x, y = (stack(layers, samples, DIMS, side) for side in (0, 1))
    similarity_map(x[:1, :256], y[:1, :256], metric)  # what is loaded or started once
    forget_peak()
    before, seconds = peak(), []
    while not seconds or (sum(seconds) < 20 and len(seconds) < 3):
        start = time.perf_counter()
        similarity_map(x, y, metric)
        seconds.append(time.perf_counter() - start)
    return {
        "metric": metric,
        "layers": layers,
        "samples": samples,
        "dims": DIMS,
        "seconds": min(seconds),
        "inputs MiB": 2 * layers * samples * DIMS * 4 / 2**20,
        "extra MiB": (peak() - before) / 2**20,
        "device": machine(),
    }


def points(metrics: list[str], most: int) -> list[tuple[str, int, int]]:
    """Return (metric, layers, samples) of every point, smallest first.

    Parameters
    ----------
    metrics : list of str
        Names of `MOST`.
    most : int
        The largest number of samples.

    Returns
    -------
    list of tuple
        The points.
    """
    grown = {(metric, 6, samples) for metric in metrics for samples in SAMPLES if samples <= min(MOST[metric], most)}
    grown |= {(metric, layers, 2048) for metric in metrics for layers in LAYERS if most >= 2048}
    return sorted(grown, key=lambda point: (list(MOST).index(point[0]), point[1] * point[2], point[1]))


def measured_apart(point: tuple[str, int, int]) -> dict[str, Any]:
    """Call `measure` in a fresh process.

    Parameters
    ----------
    point : tuple
        (metric, layers, samples).

    Returns
    -------
    dict
        What `measure` returns.

    Raises
    ------
    RuntimeError
        The process failed, or was killed for its memory.
    """
    metric, layers, samples = point
    command = [sys.executable, "-m", __spec__.name, "--point", metric, str(layers), str(samples)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"exit status {done.returncode}: {done.stderr.strip()[-500:]}")
    return json.loads(done.stdout.splitlines()[-1])


def plot(table: pd.DataFrame, out: Path) -> None:
    """Draw time and memory against samples and against layers, logarithmic, one line for each metric.

    Parameters
    ----------
    table : DataFrame
        Rows of growth.csv.
    out : Path
        The file to write.
    """
    figure, axes = plt.subplots(2, 2, figsize=(10, 7.5), layout="constrained", sharex="col", sharey="row")
    columns = {
        "samples": ("samples", table[table["layers"] == 6], "6 x 6 layers"),
        "layers": ("layers on each side", table[table["samples"] == 2048], "2,048 samples"),
    }
    for column, (by, (label, rows, fixed)) in enumerate(columns.items()):
        for row, (value, unit) in enumerate((("seconds", "seconds"), ("extra MiB", "MiB beyond the inputs"))):
            ax = axes[row, column]
            lines(ax, rows, by, value)
            ax.set_ylabel(unit if column == 0 else "")
            ax.set_xlabel(label if row == 1 else "")
            if row == 0:
                ax.set_title(f"{fixed}, {table['dims'].iloc[0]} dims", fontsize=11)
    axes[0, 0].legend(frameon=False)
    figure.suptitle(f"Cost of a whole layer map on {table['device'].iloc[0]}", fontsize=13)
    figure.savefig(out, dpi=150)
    plt.close(figure)


def lines(ax: Axes, rows: pd.DataFrame, by: str, value: str) -> None:
    """Draw one line for each metric, on logarithmic axes whose ticks are the measured points.

    Parameters
    ----------
    ax : Axes
        Where to draw.
    rows : DataFrame
        The measured points.
    by, value : str
        The columns of the horizontal and of the vertical axis.
    """
    for metric, part in rows.groupby("metric", sort=False):
        part = part.sort_values(by)
        ax.plot(part[by], part[value].clip(lower=0.1 if "MiB" in value else None), marker=MARKERS[metric], label=metric)
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    ax.yaxis.set_major_formatter(FuncFormatter(lambda tick, _: f"{tick:,g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())
    ticks = sorted(rows[by].unique())
    ax.set_xticks(ticks, [f"{tick:,}" for tick in ticks], rotation=45 if len(ticks) > 5 else 0)
    ax.grid(alpha=0.3)


def main() -> None:
    """Measure and draw."""
    parser = argparse.ArgumentParser(prog="python -m bridgework.benchmarks.growth", description=__doc__)
    parser.add_argument("--metrics", nargs="+", default=list(MOST), choices=list(MOST), metavar="METRIC")
    parser.add_argument("--most", type=int, default=max(SAMPLES), help="samples to measure up to")
    parser.add_argument("--plot", action="store_true", help="only draw growth.csv again")
    parser.add_argument("--point", nargs=3, metavar=("METRIC", "LAYERS", "SAMPLES"), help="measure one point, print it")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where growth.csv and growth.png are written")
    options = parser.parse_args()
    if options.point:
        metric, layers, samples = options.point
        print(json.dumps(measure(metric, int(layers), int(samples))))
        return
    options.results.mkdir(parents=True, exist_ok=True)
    out = options.results / "growth.csv"
    if not options.plot:
        rows = []
        for metric, layers, samples in points(options.metrics, options.most):
            print(f"{metric:12} {layers:3} layers {samples:6} samples ", end="", flush=True)
            try:
                row = measured_apart((metric, layers, samples))
            except RuntimeError as error:
                print(error, flush=True)
                continue
            print(f"{row['seconds']:9.3f} s {row['extra MiB']:9.1f} MiB", flush=True)
            rows.append(row)
            pd.DataFrame(rows).to_csv(out, index=False, float_format="%.6g")
    plot(pd.read_csv(out), options.results / "growth.png")


if __name__ == "__main__":
    main()
