"""Match the blocks of two towers of unequal depth, and read layer maps by block number."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ..arguments import checked
from ..curves.table_checks import check_layer_map
from ..features.layer_features import LayerFeatures
from ..metrics import METRICS
from ..metrics.metric import Array
from .layout_table import MATCHINGS, Pairs

MOST_BLOCKS = 10**4  # the deepest towers have hundreds


def match(
    understanding_layers: int, generation_layers: int, how: str = "proportional", heat: pd.DataFrame | None = None
) -> Pairs:
    """Return which block of one tower meets which block of the other.

    With U understanding and G generation blocks:

    - "prelude" (HBridge, arXiv 2511.20520): the deeper tower's surplus first blocks are left alone, the others pair one
      to one; min(U, G) pairs.
    - "repeat" (LightFusion, arXiv 2510.22946): block i meets block i, and the deeper tower's surplus blocks meet the
      other's last block again; max(U, G) pairs.
    - "proportional": each block of the shallower tower meets the block of the other tower that is nearest in depth, of
      two the later one; block i of n lies at depth (i + 1) / n; min(U, G) pairs.
    - "optimal": of all matchings that give every block of the shallower tower one block of the deeper, no two the same,
      without crossing, the one with the largest sum of map values, exactly; min(U, G) pairs. Equal towers have only
      one.

    Parameters
    ----------
    understanding_layers, generation_layers : int
        The number of blocks of the two towers, U and G.
    how : str
        The matching, one of `MATCHINGS`.
    heat : DataFrame, optional
        The layer map of "optimal", as `similarity_map` returns it.

    Returns
    -------
    tuple of (int, int)
        Pairs (understanding block, generation block), ascending.

    Raises
    ------
    ValueError
        If the matching is unknown or a tower has no blocks; for "optimal", if there is no map, or if it is of other
        towers or has too few finite values.

    Examples
    --------
    >>> match(2, 4, "prelude"), match(2, 4, "repeat"), match(2, 4, "proportional")
    (((0, 2), (1, 3)), ((0, 0), (1, 1), (1, 2), (1, 3)), ((0, 1), (1, 3)))
    >>> match(2, 4, "optimal", similarity_map(text, image))      # (2, sample, dim) and (4, sample, dim)
    """
    checked("matching", how, str, known=MATCHINGS)
    check_blocks(understanding_layers, generation_layers)
    fewer, more = sorted((understanding_layers, generation_layers))
    if how == "optimal":
        if heat is None:
            raise ValueError("the matching 'optimal' needs a layer map: pass heat=similarity_map(...)")
        checked("heat", heat, pd.DataFrame, remedy="make one with similarity_map")
        check_depths(heat, understanding_layers, generation_layers)
        return best_pairs(block_values(heat), fewer)[0]
    if how == "prelude":
        ascending = [(i, i + more - fewer) for i in range(fewer)]
    elif how == "repeat":
        ascending = [(min(i, fewer - 1), i) for i in range(more)]
    else:
        ascending = [(i, int((i + 1) * more / fewer + 0.5) - 1) for i in range(fewer)]
    return tuple((i, j) if understanding_layers <= generation_layers else (j, i) for i, j in ascending)


def check_blocks(understanding_layers: int, generation_layers: int) -> None:
    """Raise an error where the numbers of blocks of two towers are no whole numbers from 1 to `MOST_BLOCKS`.

    Parameters
    ----------
    understanding_layers, generation_layers : int
        The number of blocks of the two towers.

    Raises
    ------
    TypeError, ValueError
        As `checked` does.
    """
    for name, count in (("understanding_layers", understanding_layers), ("generation_layers", generation_layers)):
        checked(name, count, int, least=1, most=MOST_BLOCKS, remedy="it is the number of blocks of the tower")


def best_pairs(gains: Array, bridges: int) -> tuple[Pairs, float]:
    """Find the pairs, strictly ascending on both sides, that have the largest sum of gains.

    The search is exact: dynamic programming over the first blocks of both towers. Of plans with the same sum, it takes
    the one whose blocks come first.

    Parameters
    ----------
    gains : array of shape (understanding blocks, generation blocks)
        The gain of each pair. A NaN is never chosen.
    bridges : int
        The number of pairs.

    Returns
    -------
    tuple of (int, int)
        Pairs (understanding block, generation block).
    float
        The sum of their gains.

    Raises
    ------
    ValueError
        If there are too few finite gains for so many pairs.
    """
    gains = np.where(np.isnan(gains), -np.inf, gains)
    rows, columns = gains.shape
    # tables[b][u, g]: the largest sum of b pairs among the first u and g blocks
    tables = [np.zeros((rows + 1, columns + 1))]
    for _ in range(bridges):
        table = np.full((rows + 1, columns + 1), -np.inf)
        for u in range(1, rows + 1):
            ending_here = tables[-1][u - 1, :-1] + gains[u - 1]
            table[u, 1:] = np.maximum(table[u - 1, 1:], np.maximum.accumulate(ending_here))
        tables.append(table)
    value = float(tables[-1][rows, columns])
    if not np.isfinite(value):
        raise ValueError(
            f"too few finite values for {bridges} bridges that do not cross: choose fewer, or measure more"
        )
    pairs, u, g = [], rows, columns
    for b in range(bridges, 0, -1):
        while tables[b][u - 1, g] == tables[b][u, g]:
            u -= 1
        while tables[b][u, g - 1] == tables[b][u, g]:
            g -= 1
        u, g = u - 1, g - 1
        pairs.append((u, g))
    return tuple(reversed(pairs)), value


def check_depths(heat: pd.DataFrame, understanding_layers: int, generation_layers: int) -> None:
    """Raise ValueError for the layer map of towers of other depths.

    Parameters
    ----------
    heat : DataFrame
        A layer map.
    understanding_layers, generation_layers : int
        The number of blocks that the towers have.

    Raises
    ------
    ValueError
        If the map is of towers with other numbers of blocks.
    """
    if count_blocks(heat) != (understanding_layers, generation_layers):
        raise ValueError(
            f"the plan is for towers of {understanding_layers} and {generation_layers} blocks, the map of "
            "{} and {}: make the map of these towers".format(*count_blocks(heat))
        )


def count_blocks(heat: pd.DataFrame) -> tuple[int, int]:
    """Count the understanding and the generation blocks behind a layer map, without the embeddings.

    Parameters
    ----------
    heat : DataFrame
        A layer map. Its labels are "embeddings" or block numbers, and the depths in its `attrs`, where they are there,
        say how many blocks a tower has of which the last were not measured.

    Returns
    -------
    (int, int)
        The number of understanding and of generation blocks.

    Raises
    ------
    ValueError
        If a label is no layer, is there twice, or if a side has no blocks.
    """
    counts = []
    for labels, depths in ((heat.index, heat.attrs.get("x_depths")), (heat.columns, heat.attrs.get("y_depths"))):
        blocks = _blocks(labels)
        if not blocks:
            raise ValueError("the layer map has no blocks to bridge: extract more than the embeddings")
        # block i lies at depth (i + 1) / blocks, so a map without the last blocks still says how many there are
        totals = [round((i + 1) / depths[place]) for place, i in blocks if depths[place] > 0] if depths else []
        counts.append(max([i + 1 for _, i in blocks] + (totals if len(set(totals)) == 1 else [])))
    return counts[0], counts[1]


def count_towers(understanding: LayerFeatures, generation: LayerFeatures) -> tuple[int, int]:
    """Count the blocks of the two towers that features were extracted from.

    Parameters
    ----------
    understanding, generation : LayerFeatures
        Features of the two towers.

    Returns
    -------
    (int, int)
        The number of understanding and of generation blocks.

    Raises
    ------
    ValueError
        If a side has no blocks.
    """
    heat = pd.DataFrame(index=list(understanding.layers), columns=list(generation.layers))
    heat.attrs = {"x_depths": understanding.depths, "y_depths": generation.depths}
    return count_blocks(heat)


def _blocks(labels: pd.Index) -> list[tuple[int, int]]:
    """Return (place in the map, block number) of every layer but the embeddings."""
    try:
        blocks = [(place, int(str(label))) for place, label in enumerate(labels) if str(label) != "embeddings"]
    except ValueError:
        raise ValueError(f"layers of a layer map must be 'embeddings' or block numbers, got {list(labels)}") from None
    if len({i for _, i in blocks}) != len(blocks) or any(i < 0 for _, i in blocks):
        raise ValueError(f"the layers of a layer map must be named once each, got {list(labels)}")
    return blocks


def block_values(heat: pd.DataFrame) -> Array:
    """Return the values of a layer map by block number.

    Parameters
    ----------
    heat : DataFrame
        A layer map.

    Returns
    -------
    array of shape (understanding blocks, generation blocks)
        The values; NaN for a pair that was not measured.

    Raises
    ------
    ValueError
        As `count_blocks` does; also a map of a metric that is high by chance and was not scaled by a null.
    """
    check_layer_map("the layer map", heat)
    metric = heat.attrs.get("metric")
    if metric in METRICS and METRICS[metric].high_by_chance and not heat.attrs.get("scaled"):
        raise ValueError(
            f"{metric} is high for strangers too, so that its map alone does not say where towers align: choose from "
            f"scaled_map(x, y, {metric!r}), which scales it by its null, or from a map of cka"
        )
    gains = np.full(count_blocks(heat), np.nan)
    values = heat.to_numpy(float)
    for row, understanding in _blocks(heat.index):
        for column, generation in _blocks(heat.columns):
            gains[understanding, generation] = values[row, column]
    return gains
