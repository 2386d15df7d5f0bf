"""Estimate scores to a stated standard error from some of the samples, without a bias for the score of all."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch

from ..features.plain_arrays import check_finite
from ..metrics import METRICS
from ..metrics.estimators.query_rows import nearest_of, permuted_shares, shares
from ..metrics.estimators.sample_blocks import (
    block_terms,
    distances,
    middle,
    permuted_terms,
    scores_and_errors,
    unevenness,
)
from ..metrics.metric import MEMORY, Array, unit_rows
from ..metrics.neighbours import one_way
from .inputs import Layers, common_dtype

BY_ROWS = ("mutual_knn",)
BY_BLOCKS = ("cka", "cka_units")
SEEN = 4  # query rows that share one neighbour at least, as errors count
PILOT = 512  # query rows that tell how many are needed
BLOCKS = 32  # blocks that tell how many are needed: with fewer, 1.96 errors cover less than they say
ALIKE = 64  # rows of equal weight that the rows used are worth at least: fewer do not show how uneven the others are
LARGEST = 256  # samples of a block: larger ones cost more for pairs of samples that hardly matter
AT_ONCE = 16  # blocks that are read together: memory of that size is used again and not asked of the system anew
MARGIN = 1.05  # more rows than the variance of the first ones asks for, so that they nearly always do
HEAD = 8192  # rows among which repeated ones are looked for: those of one stimulus follow each other
Pairs = Sequence[tuple[int, int]]


class Sampled(NamedTuple):
    """Hold scores of pairs of layers, estimated from some of the samples.

    Attributes
    ----------
    scores : Array
        (pair,).
    errors : Array
        The standard error of each score around that of all samples (pair,); 0 where all samples were used.
    rows : int
        How many samples were used.
    deviations : Array
        How far each row, or each block of rows, is off (row, pair); their mean is 0.
    null : Array or None
        Scores under permutation of the same rows (permutation, pair).
    """

    scores: Array
    errors: Array
    rows: int
    deviations: Array
    null: Array | None = None


def check_tolerance(metric: str, tolerance: float | None, **others: object) -> None:
    """Raise ValueError where a tolerance is no standard error, or cannot be met by this metric.

    Parameters
    ----------
    metric : str
        A name of `METRICS`.
    tolerance : float, optional
        The standard error that is asked for.
    **others : object
        Options that a tolerance cannot go with, None, False or 1 where they are not used.

    Raises
    ------
    ValueError
        What is wrong with it, and the remedy.
    """
    if tolerance is None:
        return
    number = isinstance(tolerance, int | float | np.number) and not isinstance(tolerance, bool)
    if not number or not 0 < tolerance < 1:
        raise ValueError(f"tolerance must be a standard error above 0 and below 1, such as 0.002, got {tolerance!r}")
    for name, value in others.items():
        if value not in (None, False) and not (name == "block" and value == 1):
            raise ValueError(f"tolerance cannot go with {name}=, which needs all samples: leave one of them out")
    if metric in METRICS and metric not in BY_ROWS + BY_BLOCKS:
        raise ValueError(
            f"{metric} of some samples is no estimate of {metric} of all without a bias: leave tolerance out, or use "
            f"one of {', '.join(BY_ROWS + BY_BLOCKS)}"
        )


def sampled_scores(
    xs: Layers,
    ys: Layers,
    pairs: Pairs,
    metric: str,
    k: int,
    tolerance: float,
    memory: float = MEMORY,
    permutations: int = 0,
    seed: int = 0,
) -> Sampled | None:
    """Estimate the scores of pairs of layers to a standard error, adding rows until it is met.

    Parameters
    ----------
    xs, ys : list of Tensor
        Layers (sample, dim) on one device, in half precision too: what is read is converted to their `common_dtype`.
        All rows are read once, part by part; what costs more than reading is done for the rows that are used.
    pairs : sequence of (int, int)
        Which layer of xs is compared with which of ys.
    metric : str
        A metric that `check_tolerance` lets pass.
    k : int
        The number of neighbours.
    tolerance : float
        The largest standard error.
    memory : float
        Bytes of features that are held at once.
    permutations : int
        How many permutations of the rows that were used are scored too.
    seed : int
        Seed of the permutations. Which rows are used is the same for every seed.

    Returns
    -------
    Sampled or None
        The scores; None where only all samples meet the tolerance, so that the exact scores are to be computed.

    Raises
    ------
    ValueError
        A row that is not finite.

    Notes
    -----
    mutual_knn is a mean over samples: m query rows, drawn without replacement, have the error
    sqrt((1 - m / N) s^2 / m), with s^2 the variance of their shares. Their neighbours are sought among all samples.
    Of cka and cka_units see `metrics.estimators.sample_blocks`. A ratio of unbiased terms has a bias of the order of
    its variance, at a tolerance of .002 some 1e-5. A few samples far from all others make up most of such a score, and
    a draw of rows may miss them. So the rows used are worth `ALIKE` rows of equal weight at least, or all are used.
    A permutation maps used rows to used rows, and keeps each block of cka in itself. Together with the score as it was
    estimated that is a permutation test as exact as one of all samples, of less power where rows are few.
    """
    order = np.random.default_rng(2).permutation(len(xs[0]))
    if metric in BY_ROWS:
        return _by_rows(xs, ys, pairs, k, tolerance, order, permutations, seed)
    return _by_blocks(xs, ys, pairs, metric == "cka_units", tolerance, order, memory, permutations, seed)


def draws_around(found: Sampled, draws: int, seed: int) -> Array:
    """Return draws of scores as other samples could have had them, from how far each row or block is off.

    Parameters
    ----------
    found : Sampled
        The scores.
    draws : int
        How many draws.
    seed : int
        Seed of the signs, which are those of every score: differences of draws are draws of the difference.

    Returns
    -------
    Array
        (draw, pair). Of mutual_knn, what other samples to be neighbours of would change is left out: it is smaller by
        the share of rows that were used.
    """
    count = len(found.deviations)
    signs = np.random.default_rng([seed, 1]).choice([-1.0, 1.0], (draws // 2, count))
    steps = signs @ found.deviations / np.sqrt(count * (count - 1))
    return found.scores + np.concatenate([steps, -steps])


def _by_rows(
    xs: Layers, ys: Layers, pairs: Pairs, k: int, tolerance: float, order: Array, permutations: int, seed: int
) -> Sampled | None:
    """Add query rows until the largest error is met."""
    samples, used, wanted = len(order), 0, PILOT
    layers = [*xs, *ys]
    dtype = common_dtype(layers)
    check_finite(layers, _names(xs, ys))
    near: list[Array] = [np.empty((0, k), int) for _ in layers]
    while True:
        if 2 * wanted > samples:  # little is saved: a row costs what it costs in the exact map
            return None
        queries = order[used:wanted]
        if any(one_way(unit_rows(layer[torch.from_numpy(queries).to(layer.device)])) for layer in layers):
            return None
        more = [nearest_of(layer, queries, k, dtype) for layer in layers]
        near = [np.concatenate(both) for both in zip(near, more, strict=True)]
        used, a, b = wanted, near[: len(xs)], near[len(xs) :]
        found = np.stack([shares(a[i], b[j]) for i, j in pairs], 1)
        # as if a few rows had one neighbour in common: where none was seen, some may be left
        spread = np.maximum(found.var(0, ddof=1), SEEN / (used * k**2))
        errors = np.sqrt((1 - used / samples) * spread / used)
        if errors.max() <= tolerance:
            break
        needed = spread.max() / (tolerance**2 + spread.max() / samples)
        wanted = max(math.ceil(MARGIN * needed), used + PILOT // 8)
    null = None
    if permutations:
        rng = np.random.default_rng([seed, 0])
        orders = np.empty((permutations, samples), np.int64)
        for row in orders:
            row[order[:used]] = rng.permutation(order[:used])
            row[order[used:]] = rng.permutation(order[used:])
        null = permuted_shares(a, b, pairs, order[:used], orders)
    return Sampled(found.mean(0), errors, used, found - found.mean(0), null)


def _by_blocks(
    xs: Layers,
    ys: Layers,
    pairs: Pairs,
    units: bool,
    tolerance: float,
    order: Array,
    memory: float,
    permutations: int,
    seed: int,
) -> Sampled | None:
    """Add blocks of samples until the largest error is met."""
    samples = len(order)
    block = min(LARGEST, 2 ** int(math.log2(max(samples // (2 * BLOCKS), 1))))
    if block < 16:  # too few samples for any saving
        return None
    most, used, wanted = samples // block, 0, BLOCKS
    layers, both = [*xs, *ys], [(i, len(xs) + j) for i, j in pairs]
    first = torch.from_numpy(np.sort(order[: wanted * block]))
    centrings, uneven = [], 1.0
    for layer, name in zip(layers, _names(xs, ys), strict=True):
        centre = middle(layer[first.to(layer.device)].to(common_dtype(layers)))
        far = distances(layer, centre)
        longest = float(far.max())
        if not math.isfinite(longest):
            check_finite([layer], [name])
            return None  # squares overflow
        centrings.append((centre, longest or 1.0))
        uneven = max(uneven, unevenness(far))
    if ALIKE * uneven > most * block:
        return None
    wanted = max(wanted, math.ceil(ALIKE * uneven / block))
    terms: list[Array] = []
    while True:
        for rows in _blocks(layers, centrings, order, block, used, wanted, memory):
            terms.append(block_terms(rows, units))
        used = wanted
        scores, deviations, paired = scores_and_errors(np.stack(terms), both, samples, block)
        whole = deviations.var(0, ddof=1)
        lasting = paired * block / samples
        errors = np.sqrt((1 - used * block / samples) * whole / used + lasting)
        if not np.isfinite(errors).all():
            return None
        if errors.max() <= tolerance:
            break
        room = tolerance**2 - lasting
        if used == most or room.min() <= 0:
            return None
        needed = (whole / (room + whole * block / samples)).max()
        wanted = min(max(math.ceil(MARGIN * needed), used + 2), most)
        if wanted > 4 * used:  # the largest of many variances of few blocks is too large: look again half-way
            wanted //= 2
    null = None
    if permutations:
        rng, null = np.random.default_rng([seed, 0]), np.zeros((permutations, len(pairs)))
        own = np.diag(np.mean(terms, 0)[0])
        for rows in _blocks(layers, centrings, order, block, 0, used, memory):
            orders = np.stack([rng.permutation(block) for _ in range(permutations)])
            null += permuted_terms(rows[: len(xs)], rows[len(xs) :], pairs, orders) / used
        null /= [np.sqrt(own[i] * own[j]) for i, j in both]
    return Sampled(scores, errors, used * block, deviations, null)


def _names(xs: Layers, ys: Layers) -> list[str]:
    """Return what errors call the layers of both sides."""
    return [f"layer {index} of {side}" for side, layers in (("x", xs), ("y", ys)) for index in range(len(layers))]


def _blocks(
    layers: Layers,
    centrings: Sequence[tuple[torch.Tensor, float]],
    order: Array,
    block: int,
    first: int,
    last: int,
    memory: float,
) -> Iterator[Layers]:
    """Yield the rows of every block in turn, less a centre and in units of a length.

    Several blocks are read at once, in the order of the file.
    """
    dtype = common_dtype(layers)
    size = block * sum(layer.shape[1] * dtype.itemsize for layer in layers)
    step = min(AT_ONCE, max(1, int(memory / 2 / size)))
    for start in range(first, last, step):
        rows = order[start * block : min(start + step, last) * block]
        ranked = np.argsort(rows)
        place = torch.from_numpy(np.argsort(ranked))
        chosen = torch.from_numpy(rows[ranked])
        read = [layer[chosen.to(layer.device)].to(dtype) for layer in layers]
        for one in place.split(block):
            yield [
                layer[one.to(layer.device)].sub_(centre).div_(length)
                for layer, (centre, length) in zip(read, centrings, strict=True)
            ]
