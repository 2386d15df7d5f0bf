"""Score every bridge of a pair of experts by every rule, without the part test."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from ...models.evaluation.generator_gradients import descent_map
from ...models.experts.opening import open_expert
from ...probes.evidence.complementarity import complementarity_map
from ...probes.extraction.extracting import extract
from ...probes.features.layer_features import LayerFeatures
from ...probes.files import write_parquet
from ...probes.metrics import METRICS
from ...probes.plans.matching import best_pairs
from ...probes.plans.rules import RULES
from ...probes.similarity.scaled_maps import scaled_map
from ...probes.similarity.scoring import similarity_map
from ...probes.stimuli.stimulus_set import Stimuli
from ..settings import PLAN_TIMESTEP, RESULTS
from .bridge_runs import config
from .caption_pool import evidence
from .testbed import BRIDGES, Pair
from .trained_maps import TRAINED

MAPS = RESULTS / "verdict" / "rule_maps.parquet"
ALIGNMENT = ("mutual_knn", "cka", "cknna", "svcca", "rsa", "linear_probe")  # metrics of the rule alignment


def rule_maps(pair: Pair, folder: Path) -> pd.DataFrame:
    """Measure the map of every rule: of the two untrained experts, and of models that are trained for it.

    Parameters
    ----------
    pair : Pair
        The pair of experts.
    folder : Path
        The folder of the study. What it holds is not measured again, nor are maps of this testbed that are committed:
        the plans of runs that are missing must be those of the runs that are there.

    Returns
    -------
    DataFrame
        One row for each cell of each map: pair, rule ("alignment, cka", "descent", ...), understanding, generation
        (blocks), gain, config (the hash of `bridge_runs.config`). Of the rules with a trained model, "soft" has gains
        everywhere, the others on the grid alone.
    """
    experts = open_expert(pair.understanding), open_expert(pair.generation)
    depths = len(experts[0].blocks), len(experts[1].blocks)
    trained = {rule: partial(measure, pair, folder) for rule, measure in TRAINED.items()}
    tables = []
    made, known = config(pair), _committed(config(pair))
    for rule, measure in (_untrained(pair, folder, *experts) | trained).items():
        path = folder / "maps" / made / f"{rule.replace(', ', '_')}.parquet"
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            found = known[known["rule"] == rule]
            write_parquet(path, found if len(found) else _cells(pair, rule, measure(), depths).assign(config=made))
        tables.append(pd.read_parquet(path))
    return pd.concat(tables, ignore_index=True)


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


def _untrained(pair: Pair, folder: Path, understanding: Any, generation: Any) -> dict[str, Callable[[], Any]]:
    """Return how the maps are measured that read hidden states or gradients of the untrained experts."""

    @cache
    def features() -> tuple[Stimuli, LayerFeatures, LayerFeatures, Tensor]:
        stimuli, stores = evidence(), folder / "evidence"
        # Images are shown without a text; as text, the generation expert reads what it knows: the full captions.
        plain = Stimuli([stimulus._replace(text=stimulus.id) for stimulus in stimuli], name=stimuli.name)
        text = extract(understanding, stimuli, store=stores / pair.understanding)["text"]
        drawn = extract(generation, plain, timesteps=(PLAN_TIMESTEP,), store=stores / pair.generation)
        target = drawn["text"].at(PLAN_TIMESTEP)
        return stimuli, text, drawn["image"].at(PLAN_TIMESTEP), target.layer(target.layers[0])

    def alignment(metric: str) -> pd.DataFrame:
        _, text, image, _ = features()
        return (scaled_map if METRICS[metric].high_by_chance else similarity_map)(text, image, metric)

    return {
        **{f"alignment, {metric}": partial(alignment, metric) for metric in ALIGNMENT},
        "complementarity": lambda: complementarity_map(*features()[1:]),
        "descent": lambda: descent_map(features()[1], generation, features()[0]),
    }


def _committed(made: str) -> pd.DataFrame:
    if not MAPS.is_file():
        return pd.DataFrame({"rule": []})
    maps = pd.read_parquet(MAPS)
    return maps[maps["config"] == made].reset_index(drop=True)


def _cells(pair: Pair, rule: str, heat: pd.DataFrame, depths: tuple[int, int]) -> pd.DataFrame:
    gains = RULES[rule.partition(",")[0]].gains(heat, depths).values
    u, g = np.indices(gains.shape)
    cells = {"understanding": u.ravel(), "generation": g.ravel(), "gain": gains.ravel()}
    return pd.DataFrame({"pair": pair.name, "rule": rule, **cells})
