"""Extract, map, plan, fuse and train over changing models for hours in one process, and see whether anything grows.

    python -m bridgework.benchmarks.robustness.load --hours 1   # writes benchmarks/results/load.csv

A round opens other experts of random weights, extracts both into a new store, draws the map and its null, chooses a
plan, fuses, trains a step, draws an image, and lets everything go. After each round the process is counted: resident
memory, allocated memory (what code has asked for and not given back; resident memory also holds the holes between it),
Python objects, tensors, threads, open files, hooks of libraries, and temporary files. What grows is found by the slope
over rounds, with its interval of 95 %, after the first rounds have filled caches.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import os
import re
import shutil
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch.nn.modules import module as torch_module
from tqdm import tqdm

from ...models.experts.opening import open_expert
from ...models.fusion.fused_model import FusedModel
from ...models.generation.sampling import generate
from ...models.scenes.composing import scene_stimuli
from ...models.training.train_model import train
from ...probes.extraction.extracting import extract
from ...probes.files import write_csv
from ...probes.plans.choosing import choose_bridges
from ...probes.plans.layouts import lay_out
from ...probes.similarity.scoring import similarity_map
from ...studies.quotes.fault_quotes import WARM, slope
from ..support.inputs import machine

RESULTS = Path(__file__).parents[1] / "results"
PAIRS = (("scenes-vlm", "scenes-dit"), ("scenes-reader", "scenes-dit-wide"), ("scenes-vlm", "emoji-dit"))
LAYOUTS = ("last", "H", "double fusion")
COUNTED = (
    "resident MB",
    "allocated MB",
    "Python objects",
    "tensors",
    "threads",
    "open files",
    "hooks",
    "temporary files",
)


class _Allocated(ctypes.Structure):
    """The `mallinfo2` of glibc: bytes in use are `uordblks` in heaps and `hblkhd` in mappings of their own."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    )


def one_round(number: int, folder: Path, samples: int = 16) -> None:
    """Do all the work of one round in a folder, and remove the folder.

    Parameters
    ----------
    number : int
        The number of the round, which decides models, weights, layout and metric.
    folder : Path
        Where to work.
    samples : int
        The stimuli that experts are shown.
    """
    understanding, generation = PAIRS[number % len(PAIRS)]
    torch.manual_seed(number)
    experts: Any = (
        open_expert(understanding, random_weights=number % 2 == 1),
        open_expert(generation, random_weights=number % 2 == 1),
    )
    stimuli = scene_stimuli("evidence", samples)
    seen = extract(experts[0], stimuli, store=folder / "understanding")
    made = extract(experts[1], stimuli, timesteps=(0.5,), store=folder / "generation")
    metric = ("mutual_knn", "cka", "cknna")[number % 3]
    heat = similarity_map(seen["text"], made["image"], metric, 3, store=folder / "map", permutations=20)
    plan = choose_bridges(heat, rule="alignment", bridges=3)
    depths = len(experts[0].blocks), len(experts[1].blocks)
    fused = FusedModel(experts[0], experts[1], plan if number % 2 else lay_out(LAYOUTS[number % len(LAYOUTS)], *depths))
    train(fused, folder / "run", 1, batch_size=2)
    generate(fused, [stimuli[0].text], ["0"], steps=2)
    shutil.rmtree(folder)


def counts(temporary: Path) -> dict[str, float]:
    """Count what the process holds, after collecting what nobody refers to.

    Parameters
    ----------
    temporary : Path
        The folder of temporary files.

    Returns
    -------
    dict
        A number for each of `COUNTED`.
    """
    gc.collect()
    status = Path("/proc/self/status").read_text()
    resident = re.search(r"VmRSS:\s+(\d+) kB", status)
    kept = [held for name, held in vars(torch_module).items() if name.startswith("_global_")]
    hooks = [held for held in kept if isinstance(held, dict)]
    return {
        "resident MB": int(resident.group(1)) / 1e3 if resident else float("nan"),
        "allocated MB": _allocated() / 1e6,
        "Python objects": len(gc.get_objects()),
        "tensors": sum(issubclass(type(held), torch.Tensor) for held in gc.get_objects()),
        "threads": threading.active_count() + len(os.listdir("/proc/self/task")),
        "open files": len(os.listdir("/proc/self/fd")),
        "hooks": sum(map(len, hooks)),
        "temporary files": sum(1 for _ in temporary.rglob("*")),
    }


def _allocated() -> float:
    """Return the bytes that are in use of what the C library has given out, or NaN where it does not say."""
    ask = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if ask is None:
        return float("nan")
    ask.restype = _Allocated
    said = ask()
    return float(said.uordblks + said.hblkhd)


def measure(seconds: float, samples: int = 16, file: Path | None = None) -> pd.DataFrame:
    """Work for some time, and count after each round.

    Parameters
    ----------
    seconds : float
        How long.
    samples : int
        The stimuli that experts are shown.
    file : Path, optional
        Where the table is written, again after every round.

    Returns
    -------
    DataFrame
        One row for each round: round, seconds since the beginning, and `COUNTED`.
    """
    rows, began, before = [], time.monotonic(), tempfile.tempdir
    temporary = Path(tempfile.mkdtemp())
    tempfile.tempdir = str(temporary)  # all temporary files of this process lie there
    try:
        with tqdm(desc="rounds") as bar:
            while time.monotonic() - began < seconds:
                one_round(len(rows), temporary / "work", samples)
                row = counts(temporary)
                rows.append({"round": len(rows), "seconds": round(time.monotonic() - began, 1), **row})
                if file is not None:
                    write_csv(file, pd.DataFrame(rows).assign(machine=machine()))
                bar.set_postfix({name: f"{value:g}" for name, value in row.items()})
                bar.update()
    finally:
        tempfile.tempdir = before
        shutil.rmtree(temporary, ignore_errors=True)
    return pd.DataFrame(rows)


def main() -> None:
    """Write the table, and print the slopes."""
    parser = argparse.ArgumentParser(prog="python -m bridgework.benchmarks.robustness.load", description=__doc__)
    parser.add_argument("--hours", type=float, default=1.0)
    parser.add_argument("--samples", type=int, default=16, help="stimuli that experts are shown")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where load.csv is written")
    options = parser.parse_args()
    table = measure(3600 * options.hours, options.samples, options.results / "load.csv")
    for name in COUNTED:
        found, low, high = slope(table[name].to_numpy()[WARM:])
        print(f"{name}: {found:.3g} a round [{low:.3g}, {high:.3g}]")


if __name__ == "__main__":
    main()
