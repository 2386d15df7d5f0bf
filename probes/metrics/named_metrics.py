"""Name every metric; `similarity.scoring.similarity` gives the formula and source of each."""

from __future__ import annotations

import numpy as np

from ..comparison_options import DEFAULT_METRIC as DEFAULT_METRIC
from .cka import CKA, CKA_BIASED, CKA_RBF
from .estimators.caption_neighbours import mutual_knn_of_captions
from .estimators.neighbour_ranks import INFORMATION_IMBALANCE
from .estimators.unit_sampling import CKA_UNITS
from .metric import Array, Metric
from .neighbours import CKNNA, MUTUAL_KNN
from .paired import COSINE, MODALITY_GAP
from .probe import LINEAR_PROBE, linear_probe, numbered
from .rsa import RSA
from .subspaces import PROCRUSTES, PWCCA, SVCCA

METRICS: dict[str, Metric] = {
    "cka": CKA,
    "cka_biased": CKA_BIASED,
    "cka_rbf": CKA_RBF,
    "cka_units": CKA_UNITS,
    "mutual_knn": MUTUAL_KNN,
    "cknna": CKNNA,
    "information_imbalance": INFORMATION_IMBALANCE,
    "svcca": SVCCA,
    "pwcca": PWCCA,
    "procrustes": PROCRUSTES,
    "rsa": RSA,
    "linear_probe": LINEAR_PROBE,
    "cosine": COSINE,
    "modality_gap": MODALITY_GAP,
}


def formula_of(metric: str, groups: Array | None = None) -> Metric:
    """Return a metric, between rows that are captions of images where groups are given.

    Parameters
    ----------
    metric : str
        A name of `METRICS`.
    groups : Array, optional
        The number of each row's group (row,), from 0.

    Returns
    -------
    Metric
        The metric.

    Raises
    ------
    ValueError
        The metric has no way to keep rows of one group apart, or there are too few groups.
    """
    if groups is None:
        return METRICS[metric]
    if metric == "linear_probe":
        return linear_probe(numbered(groups, len(groups)))
    if metric != "mutual_knn":
        raise ValueError(
            f"captions='apart' is for mutual_knn and linear_probe, got {metric}: compare the means of the captions "
            "(captions='mean'), or one caption of each image (captions='draw')"
        )
    return mutual_knn_of_captions(np.asarray(groups))


def count_samples(metric: str, rows: int, groups: Array | None = None) -> int:
    """Return how many samples rows are: of captions that mutual_knn keeps apart, the images are the samples.

    Parameters
    ----------
    metric : str
        A name of `METRICS`.
    rows : int
        The number of rows.
    groups : Array, optional
        As of `formula_of`.

    Returns
    -------
    int
        The number of rows, or of groups.
    """
    return rows if groups is None or metric == "linear_probe" else int(groups.max()) + 1
