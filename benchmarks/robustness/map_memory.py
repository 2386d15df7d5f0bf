"""Measure what a layer map takes beside its features, with every metric, under a bound of 50 MB.

    python -m bridgework.benchmarks.robustness.map_memory   # some minutes; writes benchmarks/results/map_memory.csv

Every map is computed in a process of its own, forked from one that has imported everything. Two shapes of features lead
linear CKA along its two ways: many samples of few dims, and few samples of many dims.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import warnings
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tqdm import tqdm

from ...probes.files import write_csv
from ...probes.metrics import METRICS
from ...probes.similarity.scoring import similarity_map
from ..growth import forget_peak, peak
from ..support.inputs import machine, stack

RESULTS = Path(__file__).parents[1] / "results"
BOUND = 50e6  # bytes
LAYERS = 6  # of each side
MMAP_THRESHOLD = -3  # of mallopt
SHAPES = {"tall": (4096, 256), "wide": (1024, 1024)}  # samples, dims


def give_back_at_once() -> None:
    """Let the C library give memory back as soon as it is freed, so that the peak is of what is held."""
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(MMAP_THRESHOLD, 2**18)


def measure(metric: str, shape: str, bound: float = BOUND) -> dict[str, Any]:
    """Measure one map in this process: the peak of its memory above that of the process with its inputs.

    Parameters
    ----------
    metric : str
        A name of `METRICS`.
    shape : str
        A name of `SHAPES`.
    bound : float
        The option `memory`, in bytes.

    Returns
    -------
    dict
        A row of the table.
    """
    give_back_at_once()
    samples, dims = SHAPES[shape]
    x, y = (stack(LAYERS, samples, dims, side) for side in (0, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        similarity_map(x[:2, :512], y[:2, :512], metric, memory=bound)  # what is loaded or started once
        torch.mm(x[0].T, x[0])  # the buffers of the library of matrix products
        gc.collect()
        forget_peak()
        before = peak()
        similarity_map(x, y, metric, memory=bound)
    took = (peak() - before) / 1e6
    return {
        "metric": metric, "shape": shape, "samples": samples, "dims": dims, "layers": LAYERS,
        "inputs MB": round(2 * LAYERS * samples * dims * 4 / 1e6), "bound MB": round(bound / 1e6),
        "took MB": round(took, 1), "bounded": METRICS[metric].bounded, "machine": machine(),
    }  # fmt: skip


def measured_apart(metric: str, shape: str) -> dict[str, Any]:
    """Call `measure` in a process of its own.

    Parameters
    ----------
    metric, shape : str
        As of `measure`.

    Returns
    -------
    dict
        What `measure` returns.

    Raises
    ------
    RuntimeError
        The process failed, or was killed for its memory.
    """
    there, here = os.pipe()
    if not (child := os.fork()):
        try:
            os.write(here, json.dumps(measure(metric, shape)).encode())
        finally:
            os._exit(0)
    os.close(here)
    with os.fdopen(there) as file:
        text = file.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if not text:
        raise RuntimeError(f"{metric}, {shape}: the process failed, exit status {status}")
    return json.loads(text)


def main() -> None:
    """Write and print the table."""
    parser = argparse.ArgumentParser(prog="python -m bridgework.benchmarks.robustness.map_memory", description=__doc__)
    parser.add_argument("--metrics", nargs="+", default=list(METRICS), choices=list(METRICS), metavar="METRIC")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where map_memory.csv is written")
    options = parser.parse_args()
    rows = []
    for metric in tqdm(options.metrics):
        rows += [measured_apart(metric, shape) for shape in SHAPES]
        write_csv(options.results / "map_memory.csv", pd.DataFrame(rows))
    print(pd.DataFrame(rows).to_string(index=False))


if __name__ == "__main__":
    main()
