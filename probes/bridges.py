"""Bridge plans: which understanding layer meets which generation layer, and the rules that choose them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from .matching import best_pairs, block_values, count_blocks, match
from .metrics import Array
from .plans import LAYOUTS, STREAMS, TRUNKS, BridgePlan, Pairs

__all__ = ["LAYOUTS", "STREAMS", "TRUNKS", "BridgePlan", "Pairs", "choose_bridges", "count_blocks", "score"]


def choose_bridges(
    heat: pd.DataFrame, rule: str = "alignment", bridges: int = 4, seed: int = 0, stream: str = "image"
) -> BridgePlan:
    """The bridge plan of so many bridges that a rule prefers, from a layer map.

    `alignment` takes the plan with the largest sum of map values over its pairs, of all plans that neither cross nor
    repeat, exactly. The fixed plans read only the towers' depths off the map and have no score: `all` (every block of
    the shallower tower, whatever `bridges` says, with the block of the other nearest in depth), `middle` (that many
    consecutive pairs of `all`, centred), `uniform` (spread evenly over `all`), `last` (the last blocks of both towers),
    `random` (drawn by `seed`, every plan of that size equally likely).

    Args:
        heat: as `similarity_map` returns it; "embeddings" is never bridged. Depths in its attrs tell the number of
            blocks, else the last one named does.
        bridges: how many, at most the blocks of the shallower tower.
        seed: of `random`.
        stream: the stream of the generation tower that the bridges enter.

    Raises:
        ValueError: an unknown rule or stream, too many bridges or none, layers that are not numbered, a map
            whose values do not allow such a plan.
    """
    if rule not in RULES and rule not in FIXED:
        raise ValueError(f"unknown rule {rule!r}: expected one of {', '.join([*RULES, *FIXED])}")
    understanding, generation = count_blocks(heat)
    shallower = min(understanding, generation)
    if not (isinstance(bridges, int) and 1 <= bridges <= shallower):
        raise ValueError(
            f"bridges must be from 1 to {shallower}, the blocks of the shallower tower (the towers have "
            f"{understanding} and {generation}), got {bridges!r}"
        )
    if rule in RULES:
        pairs, value = best_pairs(RULES[rule](heat), bridges)
        evidence = dict(heat.attrs)
    else:
        pairs, value = FIXED[rule](understanding, generation, bridges, seed), None
        evidence = {"seed": seed} if rule == "random" else {}
    return BridgePlan(pairs, stream, rule, evidence, understanding, generation, value)


def score(plan: BridgePlan, evidence: pd.DataFrame, rule: str = "alignment") -> float:
    """What a rule gives any plan, a fixed one included: the sum of its gains over the pairs; NaN if one is missing.

    Raises:
        ValueError: a rule without a score; a plan for other towers than those of the evidence.
    """
    if rule not in RULES:
        raise ValueError(f"no score for rule {rule!r}: expected one of {', '.join(RULES)}")
    if count_blocks(evidence) != (plan.understanding_layers, plan.generation_layers):
        raise ValueError(
            f"the plan is for towers of {plan.understanding_layers} and {plan.generation_layers} blocks, the map of "
            "{} and {}".format(*count_blocks(evidence))
        )
    gains = RULES[rule](evidence)
    return float(sum(gains[u, g] for u, g in plan.pairs))


def alignment_gains(heat: pd.DataFrame) -> Array:
    """The layer map by block number; a distance is refused."""
    if heat.attrs.get("metric") == "modality_gap":
        raise ValueError("modality_gap is a distance, and the largest would be bridged: choose from a similarity")
    return block_values(heat)


def _all(understanding: int, generation: int, bridges: int, seed: int) -> Pairs:
    return match(understanding, generation)


def _middle(understanding: int, generation: int, bridges: int, seed: int) -> Pairs:
    pairs = _all(understanding, generation, bridges, seed)
    start = (len(pairs) - bridges) // 2
    return pairs[start : start + bridges]


def _uniform(understanding: int, generation: int, bridges: int, seed: int) -> Pairs:
    pairs = _all(understanding, generation, bridges, seed)
    return tuple(pairs[int((b + 0.5) * len(pairs) / bridges)] for b in range(bridges))


def _last(understanding: int, generation: int, bridges: int, seed: int) -> Pairs:
    return tuple((understanding - bridges + b, generation - bridges + b) for b in range(bridges))


def _random(understanding: int, generation: int, bridges: int, seed: int) -> Pairs:
    # a plan is a set of blocks on either side, paired in order: two uniform sets make a uniform plan
    rng = np.random.default_rng(seed)
    sides = [sorted(rng.choice(count, bridges, replace=False).tolist()) for count in (understanding, generation)]
    return tuple(zip(*sides, strict=True))


RULES: dict[str, Callable[[pd.DataFrame], Array]] = {"alignment": alignment_gains}
FIXED: dict[str, Callable[[int, int, int, int], Pairs]] = {
    "all": _all,
    "middle": _middle,
    "uniform": _uniform,
    "last": _last,
    "random": _random,
}
