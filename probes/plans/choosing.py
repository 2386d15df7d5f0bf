"""The rules that choose bridge plans, and the search that finds the best plan of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from .bridge_plan import LAYOUTS, STREAMS, TRUNKS, BridgePlan, Pairs
from .layouts import unbridged
from .matching import MATCHINGS, best_pairs, count_blocks, match
from .rules import RULES, Evidence, count_layers, evidence_summary

__all__ = [
    "LAYOUTS",
    "STREAMS",
    "TRUNKS",
    "BridgePlan",
    "ChoiceOptions",
    "Pairs",
    "choose_bridges",
    "count_blocks",
    "rank_for",
    "score_plan",
]

TIE = 1e-9  # scores that differ by less are the same


def choose_bridges(
    evidence: Evidence | None,
    rule: str = "alignment",
    bridges: int | None = None,
    seed: int = 0,
    stream: str = "image",
    *,
    layers: tuple[int, int] | None = None,
    parameters: int | None = None,
    count: Callable[[BridgePlan], int] | None = None,
    **fields: Any,
) -> BridgePlan:
    """The bridge plan that a rule prefers, of all plans of so many bridges that neither cross nor repeat a block.

    A rule with a score takes the plan with the largest sum of gains over its pairs, exactly, by dynamic programming:

    =================  ===============================================  ================================================
    rule               evidence                                         gain of a pair
    =================  ===============================================  ================================================
    alignment          `similarity_map`                                 the map's value
    complementarity    `complementarity_map`                            what understanding adds to generation's R^2
    causal             `ablate_links` of a trained dense model          scene score lost with the link broken
    gradient_conflict  `gradient_conflict` of a trained dense or        minus the conflict of both blocks (Uni-X)
                       unified model
    divergence         `divergence`                                     1 up to the depth, -1 beyond (UniFork)
    =================  ===============================================  ================================================

    A fixed plan reads only the towers' depths and has no score: `all` (every block of the shallower tower, whatever
    `bridges` says, with the block of the other nearest in depth), `middle` (that many consecutive pairs of `all`,
    centred), `uniform` (spread evenly over `all`), `last` (the last blocks of both towers), `random` (drawn by `seed`,
    every plan of that size equally likely).

    >>> choose_bridges(heat, bridges=4, rank=8)                                # K bridges of equal rank
    >>> choose_bridges(heat, bridges=4, parameters=100_000, count=trainable)   # the largest rank within a budget

    Args:
        evidence: of the rule, as in the table; of a fixed plan a layer map, or None beside `layers`. What its `attrs`
            hold goes into the plan; {"cost": {"steps": ..., "seconds": ...}} is what it took, the training included.
        bridges: how many, at most the blocks of the shallower tower. By default 4; of `middle` as many as HBridge has,
            16 of 28 scaled (`layouts.unbridged`); of `divergence` all up to its depth.
        seed: of `random`.
        stream: the stream of the generation tower that the bridges enter.
        layers: the blocks of the two towers, where no layer map tells them.
        parameters: a budget of trainable parameters, met through the rank.
        count: the trainable parameters of a plan; with `parameters`.
        fields: other fields of the plan: layout, both_ways, gated, rank, semantic_tokens.

    Raises:
        ValueError: an unknown rule, stream or layout; evidence of another kind than the rule's, or of other towers; too
            many bridges or none; evidence whose values do not allow such a plan; a budget too small for rank 1.
    """
    if rule not in RULES and rule not in FIXED:
        raise ValueError(f"unknown rule {rule!r}: expected one of {', '.join([*RULES, *FIXED])}")
    if parameters is not None and (count is None or fields.get("rank") is not None):
        raise ValueError("a budget of parameters is met through the rank: pass count, and no rank")
    value: float | None = None
    if rule in RULES:
        gains = RULES[rule].gains(evidence, layers)
        understanding, generation = gains.values.shape
        if rule == "divergence" and bridges is None:
            bridges = _reach(gains.values)
        wanted = _check(bridges, (understanding, generation))
        pairs, _ = best_pairs(gains.values + TIE * gains.ties, wanted)
        value = float(sum(gains.values[pair] for pair in pairs))
        assert evidence is not None
        told = evidence_summary(evidence, rule)
    else:
        understanding, generation = count_layers(evidence, layers)
        shallower = min(understanding, generation)
        share = shallower - 2 * unbridged(shallower) if rule == "middle" else shallower if rule == "all" else None
        wanted = _check(share if bridges is None else bridges, (understanding, generation))
        pairs = FIXED[rule](understanding, generation, wanted, seed)
        told = {"seed": seed} if rule == "random" else {}
    plan = BridgePlan(pairs, stream, rule, told, understanding, generation, value, **fields)
    if parameters is None or count is None:
        return plan
    rank = rank_for(parameters, lambda rank: count(replace(plan, rank=rank)))
    return replace(plan, rank=rank, evidence=told | {"parameters": parameters})


def score_plan(plan: BridgePlan, evidence: Evidence, rule: str = "alignment") -> float:
    """What a rule gives any plan, a fixed one included: the sum of its gains over the pairs; NaN if one is missing.

    Raises:
        ValueError: a rule without a score; evidence of another kind than the rule's, or of other towers.
    """
    if rule not in RULES:
        raise ValueError(f"no score for rule {rule!r}: expected one of {', '.join(RULES)}")
    gains = RULES[rule].gains(evidence, (plan.understanding_layers, plan.generation_layers)).values
    return float(sum(gains[pair] for pair in plan.pairs))


def rank_for(parameters: int, count: Callable[[int], int]) -> int:
    """The largest rank whose bridges have at most so many trainable parameters; `count` tells those of a rank.

    Raises:
        ValueError: rank 1 has more, or the count does not grow with the rank.
    """
    if (least := count(1)) > parameters:
        raise ValueError(f"{parameters} trainable parameters are too few: bridges of rank 1 have {least}")
    low, high = 1, 2
    while (found := count(high)) <= parameters:
        if found <= count(low):
            raise ValueError(f"the parameters do not grow with the rank: {found} at rank {low} and at {high}")
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if count(middle) <= parameters else (low, middle)
    return low


def _check(bridges: int | None, depths: tuple[int, int]) -> int:
    bridges = 4 if bridges is None else bridges
    if not (isinstance(bridges, int) and 1 <= bridges <= min(depths)):
        raise ValueError(
            f"bridges must be from 1 to {min(depths)}, the blocks of the shallower tower (the towers have "
            f"{depths[0]} and {depths[1]}), got {bridges!r}"
        )
    return bridges


def _reach(gains: np.ndarray) -> int:
    """How many pairs lie up to the divergence depth."""
    within = gains > 0
    reach = min(int(within.any(1).sum()), int(within.any(0).sum()))
    if not reach:
        raise ValueError("no block of one tower lies up to the divergence depth: pass bridges")
    return reach


def _all(understanding: int, generation: int, bridges: int, seed: int) -> Pairs:
    return match(understanding, generation)


def _middle(understanding: int, generation: int, bridges: int, seed: int) -> Pairs:
    pairs = match(understanding, generation)
    start = (len(pairs) - bridges) // 2
    return pairs[start : start + bridges]


def _uniform(understanding: int, generation: int, bridges: int, seed: int) -> Pairs:
    pairs = match(understanding, generation)
    return tuple(pairs[int((b + 0.5) * len(pairs) / bridges)] for b in range(bridges))


def _last(understanding: int, generation: int, bridges: int, seed: int) -> Pairs:
    return tuple((understanding - bridges + b, generation - bridges + b) for b in range(bridges))


def _random(understanding: int, generation: int, bridges: int, seed: int) -> Pairs:
    # a plan is a set of blocks on either side, paired in order: two uniform sets make a uniform plan
    rng = np.random.default_rng(seed)
    sides = [sorted(rng.choice(count, bridges, replace=False).tolist()) for count in (understanding, generation)]
    return tuple(zip(*sides, strict=True))


FIXED: dict[str, Callable[[int, int, int, int], Pairs]] = {
    "all": _all,
    "middle": _middle,
    "uniform": _uniform,
    "last": _last,
    "random": _random,
}


@dataclass(frozen=True)
class ChoiceOptions:
    """Hold the options of `bridgework choose`, which `choose_from_features` takes, each with its help.

    Attributes
    ----------
    rule, bridges, seed, stream
        As of `choose_bridges`; the rule "published" takes the layout's own pairs (`lay_out`).
    layout, matching, rank
        As of `lay_out`.
    metric, timestep
        What evidence is measured with: the metric of the layer map, and the timestep of the generation features.
    evidence
        A file that `read_evidence` reads, in place of measured evidence.

    Notes
    -----
    The metadata of a field are keywords of `argparse.ArgumentParser.add_argument`. The help of a field whose default is
    None says what None stands for.
    """

    rule: str = field(
        default="alignment",
        metadata={
            "help": f"How the pairs are chosen: one of {', '.join([*RULES, *FIXED])}; or published, the pairs that the "
            "layout was published with."
        },
    )
    bridges: int | None = field(
        default=None,
        metadata={
            "help": "How many bridges the plan has. (default: 4; for the rules all, middle and divergence the number "
            "follows from the towers)",
        },
    )
    layout: str = field(
        default="H", metadata={"help": f"How the towers are joined at the bridges: one of {', '.join(LAYOUTS)}."}
    )
    metric: str = field(
        default="mutual_knn", metadata={"help": "The similarity that the layer map and the curves are measured with."}
    )
    timestep: float | None = field(
        default=None,
        metadata={
            "help": "The timestep of the generation features that is read. (default: the only one; it must be given "
            "if the store holds several)",
        },
    )
    evidence: str | None = field(
        default=None,
        metadata={
            "help": "A file with the rule's evidence: a CSV or Parquet table, such as the links of a trained dense "
            "model, or a divergence as JSON. (default: it is measured from the two stores)",
            "metavar": "FILE",
        },
    )
    seed: int = field(default=0, metadata={"help": "The seed of the rule random."})
    matching: str | None = field(
        default=None,
        metadata={
            "help": f"How the rule published pairs blocks of unequal towers: one of {', '.join(MATCHINGS)}. "
            "(default: the matching of the layout's paper)",
        },
    )
    stream: str = field(
        default="image", metadata={"help": f"The generation tower's stream that is bridged: {', '.join(STREAMS)}."}
    )
    rank: int | None = field(
        default=None, metadata={"help": "The rank of the bridges' linear maps. (default: full rank)"}
    )
