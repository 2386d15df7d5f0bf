"""Name the bridge of each layout.

| layout | bridge | where it stands | from (arXiv) |
|---|---|---|---|
| H | `SharedAttention` | inside attention, in the understanding expert's head space | HBridge (2511.20520) |
| dense | `JointAttention` | inside attention, in each tower's own head space | BAGEL, LMFusion |
| double fusion | `FusionBlock` | a self-attention block behind a pair of blocks | LightFusion (2510.22946) |
| last | `CrossAttention` | behind a generation block: it reads the last understanding state | MetaQuery (2504.06256) |
| soft | `SoftAttention` | behind a generation block: it reads a learned mix of blocks | Semantic Routing (2602.03510) |
"""

from __future__ import annotations

from typing import Any

from ...probes.plans.bridge_plan import BridgePlan
from .bridge import Bridge
from .cross_attention import CrossAttention
from .fusion_block import FusionBlock
from .joint_attention import JointAttention
from .shared_attention import SharedAttention
from .soft_attention import SoftAttention

BRIDGES: dict[str, type[Bridge]] = {
    "H": SharedAttention,
    "dense": JointAttention,
    "double fusion": FusionBlock,
    "last": CrossAttention,
    "soft": SoftAttention,
}


def check_plan(plan: Any) -> None:
    """Raise the error that says why a plan bridges no two towers.

    Parameters
    ----------
    plan : BridgePlan
        The plan.

    Raises
    ------
    TypeError
        It is no plan.
    ValueError
        It is of one trunk.
    """
    if not isinstance(plan, BridgePlan):
        raise TypeError(
            f"the plan is a {type(plan).__name__}: expected a BridgePlan, as choose_bridges and lay_out make it, or "
            "BridgePlan.load(file)"
        )
    if plan.layout not in BRIDGES:
        raise ValueError(
            f"the layout {plan.layout!r} has one trunk and no bridges: build a UnifiedModel, "
            f"or plan one of {', '.join(BRIDGES)}"
        )
