"""Measure the curves of both experts with their controls, the layer map, the shapes and the bridge plan."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.feature_extraction.text import CountVectorizer

from ..models.experts.opening import open_expert
from ..models.scenes.composing import scene_stimuli
from ..probes.curves.curve import alignment_curve
from ..probes.curves.divergence_depth import divergence
from ..probes.curves.shapes import rises, rises_then_falls
from ..probes.extraction.extracting import extract_cached
from ..probes.features.features import Features
from ..probes.features.layer_features import LayerFeatures
from ..probes.files import write_csv, write_json, write_parquet
from ..probes.plans.choosing import choose_bridges
from ..probes.similarity.scoring import chance, similarity, similarity_map
from ..probes.stimuli.controls import mismatched
from ..probes.stimuli.images import to_pixels
from ..probes.stimuli.stimulus_set import Stimuli
from .settings import EXPERTS, METRICS, PLAN_METRIC, PLAN_TIMESTEP, TIMESTEPS, Budget


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
            seen = features[expert.name] = extract_cached(folder, expert, stimuli, timesteps=times)
            control = "random weights" if twin else "none"
            curves += [_curve(seen["image"], seen["text"], metric, control, name) for metric in METRICS]
        expert, seen = open_expert(name), features[name]
        unrelated = _permuted(seen["text"])
        curves += [_curve(seen["image"], unrelated, metric, "mismatched captions", name) for metric in METRICS]
        curves += [_pixels_and_words(stimuli, seen["image"], metric) for metric in METRICS]
        times = (PLAN_TIMESTEP,) if expert.timed_tasks else ()
        for control, shown in (("none", stimuli), ("mismatched captions", mismatched(stimuli))):
            both = extract_cached(folder, expert, shown, timesteps=times, joint=True)
            curves.append(_curve(both["image"], both["text"], "mutual_knn", control, name))
    everything = pd.concat(curves, ignore_index=True)
    write_parquet(folder / "curves.parquet", everything)
    write_json(folder / "shapes.json", shapes(everything))

    heat = similarity_map(
        features[EXPERTS[0]]["text"], features[EXPERTS[1]]["image"].at(PLAN_TIMESTEP), metric=PLAN_METRIC
    )
    write_csv(folder / "map.csv", heat, index=True)
    write_json(folder / "map.json", heat.attrs)
    choose_bridges(heat, rule="alignment", bridges=budget.bridges).save(folder / "plan.json")


def read_map(folder: Path) -> pd.DataFrame:
    """The layer map as `similarity_map` returned it."""
    heat = pd.read_csv(folder / "map.csv", index_col=0, dtype={0: str})
    heat.columns.name = "generation layer"
    heat.attrs = json.loads((folder / "map.json").read_text())
    return heat


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
