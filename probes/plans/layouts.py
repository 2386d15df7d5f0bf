"""Lay out the published bridge plan of every layout, scaled to towers of any depth; meet a budget through the rank."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import pandas as pd

from ..arguments import check_names, checked
from .bridge_plan import BridgePlan
from .layout_table import LAYOUTS, MATCHINGS
from .matching import check_blocks, match
from .production_taps import published_taps

OF_PLAN = ("both_ways", "gated", "rank", "semantic_tokens")  # the fields of a plan that are passed on


def lay_out(
    layout: str,
    understanding_layers: int,
    generation_layers: int,
    *,
    matching: str | None = None,
    heat: pd.DataFrame | None = None,
    fork: int | None = None,
    ends: tuple[int, int] | None = None,
    taps: str | Sequence[Any] | None = None,
    stream: str = "image",
    **fields: Any,
) -> BridgePlan:
    """Return the plan of a layout as it was published, for towers of so many blocks.

    Which blocks a layout joins, and in which paper, is in its row: `LAYOUTS[layout].published`.

    Parameters
    ----------
    layout : str
        A name of `LAYOUTS`.
    understanding_layers, generation_layers : int
        The number of blocks of the two experts. One trunk (shared, Y, X) is as deep as the understanding expert, and
        does not read the other number.
    matching : str, optional
        For dense, H and double fusion: another matching than the paper's (`LAYOUTS[layout].matching`), as `match`
        takes it.
    heat : DataFrame, optional
        The layer map of the matching "optimal".
    fork : int, optional
        The number of shared blocks of Y, by default half of them.
    ends : (int, int), optional
        The number of first and of last blocks of X that are not shared, by default as in the paper.
    taps : sequence or str, optional
        The understanding blocks that soft mixes, as of `BridgePlan`; or the name of a production pipeline, whose layers
        are scaled to the tower (`published_taps`). By default all.
    stream : str
        The stream of the generation tower that the bridges enter.
    **fields
        Other fields of `BridgePlan`: both_ways, gated, rank, semantic_tokens.

    Returns
    -------
    BridgePlan
        The plan. Its rule is "published", and its evidence says what was matched.

    Raises
    ------
    ValueError
        If the layout, the matching or the pipeline is unknown, if the layout does not take the matching, fork, ends or
        taps, if a trunk is too shallow to be split, or if a field is unknown or out of range.
    TypeError
        If a number, flag or map is of another type.

    See Also
    --------
    bridgework.probes.plans.matching.match : Pairs the blocks of towers of unequal depth, without a plan.
    choose_bridges : Chooses the pairs by a rule instead.

    References
    ----------
    BAGEL, arXiv 2505.14683; LMFusion, arXiv 2412.15188 (dense). HBridge, arXiv 2511.20520 (H). LightFusion, arXiv
    2510.22946 (double fusion). MetaQuery, arXiv 2504.06256; BLIP3-o, arXiv 2505.09568 (last). Semantic Routing, arXiv
    2602.03510 (soft). Transfusion, arXiv 2408.11039 (shared). UniFork, arXiv 2506.17202 (Y). Uni-X, arXiv 2509.24365
    (X).

    Examples
    --------
    >>> lay_out("H", 28, 32).pairs[0], lay_out("H", 28, 32).pairs[-1]    # 16 of 28 pairs, behind a prelude of 4
    ((6, 10), (21, 25))
    >>> len(lay_out("Y", 24, 24).pairs)                                  # the first 12 blocks
    12
    >>> LAYOUTS["last"].published
    'every generation block reads the last understanding block (MetaQuery, BLIP3-o)'
    >>> lay_out("soft", 30, 13, taps="FLUX.2").mixed_blocks(0)             # layers 10, 20 and 30 of 40
    (7, 14, 22)
    """
    checked("layout", layout, str, known=LAYOUTS)
    check_blocks(understanding_layers, generation_layers)
    check_names("field", fields, OF_PLAN)
    fork = checked("fork", fork, int | None, least=1)
    ends = checked("ends", ends, tuple[int, int] | None, least=1)
    checked("matching", matching, str | None, known=MATCHINGS)
    checked("heat", heat, pd.DataFrame | None, remedy="pass a layer map, as similarity_map returns it")
    row = LAYOUTS[layout]
    asked = {"matching": matching, "fork": fork, "ends": ends, "taps": taps}
    given = {name: value for name, value in asked.items() if value is not None}
    for name in given:
        if not row.takes(name):
            takers = [other.name for other in LAYOUTS.values() if other.takes(name)]
            raise ValueError(f"the layout {layout!r} takes no {name}: only {', '.join(takers)} does")
    if heat is not None and (matching or row.matching) != "optimal":
        raise ValueError("heat is the map of the matching 'optimal': leave it out, or pass matching='optimal'")
    evidence: dict[str, Any] = {}
    mixed: Any = given.pop("taps", None)
    if isinstance(mixed, str):
        mixed, evidence = published_taps(mixed, understanding_layers, generation_layers), {"taps of": mixed}
    if row.trunk:
        generation_layers = understanding_layers
    if row.matching is None:
        pairs = row.pairs(understanding_layers, generation_layers, **given)
    else:
        how = matching or row.matching
        pairs = row.pairs(match(understanding_layers, generation_layers, how, heat))
        evidence |= {"matching": how} | (dict(heat.attrs) if heat is not None and how == "optimal" else {})
    return BridgePlan(
        pairs,
        stream,
        rule="published",
        evidence=evidence,
        understanding_layers=understanding_layers,
        generation_layers=generation_layers,
        layout=layout,
        taps=mixed,
        **fields,
    )


def rank_for(parameters: int, count: Callable[[int], int]) -> int:
    """Return the largest rank whose bridges have at most so many trainable parameters.

    Parameters
    ----------
    parameters : int
        The budget of trainable parameters.
    count : callable
        A function that returns the trainable parameters of the bridges at a rank.

    Returns
    -------
    int
        The rank, 1 or more.

    Raises
    ------
    ValueError
        If rank 1 has more parameters, or if the count does not grow with the rank.

    Examples
    --------
    >>> rank_for(100, lambda rank: 3 * rank + 7)
    31
    """
    count = cache(count)  # a call may build a model
    if (least := count(1)) > parameters:
        raise ValueError(f"{parameters} trainable parameters are too few: bridges of rank 1 have {least}")
    if (step := count(2) - least) > 0:
        linear = 1 + (parameters - least) // step  # right where every rank adds as many parameters
        if count(linear) <= parameters < count(linear + 1):
            return linear
    low, high = 1, 2
    while (found := count(high)) <= parameters:
        if found <= count(low):
            raise ValueError(f"the parameters do not grow with the rank: {found} at rank {low} and at {high}")
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if count(middle) <= parameters else (low, middle)
    return low
