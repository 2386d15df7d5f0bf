"""Time maps to a tolerance beside exact ones, and count how often 1.96 errors cover the exact score.

    python -m bridgework.benchmarks.sampling.tolerance                           # a try, in a minute or two
    python -m bridgework.benchmarks.sampling.tolerance --metric mutual_knn --samples 65536 --layers 6 6 --dims 768 1024
    python -m bridgework.benchmarks.sampling.tolerance --metric cka --samples 100000 --layers 24 24 --dims 768 1024 \
        --windows --threads 1                                                    # in 2 GB instead of 18
    python -m bridgework.benchmarks.sampling.tolerance --metric mutual_knn --samples 1000000 --layers 6 6 \
        --dims 768 768 --tolerance .005 --folder DISK --exact-layers 0           # 18.5 GB on disk
    python -m bridgework.benchmarks.sampling.tolerance --metric cka --samples 1000000 --layers 6 6 \
        --dims 768 768 --tolerance .005 --folder DISK                            # the exact map too, from batches
    python -m bridgework.benchmarks.sampling.tolerance --coverage 2000           # the long simulation, by hand

Each case adds a row to tolerance.csv among the results. With `--folder` features are written there, as NumPy files
in float16 that are mapped, and left. "peak memory" counts what is mapped; "own memory" does not. Threads that wait for
each other on a busy machine count as processor time, many short products more than few long ones: compare processor
times with `--threads 1`, or with OMP_WAIT_POLICY=passive.
"""

from __future__ import annotations

import argparse
import resource
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import torch
from numpy.lib.format import open_memmap
from torch import Tensor

from ...probes.metrics import METRICS
from ...probes.similarity.sampled_maps import sampled_scores
from ...probes.similarity.scoring import similarity_map
from ..support.inputs import common_signal, layer_features, machine, strength, use_cores

RESULTS = Path(__file__).parents[1] / "results"
PART = 65536  # samples that are drawn at once
BATCH = 8192  # samples of a batch of the exact map of cka from disk
WINDOW = 32  # columns between the beginnings of two windows
SHARE = 0.6  # the common share of the variance of windows, the largest of separate layers
SIGNALS = (0.0, 0.5, 0.9)


def draw(samples: int, layers: int, dims: int, seed: int, folder: Path | None, share: float | None = None) -> list[Any]:
    """Draw the layers of one side, in memory or as mapped files.

    Parameters
    ----------
    samples, layers, dims : int
        Their sizes.
    seed : int
        Seed of the side; the common signal is the same for all.
    folder : Path, optional
        Where the files are written.
    share : float, optional
        The common share of the variance of every layer; left out, it rises and falls with depth.

    Returns
    -------
    list
        (sample, dim) arrays, float32 in memory, float16 in files.
    """
    made: list[Any] = []
    for layer in range(layers):
        shape = samples, dims
        if folder is None:
            values: Any = np.empty(shape, np.float32)
        else:
            values = open_memmap(folder / f"{seed}-{layer}.npy", mode="w+", dtype=np.float16, shape=shape)
        for part, start in enumerate(range(0, samples, PART)):
            signal = common_signal(min(PART, samples - start), part)
            common = strength(layer, layers) if share is None else share
            values[start : start + PART] = layer_features(signal, dims, common, 1000 * seed + layer, part).numpy()
        made.append(values if folder is None else np.load(folder / f"{seed}-{layer}.npy", mmap_mode="r"))
    return made


def draw_windows(samples: int, layers: int, dims: int, seed: int, folder: Path | None = None) -> list[np.ndarray]:
    """Draw one wide layer, and return the layers of one side as windows of its columns, which take no room.

    Neighbouring layers share most of their columns, as neighbouring blocks of a model share most of their states.

    Parameters
    ----------
    samples, layers, dims : int
        Their sizes.
    seed : int
        Seed of the side; the common signal is the same for all.
    folder : Path, optional
        Where the file of the wide layer is written.

    Returns
    -------
    list
        (sample, dim) arrays, float32 in memory, float16 in files.
    """
    (wide,) = draw(samples, 1, dims + WINDOW * (layers - 1), seed, folder, SHARE)
    return [wide[:, start : start + dims] for start in range(0, WINDOW * layers, WINDOW)]


def timed(xs: Sequence[Any], ys: Sequence[Any], metric: str, tolerance: float, exact: int) -> dict[str, Any]:
    """Time a map to a tolerance and, where asked, the exact one.

    Parameters
    ----------
    xs, ys : sequence
        Layers (sample, dim).
    metric : str
        A metric that takes a tolerance.
    tolerance : float
        The standard error.
    exact : int
        Of how many layers of x the exact map is made too, 0 for none.

    Returns
    -------
    dict
        rows, largest error, seconds, memory of the process at its peak (GB), and without mapped files; exact layers,
        exact seconds, times as fast by the clock and by processor time, and the largest deviation in errors, NaN
        without the exact map. Of fewer layers than all, "times" says what these alone take: the exact map takes more.
    """
    began = clocks()
    with own_memory() as held:
        heat = similarity_map(list(xs), list(ys), metric, tolerance=tolerance)
    took, errors = clocks() - began, np.array(heat.attrs["errors"])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    whole, deviation = np.full(2, np.nan), np.nan
    if exact:
        began = clocks()
        scores = exact_scores(xs[:exact], ys, metric)
        whole = clocks() - began
        with np.errstate(invalid="ignore", divide="ignore"):
            off = np.abs(heat.to_numpy()[:exact] - scores) / errors[:exact]
        deviation = float(np.nanmax(off)) if errors.any() else 0.0
    return {
        "rows": heat.attrs["rows"], "largest error": errors.max(), "seconds": took[0], "peak memory": peak,
        "own memory": max(held) / 2**30,
        "exact layers": exact, "exact seconds": whole[0], "times as fast": whole[0] / took[0],
        "times less processor time": whole[1] / took[1], "deviation": deviation,
    }  # fmt: skip


def exact_scores(xs: Sequence[Any], ys: Sequence[Any], metric: str) -> np.ndarray:
    """Return the exact map (layer, layer); of features on disk that of cka is made of batches, in little memory."""
    if metric != "cka" or not isinstance(xs[0], np.memmap):
        return similarity_map(list(xs), list(ys), metric).to_numpy()
    parts = [slice(start, start + BATCH) for start in range(0, len(xs[0]), BATCH)]
    batches = (([x[part] for x in xs], [y[part] for y in ys]) for part in parts)
    return similarity_map(batches, metric=metric).to_numpy()


@contextmanager
def own_memory() -> Iterator[list[int]]:
    """Look five times a second how many bytes the process holds without what is mapped of files."""
    process, done, held = psutil.Process(), threading.Event(), list[int]()

    def look() -> None:
        while not held or not done.wait(0.2):
            found = process.memory_info()
            held.append(found.rss - found.shared)

    looking = threading.Thread(target=look)
    looking.start()
    try:
        yield held
    finally:
        done.set()
        looking.join()


def clocks() -> np.ndarray:
    """Return the time by the clock and the processor time of all threads, in seconds."""
    return np.array([time.perf_counter(), time.process_time()])


def pair(seed: int, samples: int, signal: float, dims: int = 16) -> tuple[Tensor, Tensor]:
    """Draw two layers with a common signal of a share of the variance, its six directions unlike strong."""
    g = np.random.default_rng([seed, int(100 * signal)])
    common = g.standard_normal((samples, 6)) * np.arange(1, 7) ** -0.5
    x, y = (
        signal**0.5 * common @ g.standard_normal((6, dims)) + (1 - signal) ** 0.5 * g.standard_normal((samples, dims))
        for _ in range(2)
    )
    return torch.from_numpy(x.astype("f")), torch.from_numpy(y.astype("f"))


def coverage(metric: str, signal: float, samples: int, draws: int) -> dict[str, Any]:
    """Count how often the exact score of a draw lies within 1.96 errors of the estimate.

    Parameters
    ----------
    metric : str
        A metric that takes a tolerance.
    signal : float
        The common share of the variance.
    samples, draws : int
        Samples of a draw, and how many draws.

    Returns
    -------
    dict
        covered, and mean and standard deviation of the deviations in errors: 0 and 1 where nothing is biased.
    """
    off = []
    for seed in range(draws):
        x, y = pair(seed, samples, signal)
        found = sampled_scores([x], [y], [(0, 0)], metric, 10, 0.5)
        if found is not None:
            off.append((found.scores[0] - METRICS[metric].scores([x], [y], 10)[0, 0]) / found.errors[0])
    return {"covered": np.mean(np.abs(off) < 1.96), "mean": np.mean(off), "deviation": np.std(off), "draws": len(off)}


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(prog="python -m bridgework.benchmarks.sampling.tolerance", description=__doc__)
    parser.add_argument("--metric", nargs="+", help="mutual_knn and cka if left out, and cka_units of coverage")
    parser.add_argument("--samples", type=int, default=16384)
    parser.add_argument("--layers", type=int, nargs=2, default=(2, 2))
    parser.add_argument("--dims", type=int, nargs=2, default=(96, 128))
    parser.add_argument("--tolerance", type=float, default=0.002)
    parser.add_argument("--folder", type=Path, help="where features are written, to be mapped")
    parser.add_argument("--windows", action="store_true", help="layers are windows of one wide layer, to save memory")
    parser.add_argument("--exact-layers", type=int, metavar="LAYERS", help="layers of x of the exact map, 0 for none")
    parser.add_argument("--threads", type=int, help="threads that compute, as many as cores if left out")
    parser.add_argument("--coverage", type=int, default=0, metavar="DRAWS", help="simulate coverage instead")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where tolerance.csv is written")
    options = parser.parse_args()
    use_cores(options.threads)
    rows = []
    if options.coverage:
        for metric in options.metric or ("cka", "cka_units", "mutual_knn"):
            for signal in SIGNALS[metric == "cka_units" :]:
                found = coverage(metric, signal, 4096 if metric != "mutual_knn" else 2048, options.coverage)
                rows.append({"case": "coverage", "metric": metric, "signal": signal} | found)
    else:
        xs, ys = [
            draw_windows(options.samples, count, dims, side + 1, options.folder)
            if options.windows
            else draw(options.samples, count, dims, side + 1, options.folder)
            for side, (count, dims) in enumerate(zip(options.layers, options.dims, strict=True))
        ]
        sizes = {"samples": options.samples, "layers": "x".join(map(str, options.layers))}
        for metric in options.metric or ("mutual_knn", "cka"):
            exact = len(xs) if options.exact_layers is None else options.exact_layers
            found = timed(xs, ys, metric, options.tolerance, exact)
            about = {"metric": metric, "tolerance": options.tolerance, "machine": machine()}
            case = "disk" if options.folder else "windows" if options.windows else "memory"
            rows.append({"case": case} | sizes | about | found)
    table = pd.DataFrame(rows)
    print(table.to_string(index=False))
    options.results.mkdir(parents=True, exist_ok=True)
    file = options.results / "tolerance.csv"
    table = pd.concat([pd.read_csv(file), table]) if file.exists() else table
    table.to_csv(file, index=False, float_format="%.6g")


if __name__ == "__main__":
    main()
