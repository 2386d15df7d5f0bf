"""Labelled results in, a matplotlib Figure out. Nothing here measures, and nothing here calls ``plt.show``."""

from .alignment import alignment_curves, before_after
from .evidence import causal_evidence
from .gallery import Entry, write_gallery
from .gap import gap_closed
from .layout_bars import layouts_compared
from .learning import learning_curves, live_curve
from .maps import layer_map
from .plan_drawing import architecture, architectures
from .samples import sample_grid

__all__ = [
    "Entry",
    "alignment_curves",
    "architecture",
    "architectures",
    "before_after",
    "causal_evidence",
    "gap_closed",
    "layer_map",
    "layouts_compared",
    "learning_curves",
    "live_curve",
    "sample_grid",
    "write_gallery",
]
