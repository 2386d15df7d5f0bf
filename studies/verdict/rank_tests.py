"""Compare maps of blocks by ranks: correlations within depth, permutation tests, intervals, the noise ceiling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np
from scipy.stats import rankdata

from ...probes.metrics.metric import Array
from .thresholds import BOOTSTRAP, LEAST_LEFT, PERMUTATIONS

NO_DEPTH, LINEAR, CURVED = 0, 1, 2  # what is taken out of the ranks: nothing, the maps of depth, a curved surface too
ROUNDING = 1e-9


def unit_ranks(maps: Array, powers: int = NO_DEPTH) -> Array:
    """Return the ranks of maps without their mean and what depth explains of them, at length 1.

    The product of two such rows is the Spearman correlation of the maps, partial on both depths if `powers` says so.

    Parameters
    ----------
    maps : Array
        (..., understanding block, generation block), the blocks in order of depth.
    powers : int
        0 takes out nothing. 1 takes out the ranks of the three maps of `depth_maps`. 2 takes out the squares and the
        product of both depths as well, and so a hump.

    Returns
    -------
    Array
        (..., cell). Zeros where less than `LEAST_LEFT` of the variance of the ranks is left: a constant map, or one
        that is depth alone. What is left of such a map is rounding, or the curvature of its ranks.

    Examples
    --------
    >>> depth = -np.add.outer(np.arange(3.0), np.arange(3.0))
    >>> float(np.abs(unit_ranks(np.arange(9.0).reshape(3, 3), LINEAR)).max())
    0.0
    """
    *many, rows, columns = maps.shape
    ranks = rankdata(maps.reshape(*many, rows * columns), axis=-1)
    return _unit(ranks, rows, columns, powers)


def rank_correlations(maps: Array, truth: Array, powers: int = NO_DEPTH) -> Array:
    """Return the Spearman correlation of each map with the truth, partial on both depths if `powers` says so.

    Parameters
    ----------
    maps : Array
        (map, understanding block, generation block).
    truth : Array
        (..., understanding block, generation block).
    powers : int
        As `unit_ranks`.

    Returns
    -------
    Array
        (map, ...). 0 where a map has no order left.
    """
    left, right = unit_ranks(maps, powers), unit_ranks(truth, powers)
    return np.clip(np.tensordot(left, right, axes=(-1, -1)), -1, 1)


def permutation_p(
    maps: Sequence[Array],
    truths: Sequence[Array],
    powers: int = NO_DEPTH,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> Array:
    """Return the one-sided permutation p of each rule's correlation, the mean over the pairs of experts.

    What is left of the truth's ranks without depth is permuted: its understanding rows and its generation columns,
    independently of each other and within each pair of experts, the same for all rules. Single cells are not
    permuted: the cells of a row share the understanding block, so they are not independent. Rows and columns are
    shifted in a circle and mirrored, so that neighbours stay neighbours: blocks that follow each other are alike.

    Parameters
    ----------
    maps : sequence of arrays
        (rule, understanding block, generation block) for each pair of experts.
    truths : sequence of arrays
        (understanding block, generation block) for each pair.
    powers : int
        As `unit_ranks`.
    permutations : int
        How many random permutations.
    seed : int
        Seed of the permutations.

    Returns
    -------
    Array
        (rule,), at least 1 / (permutations + 1).

    Notes
    -----
    Depth is taken out again after the permutation (Freedman and Lane 1983), so the permuted truth has as much freedom
    as the measured one.
    """
    rng = np.random.default_rng(seed)
    observed, drawn = [], []
    for pair, truth in zip(maps, truths, strict=True):
        left = unit_ranks(pair, powers)
        observed.append(left @ unit_ranks(truth, powers))
        every = left @ _moved(truth, powers).T
        drawn.append(every[:, rng.integers(every.shape[1], size=permutations)])
    reached = np.sum(np.sum(drawn, axis=0) >= np.sum(observed, axis=0)[:, None] - ROUNDING, axis=1)
    return (1 + reached) / (1 + permutations)


def bootstrap_correlations(
    maps: Sequence[Array], seeds: Sequence[Array], powers: int = NO_DEPTH, draws: int = BOOTSTRAP, seed: int = 0
) -> Array:
    """Return draws of each rule's mean correlation: pairs of experts with replacement, within them seeds.

    Parameters
    ----------
    maps : sequence of arrays
        (rule, understanding block, generation block) for each pair of experts.
    seeds : sequence of arrays
        The truth (seed, understanding block, generation block) for each pair.
    powers : int
        As `unit_ranks`.
    draws : int
        How many draws.
    seed : int
        Seed of the draws.

    Returns
    -------
    Array
        (draw, rule).

    See Also
    --------
    probes.similarity.intervals.mean_interval : what the verdicts use, because draws of four pairs spread too little.
    """
    rng = np.random.default_rng(seed)
    table = []
    for pair, truth in zip(maps, seeds, strict=True):
        chosen = rng.integers(len(truth), size=(draws, len(truth)))
        table.append(rank_correlations(pair, truth[chosen].mean(1), powers).T)
    which = rng.integers(len(table), size=(draws, len(table)))
    when = rng.integers(draws, size=which.shape)
    return np.stack(table)[which, when].mean(1)


def noise_ceiling(seeds: Array, powers: int = NO_DEPTH) -> tuple[float, float, float]:
    """Return how well one seed's map predicts another's, the same for their mean, and what a perfect map would reach.

    Parameters
    ----------
    seeds : Array
        The truth (seed, understanding block, generation block), at least 2 seeds.
    powers : int
        As `unit_ranks`.

    Returns
    -------
    one : float
        The mean rank correlation of the maps of two seeds.
    mean : float
        The reliability of the mean over the seeds, by Spearman and Brown: n r / (1 + (n - 1) r). 0 if r is negative.
    ceiling : float
        Its square root: the correlation of the measured mean with a map that is the truth without noise.
    """
    count = len(seeds)
    units = unit_ranks(seeds, powers)
    one = float((units @ units.T)[np.triu_indices(count, 1)].mean())
    mean = count * one / (1 + (count - 1) * one) if one > 0 else 0.0
    return one, mean, float(np.sqrt(mean))


def depth_maps(rows: int, columns: int) -> Mapping[str, Array]:
    """Return the maps that measure nothing but depth: the earlier a block, the better.

    Parameters
    ----------
    rows, columns : int
        Understanding and generation blocks of the grid, in order of depth.

    Returns
    -------
    mapping
        `depth_understanding`, `depth_generation`, and `depth`, the sum of both relative depths; arrays (rows, columns).
    """
    understanding, generation = np.meshgrid(np.linspace(0, 1, rows), np.linspace(0, 1, columns), indexing="ij")
    both = np.round(understanding + generation, 12)
    return {"depth_understanding": -understanding, "depth_generation": -generation, "depth": -both}


def holm(values: Sequence[float] | Array) -> Array:
    """Return p values adjusted by Holm's procedure: their smallest below alpha are true with error alpha together.

    Parameters
    ----------
    values : sequence of float
        p of each test.

    Returns
    -------
    Array
        Adjusted p of each test, in the order given, at most 1.

    Examples
    --------
    >>> holm([0.01, 0.04, 0.03]).tolist()
    [0.03, 0.06, 0.06]
    """
    p = np.asarray(values, float)
    order = np.argsort(p, kind="stable")
    steps = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(steps, 1)
    return adjusted


def _moved(truth: Array, powers: int) -> Array:
    """Return the unit ranks (permutation, cell) of a truth under all shifts and mirrors of its rows and columns."""
    rows, columns = truth.shape
    left = unit_ranks(truth, powers).reshape(rows, columns)
    across, along = ([np.roll(np.arange(n)[::way], by) for way in (1, -1) for by in range(n)] for n in truth.shape)
    moved = np.stack([left[row][:, column].ravel() for row in across for column in along])
    return _unit(moved, rows, columns, powers)


def _unit(values: Array, rows: int, columns: int, powers: int) -> Array:
    """Return values (..., cell) without their mean and what depth explains, at length 1."""
    basis = _depth_basis(rows, columns, powers)
    centred = values - values.mean(-1, keepdims=True)
    left = centred - (centred @ basis) @ basis.T
    norm, whole = (np.linalg.norm(each, axis=-1, keepdims=True) for each in (left, centred))
    return np.where(norm**2 > LEAST_LEFT * whole**2, left / np.where(norm > 0, norm, 1), 0.0)


@cache
def _depth_basis(rows: int, columns: int, powers: int) -> Array:
    """Return an orthonormal basis (cell, direction) of what is taken out of ranks."""
    maps = depth_maps(rows, columns)
    design = [np.ones(rows * columns)]
    if powers >= LINEAR:
        design += [rankdata(depth) for depth in maps.values()]
    if powers >= CURVED:
        u, g = maps["depth_understanding"].ravel() + 0.5, maps["depth_generation"].ravel() + 0.5
        design += [u * u, g * g, u * g]
    basis, singular, _ = np.linalg.svd(np.stack(design, 1), full_matrices=False)
    return basis[:, singular > singular[0] * ROUNDING]
