"""Score every bridge of a pair of experts by every rule that needs no training, from the part evidence alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ...models.evaluation.generator_gradients import descent_map
from ...models.experts.opening import open_expert
from ...probes.evidence.complementarity import complementarity_map
from ...probes.extraction.extracting import extract
from ...probes.features.features import Features
from ...probes.files import write_parquet
from ...probes.metrics import METRICS
from ...probes.plans.matching import best_pairs
from ...probes.plans.rules import RULES
from ...probes.similarity.scaled_maps import scaled_map
from ...probes.similarity.scoring import similarity_map
from ...probes.stimuli.stimulus_set import Stimuli
from ..settings import PLAN_TIMESTEP
from .caption_pool import evidence
from .testbed import BRIDGES, Pair

ALIGNMENT = ("mutual_knn", "cka", "cknna", "svcca", "rsa", "linear_probe")  # metrics of the rule alignment


def rule_maps(pair: Pair, folder: Path) -> pd.DataFrame:
    """Measure the map of every rule that reads hidden states or gradients of the two untrained experts.

    Parameters
    ----------
    pair : Pair
        The pair of experts.
    folder : Path
        The folder of the study. Features and maps that it holds are not measured again.

    Returns
    -------
    DataFrame
        One row for each cell of each map: pair, rule ("alignment, cka", "descent", ...), understanding, generation
        (blocks), gain.
    """
    path = folder / "maps" / f"{pair.name.replace(' ', '_')}.parquet"
    if path.is_file():
        return pd.read_parquet(path)
    stimuli = evidence()
    # Images are shown without a text; as text, the generation expert reads what it knows: the scenes' full captions.
    plain = Stimuli([stimulus._replace(text=stimulus.id) for stimulus in stimuli], name=stimuli.name)
    understanding, generation = open_expert(pair.understanding), open_expert(pair.generation)
    stores = folder / "evidence"
    text = extract(understanding, stimuli, store=stores / pair.understanding)["text"]
    drawn: Features = extract(generation, plain, timesteps=(PLAN_TIMESTEP,), store=stores / pair.generation)
    image = drawn["image"].at(PLAN_TIMESTEP)
    target = drawn["text"].at(PLAN_TIMESTEP)
    measures: dict[str, Callable[[], Any]] = {
        **{f"alignment, {metric}": _alignment(text, image, metric) for metric in ALIGNMENT},
        "complementarity": lambda: complementarity_map(text, image, target.layer(target.layers[0])),
        "descent": lambda: descent_map(text, generation, stimuli),
    }
    depths = len(understanding.blocks), len(generation.blocks)
    tables = [_cells(pair, rule, measure(), depths) for rule, measure in measures.items()]
    table = pd.concat(tables, ignore_index=True)
    write_parquet(path, table)
    return table


def rule_plans(maps: pd.DataFrame) -> dict[str, tuple[tuple[int, int], ...]]:
    """Choose each rule's plan of four bridges from its map.

    Parameters
    ----------
    maps : DataFrame
        Of `rule_maps`, of one pair of experts.

    Returns
    -------
    dict of str to tuple of (int, int)
        The bridges with the largest sum of gains, by rule.
    """
    plans = {}
    for rule, cells in maps.groupby("rule", sort=False):
        gains = cells.pivot(index="understanding", columns="generation", values="gain").to_numpy()
        plans[str(rule)] = best_pairs(gains, BRIDGES)[0]
    return plans


def _alignment(text: Any, image: Any, metric: str) -> Callable[[], pd.DataFrame]:
    measure = scaled_map if METRICS[metric].high_by_chance else similarity_map
    return lambda: measure(text, image, metric)


def _cells(pair: Pair, rule: str, heat: pd.DataFrame, depths: tuple[int, int]) -> pd.DataFrame:
    gains = RULES[rule.partition(",")[0]].gains(heat, depths).values
    u, g = np.indices(gains.shape)
    cells = {"understanding": u.ravel(), "generation": g.ravel(), "gain": gains.ravel()}
    return pd.DataFrame({"pair": pair.name, "rule": rule, **cells})
