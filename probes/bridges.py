"""Bridge plans: which understanding layer meets which generation layer, and the rules that choose them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from .files import write_whole
from .metrics import Array

STREAMS = ("image", "text", "both")
TRUNKS = ("shared", "Y", "X")  # one model for both tasks
LAYOUTS = (*TRUNKS, "dense", "H", "double fusion", "last")
Pairs = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class BridgePlan:
    """Which blocks are bridged and how, plain JSON.

    Attributes:
        pairs: (understanding block, generation block), counted from 0 without the embeddings; they ascend, so that
            bridges neither cross nor repeat. A block of one tower may meet several of the other (LightFusion's surplus
            layers meet the last output again). In a layout of one trunk, (i, i) are the shared blocks.
        stream: the stream of the generation tower that the bridges enter, "image", "text" or "both".
        rule: the rule that chose the pairs.
        evidence: what it was chosen from, plain JSON.
        understanding_layers, generation_layers: the number of blocks of the two towers.
        score: what the rule gave this plan; None for a fixed plan.
        layout: how the towers are joined: "dense" (own weights, one joint attention: BAGEL, LMFusion), "H" (joint
            attention in the understanding expert's head space: HBridge), "double fusion" (a block behind each pair:
            LightFusion), "last" (cross-attention to the last understanding state: MetaQuery); or one trunk, "shared",
            "Y" (its first blocks shared: UniFork) or "X" (its middle shared: Uni-X).
        both_ways: whether understanding reads generation as well.
        gated: whether what a bridge brings passes a gate that starts at 0, the untouched expert. Without, "dense" and
            "H" change it from the start.
        rank: of the bridges' maps; None is full rank.
        semantic_tokens: learnt tokens on the generation side that reconstruct the understanding expert's features of
            the target image (HBridge); 0 is none.

    Raises:
        ValueError: pairs that cross, repeat, are missing or out of range; an unknown stream or layout; pairs or options
            that the layout does not allow.
    """

    pairs: Pairs
    stream: str
    rule: str
    evidence: dict[str, Any] = field(hash=False)
    understanding_layers: int
    generation_layers: int
    score: float | None = None
    layout: str = "H"
    both_ways: bool = False
    gated: bool = True
    rank: int | None = None
    semantic_tokens: int = 0

    def __post_init__(self) -> None:
        try:
            pairs = tuple((_whole(u), _whole(g)) for u, g in self.pairs)
        except (TypeError, ValueError):
            raise ValueError(
                f"pairs must be (understanding layer, generation layer) whole numbers: {self.pairs!r}"
            ) from None
        object.__setattr__(self, "pairs", pairs)
        if not pairs:
            raise ValueError("a bridge plan needs at least one pair")
        if self.stream not in STREAMS:
            raise ValueError(f"unknown stream {self.stream!r}: expected one of {', '.join(STREAMS)}")
        for u, g in pairs:
            if not (0 <= u < self.understanding_layers and 0 <= g < self.generation_layers):
                raise ValueError(
                    f"bridge {(u, g)} is out of range: the towers have {self.understanding_layers} and "
                    f"{self.generation_layers} blocks, counted from 0"
                )
        for first, second in pairwise(pairs):
            if not (first[0] <= second[0] and first[1] <= second[1] and first != second):
                raise ValueError(f"bridges {first} and {second} cross or repeat: pairs must ascend on both sides")
        _check_layout(self)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the plan as JSON, whole or not at all."""
        text = json.dumps(asdict(self), indent=2, sort_keys=True, allow_nan=False)
        write_whole(path, lambda temporary: temporary.write_text(text + "\n", encoding="utf-8"))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> BridgePlan:
        """Read a plan and check it.

        Raises:
            FileNotFoundError: no such file.
            ValueError: not a bridge plan, or one that does not hold together.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"no bridge plan {path}: make one with choose_bridges and save it")
        try:
            return cls(**json.loads(Path(path).read_text(encoding="utf-8")))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path} is not a bridge plan: {error}") from None


def _check_layout(plan: BridgePlan) -> None:
    layers, last = plan.generation_layers, plan.understanding_layers - 1
    if plan.layout not in LAYOUTS:
        raise ValueError(f"unknown layout {plan.layout!r}: expected one of {', '.join(LAYOUTS)}")
    if plan.rank is not None and plan.rank < 1:
        raise ValueError(f"rank {plan.rank} of the bridges must be 1 or more, or None for full rank")
    if plan.semantic_tokens < 0:
        raise ValueError(f"semantic_tokens must be 0 or more, got {plan.semantic_tokens}")
    if plan.layout == "last":
        if wrong := [pair for pair in plan.pairs if pair[0] != last]:
            raise ValueError(f"bridge {wrong[0]} of the layout 'last' must read the last understanding block, {last}")
        if plan.both_ways:
            raise ValueError("the layout 'last' runs one way: both_ways must be false")
    if plan.layout not in TRUNKS:
        return
    if layers != last + 1:
        raise ValueError(f"one trunk has one depth, got {last + 1} and {layers} blocks: layout {plan.layout!r}")
    if plan.semantic_tokens or plan.rank:
        raise ValueError(f"the layout {plan.layout!r} has no bridges: leave rank and semantic_tokens out")
    start, count = plan.pairs[0][0], len(plan.pairs)
    if plan.pairs != tuple((i, i) for i in range(start, start + count)):
        raise ValueError(f"the shared blocks of {plan.layout!r} must be (i, i) without a gap, got {plan.pairs}")
    if plan.layout == "shared" and count < layers:
        raise ValueError(f"the layout 'shared' shares all {layers} blocks, got {count}: use Y or X")
    if plan.layout == "Y" and not (start == 0 and count < layers):
        raise ValueError(f"the layout 'Y' shares the first blocks, fewer than {layers}, got {plan.pairs}")
    if plan.layout == "X" and not (start > 0 and start + count < layers):
        raise ValueError(f"the layout 'X' leaves blocks at both ends of {layers} apart, got {plan.pairs}")


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
        pairs, value = _best(RULES[rule](heat), bridges)
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


def count_blocks(heat: pd.DataFrame) -> tuple[int, int]:
    """The number of understanding and generation blocks behind a layer map, the embeddings left out."""
    counts = []
    for labels, depths in ((heat.index, heat.attrs.get("x_depths")), (heat.columns, heat.attrs.get("y_depths"))):
        blocks = _blocks(labels)
        if not blocks:
            raise ValueError("the layer map has no blocks to bridge: extract more than the embeddings")
        # block i lies at depth (i + 1) / blocks, so a map without the last blocks still tells how many there are
        told = [round((i + 1) / depths[at]) for at, i in blocks if depths[at] > 0] if depths else []
        counts.append(max([i + 1 for _, i in blocks] + (told if len(set(told)) == 1 else [])))
    return counts[0], counts[1]


def _blocks(labels: pd.Index) -> list[tuple[int, int]]:
    """(place in the map, block number) of every layer but the embeddings."""
    try:
        blocks = [(at, int(str(label))) for at, label in enumerate(labels) if str(label) != "embeddings"]
    except ValueError:
        raise ValueError(f"layers of a layer map must be 'embeddings' or block numbers, got {list(labels)}") from None
    if len({i for _, i in blocks}) != len(blocks) or any(i < 0 for _, i in blocks):
        raise ValueError(f"the layers of a layer map must be named once each, got {list(labels)}")
    return blocks


def alignment_gains(heat: pd.DataFrame) -> Array:
    """The layer map by block number, (understanding block, generation block); NaN where it was not measured."""
    if heat.attrs.get("metric") == "modality_gap":
        raise ValueError("modality_gap is a distance, and the largest would be bridged: choose from a similarity")
    gains = np.full(count_blocks(heat), np.nan)
    rows, columns = _blocks(heat.index), _blocks(heat.columns)
    values = heat.to_numpy(float)
    for at, u in rows:
        for under, g in columns:
            gains[u, g] = values[at, under]
    return gains


def _best(gains: Array, bridges: int) -> tuple[Pairs, float]:
    """The ascending pairs with the largest sum, by dynamic programming over the first blocks of both towers."""
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
        raise ValueError(f"the layer map has too few finite values for {bridges} bridges: choose fewer")
    pairs, u, g = [], rows, columns
    for b in range(bridges, 0, -1):
        while tables[b][u - 1, g] == tables[b][u, g]:
            u -= 1
        while tables[b][u, g - 1] == tables[b][u, g]:
            g -= 1
        u, g = u - 1, g - 1
        pairs.append((u, g))
    return tuple(reversed(pairs)), value


def _all(understanding: int, generation: int, bridges: int, seed: int) -> Pairs:
    fewer, more = sorted((understanding, generation))
    # block i of n lies at depth (i + 1) / n
    nearest = [int((i + 1) * more / fewer + 0.5) - 1 for i in range(fewer)]
    return tuple((i, j) if understanding <= generation else (j, i) for i, j in enumerate(nearest))


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


def _whole(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(value)
    return int(value)


RULES: dict[str, Callable[[pd.DataFrame], Array]] = {"alignment": alignment_gains}
FIXED: dict[str, Callable[[int, int, int, int], Pairs]] = {
    "all": _all,
    "middle": _middle,
    "uniform": _uniform,
    "last": _last,
    "random": _random,
}
