"""Draw alignment curves along depth: with their null and controls, and before and after training."""

from __future__ import annotations

from collections.abc import Iterable
from textwrap import fill

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from ..probes.arguments import checked
from .publishing.curve_descriptions import before_after_drawn, curves_drawn
from .publishing.drawn import remember
from .publishing.line_names import legend_below, legend_under, name_ends
from .publishing.page import current_page, page_height, page_width, panels_across, points
from .style import QUIET, TASK_COLOUR, heading, measured, need, one_panel, panels, styled

MEASURED = ("subject", "task", "pass", "timestep", "pooling", "layer", "depth", "metric", "k", "samples")
COLUMNS = (*MEASURED, "score", "low", "high", "chance", "null_mean", "null95", "p")
# Scores are comparable only within one of these: a panel never mixes them.
WHAT = ["subject", "task", "pass", "reference", "reference_layer", "metric", "k", "samples"]
OTHER = ("modality", "reference", "reference_modality", "reference_layer")  # "" where a table does not have them
SCALE = ["metric", "k", "samples"]  # scores of one of these may share an axis
# What tells the curves of one axis apart.
CURVE = ["subject", "task", "pass", "modality", "reference", "reference_layer", "pooling", "timestep"]
CONTROLS = {
    "random weights": (0, (5, 2)),
    "mismatched captions": (0, (1, 1.5)),
    "pixel mean x bag of words": (0, (6, 2, 1, 2)),
    "words scrambled": (0, (3, 1)),
    "an object removed": (0, (1, 1)),
}
NULL = "#d9d9d9"
DEPTH = "relative depth (0 = embeddings, 1 = last block)"


@styled
def alignment_curves(
    curves: pd.DataFrame, title: str | None = None, *, overlay: bool = False, ax: Axes | None = None
) -> Figure:
    """Draw alignment score against relative depth: one panel per subject and task, one colour per timestep.

    Curves of two models have a panel for each layer of the other model, which the title names.

    Panels share the axis of scores only where metric, k and N are the same: scores fall with N and rise with k.
    Lines are scores, and bands their intervals (low to high). The grey area reaches from 0 to the 95 % quantile of the
    permutation null (the highest over the curves): a score inside it is what unrelated pairs give.

    Parameters
    ----------
    curves : DataFrame
        One or several tables of `alignment_curve` under each other. The optional column control ("none", "random
        weights", "mismatched captions", "pixel mean x bag of words", "words scrambled", "an object removed") marks rows
        that are drawn as thin broken lines. A control has the subject, task, pass, reference, metric, k and samples of
        the curve that it controls for. A control of a single row has no depth and is drawn across.
    title : str, optional
        A title above the panels.
    overlay : bool
        Whether all curves of one metric, k and N stand in one panel, each subject and task in a colour of its own.
    ax : Axes, optional
        Where to draw; the curves must fit into one panel.

    Returns
    -------
    Figure
        The panels with one legend; names stand where lines end. With `ax`, the figure that it stands in.

    Raises
    ------
    TypeError
        If `curves` is no DataFrame, or `ax` no Axes.
    ValueError
        If columns or rows are missing, if a layer has several scores, if a control is unknown, if it has no curve, if
        it is of other stimuli, or if the curves need several panels and `ax` is given.

    See Also
    --------
    before_after : Draws the curves of one model before and after training.

    Examples
    --------
    >>> figures.alignment_curves(pd.concat([small, large]), overlay=True)
    """
    checked("title", title, str | None)
    checked("overlay", overlay, bool)
    table = _tidy(curves, "alignment_curves")
    main, controls = table[table.control == "none"], table[table.control != "none"]
    _check_single(main)
    alone = [*WHAT, "modality", "pooling"]
    kept = [rows for _, rows in main.groupby(SCALE if overlay else alone, sort=False, dropna=False)]
    _check_controls(main, controls)
    if ax is not None and len(kept) > 1:
        differ = ", ".join(column for column in SCALE if main[column].nunique(dropna=False) > 1)
        remedy = f"they differ in {differ}: draw one of each" if overlay else "pass overlay=True, or one curve"
        raise ValueError(f"alignment_curves: the curves need {len(kept)} panels, and ax= is one: {remedy}")

    most = 2 if len(kept) == 4 else 3
    columns = min(panels_across(len(kept), most, 2.1), most)
    rows = -(-len(kept) // columns)
    size = page_width(max(3.7 * columns, 6.0 if overlay else 5.0)), page_height(3.0 * rows + 0.5, 1.8 * rows + 0.1)
    if ax is None:
        figure, grid = panels(rows, columns, size, sharey=len(main[SCALE].drop_duplicates()) == 1)
        for empty in grid.flat[len(kept) :]:
            empty.remove()
    else:
        figure, ax = one_panel(ax, size, "alignment_curves")
        grid = np.array([ax])
    drawn = list(grid.flat[: len(kept)])
    for panel, part in zip(drawn, kept, strict=True):
        _panel(panel, part, _same(controls, part), overlay, title if ax is not None else None)
    for panel in drawn[::columns]:
        panel.set_ylabel("alignment score")
    for panel in drawn[-columns:]:
        panel.set_xlabel(DEPTH if size[0] / columns > 2.5 else "relative depth")
    if ax is not None:
        legend_under(ax, _labelled([ax]), 1)
    else:
        if title:
            figure.suptitle(title)
        _legend(figure)
    remember(figure, curves_drawn(table, {"title": title, "overlay": overlay}))
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

    Examples
    --------
    >>> curves = pd.read_parquet(RESULTS / "fused.parquet")
    >>> before, after = (curves[curves["when"] == when] for when in ("before", "after"))
    >>> figure = figures.before_after(before, after)
    """
    pairs = _pairs(_tidy(before, "before_after, before"), _tidy(after, "before_after, after"))
    columns = panels_across(len(pairs), len(pairs), 1.5)
    bands = -(-len(pairs) // columns)
    size = page_width(max(2.9 * len(pairs), 4.6)), bands * page_height(4.6, 2.9)
    figure, grid = panels(2 * bands, columns, size, sharex=True, height_ratios=(2.6, 1) * bands)
    tops, lows = grid[::2].ravel(), grid[1::2].ravel()
    for panel in (*tops[len(pairs) :], *lows[len(pairs) :]):
        panel.remove()
    for row in (tops[: len(pairs)], lows[: len(pairs)]):
        for place, panel in enumerate(row[1:], 1):
            panel.sharey(row[0])
            panel.tick_params(labelleft=place % columns == 0)
    for top, low, both in zip(tops, lows, pairs, strict=False):
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
            low.text(0.5, 0.75, "unchanged", transform=low.transAxes, ha="center", color=QUIET, fontsize=points(8))
        low.yaxis.set_major_locator(MaxNLocator(4))
        low.set_xlabel("relative depth")
        low.tick_params(labelbottom=True)
    for top, low in zip(tops[: len(pairs) : columns], lows[: len(pairs) : columns], strict=True):
        top.set_ylabel("alignment score")
        low.set_ylabel("after − before")
    _legend(figure)
    remember(figure, before_after_drawn(pairs))
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
    """Return the controls that were measured on the same subjects and tasks, in the same way, as `main`."""
    known = {tuple(row) for row in main[WHAT].fillna(-1).to_numpy().tolist()}
    same = [tuple(row) in known for row in controls[WHAT].fillna(-1).to_numpy().tolist()]
    return controls[np.array(same, dtype=bool)]


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


def _panel(ax: Axes, main: pd.DataFrame, controls: pd.DataFrame, overlay: bool, title: str | None) -> None:
    first, colours = main.iloc[0], _colours(main, overlay)
    curves = [(key, rows.sort_values("depth")) for key, rows in main.groupby(CURVE, sort=False, dropna=False)]
    curves.sort(key=lambda curve: -1 if overlay or pd.isna(curve[0][-1]) else curve[0][-1])
    depths = np.unique(main.depth)
    null = np.max([np.interp(depths, rows.depth, rows.null95) for _, rows in curves], axis=0)
    ax.fill_between(depths, 0, null, color=NULL, lw=0, label="null, up to its 95 % quantile")
    ax.axhline(first.chance, color=QUIET, lw=0.8, label="chance")
    for (control, *key), rows in controls.groupby(["control", *CURVE], sort=False, dropna=False):
        rows = rows.sort_values("depth")
        plain = pd.isna(key[-1]) and not overlay
        line = {"color": QUIET if plain else colours.get(_key(key), QUIET), "ls": CONTROLS[control], "lw": 1.1}
        if len(rows) == 1:
            ax.axhline(rows.score.iloc[0], **line)
        else:
            ax.plot(rows.depth, rows.score, **line)
        ax.plot([], [], color=QUIET, ls=CONTROLS[control], lw=1.1, label=f"control: {control}")
    for key, rows in curves:
        colour = colours[_key(key)]
        ax.fill_between(rows.depth, rows.low, rows.high, color=colour, alpha=0.15 if overlay else 0.2, lw=0)
        ax.plot(rows.depth, rows.score, color=colour, marker="o")
    differ = _differing(main)
    if len(curves) > 1:
        ends = [(_name(key, differ), rows.score.iloc[-1], colours[_key(key)]) for key, rows in curves]
        name_ends(ax, ends, 0.3 * page_width(3.0))
    ax.set_xlim(-0.02, 1.02)
    heading(ax, title or _title(first, differ), measured(first.metric, first.k, first.samples, first.chance))


def _differing(main: pd.DataFrame) -> list[str]:
    """Return the columns that tell curves apart, none that follows from those before it."""
    chosen: list[str] = []
    for column in CURVE:
        groups = main.groupby(chosen, dropna=False) if chosen else [((), main)]
        if any(rows[column].nunique(dropna=False) > 1 for _, rows in groups):
            chosen.append(column)
    return chosen


def _title(first: pd.Series, differ: list[str]) -> str:
    """Return what all curves of a panel have in common."""
    common = [str(first[column]) for column in ("subject", "task") if "subject" not in differ and column not in differ]
    joint = "" if first["pass"] == "separate" or "pass" in differ else f" ({first['pass']} pass)"
    title = (": ".join(common) or "alignment curves") + joint
    if first.reference and not {"reference", "reference_layer", "modality"} & {*differ}:
        ours = f"{first.subject} ({first.modality})" if "subject" not in differ else f"alignment ({first.modality})"
        title = f"{ours} × {first.reference} ({first.reference_modality}), layer {first.reference_layer}{joint}"
    return title if current_page() else fill(title, 40)


def _key(key: Iterable) -> tuple:
    """Return what tells a curve from others, fit for a dictionary: NaN equals nothing."""
    return tuple(None if pd.isna(value) else value for value in key)


def _name(key: tuple, differ: list[str]) -> str:
    """Return the name of a curve: what tells it from the others of its panel."""
    parts = [str(value) for column, value in zip(CURVE[:-1], key, strict=False) if column in differ]
    if "timestep" in differ and pd.notna(key[-1]):
        parts.append(f"t = {key[-1]:g}")
    return ", ".join(parts)


def _colours(main: pd.DataFrame, overlay: bool) -> dict[tuple, object]:
    """Return a colour for each curve: by timestep, or of several models one for each, lighter at earlier timesteps."""
    keys = [_key(key) for key in main[CURVE].drop_duplicates().itertuples(index=False)]
    times = sorted({key[-1] for key in keys} - {None})
    if not overlay:
        shades = dict(zip(times, sns.color_palette("flare", len(times)), strict=True))
        return {key: shades.get(key[-1], TASK_COLOUR.get(key[1], QUIET)) for key in keys}
    models = list(dict.fromkeys(key[:-1] for key in keys))
    hues = dict(zip(models, sns.color_palette("colorblind", len(models)), strict=True))
    found: dict[tuple, object] = {}
    for model in models:
        own = sorted((key for key in keys if key[:-1] == model), key=lambda key: key[-1] or 0)
        shades = sns.light_palette(hues[model], len(own) + 3)[3:] if len(own) > 1 else [hues[model]]
        found |= dict(zip(own, shades, strict=True))
    return found


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


def _labelled(axes: Iterable[Axes]) -> dict[str, Artist]:
    """Return what stands for each label, once: first what was measured, then what to compare it with."""
    found: dict[str, Artist] = {}
    for ax in axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    found["interval of the score"] = Patch(facecolor=TASK_COLOUR["understanding"], alpha=0.2)
    against = [label for label in found if label.startswith(("interval", "null", "chance", "control"))]
    labels = [label for label in found if label not in against] + sorted(against, key=lambda label: label[:4] != "inte")
    return {label: found[label] for label in labels}


def _legend(figure: Figure) -> None:
    legend_below(figure, _labelled(figure.axes), int(figure.get_figwidth() // 2.3))
