"""Draw causal evidence along depth: what an output loses without a modality, attention across, gradient conflict."""

from __future__ import annotations

from functools import partial
from itertools import cycle

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .style import QUIET, heading, need, styled

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
        The panels with one legend.

    Raises
    ------
    TypeError
        If a table is no DataFrame.
    ValueError
        If columns or rows are missing, or if a subject has several timesteps.
    """
    need(attribution, ("subject", "method", "modality", "depth", "attribution", "low", "high", "gain"), *NAMES[0])
    need(attention, ("subject", "timestep", "query", "key", "depth", "mass", "low", "high", "expected"), *NAMES[1])
    need(conflict, ("subject", "tasks", "depth", "conflict", "low", "high", "batches"), *NAMES[2])
    for name, table in (("attribution", attribution), ("attention", attention)):
        if (table.groupby("subject")["timestep"].nunique() > 1).any():
            raise ValueError(f"causal_evidence: {name} has several timesteps of a subject: pass one")
    subjects = list(dict.fromkeys(attribution["subject"]))
    figure, grid = plt.subplots(len(subjects), 3, figsize=(11.1, 3.0 * len(subjects) + 0.9), squeeze=False)
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
    _legend(figure)
    return figure


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


def _legend(figure: Figure) -> None:
    """Add one legend under the panels, each label once."""
    found: dict[str, object] = {}
    for ax in figure.axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    figure.set_figheight(figure.get_figheight() + 0.19 * -(-len(found) // 4))
    figure.legend(list(found.values()), list(found), loc="outside lower center", ncols=4)
