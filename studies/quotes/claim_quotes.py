"""Quote what was measured of the claims of four papers: each with its numbers, the verdict they give, the command."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from ...probes.curves.divergence_depth import divergence
from ...probes.similarity.intervals import mean_interval
from . import layout_quotes
from .changing import Interval, what_would_change
from .edit_quotes import both_kinds
from .markers import table
from .rounding import rounded, with_interval
from .verdict_quotes import HOLDS, INCOMPLETE

UNIFORK = "[UniFork](https://arxiv.org/abs/2506.17202)"
HBRIDGE = "[HBridge](https://arxiv.org/abs/2511.20520)"
LIGHTFUSION = "[LightFusion](https://arxiv.org/abs/2510.22946)"
UNI_X = "[Uni-X](https://arxiv.org/abs/2509.24365)"
PAPERS = {"UniFork": UNIFORK, "HBridge": HBRIDGE, "LightFusion": LIGHTFUSION, "Uni-X": UNI_X}
FAILS, UNDECIDED = "fails", "undecided"
SCENES, CAUSAL, VERDICT, CLAIMS = (
    f"`bridgework reproduce {name}`" for name in ("scenes", "causal", "verdict", "claims")
)
PAIRS = "pairs of experts"
METRICS = {"mutual_knn": "mutual-kNN", "cka": "debiased CKA"}


class Claim(NamedTuple):
    """Hold a claim: what it says, what was measured here, the verdict, what would change it, what measures it again."""

    paper: str
    claim: str
    measured: str
    verdict: str
    change: str
    command: str


def judged(*numbers: Interval) -> str:
    """Return what intervals say of a claim that each of these numbers is above 0.

    Returns
    -------
    str
        "holds" if every interval lies above 0, "fails" if one lies below 0, otherwise "undecided".
    """
    if all(low > 0 for _, low, _ in numbers):
        return HOLDS
    return FAILS if any(high < 0 for _, _, high in numbers) else UNDECIDED


def _claim(paper: str, claim: str, measured: str, numbers: list[Interval], unit: str, command: str) -> Claim:
    """Return a claim that each of some numbers is above 0, with its verdict."""
    verdict = judged(*numbers)
    return Claim(paper, claim, measured, verdict, what_would_change(verdict, numbers, unit), command)


def tables(results: Path) -> dict[str, Callable[[], str]]:
    """Return what writes the table of claims, by name."""
    return {"claims": lambda: claims_table(results)}


def claims_table(results: Path) -> str:
    """Return every claim with what was measured of it."""
    parts = (_curves, _blocks, _layouts, _conflicts, _equal_terms)
    rows = [list(claim) for part in parts for claim in part(results)]
    return table(["paper", "claim", "measured here", "verdict", "what would change it", "again"], rows)


def _curves(results: Path) -> Iterator[Claim]:
    shapes = json.loads((results / "shapes.json").read_text())
    reader = pd.read_csv(results / "claims" / "shapes.csv").query("shape == 'understanding rises'")
    reader = reader.set_index(["metric", "model"])[["value", "low", "high"]]
    for metric, title in METRICS.items():
        plain = (shapes[f"scenes-vlm | separate | {metric} | {of}"]["spearman"] for of in ("none", "random weights"))
        read = (reader.loc[(metric, f"two experts{of}")] for of in ("", ", random weights"))
        for expert, found, again in (("scenes-vlm", plain, SCENES), ("scenes-reader", read, CLAIMS)):
            rise, twin = (tuple(spearman) for spearman in found)
            claim = f"The alignment of image and text rises with depth in an understanding expert (`{expert}`, {title})"
            measured = (
                f"Spearman with depth {with_interval(*rise)}, of its twin with random weights {with_interval(*twin)}"
            )
            yield _claim(UNIFORK, claim, measured, [rise], "scenes", again)
    for metric, title in METRICS.items():
        shape = shapes[f"scenes-dit | separate | {metric} | none | 0.5"]
        rise, fall = tuple(shape["peak minus first"]), tuple(shape["peak minus last"])
        claim = f"It rises, then falls in a generation expert ({title}, t = .5)"
        measured = f"peak minus first {with_interval(*rise)}, peak minus last {with_interval(*fall)}"
        yield _claim(UNIFORK, claim, measured, [rise, fall], "scenes", SCENES)
    curves = pd.read_parquet(results / "claims" / "curves.parquet").query("model == 'two experts'")
    for metric, title in METRICS.items():
        fall = tuple(shapes[f"scenes-dit | separate | {metric} | none | 0.5"]["peak minus last"])
        own = {str(task): curve for task, curve in curves[curves["metric"] == metric].groupby("task")}
        read = divergence(own["understanding"], own["generation"], kind="peak").reason
        plain = shapes[f"divergence | {metric} | 0.5"]["reason"]
        for expert, reason, again in (("scenes-vlm", plain, SCENES), ("scenes-reader", read, CLAIMS)):
            depth, value, low, high = map(float, re.findall(r"-?\d*\.\d+", reason)[:4])
            claim = "Both curves part at a depth: understanding goes on rising where generation falls "
            measured = f"behind generation's peak at depth {rounded(depth)}: Spearman of understanding "
            measured += f"{with_interval(value, low, high)}; generation's peak minus last {with_interval(*fall)}"
            claim += f"(`{expert}`, {title}, t = .5)"
            yield _claim(UNIFORK, claim, measured, [(value, low, high), fall], "scenes", again)


def _blocks(results: Path) -> Iterator[Claim]:
    shares = pd.read_csv(results / "gap.csv").pivot(index="seed", columns="plan", values="share")
    claim = "Bridges from the middle carry more than those from the first blocks: "
    plain = _mean(shares["middle"] - shares["shallow"])
    measured = f"share of the gap of `middle` less that of `shallow` {with_interval(*plain)}, over training seeds"
    yield _claim(HBRIDGE, f"{claim}plain captions", measured, [plain], "seeds", SCENES)
    plans = _plans(results)
    read = _mean(plans["middle"] - plans["shallow"])
    measured = f"worth of `middle` less that of `shallow` {with_interval(*read)}, over pairs of experts"
    yield _claim(HBRIDGE, f"{claim}captions that must be read", measured, [read], PAIRS, VERDICT)


def _plans(results: Path) -> pd.DataFrame:
    """Return the worth of each rule's plan, one row for each pair of experts."""
    losses = pd.read_csv(results / "verdict" / "regrets.csv").query("outcome == 'loss'")
    return losses.pivot_table(index="pair", columns="rule", values="worth", aggfunc="mean")


def _mean(values: pd.Series) -> Interval:
    mean, low, high = map(float, mean_interval(values.dropna().to_numpy()))
    return mean, low, high


def _layouts(results: Path) -> Iterator[Claim]:
    steps = pd.read_csv(results.parents[1] / "benchmarks" / "results" / "fusion_layouts.csv")
    cost = steps[steps["pairs"] == "published"].set_index("layout")["over_bare_attention"]
    measured = f"attention FLOPs over those of the bare experts: H {rounded(cost['H'])}, dense {rounded(cost['dense'])}"
    claim = "Joint attention in the middle alone costs less than in every block"
    again = "`python -m bridgework.benchmarks.fusion --only layouts`"
    yield Claim(HBRIDGE, claim, measured, HOLDS if cost["H"] < cost["dense"] else FAILS, "other depths", again)
    claim = "Double fusion starts from the untouched experts"
    measured = "at gate 0 each tower is the untouched expert, bit for bit"
    again = "`python -m pytest tests/models/fusion/test_layouts.py`"
    yield Claim(LIGHTFUSION, claim, measured, HOLDS, "a test that fails", again)
    yield Claim(LIGHTFUSION, *both_kinds(results))


def _conflicts(results: Path) -> Iterator[Claim]:
    conflict = pd.read_csv(results / "conflict.csv")
    asked = conflict[conflict["tasks"].str.startswith("asked")]
    inner = asked["conflict"].iloc[1:-1].mean()
    for title, row in (("first", asked.iloc[0]), ("last", asked.iloc[-1])):
        measured = (
            f"{title} block {with_interval(row.conflict, row.low, row.high)}, mean of inner blocks {rounded(inner)}"
        )
        above = (row.conflict - inner, row.low - inner, row.high - inner)
        claim = f"Gradients conflict more in the {title} block than inside"
        yield _claim(UNI_X, claim, measured, [above], "batches", CAUSAL)
    rules = pd.read_csv(results / "verdict" / "verdicts.csv").query("outcome == 'loss'").set_index("rule")
    for paper, rule, claim in (
        (UNIFORK, "alignment, mutual_knn", "Read as a rule, the alignment of two layers says whether to join them"),
        (
            HBRIDGE,
            "causal",
            "Read as a rule, what breaking a link of a trained dense model costs says whether to keep it",
        ),
        (UNI_X, "gradient_conflict", "Read as a rule, the conflict of gradients says which blocks to join"),
    ):
        row = rules.loc[rule]
        decides = [tuple(row[f"{name}{end}"] for end in ("", "_low", "_high")) for name in ("partial", "over_random")]
        partial, random = (with_interval(*number) for number in decides)
        measured = f"correlation with worth beside depth {partial}, plans over `random` {random}"
        verdict = f"{UNDECIDED}: runs are missing" if row["verdict"] == INCOMPLETE else str(row["verdict"])
        yield Claim(paper, claim, measured, verdict, what_would_change(verdict, decides, PAIRS), VERDICT)


def _equal_terms(results: Path) -> Iterator[Claim]:
    for found in layout_quotes.judged_claims(results):
        change = found.change or what_would_change(found.verdict, found.numbers, "seeds")
        yield Claim(PAPERS[found.paper], found.claim, found.measured, found.verdict, change, CLAIMS)
