"""A map over more features than fit in memory: two towers in memory-mapped files, CKA within a few GB.

`python -m bridgework.benchmarks.streaming FOLDER` writes 100,000 samples x 24 layers x 1,024 dims of each of two towers
(19.7 GB, once, and goes on where it was interrupted), computes their layer map and writes results/streaming.csv.
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
    """One tower's features (layer, sample, dim), memory-mapped; made from seeds where the file does not hold them yet.

    `tower_0.json` beside the file tells its shape and how many of its layers are whole.

    Raises:
        ValueError: the folder holds a tower of another shape.
    """
    file, told = folder / f"tower_{side}.f32", folder / f"tower_{side}.json"
    shape = [layers, samples, dims]
    state = json.loads(told.read_text()) if told.exists() else {"shape": shape, "layers": 0}
    if state["shape"] != shape:
        raise ValueError(f"{file} has shape {state['shape']}, not {shape}: give another folder, or delete it")
    folder.mkdir(parents=True, exist_ok=True)
    if not told.exists() or not file.exists():
        state["layers"] = 0
        with file.open("wb") as opened:
            opened.truncate(4 * layers * samples * dims)
    for layer in range(state["layers"], layers):
        # one layer at a time is mapped: written pages that stay mapped would count as memory
        part = np.memmap(file, np.float32, "r+", 4 * layer * samples * dims, (samples, dims))
        for start in range(0, samples, CHUNK):
            chunk = start // CHUNK
            signal = common_signal(min(CHUNK, samples - start), chunk)
            made = layer_features(signal, dims, strength(layer, layers), 1000 * (2 * layer + side + 1), chunk)
            part[start : start + CHUNK] = made.numpy()
        part.flush()
        told.write_text(json.dumps({"shape": shape, "layers": layer + 1}))
    return np.memmap(file, np.float32, "r", shape=(layers, samples, dims))


def anonymous() -> int:
    """Bytes of memory that this process holds: pages of mapped files can be dropped at any time, and do not count."""
    found = re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
    if not found:
        raise OSError("/proc/self/status tells no RssAnon: this benchmark needs Linux")
    return 1024 * int(found.group(1))


@contextmanager
def sampled_peak(every: float = 0.02) -> Iterator[list[int]]:
    """A list of one number that grows to the largest `anonymous` seen inside the block."""
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
    """Floating-point operations of the map in feature space: x'y of all pairs of layers, half of x'x of every layer."""
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
    told = {
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
    for name, value in told.items():
        print(f"{name:18} {value:.4g}" if isinstance(value, float) else f"{name:18} {value}")
    options.results.mkdir(parents=True, exist_ok=True)
    pd.DataFrame([told]).to_csv(options.results / "streaming.csv", index=False, float_format="%.6g")


if __name__ == "__main__":
    main()
