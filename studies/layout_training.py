"""Train every layout from one recipe with one line of it changed: `bridgework reproduce layouts`.

What drawing held-out scenes costs with their captions is compared with what it costs the same weights with the captions
of other scenes, and with the same model trained on such captions. It shows that each layout learns to read the caption,
and ranks none: their parameters and steps to convergence differ.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..figures.plan_drawing import architectures
from ..models.costs.step_costs import costs
from ..models.experts.opening import open_expert
from ..models.training.batches import batch_source
from ..models.training.recipe import Recipe, build, run_recipe
from ..models.training.scene_batches import dit_batch
from ..models.training.train_model import question_tokenizer
from ..models.training.validation import validation_loss
from ..probes.files import write_atomically, write_csv, write_json
from ..probes.plans.layout_table import LAYOUTS, TRUNKS
from ..probes.plans.layouts import lay_out
from ..probes.similarity.intervals import mean_interval
from .settings import DEMO_LAYOUTS, Budget

RECIPE = Path(__file__).parent / "recipes" / "scenes.yaml"
RESULTS = Path(__file__).parent / "results" / "layouts.csv"
ORDER = (*(layout for layout in LAYOUTS if layout not in TRUNKS), *TRUNKS)  # the quick ones first


def compare(
    recipe: Recipe,
    out: Path,
    results: Path,
    layouts: Sequence[str] = ORDER,
    batches: int = 16,
) -> pd.DataFrame:
    """Train every layout of a recipe, each with its own captions and with others', and write one row each to `results`.

    Started again, it goes on where it was stopped; the table is written anew after every run.

    Args:
        recipe: all but its line `layout` (and `shuffled`).
        out: a folder for the runs.
        batches: of the validation part, of `recipe.batch_size` scenes each.

    Returns:
        layout; parameters, those trained; steps, batch_size; step_seconds, of a training step in float32, the median of
        five once it is trained;
        loss, of drawing held-out scenes with their captions, and shuffled, of the same weights with other scenes';
        difference, shuffled - loss, with low and high (95 %, Student, paired by batch); batches;
        floor, the loss of the same model trained with other scenes' captions, and above, above_low, above_high:
        floor - loss, likewise. The last four are empty until that run is done.
    """
    rows: dict[str, dict[str, Any]] = {}
    for shuffled in (False, True):
        for layout in layouts:
            done = _trained(replace(recipe, layout=layout, shuffled=shuffled), out, batches)
            if not shuffled:
                rows[layout] = {"layout": layout} | done
            else:
                rows[layout]["floor"] = float(np.mean(done["losses"]))
                rows[layout] |= _interval("above", np.subtract(done["losses"], rows[layout]["losses"]))
            table = pd.DataFrame(rows.values()).drop(columns=["losses", "made"])
            write_csv(results, table)
            print(table.round(4).to_string(index=False), flush=True)
    return table


def _trained(recipe: Recipe, out: Path, batches: int) -> dict[str, Any]:
    """One run with what it cost and its losses, trained unless `out` has them."""
    folder = out / f"{recipe.layout}{' shuffled' if recipe.shuffled else ''}".replace(" ", "-")
    told = folder / f"losses-{batches}.json"
    if told.exists() and (row := json.loads(told.read_text()))["made"] == asdict(recipe):
        return row
    print(f"{folder.name}: {recipe.steps} steps", flush=True)
    model = run_recipe(recipe, folder)
    held = {
        shuffled: np.array(validation_loss(model, batches, shuffled=shuffled, batch_size=recipe.batch_size))
        for shuffled in (False, True)
    }
    row = {"parameters": sum(p.numel() for p in model.trained().parameters() if p.requires_grad)}
    row |= {"steps": recipe.steps, "batch_size": recipe.batch_size, "step_seconds": step_seconds(model, recipe)}
    row |= {"loss": float(held[False].mean()), "shuffled": float(held[True].mean())}
    row |= _interval("difference", held[True] - held[False]) | {"batches": batches}
    row |= {"losses": held[False].tolist(), "made": asdict(recipe)}
    write_json(told, row)
    return row


def step_seconds(model: Any, recipe: Recipe) -> float:
    """Of a training step on a batch of scenes, questions included where the model is asked some."""
    draw = batch_source(model.size, None, recipe.seed, recipe.batch_size, False, tokenizer=question_tokenizer(model))
    return round(costs(model, draw(0))["step_seconds"], 4)


def _interval(name: str, values: np.ndarray) -> dict[str, float]:
    mean, low, high = map(float, mean_interval(values))
    prefix = "" if name == "difference" else f"{name}_"
    return {name: mean, f"{prefix}low": low, f"{prefix}high": high}


def draw(results: Path) -> None:
    """Every layout for our experts, from its plan: layouts.png."""
    understanding, generation = (len(open_expert(name).blocks) for name in ("scenes-vlm", "scenes-dit"))
    plans = [lay_out(name, understanding, generation) for name in ORDER]
    write_atomically(results / "layouts.png", lambda path: architectures(plans).savefig(path, format="png", dpi=90))


def compare_layouts(folder: Path, budget: Budget) -> None:
    """H, dense and double fusion as published, with one recipe and as many trained parameters.

    Writes layouts.csv (see `layouts.compare`), layout_costs.csv (see `costs`), layout_learning.csv (step, loss, name)
    and the plans, layouts/LAYOUT/plan.json.
    """
    recipe = budget.layouts
    compare(recipe, folder / "layouts", folder / "layouts.csv", DEMO_LAYOUTS, batches=4)
    if (folder / "layout_costs.csv").exists():
        return
    batch = dit_batch(0, 0, size=recipe.batch_size)
    rows = [costs(build(replace(recipe, layout=layout)), batch, rounds=1) for layout in DEMO_LAYOUTS]
    logs = []
    for layout in DEMO_LAYOUTS:
        lines = (layout_folder(folder, layout) / "state" / "log.jsonl").read_text().splitlines()
        logs.append(pd.DataFrame([json.loads(line) for line in lines]).assign(name=layout))
    write_csv(folder / "layout_learning.csv", pd.concat(logs))
    write_csv(folder / "layout_costs.csv", pd.DataFrame(rows))


def layout_folder(folder: Path, layout: str) -> Path:
    return folder / "layouts" / layout.replace(" ", "-")
