"""The bridge plan: which understanding layer meets which generation layer, and how; plain JSON."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from ..files import write_atomically

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
        write_atomically(path, lambda temporary: temporary.write_text(text + "\n", encoding="utf-8"))

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


def _whole(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(value)
    return int(value)
