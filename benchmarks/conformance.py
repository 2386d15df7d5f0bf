"""Compare the scores of every metric in every regime, ours and every peer's, with plain NumPy references.

    python -m bridgework.benchmarks.conformance     # under a minute; writes benchmarks/results/conformance.csv

The command prints a Markdown table too.
"""

from __future__ import annotations

import argparse
import math
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor

from ..probes.similarity.scoring import similarity
from .support.peers import PEERS, Peer
from .support.reference import REFERENCE
from .support.regimes import REGIMES, draw, exact

RESULTS = Path(__file__).with_name("results")
TOLERANCE = 1e-5
SEEDS = 3
K = 10
OURS = "bridgework"

Score = Callable[[Tensor, Tensor], float]


def difference(value: float, reference: float) -> float:
    """Return the absolute difference: 0 where both are NaN, NaN where one is."""
    if math.isnan(value) and math.isnan(reference):
        return 0.0
    return abs(value - reference)


def contestants(metric: str) -> Iterator[tuple[str, Score]]:
    """Yield our score of a metric and that of each installed peer that offers it.

    A peer that computes in the dtype of its input is scored on float64 copies too.

    Parameters
    ----------
    metric : str
        A name of `REFERENCE`.

    Yields
    ------
    name : str
        Whose score it is.
    score : callable
        ``score(x, y)`` of two (sample, dim) tensors.
    """
    yield OURS, lambda x, y: similarity(x, y, metric, K)
    for peer in PEERS:
        if peer.metric == metric and peer.installed:
            yield peer.name, peer.score
            if not peer.upcasts:
                yield f"{peer.name}, given float64", doubled(peer)


def doubled(peer: Peer) -> Score:
    """Return a score that calls the peer on float64 copies of its input."""
    return lambda x, y: peer.score(x.double(), y.double())


class Outcome(NamedTuple):
    """Hold one score beside the reference; `error` says what was raised instead, and is empty otherwise."""

    value: float
    reference: float
    difference: float
    error: str


def outcome(score: Score, metric: str, regime: str, seed: int) -> Outcome:
    """Score one draw of a regime.

    Parameters
    ----------
    score : callable
        ``score(x, y)``.
    metric, regime : str
        Names of `REFERENCE` and `REGIMES`.
    seed : int
        Seed of the draw.

    Returns
    -------
    Outcome
        The score, the reference and their difference.
    """
    x, y = draw(regime, metric, seed)
    reference = REFERENCE[metric](exact(x), exact(y), K)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value = score(x, y)
    except Exception as raised:
        return Outcome(math.nan, reference, math.nan, f"{type(raised).__name__}: {raised}".strip().splitlines()[0])
    return Outcome(value, reference, difference(value, reference), "")


def worst(score: Score, metric: str, regime: str, seeds: int) -> dict[str, Any]:
    """Return the outcome with the largest difference, and whether it is right; NaN and errors count as largest.

    Parameters
    ----------
    score, metric, regime
        As in `outcome`.
    seeds : int
        How many draws are scored.

    Returns
    -------
    dict
        The fields of `Outcome`, and right.
    """
    outcomes = [outcome(score, metric, regime, seed) for seed in range(seeds)]
    most = max(outcomes, key=lambda result: math.inf if math.isnan(result.difference) else result.difference)
    return most._asdict() | {"right": bool(most.difference <= TOLERANCE)}


def table(metrics: list[str], seeds: int = SEEDS) -> pd.DataFrame:
    """Score every contestant in every regime.

    Parameters
    ----------
    metrics : list of str
        Names of `REFERENCE`.
    seeds : int
        How many draws of each regime are scored; the worst counts.

    Returns
    -------
    DataFrame
        One row per metric, contestant and regime. Columns: metric, who, regime, value, reference, difference, error,
        right.
    """
    rows = []
    for metric in metrics:
        for who, score in contestants(metric):
            for regime in REGIMES:
                cell = {"metric": metric, "who": who, "regime": regime}
                rows.append(cell | worst(score, metric, regime, seeds))
    return pd.DataFrame(rows)


def markdown(tidy: pd.DataFrame) -> str:
    """Write the table in Markdown: one line per metric and contestant, one column per regime.

    Parameters
    ----------
    tidy : DataFrame
        What `table` returns.

    Returns
    -------
    str
        Differences, bold where they are too large.
    """

    def cell(row: pd.Series) -> str:
        if row["error"]:
            return "error"
        if math.isnan(row["difference"]):
            return "**NaN**" if math.isnan(row["value"]) else "**not NaN**"
        return f"{row['difference']:.0e}" if row["right"] else f"**{row['difference']:.0e}**"

    lines = ["| metric | who | right | " + " | ".join(REGIMES) + " |", "|---" * (3 + len(REGIMES)) + "|"]
    for (metric, who), rows in tidy.groupby(["metric", "who"], sort=False):
        cells = [cell(row) for _, row in rows.iterrows()]
        right = f"{int(rows['right'].sum())}/{len(rows)}"
        lines.append(f"| {metric} | {who} | {right} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Write and print the table."""
    parser = argparse.ArgumentParser(prog="python -m bridgework.benchmarks.conformance", description=__doc__)
    parser.add_argument("--metrics", nargs="+", default=list(REFERENCE), choices=list(REFERENCE), metavar="METRIC")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--results", type=Path, default=RESULTS, help="where conformance.csv is written")
    options = parser.parse_args()
    torch.manual_seed(0)
    tidy = table(options.metrics, options.seeds)
    print(f"Largest absolute difference from the NumPy reference over {options.seeds} seeds; ", end="")
    print(f"**bold** is more than {TOLERANCE:g}.\n\n{markdown(tidy)}")
    for package in sorted({peer.package for peer in PEERS if not peer.installed}):
        print(f"\n{package} is not installed.")
    for _, row in tidy[tidy["error"] != ""].drop_duplicates(["metric", "who", "error"]).iterrows():
        print(f"\n{row['metric']}, {row['who']}, {row['regime']}: {row['error']}")
    options.results.mkdir(parents=True, exist_ok=True)
    tidy.to_csv(options.results / "conformance.csv", index=False, float_format="%.9g")


if __name__ == "__main__":
    main()
