"""Hold scores beside those that unrelated features would have: p values, quantiles and calibrated scores."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..metrics import METRICS
from ..metrics.metric import Array

if TYPE_CHECKING:
    import pandas as pd

HIGH, TOO_HIGH = 0.3, 0.5  # chance above which a score has little room left, and above which it says nothing


@dataclass(frozen=True, eq=False)
class Null:
    """Hold scores under permutation of the samples beside the observed scores.

    The trailing axes are (layer,) for a curve and (x layer, y layer) for a map. One permutation serves all of them, so
    `peaks`, the maximum of each permutation, is the null of the observed maximum, however many layers were compared.

    Attributes
    ----------
    observed : Array
        Scores (...).
    scores : Array
        Scores under permutation (permutation, ...).
    is_distance : bool
        Whether a smaller score means more alike: then p counts what is as small, peaks are the smallest scores, and
        top95 and peak95 are 5 % quantiles.
    errors : Array or None
        With a tolerance, the standard error of each observed score around that of all samples (...).
    rows : int or None
        With a tolerance, how many samples were used.
    """

    observed: Array
    scores: Array
    is_distance: bool = False
    errors: Array | None = None
    rows: int | None = None

    @property
    def mean(self) -> Array:
        """The mean of the null, per layer or pair."""
        return self.scores.mean(0)

    @property
    def top95(self) -> Array:
        """The 95 % quantile of the null, per layer or pair: the upper edge of a null band in figures."""
        return np.quantile(self.scores, 0.05 if self.is_distance else 0.95, axis=0)

    @property
    def p(self) -> Array:
        """(1 + permutations that reach the score) / (1 + permutations), per layer or pair; NaN without a score."""
        return self._p(self.scores, self.observed)

    @property
    def peaks(self) -> Array:
        """The largest score of each permutation, (permutation,)."""
        return self._most(self.scores.reshape(len(self.scores), -1))

    @property
    def peak95(self) -> float:
        """The 95 % quantile of the largest score, which the maximum of unrelated features exceeds in 5 % of cases."""
        return float(np.quantile(self.peaks, 0.05 if self.is_distance else 0.95))

    @property
    def peak_p(self) -> float:
        """The p of the observed maximum among the permutations' maxima."""
        return float(self._p(self.peaks, self._most(self.observed.ravel())))

    @property
    def scaled(self) -> Array:
        """The calibrated score (score - t) / (1 - t), 0 below the threshold t and NaN where t is 1.

        The threshold is the 95 % order statistic of null and observed score together (Algorithm 1 of arXiv 2602.14486).
        A distance d is scaled as the similarity 1 - d, so that the calibrated score is a similarity.
        """
        return self._scaled(self.scores, self.observed)

    @property
    def peak_scaled(self) -> float:
        """The calibrated observed maximum, among the permutations' maxima (Algorithm 2 of arXiv 2602.14486)."""
        return float(self._scaled(self.peaks, self._most(self.observed.ravel())))

    @property
    def adjusted_p(self) -> Array:
        """The p of every score among the permutations' maxima, which is valid for any pair that one picks."""
        return self._p(self.peaks.reshape(-1, *[1] * self.observed.ndim), self.observed)

    @property
    def summary(self) -> dict[str, Any]:
        """What a layer map keeps of its null in `attrs`, plain JSON.

        permutations, peak95 and peak_p; null95, p and adjusted_p as nested lists, None where there is no score.
        """
        found: dict[str, Any] = {"permutations": len(self.scores), "peak95": self.peak95, "peak_p": self.peak_p}
        for name, table in (("null95", self.top95), ("p", self.p), ("adjusted_p", self.adjusted_p)):
            plain = np.asarray(table).astype(object)
            plain[np.isnan(table)] = None
            found[name] = plain.tolist()
        return found

    def left_above(self, scores: Array) -> Array:
        """Return what is left of other scores (..., as observed) beyond `top95`: 0 for strangers, 1 at most.

        Parameters
        ----------
        scores : Array
            Scores of the same layers or pairs.

        Returns
        -------
        Array
            (score - t) / (1 - t), or (t - score) / t for a distance; 0 below the threshold t.
        """
        top = self.top95
        scores, top = (1 - scores, 1 - top) if self.is_distance else (scores, top)
        return np.maximum(scores - top, 0) / np.where(top < 1, 1 - top, np.nan)

    def _most(self, scores: Array) -> Array:
        """Return the score that is most alike, along the last axis."""
        return np.asarray((np.fmin if self.is_distance else np.fmax).reduce(scores, axis=-1))

    def _p(self, scores: Array, observed: Array) -> Array:
        return _p(-scores, -observed) if self.is_distance else _p(scores, observed)

    def _scaled(self, scores: Array, observed: Array) -> Array:
        return _scaled(1 - scores, 1 - observed) if self.is_distance else _scaled(scores, observed)


@dataclass(frozen=True, eq=False)
class Moments:
    """Hold a layer map of debiased CKA with its exact moments under permutation; the mean is 0.

    Quantiles and p are those of the Pearson type III distribution with these moments, which is accurate in the upper
    tail. They hold for one pair at a time: for the maximum of a map, and what depends on it, use `map_null`.

    Attributes
    ----------
    observed : Array
        Scores (x layer, y layer).
    deviation : float
        The standard deviation, the same for all pairs.
    skewness : Array
        The skewness (x layer, y layer).
    """

    observed: Array
    deviation: float
    skewness: Array

    @property
    def top95(self) -> Array:
        """The 95 % quantile of the null, per pair."""
        from scipy.stats import pearson3  # takes about as long to import as torch, and `similarity` does not need it

        return pearson3.ppf(0.95, self.skewness, scale=self.deviation)

    @property
    def p(self) -> Array:
        """The probability of the score or more among permutations, per pair; NaN without a score."""
        from scipy.stats import pearson3

        return pearson3.sf(self.observed, self.skewness, scale=self.deviation)


def chance(metric: str, k: int, samples: int) -> float | None:
    """Return the score expected of unrelated features, None where it depends on the features.

    Parameters
    ----------
    metric : str
        A name of `METRICS`.
    k, samples : int
        The numbers of neighbours and samples.

    Returns
    -------
    float or None
        k / (samples - 1) for mutual_knn, 0 for cka, cka_units and rsa, 1 for information_imbalance.
    """
    return METRICS[metric].chance(k, samples)


def used_k(metric: str, k: int) -> int | None:
    """Return k, or None where the metric has no neighbours.

    Parameters
    ----------
    metric : str
        A name of `METRICS`.
    k : int
        The number of neighbours.

    Returns
    -------
    int or None
        What a layer map or curve reports as k.
    """
    return k if METRICS[metric].neighbours else None


def labelled(scores: Array, x_names: list[Any], y_names: list[Any], metric: str, k: int, samples: int) -> pd.DataFrame:
    """Put scores into a layer map.

    Parameters
    ----------
    scores : Array
        (x layer, y layer).
    x_names, y_names : list
        Names of layers.
    metric : str
        A name of `METRICS`.
    k, samples : int
        The numbers of neighbours and samples.

    Returns
    -------
    DataFrame
        The layer map with metric, k, samples and chance in its `attrs`.
    """
    # only whoever makes a map waits for pandas: torch and pandas together take much longer to import than torch
    import pandas as pd

    heat = pd.DataFrame(
        scores,
        index=pd.Index(x_names, name="understanding layer"),
        columns=pd.Index(y_names, name="generation layer"),
    )
    heat.attrs = {"metric": metric, "k": used_k(metric, k), "samples": samples, "chance": chance(metric, k, samples)}
    return heat


def warn_of_k(metric: str, k: int, samples: int, most: float = 1.0) -> None:
    """Warn of a k so large that strangers have many neighbours in common, or raise ValueError.

    Parameters
    ----------
    metric : str
        A name of `METRICS`.
    k, samples : int
        The numbers of neighbours and samples.
    most : float
        The chance above which the error is raised.

    Raises
    ------
    ValueError
        The chance is higher than `most`. The sentence holds the remedy.

    Warns
    -----
    UserWarning
        The chance is higher than .3.
    """
    formula = METRICS[metric]
    expected = formula.chance(k, samples) if formula.neighbours and not formula.is_distance else None
    if expected is None or expected <= HIGH:
        return
    few = max(formula.least_k, int(HIGH * (samples - 1)))
    remedy = f"use a k of at most {few}, or more stimuli"
    said = f"k = {k} of {samples} samples is so large that strangers score {expected:.2f}: {remedy}"
    if expected > TOO_HIGH:
        said = (
            f"k = {k} of {samples} samples is more than half of them, so that any two sets of neighbours have members "
            f"in common, and strangers score {expected:.2f}: {remedy}"
        )
    if expected > most:
        raise ValueError(said)
    warnings.warn(said, stacklevel=3)


def _scaled(scores: Array, observed: Array) -> Array:
    """Calibrate observed scores (...) by scores (permutation, ...)."""
    together = np.sort(np.concatenate([scores, observed[None]]), axis=0)
    threshold = together[int(np.ceil(0.95 * len(together))) - 1]
    return np.maximum(observed - threshold, 0) / np.where(threshold < 1, 1 - threshold, np.nan)


def _p(scores: Array, observed: Array) -> Array:
    """Return the p of observed scores (...) among scores (permutation, ...)."""
    # a permutation that gives the very same score may differ by rounding: it counts as reached
    reached = (scores >= observed - 1e-6).sum(0)
    return np.where(np.isnan(observed), np.nan, (1 + reached) / (1 + len(scores)))
