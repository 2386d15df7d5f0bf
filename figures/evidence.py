"""Draw causal evidence along depth: what an output loses without a modality, attention across, gradient conflict."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from itertools import cycle

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from .publishing.drawn import Drawn, LabelledFigure, remember
from .publishing.line_names import legend_under
from .publishing.page import is_narrow, page_height, page_width
from .style import QUIET, heading, need, panels, styled

COLOUR = {"image": "#029e73", "text": "#cc78bc", "other": QUIET}
PAIRS = {("text", "image"): "image", ("image", "text"): "text"}  # a line has the colour of what is looked at
LINES = {"ablation": "-", "conductance": (0, (4, 2)), "integrated_gradients": (0, (1, 1.5))}
TASKS = ("#0173b2", "#d55e00", "#ca9161")
NAMES = (
    ("causal_evidence, attribution", "attribute"),
    ("causal_evidence, attention", "attention_mass"),
    ("causal_evidence, conflict", "gradient_conflict"),
)


@styled
def causal_evidence(attribution: pd.DataFrame, attention: pd.DataFrame, conflict: pd.DataFrame) -> Figure:
    """Draw one row of panels per subject: attributions, cross-modal attention, gradient conflict, each against depth.

    Bands are 95 % intervals, in the first column of the ablation alone. Attention is drawn beside its expectation under
    uniform attention (dotted).

    Parameters
    ----------
    attribution : DataFrame
        The table of `attribute`, one timestep a subject. Several methods and subjects may stand below each other.
    attention : DataFrame
        The table of `attention_mass`, one timestep a subject.
    conflict : DataFrame
        The table of `gradient_conflict` with a column subject. Several pairs of tasks may stand below each other.

    Returns
    -------
    Figure
        The panels, a legend for each kind under its last panel. On one column of paper, subjects stand beside each
        other.

    Raises
    ------
    TypeError
        If a table is no DataFrame.
    ValueError
        If columns or rows are missing, or if a subject has several timesteps.

    See Also
    --------
    alignment_curves : Draws what layers have in common, where this draws what they do.
    learning_curves : Draws the run that trained a model.

    Examples
    --------
    >>> names = ("attribution", "attention", "conflict")
    >>> tables = [pd.read_csv(RESULTS / f"{name}.csv").query("subject == 'scenes-vlm'") for name in names]
    >>> figure = figures.causal_evidence(*tables)
    """
    need(attribution, ("subject", "method", "modality", "depth", "attribution", "low", "high", "gain"), *NAMES[0])
    need(attention, ("subject", "timestep", "query", "key", "depth", "mass", "low", "high", "expected"), *NAMES[1])
    need(conflict, ("subject", "tasks", "depth", "conflict", "low", "high", "batches"), *NAMES[2])
    for name, table in (("attribution", attribution), ("attention", attention)):
        if (table.groupby("subject")["timestep"].nunique() > 1).any():
            raise ValueError(f"causal_evidence: {name} has several timesteps of a subject: pass one")
    subjects = list(dict.fromkeys(attribution["subject"]))
    count, narrow, parts = len(subjects), is_narrow(), []
    if narrow:
        figure = plt.figure(FigureClass=LabelledFigure, figsize=(page_width(0), 5.4))
        parts = figure.subfigures(3, 1)
        grid = np.array([part.subplots(1, count, squeeze=False)[0] for part in parts]).T
    else:
        figure, grid = panels(count, 3, (page_width(11.1), page_height(3.0, 1.8) * count + page_height(0.7, 0.5)))
    colours = dict(zip(conflict["tasks"].unique(), cycle(TASKS), strict=False))
    drawers = (_lost, _looks, partial(_pulls, colours=colours))
    for row, subject in zip(grid, subjects, strict=True):
        for ax, draw, table in zip(row, drawers, (attribution, attention, conflict), strict=True):
            rows = table[table["subject"] == subject]
            if rows.empty:
                ax.remove()
                continue
            draw(ax, rows)
            ax.set_xlim(-0.02, 1.02)
            ax.set_xlabel("relative depth")
            if narrow and subject != subjects[0]:
                ax.set_ylabel("")
    for place, axes in enumerate(grid.T):
        there = [ax for ax in axes if ax.get_title(loc="left")]
        if not there:
            continue
        labels = _labelled(there) if place else _lost_legend(there)
        if narrow:
            parts[place].legend(list(labels.values()), list(labels), loc="outside lower left", ncols=(3, 2, 1)[place])
        else:
            legend_under(there[-1], labels, (2, 1, 1)[place])
    text = (
        "Causal evidence against relative depth: the share of an output's gain that is lost without the tokens of a "
        "modality, attention across modalities (dotted: uniform attention), and gradient conflict between tasks. Bands "
        "are 95% intervals."
    )
    tables = {"attribution": attribution, "attention": attention, "conflict": conflict}
    remember(figure, Drawn("causal_evidence", tables, text, _summary(attribution, conflict)))
    return figure


def _summary(attribution: pd.DataFrame, conflict: pd.DataFrame) -> pd.DataFrame:
    """Return the depth at which each line of attribution and of conflict is highest."""
    shares = attribution.assign(value=attribution["attribution"] / attribution["gain"])
    shares["line"] = shares["modality"] + ", " + shares["method"].map(_plain)
    pulls = conflict.assign(value=conflict["conflict"], line="conflict, " + conflict["tasks"].astype(str))
    lines = pd.concat([shares, pulls], ignore_index=True)[["subject", "line", "depth", "value"]]
    peaks = lines.loc[lines.groupby(["subject", "line"], sort=False)["value"].idxmax()]
    return peaks.rename(columns={"depth": "peak depth"}).reset_index(drop=True)


def _lost(ax: Axes, table: pd.DataFrame) -> None:
    for (method, modality), rows in table.groupby(["method", "modality"], sort=False):
        rows = rows.sort_values("depth")
        line = {"color": COLOUR[modality], "ls": LINES[method], "lw": 1.8 if method == "ablation" else 1.1}
        ax.plot(rows["depth"], rows["attribution"] / rows["gain"], label=f"{modality}, {_plain(method)}", **line)
        if method == "ablation":
            low, high = rows["low"] / rows["gain"], rows["high"] / rows["gain"]
            ax.fill_between(rows["depth"], low, high, color=COLOUR[modality], alpha=0.2, lw=0)
    ax.axhline(0, color="#444444", lw=0.8)
    first = table.iloc[0]
    time = "" if pd.isna(first["timestep"]) else f"t = {first['timestep']:g}, "
    heading(ax, str(first["subject"]), f"{time}N = {first['samples']:g}, gain {first['gain']:.3g}")
    ax.set_ylabel("share of the output's gain")


def _looks(ax: Axes, table: pd.DataFrame) -> None:
    for (query, key), modality in PAIRS.items():
        rows = table[(table["query"] == query) & (table["key"] == key)].sort_values("depth")
        ax.fill_between(rows["depth"], rows["low"], rows["high"], color=COLOUR[modality], alpha=0.2, lw=0)
        ax.plot(rows["depth"], rows["mass"], color=COLOUR[modality], marker="o", label=f"{query} looks at {key}")
        ax.plot(rows["depth"], rows["expected"], color=COLOUR[modality], ls=(0, (1, 1.5)), lw=1.1)
    first = table.iloc[0]
    time = "" if pd.isna(first["timestep"]) else f"t = {first['timestep']:g}, "
    heading(ax, "attention across", f"{time}N = {first['samples']:g}, dotted: uniform")
    ax.set_ylim(-0.02, 1.0)
    ax.set_ylabel("attention mass")


def _pulls(ax: Axes, table: pd.DataFrame, colours: dict[str, str]) -> None:
    for tasks, rows in table.groupby("tasks", sort=False):
        colour = colours[str(tasks)]
        rows = rows.sort_values("depth")
        ax.fill_between(rows["depth"], rows["low"], rows["high"], color=colour, alpha=0.2, lw=0)
        ax.plot(rows["depth"], rows["conflict"], color=colour, marker="o", label=str(tasks))
    ax.axhline(0, color="#444444", lw=0.8)
    heading(ax, "gradient conflict", f"{table['batches'].iloc[0]:g} batches of each task")
    ax.set_ylabel("baseline − cosine")


def _plain(method: str) -> str:
    return method.replace("_", " ")


def _labelled(axes: Iterable[Axes]) -> dict[str, Artist]:
    """Return what stands for each label of several panels, once."""
    found: dict[str, Artist] = {}
    for ax in axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    return found


def _lost_legend(axes: Iterable[Axes]) -> dict[str, Artist]:
    """Return what stands for each modality, a colour, and for each method, a kind of line."""
    labels = [label.split(", ", 1) for label in _labelled(axes)]
    modalities = dict.fromkeys(modality for modality, _ in labels)
    methods = [method for method in LINES if any(_plain(method) == name for _, name in labels)]
    found: dict[str, Artist] = {name: Line2D([], [], color=COLOUR[name], lw=3) for name in modalities}
    return found | {_plain(name): Line2D([], [], color=QUIET, ls=LINES[name], lw=1.2) for name in methods}
