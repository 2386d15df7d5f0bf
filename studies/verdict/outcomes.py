"""List the runs of the testbed, run those that are missing with as many processes as are given, and gather their rows.

    python -m bridgework.studies.verdict.outcomes runs/verdict --processes 2            # resumes; stop it at any time
    python -m bridgework.studies.verdict.outcomes runs/verdict --pair "minilm-l6 x scenes-dit" --bridges 3-6 --seed 0
    python -m bridgework.studies.verdict.outcomes runs/own --pair "FOLDER x scenes-dit" --grid --processes 8

The rows are gathered in outcomes.parquet of that folder; `bridgework reproduce verdict` does all of it with one process
and copies them to studies/results/verdict. The second form runs one cell again and prints its row: the same numbers
with the same versions, CPU and one thread. The third maps what single bridges are worth between other experts.
Processes share the GPUs that there are.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
import torch

from ...probes.files import write_parquet
from ...probes.plans.choosing import choose_bridges
from ..settings import RESULTS
from .bridge_runs import Cell, config, depths, run_cell
from .caption_knowledge import measure_knowledge
from .caption_pool import text_states
from .rule_maps import rule_maps, rule_plans
from .testbed import BRIDGES, CEILING, FLOOR, PAIRS, RANDOM_PLANS, SEEDS, Pair, pair_named

OUTCOMES = RESULTS / "verdict" / "outcomes.parquet"
FIXED = ("shallow", "deep", "middle", "uniform", "first", "early", "last", "all")


def grid_cells(pair: Pair) -> list[Cell]:
    """List the runs of a pair that no rule chooses: ceiling, floors and the grid of single bridges.

    Parameters
    ----------
    pair : Pair
        The pair of experts.

    Returns
    -------
    list of Cell
        Seed by seed.
    """
    cells, blocks = [Cell(pair, (), 0, (CEILING,))], depths(pair)
    for seed in SEEDS:
        cells += [Cell(pair, _fixed("middle", blocks, count), seed, (FLOOR,)) for count in (1, BRIDGES)]
        cells += [
            Cell(pair, ((u, g),), seed, ("grid",)) for g in pair.generation_blocks for u in pair.understanding_blocks
        ]
    return cells


def cells_of(pair: Pair, folder: Path) -> list[Cell]:
    """List the runs of a pair: those of `grid_cells`, and the plans of rules, fixed and random ones.

    Parameters
    ----------
    pair : Pair
        The pair of experts.
    folder : Path
        The folder of the study, where the maps of the rules are kept.

    Returns
    -------
    list of Cell
        The grid first, seed by seed.

    See Also
    --------
    plan_cells : the plans alone, where those of the rules are known.
    """
    return grid_cells(pair) + plan_cells(pair, rule_plans(rule_maps(pair, folder)))


def plan_cells(pair: Pair, chosen: Mapping[str, tuple[tuple[int, int], ...]]) -> list[Cell]:
    """List the runs of several bridges: the plans of rules, fixed and random ones.

    Parameters
    ----------
    pair : Pair
        The pair of experts.
    chosen : mapping of str to tuple of (int, int)
        The plan of each rule, as `rule_plans` returns them.

    Returns
    -------
    list of Cell
        Seed by seed. Rules and controls that choose one plan have a cell each.
    """
    blocks = depths(pair)
    plans = {**chosen, **{rule: _fixed(rule, blocks) for rule in FIXED}}
    plans |= {f"random {number}": _fixed("random", blocks, seed=number) for number in range(RANDOM_PLANS)}
    return [Cell(pair, pairs, seed, (name,)) for seed in SEEDS for name, pairs in plans.items()]


def _fixed(rule: str, blocks: tuple[int, int], bridges: int = BRIDGES, seed: int = 0) -> tuple[tuple[int, int], ...]:
    return choose_bridges(rule=rule, bridges=bridges, layers=blocks, seed=seed).pairs


def missing_cells(cells: Sequence[Cell], rows: pd.DataFrame) -> list[Cell]:
    """Return the runs that no committed row holds.

    Parameters
    ----------
    cells : sequence of Cell
        The runs that are wanted.
    rows : DataFrame
        The committed outcomes, or an empty table.

    Returns
    -------
    list of Cell
    """
    if rows.empty:
        return list(cells)
    known = set(zip(rows["pair"], rows["pairs"], rows["seed"], _kinds(rows["labels"]), strict=True))
    return [
        cell for cell in cells if (cell.pair.name, json.dumps(cell.pairs), cell.seed, _kind(cell.labels)) not in known
    ]


def committed() -> pd.DataFrame:
    """Return the committed outcomes, an empty table where there are none.

    Raises
    ------
    ValueError
        If they are of another testbed than this one: nothing is mixed.
    """
    if not OUTCOMES.is_file():
        return pd.DataFrame()
    rows = pd.read_parquet(OUTCOMES)
    for name, configs in rows.groupby("pair")["config"]:
        if set(configs) != {config(pair_named(str(name)))}:
            raise ValueError(
                f"{OUTCOMES.name} holds runs of {name} by another protocol, other experts or other settings: move the "
                "file away to start anew, or put the settings back"
            )
    return rows


def run_missing(folder: Path, names: Sequence[str], share: int = 0, shares: int = 1, grid: bool = False) -> None:
    """Run what is missing of some pairs, or of that a share for one of several processes.

    Parameters
    ----------
    folder : Path
        The folder of the study. Every finished run leaves a file there.
    names : sequence of str
        Names of `PAIRS`.
    share, shares : int
        Which share this process takes, of how many.
    grid : bool
        Whether to run what `grid_cells` lists alone.
    """
    rows = committed()
    for name in names:
        config(pair_named(name))  # an expert that is missing is said before hours of work
    for name in names:
        pair = pair_named(name)
        cells = grid_cells(pair) if grid else cells_of(pair, folder)
        for number, cell in enumerate(missing_cells(cells, rows)):
            if number % shares == share:
                row = run_cell(cell, folder)
                print(f"{name} {row['pairs']} seed {cell.seed} {row['labels']}: loss {row['loss']:.4f}", flush=True)


def gather(folder: Path) -> pd.DataFrame:
    """Write the finished runs of a folder, with those that are committed, to its outcomes.parquet.

    Parameters
    ----------
    folder : Path
        The folder of the study.

    Returns
    -------
    DataFrame
        All outcomes, one row a run.
    """
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted((folder / "cells").glob("*-test.json"))]
    table = pd.concat([committed(), pd.DataFrame(found)], ignore_index=True)
    table = table.assign(kind=_kinds(table["labels"]))
    keys = ["pair", "pairs", "seed", "kind"]
    table = table.drop_duplicates([*keys, "config"]).sort_values(keys).drop(columns="kind").reset_index(drop=True)
    write_parquet(folder / OUTCOMES.name, table)
    return table


def run_all(folder: Path) -> None:
    """Run all that is missing, one run after another, and gather the rows.

    Parameters
    ----------
    folder : Path
        The folder of the study.
    """
    measure_knowledge(folder)
    run_missing(folder, list(PAIRS))
    gather(folder)


def _kind(labels: Sequence[str]) -> str:
    return next((label for label in labels if label in (FLOOR, CEILING)), "plan")


def _kinds(labels: pd.Series) -> list[str]:
    return [_kind(json.loads(text)) for text in labels]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line that the head of this module shows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="The folder of the study.")
    parser.add_argument(
        "--pair", action="append", help='"UNDERSTANDING x GENERATION"; repeat it. (default: those of the protocol)'
    )
    parser.add_argument("--grid", action="store_true", help="Single bridges, floors and ceiling alone; no rules.")
    parser.add_argument("--processes", type=int, default=1, help="Runs at the same time, one thread each.")
    parser.add_argument("--bridges", help="One plan to run again, such as 3-6 or 0-1,4-6.")
    parser.add_argument("--seed", type=int, default=0, help="The seed of that run.")
    parser.add_argument("--share", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    names = options.pair or list(PAIRS)
    if options.bridges:
        if len(names) != 1:
            parser.error("--bridges runs one plan: name its pair of experts by --pair")
        pairs = tuple((int(u), int(g)) for u, g in (bridge.split("-") for bridge in options.bridges.split(",")))
        print(
            json.dumps(
                run_cell(Cell(pair_named(names[0]), pairs, options.seed, ("again",)), options.folder, again=True),
                indent=1,
            )
        )
        return
    if options.share is not None:
        run_missing(options.folder, names, options.share, options.processes, options.grid)
        return
    for pair in map(pair_named, names):  # once, before several processes look for them
        text_states(pair.understanding, options.folder)
        if not options.grid:
            rule_maps(pair, options.folder)
    chosen = [part for name in options.pair or () for part in ("--pair", name)] + ["--grid"] * options.grid
    command = [sys.executable, "-m", __spec__.name, str(options.folder), "--processes", str(options.processes), *chosen]
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(torch.cuda.device_count())))).split(",")
    started = []
    for share in range(options.processes):
        device = {"CUDA_VISIBLE_DEVICES": gpus[share % len(gpus)], "OMP_NUM_THREADS": "1"}
        started.append(subprocess.Popen([*command, "--share", str(share)], env={**os.environ, **device}))
    codes = [process.wait() for process in started]
    gather(options.folder)
    if failed := [code for code in codes if code]:
        sys.exit(f"{len(failed)} of {len(codes)} processes stopped early; the finished runs are kept: run it again")


if __name__ == "__main__":
    main()
