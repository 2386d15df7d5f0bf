"""Gather the runs of the editing study, and judge by them whether both kinds of source tokens are better than either.

    python -m bridgework.studies.editing.edit_claims runs/editing

writes what of the study is there into that folder: edits.parquet, differences.parquet, verdicts.parquet,
samples.parquet and edits.png. `bridgework reproduce editing` runs what is missing first, and copies these files to
studies/results/editing.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ...figures.samples import edit_grid
from ...models.editing.editing_model import SOURCES
from ...probes.files import write_atomically, write_parquet
from ...probes.similarity.intervals import mean_interval
from .edit_runs import SCORES, EditCell, cell_path, config, edit_cells
from .edit_testbed import FLOOR, LAYOUTS, LEAST_GAIN, LEAST_SEEDS, MAIN

FILES = ("edits.parquet", "differences.parquet", "verdicts.parquet", "samples.parquet", "edits.png")
MEASURES = ("score", *SCORES, "loss")
EVERY = "all layouts"  # the mean over layouts at each seed
DECIDES = "loss"
CLAIM = "both kinds of source tokens are better than either"
SHOWN = "both"  # the layout of the figure is that in which these tokens have the least loss


def gather_edits(folder: Path) -> pd.DataFrame:
    """Return the rows of the runs that are there.

    Parameters
    ----------
    folder : Path
        The folder of the study.

    Returns
    -------
    DataFrame
        One row for each run of this configuration (protocol.md).

    Raises
    ------
    FileNotFoundError
        There is none.
    """
    if not (rows := [row for _, row in _runs(folder)]):
        raise FileNotFoundError(f"{folder} has no run of this configuration: run bridgework reproduce editing")
    return pd.DataFrame(rows)


def _runs(folder: Path) -> Iterator[tuple[EditCell, dict[str, Any]]]:
    """Yield the runs of this configuration that are there, with their rows."""
    wanted = config()
    for cell in edit_cells():
        path = cell_path(cell, folder)
        if path.is_file() and (row := json.loads(path.read_text(encoding="utf-8")))["config"] == wanted:
            yield cell, row


def edit_differences(table: pd.DataFrame) -> pd.DataFrame:
    """Return how much better both kinds of source tokens are than one of them, and than others' instructions.

    Parameters
    ----------
    table : DataFrame
        The rows of the runs, as `gather_edits` returns them.

    Returns
    -------
    DataFrame
        Columns layout, measure, than, seeds, difference, low, high. Differences are paired by seed, intervals are over
        seeds (Student, 95 %); NaN for one seed. Of a loss, less is better: its difference is turned round.
    """
    runs = {
        "semantic": table[(table["run"] == MAIN) & (table["source"] == "semantic")],
        "spatial": table[(table["run"] == MAIN) & (table["source"] == "spatial")],
        FLOOR: table[table["run"] == FLOOR],
    }
    both = table[(table["run"] == MAIN) & (table["source"] == "both")]
    rows: list[dict[str, Any]] = []
    for measure in MEASURES:
        sign = -1 if measure == "loss" else 1
        own = both.set_index(["layout", "seed"])[measure]
        for than, others in runs.items():
            gains = (sign * (own - others.set_index(["layout", "seed"])[measure])).dropna()
            by_layout = {layout: gains[gains.index.get_level_values("layout") == layout] for layout in LAYOUTS}
            at_seed = gains.groupby("seed").agg(["mean", "count"])
            by_layout[EVERY] = at_seed["mean"][at_seed["count"] == len(LAYOUTS)]
            for layout, values in by_layout.items():
                if len(values):
                    mean, low, high = map(float, mean_interval(values.to_numpy()))
                    said = {"layout": layout, "measure": measure, "than": than, "seeds": len(values)}
                    rows.append(said | {"difference": mean, "low": low, "high": high})
    return pd.DataFrame(rows, columns=["layout", "measure", "than", "seeds", "difference", "low", "high"])


def edit_verdicts(differences: pd.DataFrame) -> pd.DataFrame:
    """Judge the claim for each layout and for the mean of all, by the loss, as protocol.md says.

    Parameters
    ----------
    differences : DataFrame
        What `edit_differences` returns.

    Returns
    -------
    DataFrame
        Columns layout, claim, seeds, verdict ("holds", "fails" or "undecided") and reason.
    """
    rows = []
    for layout in (*LAYOUTS, EVERY):
        mine = differences[(differences["layout"] == layout) & (differences["measure"] == DECIDES)].set_index("than")
        verdict, reason = _verdict(mine)
        seeds = int(mine["seeds"].min()) if {"semantic", "spatial"} <= set(mine.index) else 0
        rows.append({"layout": layout, "claim": CLAIM, "seeds": seeds, "verdict": verdict, "reason": reason})
    return pd.DataFrame(rows)


def _verdict(mine: pd.DataFrame) -> tuple[str, str]:
    if missing := {"semantic", "spatial", FLOOR} - set(mine.index):
        return "undecided", f"not run yet: {', '.join(sorted(missing))}"
    if (seeds := int(mine["seeds"].min())) < LEAST_SEEDS:
        return "undecided", f"{seeds} of {LEAST_SEEDS} seeds"
    if not mine.loc[FLOOR, "low"] > 0:
        return "undecided", f"no instruction is shown to be followed: the loss is not surely less than with {FLOOR}"
    gains = mine.loc[["semantic", "spatial"]]
    if (gains["low"] > 0).all():
        return "holds", "both intervals are above 0"
    if (useless := gains["high"] < LEAST_GAIN).any():
        least = f"{LEAST_GAIN:g}".lstrip("0")
        return "fails", f"the gain over {_named(gains.index[useless])} is surely below {least}, the least that counts"
    return "undecided", f"an interval includes 0: that of the gain over {_named(gains.index[gains['low'] <= 0])}"


def _named(sources: pd.Index) -> str:
    return f"{' and '.join(sources)} tokens"


def gather_samples(folder: Path, each: int = 1) -> pd.DataFrame:
    """Return drawn results of the first seed, with their sources, the first test edits of every kind.

    Parameters
    ----------
    folder : Path
        The folder of the study.
    each : int
        Edits of every kind.

    Returns
    -------
    DataFrame
        What `score_edits` returns, with layout and tokens (how the source entered), and source_png and result_png.

    Raises
    ------
    FileNotFoundError
        There is none.
    """
    found = [cell for cell, _ in _runs(folder) if cell.run == MAIN and cell.seed == 0]
    if not found:
        raise FileNotFoundError(f"{folder} has no drawn edits of the first seed: run bridgework reproduce editing")
    tables = []
    for cell in sorted(found, key=lambda cell: (LAYOUTS.index(cell.layout), SOURCES.index(cell.source))):
        drawn = pd.read_parquet(cell_path(cell, folder).with_suffix(".parquet")).drop(columns="truth_png")
        drawn = drawn.groupby("kind", sort=False).head(each)
        tables.append(drawn.assign(layout=cell.layout, tokens=cell.source))
    return pd.concat(tables, ignore_index=True)


def write_edit_report(folder: Path) -> None:
    """Write the tables and the figure of what of the study is there.

    Parameters
    ----------
    folder : Path
        The folder of the study.
    """
    table = gather_edits(folder)
    differences, samples = edit_differences(table), gather_samples(folder)
    for name, content in zip(FILES, (table, differences, edit_verdicts(differences), samples), strict=False):
        write_parquet(folder / name, content)
    losses = table[(table["run"] == MAIN) & (table["source"] == SHOWN)].groupby("layout")[DECIDES].mean()
    drawn = samples["layout"].unique()
    best = losses.reindex(drawn).idxmin() if losses.index.isin(drawn).any() else drawn[0]
    figure = edit_grid(samples[samples["layout"] == best], by="tokens")
    write_atomically(folder / FILES[-1], lambda path: figure.savefig(path, format="png", dpi=130))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the module as a command.

    Parameters
    ----------
    arguments : sequence of str, optional
        The command line; that of the process if left out.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the folder of the study")
    folder = parser.parse_args(arguments).folder
    write_edit_report(folder)
    print(pd.read_parquet(folder / "verdicts.parquet").to_string(index=False))


if __name__ == "__main__":
    main()
