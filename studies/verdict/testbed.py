"""Settle the testbed: which experts, captions, bridges and training; protocol.md says why.

A change of anything here is another testbed. `bridge_runs.config` names it by a hash, and results of two are never
mixed.
"""

from __future__ import annotations

from typing import NamedTuple

from ...probes.plans.bridge_plan import BridgePlan

PROTOCOL = 1
KINDS = ("negation", "relations", "relative clauses", "absence", "selection")  # kinds.csv says why these
LAYOUT = "double fusion"
STEPS, BATCH, RATE = 250, 16, 1e-2
DROPOUT = 0.1  # share of captions that are left out in training, for guidance
TIME_SHIFT = 2.0  # noisier than bridges are trained otherwise: there the caption decides most
SEEDS = (0, 1)
BRIDGES = 4
RANDOM_PLANS = 24
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
    """Return a pair of experts by its name.

    Parameters
    ----------
    name : str
        A name of `PAIRS`.

    Returns
    -------
    Pair

    Raises
    ------
    ValueError
        If there is no such pair.
    """
    if name not in PAIRS:
        raise ValueError(f"unknown pair of experts {name!r}: expected one of {', '.join(PAIRS)}")
    return PAIRS[name]


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
