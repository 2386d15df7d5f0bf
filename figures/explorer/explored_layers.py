"""Read the two sides of an explored map, and draw what all of its maps share: ranks, permutations, halves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ...probes.arguments import checked
from ...probes.features.caption_groups import image_by_image
from ...probes.features.features import Features
from ...probes.features.layer_features import LayerFeatures
from ...probes.metrics import METRICS
from ...probes.metrics.metric import Array
from ...probes.metrics.neighbours import rank_neighbours
from ...probes.plans.bridge_plan import STREAMS
from ...probes.similarity.inputs import (
    Layers,
    Stack,
    check_dims,
    check_metric,
    check_same_stimuli,
    check_samples,
    full_precision,
    read_stack,
    to_common_dtype,
)
from ...probes.similarity.intervals import half_k, random_halves
from ...probes.similarity.nulls import check_block, draw_orders
from ...probes.similarity.rows import check_exchangeable, side_of
from ...probes.stimuli.stimulus_set import Stimuli

LIVE = "mutual_knn"  # the metric that the page itself computes, for any k and timestep
FEWEST_RANKS = 64  # ranks that are kept of each sample: half of them, and so k of a half, are nearly always in a half
MOST = 2**13  # samples of which a page can hold the ranks and the thumbnails


@dataclass(frozen=True, eq=False)
class ExploredLayers:
    """Hold the layers that are explored, and what permutations and halves all of their maps are measured with.

    Attributes
    ----------
    understanding : Stack
        The understanding side, one stack.
    generation : tuple of Stack
        The generation side, one stack a timestep.
    timesteps : tuple of float or None
        The timesteps; (None,) where there are none.
    rows, columns : list
        Names of the understanding and of the generation layers.
    depths : tuple of (list, list)
        Their relative depths.
    about : tuple of (dict, list of dict)
        What `read_stack` says of the understanding side, and of the generation side at each timestep.
    ids : tuple of str
        The id of each sample.
    xs : list of Tensor
        The understanding layers (sample, dim).
    ys : list of list of Tensor
        The generation layers at each timestep.
    block : int
        How many consecutive samples belong together.
    largest_k : int
        The largest number of neighbours that the page offers.
    orders : Array
        Permutations of the samples (permutation, sample).
    halves : Array
        Both halves of each random split (split, 2, sample).
    """

    understanding: Any
    generation: tuple[Any, ...]
    timesteps: tuple[float | None, ...]
    rows: list[Any]
    columns: list[Any]
    depths: tuple[list[float], list[float]]
    about: tuple[dict[str, Any], list[dict[str, Any]]]
    ids: tuple[str, ...]
    xs: Layers
    ys: list[Layers]
    block: int
    largest_k: int
    orders: Array
    halves: Array

    @property
    def samples(self) -> int:
        """The number of samples."""
        return len(self.ids)

    @property
    def half(self) -> int:
        """The number of samples of a half."""
        return self.halves.shape[2]

    @property
    def chosen(self) -> list[Array]:
        """The samples of every half, both halves of a split behind each other."""
        return list(self.halves.reshape(-1, self.half))

    def near(self, metric: str, k: int) -> int:
        """Return the number of neighbours in a half that stands for k in all.

        Parameters
        ----------
        metric : str
            A name of `METRICS`.
        k : int
            The number of neighbours among all samples.

        Returns
        -------
        int
            As `half_k`.
        """
        return half_k(metric, k, self.half, self.samples)

    def offers(self, k: int) -> list[str]:
        """Name the metrics that can be measured on these layers and have a null.

        Parameters
        ----------
        k : int
            The number of neighbours.

        Returns
        -------
        list of str
            Names of `METRICS`, the live one first.
        """
        fit = []
        for name, metric in METRICS.items():
            try:
                check_samples(name, max(k, metric.least_k), self.samples, self.samples)
                check_dims(name, self.xs, self.ys[0])
            except ValueError:
                continue
            fit += [name] if metric.sees_pairs else []
        return sorted(fit, key=lambda name: name != LIVE)

    def check_choice(self, metrics: Iterable[str], k: int, timestep: float | None, known: Iterable[str] | None) -> int:
        """Check what is to be shown.

        Parameters
        ----------
        metrics : iterable of str
            The metrics.
        k : int
            The number of neighbours.
        timestep : float or None
            The timestep; the first one if it is left out.
        known : iterable of str or None
            The ids of the stimuli that were handed over, if any were.

        Returns
        -------
        int
            The number of the timestep.

        Raises
        ------
        ValueError
            What does not fit these layers.
        """
        offered = self.offers(k)
        for name in metrics:
            if name not in METRICS:
                raise ValueError(f"unknown metric {name!r}: expected one of {', '.join(METRICS)}")
            if name not in offered:
                raise ValueError(f"explorer: {name} does not fit these layers: they take {', '.join(offered)}")
        if isinstance(k, bool) or not isinstance(k, int | np.integer) or not 1 <= k <= self.largest_k:
            raise ValueError(f"explorer: k must be from 1 to {self.largest_k} (largest_k), got {k!r}")
        there = set(self.ids if known is None else known)
        if lost := [id for id in self.ids if id not in there]:
            raise ValueError(
                f"explorer: the stimuli lack {lost[0]!r} and {len(lost) - 1} more samples of the features: pass the "
                "stimuli that were extracted"
            )
        if timestep is None:
            return 0
        swept = [t for t in self.timesteps if t is not None]
        for number, known_timestep in enumerate(swept):
            if abs(known_timestep - timestep) < 1e-6:
                return number
        listed = ", ".join(f"{t:g}" for t in swept) or "none"
        raise ValueError(f"explorer: no features at timestep {timestep:g}: swept are {listed}")

    def ranks(self) -> tuple[list[Array | None], list[list[Array | None]]]:
        """Rank the nearest samples of every sample in every layer.

        Returns
        -------
        list
            (sample, rank) of each understanding layer; None where all samples point the same way.
        list of list
            The same of each timestep's generation layers.
        """
        count = min(self.samples - 1, max(FEWEST_RANKS, 3 * self.largest_k + 4))
        with full_precision():
            rows = [rank_neighbours(x, count) for x in self.xs]
            columns = [[rank_neighbours(y, count) for y in ys] for ys in self.ys]
        return rows, columns


def check_asked(
    metrics: Sequence[str],
    k: int,
    largest_k: int,
    bridges: int | None,
    stream: str,
    stimuli: Stimuli | None,
    maps: Sequence[pd.DataFrame],
) -> None:
    """Check what an explorer is asked to show, before anything is measured.

    Parameters
    ----------
    metrics, k, largest_k, bridges, stream, stimuli, maps
        As of `explorer`; its metric is the first of the metrics.

    Raises
    ------
    TypeError, ValueError
        As `checked` does, for the first one that is wrong.
    """
    for metric in metrics:
        check_metric(metric)
    for name, count in (("k", k), ("largest_k", largest_k)):
        checked(name, count, int, least=1)
    checked("bridges", bridges, int | None, least=1)
    checked("stream", stream, str, known=STREAMS)
    checked("stimuli", stimuli, Stimuli | None, remedy="pass what load_stimuli returns")
    for place, heat in enumerate(checked("maps", maps, Sequence)):
        checked(f"map {place}", heat, pd.DataFrame, remedy="make one with similarity_map")


def read_layers(
    understanding: Stack,
    generation: Stack,
    largest_k: int,
    draws: int,
    permutations: int,
    block: int,
) -> ExploredLayers:
    """Read and check both sides of an explored map.

    Parameters
    ----------
    understanding, generation : LayerFeatures, Tensor, Array or sequence of layers
        As of `similarity_map`; the generation side may be a sweep over timesteps.
    largest_k : int
        The largest number of neighbours that is offered; less where there are fewer samples.
    draws : int
        How many random halves of the samples.
    permutations : int
        How many permutations.
    block : int
        As of `map_null`.

    Returns
    -------
    ExploredLayers
        The sides, checked.

    Raises
    ------
    ValueError, TypeError
        As `similarity_map` and `map_null`; also features of both modalities, too many samples, or too few draws.
    """
    for name, side in (("understanding", understanding), ("generation", generation)):
        if isinstance(side, Features):
            raise ValueError(
                f"explorer: the {name} features hold {' and '.join(side.modalities)}: pass one of them, such as "
                f"features[{next(iter(side.modalities))!r}]"
            )
    for name, value, least in (("draws", draws, 10), ("permutations", permutations, 20), ("largest_k", largest_k, 1)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
            raise ValueError(f"explorer: {name} must be a whole number of at least {least}, got {value!r}")
    understanding, generation = image_by_image(understanding, generation).pairs[0]
    stacks: tuple[Stack, ...] = (generation,)
    if isinstance(generation, LayerFeatures) and generation.swept:
        stacks = tuple(generation.at(t) for t in generation.timesteps)
    xs, rows, x_depths, x_about = read_stack(understanding, "understanding")
    read = [read_stack(stack, "generation") for stack in stacks]
    samples = len(xs[0])
    check_samples(LIVE, 1, samples, len(read[0][0][0]))
    if samples > MOST:
        raise ValueError(
            f"explorer: {samples} samples are more than a page can hold, {MOST}: extract fewer stimuli, such as "
            f"stimuli[:{MOST}]"
        )
    check_block(samples, block)
    sides: list[Layers] = []
    for stack, (ys, _, _, _) in zip(stacks, read):
        check_same_stimuli(understanding, stack)
        check_exchangeable("a null", side_of(understanding, xs, "x"), side_of(stack, ys, "y"), block=block)
        sides.append(to_common_dtype(xs, ys)[1])
    known = [about.get("timestep") for _, _, _, about in read]
    named = next((side.samples for side in (understanding, *stacks) if isinstance(side, LayerFeatures)), None)
    return ExploredLayers(
        understanding,
        stacks,
        tuple(known),
        rows,
        read[0][1],
        (x_depths, read[0][2]),
        (x_about, [about for _, _, _, about in read]),
        tuple(named) if named else tuple(map(str, range(samples))),
        to_common_dtype(xs, sides[0])[0],
        sides,
        block,
        min(largest_k, samples - 1),
        draw_orders(samples, permutations, block=block),
        np.array(random_halves(samples, -(-draws // 2), block=block)),
    )
