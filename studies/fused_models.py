"""The main job, end to end: measure two experts, choose bridges, fuse, score against controls, probe again.

Each step takes a folder, leaves its result there and, run again, goes on from what is there. `python -m bridgework
demo` and `python -m bridgework reproduce` run the same steps with different budgets.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.stats import t as student

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
from .alignment_curves import read_map
from .settings import EXPERTS, PLAN_TIMESTEP, PLANS, Budget

# ---------------------------------------------------------------------------------------------------- measuring


# ---------------------------------------------------------------------------------------------------- fusing


def plan_for(folder: Path, name: str, seed: int) -> BridgePlan:
    """The plan of one condition; "shuffled captions" has the alignment plan. Random plans differ from seed to seed."""
    chosen = BridgePlan.load(folder / "plan.json")
    if name in ("alignment", "shuffled captions"):
        return chosen
    return choose_bridges(read_map(folder), rule=name, bridges=len(chosen.pairs), seed=seed)


def fuse(folder: Path, budget: Budget, plans: Sequence[str] = PLANS, seeds: Sequence[int] | None = None) -> None:
    """Train one fused model for every plan and seed, and score it; writes fused/PLAN-SEED/{bridges,plan,scores}."""
    for seed in range(budget.seeds) if seeds is None else seeds:
        for name in plans:
            run = fused_folder(folder, name, seed)
            if (run / "scores.csv").exists():
                continue
            torch.manual_seed(seed)
            fused = FusedModel(*(open_expert(e) for e in EXPERTS), plan_for(folder, name, seed))  # type: ignore[arg-type]
            log = train(fused, run, budget.steps, seed=seed, shuffled=name == "shuffled captions")
            write_csv(run / "log.csv", pd.DataFrame(log).assign(name=name, seed=seed), index=True)
            save_score(run, fused, budget)


def fused_folder(folder: Path, name: str, seed: int) -> Path:
    return folder / "fused" / f"{name.replace(' ', '-')}-{seed}"


def save_score(run: Path, model: Any, budget: Budget) -> None:
    """Score a generator on new scenes and on new combinations: scores.csv, and the first images in samples/."""
    tables = []
    for part in ("test", "new"):
        drawn = draw_scenes(model, part, budget.each)
        tables.append(scene_score(drawn).assign(part=part))
        if part == "test":
            shown = drawn[:: max(1, budget.each // 4)][:24]
            (run / "samples").mkdir(parents=True, exist_ok=True)
            for number, each in enumerate(shown):
                each.image.save(run / "samples" / f"{number:02d}.png")
            rows = [{"skill": d.skill, "caption": d.caption, "correct": d.correct} for d in shown]
            write_csv(run / "samples.csv", pd.DataFrame(rows))
    write_csv(run / "scores.csv", pd.concat(tables))


def gap(folder: Path, budget: Budget) -> pd.DataFrame:
    """Scores of every plan and seed on new scenes as the share of the gap between floor and ceiling that they close.

    Floor: the mean of the models trained with shuffled captions. Ceiling: the generation expert with its own text
    route. Columns: plan, seed, score, share, floor, ceiling, steps, each, pairs.
    """
    ceiling = folder / "fused" / "ceiling"
    if not (ceiling / "scores.csv").exists():
        save_score(ceiling, open_expert(EXPERTS[1]), budget)

    def total(run: Path) -> float:
        scores = pd.read_csv(run / "scores.csv")
        return float(scores[(scores["skill"] == "all") & (scores["part"] == "test")]["score"].iloc[0])

    seeds = range(budget.seeds)
    floor = float(np.mean([total(fused_folder(folder, PLANS[-1], seed)) for seed in seeds]))
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
    """The share of the gap that each plan closes: share (mean over seeds), low, high (Student, 95 %), seeds."""
    shares = table.groupby("plan", sort=False)["share"]
    mean, error, seeds = shares.mean(), shares.sem(), shares.size()
    reach = error * student.ppf(0.975, (seeds - 1).clip(lower=1))
    return pd.DataFrame({"share": mean, "low": mean - reach, "high": mean + reach, "seeds": seeds})


def probe_again(folder: Path, budget: Budget) -> None:
    """Curves of the fused model on both tasks, before and after training, on the test split: fused.parquet."""
    if (folder / "fused.parquet").exists():
        return
    stimuli = scene_stimuli("test", budget.samples)
    experts = [open_expert(e) for e in EXPERTS]
    run = fused_folder(folder, "alignment", 0)
    torch.manual_seed(0)
    models = {
        "before": FusedModel(*experts, BridgePlan.load(run / "plan.json")),  # type: ignore[arg-type]
        "after": FusedModel.load(run, *experts),  # type: ignore[arg-type]
    }
    curves = []
    for when, fused in models.items():
        for task, times in (("understanding", ()), ("generation", (PLAN_TIMESTEP,))):
            seen = extract(fused_subject(fused, task), stimuli, task=task, timesteps=times)
            curves.append(alignment_curve(seen["image"], seen["text"]).assign(when=when))
    write_parquet(folder / "fused.parquet", pd.concat(curves, ignore_index=True))


# ---------------------------------------------------------------------------------------------------- layouts
