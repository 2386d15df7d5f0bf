"""Name every metric; `similarity.scoring.similarity` gives the formula and source of each."""

from __future__ import annotations

from .cka import CKA, CKA_BIASED, CKA_RBF
from .metric import Metric
from .neighbours import CKNNA, MUTUAL_KNN
from .paired import COSINE, MODALITY_GAP
from .probe import LINEAR_PROBE
from .rsa import RSA
from .subspaces import PROCRUSTES, PWCCA, SVCCA

METRICS: dict[str, Metric] = {
    "cka": CKA,
    "cka_biased": CKA_BIASED,
    "cka_rbf": CKA_RBF,
    "mutual_knn": MUTUAL_KNN,
    "cknna": CKNNA,
    "svcca": SVCCA,
    "pwcca": PWCCA,
    "procrustes": PROCRUSTES,
    "rsa": RSA,
    "linear_probe": LINEAR_PROBE,
    "cosine": COSINE,
    "modality_gap": MODALITY_GAP,
}
