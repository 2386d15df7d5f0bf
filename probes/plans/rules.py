"""The rules that score bridge plans: what each reads, and the gain that it gives every pair of blocks.

To add a rule, add its row to `RULES` here. Rules without a score are in probes/plans/fixed_rules.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from torch import Tensor

from ..curves.curve import alignment_curve
from ..curves.divergence_depth import Divergence, divergence
from ..curves.table_checks import check_layer_map, check_table
from ..evidence.complementarity import METRIC as COMPLEMENTARITY
from ..evidence.complementarity import complementarity_map
from ..evidence.descent import METRIC as DESCENT
from ..features.features import Features
from ..metrics import METRICS
from ..metrics.metric import Array
from ..similarity.scaled_maps import scaled_map
from ..similarity.scoring import similarity_map
from .matching import block_values, check_depths, count_blocks

Evidence = pd.DataFrame | Divergence
Depths = tuple[int, int]
MAP_DEPTHS = ("x_depths", "y_depths")  # attrs of a layer map
SOFT = "soft"  # the metric of the layer weights of a trained soft model


class Gains(NamedTuple):
    """What a rule gives each pair of blocks, arrays (understanding block, generation block).

    Attributes
    ----------
    values : array
        A plan's score is the sum of these over its pairs. NaN where nothing was measured.
    ties : array or float
        Prefers one of two plans with the same score. 0 where nothing does.
    """

    values: Array
    ties: Array | float = 0.0


def _four(gains: Array) -> int:
    """Return 4: these gains do not say how many bridges there should be."""
    return 4


class Rule(NamedTuple):
    """A rule with a score, which is the sum of gains over the pairs of a plan.

    Attributes
    ----------
    needs : str
        The evidence that it reads, and how that is made.
    gains : callable
        A function (evidence, depths) that returns `Gains` for towers of these depths. If the depths are None, it takes
        those that the evidence holds.
    about : str
        The gain of a pair in words, as help texts say it.
    trained : bool
        Whether its evidence needs a trained model, whose cost the plan is charged with.
    measure : callable or None
        A function (understanding, generation, metric, k) that makes the evidence from the `Features` of the two
        experts; None where features are not enough.
    default_bridges : callable
        A function of the gains that returns how many bridges there are if nobody says so.
    """

    needs: str
    gains: Callable[[Any, Depths | None], Gains]
    about: str
    trained: bool = False
    measure: Callable[..., Evidence] | None = None
    default_bridges: Callable[[Array], int] = _four


def _alignment_gains(heat: pd.DataFrame, layers: Depths | None = None) -> Gains:
    """Return the layer map of a similarity."""
    _check_map("alignment", heat, layers)
    metric = heat.attrs.get("metric")
    if metric in METRICS and METRICS[metric].is_distance and not heat.attrs.get("scaled"):
        remedy = f", as scaled_map(x, y, {metric!r}) is" if METRICS[metric].sees_pairs else ""
        raise ValueError(f"{metric} is a distance, and the largest would be bridged: choose from a similarity{remedy}")
    if metric in (COMPLEMENTARITY, DESCENT, SOFT):
        raise _wrong("alignment", f"a {metric} map")
    return Gains(block_values(heat))


def _map_gains(rule: str) -> Callable[[pd.DataFrame, Depths | None], Gains]:
    """Return the gains of a rule that reads a map of its own name, which holds the gain of every pair."""

    def gains(heat: pd.DataFrame, layers: Depths | None = None) -> Gains:
        _check_map(rule, heat, layers)
        if heat.attrs.get("metric") != rule:
            raise _wrong(rule, f"a layer map of {heat.attrs.get('metric', 'an unnamed metric')}")
        return Gains(block_values(heat))

    return gains


def _causal_gains(links: pd.DataFrame, layers: Depths | None = None) -> Gains:
    """Return the scene score that a trained dense model loses with a link broken, ties to the larger increase of loss.

    Where no scenes were drawn, the gain is the increase of loss. Several models are averaged. A pair without a link has
    no gain and is never chosen.
    """
    columns = ("understanding", "generation", "score_lost", "loss_increase")
    _check_columns("causal", links, columns)
    check_table("the table of links", links, columns, "ablate_links", columns)
    ends = ["understanding", "generation"]
    single = links.dropna(subset=ends).astype(dict.fromkeys(ends, int))  # without the row of all links
    effects = single.groupby(ends)[["score_lost", "loss_increase"]].mean()
    depths = layers or links.attrs.get("layers")
    if depths is None:
        raise ValueError("a table of links does not say the towers' depths: pass layers=(understanding, generation)")
    lost, worse = np.full((2, *depths), np.nan)
    for (u, g), (score_lost, loss_increase) in zip(effects.index, effects.to_numpy(float), strict=True):
        if not (0 <= u < depths[0] and 0 <= g < depths[1]):
            raise ValueError(f"link {u}-{g} is of other towers than those of {depths[0]} and {depths[1]} blocks")
        lost[u, g], worse[u, g] = score_lost, loss_increase
    return Gains(worse) if effects["score_lost"].isna().all() else Gains(lost, np.nan_to_num(worse))


def _conflict_gains(conflict: pd.DataFrame, layers: Depths | None = None) -> Gains:
    """Return minus the gradient conflict of both blocks: join where the tasks pull together (Uni-X, arXiv 2509.24365).

    Of two subjects, the first is the understanding tower and the second the generation tower; one subject is a trunk,
    and stands on both sides. Several measurements of a block are averaged.
    """
    _check_columns("gradient_conflict", conflict, ("layer", "depth", "conflict"))
    check_table("the table of conflicts", conflict, (), "gradient_conflict", ("depth", "conflict"))
    subjects = conflict["subject"] if "subject" in conflict else pd.Series("trunk", conflict.index)
    names = list(dict.fromkeys(subjects))
    if len(names) > 2:
        raise ValueError(f"gradient_conflict reads one trunk or two towers, got the subjects {', '.join(names)}")
    sides = []
    for name in (names[0], names[-1]):
        rows = conflict[subjects == name]
        numbers = _block_numbers(rows["layer"])
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


def _block_numbers(labels: pd.Series) -> pd.Series:
    try:
        return labels.astype(int)
    except (TypeError, ValueError):
        raise ValueError(f"layers of gradient_conflict must be block numbers, got {labels.tolist()}") from None


def _divergence_gains(apart: Divergence, layers: Depths | None = None) -> Gains:
    """Return 1 for a pair with both blocks up to the divergence depth, -1 beyond; ties to pairs of nearly one depth.

    The rule is UniFork's (arXiv 2506.17202): share what lies below the depth at which the tasks part.
    """
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
    """Return the depths of the towers, as given or as a layer map has them.

    Parameters
    ----------
    evidence : DataFrame or Divergence or None
        A layer map, if there are no `layers`.
    layers : (int, int) or None
        The depths.

    Returns
    -------
    (int, int)
        The number of understanding and of generation blocks.

    Raises
    ------
    ValueError
        If neither says it.
    """
    if layers is not None:
        return layers
    if isinstance(evidence, pd.DataFrame) and _is_map(evidence):
        check_layer_map("the layer map", evidence)
        return count_blocks(evidence)
    raise ValueError("the towers' depths are unknown: pass a layer map, or layers=(understanding, generation)")


def evidence_summary(evidence: Evidence, rule: str) -> dict[str, Any]:
    """Return what a plan keeps of its evidence, plain JSON.

    Parameters
    ----------
    evidence : DataFrame or Divergence
        The evidence.
    rule : str
        The rule that read it, a name of `RULES`.

    Returns
    -------
    dict
        The table's `attrs`, without the null of each cell, or the fields of the divergence. Where a model had to be
        trained, "cost" is in it, and is None if the cost was not recorded.
    """
    summary = asdict(evidence) if isinstance(evidence, Divergence) else dict(evidence.attrs)
    for name in ("null95", "p", "adjusted_p", "peak95", "peak_p"):
        summary.pop(name, None)
    return ({"cost": None} if RULES[rule].trained else {}) | summary


def _is_map(table: pd.DataFrame) -> bool:
    return any(str(label) == "embeddings" or str(label).isdecimal() for label in table.columns)


def _check_map(rule: str, heat: object, layers: Depths | None) -> None:
    if isinstance(heat, dict) and heat:
        raise _wrong(rule, f"the maps of timesteps {', '.join(map(str, heat))}: pass one, as heat[{next(iter(heat))}]")
    if not (isinstance(heat, pd.DataFrame) and _is_map(heat)):
        raise _wrong(rule, "another table" if isinstance(heat, pd.DataFrame) else f"a {type(heat).__name__}")
    check_layer_map("the layer map", heat)
    if layers is not None:
        check_depths(heat, *layers)


def _check_columns(rule: str, table: object, columns: tuple[str, ...]) -> None:
    if not isinstance(table, pd.DataFrame):
        raise _wrong(rule, f"a {type(table).__name__}")
    if missing := [name for name in columns if name not in table]:
        raise _wrong(rule, f"a table without {', '.join(missing)}")


def _wrong(rule: str, got: str) -> ValueError:
    return ValueError(f"the rule {rule!r} needs {RULES[rule].needs}, got {got}")


def _measure_alignment(understanding: Features, generation: Features, metric: str, k: int = 10) -> pd.DataFrame:
    """Make the layer map of understanding text and generation image, scaled where the metric is high by chance."""
    began = perf_counter()
    formula = METRICS.get(metric)
    scaled = formula is not None and (formula.high_by_chance or (formula.is_distance and formula.sees_pairs))
    measure = scaled_map if scaled else similarity_map
    heat = measure(understanding["text"], generation["image"], metric, k)
    heat.attrs["cost"] = {"seconds": round(perf_counter() - began, 1)}
    return heat


def _measure_complementarity(understanding: Features, generation: Features, metric: str, k: int = 10) -> pd.DataFrame:
    """Make the complementarity map of understanding text and generation image."""
    return complementarity_map(understanding["text"], generation["image"], text_target(generation))


def text_target(generation: Features) -> Tensor:
    """Return what a bridge ought to bring: the caption as the generation expert's own text route begins with it.

    Parameters
    ----------
    generation : Features
        Features of the generation expert.

    Returns
    -------
    Tensor
        Its first text layer (sample, dim).
    """
    return generation["text"].layer(generation["text"].layers[0])


def _measure_divergence(understanding: Features, generation: Features, metric: str, k: int = 10) -> Divergence:
    """Find where the alignment curves of the two experts part."""
    curves = [alignment_curve(side["image"], side["text"], metric, k) for side in (understanding, generation)]
    return divergence(*curves)


def _reach(gains: Array) -> int:
    """Count the pairs up to the divergence depth."""
    within = gains > 0
    reach = min(int(within.any(1).sum()), int(within.any(0).sum()))
    if not reach:
        raise ValueError("no block of one tower lies up to the divergence depth: pass bridges")
    return reach


RULES: dict[str, Rule] = {
    "alignment": Rule(
        "a layer map of a similarity, as similarity_map makes it",
        _alignment_gains,
        about="the map's value",
        measure=_measure_alignment,
    ),
    COMPLEMENTARITY: Rule(
        "a complementarity map, as complementarity_map makes it",
        _map_gains(COMPLEMENTARITY),
        about="what understanding adds to generation's R^2",
        measure=_measure_complementarity,
    ),
    DESCENT: Rule(
        "a descent map, as models.descent_map makes it from the generation expert and the pictures",
        _map_gains(DESCENT),
        about="how far the generator's loss falls, to first order, by a read of the layer",
    ),
    "causal": Rule(
        "the links of a trained dense model, as ablate_links makes them",
        _causal_gains,
        about="the scene score lost with the link broken, or the loss gained where no scene is scored",
        trained=True,
    ),
    "gradient_conflict": Rule(
        "the conflict of each block of a trained dense or unified model, as gradient_conflict makes it",
        _conflict_gains,
        about="minus the conflict of both blocks (Uni-X)",
        trained=True,
    ),
    SOFT: Rule(
        "the layer weights of a trained soft model, as FusedModel.layer_weights makes them",
        _map_gains(SOFT),
        about="its share in the learnt mix",
        trained=True,
    ),
    "divergence": Rule(
        "a Divergence, as divergence makes it",
        _divergence_gains,
        about="1 up to the divergence depth, -1 beyond (UniFork)",
        measure=_measure_divergence,
        default_bridges=_reach,
    ),
}
