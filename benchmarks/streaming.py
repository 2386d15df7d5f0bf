"""Time CKA over more features than fit in memory: two towers in memory-mapped files, within a few GB.

    python -m bridgework.benchmarks.streaming FOLDER     # needs 20 GB of disk; writes benchmarks/results/streaming.csv

The command writes 100,000 samples x 24 layers x 1,024 dims of each of two towers into the folder (19.7 GB; it resumes
where it was interrupted, and reuses them later), and computes their layer map. `--samples`, `--layers` and `--dims`
make it smaller.
"""

from __future__ import annotations

import argparse
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..probes.similarity.scoring import similarity_map
from .support.inputs import common_signal, layer_features, machine, mm_rate, strength, use_all_cores

RESULTS = Path(__file__).with_name("results")
CHUNK = 10_000  # samples made at a time


def tower(folder: Path, side: int, layers: int, samples: int, dims: int) -> NDArray[np.float32]:
    """Return one tower's features, memory-mapped, and draw from seeds what the file does not have yet.

    `tower_0.json` beside the file records its shape and how many of its layers are complete.

    Parameters
    ----------
    folder : Path
        Where the file is.
    side : int
        0 or 1.
    layers, samples, dims : int
        Size of the tower.

    Returns
    -------
    Array
        (layer, sample, dim), float32.

    Raises
    ------
    ValueError
        The folder has a tower of another shape.
    """
    file, progress = folder / f"tower_{side}.f32", folder / f"tower_{side}.json"
    shape = [layers, samples, dims]
    state = json.loads(progress.read_text()) if progress.exists() else {"shape": shape, "layers": 0}
    if state["shape"] != shape:
        raise ValueError(f"{file} has shape {state['shape']}, not {shape}: give another folder, or delete it")
    folder.mkdir(parents=True, exist_ok=True)
    if not progress.exists() or not file.exists():
        state["layers"] = 0
        with file.open("wb") as opened:
            opened.truncate(4 * layers * samples * dims)
    for layer in range(state["layers"], layers):
        # one layer at a time is mapped: written pages that stay mapped would count as memory
        part = np.memmap(file, np.float32, "r+", 4 * layer * samples * dims, (samples, dims))
        for start in range(0, samples, CHUNK):
            chunk = start // CHUNK
            signal = common_signal(min(CHUNK, samples - start), chunk)
            features = layer_features(signal, dims, strength(layer, layers), 1000 * (2 * layer + side + 1), chunk)
            part[start : start + CHUNK] = features.numpy()
        part.flush()
        progress.write_text(json.dumps({"shape": shape, "layers": layer + 1}))
    return np.memmap(file, np.float32, "r", shape=(layers, samples, dims))


def anonymous() -> int:
    """Return the bytes of memory that this process holds.

    Pages of mapped files can be dropped at any time, and do not count.
    """
    found = re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
    if not found:
        raise OSError("/proc/self/status has no RssAnon: this benchmark needs Linux")
    return 1024 * int(found.group(1))


@contextmanager
def sampled_peak(every: float = 0.02) -> Iterator[list[int]]:
    """Watch `anonymous` inside the block.

    Parameters
    ----------
    every : float
        Seconds between two readings.

    Yields
    ------
    list of int
        One number, which grows to the largest reading.
    """
    peak, over = [anonymous()], threading.Event()

    def watch() -> None:
        while not over.wait(every):
            peak[0] = max(peak[0], anonymous())

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        over.set()
        thread.join()


def map_flops(layers: int, samples: int, dims: int) -> float:
    """Return the floating-point operations of the map in feature space.

    These are x'y of all pairs of layers, and half of x'x of every layer.
    """
    return 2.0 * samples * dims**2 * layers**2 + 2 * layers * float(samples * dims**2)


def main() -> None:
    """Write the features where they are not there yet, and measure their map."""
    parser = argparse.ArgumentParser(prog="python -m bridgework.benchmarks.streaming", description=__doc__)
    parser.add_argument("folder", type=Path, help="where the features are kept")
    parser.add_argument("--samples", type=int, default=100_000)
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--dims", type=int, default=1024)
    parser.add_argument("--memory", type=float, default=2.0, help="GB that the map may use")
    parser.add_argument("--limit", type=float, default=4.0, help="GB of the process's peak that count as a pass")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where streaming.csv is written")
    options = parser.parse_args()
    use_all_cores()
    layers, samples, dims = options.layers, options.samples, options.dims
    x, y = (tower(options.folder, side, layers, samples, dims) for side in (0, 1))
    print(f"features: {(x.nbytes + y.nbytes) / 1e9:.1f} GB", flush=True)
    rate = mm_rate()
    with sampled_peak() as peak:
        start = time.perf_counter()
        heat = similarity_map(x, y, "cka", memory=int(options.memory * 1e9))
        seconds = time.perf_counter() - start
    rate = max(rate, mm_rate())
    flops = map_flops(layers, samples, dims)
    row = {
        "samples": samples,
        "layers": layers,
        "dims": dims,
        "features GB": (x.nbytes + y.nbytes) / 1e9,
        "memory GB": options.memory,
        "seconds": seconds,
        "GFLOP/s": flops / seconds / 1e9,
        "torch.mm GFLOP/s": rate / 1e9,
        "share of torch.mm": flops / seconds / rate,
        "peak GB": peak[0] / 1e9,
        "within limit": peak[0] <= options.limit * 1e9,
        "largest score": float(np.nanmax(heat.to_numpy())),
        "device": machine(),
    }
    for name, value in row.items():
        print(f"{name:18} {value:.4g}" if isinstance(value, float) else f"{name:18} {value}")
    options.results.mkdir(parents=True, exist_ok=True)
    pd.DataFrame([row]).to_csv(options.results / "streaming.csv", index=False, float_format="%.6g")


if __name__ == "__main__":
    main()
