"""The demo and the committed runs: the same steps with different budgets, and one page that shows both."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pandas as pd

from ..models.evaluation.scores import evaluate
from ..models.experts.downloads import weights
from ..models.experts.opening import open_expert
from ..probes.files import write_csv
from .alignment_curves import measure
from .demo_page import write_page
from .fused_models import fuse, fused_folder, gap, probe_again
from .layout_training import compare_layouts
from .real_experts import FILES, measure_real, measure_sets
from .settings import COMMITTED, DEMO, RESULTS, RUNS

COMMITTED_FILES = (
    "curves.parquet", "map.csv", "map.json", "plan.json", "shapes.json", "gap.csv", "fused.parquet", "real.parquet",
    "scores.csv", "learning.csv", "samples.csv", "samples", "experts.csv", *FILES,
)  # fmt: skip


def demo(folder: Path = RUNS / "demo", gallery: Path = Path("figures/gallery")) -> Path:
    """Run the main job on the bundled data within minutes, and write the page that shows it; returns the page.

    Stopped and started again, it goes on where it was. The numbers of the committed longer run stand beside.
    """
    began = time.monotonic()
    measure(folder, DEMO)
    fuse(folder, DEMO)
    gap(folder, DEMO)
    probe_again(folder, DEMO)
    compare_layouts(folder, DEMO)
    if all(_fetched(name) for name in weights.WEIGHTS):
        measure_real(folder, samples=128)
    collect(folder)
    page = write_page(folder, gallery)
    print(f"done in {time.monotonic() - began:.0f} s: open {page}")
    return page


def reproduce(folder: Path = RUNS / "committed", results: Path = RESULTS) -> None:
    """The committed run, in full: an hour or two. Leaves its small result files in `results`."""
    budget = COMMITTED
    measure(folder, budget)
    measure_real(folder, samples=512)
    measure_sets(folder)
    score_experts(folder)
    fuse(folder, budget)
    gap(folder, budget)
    probe_again(folder, budget)
    collect(folder)
    results.mkdir(exist_ok=True)
    for name in COMMITTED_FILES:
        copy = shutil.copytree if (folder / name).is_dir() else shutil.copy
        if (results / name).is_dir():
            shutil.rmtree(results / name)
        copy(folder / name, results / name)


def score_experts(folder: Path) -> None:
    """Both shipped experts on new scenes and new combinations: experts.csv."""
    if (folder / "experts.csv").exists():
        return
    tables = []
    for name, each in (("scenes-vlm", 300), ("scenes-dit", 40)):
        for part in ("test", "new"):
            tables.append(evaluate(open_expert(name), part, each).assign(expert=name, part=part))  # type: ignore[arg-type]
    write_csv(folder / "experts.csv", pd.concat(tables))


def collect(folder: Path) -> None:
    """Gather what the fused models left in their folders: scores.csv, learning.csv, samples.csv and samples/."""
    runs = sorted(run for run in (folder / "fused").iterdir() if (run / "scores.csv").exists())
    scores = pd.concat([pd.read_csv(run / "scores.csv").assign(run=run.name) for run in runs])
    write_csv(folder / "scores.csv", scores)
    logs = pd.concat([pd.read_csv(run / "log.csv", index_col=0) for run in runs if (run / "log.csv").exists()])
    write_csv(folder / "learning.csv", logs)
    shown = fused_folder(folder, "alignment", 0)
    shutil.copy(shown / "samples.csv", folder / "samples.csv")
    shutil.copytree(shown / "samples", folder / "samples", dirs_exist_ok=True)


def _fetched(name: str) -> bool:
    try:
        weights.verify(name)
    except (FileNotFoundError, ValueError):
        return False
    return True
