"""Say what layer maps show, and which cells a table of a paper holds, from the numbers that were drawn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from .drawn import Drawn, long_map

if TYPE_CHECKING:
    from ...probes.plans.bridge_plan import BridgePlan


def map_drawn(
    function: str, heat: pd.DataFrame | Mapping[float, pd.DataFrame], plan: BridgePlan | None, how: str
) -> Drawn:
    """Describe a layer map, or those of a sweep.

    Parameters
    ----------
    function : str
        The name of the function that drew it.
    heat : DataFrame, or mapping of float to DataFrame
        The map, or the map of each timestep.
    plan : BridgePlan or None
        The plan whose bridges are ringed.
    how : str
        How it was measured: metric, k, N and chance.

    Returns
    -------
    Drawn
        The cells, with p where the map holds it, a caption, and the values at the bridges, or the five largest of block
        pairs.
    """
    if isinstance(heat, Mapping):
        parts = [_cells(each).assign(timestep=time) for time, each in heat.items()]
        cells = pd.concat(parts, ignore_index=True)
        first = next(iter(heat.values()))
        cells.attrs = dict(first.attrs)
    else:
        cells, first = _cells(heat), heat
    blocks = cells[(cells.understanding != "embeddings") & (cells.generation != "embeddings")]
    whose = [_whose(first.attrs.get(side)) for side in "xy"]
    text = f"Layer map ({how.replace(' · ', ', ')}): understanding layers against generation layers"
    text += f" of {whose[0]} and {whose[1]}" if all(whose) else ""
    text += ". Colours span the values of the blocks, without the embeddings."
    options: dict[str, Any] = {}
    shown = blocks.nlargest(5, "value")
    if plan is not None:
        pairs = [[int(u), int(g)] for u, g in plan.pairs]
        options = {"plan": {"rule": plan.rule, "pairs": pairs}}
        text += f" Rings are the bridges of the rule {plan.rule}."
        keys = {(str(u), str(g)) for u, g in pairs}
        shown = cells[[key in keys for key in zip(cells.understanding, cells.generation, strict=True)]]
    named = shown.rename(columns={"understanding": "understanding block", "generation": "generation block"})
    return Drawn(function, {"map": cells}, text, named.reset_index(drop=True), options)


def _cells(heat: pd.DataFrame) -> pd.DataFrame:
    cells, p = long_map(heat), np.array(heat.attrs.get("p", ()), float)
    if p.shape == heat.shape:
        attrs, cells = cells.attrs, cells.assign(p=p.ravel())
        cells.attrs = attrs
    return cells


def _whose(stack: dict | None) -> str:
    """Return subject, modality and timestep, as far as the map holds them."""
    stack = stack or {}
    parts = [str(stack[key]) for key in ("subject", "modality") if stack.get(key)]
    if stack.get("timestep") is not None:
        parts.append(f"t = {stack['timestep']:g}")
    return ", ".join(parts)
