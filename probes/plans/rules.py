"""The rules' evidence: what each reads, and the gain of every pair of blocks that it makes of it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ..curves.divergence_depth import Divergence
from ..evidence.complementarity import METRIC as COMPLEMENTARITY
from ..metrics import METRICS
from ..metrics.metric import Array
from .matching import block_values, check_depths, count_blocks

Evidence = pd.DataFrame | Divergence
Depths = tuple[int, int]


class Gains(NamedTuple):
    """What a rule gives each pair, (understanding block, generation block); NaN where nothing was measured.

    Attributes:
        values: a plan's score is their sum over its pairs.
        ties: prefers one of two plans with the same score; 0 where nothing does.
    """

    values: Array
    ties: Array | float = 0.0


class Rule(NamedTuple):
    """A rule with a score.

    Attributes:
        needs: its evidence, and how that is made.
        gains: of evidence for towers of these depths, or of those that the evidence tells, if None.
        trained: whether its evidence needs a trained model, whose cost it is charged with.
    """

    needs: str
    gains: Callable[[Any, Depths | None], Gains]
    trained: bool = False


def alignment_gains(heat: pd.DataFrame, layers: Depths | None = None) -> Gains:
    """The layer map."""
    _check_map("alignment", heat, layers)
    metric = heat.attrs.get("metric")
    if metric in METRICS and METRICS[metric].is_distance:
        raise ValueError(f"{metric} is a distance, and the largest would be bridged: choose from a similarity")
    if heat.attrs.get("metric") == COMPLEMENTARITY:
        raise _wrong("alignment", "a complementarity map")
    return Gains(block_values(heat))


def complementarity_gains(heat: pd.DataFrame, layers: Depths | None = None) -> Gains:
    """What the understanding layer adds to the generation layer's knowledge of a target."""
    _check_map("complementarity", heat, layers)
    if heat.attrs.get("metric") != COMPLEMENTARITY:
        raise _wrong("complementarity", f"a layer map of {heat.attrs.get('metric', 'an unnamed metric')}")
    return Gains(block_values(heat))


def causal_gains(links: pd.DataFrame, layers: Depths | None = None) -> Gains:
    """The scene score that a trained dense model loses with the link broken, ties to the larger increase of its loss.

    Of several models, their mean. A pair without a link has no gain and is never chosen.
    """
    _check_columns("causal", links, ("understanding", "generation", "score_lost", "loss_increase"))
    ends = ["understanding", "generation"]
    single = links.dropna(subset=ends).astype(dict.fromkeys(ends, int))  # without the row of all links
    effects = single.groupby(ends)[["score_lost", "loss_increase"]].mean()
    told = layers or links.attrs.get("layers")
    if told is None:
        raise ValueError("a table of links does not tell the towers' depths: pass layers=(understanding, generation)")
    lost, worse = np.full(told, np.nan), np.zeros(told)
    for (u, g), (score_lost, loss_increase) in zip(effects.index, effects.to_numpy(float), strict=True):
        if not (0 <= u < told[0] and 0 <= g < told[1]):
            raise ValueError(f"link {u}-{g} is of other towers than those of {told[0]} and {told[1]} blocks")
        lost[u, g], worse[u, g] = score_lost, loss_increase
    return Gains(lost, worse)


def conflict_gains(conflict: pd.DataFrame, layers: Depths | None = None) -> Gains:
    """Minus the gradient conflict of both blocks: join where the tasks pull together (Uni-X, arXiv 2509.24365).

    Two subjects: the understanding tower's blocks, then the generation tower's; one: a trunk, on both sides. Of several
    measurements of a block, their mean.
    """
    _check_columns("gradient_conflict", conflict, ("layer", "depth", "conflict"))
    subjects = conflict["subject"] if "subject" in conflict else pd.Series("trunk", conflict.index)
    names = list(dict.fromkeys(subjects))
    if len(names) > 2:
        raise ValueError(f"gradient_conflict reads one trunk or two towers, got the subjects {', '.join(names)}")
    sides = []
    for name in (names[0], names[-1]):
        rows = conflict[subjects == name]
        numbers = rows["layer"].astype(int)
        blocks = int(((numbers + 1) / rows["depth"].astype(float)).round().max())
        sides.append(rows["conflict"].groupby(numbers).mean().reindex(range(blocks)).to_numpy(float))
    gains = -(sides[0][:, None] + sides[1][None])
    if layers is not None and gains.shape != tuple(layers):
        raise ValueError(
            "the plan is for towers of {} and {} blocks, the gradient conflict of {} and {}".format(
                *layers, *gains.shape
            )
        )
    return Gains(gains)


def divergence_gains(apart: Divergence, layers: Depths | None = None) -> Gains:
    """1 for a pair whose blocks both lie up to the divergence depth, -1 beyond; ties to pairs of nearly one depth."""
    if not isinstance(apart, Divergence):
        raise _wrong("divergence", f"a {type(apart).__name__}")
    if apart.depth is None:
        raise ValueError(f"there is no divergence depth to bridge up to: {apart.reason}; choose by another rule")
    if layers is None:
        raise ValueError("a divergence depth is relative: pass layers=(understanding, generation), the towers' depths")
    depths = [np.arange(1, count + 1) / count for count in layers]
    deeper = np.maximum(depths[0][:, None], depths[1][None])
    within = deeper <= apart.depth + 1e-9
    return Gains(np.where(within, 1.0, -1.0), -np.abs(depths[0][:, None] - depths[1][None]))


def count_layers(evidence: Evidence | None, layers: Depths | None) -> Depths:
    """The depths of the towers, given or told by a layer map."""
    if layers is not None:
        return layers
    if isinstance(evidence, pd.DataFrame) and _is_map(evidence):
        return count_blocks(evidence)
    raise ValueError("the towers' depths are not told: pass a layer map, or layers=(understanding, generation)")


def evidence_summary(evidence: Evidence, rule: str) -> dict[str, Any]:
    """What a plan keeps of its evidence, plain JSON; the cost of what must be trained, None if it was not recorded."""
    told = asdict(evidence) if isinstance(evidence, Divergence) else dict(evidence.attrs)
    return ({"cost": None} if RULES[rule].trained else {}) | told


def read_evidence(path: str | os.PathLike[str]) -> Evidence:
    """Evidence from a file: a table as CSV, with its `attrs` as JSON of the same name beside it if there are any; as
    Parquet, which holds both; or a `Divergence`, the JSON of `dataclasses.asdict`.

    A trained model's cost belongs into `attrs` as {"cost": {"steps": 600, "seconds": 1200}}, of a plain table as well.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file of another kind.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no evidence {path}: expected a CSV, Parquet or JSON file")
    try:
        if path.suffix == ".json":
            return Divergence(**json.loads(path.read_text(encoding="utf-8")))
        if path.suffix == ".parquet":
            return pd.read_parquet(path)
        table = pd.read_csv(path)
        if (beside := path.with_suffix(".json")).is_file():
            table.attrs = json.loads(beside.read_text(encoding="utf-8"))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} holds no evidence, neither a table nor a divergence: {error}") from None
    if table.columns[0] != "understanding layer":
        return table
    attrs, table = table.attrs, table.set_index("understanding layer")
    table.attrs = attrs
    return table


def _is_map(table: pd.DataFrame) -> bool:
    return any(str(label) == "embeddings" or str(label).isdecimal() for label in table.columns)


def _check_map(rule: str, heat: object, layers: Depths | None) -> None:
    if not (isinstance(heat, pd.DataFrame) and _is_map(heat)):
        raise _wrong(rule, "another table" if isinstance(heat, pd.DataFrame) else f"a {type(heat).__name__}")
    if layers is not None:
        check_depths(heat, *layers)


def _check_columns(rule: str, table: object, columns: tuple[str, ...]) -> None:
    if not isinstance(table, pd.DataFrame):
        raise _wrong(rule, f"a {type(table).__name__}")
    if missing := [name for name in columns if name not in table]:
        raise _wrong(rule, f"a table without {', '.join(missing)}")


def _wrong(rule: str, got: str) -> ValueError:
    return ValueError(f"the rule {rule!r} needs {RULES[rule].needs}, got {got}")


RULES: dict[str, Rule] = {
    "alignment": Rule("a layer map of a similarity, as similarity_map makes it", alignment_gains),
    "complementarity": Rule("a complementarity map, as complementarity_map makes it", complementarity_gains),
    "causal": Rule("the links of a trained dense model, as ablate_links makes them", causal_gains, True),
    "gradient_conflict": Rule(
        "the conflict of each block of a trained dense or unified model, as gradient_conflict makes it",
        conflict_gains,
        True,
    ),
    "divergence": Rule("a Divergence, as divergence makes it", divergence_gains),
}
