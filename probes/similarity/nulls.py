"""Compute permutation nulls: scores that unrelated features would have, by permuting samples or in closed form.

Permutations of single samples are drawn in one of two ways. The metrics of tables (cka, its variants and rsa) turn the
samples around one random circle, as many different places as there are permutations: all turns together cost about as
much as one map (`metrics.tables.turned`), and permutations drawn one by one many times that. Turns of a circle are a
group, and drawing from a group of permutations gives p as exact as drawing from all (Hemerik and Goeman 2018). Every
other metric, and fewer samples than permutations, take permutations that are drawn one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor

from ..comparison_options import check_comparison
from ..features.caption_groups import image_by_image
from ..metrics import DEFAULT_METRIC, METRICS
from ..metrics.metric import Array, Metric
from ..metrics.moments import permutation_moments
from ..metrics.named_metrics import count_samples, formula_of
from .calibration import Moments, Null
from .inputs import (
    Layers,
    Stack,
    check_dims,
    check_metric,
    check_same_stimuli,
    check_samples,
    full_precision,
    read_pair,
    read_stack,
    to_common_dtype,
)
from .rows import check_exchangeable, side_of
from .sampled_maps import check_tolerance, sampled_scores

FEWEST = 4  # blocks: fewer have hardly any permutations
CUTS, MANY = 3, 8  # cuts of the circle of blocks, where there are so many
Pair = tuple[Tensor | Array, Tensor | Array]  # (sample, dim) and (sample, dim') over the same samples


def map_moments(x: Stack, y: Stack) -> Moments:
    """Compute the null of a layer map of debiased CKA in closed form, in about twice the time of the map itself.

    Parameters
    ----------
    x, y : LayerFeatures, Tensor, Array or sequence of layers
        As in `similarity_map`.

    Returns
    -------
    Moments
        The scores and their exact moments under permutation, whatever the features. The deviation is
        sqrt(2 / (n (n - 3))) for n samples.

    Raises
    ------
    ValueError, TypeError
        As `similarity_map`.

    See Also
    --------
    map_null : The null of any metric, and of the maximum of a map, by permuting, in blocks too.

    Notes
    -----
    All permutations of single rows are meant. Rows that depend on each other, such as frames of a video, need blocks,
    which have no closed form: `map_null` with ``block``.
    Moments of sums over pairs are counted as by Mantel 1967, up to the third power (probes/metrics/moments.py).

    Examples
    --------
    >>> moments = map_moments(understanding["text"], generation["image"].at(0.5))
    """
    x, y = image_by_image(x, y).pairs[0]
    xs, ys = _open_map(x, y, "cka", 1)
    with full_precision():
        return Moments(*permutation_moments(xs, ys))


def curve_null(
    pairs: Sequence[Pair],
    metric: str,
    k: int = 10,
    permutations: int = 200,
    seed: int = 0,
    block: int = 1,
    groups: Array | None = None,
) -> Null:
    """Compute the permutation null of a curve: y's samples are permuted, the same way in every pair.

    Parameters
    ----------
    pairs : sequence of pairs
        x (sample, dim) and y (sample, dim') of each point of the curve.
    metric : str
        A name of `METRICS`.
    k : int
        The number of neighbours.
    permutations : int
        How many permutations: 200 resolve p down to .005.
    seed : int
        Seed of the permutations.
    block : int
        How many consecutive samples move together, where they are not exchangeable one by one: the patches of an image
        (`match_patches`), as many frames of a video as depend on each other. Use 20 blocks or more: with few of them p
        is coarse, and somewhat too small.
    groups : Array, optional
        The number of each row's image (row,), from 0, for mutual_knn: images are permuted, with all their captions.

    Returns
    -------
    Null
        Scores (permutation, pair).

    Raises
    ------
    ValueError, TypeError
        As `similarity`; also no permutations, samples that are not whole blocks, or a metric that does not depend on
        which samples belong together.
    """
    check_comparison(permutations=permutations, seed=seed)
    opened, formula = open_pairs(pairs, metric, k), formula_of(metric, groups)
    samples = count_samples(metric, len(opened[0][0]), groups)
    check_block(samples, block)
    check_pairs("a null", opened, block, groups)
    _check_null(metric, groups)
    observed, scores = np.empty(len(pairs)), np.empty((permutations, len(pairs)))
    for index, (x, y) in enumerate(opened):
        with full_precision():
            one, null = _scores([x], [y], formula, k, permutations, seed, block, samples)
        observed[index], scores[:, index] = one[0, 0], null[:, 0, 0]
    return Null(observed, scores, formula.is_distance)


def map_null(
    x: Stack,
    y: Stack,
    metric: str = DEFAULT_METRIC,
    k: int = 10,
    permutations: int = 200,
    seed: int = 0,
    block: int = 1,
    tolerance: float | None = None,
    groups: Sequence[Any] | Array | None = None,
    captions: str | None = None,
) -> Null:
    """Compute the permutation null of a layer map: y's samples are permuted, the same way in every layer.

    Parameters
    ----------
    x, y : LayerFeatures, Tensor, Array or sequence of layers
        As in `similarity_map`.
    metric : str
        A name of `METRICS`.
    k : int
        The number of neighbours.
    permutations : int
        How many permutations: 200 resolve p down to .005.
    seed : int
        Seed of the permutations.
    block : int
        How many consecutive samples move together, where they are not exchangeable one by one: the patches of an image
        (`match_patches`), as many frames of a video as depend on each other. Use 20 blocks or more: with few of them p
        is coarse, and somewhat too small.
    groups, captions
        As in `similarity`: images are permuted, with all their captions.
    tolerance : float, optional
        As in `similarity_map`. The null is that of the scores as they were estimated, from permutations of the rows
        that were used: it is wider than that of all samples, and p is as valid.

    Returns
    -------
    Null
        Scores (permutation, x layer, y layer).

    Raises
    ------
    ValueError, TypeError
        As `similarity_map`; also no permutations, samples that are not whole blocks, or a metric that does not depend
        on which samples belong together.

    See Also
    --------
    map_moments : Gives the null of debiased CKA exactly, without permutations.
    scaled_map : Returns the scores above the null as one map, for plans.
    similarity_map : Keeps a summary of the null beside the scores, by ``permutations=``.

    Notes
    -----
    The prepared layers of both sides are held in memory at once. For the metrics of tables (cka, its variants and rsa)
    a layer takes 2 bytes for each entry of (sample, sample), 4 for float64 features. In blocks, or with as many
    permutations as samples, a layer of x takes twice that, and a layer of y four times.

    The metrics of tables turn the samples around one random circle, by as many different places as there are
    permutations. All turns are computed together, so that more permutations, up to one less than samples, cost nothing.
    p is as exact as with permutations drawn one by one (Hemerik and Goeman 2018), which all other metrics take.

    Examples
    --------
    >>> null = map_null(understanding["text"], generation["image"].at(0.5), "cka", permutations=99)
    >>> null.scores.shape  # (permutation, x layer, y layer)
    (99, 17, 14)
    """
    check_metric(metric)
    check_comparison(permutations=permutations, seed=seed)
    seen = image_by_image(x, y, groups, captions)
    numbers = seen.numbers
    check_tolerance(metric, tolerance, block=block, groups=numbers is not None, draws=len(seen.pairs) > 1)
    if len(seen.pairs) > 1:
        return mean_null([map_null(*pair, metric, k, permutations, seed, block) for pair in seen.pairs])
    x, y = seen.pairs[0]
    _check_null(metric, numbers)
    xs, ys = _open_map(x, y, metric, k, block, numbers)
    formula, shape = formula_of(metric, numbers), (len(xs), len(ys))
    samples = count_samples(metric, len(xs[0]), numbers)
    with full_precision():
        if tolerance is not None:
            pairs = list(np.ndindex(shape))
            found = sampled_scores(xs, ys, pairs, metric, k, tolerance, permutations=permutations, seed=seed)
            if found is not None and found.null is not None:
                scores, errors = found.scores.reshape(shape), found.errors.reshape(shape)
                return Null(scores, found.null.reshape(-1, *shape), False, errors, found.rows)
        null = Null(*_scores(xs, ys, formula, k, permutations, seed, block, samples), formula.is_distance)
    return null if tolerance is None else replace(null, errors=np.zeros(shape), rows=len(xs[0]))


def mean_null(nulls: Sequence[Null]) -> Null:
    """Return the null of a mean of scores, of nulls of the same permutations."""
    observed, scores = (np.mean([getattr(null, name) for null in nulls], axis=0) for name in ("observed", "scores"))
    return Null(observed, scores, nulls[0].is_distance)


def _open_map(
    x: Stack, y: Stack, metric: str, k: int, block: int = 1, groups: Array | None = None
) -> tuple[Layers, Layers]:
    """Read and check the layers of both sides of a map whose rows are permuted."""
    xs, ys = read_stack(x, "x")[0], read_stack(y, "y")[0]
    check_samples(metric, k, len(xs[0]), len(ys[0]))
    check_dims(metric, xs, ys)
    check_same_stimuli(x, y)
    samples = count_samples(metric, len(xs[0]), groups)
    check_samples(metric, k, samples, samples)
    check_block(samples, block)
    check_exchangeable("a null", side_of(x, xs, "x"), side_of(y, ys, "y"), block=block, groups=groups)
    return to_common_dtype(xs, ys)


def open_pairs(pairs: Sequence[Pair], metric: str, k: int) -> list[tuple[Tensor, Tensor]]:
    """Convert the pairs of a curve to tensors, and check them.

    Parameters
    ----------
    pairs : sequence of pairs
        x (sample, dim) and y (sample, dim') of each point of the curve.
    metric : str
        A name of `METRICS`.
    k : int
        The number of neighbours.

    Returns
    -------
    list of pairs of Tensor
        x and y of each point.

    Raises
    ------
    ValueError, TypeError
        As `similarity`; also no pairs, or pairs of different samples.
    """
    if not pairs:
        raise ValueError("a curve needs at least one pair of layers")
    opened = []
    for index, (x, y) in enumerate(pairs):
        if len(x) != len(pairs[0][0]):
            raise ValueError(f"pair {index} has {len(x)} samples, pair 0 has {len(pairs[0][0])}: use the same ones")
        opened.append(read_pair(x, y, metric, k))
    return opened


def check_pairs(what: str, opened: Sequence[tuple[Tensor, Tensor]], block: int, groups: Array | None = None) -> None:
    """Raise ValueError where rows of the pairs of a curve are repeated outside their block or image."""
    xs, ys = ([pair[side] for pair in opened] for side in (0, 1))
    check_exchangeable(what, side_of(None, xs, "x"), side_of(None, ys, "y"), block=block, groups=groups)


def check_block(samples: int, block: int) -> None:
    """Raise ValueError where samples are no whole blocks, or too few blocks to permute.

    Parameters
    ----------
    samples : int
        The number of samples.
    block : int
        How many of them move together.

    Raises
    ------
    ValueError
        What does not fit.
    """
    check_comparison(block=block)
    if samples % block:
        raise ValueError(
            f"{samples} samples are not whole blocks of {block}: block is the number of rows that move together, such "
            "as the patches of an image"
        )
    if block > 1 and samples // block < FEWEST:
        raise ValueError(
            f"{samples} samples are {samples // block} blocks of {block}, too few to permute: use at least {FEWEST} "
            "blocks"
        )


def _check_null(metric: str, groups: Array | None = None) -> None:
    """Raise ValueError for a metric that does not change when samples are permuted, or cannot permute images."""
    if groups is not None and metric != "mutual_knn":
        raise ValueError(
            f"a null permutes images, which {metric} does not with their captions apart: compare them by "
            "captions='mean' or 'draw'"
        )
    if not METRICS[metric].sees_pairs:
        raise ValueError(f"{metric} does not see which samples belong together: a null that permutes them says nothing")


def _scores(
    xs: Layers, ys: Layers, formula: Metric, k: int, permutations: int, seed: int, block: int, samples: int
) -> tuple[Array, Array]:
    """Return the scores (x layer, y layer), and those of permutations (permutation, x layer, y layer)."""
    if formula.turned is not None and block == 1 and permutations < samples:
        circle, places = _turns(samples, permutations, seed)
        one, other = ((formula.prepare(layer, k) for layer in side) for side in (xs, ys))
        found = formula.turned(one, other, circle)
        return found[0], found[places]
    a, b = [formula.prepare(layer, k) for layer in xs], [formula.prepare(layer, k) for layer in ys]
    orders = draw_orders(samples, permutations, seed, block)
    return formula.compare(a, b, k), formula.permuted(a, b, k, orders)


def _turns(samples: int, permutations: int, seed: int) -> tuple[Array, Array]:
    """Draw a circle of samples (sample,), and by how many places it is turned (permutation,): never by none."""
    rng = np.random.default_rng([seed, 0])
    return rng.permutation(samples), 1 + rng.choice(samples - 1, permutations, replace=False)


def draw_orders(samples: int, permutations: int, seed: int = 0, block: int = 1) -> Array:
    """Draw the permutations of a null, of whole blocks where they are longer than one sample.

    Parameters
    ----------
    samples : int
        The number of samples.
    permutations : int
        How many permutations.
    seed : int
        Their seed.
    block : int
        How many consecutive samples move together.

    Returns
    -------
    Array
        Permutations (permutation, sample): which sample takes the place of each.

    Notes
    -----
    Blocks are not shuffled one by one, which would tear every block of a series from its neighbours, where the series
    itself has no seam: neighbours in time are near each other in any two towers, and p would be too small. The circle
    of blocks is cut at three places, the pieces are put together in another order, and turned until no block stands
    where it stood. Fewer than `MANY` blocks have too few such orders, and are shuffled.
    """
    rng, count = np.random.default_rng([seed, 0]), samples // block
    shuffled = block == 1 or count < MANY
    orders: list[Array] = [rng.permutation(count) for _ in range(permutations if shuffled else 0)]
    while len(orders) < permutations:
        cuts = np.sort(rng.choice(count, CUTS, replace=False))
        pieces = np.split(np.roll(np.arange(count), -cuts[0]), cuts[1:] - cuts[0])
        order = np.roll(np.concatenate([pieces[place] for place in rng.permutation(CUTS)]), rng.integers(count))
        if (order != np.arange(count)).all():
            orders.append(order)
    return (np.stack(orders)[..., None] * block + np.arange(block)).reshape(permutations, samples)
