"""Declare the options that comparisons share: what each may be, whichever function takes it."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .arguments import SEEDS, check_arguments

DEFAULT_METRIC = "mutual_knn"  # of those of similarity, its map keeps most of worth beside depth (docs/verdict.md)
METRIC_NAMES = (  # of `METRICS`, for those who only ask whether there is one: its modules take seconds to import
    "cka", "cka_biased", "cka_rbf", "cka_units", "mutual_knn", "cknna", "information_imbalance", "svcca", "pwcca",
    "procrustes", "rsa", "linear_probe", "cosine", "modality_gap",
)  # fmt: skip
MOST_DRAWS = 10**6  # of permutations and draws: more would not end within days


@dataclass(frozen=True)
class ComparisonOptions:
    """Hold what the functions of similarity, curves and plans have in common, each with its limits.

    Attributes
    ----------
    metric, k, permutations, seed, block, draws, tolerance, memory, minibatch
        As of `similarity_map`, `map_null` and `choose_bridges`.

    Notes
    -----
    `allowed` in the metadata of a field are keywords of `checked`. What depends on the samples or on the metric is
    checked where these are known.
    """

    metric: str = field(default=DEFAULT_METRIC, metadata={"allowed": {"known": METRIC_NAMES}})
    k: int = field(default=10, metadata={"allowed": {"least": 1}})
    permutations: int = field(
        default=200,
        metadata={"allowed": {"least": 1, "most": MOST_DRAWS, "remedy": "200 resolve p down to .005"}},
    )
    seed: int = field(default=0, metadata={"allowed": SEEDS})
    block: int = field(
        default=1, metadata={"allowed": {"least": 1, "remedy": "it is the number of rows that move together"}}
    )
    draws: int = field(default=10, metadata={"allowed": {"least": 1, "most": MOST_DRAWS}})
    tolerance: float | None = field(
        default=None,
        metadata={"allowed": {"above": 0, "below": 1, "remedy": "it is a standard error of scores, such as 0.002"}},
    )
    memory: float = field(default=2.0**31, metadata={"allowed": {"above": 0, "remedy": "it is a number of bytes"}})
    minibatch: bool = False


def check_comparison(**given: Any) -> None:
    """Check options of a comparison by their names.

    Parameters
    ----------
    **given : Any
        Options, by the names of the fields of `ComparisonOptions`.

    Raises
    ------
    TypeError, ValueError
        As `checked` does, for the first option that is wrong.
    """
    check_arguments(ComparisonOptions, given)


def group_labels(groups: Any) -> tuple[Any, ...]:
    """Return the label of each row, or raise an error for what are no labels.

    Parameters
    ----------
    groups : sequence
        A text, a number or another label for each row.

    Returns
    -------
    tuple
        The labels.

    Raises
    ------
    TypeError
        No sequence, or a label that cannot be told from others, such as a list.
    ValueError
        A label that is missing, None or NaN.
    """
    if isinstance(groups, str | bytes | Mapping) or not isinstance(groups, Iterable):
        raise TypeError(f"groups is a {type(groups).__name__}: expected a sequence, one label a row")
    labels = tuple(np.asarray(groups, object).tolist() if hasattr(groups, "tolist") else groups)
    for row, label in enumerate(labels):
        if label is None or label != label:  # NaN is no number, and no other NaN
            raise ValueError(f"groups has no label for row {row}, it is {label}: give every row one")
        if not isinstance(label, Hashable):
            raise TypeError(f"groups has a {type(label).__name__} for row {row}: expected texts or numbers")
    return labels
