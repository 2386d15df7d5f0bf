"""Find the depth at which an understanding and a generation curve part."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from ..arguments import check_options, checked
from ..metrics.metric import Array
from ..similarity.intervals import interval
from .shapes import read_curve, rises
from .table_checks import check_table

KINDS = ("split", "peak")
NUMBERS = ("depth", "score", "k", "samples", "timestep")
DEPTH = {"allowed": {"least": 0, "most": 1}}
COUNT = {"allowed": {"least": 1}}
TOO_FEW = "behind which understanding has fewer than three layers: too few to say whether it rises"


@dataclass(frozen=True)
class Divergence:
    """Hold where an understanding and a generation curve part.

    Attributes
    ----------
    kind : str
        "split" (one trunk, two tasks) or "peak" (two experts).
    depth : float or None
        The relative divergence depth; None where the curves do not part.
    low, high : float or None
        Its 95 % interval; None where depth is None.
    reason : str
        The finding in words.
    metric : str or None
        What the curves measure; None where they do not say.
    k : int or None
        The number of neighbours; None where it plays no part.
    samples : int or None
        The number of samples.
    timestep : float or None
        The timestep of the generation curve; None for a subject without timesteps.

    Raises
    ------
    TypeError, ValueError
        A field is no such value, such as a depth beyond 0 to 1.

    See Also
    --------
    divergence : Finds the depth from two curves; it makes all objects of this class.
    """

    kind: str = field(metadata={"allowed": {"known": KINDS}})
    depth: float | None = field(metadata=DEPTH)
    low: float | None = field(metadata=DEPTH)
    high: float | None = field(metadata=DEPTH)
    reason: str
    metric: str | None = None
    k: int | None = field(default=None, metadata=COUNT)
    samples: int | None = field(default=None, metadata=COUNT)
    timestep: float | None = field(default=None, metadata=DEPTH)

    def __post_init__(self) -> None:
        check_options(self)


def divergence(
    understanding_curve: pd.DataFrame, generation_curve: pd.DataFrame, kind: str | None = None
) -> Divergence:
    """Find the depth at which two curves part, with its 95 % interval.

    Parameters
    ----------
    understanding_curve, generation_curve : DataFrame
        Curves of `alignment_curve`, one subject, task and timestep each.
    kind : str, optional
        "split" for one trunk on two tasks, "peak" for two experts, which may start apart. The default is "split" where
        both curves are of one subject, "peak" otherwise; name "split" for two fine-tunings of one trunk.

    Returns
    -------
    Divergence
        The depth with its interval, or the reason why there is none.

    Raises
    ------
    TypeError
        An argument is of another kind.
    ValueError
        As `rises`; also an unknown kind, and curves of a split without paired draws or a common layer.

    See Also
    --------
    alignment_curve : Makes the curves that are compared.
    rises_then_falls : Tests the shape of one curve, where there is no second one.
    choose_bridges : Bridges all blocks up to the depth, by the rule "divergence".

    Notes
    -----
    "split" is the first depth from which the paired interval of the difference excludes 0, on one side, up to the last
    layer. Its interval is that of the same depth over the draws; a draw that never parts counts as the last depth.
    "peak" is the depth of the generation curve's peak, if the understanding curve still rises after it, by the test of
    `rises`. Its interval is that of the draws' peaks. UniFork (arXiv 2506.17202) describes both shapes; this is a test
    of them.

    Examples
    --------
    >>> divergence(understanding_curve, generation_curve).reason
    "generation peaks at depth 0.38, from where on understanding's Spearman is -0.50 [-0.82, -0.19]: it does not rise"
    """
    for name, curve in (("understanding_curve", understanding_curve), ("generation_curve", generation_curve)):
        check_table(name, curve, ("layer", "depth", "score"), "alignment_curve", NUMBERS)
    checked("kind", kind, str | None, known=KINDS)
    if kind is None:
        for curve in (understanding_curve, generation_curve):
            if "subject" not in curve:
                raise ValueError("a curve has no column 'subject': name kind='split' or kind='peak'")
        one_subject = set(understanding_curve["subject"]) == set(generation_curve["subject"])
        kind = "split" if one_subject else "peak"
    _check_alike(understanding_curve, generation_curve, kind)
    found = (_split if kind == "split" else _peak)(understanding_curve, generation_curve)
    return replace(found, **_measured(generation_curve))


def _measured(curve: pd.DataFrame) -> dict[str, Any]:
    """Return how a curve was measured, plain JSON."""
    kinds = {"metric": str, "k": int, "samples": int, "timestep": float}
    first = {name: curve[name].iloc[0] for name in kinds if name in curve}
    return {name: None if pd.isna(value) else kinds[name](value) for name, value in first.items()}


def _check_alike(understanding_curve: pd.DataFrame, generation_curve: pd.DataFrame, kind: str) -> None:
    """Raise ValueError for curves that were not measured alike. Only a split needs paired draws."""
    for name in ("metric", "k", "samples", *(("pairing",) if kind == "split" else ())):
        ours, theirs = (
            curve[name].iloc[0] if len(curve) and name in curve else None
            for curve in (understanding_curve, generation_curve)
        )
        if str(ours) != str(theirs):
            why = ", so their draws are not paired" if kind == "split" else ", and are no curves of one measure"
            raise ValueError(
                f"the curves differ in {name} ({ours} and {theirs}){why}: measure both on the same stimuli with the "
                "same metric, k and seed"
            )


def _split(understanding_curve: pd.DataFrame, generation_curve: pd.DataFrame) -> Divergence:
    """Find where the curves of one trunk on two tasks part for good."""
    common = [layer for layer in understanding_curve["layer"] if layer in set(generation_curve["layer"])]
    if not common:
        raise ValueError("the two curves have no layer in common: expected two tasks of one trunk, or kind='peak'")
    sides = [curve[curve["layer"].isin(common)] for curve in (understanding_curve, generation_curve)]
    (depths, ours, our_draws), (_, theirs, their_draws) = (
        read_curve(side, name) for side, name in zip(sides, ("understanding_curve", "generation_curve"), strict=True)
    )
    if our_draws.shape != their_draws.shape:
        raise ValueError("the curves hold other numbers of draws: measure both with the same options")
    gap, gap_draws = ours - theirs, our_draws - their_draws
    reach = interval(gap, gap_draws)[1] - gap

    def parting(line: Array) -> int | None:
        apart = (np.abs(line) > reach) & (np.sign(line) == np.sign(line[-1]))
        together = np.flatnonzero(~apart)
        first = int(together[-1]) + 1 if len(together) else 0
        return first if first < len(line) else None

    first = parting(gap)
    if first is None:
        return Divergence("split", None, None, None, "the curves are not apart at the last layer")
    parted = [parting(line) for line in gap_draws]
    low, high = np.quantile([depths[-1] if i is None else depths[i] for i in parted], (0.025, 0.975))
    above = "understanding" if gap[-1] > 0 else "generation"
    reason = f"from layer {sides[0]['layer'].iloc[first]} on {above} aligns more"
    depth = float(depths[first])
    return Divergence("split", depth, min(float(low), depth), max(float(high), depth), reason)


def _peak(understanding_curve: pd.DataFrame, generation_curve: pd.DataFrame) -> Divergence:
    """Find the peak of the generation curve after which the understanding curve still rises."""
    depths, scores, draws = read_curve(generation_curve, "generation_curve")
    depth = float(depths[int(np.argmax(scores))])
    # A fault of the whole curve is named before one of its upper part.
    read_curve(understanding_curve, "understanding_curve")
    after = rises(understanding_curve[understanding_curve["depth"] >= depth - 1e-9])
    rank = after.intervals["spearman"]
    if np.isnan(rank.value):
        return Divergence("peak", None, None, None, f"generation peaks at depth {depth:.2f}, {TOO_FEW}")
    reason = f"generation peaks at depth {depth:.2f}, from where on understanding's Spearman is {rank.value:.2f}"
    reason += f" [{rank.low:.2f}, {rank.high:.2f}]"
    if not after.holds:
        return Divergence("peak", None, None, None, reason + ": it does not rise")
    low, high = np.quantile(depths[np.argmax(draws, 1)], (0.025, 0.975))
    return Divergence("peak", depth, min(float(low), depth), max(float(high), depth), reason)
