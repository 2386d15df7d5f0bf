"""Draw the share of the gap that each plan closes."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy import stats

from .style import QUIET, YES, need, styled


@styled
def gap_closed(table: pd.DataFrame) -> Figure:
    """Share of the gap closed per plan, best mean on top: each seed a small dot, the mean a large one.

    ``table`` has columns plan, seed, score, share; share 0 is the floor (shuffled captions), share 1 the ceiling (the
    expert's own text route). The interval is Student's 95 % t interval of the mean over seeds; one seed has none.
    Raises TypeError or ValueError for another table or a seed named twice for one plan.
    """
    table = need(table, ("plan", "seed", "score", "share"), "gap_closed", "the evaluation of the fused models")
    if table.duplicated(["plan", "seed"]).any():
        row = table[table.duplicated(["plan", "seed"])].iloc[0]
        raise ValueError(f"gap_closed: plan {row.plan!r} has seed {row.seed} twice: pass one row per plan and seed")
    means = table.groupby("plan", sort=False).share.mean().sort_values()
    figure, ax = plt.subplots(figsize=(7.2, 1.3 + 0.5 * len(means)))
    for height, (plan, mean) in enumerate(means.items()):
        shares = table.share[table.plan == plan]
        count = len(shares)
        text = f"{mean:.2f}"
        if count > 1:
            half = float(stats.t.ppf(0.975, count - 1) * shares.std() / np.sqrt(count))
            ax.plot([mean - half, mean + half], [height, height], color=YES, lw=2, solid_capstyle="butt")
            text += f"  [{mean - half:.2f}, {mean + half:.2f}]"
        ax.plot(shares, np.full(count, height + 0.22), "o", color=QUIET, ms=4, mew=0, alpha=0.8)
        ax.plot([mean], [height], "o", color=YES, ms=8)
        ax.annotate(
            f"{text}  n = {count}",
            (1.02, height),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize=8.5,
            annotation_clip=False,
        )
    for value, name in ((0, "floor:\nshuffled captions"), (1, "ceiling:\nown text route")):
        ax.axvline(value, color=QUIET, lw=1, ls=(0, (4, 2)), zorder=1.5)
        ax.annotate(
            name, (value, 1), (0, 3), xycoords=("data", "axes fraction"), textcoords="offset points", ha="center",
            va="bottom", fontsize=8, color=QUIET, annotation_clip=False,
        )  # fmt: skip
    ax.set_yticks(range(len(means)), [str(plan) for plan in means.index], fontsize=9)
    ax.set(
        xlabel="share of the gap closed (small dots: seeds; bar: 95 % t interval of the mean)",
        ylim=(-0.6, len(means) - 0.4),
    )
    ax.grid(visible=False)
    left, right = ax.get_xlim()
    ax.set_xlim(min(left, -0.05), max(right, 1.05))
    return figure
