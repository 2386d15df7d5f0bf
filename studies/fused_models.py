"""Fuse two experts with the bridges of every plan, score the models against controls, and probe one again.

Each step takes a folder and leaves its result there. When it is run again, it continues with what is there.
`bridgework reproduce scenes` runs them, and the demo the last of them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from ..models.evaluation.scores import draw_scenes, scene_score
from ..models.experts.opening import open_expert
from ..models.fusion.fused_model import FusedModel
from ..models.fusion.probe_subject import fused_subject
from ..models.scenes.composing import scene_stimuli
from ..models.training.train_model import train
from ..probes.curves.curve import alignment_curve
from ..probes.extraction.extracting import extract
from ..probes.files import write_csv, write_parquet
from ..probes.plans.bridge_plan import BridgePlan
from ..probes.plans.choosing import choose_bridges
from ..probes.similarity.intervals import mean_interval
from .alignment_curves import read_map
from .settings import EXPERTS, FLOOR, PLAN_TIMESTEP, PLANS, Budget


def plan_for(folder: Path, name: str, seed: int) -> BridgePlan:
    """Return the bridge plan of one condition of the study.

    Parameters
    ----------
    folder : path
        The folder of the run, with its layer map and the alignment plan.
    name : str
        One of `PLANS`. The floor has the alignment plan.
    seed : int
        The seed. Random plans differ from seed to seed, the others do not.

    Returns
    -------
    BridgePlan
        A plan with as many bridges as the alignment plan.
    """
    chosen = BridgePlan.load(folder / "plan.json")
    if name in ("alignment", FLOOR):
        return chosen
    return choose_bridges(read_map(folder), rule=name, bridges=len(chosen.pairs), seed=seed)


def fuse(folder: Path, budget: Budget, plans: Sequence[str] = PLANS, seeds: Sequence[int] | None = None) -> None:
    """Train one fused model for every plan and seed, and score it, each in a folder fused/PLAN-SEED.

    Parameters
    ----------
    folder : path
        The folder of the run. A model that has its scores there is not trained again.
    budget : Budget
        The steps, seeds and images.
    plans : sequence of str
        Names of `PLANS`.
    seeds : sequence of int, optional
        The seeds, by default all of the budget.
    """
    for seed in range(budget.seeds) if seeds is None else seeds:
        for name in plans:
            run = fused_folder(folder, name, seed)
            if (run / "scores.csv").exists():
                continue
            torch.manual_seed(seed)
            fused = FusedModel(*(open_expert(e) for e in EXPERTS), plan_for(folder, name, seed))  # type: ignore[arg-type]
            options = {"seed": seed, "shuffled": name == FLOOR, "batch_size": budget.batch_size}
            log = train(fused, run, budget.steps, **options)
            write_csv(run / "log.csv", pd.DataFrame(log).assign(name=name, seed=seed), index=True)
            save_score(run, fused, budget)


def fused_folder(folder: Path, name: str, seed: int) -> Path:
    """Return the folder of the fused model of one plan and seed.

    Parameters
    ----------
    folder : path
        The folder of the run.
    name : str
        One of `PLANS`.
    seed : int
        The seed.

    Returns
    -------
    path
        The folder, which may not exist yet.
    """
    return folder / "fused" / f"{name.replace(' ', '-')}-{seed}"


def save_score(run: Path, model: Any, budget: Budget) -> None:
    """Score a generator on new scenes and on new combinations, and write scores.csv, samples.csv and samples/.

    Parameters
    ----------
    run : path
        The folder to write.
    model : Generator
        A generation expert or a fused model.
    budget : Budget
        The images of every skill.
    """
    tables = []
    for part in ("test", "new"):
        drawn = draw_scenes(model, part, budget.each, steps=budget.sampling_steps)
        tables.append(scene_score(drawn).assign(part=part))
        if part == "test":
            shown = drawn[:: max(1, budget.each // 4)][:24]
            (run / "samples").mkdir(parents=True, exist_ok=True)
            for number, drawing in enumerate(shown):
                drawing.image.save(run / "samples" / f"{number:02d}.png")
            rows = [{"skill": d.skill, "caption": d.caption, "correct": d.correct} for d in shown]
            write_csv(run / "samples.csv", pd.DataFrame(rows))
    write_csv(run / "scores.csv", pd.concat(tables))


def gap(folder: Path, budget: Budget) -> pd.DataFrame:
    """Express the scores of every plan and seed as the share of the gap between floor and ceiling that they close.

    The floor is the mean of the models trained with shuffled captions. The ceiling is the generation expert with its
    own text route. Scores are those on new scenes, over all skills.

    Parameters
    ----------
    folder : path
        The folder of the run. The table is written there, gap.csv.
    budget : Budget
        The budget of the run.

    Returns
    -------
    DataFrame
        One row per plan and seed: plan, seed, score, pairs (JSON), floor, ceiling, steps, each, share.
    """
    ceiling = folder / "fused" / "ceiling"
    if not (ceiling / "scores.csv").exists():
        save_score(ceiling, open_expert(EXPERTS[1]), budget)

    def total(run: Path) -> float:
        scores = pd.read_csv(run / "scores.csv")
        return float(scores[(scores["skill"] == "all") & (scores["part"] == "test")]["score"].iloc[0])

    seeds = range(budget.seeds)
    floor = float(np.mean([total(fused_folder(folder, FLOOR, seed)) for seed in seeds]))
    top = total(ceiling)
    rows = []
    for name in PLANS:
        for seed in seeds:
            run = fused_folder(folder, name, seed)
            pairs = json.dumps(BridgePlan.load(run / "plan.json").pairs)
            rows.append({"plan": name, "seed": seed, "score": total(run), "pairs": pairs})
    table = pd.DataFrame(rows).assign(floor=floor, ceiling=top, steps=budget.steps, each=budget.each)
    table["share"] = (table["score"] - floor) / (top - floor)
    write_csv(folder / "gap.csv", table)
    return table


def summarise(table: pd.DataFrame) -> pd.DataFrame:
    """Summarise over seeds the share of the gap that each plan closes.

    Parameters
    ----------
    table : DataFrame
        The table of `gap`.

    Returns
    -------
    DataFrame
        By plan, in the order of `PLANS`: share (the mean), low, high (95 %, Student's t; NaN for one seed), seeds.
    """
    shares = {name: rows["share"].to_numpy() for name, rows in table.groupby("plan", sort=False)}
    order = sorted(shares, key=lambda name: PLANS.index(name) if name in PLANS else len(PLANS))
    rows = [(*map(float, mean_interval(shares[name])), len(shares[name])) for name in order]
    return pd.DataFrame(rows, index=pd.Index(order, name="plan"), columns=["share", "low", "high", "seeds"])


def probe_again(folder: Path, budget: Budget) -> None:
    """Measure the curves of a fused model on both tasks, before and after training, on the test split: fused.parquet.

    Parameters
    ----------
    folder : path
        The folder of the run. The model is the one with the alignment plan and seed 0.
    budget : Budget
        The number of scenes.
    """
    if (folder / "fused.parquet").exists():
        return
    experts = [open_expert(e) for e in EXPERTS]
    run = fused_folder(folder, "alignment", 0)
    torch.manual_seed(0)
    models = {
        "before": FusedModel(*experts, BridgePlan.load(run / "plan.json")),  # type: ignore[arg-type]
        "after": FusedModel.load(run, *experts),  # type: ignore[arg-type]
    }
    probe_models(folder, budget, models)


def probe_models(folder: Path, budget: Budget, models: Mapping[str, FusedModel]) -> None:
    """Measure the curves of fused models on both tasks, on the test split: fused.parquet.

    Parameters
    ----------
    folder : path
        The folder of the run.
    budget : Budget
        The number of scenes.
    models : mapping of str to FusedModel
        The models. Their names become the column `when`.
    """
    stimuli = scene_stimuli("test", budget.samples)
    curves = []
    for when, fused in models.items():
        for task, times in (("understanding", ()), ("generation", (PLAN_TIMESTEP,))):
            features = extract(fused_subject(fused, task), stimuli, task=task, timesteps=times)
            curves.append(alignment_curve(features["image"], features["text"]).assign(when=when))
    write_parquet(folder / "fused.parquet", pd.concat(curves, ignore_index=True))
