"""Time a layer map of two stores that workers of Ray share beside that of one process, and kill a worker half-way.

    python -m bridgework.benchmarks.distributed.map_workers FOLDER                  # a try, in a minute or two
    python -m bridgework.benchmarks.distributed.map_workers FOLDER --metric mutual_knn cka svcca --samples 16384 \
        --layers 12 12 --dims 768 1024                                              # minutes, on an idle machine

Every process computes with `--cpus` threads. Each metric adds a row to map_workers.csv among the results: `ratio` is
the time of one process over that of the workers, starting them included; `ratio without start` leaves out what a map of
a few samples takes with the same workers. FOLDER is for the stores and maps, and is removed.
"""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from threadpoolctl import threadpool_limits

from ...probes.features.features import Features
from ...probes.features.layer_features import LayerFeatures
from ...probes.similarity.ray_maps import similarity_map_on_ray
from ...probes.similarity.scoring import similarity_map
from ...probes.workers.shared_parts import PARTS
from ..support.inputs import machine, stack

RESULTS = Path(__file__).parents[1] / "results"
FEW = 64  # samples of a map that takes no time by itself


def write_store(folder: Path, modality: str, layers: int, samples: int, dims: int) -> None:
    """Write a store of drawn features; those of both modalities have a signal in common."""
    side = ("text", "image").index(modality)
    features = LayerFeatures(
        values=stack(layers, samples, dims, side),
        layers=tuple(map(str, range(layers))),
        depths=tuple((layer + 1) / layers for layer in range(layers)),
        modality=modality,
        subject="drawn",
        task=("understanding", "generation")[side],
        pass_="separate",
        pooling="mean",
        timesteps=(),
        samples=tuple(map(str, range(samples))),
    )
    Features({modality: features}).save(folder)


class Killer(threading.Thread):
    """Kill one of Ray's workers when a map has some of its parts.

    Parameters
    ----------
    store : Path
        The folder of the map.
    after : int
        How many parts must be there.

    Attributes
    ----------
    killed : int or None
        How many parts there were when a worker was killed; None where none was.
    """

    def __init__(self, store: Path, after: int) -> None:
        super().__init__(daemon=True)
        self.store, self.after, self.ended = store, after, threading.Event()
        self.killed: int | None = None

    def run(self) -> None:
        """Wait for the parts, then kill."""
        import psutil

        while not self.ended.wait(0.02):
            parts = len(list((self.store / PARTS).glob("*/*.safetensors")))
            if parts < self.after:
                continue
            for process in psutil.Process().children(recursive=True):
                if process.name().startswith("ray::_Actor"):
                    os.kill(process.pid, signal.SIGKILL)
                    self.killed = parts
                    return


def timed(folder: Path, metric: str, workers: int, cpus: int) -> dict[str, Any]:
    """Time the map of one process and of workers, whole and with a worker that is killed.

    Parameters
    ----------
    folder : Path
        It holds the stores "text" and "image", and "few text" and "few image".
    metric : str
        A name of `METRICS`.
    workers, cpus : int
        How many workers there are, and the threads of each and of the one process.

    Returns
    -------
    dict
        Seconds, ratios, whether the maps are equal bit for bit, and after how many of the parts a worker was killed.
    """

    def sides(few: str = "") -> tuple[LayerFeatures, LayerFeatures]:
        return Features.load(folder / f"{few}text")["text"], Features.load(folder / f"{few}image")["image"]

    def with_workers(name: str, few: str = "") -> tuple[float, pd.DataFrame]:
        began = time.perf_counter()
        heat = similarity_map_on_ray(*sides(few), folder / name, metric, workers=workers, num_cpus=cpus)
        return time.perf_counter() - began, heat

    began = time.perf_counter()
    one = similarity_map(*sides(), metric)
    alone = time.perf_counter() - began
    start, _ = with_workers(f"{metric} few", "few ")
    seconds, shared = with_workers(f"{metric} map")
    killer = Killer(folder / f"{metric} killed", len(one.index))
    killer.start()
    with_death, again = with_workers(f"{metric} killed")
    killer.ended.set()
    killer.join()
    return {
        "seconds of one": alone, "seconds of workers": seconds, "seconds of start": start, "ratio": alone / seconds,
        "ratio without start": alone / max(seconds - start, 1e-9), "equal": shared.equals(one),
        "killed after parts": killer.killed, "seconds with a death": with_death,
        "equal after a death": again.equals(one),
    }  # fmt: skip


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(
        prog="python -m bridgework.benchmarks.distributed.map_workers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, help="a new folder for the stores and the maps, which is removed")
    parser.add_argument("--metric", nargs="+", default=["mutual_knn", "cka"])
    parser.add_argument("--samples", type=int, default=2048)
    parser.add_argument("--layers", type=int, nargs=2, default=(6, 6))
    parser.add_argument("--dims", type=int, nargs=2, default=(96, 128))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--cpus", type=int, default=1, help="threads of each worker, and of the one process")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where map_workers.csv is written")
    options = parser.parse_args()
    import ray

    torch.set_num_threads(options.cpus)
    threadpool_limits(options.cpus)
    options.folder.mkdir(parents=True)
    ray.init(
        address="local",
        num_cpus=options.workers * options.cpus,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    layers, dims = ("x".join(map(str, pair)) for pair in (options.layers, options.dims))
    rows = []
    try:
        for modality, count, dim in zip(("text", "image"), options.layers, options.dims, strict=True):
            write_store(options.folder / modality, modality, count, options.samples, dim)
            write_store(options.folder / f"few {modality}", modality, count, FEW, dim)
        for metric in options.metric:
            found = timed(options.folder, metric, options.workers, options.cpus)
            about = {"metric": metric, "workers": options.workers, "cpus": options.cpus, "machine": machine()}
            sizes = {"samples": options.samples, "layers": layers, "dims": dims}
            rows.append(about | sizes | found)
    finally:
        shutil.rmtree(options.folder)
        ray.shutdown()
    table = pd.DataFrame(rows)
    print(table.T.to_string(header=False))
    options.results.mkdir(parents=True, exist_ok=True)
    file = options.results / "map_workers.csv"
    table = pd.concat([pd.read_csv(file), table]) if file.exists() else table
    table.to_csv(file, index=False, float_format="%.6g")


if __name__ == "__main__":
    main()
