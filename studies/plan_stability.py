"""Measure how far the plan of the alignment rule depends on the scenes and on the metric that it is chosen from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd

from ..models.experts.opening import open_expert
from ..models.scenes.composing import scene_stimuli
from ..probes.extraction.extracting import extract_cached
from ..probes.files import write_csv
from ..probes.plans.choosing import choose_bridges
from ..probes.similarity.scoring import labelled
from ..probes.similarity.subsampled_maps import subsampled_maps
from .settings import COMMITTED, EXPERTS, METRICS, PLAN_TIMESTEP

SCENES = 1536  # all scenes that plans are chosen from
FIRST = (128, 256, COMMITTED.samples, 1024, SCENES)  # the first so many of them
DRAWS = 40  # random sets of as many scenes as the committed plan is chosen from
K = 10  # neighbours, the same for any number of scenes
FILE = "plan_stability.csv"


def measure_plan_stability(folder: Path) -> pd.DataFrame:
    """Choose the alignment plan from many sets of evidence scenes, by each metric, and write plan_stability.csv.

    What is there already is not measured again.

    Parameters
    ----------
    folder : Path
        The folder of the run; features are kept in it.

    Returns
    -------
    DataFrame
        One row for each plan: metric; scenes, "first" (the first so many) or "drawn" (at random, without replacement);
        draw, the number of the draw, 0 for "first"; samples, the number of scenes; pairs, the plan's pairs as JSON.
    """
    if (folder / FILE).exists():
        return pd.read_csv(folder / FILE)
    stimuli = scene_stimuli("evidence", SCENES)
    text = extract_cached(folder, open_expert(EXPERTS[0]), stimuli)["text"]
    image = extract_cached(folder, open_expert(EXPERTS[1]), stimuli, timesteps=(PLAN_TIMESTEP,))["image"]
    rng = np.random.default_rng(0)
    drawn = [np.sort(rng.choice(SCENES, COMMITTED.samples, replace=False)) for _ in range(DRAWS)]
    sets = [("first", 0, np.arange(count)) for count in FIRST]
    sets += [("drawn", number, scenes) for number, scenes in enumerate(drawn)]
    rows = []
    for metric in METRICS:
        maps = subsampled_maps(text, image, metric, K, [indices for _, _, indices in sets])
        for (scenes, draw, indices), scores in zip(sets, maps, strict=True):
            layer_map = labelled(scores, list(text.layers), list(image.layers), metric, K, len(indices))
            plan = choose_bridges(layer_map, rule="alignment", bridges=COMMITTED.bridges)
            row = {"metric": metric, "scenes": scenes, "draw": draw, "samples": len(indices)}
            rows.append(row | {"pairs": json.dumps(plan.pairs)})
    table = pd.DataFrame(rows)
    write_csv(folder / FILE, table)
    return table
