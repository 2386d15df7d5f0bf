"""Settle the testbed: which experts, captions, bridges and training; protocol.md says why.

A change of anything here is another testbed. `bridge_runs.config` names it by a hash, and results of two are never
mixed.
"""

from __future__ import annotations

from typing import NamedTuple

from ...models.experts.opening import open_expert
from ...probes.plans.bridge_plan import BridgePlan
from .thresholds import LEAST_GENERATION, LEAST_UNDERSTANDING

PROTOCOL = 1
KINDS = ("negation", "relations", "relative clauses", "absence", "selection")  # kinds.csv says why these
LAYOUT = "double fusion"
STEPS, BATCH, RATE = 250, 16, 1e-2
DROPOUT = 0.1  # share of captions that are left out in training, for guidance
TIME_SHIFT = 2.0  # noisier than bridges are trained otherwise: there the caption decides most
SEEDS = (0, 1)
BRIDGES = 4
RANDOM_PLANS = 18
POOL = {"train": 600, "evidence": 120, "validation": 48, "test": 48}  # captions of every kind
DRAWN = 12  # of the test captions of every kind, as images that are scored
SAMPLING = {"steps": 8, "guidance": 3.0}
FLOOR, CEILING = "floor", "ceiling"


class Pair(NamedTuple):
    """Two experts with the grid of blocks that single bridges are trained on.

    Attributes
    ----------
    understanding, generation : str
        Names of experts.
    understanding_blocks, generation_blocks : tuple of int
        The grid.
    """

    understanding: str
    generation: str
    understanding_blocks: tuple[int, ...]
    generation_blocks: tuple[int, ...]

    @property
    def name(self) -> str:
        """Both experts' names."""
        return f"{self.understanding} x {self.generation}"


_THIRTY, _THIRTEEN = (0, 5, 11, 17, 23, 29), (0, 3, 6, 9, 12)
PAIRS = {
    pair.name: pair
    for pair in (
        Pair("smollm2-135m", "scenes-dit", _THIRTY, _THIRTEEN),
        Pair("scenes-reader", "scenes-dit", (0, 3, 6, 9, 12, 15), _THIRTEEN),
        Pair("minilm-l6", "scenes-dit", (0, 1, 2, 3, 4, 5), _THIRTEEN),
        Pair("smollm2-135m", "scenes-dit-wide", _THIRTY, (0, 2, 4, 5, 7)),
    )
}


def pair_named(name: str) -> Pair:
    """Return a pair of experts by its name, one of the protocol's or any other two.

    Parameters
    ----------
    name : str
        A name of `PAIRS`; or "UNDERSTANDING x GENERATION", two experts as `open_expert` takes them, whose grid of
        6 x 5 blocks is spread evenly from the first to the last.

    Returns
    -------
    Pair

    Raises
    ------
    ValueError
        If the name is not of two experts, or they are too shallow for the grid.
    """
    if name in PAIRS:
        return PAIRS[name]
    understanding, _, generation = name.partition(" x ")
    if not (understanding and generation):
        raise ValueError(
            f"{name!r} is no pair of experts: expected 'UNDERSTANDING x GENERATION', as {next(iter(PAIRS))}"
        )
    grid = []
    for expert, count in ((understanding, LEAST_UNDERSTANDING), (generation, LEAST_GENERATION)):
        depth = len(open_expert(expert).blocks)
        if depth < count:
            raise ValueError(f"{expert} has {depth} blocks, and the grid needs {count}: choose a deeper expert")
        grid.append(tuple(round(step * (depth - 1) / (count - 1)) for step in range(count)))
    return Pair(understanding, generation, *grid)


def plan_of(pairs: tuple[tuple[int, int], ...], depths: tuple[int, int]) -> BridgePlan:
    """Return the plan of a run: these bridges, in the layout of the testbed.

    Parameters
    ----------
    pairs : tuple of (int, int)
        Understanding and generation blocks.
    depths : (int, int)
        The numbers of blocks of the two experts.

    Returns
    -------
    BridgePlan
    """
    return BridgePlan(pairs, "image", "verdict", {}, *depths, layout=LAYOUT, gated=False)
