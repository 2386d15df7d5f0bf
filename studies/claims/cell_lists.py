"""List the runs of every study of the claims; their learning rates are those that tuning chose."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from . import claim_settings as settings
from .claim_cells import Cell, Row
from .tower_runs import CEILING, UNBRIDGED, depths

Run = Callable[[Cell], Row]
Chosen = Mapping[str, dict[str, Any]]  # of each layout, what tuning chose
TRUNKS: dict[str, dict[str, Any]] = {
    "shared": {"layout": "shared"},
    "shared wide": {"layout": "shared wide"},
    "Y": {"layout": "Y", "fork": settings.FORK},
    "X": {"layout": "X", "ends": list(settings.ENDS)},
}


def tune_towers(pair: str, run: Run) -> Chosen:
    """Choose the learning rate of each layout of two towers, for a pair of experts.

    Parameters
    ----------
    pair : str
        The pair: what one pair learns well with may diverge with another.
    run : callable
        Returns the row of a run.

    Returns
    -------
    mapping of str to dict
        Of each layout, rate and gated.
    """
    fixed = {"pair": pair, "steps": settings.TUNING_STEPS, "validation": True}
    tried = [{"gated": False, "rate": rate} for rate in settings.TOWER_RATES]
    return {
        layout: _best([{**fixed, "layout": layout, **options} for options in tried], tried, run)
        for layout in settings.LAYOUTS
    }


def tune_trunks(run: Run) -> Chosen:
    """Choose the learning rate of each trunk of `TRUNKS`.

    Parameters
    ----------
    run : callable
        Returns the row of a run.

    Returns
    -------
    mapping of str to dict
        Of each trunk, rate.
    """
    fixed = {"start": settings.START_STEPS, "steps": settings.TRUNK_STEPS, "validation": True}
    tried = [{"rate": rate} for rate in settings.TRUNK_RATES]
    return {
        name: _best([{**about, **fixed, **options} for options in tried], tried, run) for name, about in TRUNKS.items()
    }


def _best(abouts: list[dict[str, Any]], options: list[dict[str, Any]], run: Run) -> dict[str, Any]:
    losses = [run(Cell("tuning", about, settings.TUNING_SEED))["loss"] for about in abouts]
    return options[losses.index(min(losses))]


def layout_cells(pair: str, chosen: Chosen) -> list[Cell]:
    """List the runs of the table of layouts: the bounds of a pair, then seed by seed every layout, then its floors."""
    cells = [Cell("layouts", {"pair": pair, "layout": layout}, 0) for layout in (CEILING, UNBRIDGED)]
    for seed in settings.SEEDS:
        for layout in settings.LAYOUTS:
            cells.append(Cell("layouts", _tower(pair, layout, chosen), seed))
            if seed < (2 if pair == settings.PAIRS[0] else 1):
                cells.append(Cell("layouts", {**_tower(pair, layout, chosen), "shuffled": True}, seed))
    return cells


def bridge_cells(pair: str, chosen: Chosen, rank: int | None) -> list[Cell]:
    """List the runs of the number of bridges of H: from one to all in the middle, at one rank."""
    pairs = min(depths(pair))
    counts = range(pairs, 0, -2)
    fixed = _tower(pair, "H", chosen) | ({} if rank is None else {"rank": rank})
    return [
        Cell("bridges", {**fixed, "middle": count} | ({"links": True} if count == pairs else {}), seed)
        for seed in settings.SWEEP_SEEDS
        for count in counts
    ]


def semantic_cells(pair: str, chosen: Chosen) -> list[Cell]:
    """List the runs of H with semantic tokens; those without are in the table of layouts."""
    about = {**_tower(pair, "H", chosen), "semantic": settings.SEMANTIC_TOKENS}
    return [Cell("semantic", about, seed) for seed in settings.SEEDS]


def injection_cells(pair: str, chosen: Chosen) -> list[Cell]:
    """List the runs of double fusion that read blocks of the same depth, shifted by half, or the last."""
    fixed = _tower(pair, "double fusion", chosen)
    return [
        Cell("injection", {**fixed, "inject": how}, seed)
        for seed in settings.SWEEP_SEEDS
        for how in ("same", "shifted", "last")
    ]


def shift_cells(pair: str, chosen: Chosen) -> list[Cell]:
    """List the runs of double fusion at LightFusion's timestep shifts."""
    fixed = _tower(pair, "double fusion", chosen)
    return [
        Cell("shifts", {**fixed, "shift": shift}, seed)
        for seed in settings.SWEEP_SEEDS
        for shift in settings.TIME_SHIFTS
    ]


def trunk_cells(chosen: Chosen) -> list[Cell]:
    """List the runs of the table of trunks."""
    return [Cell("trunks", _trunk(name, chosen), seed) for seed in settings.SEEDS for name in TRUNKS]


def fork_cells(chosen: Chosen) -> list[Cell]:
    """List the runs of Y at every fork depth; that without a fork is `shared`."""
    forks = range(1, settings.DEPTH)
    return [Cell("forks", _trunk("Y", chosen) | {"fork": f}, seed) for seed in settings.SWEEP_SEEDS for f in forks]


def end_cells(chosen: Chosen) -> list[Cell]:
    """List the runs of X with one of its ends varied."""
    first, last = settings.ENDS
    ends = [(end, last) for end in settings.FIRST_ENDS] + [(first, end) for end in settings.LAST_ENDS if end != last]
    return [
        Cell("ends", _trunk("X", chosen) | {"ends": list(both)}, seed) for seed in settings.SWEEP_SEEDS for both in ends
    ]


def task_cells() -> list[Cell]:
    """List the runs of the longer trained trunk as it is, and trained further on one task; their weights are kept."""
    fixed = {**TRUNKS["shared"], "rate": settings.TASK_RATE}
    cells = [Cell("tasks", {**fixed, "steps": 0}, 0)]
    return cells + [
        Cell("tasks", {**fixed, "steps": settings.TASK_STEPS, "task": task, "keep": task}, seed)
        for seed in settings.SWEEP_SEEDS
        for task in ("drawing", "answering")
    ]


def _tower(pair: str, layout: str, chosen: Chosen) -> dict[str, Any]:
    return {"pair": pair, "layout": layout, "steps": settings.TOWER_STEPS, **chosen[layout]}


def _trunk(name: str, chosen: Chosen) -> dict[str, Any]:
    return {**TRUNKS[name], "start": settings.START_STEPS, "steps": settings.TRUNK_STEPS, **chosen[name]}
