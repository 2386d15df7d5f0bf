"""Write the tables and figures of the claims from the runs that are done.

python -m bridgework.studies.claims.claim_report                  # from the committed runs, beside them
python -m bridgework.studies.claims.claim_report runs/claims      # gathers the runs of a folder first
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from io import BytesIO
from pathlib import Path

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from PIL import Image

from ...figures.worth.layout_dots import layout_outcomes, quality_against_compute
from ...figures.worth.sweep_lines import outcome_sweep
from ...probes.files import write_atomically, write_csv
from . import claim_settings as settings
from .claim_runs import COMMITTED, gather
from .claim_tables import (
    ABOVE,
    WORTH,
    bounds,
    compute_table,
    layout_table,
    link_table,
    read_runs,
    sweep_rows,
    sweep_table,
    trunk_table,
)
from .claim_verdicts import best_table, verdict_table
from .trunk_curves import SHAPES

TABLES = (
    "layouts", "trunks", "compute", "forks", "first_ends", "last_ends", "bridges", "links", "injection", "shifts",
    "bounds", "verdicts", "best",
)  # fmt: skip
FIGURES = ("layouts.png", "trunks.png", "compute.png", "forks.png", "bridges.png", "links.png")
FILES = (*(f"{name}.csv" for name in TABLES), *FIGURES)
TRUNK = ("loss", "answer_loss", "score", "accuracy", *ABOVE)
TOWER = (WORTH, "loss", "score")


def report_tables(runs: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the tables of `TABLES` by name; one without runs is empty.

    Parameters
    ----------
    runs : DataFrame
        Of `claim_tables.read_runs`.

    Returns
    -------
    dict of str to DataFrame
    """
    swept = sweep_rows(runs)
    return {
        "layouts": layout_table(runs),
        "trunks": trunk_table(runs),
        "compute": compute_table(runs),
        "forks": sweep_table(swept["forks"], "fork", TRUNK),
        "first_ends": sweep_table(swept["first_ends"], "first", TRUNK),
        "last_ends": sweep_table(swept["last_ends"], "last", TRUNK),
        "bridges": sweep_table(swept["bridges"], "middle", TOWER),
        "links": link_table(runs),
        "injection": sweep_table(swept["injection"], "inject", TOWER),
        "shifts": sweep_table(swept["shifts"], "shift", TOWER),
        "bounds": bounds(runs),
        "verdicts": verdict_table(runs),
        "best": best_table(runs),
    }


def draw_report(tables: dict[str, pd.DataFrame], shapes: pd.DataFrame | None = None) -> dict[str, Figure]:
    """Draw the figures of the tables that have rows.

    Parameters
    ----------
    tables : dict of str to DataFrame
        Of `report_tables`.
    shapes : DataFrame, optional
        shapes.csv of `measure_curves`, whose divergence depth is marked in the sweep over forks.

    Returns
    -------
    dict of str to Figure
        By the name of the file.
    """
    drawn = {}
    if len(tables["layouts"]):
        lines = {WORTH: {"floor": 0.0, "own text": 1.0}}
        drawn["layouts.png"] = layout_outcomes(tables["layouts"], {WORTH: "worth", "score": "facts that hold"}, lines)
    titles = dict(zip(ABOVE, ("loss of drawing above shared", "loss of answers above shared"), strict=True))
    if len(tables["trunks"]):
        lines = {name: {"shared": 0.0} for name in ABOVE}
        drawn["trunks.png"] = layout_outcomes(tables["trunks"], titles, lines)
    if len(tables["compute"]):
        drawn["compute.png"] = quality_against_compute(tables["compute"])
    if len(tables["forks"]):
        split = None if shapes is None else _split(shapes)
        marks = None if split is None else {"tasks split": split}
        drawn["forks.png"] = outcome_sweep(tables["forks"], "fork", titles, "shared blocks of 12", marks)
    if len(tables["bridges"]):
        titles = {WORTH: "worth", "score": "facts that hold"}
        drawn["bridges.png"] = outcome_sweep(tables["bridges"], "middle", titles, "bridges in the middle, of 13")
    if len(tables["links"]):
        titles = {"loss_increase": "loss when one bridge is broken"}
        drawn["links.png"] = outcome_sweep(tables["links"], "link", titles, "bridge, of 13 in order of depth")
    return drawn


def _split(shapes: pd.DataFrame, metric: str = "mutual_knn") -> tuple[float, float, float] | None:
    """Return the block at which tasks split in the shared trunk; None where they differ from the start on."""
    rows = shapes[(shapes["shape"] == "both tasks coincide") & (shapes["metric"] == metric)].dropna(subset="value")
    if rows.empty:
        return None
    value, low, high = (float(rows.iloc[0][name]) * settings.DEPTH for name in ("value", "low", "high"))
    return (value, low, high) if high > 0 else None


def write_report(folder: Path = COMMITTED.parent) -> dict[str, pd.DataFrame]:
    """Write the tables and figures of the claims into a folder that holds runs.parquet.

    Parameters
    ----------
    folder : Path
        The folder of a study.

    Returns
    -------
    dict of str to DataFrame
        The tables by name.
    """
    tables = report_tables(read_runs(folder / COMMITTED.name))
    for name, table in tables.items():
        write_csv(folder / f"{name}.csv", table, float_format="%.6g")
    shapes = pd.read_csv(folder / SHAPES) if (folder / SHAPES).is_file() else None
    for name, figure in draw_report(tables, shapes).items():
        write_atomically(folder / name, partial(_save, figure))
        plt.close(figure)
    return tables


def _save(figure: Figure, path: Path) -> None:
    """Save a figure with a palette of 256 colours, which takes a third of the bytes."""
    drawn = BytesIO()
    figure.savefig(drawn, format="png", dpi=110)
    Image.open(drawn).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, format="PNG", optimize=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line that the head of this module shows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="The folder of a study, whose runs are gathered.")
    options = parser.parse_args(arguments)
    if options.folder is not None:
        gather(options.folder)
    tables = write_report(options.folder or COMMITTED.parent)
    print(tables["verdicts"].round(4).to_string(index=False))


if __name__ == "__main__":
    main()
