"""Measure the curves of both experts with their controls, the layer map, the shapes and the bridge plan."""

from __future__ import annotations

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
from ..probes.file_formats import read_json, with_format
from ..probes.files import write_csv, write_json, write_parquet
from ..probes.plans.choosing import choose_bridges
from ..probes.similarity.calibration import chance, used_k
from ..probes.similarity.scoring import similarity, similarity_map
from ..probes.stimuli.controls import mismatched
from ..probes.stimuli.images import to_pixels
from ..probes.stimuli.stimulus_set import Stimuli
from .settings import EXPERTS, METRICS, PLAN_METRIC, PLAN_TIMESTEP, TIMESTEPS, Budget


def measure(folder: Path, budget: Budget) -> None:
    """Measure the curves of both experts with their controls, the layer map, the shapes and the bridge plan.

    All of it is measured on the evidence split of the scenes. Writes curves.parquet, shapes.json, map.csv, map.json and
    plan.json. A folder that has its plan is left as it is.

    Parameters
    ----------
    folder : path
        The folder of the run.
    budget : Budget
        The number of scenes and of bridges.
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
            own = features[expert.name] = extract_cached(folder, expert, stimuli, timesteps=times)
            control = "random weights" if twin else "none"
            curves += [_curve(own["image"], own["text"], metric, control, name) for metric in METRICS]
        expert, own = open_expert(name), features[name]
        unrelated = _permuted(own["text"])
        curves += [_curve(own["image"], unrelated, metric, "mismatched captions", name) for metric in METRICS]
        curves += [_pixels_and_words(stimuli, own["image"], metric) for metric in METRICS]
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
    write_json(folder / "map.json", with_format("layer map", heat.attrs))
    choose_bridges(heat, rule="alignment", bridges=budget.bridges).save(folder / "plan.json")


def read_map(folder: Path) -> pd.DataFrame:
    """Read the layer map of a run, as `similarity_map` returned it.

    Parameters
    ----------
    folder : path
        A folder with map.csv and map.json.

    Returns
    -------
    DataFrame
        The layer map (understanding layer, generation layer) with its attrs.

    See Also
    --------
    similarity_map : Measures such a map from features of your own.

    Examples
    --------
    >>> heat = read_map(RESULTS)
    """
    heat = pd.read_csv(folder / "map.csv", index_col=0, dtype={0: str})
    heat.columns.name = "generation layer"
    heat.attrs = read_json("layer map", folder / "map.json")
    return heat


def _curve(image: LayerFeatures, text: LayerFeatures, metric: str, control: str, subject: str) -> pd.DataFrame:
    return alignment_curve(image, text, metric=metric).assign(control=control, subject=subject)


def _permuted(features: LayerFeatures) -> LayerFeatures:
    """Replace the features of every sample by those of another, as `mismatched` does to captions."""
    circle = np.random.default_rng(0).permutation(len(features.samples))
    order = np.empty_like(circle)
    order[circle] = np.roll(circle, 1)
    return replace(features, values=features.values[..., torch.from_numpy(order), :])


def _pixels_and_words(stimuli: Stimuli, like: LayerFeatures, metric: str) -> pd.DataFrame:
    """Compare what needs no model: the mean over patches of the pixels (sample, 48) with the caption's bag of words."""
    patches = to_pixels([s.image for s in stimuli], 32).unfold(2, 4, 4).unfold(3, 4, 4)  # (sample, 3, 8, 8, 4, 4)
    counts: Any = CountVectorizer(token_pattern=r"\S+").fit_transform([s.text for s in stimuli])
    words = counts.toarray().astype(float)  # (sample, word)
    score = similarity(patches.mean((2, 3)).flatten(1).double(), words, metric=metric)
    row = {"subject": like.subject, "task": like.task, "pass": like.pass_, "pooling": like.pooling, "layer": "pixels"}
    row |= {"depth": 0.0, "metric": metric, "samples": len(stimuli), "score": score, "low": score, "high": score}
    row |= {"chance": chance(metric, 10, len(stimuli)), "control": "pixel mean x bag of words"}
    return pd.DataFrame([row]).assign(k=pd.array([used_k(metric, 10)], dtype="Int64"))


def shapes(curves: pd.DataFrame) -> dict[str, Any]:
    """Test the two published shapes on each curve and its controls, and find the divergence depth of the experts.

    Parameters
    ----------
    curves : DataFrame
        The curves of `measure`.

    Returns
    -------
    dict
        By curve ("subject | pass | metric | control | timestep"): claim, holds, and the tested intervals; by
        "divergence | metric | timestep": the fields of the divergence. Plain JSON.
    """
    found: dict[str, Any] = {}
    lines = curves[curves["layer"] != "pixels"].groupby(
        ["subject", "pass", "metric", "control", "timestep"], dropna=False, sort=False
    )
    for keys, line in lines:
        test = rises if line["task"].iloc[0] == "understanding" else rises_then_falls
        verdict = test(line)
        label = " | ".join(str(key) for key in keys if not (isinstance(key, float) and np.isnan(key)))
        found[label] = {"claim": test.__name__.replace("_", " "), "holds": bool(verdict.holds)} | {
            name: list(interval) for name, interval in verdict.intervals.items()
        }
    plain = curves[(curves["control"] == "none") & (curves["pass"] == "separate")]
    for metric in METRICS:
        scored = plain[plain["metric"] == metric]
        understanding, generation = (scored[scored["subject"] == name] for name in EXPERTS)
        for time in TIMESTEPS:
            apart = divergence(understanding, generation[generation["timestep"] == time])
            found[f"divergence | {metric} | {time}"] = asdict(apart)
    return found
