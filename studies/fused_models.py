"""The main job, end to end: measure two experts, choose bridges, fuse, score against controls, probe again.

Each step takes a folder, leaves its result there and, run again, goes on from what is there. `python -m bridgework
demo` and `python -m bridgework reproduce` run the same steps with different budgets.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.stats import t as student
from sklearn.feature_extraction.text import CountVectorizer

from ..models.costs.step_costs import costs
from ..models.evaluation.scores import draw_scenes, scene_score
from ..models.experts import shipped_architectures as small
from ..models.experts.opening import Expert, open_expert
from ..models.fusion.fused_model import FusedModel
from ..models.fusion.fused_subject import fused_subject
from ..models.scenes.scene import scene_stimuli
from ..models.training.recipe import Recipe, build
from ..models.training.train_model import train
from ..probes.curves.curve import alignment_curve, divergence, rises, rises_then_falls
from ..probes.extraction.extracting import extract, mismatched
from ..probes.extraction.jobs import plan
from ..probes.features.features import Features, LayerFeatures
from ..probes.files import write_whole
from ..probes.plans.choosing import BridgePlan, choose_bridges
from ..probes.similarity.scoring import chance, similarity, similarity_map
from ..probes.stimuli.images import to_pixels
from ..probes.stimuli.stimulus_set import Stimuli
from ..probes.subjects.subject import Subject
from . import layout_training as layouts

EXPERTS = ("scenes-vlm", "scenes-dit")
TIMESTEPS = (0.2, 0.5, 0.8)
PLAN_TIMESTEP = 0.5
PLAN_METRIC = "mutual_knn"  # pixel means and bags of words share much of any layer's CKA and little of this
METRICS = ("mutual_knn", "cka")
PLANS = ("alignment", "middle", "random", "shuffled captions")
LAYOUTS = ("H", "dense", "double fusion")
SHORT = Recipe(layout=LAYOUTS[0], parameters=160_000, steps=40, batch_size=16, validate=0)


@dataclass(frozen=True)
class Budget:
    """What a run may cost. `steps` are training steps of each fused model, `each` the images scored per skill.

    `layouts` is the recipe of the layouts that are set beside each other.
    """

    samples: int
    bridges: int
    steps: int
    seeds: int
    each: int
    layouts: Recipe = SHORT


DEMO = Budget(samples=256, bridges=4, steps=80, seeds=1, each=6)
COMMITTED = Budget(samples=512, bridges=4, steps=600, seeds=4, each=20)


# ---------------------------------------------------------------------------------------------------- measuring


def measure(folder: Path, budget: Budget) -> None:
    """Curves of both experts with their controls, the layer map, the shapes and the bridge plan, on the evidence split.

    Writes curves.parquet, map.csv, plan.json and shapes.json.
    """
    if (folder / "plan.json").exists():
        return
    stimuli = scene_stimuli("evidence", budget.samples)
    features: dict[str, Features] = {}
    curves = []
    for name in EXPERTS:
        for twin in (False, True):
            expert = open_expert(name, random_weights=twin)
            times = TIMESTEPS if expert.timed_tasks else ()
            seen = features[expert.name] = cached(folder, expert, stimuli, timesteps=times)
            control = "random weights" if twin else "none"
            curves += [_curve(seen["image"], seen["text"], metric, control, name) for metric in METRICS]
        expert, seen = open_expert(name), features[name]
        unrelated = _permuted(seen["text"])
        curves += [_curve(seen["image"], unrelated, metric, "mismatched captions", name) for metric in METRICS]
        curves += [_pixels_and_words(stimuli, seen["image"], metric) for metric in METRICS]
        times = (PLAN_TIMESTEP,) if expert.timed_tasks else ()
        for control, shown in (("none", stimuli), ("mismatched captions", mismatched(stimuli))):
            both = cached(folder, expert, shown, timesteps=times, joint=True)
            curves.append(_curve(both["image"], both["text"], "mutual_knn", control, name))
    everything = pd.concat(curves, ignore_index=True)
    write_whole(folder / "curves.parquet", everything.to_parquet)
    write_whole(folder / "shapes.json", lambda path: path.write_text(json.dumps(shapes(everything), indent=2)))

    heat = similarity_map(
        features[EXPERTS[0]]["text"], features[EXPERTS[1]]["image"].at(PLAN_TIMESTEP), metric=PLAN_METRIC
    )
    write_whole(folder / "map.csv", heat.to_csv)
    write_whole(folder / "map.json", lambda path: path.write_text(json.dumps(heat.attrs)))
    choose_bridges(heat, rule="alignment", bridges=budget.bridges).save(folder / "plan.json")


def read_map(folder: Path) -> pd.DataFrame:
    """The layer map as `similarity_map` returned it."""
    heat = pd.read_csv(folder / "map.csv", index_col=0, dtype={0: str})
    heat.columns.name = "generation layer"
    heat.attrs = json.loads((folder / "map.json").read_text())
    return heat


def cached(folder: Path, subject: Expert | Subject, stimuli: Stimuli, **options: Any) -> Features:
    """`extract` into a store of its own for the same weights, stimuli, options and versions; goes on with one begun."""
    made = json.dumps(plan(subject, stimuli, **options).made, sort_keys=True)
    store = folder / "features" / hashlib.sha256(made.encode()).hexdigest()[:16]
    return extract(subject, stimuli, store=store, **options)


def _curve(image: LayerFeatures, text: LayerFeatures, metric: str, control: str, subject: str) -> pd.DataFrame:
    return alignment_curve(image, text, metric=metric).assign(control=control, subject=subject)


def _permuted(features: LayerFeatures) -> LayerFeatures:
    """The features with every sample's replaced by another's, as `mismatched` does to captions."""
    circle = np.random.default_rng(0).permutation(len(features.samples))
    order = np.empty_like(circle)
    order[circle] = np.roll(circle, 1)
    return replace(features, values=features.values[..., torch.from_numpy(order), :])


def _pixels_and_words(stimuli: Stimuli, like: LayerFeatures, metric: str) -> pd.DataFrame:
    """What needs no model: the mean over patches of the pixels (sample, 48) and the bag of words of the caption."""
    patches = to_pixels([s.image for s in stimuli], 32).unfold(2, 4, 4).unfold(3, 4, 4)  # (sample, 3, 8, 8, 4, 4)
    counts: Any = CountVectorizer(token_pattern=r"\S+").fit_transform([s.text for s in stimuli])
    words = counts.toarray().astype(float)  # (sample, word)
    score = similarity(patches.mean((2, 3)).flatten(1).double(), words, metric=metric)
    row = {"subject": like.subject, "task": like.task, "pass": like.pass_, "pooling": like.pooling, "layer": "pixels"}
    row |= {"depth": 0.0, "metric": metric, "samples": len(stimuli), "score": score, "low": score, "high": score}
    row |= {"chance": chance(metric, 10, len(stimuli)), "control": "pixel mean x bag of words"}
    return pd.DataFrame([row]).assign(k=pd.array([10 if metric == "mutual_knn" else None], dtype="Int64"))


def shapes(curves: pd.DataFrame) -> dict[str, Any]:
    """The two published shapes, tested on each curve and its controls, and the divergence depth of the experts."""
    found: dict[str, Any] = {}
    lines = curves[curves["layer"] != "pixels"].groupby(
        ["subject", "pass", "metric", "control", "timestep"], dropna=False, sort=False
    )
    for keys, line in lines:
        test = rises if line["task"].iloc[0] == "understanding" else rises_then_falls
        shape = test(line)
        label = " | ".join(str(key) for key in keys if not (isinstance(key, float) and np.isnan(key)))
        found[label] = {"claim": test.__name__.replace("_", " "), "holds": bool(shape.holds)} | {
            name: list(interval) for name, interval in shape.intervals.items()
        }
    plain = curves[(curves["control"] == "none") & (curves["pass"] == "separate")]
    for metric in METRICS:
        of = plain[plain["metric"] == metric]
        ours, theirs = of[of["subject"] == EXPERTS[0]], of[of["subject"] == EXPERTS[1]]
        for time in TIMESTEPS:
            found[f"divergence | {metric} | {time}"] = asdict(divergence(ours, theirs[theirs["timestep"] == time]))
    return found


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
            write_whole(run / "log.csv", pd.DataFrame(log).assign(name=name, seed=seed).to_csv)
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
            write_whole(run / "samples.csv", partial(pd.DataFrame(rows).to_csv, index=False))
    write_whole(run / "scores.csv", lambda path: pd.concat(tables).to_csv(path, index=False))


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
    write_whole(folder / "gap.csv", lambda path: table.to_csv(path, index=False))
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
    write_whole(folder / "fused.parquet", pd.concat(curves, ignore_index=True).to_parquet)


# ---------------------------------------------------------------------------------------------------- layouts


def compare_layouts(folder: Path, budget: Budget) -> None:
    """H, dense and double fusion as published, with one recipe and as many trained parameters.

    Writes layouts.csv (see `layouts.compare`), layout_costs.csv (see `costs`), layout_learning.csv (step, loss, name)
    and the plans, layouts/LAYOUT/plan.json.
    """
    recipe = budget.layouts
    layouts.compare(recipe, folder / "layouts", folder / "layouts.csv", LAYOUTS, batches=4)
    if (folder / "layout_costs.csv").exists():
        return
    batch = small.dit_batch(0, 0, size=recipe.batch_size)
    rows = [costs(build(replace(recipe, layout=layout)), batch, rounds=1) for layout in LAYOUTS]
    logs = []
    for layout in LAYOUTS:
        lines = (layout_folder(folder, layout) / "state" / "log.jsonl").read_text().splitlines()
        logs.append(pd.DataFrame([json.loads(line) for line in lines]).assign(name=layout))
    write_whole(folder / "layout_learning.csv", partial(pd.concat(logs).to_csv, index=False))
    write_whole(folder / "layout_costs.csv", partial(pd.DataFrame(rows).to_csv, index=False))


def layout_folder(folder: Path, layout: str) -> Path:
    return folder / "layouts" / layout.replace(" ", "-")
