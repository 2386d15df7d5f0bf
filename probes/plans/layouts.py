"""The published bridge plan of every layout, scaled to towers of any depth."""

from __future__ import annotations

from typing import Any

import pandas as pd

from .bridge_plan import LAYOUTS, TRUNKS, BridgePlan, Pairs
from .matching import match

# Of each layout, the matching of the paper it is from; own weights (BAGEL, LMFusion) have towers of one depth.
MATCHING = {"dense": "proportional", "H": "prelude", "double fusion": "repeat"}
HBRIDGE = (6, 28)  # blocks without a bridge at either end, of so many pairs
UNI_X = (12, 6, 36)  # blocks apart at the start and at the end, of so many: the released recipe for Qwen2.5-3B


def lay_out(
    layout: str,
    understanding_layers: int,
    generation_layers: int,
    *,
    matching: str | None = None,
    heat: pd.DataFrame | None = None,
    fork: int | None = None,
    ends: tuple[int, int] | None = None,
    stream: str = "image",
    **fields: Any,
) -> BridgePlan:
    """The plan of a layout as it was published, for towers of so many blocks.

    ==============  ====================================================================================================
    dense           every pair of the matching ("proportional")
    H               the matching's middle: 6 of every 28 pairs are left out at either end, rounded to the nearest (half
                    up), and one pair or two at least stay ("prelude"; HBridge, arXiv 2511.20520)
    double fusion   a block behind every pair of the matching ("repeat"; LightFusion, arXiv 2510.22946)
    last            every generation block reads the last understanding block (MetaQuery, BLIP3-o)
    shared          all blocks of one trunk (Transfusion, Emu3)
    Y               the first `fork` blocks shared, half of them by default (UniFork, arXiv 2506.17202)
    X               all but ends[0] first and ends[1] last blocks shared; by default 12 and 6 of every 36, as in the
                    recipe released with Uni-X (arXiv 2509.24365), rounded to the nearest, one at least
    ==============  ====================================================================================================

    >>> lay_out("H", 28, 32).pairs                               # 16 of 28 pairs, behind a prelude of 4
    ((6, 10), (7, 11), ..., (21, 25))
    >>> lay_out("Y", 24, 24).pairs                               # the first 12 blocks
    ((0, 0), (1, 1), ..., (11, 11))

    Args:
        matching: of dense, H and double fusion, another one than the paper's, as `match` takes it.
        heat: the layer map of the matching "optimal".
        fork: of Y.
        ends: of X.
        stream: the stream of the generation tower that the bridges enter.
        fields: other fields of `BridgePlan`: both_ways, gated, rank, semantic_tokens. The plan's rule
            is "published", its evidence says what was matched.

    Raises:
        ValueError: an unknown layout or matching; a matching, fork or ends of a layout that has none; towers of unequal
            depth for one trunk; a trunk too shallow to be split.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"unknown layout {layout!r}: expected one of {', '.join(LAYOUTS)}")
    for name, given, allowed in (
        ("matching", matching, tuple(MATCHING)),
        ("fork", fork, ("Y",)),
        ("ends", ends, ("X",)),
    ):
        if given is not None and layout not in allowed:
            raise ValueError(f"the layout {layout!r} takes no {name}: only {', '.join(allowed)} does")
    evidence: dict[str, Any] = {}
    if layout in TRUNKS:
        pairs = _trunk(layout, understanding_layers, generation_layers, fork, ends)
    elif layout == "last":
        pairs = tuple((understanding_layers - 1, g) for g in range(generation_layers))
    else:
        how = matching or MATCHING[layout]
        pairs = match(understanding_layers, generation_layers, how, heat)
        evidence = {"matching": how} | (dict(heat.attrs) if heat is not None and how == "optimal" else {})
        if layout == "H":
            apart = unbridged(len(pairs))
            pairs = pairs[apart : len(pairs) - apart]
    return BridgePlan(
        pairs,
        stream,
        rule="published",
        evidence=evidence,
        understanding_layers=understanding_layers,
        generation_layers=generation_layers,
        layout=layout,
        **fields,
    )


def unbridged(pairs: int) -> int:
    """How many pairs HBridge leaves out at either end of so many: 6 of 28, to the nearest; never all of them."""
    return min(_scaled(pairs, *HBRIDGE), (pairs - 1) // 2)


def _scaled(blocks: int, part: int, whole: int) -> int:
    return (2 * blocks * part + whole) // (2 * whole)


def _trunk(layout: str, blocks: int, others: int, fork: int | None, ends: tuple[int, int] | None) -> Pairs:
    if blocks != others:
        raise ValueError(f"one trunk has one depth, got {blocks} and {others} blocks: layout {layout!r}")
    least = {"shared": 1, "Y": 2, "X": 3}[layout]
    if blocks < least:
        raise ValueError(f"the layout {layout!r} needs a trunk of {least} blocks or more, got {blocks}")
    start, stop = 0, blocks
    if layout == "Y":
        stop = blocks // 2 if fork is None else fork
        if not 0 < stop < blocks:
            raise ValueError(f"fork {fork} must leave blocks on both sides: from 1 to {blocks - 1}")
    if layout == "X":
        first, last = (max(1, _scaled(blocks, part, UNI_X[2])) for part in UNI_X[:2]) if ends is None else ends
        start, stop = first, blocks - last
        if not 0 < start < stop < blocks:
            raise ValueError(f"ends {ends} of {blocks} blocks must be 1 or more each and leave a block between them")
    return tuple((i, i) for i in range(start, stop))
