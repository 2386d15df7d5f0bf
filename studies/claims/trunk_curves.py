"""Measure UniFork's six curves: two experts, one trunk on both tasks, and that trunk after more of one task.

Twins of the experts with random weights stand beside them, as controls.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ...figures.alignment import alignment_curves
from ...figures.publishing.line_names import name_ends
from ...figures.style import TASK_COLOUR, heading, panels, styled
from ...models.experts.opening import open_expert
from ...models.scenes.composing import scene_stimuli
from ...models.unified.flow_model import UnifiedModel
from ...models.unified.trunk_subject import unified_subject
from ...probes.curves.curve import alignment_curve
from ...probes.curves.divergence_depth import Divergence, divergence
from ...probes.curves.shapes import rises, rises_then_falls
from ...probes.extraction.extracting import extract
from ...probes.files import write_atomically, write_csv, write_parquet
from ...probes.subjects.subject import Subject
from . import claim_settings as settings
from .trunk_runs import base_trunk

METRICS = ("mutual_knn", "cka")
SAMPLES, TIMESTEP = 512, 0.5
EXPERTS = {"understanding": settings.READER, "generation": "scenes-dit"}
TRAINED_ON = {"understanding": "answering", "generation": "drawing"}
APART, UNTRAINED = "two experts", "two experts, random weights"
BEFORE, AFTER = "one trunk, both tasks", "one trunk, then one task"
PUBLISHED = Path(__file__).with_name("unifork_curves.csv")
CURVES, SHAPES = "curves.parquet", "shapes.csv"
FILES = (CURVES, SHAPES, "curves.png")


def measure_curves(folder: Path) -> pd.DataFrame:
    """Measure the curves of the experts, of their twins with random weights, and of the common trunk.

    The trunk is measured before and after more training on one task.

    Parameters
    ----------
    folder : Path
        The folder of the study, where the trunks of one task are kept.

    Returns
    -------
    DataFrame
        Rows of `alignment_curve`, with the columns model and run; written to curves.parquet. The tests of the shapes
        are written to shapes.csv.
    """
    stimuli = scene_stimuli("evidence", SAMPLES)
    base, tables = base_trunk(folder), []
    for task, name in EXPERTS.items():
        for model in (APART, UNTRAINED):
            tables += _curves(open_expert(name, random_weights=model == UNTRAINED), task, stimuli, model, 0)
        tables += _curves(unified_subject(base, task), task, stimuli, BEFORE, 0)
        for seed in settings.SWEEP_SEEDS:
            trained = UnifiedModel.load(folder / "kept" / f"{TRAINED_ON[task]} {seed}")
            tables += _curves(unified_subject(trained, task), task, stimuli, AFTER, seed)
    curves = pd.concat(tables, ignore_index=True)
    write_parquet(folder / CURVES, curves)
    write_csv(folder / SHAPES, shape_table(curves))
    figure = draw_curves(curves)
    write_atomically(folder / FILES[-1], lambda path: figure.savefig(path, format="png", dpi=100))
    return curves


def _curves(subject: Subject, task: str, stimuli: Any, model: str, run: int) -> list[pd.DataFrame]:
    seen = extract(subject, stimuli, task=task, timesteps=(TIMESTEP,) if subject.timed_tasks else ())
    return [
        alignment_curve(seen["image"], seen["text"], metric=metric).assign(subject=model, model=model, run=run)
        for metric in METRICS
    ]


@styled
def draw_curves(curves: pd.DataFrame, metric: str = "mutual_knn") -> Figure:
    """Draw the six curves, two to a panel, beside those that were published.

    Parameters
    ----------
    curves : DataFrame
        Of `measure_curves`.
    metric : str
        One of `METRICS`.

    Returns
    -------
    Figure
        Four panels. Published scores may be compared by shape alone: their k, N and data are not known.
    """
    figure, grid = panels(2, 2, (9.4, 7.2))
    shown = curves[(curves["metric"] == metric) & (curves["run"] == 0)]
    twins = shown["model"] == UNTRAINED
    shown = shown.assign(control=np.where(twins, "random weights", "none"), subject=shown["subject"].mask(twins, APART))
    for ax, model in zip(grid.flat, (APART, BEFORE, AFTER), strict=False):
        alignment_curves(shown[shown["subject"] == model], model, overlay=True, ax=ax)
    published, ends = pd.read_csv(PUBLISHED), {}
    for (model, task), line in published.groupby(["model", "task"], sort=False):
        depth = (line["layer"] - 1) / (line["layer"].max() - 1)
        style = "--" if model == "Emu3-base" else "-"
        grid[1, 1].plot(depth, line["score"], style, color=TASK_COLOUR[str(task)], lw=1.2)
        ends[str(model)] = (str(model), float(line["score"].iloc[-1]), TASK_COLOUR[str(task)])
    name_ends(grid[1, 1], list(ends.values()), 0.8)
    heading(grid[1, 1], "published by UniFork", "read off the figure; only shapes may be compared")
    grid[1, 1].set(xlabel="relative depth", ylabel="alignment score")
    return figure


def shape_table(curves: pd.DataFrame) -> pd.DataFrame:
    """Test the published shapes.

    Parameters
    ----------
    curves : DataFrame
        Of `measure_curves`.

    Returns
    -------
    DataFrame
        metric, shape, model, run, met; value, low and high of what decides (of several intervals the one nearest to
        failing), or the divergence depth with its interval. Tasks split at a depth where they do not differ from the
        embeddings on: the interval of the depth lies above 0.
    """
    rows = []
    for metric, scored in curves.groupby("metric", sort=False):
        of: dict[Any, pd.DataFrame] = dict(list(scored.groupby(["model", "task", "run"], sort=False)))
        for (model, task, run), curve in of.items():
            if model == AFTER and task == "understanding":
                continue  # it stays on a plateau: the split says so
            test = rises if task == "understanding" and model in (APART, UNTRAINED) else rises_then_falls
            found = test(curve)
            worst = min(found.intervals.values(), key=lambda interval: interval.low)
            shape = f"{task} {test.__name__.replace('_', ' ')}"
            rows.append(
                {"metric": metric, "shape": shape, "model": model, "run": run, "met": bool(found.holds)}
                | worst._asdict()
            )
        apart = divergence(of[BEFORE, "understanding", 0], of[BEFORE, "generation", 0], kind="split")
        row = {"metric": metric, "shape": "both tasks coincide", "model": BEFORE, "run": 0, "met": apart.depth is None}
        rows.append(row | _depth(apart))
        for seed in settings.SWEEP_SEEDS:
            apart = divergence(of[AFTER, "understanding", seed], of[AFTER, "generation", seed], kind="split")
            row = {"metric": metric, "shape": "tasks split at a depth", "model": AFTER, "run": seed}
            rows.append(row | {"met": apart.depth is not None and float(apart.low or 0) > 0} | _depth(apart))
    return pd.DataFrame(rows)


def _depth(apart: Divergence) -> dict[str, float | None]:
    return {"value": apart.depth, "low": apart.low, "high": apart.high}
