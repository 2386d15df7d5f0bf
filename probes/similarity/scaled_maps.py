"""Scale layer maps by their null, so that strangers score 0 by any metric."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..features.caption_groups import image_by_image
from ..metrics import DEFAULT_METRIC
from ..metrics.metric import Array
from ..metrics.named_metrics import count_samples
from .inputs import Stack, read_stack
from .nulls import map_null
from .scoring import labelled

if TYPE_CHECKING:
    import pandas as pd


def scaled_map(
    x: Stack,
    y: Stack,
    metric: str = DEFAULT_METRIC,
    k: int = 10,
    permutations: int = 200,
    seed: int = 0,
    block: int = 1,
    groups: Sequence[Any] | Array | None = None,
    captions: str | None = None,
) -> pd.DataFrame:
    """Compute a layer map whose scores are what is left above the null, 0 for strangers by any metric.

    Parameters
    ----------
    x, y : LayerFeatures, Tensor, Array or sequence of layers
        As in `similarity_map`.
    metric : str
        A name that `similarity` explains.
    k : int
        The number of neighbours.
    permutations, seed, block, groups, captions
        As in `map_null`.

    Returns
    -------
    DataFrame
        A layer map as of `similarity_map`, of `Null.scaled`: (score - t) / (1 - t) with t the 95 % threshold of the
        null, 0 below it (Algorithm 1 of arXiv 2602.14486). `attrs` are those of `similarity_map`; also scaled (True),
        permutations and block. Its chance is 0.

    Raises
    ------
    ValueError, TypeError
        As `map_null`.

    See Also
    --------
    map_null : The null itself, with p and adjusted p.
    similarity_map : The scores as they are.

    Examples
    --------
    >>> heat = scaled_map(understanding["text"], generation["image"].at(0.5), "svcca", permutations=50)
    >>> choose_bridges(heat, "alignment")
    """
    null = map_null(x, y, metric, k, permutations, seed, block, groups=groups, captions=captions)
    seen = image_by_image(x, y, groups, captions)
    (xs, x_names, x_depths, x_about), (_, y_names, y_depths, y_about) = (
        read_stack(side, name) for side, name in zip(seen.pairs[0], "xy", strict=True)
    )
    heat = labelled(null.scaled, x_names, y_names, metric, k, count_samples(metric, len(xs[0]), seen.numbers))
    heat.attrs |= {"x_depths": x_depths, "y_depths": y_depths, "x": x_about, "y": y_about}
    heat.attrs |= null.summary
    if seen.captions is not None:
        heat.attrs["captions"] = seen.captions
    heat.attrs |= {"scaled": True, "permutations": permutations, "block": block, "chance": 0.0}
    return heat
