"""Judge each claim of the papers by the differences that protocol.md names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ...probes.similarity.intervals import mean_interval
from . import claim_settings as settings
from .claim_tables import WORTH, paired, sweep_rows

HOLDS, FAILS, UNDECIDED, UNMEASURED = "holds", "fails", "undecided", "not yet measured"
MARGIN = 0.05  # worth that may be lost where a claim says "as good as"
LEAST_SEEDS = 3
ANSWERING = ("answer_loss", "accuracy")  # the loss alone rewards a model that is less sure of what it gets wrong
PUBLISHED_BRIDGES = 7  # of 13: what HBridge leaves, scaled to this depth


class Difference(NamedTuple):
    """A claim that is a difference of two kinds of runs.

    Attributes
    ----------
    name : str
        A short name, which quotes use.
    paper, claim : str
        Whose it is, and what it says.
    one, other : mapping
        The runs that should be better, and those that they are compared with: columns with their values.
    outcomes : tuple of str
        What is compared: the claim must be met by each. Of a loss, less is better.
    margin : float
        What may be lost: above 0 for "as good as".
    pairs : int
        How many pairs of experts decide.
    """

    name: str
    paper: str
    claim: str
    one: Mapping[str, Any]
    other: Mapping[str, Any]
    outcomes: tuple[str, ...]
    margin: float = 0.0
    pairs: int = 1


def _trunk(layout: str) -> dict[str, Any]:
    return {"study": "trunks", "layout": layout}


def _tower(layout: str, **more: Any) -> dict[str, Any]:
    return {"study": "layouts", "layout": layout, "shuffled": False} | more


def _claims() -> list[Difference]:
    both, found = len(settings.PAIRS), []
    for paper, layout, says in (
        ("UniFork", "Y", "Forking the deep half (Y) is better than sharing all blocks"),
        ("Uni-X", "X", "Separate ends (X) are better than sharing all blocks"),
    ):
        for rival, terms in (("shared", "active"), ("shared wide", "total")):
            for outcomes, task in ((("loss",), "drawing"), (ANSWERING, "answering")):
                claim = f"{says}: {task}, equal {terms} parameters"
                name = f"{layout}-{terms}-{task}"
                found.append(Difference(name, paper, claim, _trunk(layout), _trunk(rival), outcomes))
    h, dense, double, last = (_tower(layout) for layout in ("H", "dense", "double fusion", "last"))
    found += [
        Difference(
            "H-as-dense", "HBridge", "The middle alone (H) is worth no less than bridges in every block (dense)",
            h, dense, (WORTH,), margin=MARGIN, pairs=both,
        ),
        Difference(
            "semantic", "HBridge", "Semantic reconstruction tokens help",
            {"study": "semantic"}, h | {"pair": settings.PAIRS[0]}, (WORTH,),
        ),
        Difference(
            "middle-7", "HBridge", "Without the bridges of both ends (7 of 13, at one rank) nothing is lost",
            {"study": "bridges", "middle": PUBLISHED_BRIDGES}, {"study": "bridges", "middle": 13}, (WORTH,),
            margin=MARGIN,
        ),
        Difference(
            "double-last", "LightFusion", "Fusing every block is worth more than reading the last state",
            double, last, (WORTH,), pairs=both,
        ),
    ]  # fmt: skip
    for rival, what in (("shifted", "half the depth deeper"), ("last", "the last")):
        claim = f"Reading the block of the same depth is worth more than reading {what}"
        one, other = ({"study": "injection", "inject": how} for how in ("same", rival))
        found.append(Difference(f"inject-{rival}", "LightFusion", claim, one, other, (WORTH,), pairs=both))
    for shift in settings.TIME_SHIFTS[1:]:
        claim = f"Training times shifted by {shift} draw better than unshifted ones"
        one, other = ({"study": "shifts", "shift": value} for value in (shift, 1))
        found.append(Difference(f"shift-{shift}", "LightFusion", claim, one, other, ("score",)))
    return found


CLAIMS = tuple(_claims())


def judge(claim: Difference, runs: pd.DataFrame) -> pd.DataFrame:
    """Judge one claim.

    Parameters
    ----------
    claim : Difference
        The claim.
    runs : DataFrame
        Of `claim_tables.read_runs`.

    Returns
    -------
    DataFrame
        One row for each outcome and each pair of experts that was run, one in all for a claim without runs: name,
        paper, claim, pair, outcome, seeds, difference with low and high (positive where the claim is met), margin,
        verdict of the claim: it holds, or fails, if every row does.
    """
    about = {"name": claim.name, "paper": claim.paper, "claim": claim.claim}
    rows, sides = [], []
    for outcome in claim.outcomes:
        found = paired(runs, claim.one, claim.other, outcome) if _have(claim, outcome, runs) else {}
        for pair, values in found.items():
            if len(values) < LEAST_SEEDS:
                continue
            mean, low, high = map(float, mean_interval(-values if outcome.endswith("loss") else values))
            sides.append(1 if low > -claim.margin else -1 if high < -claim.margin else 0)
            row = {"outcome": outcome, "pair": pair, "seeds": len(values), "difference": mean, "low": low, "high": high}
            rows.append(row)
    if len(sides) < claim.pairs * len(claim.outcomes):
        verdict = UNMEASURED
    else:
        verdict = HOLDS if all(s > 0 for s in sides) else FAILS if all(s < 0 for s in sides) else UNDECIDED
    nothing = {"pair": "", "seeds": 0, "difference": np.nan, "low": np.nan, "high": np.nan}
    rows = rows or [nothing | {"outcome": claim.outcomes[0]}]
    return pd.DataFrame([about | row | {"margin": claim.margin, "verdict": verdict} for row in rows])


def _have(claim: Difference, outcome: str, runs: pd.DataFrame) -> bool:
    return outcome in runs and all(column in runs for column in (*claim.one, *claim.other))


def judge_links(runs: pd.DataFrame) -> pd.DataFrame:
    """Judge HBridge's evidence for the middle: what breaking a bridge of the trained plan of all bridges costs.

    Parameters
    ----------
    runs : DataFrame
        Of `claim_tables.read_runs`.

    Returns
    -------
    DataFrame
        One row as `judge` returns it: by how much more the loss rises, on average, when a bridge of the middle is
        broken than when one of the ends is.
    """
    about = {"name": "middle-links", "paper": "HBridge", "outcome": "loss_increase", "margin": 0.0, "pair": ""}
    about["claim"] = "In a trained model with all bridges, breaking one of the middle costs more than one of the ends"
    links = runs.dropna(subset="links")["links"].tolist() if "links" in runs else []
    if len(links) < LEAST_SEEDS:
        nothing = {"seeds": 0, "difference": np.nan, "low": np.nan, "high": np.nan, "verdict": UNMEASURED}
        return pd.DataFrame([about | nothing])
    losses = np.array(links)  # (seed, link)
    apart = (losses.shape[1] - PUBLISHED_BRIDGES) // 2
    ends = np.r_[:apart, apart + PUBLISHED_BRIDGES : losses.shape[1]]
    middle = losses[:, apart : apart + PUBLISHED_BRIDGES].mean(1)
    mean, low, high = map(float, mean_interval(middle - losses[:, ends].mean(1)))
    verdict = HOLDS if low > 0 else FAILS if high < 0 else UNDECIDED
    row = {"seeds": len(losses), "difference": mean, "low": low, "high": high, "verdict": verdict}
    return pd.DataFrame([about | row])


def verdict_table(runs: pd.DataFrame) -> pd.DataFrame:
    """Judge all claims of `CLAIMS`, and that on links, one below the other, as `judge` does."""
    return pd.concat([*(judge(claim, runs) for claim in CLAIMS), judge_links(runs)], ignore_index=True)


class Sweep(NamedTuple):
    """A claim that a sweep is best at the published value.

    Attributes
    ----------
    name, paper, claim : str
        As in `Difference`.
    table : str
        A name of `claim_tables.sweep_rows`.
    by, outcome : str
        What is varied, and what decides: of a loss, less is better.
    published : int
        The value that the paper chose, scaled to this depth.
    """

    name: str
    paper: str
    claim: str
    table: str
    by: str
    outcome: str
    published: int


def _sweeps() -> list[Sweep]:
    found = []
    for outcome, task in (("loss", "drawing"), ("accuracy", "answering")):
        half = f"A fork behind half of the blocks is the best one: {task}"
        found.append(Sweep(f"best-fork-{task}", "UniFork", half, "forks", "fork", outcome, settings.FORK))
        for place, published in zip(("first", "last"), settings.ENDS, strict=True):
            claim = f"As many separate {place} blocks as published are the best number: {task}"
            found.append(Sweep(f"best-{place}-{task}", "Uni-X", claim, f"{place}_ends", place, outcome, published))
    return found


SWEEPS = tuple(_sweeps())


def best_table(runs: pd.DataFrame) -> pd.DataFrame:
    """Return where each sweep of `SWEEPS` is best, and whether that is the published value.

    Parameters
    ----------
    runs : DataFrame
        Of `claim_tables.read_runs`.

    Returns
    -------
    DataFrame
        name, paper, claim, outcome, published, seeds, best; near, the values whose difference to the best one is within
        noise; behind, how much worse the published value is than the best, with low and high; verdict: it holds if the
        published value alone is within noise of the best, fails if it is not within noise.
    """
    swept, found = sweep_rows(runs), []
    for sweep in SWEEPS:
        row = sweep._asdict() | {"seeds": 0, "best": np.nan, "near": "", "behind": np.nan, "low": np.nan}
        row |= {"high": np.nan, "verdict": UNMEASURED}
        rows = swept[sweep.table]
        if len(rows) and sweep.outcome in rows:
            found_at = rows.pivot_table(index="seed", columns=sweep.by, values=sweep.outcome).dropna()
            if sweep.published in found_at and len(found_at) >= LEAST_SEEDS:
                worse = found_at if sweep.outcome.endswith("loss") else -found_at
                row |= _judge_sweep(worse, sweep.published)
        found.append(row)
    return pd.DataFrame(found)


def _judge_sweep(losses: pd.DataFrame, published: int) -> dict[str, Any]:
    """Return the best value of losses (seed, value), those within noise of it, and the verdict on the published one."""
    best = losses.mean().idxmin()
    behind = {value: mean_interval((losses[value] - losses[best]).to_numpy()) for value in losses if value != best}
    near = sorted([best, *(value for value, (_, low, _) in behind.items() if low <= 0)])
    mean, low, high = map(float, behind.get(published, (0.0, 0.0, 0.0)))
    verdict = FAILS if published not in near else HOLDS if near == [published] else UNDECIDED
    row = {"seeds": len(losses), "best": int(best), "near": " ".join(str(int(value)) for value in near)}
    return row | {"behind": mean, "low": low, "high": high, "verdict": verdict}
