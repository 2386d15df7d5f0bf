"""Draw alignment curves along depth: with their null and controls, and before and after training."""

from __future__ import annotations

from textwrap import fill

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from .style import QUIET, TASK_COLOUR, heading, measured, need, styled

MEASURED = ("subject", "task", "pass", "timestep", "pooling", "layer", "depth", "metric", "k", "samples")
COLUMNS = (*MEASURED, "score", "low", "high", "chance", "null_mean", "null95", "p")
# Scores are comparable only within one of these: a panel never mixes them.
WHAT = ["subject", "task", "pass", "reference", "reference_layer", "metric", "k", "samples"]
OTHER = ("modality", "reference", "reference_modality", "reference_layer")  # "" where a table does not have them
CONTROLS = {
    "random weights": (0, (5, 2)),
    "mismatched captions": (0, (1, 1.5)),
    "pixel mean x bag of words": (0, (6, 2, 1, 2)),
}
NULL = "#d9d9d9"
DEPTH = "relative depth (0 = embeddings, 1 = last block)"


@styled
def alignment_curves(curves: pd.DataFrame, title: str | None = None) -> Figure:
    """Draw alignment score against relative depth: one panel per subject and task, one colour per timestep.

    Curves of two models have a panel for each layer of the other model, which the title names.

    Panels share the axis of scores only where metric, k and N are the same: scores fall with N and rise with k.
    Lines are scores, and bands their intervals (low to high). The grey area reaches from 0 to the 95 % quantile of the
    permutation null (the highest over timesteps): a score inside it is what unrelated pairs give.

    Parameters
    ----------
    curves : DataFrame
        One or several tables of `alignment_curve` under each other. The optional column control ("none", "random
        weights", "mismatched captions", "pixel mean x bag of words") marks rows that are drawn as thin broken lines. A
        control has the subject, task, pass, reference, metric, k and samples of the curve that it controls for. A
        control of a single row has no depth and is drawn across.
    title : str, optional
        A title above the panels.

    Returns
    -------
    Figure
        The panels with one legend.

    Raises
    ------
    TypeError
        If `curves` is no DataFrame.
    ValueError
        If columns or rows are missing, if a layer has several scores, if a control is unknown, if it has no curve, or
        if it is of other stimuli.

    See Also
    --------
    before_after : Draws the curves of one model before and after training.
    """
    table = _tidy(curves, "alignment_curves")
    main, controls = table[table.control == "none"], table[table.control != "none"]
    _check_single(main)
    panels = list(main.groupby([*WHAT, "modality", "pooling"], sort=False, dropna=False))
    _check_controls(main, controls)
    times = sorted(main.timestep.dropna().unique())
    shades = dict(zip(times, sns.color_palette("flare", len(times)), strict=True))

    columns = 2 if len(panels) == 4 else min(len(panels), 3)
    rows = -(-len(panels) // columns)
    figure, grid = plt.subplots(
        rows,
        columns,
        figsize=(max(3.7 * columns, 5.0), 3.0 * rows + 0.5),
        squeeze=False,
        sharey=len(main[["metric", "k", "samples"]].drop_duplicates()) == 1,
    )
    for ax, (_, rows_) in zip(grid.flat, panels, strict=False):
        _panel(ax, rows_, _same(controls, rows_), shades)
    for ax in grid.flat[len(panels) :]:
        ax.remove()
    for ax in figure.axes[::columns]:
        ax.set_ylabel("alignment score")
    for ax in figure.axes[-columns:]:
        ax.set_xlabel(DEPTH)
    if title:
        figure.suptitle(title)
    _legend(figure)
    return figure


@styled
def before_after(before: pd.DataFrame, after: pd.DataFrame) -> Figure:
    """Draw the alignment curves of one fused model before and after training, and under each the difference.

    There is one column of panels per task and timestep. The lower panel is score after minus score before.

    Parameters
    ----------
    before, after : DataFrame
        Tables of `alignment_curve` over the same tasks, timesteps and layers. Control rows are left out.

    Returns
    -------
    Figure
        The panels with one legend.

    Raises
    ------
    TypeError
        If a table is no DataFrame.
    ValueError
        If columns or rows are missing, or if the two were not measured alike: other layers, tasks, timesteps, metric, k
        or N.

    See Also
    --------
    alignment_curves : Draws curves with their controls.
    """
    pairs = _pairs(_tidy(before, "before_after, before"), _tidy(after, "before_after, after"))
    figure, grid = plt.subplots(
        2,
        len(pairs),
        figsize=(max(2.9 * len(pairs), 4.6), 4.6),
        squeeze=False,
        sharex=True,
        sharey="row",
        height_ratios=(2.6, 1),
    )
    for (top, low), both in zip(grid.T, pairs, strict=True):
        first = both.iloc[0]
        colour = TASK_COLOUR.get(first.task, QUIET)
        top.fill_between(both.depth, 0, both.null95_after, color=NULL, lw=0, label="null, up to its 95 % quantile")
        top.fill_between(both.depth, both.low_after, both.high_after, color=colour, alpha=0.2, lw=0)
        top.plot(
            both.depth, both.score_before, color="#444444", ls=(0, (4, 2)), lw=1.4, zorder=3, label="before training"
        )
        top.plot(both.depth, both.score_after, color=colour, marker="o", label=f"after training, {first.task}")
        time = "" if pd.isna(first.timestep) else f", t = {first.timestep:g}"
        joint = "" if first["pass"] == "separate" else f", {first['pass']} pass"
        numbers = measured(first.metric, first.k, first.samples, first.chance_after)
        heading(top, f"{first.task}{time}{joint}", numbers.replace(" · N", "\nN"))
        change = both.score_after - both.score_before
        low.axhline(0, color="#444444", lw=0.8)
        low.fill_between(both.depth, 0, change, color=colour, alpha=0.3, lw=0)
        low.plot(both.depth, change, color=colour, marker="o", lw=1.2)
        if np.allclose(change, 0, atol=1e-6):
            low.text(0.5, 0.75, "unchanged", transform=low.transAxes, ha="center", color=QUIET, fontsize=8)
        low.yaxis.set_major_locator(MaxNLocator(4))
        low.set_xlabel("relative depth")
    grid[0, 0].set_ylabel("alignment score")
    grid[1, 0].set_ylabel("after − before")
    _legend(figure)
    return figure


def _tidy(curves: object, name: str) -> pd.DataFrame:
    """Return the table, checked, with a control column and numeric timesteps (NaN for none)."""
    table = need(curves, COLUMNS, name, "alignment_curve").copy()
    if "control" not in table:
        table["control"] = "none"
    table["control"] = table.control.fillna("none")
    unknown = sorted(set(table.control) - {"none", *CONTROLS})
    if unknown:
        raise ValueError(f"{name}: unknown control {unknown[0]!r}: expected none, {', '.join(CONTROLS)}")
    for column in OTHER:
        table[column] = table[column].astype(object).where(table[column].notna(), "") if column in table else ""
    table[["timestep", "k"]] = table[["timestep", "k"]].apply(pd.to_numeric)
    return table


def _same(controls: pd.DataFrame, main: pd.DataFrame) -> pd.DataFrame:
    """Return the controls that were measured on the same subject and task, in the same way, as `main`."""
    first = main.iloc[0]
    alike = [(controls[c] == first[c]) | (controls[c].isna() & bool(pd.isna(first[c]))) for c in WHAT]
    return controls[np.logical_and.reduce(alike)]


def _check_single(main: pd.DataFrame) -> None:
    """Raise ValueError where one line would have two scores at a layer: curves of other stimuli under one name."""
    keys = [*WHAT, "modality", "pooling", "timestep", "layer"]
    if (twice := main.duplicated(keys)).any():
        row = main[twice].iloc[0]
        raise ValueError(
            f"alignment_curves: layer {row.layer!r} of {row.subject!r} ({row.task}) has several scores: draw one curve "
            "of each subject, task and timestep, or give each its own subject"
        )


def _check_controls(main: pd.DataFrame, controls: pd.DataFrame) -> None:
    if (
        "pairing" in main
        and (strange := controls[controls.pairing.notna() & ~controls.pairing.isin(main.pairing)]).size
    ):
        row = strange.iloc[0]
        raise ValueError(
            f"alignment_curves: the control {row.control!r} of {row.subject!r} was measured on other stimuli, or with "
            "another seed, than the curves: measure it on the same"
        )
    known = {tuple(row) for row in main[WHAT].fillna(-1).to_numpy().tolist()}
    for row in controls[WHAT].fillna(-1).drop_duplicates().to_numpy().tolist():
        if tuple(row) not in known:
            raise ValueError(
                "alignment_curves: a control has no curve to control for: "
                + ", ".join(f"{column} {value}" for column, value in zip(WHAT, row, strict=True))
                + ": give it the same values as the measured rows"
            )


def _panel(ax: Axes, main: pd.DataFrame, controls: pd.DataFrame, shades: dict) -> None:
    first = main.iloc[0]
    null = main.groupby("depth").null95.max()
    ax.fill_between(null.index, 0, null, color=NULL, lw=0, label="null, up to its 95 % quantile")
    ax.axhline(first.chance, color=QUIET, lw=0.8, label="chance")

    def colour(timestep: float) -> object:
        return TASK_COLOUR.get(first.task, QUIET) if pd.isna(timestep) else shades.get(timestep, QUIET)

    for (control, timestep), rows in controls.groupby(["control", "timestep"], sort=False, dropna=False):
        rows = rows.sort_values("depth")
        line = {"color": QUIET if pd.isna(timestep) else colour(timestep), "ls": CONTROLS[control], "lw": 1.1}
        if len(rows) == 1:
            ax.axhline(rows.score.iloc[0], **line)
        else:
            ax.plot(rows.depth, rows.score, **line)
        ax.plot([], [], color=QUIET, ls=CONTROLS[control], lw=1.1, label=f"control: {control}")
    for timestep, rows in main.groupby("timestep", sort=True, dropna=False):
        rows = rows.sort_values("depth")
        ax.fill_between(rows.depth, rows.low, rows.high, color=colour(timestep), alpha=0.2, lw=0)
        label = first.task if pd.isna(timestep) else f"{first.task}, t = {timestep:g}"
        ax.plot(rows.depth, rows.score, color=colour(timestep), marker="o", label=label)
    joint = "" if first["pass"] == "separate" else f" ({first['pass']} pass)"
    title = fill(f"{first.subject}: {first.task}{joint}", 40)
    if first.reference:
        sides = f"{first.subject} ({first.modality}) × {first.reference} ({first.reference_modality}), layer"
        title = fill(f"{sides} {first.reference_layer}{joint}", 40)
    heading(ax, title, measured(first.metric, first.k, first.samples, first.chance))
    ax.set_xlim(-0.02, 1.02)


def _pairs(before: pd.DataFrame, after: pd.DataFrame) -> list[pd.DataFrame]:
    """Return one table per task and timestep with the columns of both: score_before, score_after, ..."""
    keys = ["task", "pass", "timestep", "pooling", "modality", "reference", "reference_layer", "metric", "k", "samples"]
    keys += ["layer", "depth"]
    before, after = before[before.control == "none"], after[after.control == "none"]
    for name, table in (("before", before), ("after", after)):
        if table.duplicated(keys).any():
            raise ValueError(f"before_after: {name} has several scores for one layer: pass the curves of one model")
    both = before.merge(after, on=keys, how="outer", suffixes=("_before", "_after"), indicator=True)
    alone = both[both["_merge"] != "both"]
    if len(alone):
        row = alone.iloc[0]
        raise ValueError(
            f"before_after: {row.task}, timestep {row.timestep}, layer {row.layer} ({row.metric}, k = {row.k:g}, "
            f"N = {row.samples:g}) is in only one of the two tables: measure both in the same way"
        )
    both = both.sort_values(["task", "timestep", "depth"], ascending=[False, True, True])
    return [
        rows for _, rows in both.groupby(["task", "pass", "timestep", "pooling", "metric"], sort=False, dropna=False)
    ]


def _legend(figure: Figure) -> None:
    """Add one legend under the panels, each label once: first what was measured, then what to compare it with."""
    found = {}
    for ax in figure.axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    found["interval of the score"] = Patch(facecolor=TASK_COLOUR["understanding"], alpha=0.2)
    against = [label for label in found if label.startswith(("interval", "null", "chance", "control"))]
    labels = [label for label in found if label not in against] + sorted(against, key=lambda label: label[:4] != "inte")
    columns = max(1, min(len(found), int(figure.get_figwidth() // 2.3)))
    figure.set_figheight(figure.get_figheight() + 0.19 * -(-len(found) // columns))
    figure.legend([found[label] for label in labels], labels, loc="outside lower center", ncols=columns)
