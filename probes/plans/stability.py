"""Measure how far a plan depends on the samples that it was chosen from, and on the metric."""

from __future__ import annotations

import contextlib
import warnings
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor
from tqdm.auto import tqdm

from ..arguments import checked
from ..comparison_options import MOST_DRAWS
from ..evidence.complementarity import complementarity_map
from ..features.caption_groups import image_by_image
from ..features.features import Features
from ..metrics import METRICS
from ..metrics.metric import Array
from ..similarity.inputs import read_stack
from ..similarity.intervals import half_errors, half_k, interval, random_halves
from ..similarity.nulls import check_block, map_null
from ..similarity.rows import check_exchangeable, side_of
from ..similarity.scoring import similarity_map
from ..similarity.subsampled_maps import subsampled_maps
from .bridge_plan import NOISE, BridgePlan
from .choice_options import FEWEST_DRAWS
from .layout_table import Pairs
from .matching import best_pairs, block_values
from .rules import MAP_DEPTHS, Evidence

TAKEN = {  # by rule: what `features` are, beside the two stacks
    "alignment": "(understanding, generation)",
    "complementarity": "(understanding, generation, target), with the groups behind the target if there were any",
}
FEWEST_BLOCKS = 20
OTHERS = ("mutual_knn", "cka", "cknna", "rsa")  # metrics that are 0 or known by chance, and quick
SHOWN = 5  # runner-up plans that are kept
SAME_MAP = 1e-4  # scores of one map on two devices differ by less
TINY = 1e-12  # an error of no score


def check_stability(rule: str, draws: int | None, features: Sequence[Any] | None) -> None:
    """Raise ValueError where the stability of a plan is asked for and cannot be measured.

    Parameters
    ----------
    rule : str
        The rule of the plan.
    draws : int or None
        How many random halves of the samples; None where nothing is asked for.
    features : sequence or None
        What the rule's map was made from.

    Raises
    ------
    ValueError
        What is missing, or does not belong together.
    """
    if draws is None and features is None:
        return
    if draws is None:
        raise ValueError("features are for draws, which measure how stable the plan is: pass draws=200 too")
    if rule not in TAKEN:
        raise ValueError(
            f"draws measure the rules {' and '.join(TAKEN)}, whose evidence is a map of features, not {rule!r}: leave "
            "draws out"
        )
    checked("draws", draws, int, least=FEWEST_DRAWS, most=MOST_DRAWS, remedy="200 are usual")
    if features is None:
        raise ValueError(
            f"draws need the features that the map was made from, since a map alone cannot be drawn again: pass "
            f"features={TAKEN[rule]}"
        )
    counts = (2,) if rule == "alignment" else (3, 4)
    if not isinstance(features, tuple | list) or len(features) not in counts:
        raise ValueError(f"features of the rule {rule!r} must be {TAKEN[rule]}")
    if whole := [side for side in features[:2] if isinstance(side, Features)]:
        raise ValueError(
            f"features must be the two modalities that the map compares, such as understanding['text'] and "
            f"generation['image'], got a store of {' and '.join(whole[0].modalities)}"
        )


def measure_stability(
    plan: BridgePlan, heat: Evidence, features: Sequence[Any], draws: int, seed: int = 0, block: int = 1
) -> dict[str, Any]:
    """Choose a plan again from random halves of the samples, and compare it with its rivals.

    Parameters
    ----------
    plan : BridgePlan
        The plan with the largest score.
    heat : DataFrame
        The map that it was chosen from.
    features : sequence
        What the map was made from, as `check_stability` wants it.
    draws : int
        How many halves; they come in pairs, so that an odd number is one more.
    seed : int
        The seed of the halves.
    block : int
        How many consecutive samples stay in one half together, as in `map_null`.

    Returns
    -------
    dict
        Plain JSON, as `choose_bridges` describes it.

    Raises
    ------
    ValueError
        Too few samples, repeated rows outside blocks, or a map that is not of these features.
    """
    assert isinstance(heat, pd.DataFrame)
    if plan.rule == "alignment":
        if (captions := heat.attrs.get("captions", "mean")) != "mean":
            raise ValueError(
                f"the map is of captions={captions!r}, and draws are of the means of an image's captions: make the map "
                "with captions='mean'"
            )
        features = image_by_image(*features).pairs[0]
    block = max(block, heat.attrs.get("block", 1))
    k = heat.attrs.get("k") or 10
    samples = _count_samples(features, block)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what there is to warn of was said when the map was made
        _check_same_map(plan.rule, heat, features, k)
        others = _other_plans(plan, features, heat.attrs["metric"], k)
        halves = random_halves(samples, -(-draws // 2), seed, block)
        half = len(halves[0][0])
        near = half_k(heat.attrs["metric"], k, half, samples) if heat.attrs.get("k") else None
        maps = _maps(plan.rule, heat, features, k, [chosen for pair in halves for chosen in pair], near)
    full, maps = block_values(heat), _by_block(heat, maps)
    full[~np.isfinite(maps).all(0)] = np.nan
    if missing := [pair for pair in plan.pairs if np.isnan(full[pair])]:
        raise ValueError(f"bridge {missing[0]} has no score in some halves of the samples: use more stimuli")
    maps[:, np.isnan(full)] = np.nan
    chosen = [best_pairs(gains, len(plan.pairs))[0] for gains in maps]
    split = maps.reshape(len(halves), 2, *full.shape)
    rivals = _rivals(plan, full, split, Counter(chosen), half, samples)
    found: dict[str, Any] = {
        "draws": len(maps),
        "samples": half,
        "k": near,
        "block": block,
        "seed": seed,
        "kept": {f"{u}-{g}": float(np.mean([(u, g) in pairs for pairs in chosen])) for u, g in plan.pairs},
        "same_plan": float(np.mean([pairs == plan.pairs for pairs in chosen])),
        "plans": len(set(chosen)),
        "settled": all(rival["low"] > 0 for rival in rivals),
        "runners_up": rivals[:SHOWN],
        "near_best": near_best(full, split, half, samples),
        "metrics": others,
    }
    return found | {"sentence": _sentence(found, samples)}


def held_against_null(heat: Evidence, pairs: Pairs) -> dict[str, Any]:
    """Say whether a map and the bridges that were chosen from it are more than unrelated features give.

    Parameters
    ----------
    heat : DataFrame
        The layer map, with the null of `similarity_map(..., permutations=200)` in its attrs.
    pairs : tuple of (int, int)
        The bridges.

    Returns
    -------
    dict
        peak_p, the p of the best block pair among the best of each permutation; within_null, the bridges whose own p
        is above .05. {} where the map has no null.
    """
    if not isinstance(heat, pd.DataFrame) or np.shape(heat.attrs.get("adjusted_p")) != heat.shape:
        return {}
    tables = [pd.DataFrame(heat.attrs[name], heat.index, heat.columns, dtype=float) for name in ("adjusted_p", "p")]
    for table in tables:
        table.attrs = {name: heat.attrs[name] for name in MAP_DEPTHS if name in heat.attrs}
    adjusted, single = map(block_values, tables)
    if not np.isfinite(adjusted).any():
        return {}
    within = [[u, g] for u, g in pairs if not single[u, g] <= NOISE]
    return {"peak_p": float(np.nanmin(adjusted)), "within_null": within}


def near_best(full: Array, split: Array, half: int, samples: int) -> list[list[int]]:
    """List the cells that are within noise of the best cell of a map.

    Parameters
    ----------
    full : Array
        The map of all samples (row, column); NaN where nothing was measured.
    split : Array
        Maps of both halves of each split (split, 2, row, column).
    half, samples : int
        The numbers of samples of a half and in all.

    Returns
    -------
    list of [int, int]
        (row, column) of each such cell, the best one included. In 95 of 100 cases the cell that is truly the best is
        among them, however many cells there are.

    Notes
    -----
    A cell is left out where another leads it by more than would happen in 5 of 100 cases if none were better: multiple
    comparisons with the best (Hsu 1981), leads in units of their own error. The critical lead is that of the errors
    between halves, so that neighbouring layers, which are nearly the same, do not count as many. In simulation (cka and
    mutual_knn, N = 64 and 128, two to 25 cells that are equally good, 60 halves, 100 repetitions each) the set holds a
    given best cell .88 to 1.00 of the time, .95 in the median.
    """
    cells = np.argwhere(np.isfinite(full))
    values, halves = full[tuple(cells.T)], split[:, :, cells[:, 0], cells[:, 1]]
    near = []
    for place, cell in enumerate(cells):
        errors = half_errors(halves - halves[..., [place]], half, samples)
        size = np.maximum(np.sqrt((errors**2).mean(0)), TINY)
        largest = np.concatenate([errors, -errors]) / size
        if ((values - values[place]) / size).max() <= np.quantile(largest.max(1), 0.95):
            near.append([int(index) for index in cell])
    return near


def _count_samples(features: Sequence[Any], block: int) -> int:
    """Count the samples of both stacks, and check that halves of them can be drawn."""
    layers = [read_stack(stack, name)[0] for stack, name in zip(features, ("understanding", "generation"))]
    samples = len(layers[0][0])
    check_block(samples, block)
    if samples // block < FEWEST_BLOCKS:
        what = "samples" if block == 1 else f"blocks of {block} samples"
        raise ValueError(
            f"halves of {samples // block} {what} say nothing about noise: use at least {FEWEST_BLOCKS} {what}"
        )
    sides = (side_of(stack, some, name) for stack, some, name in zip(features, layers, ("x", "y")))
    check_exchangeable("a margin", *sides, block=block)
    return samples


def _check_same_map(rule: str, heat: pd.DataFrame, features: Sequence[Any], k: int) -> None:
    """Raise ValueError where a map is not the one that the features give."""
    metric = heat.attrs.get("metric")
    if rule == "alignment" and metric not in METRICS:
        raise ValueError(
            "the map does not say which metric it is of, so that it cannot be made again: draws need the map as "
            "similarity_map returns it, attrs included"
        )
    # the null of a scaled map has a seed that the map does not hold, so that only its layers are compared
    if rule == "complementarity":
        again = complementarity_map(*features)
    else:
        again = similarity_map(*features, metric=str(metric), k=k)
    alike = list(again.index) == list(heat.index) and list(again.columns) == list(heat.columns)
    if alike and not heat.attrs.get("scaled"):
        alike = np.allclose(heat.to_numpy(float), again.to_numpy(float), rtol=0, atol=SAME_MAP, equal_nan=True)
    if not alike:
        raise ValueError(
            f"the features do not give this map by {metric}: pass what it was made from, features={TAKEN[rule]}, with "
            "the same layers, samples and timestep"
        )


def _maps(
    rule: str, heat: pd.DataFrame, features: Sequence[Any], k: int, subsets: list[Array], near: int | None
) -> Array:
    """Make the rule's map again for subsets of the samples, (subset, understanding layer, generation layer)."""
    if rule == "complementarity":
        return _complementarity_maps(features, subsets)
    metric, (x, y) = heat.attrs["metric"], features
    maps = subsampled_maps(x, y, metric, k, subsets, near)
    if heat.attrs.get("scaled"):
        # what strangers reach depends on the number of samples, and hardly on which these are
        one, other = ([layer[subsets[0]] for layer in read_stack(stack, "")[0]] for stack in (x, y))
        null = map_null(one, other, metric, near or k, heat.attrs["permutations"], block=heat.attrs["block"])
        maps = null.left_above(maps)
    return maps


def _complementarity_maps(features: Sequence[Any], subsets: list[Array]) -> Array:
    stacks, labels = [read_stack(stack, "")[0] for stack in features[:2]], features[2:]
    maps = []
    for chosen in tqdm(subsets, desc="subsets by complementarity", leave=False):
        us, gs = ([layer[chosen] for layer in stack] for stack in stacks)
        maps.append(complementarity_map(us, gs, *(_take(values, chosen) for values in labels)).to_numpy(float))
    return np.stack(maps)


def _take(values: Any, chosen: Array) -> Any:
    """Return the targets or groups of chosen samples."""
    return values if values is None else values[chosen] if isinstance(values, Tensor) else np.asarray(values)[chosen]


def _by_block(heat: pd.DataFrame, maps: Array) -> Array:
    """Arrange maps (subset, layer, layer) by block number, as `block_values` does with one map."""
    places = pd.DataFrame(np.arange(heat.size).reshape(heat.shape), heat.index, heat.columns)
    places.attrs = {name: heat.attrs[name] for name in MAP_DEPTHS if name in heat.attrs}
    blocks = block_values(places)
    found = maps.reshape(len(maps), -1)[:, np.nan_to_num(blocks).astype(int)]
    found[:, np.isnan(blocks)] = np.nan
    return found


def _rivals(
    plan: BridgePlan, full: Array, split: Array, chosen: Counter[Pairs], half: int, samples: int
) -> list[dict[str, Any]]:
    """Compare a plan with the best plans without each of its bridges, and with those that a half of the samples chose.

    Those that are within noise come first, then the nearest.
    """
    rivals = set(chosen)
    for pair in plan.pairs:
        without = full.copy()
        without[pair] = np.nan
        with contextlib.suppress(ValueError):  # no plan of so many bridges is left
            rivals.add(best_pairs(without, len(plan.pairs))[0])
    rows = []
    for pairs in sorted(rivals - {plan.pairs}):
        ours, theirs = (tuple(np.transpose(some)) for some in (plan.pairs, pairs))
        margin = full[ours].sum() - full[theirs].sum()
        leads = split[..., *ours].sum(-1) - split[..., *theirs].sum(-1)
        low, high = interval(margin, half_errors(leads, half, samples))
        row = {"pairs": [list(pair) for pair in pairs], "margin": float(margin), "low": float(low), "high": float(high)}
        rows.append(row | {"chosen": chosen[pairs] / chosen.total()})
    return sorted(rows, key=lambda row: (row["low"] > 0, row["margin"]))


def _other_plans(plan: BridgePlan, features: Sequence[Any], metric: str, k: int) -> dict[str, list[list[int]]]:
    """Return the pairs that the alignment rule would choose by each other metric."""
    found = {}
    for name in OTHERS:
        if name != metric:
            gains = block_values(similarity_map(*features[:2], metric=name, k=max(k, METRICS[name].least_k)))
            found[name] = [list(pair) for pair in best_pairs(gains, len(plan.pairs))[0]]
    return found


def _sentence(found: dict[str, Any], samples: int) -> str:
    """Say whether a plan is settled, by how much, and which of its bridges are."""
    kept = ", ".join(f"{100 * share:.0f} % hold {bridge}" for bridge, share in found["kept"].items())
    kept = f"Of the plans that {found['draws']} random halves give, {kept}."
    if not found["runners_up"]:
        return f"The plan is settled: no other plan has so many bridges. {kept}"
    rival = found["runners_up"][0]
    pairs = " ".join(f"{u}-{g}" for u, g in rival["pairs"])
    margin, low, high = (f"{round(rival[name], 4) + 0.0:.4f}" for name in ("margin", "low", "high"))
    lead = f"its lead over {pairs} is {margin}, 95 % interval {low} to {high}"
    if found["settled"]:
        return f"The plan is settled by {samples} samples: {lead}. {kept}"
    return f"The plan is not settled by {samples} samples: {lead}, which is noise. {kept} More stimuli would tell."
