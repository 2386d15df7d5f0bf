"""Train every layout from one recipe with one line of it changed: `bridgework reproduce layouts`.

What drawing held-out scenes costs with their captions is compared with what it costs the same weights with the captions
of other scenes, and with the same model trained on such captions. It shows that each layout learns to read the caption,
and ranks none: their parameters and steps to convergence differ.
"""

from __future__ import annotations

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
from ..models.training.recipe import Recipe, run_recipe
from ..models.training.train_model import question_tokenizer
from ..models.training.validation import validation_loss
from ..probes.files import write_atomically, write_csv, write_json
from ..probes.plans.layout_table import LAYOUTS, TRUNKS
from ..probes.plans.layouts import lay_out
from ..probes.similarity.intervals import mean_interval
from ..probes.tensor_files import read_sealed, with_seal

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
    """Train every layout of a recipe, with its own captions and with others', and write one row per layout.

    A run that was stopped is resumed. The table is written anew after every run.

    Parameters
    ----------
    recipe : Recipe
        The recipe, all of it but the lines `layout` and `shuffled`.
    out : Path
        Folder of the runs.
    results : Path
        File of the table, a CSV.
    layouts : sequence of str
        Names of the layouts.
    batches : int
        Number of batches of the validation part, of `recipe.batch_size` scenes each.

    Returns
    -------
    pandas.DataFrame
        The table: layout; parameters, the number of trained ones; steps, batch_size; step_seconds, the median of five
        training steps in float32 after training;
        loss, of drawing held-out scenes with their captions, and shuffled, of the same weights with other scenes'
        captions; difference, shuffled - loss, with low and high (95 %, Student, paired by batch); batches;
        floor, the loss of the same model trained with other scenes' captions, and above, above_low, above_high,
        floor - loss with its interval. The last four are empty until that run is done.
    """
    rows: dict[str, dict[str, Any]] = {}
    for shuffled in (False, True):
        for layout in layouts:
            run = _trained(replace(recipe, layout=layout, shuffled=shuffled), out, batches)
            if not shuffled:
                rows[layout] = {"layout": layout} | run
            else:
                rows[layout]["floor"] = float(np.mean(run["losses"]))
                rows[layout] |= _interval("above", np.subtract(run["losses"], rows[layout]["losses"]))
            table = pd.DataFrame(rows.values()).drop(columns=["losses", "made"])
            write_csv(results, table)
            print(table.round(4).to_string(index=False), flush=True)
    return table


def _trained(recipe: Recipe, out: Path, batches: int) -> dict[str, Any]:
    """Return the row of one run, with its losses: of the run in `out` if it is there, else train it."""
    folder = out / f"{recipe.layout}{' shuffled' if recipe.shuffled else ''}".replace(" ", "-")
    path = folder / f"losses-{batches}.json"
    if path.exists() and (row := read_sealed(path))["made"] == asdict(recipe):
        return row
    print(f"{folder.name}: {recipe.steps} steps", flush=True)
    model = run_recipe(recipe, folder)
    losses = {
        shuffled: np.array(validation_loss(model, batches, shuffled=shuffled, batch_size=recipe.batch_size))
        for shuffled in (False, True)
    }
    row = {"parameters": sum(p.numel() for p in model.trained().parameters() if p.requires_grad)}
    row |= {"steps": recipe.steps, "batch_size": recipe.batch_size, "step_seconds": step_seconds(model, recipe)}
    row |= {"loss": float(losses[False].mean()), "shuffled": float(losses[True].mean())}
    row |= _interval("difference", losses[True] - losses[False]) | {"batches": batches}
    row |= {"losses": losses[False].tolist(), "made": asdict(recipe)}
    write_json(path, with_seal(row))
    return row


def step_seconds(model: Any, recipe: Recipe) -> float:
    """Return the seconds of a training step on a batch of scenes, with questions if the model learns to answer some.

    Parameters
    ----------
    model : FusedModel or UnifiedModel
        The model.
    recipe : Recipe
        Its recipe.

    Returns
    -------
    float
        Seconds, to four decimals.
    """
    draw = batch_source(model.size, None, recipe.seed, recipe.batch_size, False, tokenizer=question_tokenizer(model))
    return round(costs(model, draw(0))["step_seconds"], 4)


def _interval(name: str, values: np.ndarray) -> dict[str, float]:
    """Return the mean of values and its interval as the columns of a row."""
    mean, low, high = map(float, mean_interval(values))
    prefix = "" if name == "difference" else f"{name}_"
    return {name: mean, f"{prefix}low": low, f"{prefix}high": high}


def draw(results: Path) -> None:
    """Draw the plan of every layout for our experts, and write layouts.png.

    Parameters
    ----------
    results : Path
        Folder of the figure.
    """
    understanding, generation = (len(open_expert(name).blocks) for name in ("scenes-vlm", "scenes-dit"))
    plans = [lay_out(name, understanding, generation) for name in ORDER]
    write_atomically(results / "layouts.png", lambda path: architectures(plans).savefig(path, format="png", dpi=90))
