"""Find the depth at which an understanding and a generation curve part."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from ..metrics.metric import Array
from ..similarity.intervals import interval
from .shapes import _open, rises


@dataclass(frozen=True)
class Divergence:
    """Where an understanding and a generation curve part.

    Attributes:
        kind: "split" (one trunk, two tasks) or "peak" (two experts).
        depth: the divergence depth, relative; None where the curves do not part.
        low, high: its 95 % interval; None where depth is None.
        reason: what was found, in words.
    """

    kind: str
    depth: float | None
    low: float | None
    high: float | None
    reason: str


def divergence(
    understanding_curve: pd.DataFrame, generation_curve: pd.DataFrame, kind: str | None = None
) -> Divergence:
    """The depth at which two curves part, with its 95 % interval (UniFork, arXiv 2506.17202, made testable).

    "split", for one trunk on two tasks (the default where both curves are of one subject; say so for two fine-tunings
    of one trunk): the first depth from which on the paired interval of the difference excludes 0, on one side, to the
    end. Its interval is that of the same depth over the draws; a draw that never parts counts as the last depth.
    "peak", for two experts (the default otherwise), which may start apart: the depth of the generation curve's peak,
    if the understanding curve still rises from there on, by the test of `rises`. Its interval is that of the draws'
    peaks.

    Raises:
        ValueError: as `rises`; an unknown kind; curves of a split without paired draws or a common layer.
    """
    if kind is None:
        one_subject = set(understanding_curve["subject"]) == set(generation_curve["subject"])
        kind = "split" if one_subject else "peak"
    if kind == "split":
        return _split(understanding_curve, generation_curve)
    if kind == "peak":
        return _peak(understanding_curve, generation_curve)
    raise ValueError(f"unknown kind {kind!r}: expected split (one trunk, two tasks) or peak (two experts)")


def _split(understanding_curve: pd.DataFrame, generation_curve: pd.DataFrame) -> Divergence:
    for name in ("metric", "k", "samples", "pairing"):
        ours, theirs = (
            curve[name].iloc[0] if len(curve) else None for curve in (understanding_curve, generation_curve)
        )
        if str(ours) != str(theirs):
            raise ValueError(
                f"the curves differ in {name} ({ours} and {theirs}), so their draws are not paired: measure both on "
                "the same stimuli with the same metric, k and seed"
            )
    common = [layer for layer in understanding_curve["layer"] if layer in set(generation_curve["layer"])]
    if not common:
        raise ValueError("the two curves have no layer in common")
    sides = [curve[curve["layer"].isin(common)] for curve in (understanding_curve, generation_curve)]
    (depths, ours, our_draws), (_, theirs, their_draws) = (_open(side) for side in sides)
    gap, gap_draws = ours - theirs, our_draws - their_draws
    reach = interval(gap, gap_draws)[1] - gap

    def parting(line: Array) -> int | None:
        apart = (np.abs(line) > reach) & (np.sign(line) == np.sign(line[-1]))
        together = np.flatnonzero(~apart)
        first = int(together[-1]) + 1 if len(together) else 0
        return first if first < len(line) else None

    at = parting(gap)
    if at is None:
        return Divergence("split", None, None, None, "the curves are not apart at the last layer")
    parted = [parting(line) for line in gap_draws]
    low, high = np.quantile([depths[-1] if i is None else depths[i] for i in parted], (0.025, 0.975))
    above = "understanding" if gap[-1] > 0 else "generation"
    reason = f"from layer {sides[0]['layer'].iloc[at]} on {above} aligns more"
    return Divergence(
        "split", float(depths[at]), min(float(low), float(depths[at])), max(float(high), float(depths[at])), reason
    )


def _peak(understanding_curve: pd.DataFrame, generation_curve: pd.DataFrame) -> Divergence:
    depths, scores, draws = _open(generation_curve)
    at = int(np.argmax(scores))
    depth = float(depths[at])
    _open(understanding_curve)
    after = rises(understanding_curve[understanding_curve["depth"] >= depth - 1e-9])
    found = after.intervals["spearman"]
    told = f"generation peaks at depth {depth:.2f}, from where on understanding's Spearman is {found.value:.2f}"
    told += f" [{found.low:.2f}, {found.high:.2f}]"
    if not after.holds:
        return Divergence("peak", None, None, None, told + ": it does not rise")
    low, high = np.quantile(depths[np.argmax(draws, 1)], (0.025, 0.975))
    return Divergence("peak", depth, min(float(low), depth), max(float(high), depth), told)
