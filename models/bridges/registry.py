"""Name the bridge of each layout."""

from __future__ import annotations

from .bridge import Bridge
from .cross_attention import CrossAttention
from .fusion_block import FusionBlock
from .joint_attention import JointAttention
from .shared_attention import SharedAttention

BRIDGES: dict[str, type[Bridge]] = {
    "H": SharedAttention,
    "dense": JointAttention,
    "double fusion": FusionBlock,
    "last": CrossAttention,
}
