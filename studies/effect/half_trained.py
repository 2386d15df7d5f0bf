"""Train bridges half-way, and train them on: within minutes the demo shows what training brings.

`bridgework reproduce half-trained` writes the bridges that are shipped, `bridgework demo` starts from them.
"""

from __future__ import annotations

import subprocess
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from ...models.evaluation.scores import draw_scenes, scene_score
from ...models.experts.opening import open_expert
from ...models.fusion.fused_model import FusedModel
from ...models.fusion.saved_model import save_model
from ...models.training.batches import batch_source
from ...models.training.loop import Log
from ...models.training.train_model import train
from ...models.training.validation import validation_loss
from ...probes.files import write_csv, write_json
from ...probes.plans.bridge_plan import BridgePlan
from ...probes.similarity.intervals import mean_interval
from ..fused_models import probe_models
from ..settings import COMMITTED, EXPERTS, HALF_TRAINED, RESULTS, Budget

HALF_STEPS = 241  # the log has a line every ten steps, and the run is left at one
SEED, NEXT_SEED = 0, 1  # of the batches of the first part, and of what the demo adds: no batch comes twice
CEILING, CLOSED, BEFORE, AFTER = "own text route", "bridges closed", "half-trained", "trained on"
CONDITIONS = (CLOSED, BEFORE, AFTER, CEILING)


class _HalfWay(Exception):
    """Leave a run at a line of its log."""


def train_half(folder: Path) -> None:
    """Train the bridges of the committed alignment plan for the first steps of the committed run, and write them.

    The run is left while its learning rate is still high, so that training on still moves the model. It writes
    bridges.safetensors (float16), plan.json and training.json: seed, steps, batches, their digest, code, and the log.

    Parameters
    ----------
    folder : Path
        The folder that the three files are written to. The run, which can be resumed, is kept beside it, in FOLDER_run.
    """
    if (folder / "training.json").exists():
        return
    torch.manual_seed(SEED)
    fused = FusedModel(*(open_expert(e) for e in EXPERTS), BridgePlan.load(RESULTS / "plan.json"))  # type: ignore[arg-type]
    log: Log = []

    def leave(lines: Log) -> None:
        log[:] = lines
        if lines[-1]["step"] + 1 >= HALF_STEPS:
            raise _HalfWay

    run = folder.with_name(f"{folder.name}_run")
    try:
        train(fused, run, COMMITTED.steps, seed=SEED, batch_size=COMMITTED.batch_size, on_log=leave)
    except _HalfWay:
        fused.eval()
    state = {name: p.half() for name, p in fused.trained().named_parameters() if p.requires_grad}
    save_model(folder, state, fused.plan, fused.described_experts(), ["bridges", 0, log[-1]["step"] + 1])
    write_json(
        folder / "training.json",
        {
            "plan": "alignment", "seed": SEED, "steps": log[-1]["step"] + 1, "of_steps": COMMITTED.steps,
            "batch_size": COMMITTED.batch_size, "data": "scenes", "batches_sha256": batches_digest(),
            "commit": _commit(), "losses": half_trained_losses(folder), "log": log,
        },
    )  # fmt: skip


def batches_digest() -> str:
    """Return the SHA-256 of the first and the last batch that the shipped bridges were trained on."""
    draw, digest = batch_source((3, 32, 32), None, SEED, COMMITTED.batch_size, shuffled=False), sha256()
    for step in (0, HALF_STEPS - 1):
        batch = draw(step)
        digest.update("\n".join(batch["caption"]).encode())
        for name in ("image", "time", "noise"):
            digest.update(batch[name].numpy().tobytes())
    return digest.hexdigest()


def half_trained_losses(folder: Path) -> dict[str, float]:
    """Return the mean loss of held-out scenes with the bridges of a folder, and with the same bridges closed."""
    models = {CLOSED: open_closed(folder), BEFORE: open_half_trained(folder)}
    return {name: float(np.mean(validation_loss(model, COMMITTED.batches))) for name, model in models.items()}


def open_half_trained(folder: Path = HALF_TRAINED) -> FusedModel:
    """Open the shipped experts with half-trained bridges between them.

    Parameters
    ----------
    folder : Path, optional
        A folder that `train_half` wrote; the shipped one by default.

    Returns
    -------
    FusedModel
        The model.
    """
    return FusedModel.load(folder, *(open_expert(e) for e in EXPERTS))  # type: ignore[arg-type]


def open_closed(folder: Path = HALF_TRAINED) -> FusedModel:
    """Open the same model with new bridges, whose gates are closed: it draws without any text."""
    return FusedModel(*(open_expert(e) for e in EXPERTS), BridgePlan.load(folder / "plan.json"))  # type: ignore[arg-type]


def measure_ends(folder: Path, budget: Budget) -> None:
    """Measure the floor, the model with closed bridges, and the ceiling, the generation expert's own text route.

    Parameters
    ----------
    folder : Path
        The folder of the run. Each leaves losses.csv, scores.csv, samples.csv and samples/ in effect/NAME.
    budget : Budget
        The images of every skill, and the sampling steps.
    """
    measure_condition(folder, CLOSED, budget, open_closed)
    measure_condition(folder, CEILING, budget, lambda: open_expert(EXPERTS[1]))


def measure_before(folder: Path, budget: Budget) -> None:
    """Measure the shipped bridges as they are, as `measure_ends` does."""
    measure_condition(folder, BEFORE, budget, open_half_trained)


def train_on(folder: Path, budget: Budget) -> None:
    """Train the shipped bridges on with new scenes, and write learning.csv.

    Parameters
    ----------
    folder : Path
        The folder of the run. The model is left in fused/alignment-0.
    budget : Budget
        The steps and the scenes of a step.
    """
    run = trained_folder(folder)
    if (folder / "learning.csv").exists():
        return
    fused = open_half_trained()
    began = fused.steps
    log = train(fused, run, budget.steps, seed=NEXT_SEED, batch_size=budget.batch_size, validate=budget.batches)
    fused.steps = began + budget.steps
    fused.save(run)
    write_csv(folder / "learning.csv", pd.DataFrame(log).assign(step=lambda table: table["step"] + began))


def measure_after(folder: Path, budget: Budget) -> None:
    """Measure the bridges that were trained on, as `measure_ends` does."""
    measure_condition(folder, AFTER, budget, lambda: open_trained(folder))


def probe_trained(folder: Path, budget: Budget) -> None:
    """Measure the curves of the model before and after it is trained on: fused.parquet (see `probe_models`).

    Parameters
    ----------
    folder : Path
        The folder of the run.
    budget : Budget
        The number of scenes.
    """
    if not (folder / "fused.parquet").exists():
        probe_models(folder, budget, {"before": open_half_trained(), "after": open_trained(folder)})


def open_trained(folder: Path) -> FusedModel:
    """Open the model that was trained on, from the folder of a run."""
    return FusedModel.load(trained_folder(folder), *(open_expert(e) for e in EXPERTS))  # type: ignore[arg-type]


def trained_folder(folder: Path) -> Path:
    """Return the folder of the model that is trained on, below the folder of a run."""
    return folder / "fused" / "alignment-0"


def condition_folder(folder: Path, name: str) -> Path:
    """Return the folder of one of `CONDITIONS`, below the folder of a run."""
    return folder / "effect" / name.replace(" ", "-")


def measure_condition(folder: Path, name: str, budget: Budget, opened: Any) -> None:
    """Measure the loss of held-out scenes, and score drawings of new scenes: the same scenes and noise for every model.

    Parameters
    ----------
    folder : Path
        The folder of the run.
    name : str
        One of `CONDITIONS`. What is there is not measured again.
    budget : Budget
        The images of every skill, and the sampling steps.
    opened : callable
        Returns the model.
    """
    out = condition_folder(folder, name)
    if (out / "scores.csv").exists():
        return
    model = opened()
    losses = validation_loss(model, budget.batches)
    drawn = draw_scenes(model, "test", budget.each, steps=budget.sampling_steps)
    (out / "samples").mkdir(parents=True, exist_ok=True)
    shown = drawn[:: max(1, budget.each // 2)][:12]
    for number, drawing in enumerate(shown):
        drawing.image.save(out / "samples" / f"{number:02d}.png")
    rows = [{"skill": d.skill, "caption": d.caption, "correct": d.correct} for d in shown]
    write_csv(out / "samples.csv", pd.DataFrame(rows))
    write_csv(out / "losses.csv", pd.DataFrame({"batch": range(len(losses)), "loss": losses}))
    write_csv(out / "scores.csv", scene_score(drawn))


def effect_table(folder: Path) -> pd.DataFrame:
    """Gather what `measure_ends`, `measure_before` and `measure_after` measured, and write effect.csv.

    Parameters
    ----------
    folder : Path
        The folder of the run.

    Returns
    -------
    DataFrame
        One row for each of `CONDITIONS`: model; score, low, high (95 %, Wilson) and images, of new scenes; share, of
        the gap of the scores between closed bridges (0) and the own text route (1); loss, of held-out scenes;
        gained, gained_low, gained_high, how much lower the loss is than with closed bridges (95 %, Student, paired by
        batch); scenes, the number of held-out ones.
    """
    scores = {name: pd.read_csv(condition_folder(folder, name) / "scores.csv") for name in CONDITIONS}
    losses = {name: pd.read_csv(condition_folder(folder, name) / "losses.csv")["loss"] for name in CONDITIONS}
    rows = []
    for name in CONDITIONS:
        total = scores[name].set_index("skill").loc["all"]
        row = {"model": name, "score": total["score"], "low": total["low"], "high": total["high"]}
        gained, low, high = map(float, mean_interval((losses[CLOSED] - losses[name]).to_numpy()))
        row |= {"images": int(total["samples"]), "loss": losses[name].mean()}
        row |= {"gained": gained, "gained_low": low, "gained_high": high, "scenes": 32 * len(losses[name])}
        rows.append(row)
    table = pd.DataFrame(rows)
    floor, top = table["score"].iloc[0], table["score"].iloc[-1]
    table.insert(5, "share", (table["score"] - floor) / (top - floor) if top > floor else float("nan"))
    write_csv(folder / "effect.csv", table)
    return table


def _commit() -> str | None:
    """Return the commit of the code, or None where git does not know it."""
    try:
        found = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip()
