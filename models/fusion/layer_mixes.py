"""Read off a fused model of the layout "soft" which understanding blocks its bridges mix."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from ...probes.plans.layout_table import LAYOUTS
from ...probes.plans.rules import SOFT
from ..bridges.soft_attention import SoftAttention


def layer_weights(fused: Any) -> pd.DataFrame:
    """Return the share that each understanding block has in what each generation block reads (layout "soft").

    Parameters
    ----------
    fused : FusedModel
        The model.

    Returns
    -------
    DataFrame
        As `FusedModel.layer_weights` returns it.

    Raises
    ------
    ValueError
        The plan is of another layout.
    """
    if not LAYOUTS[fused.plan.layout].reads_all:
        raise ValueError(f"the layout {fused.plan.layout!r} mixes no layers: layer weights are of 'soft'")
    counts = fused.plan.understanding_layers, fused.plan.generation_layers
    shares = np.full(counts, np.nan)
    for number, bridge in enumerate(fused.bridges):
        assert isinstance(bridge, SoftAttention)
        blocks = list(fused.plan.mixed_blocks(number))
        shares[blocks, fused.plan.pairs[number][1]] = bridge.layer_weights().detach().double().cpu().numpy()
    depths = [[(block + 1) / count for block in range(count)] for count in counts]
    names = [pd.Index([str(block) for block in range(count)]) for count in counts]
    table = pd.DataFrame(shares, names[0].rename("understanding layer"), names[1].rename("generation layer"))
    first = {1 / len(fused.plan.mixed_blocks(number)) for number in range(len(fused.bridges))}
    table.attrs = {"metric": SOFT, "k": None, "samples": None, "chance": first.pop() if len(first) == 1 else None}
    table.attrs |= {"x_depths": depths[0], "y_depths": depths[1], "cost": {"steps": fused.steps}}
    return table
