"""The fixed rules: bridge plans that measure nothing and read only the depths of the two towers.

To add one, add its row to `FIXED` here. Rules with a score are in probes/plans/rules.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from .layout_table import Pairs, unbridged
from .matching import match


def _four(understanding: int, generation: int) -> int:
    """Return 4, whatever the depths are."""
    return 4


def _unscaled(understanding: int, generation: int) -> int:
    """Return the number of blocks of the shallower tower."""
    return min(understanding, generation)


def _of_hbridge(understanding: int, generation: int) -> int:
    """Return as many as HBridge has, scaled: 16 of 28 blocks of the shallower tower."""
    shallower = min(understanding, generation)
    return shallower - 2 * unbridged(shallower)


class FixedRule(NamedTuple):
    """A rule without a score.

    Attributes
    ----------
    pairs : callable
        A function (understanding blocks, generation blocks, bridges, seed) that returns the pairs.
    about : str
        The pairs in words, as help texts say it.
    default_bridges : callable
        A function of the two numbers of blocks that returns how many bridges there are if nobody says so.
    seeded : bool
        Whether the pairs depend on the seed, which the plan then keeps.
    """

    pairs: Callable[[int, int, int, int], Pairs]
    about: str
    default_bridges: Callable[[int, int], int] = _four
    seeded: bool = False


def _all(understanding: int, generation: int, bridges: int, seed: int) -> Pairs:
    return match(understanding, generation)


def _middle(understanding: int, generation: int, bridges: int, seed: int) -> Pairs:
    pairs = match(understanding, generation)
    start = (len(pairs) - bridges) // 2
    return pairs[start : start + bridges]


def _shallow(understanding: int, generation: int, bridges: int, seed: int) -> Pairs:
    return tuple((b, g) for b, (_, g) in enumerate(_middle(understanding, generation, bridges, seed)))


def _deep(understanding: int, generation: int, bridges: int, seed: int) -> Pairs:
    start = understanding - bridges
    return tuple((start + b, g) for b, g in _shallow(understanding, generation, bridges, seed))


def _uniform(understanding: int, generation: int, bridges: int, seed: int) -> Pairs:
    pairs = match(understanding, generation)
    return tuple(pairs[int((b + 0.5) * len(pairs) / bridges)] for b in range(bridges))


def _first(understanding: int, generation: int, bridges: int, seed: int) -> Pairs:
    return tuple((b, b) for b in range(bridges))


def _early(understanding: int, generation: int, bridges: int, seed: int) -> Pairs:
    return tuple((int((b + 0.5) * understanding / bridges), b) for b in range(bridges))


def _last(understanding: int, generation: int, bridges: int, seed: int) -> Pairs:
    return tuple((understanding - bridges + b, generation - bridges + b) for b in range(bridges))


def _random(understanding: int, generation: int, bridges: int, seed: int) -> Pairs:
    # a plan is a set of blocks on either side, paired in order: two uniform sets make a uniform plan
    rng = np.random.default_rng(seed)
    sides = [sorted(rng.choice(count, bridges, replace=False).tolist()) for count in (understanding, generation)]
    return tuple(zip(*sides, strict=True))


FIXED: dict[str, FixedRule] = {
    "all": FixedRule(
        _all,
        "every block of the shallower tower with the block of the other nearest in depth, whatever `bridges` says",
        _unscaled,
    ),
    "middle": FixedRule(_middle, "that many consecutive pairs of `all`, centred", _of_hbridge),
    "shallow": FixedRule(
        _shallow, "the generation blocks of `middle` with the first understanding blocks, in order", _of_hbridge
    ),
    "deep": FixedRule(
        _deep, "the generation blocks of `middle` with the last understanding blocks, in order", _of_hbridge
    ),
    "uniform": FixedRule(_uniform, "that many pairs spread evenly over `all`"),
    "first": FixedRule(_first, "the first blocks of both towers, in order"),
    "early": FixedRule(_early, "the first generation blocks with understanding blocks spread evenly"),
    "last": FixedRule(_last, "the last blocks of both towers, in order"),
    "random": FixedRule(_random, "drawn by `seed`, every plan of that size being equally likely", seeded=True),
}
