"""Draw every pair of several models as a matrix: the score, the layers that it belongs to, and what is chance."""

from __future__ import annotations

from textwrap import fill

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ..publishing.drawn import Drawn, remember
from ..publishing.page import current_page, page_width, points
from ..style import NOISE, heading, measured, need, panels, styled

COLUMNS = ("subject", "modality", "layer", "reference", "reference_modality", "reference_layer", "metric", "k")
COLUMNS += ("samples", "score", "chance", "p")
INCHES = 1.05  # the side of a cell


@styled
def model_matrix(table: pd.DataFrame) -> Figure:
    """Draw the table of `alignment_matrix`: a cell for each pair of models, with its score and its pair of layers.

    The layers in a cell are that of the column's model x that of the row's. Cells whose p is above .05 are hatched:
    such a score is what unrelated models give. A metric that scores the two directions of a pair differently fills the
    whole square, and a cell is then how well the row's model knows the column's, as the metric has it of (x, y).

    Parameters
    ----------
    table : DataFrame
        The table of `alignment_matrix`, of one metric.

    Returns
    -------
    Figure
        The matrix with its colour bar.

    Raises
    ------
    TypeError
        If `table` is no DataFrame.
    ValueError
        If columns or rows are missing, if there are several metrics or numbers of samples, or if a pair has several
        scores.

    See Also
    --------
    layer_map : Draws all layers of one pair of models.

    Examples
    --------
    >>> figure = figures.model_matrix(alignment_matrix([seen["text"], made["image"]]))
    """
    table = need(table, COLUMNS, "model_matrix", "alignment_matrix")
    if len(table[["metric", "k", "samples"]].drop_duplicates()) > 1:
        raise ValueError("model_matrix: scores of several metrics, k or N are not comparable: draw them one by one")
    ours, theirs = _names(table, "subject", ""), _names(table, "reference", "reference_")
    pairs = list(zip(ours, theirs, strict=True))
    if len(set(pairs)) < len(pairs):
        raise ValueError("model_matrix: a pair of models has several scores: draw one table of alignment_matrix")
    names = list(dict.fromkeys([*ours, *theirs]))
    both = any((other, one) in set(pairs) for one, other in pairs)
    rows, columns = (names, names) if both else (names[1:], names[:-1])
    places = [(one, other) if both else (other, one) for one, other in pairs]
    cells = [(rows.index(row), columns.index(column)) for row, column in places]
    values = np.full((len(rows), len(columns)), np.nan)
    for cell, score in zip(cells, table["score"], strict=True):
        values[cell] = score
    size = INCHES * len(columns) + 2.6, INCHES * len(rows) + 1.6
    if current_page():
        side = min((page_width(0) - 1.7) / len(columns), 0.9)
        size = page_width(0), max(side, 0.55) * len(rows) + 1.1
    figure, ((ax,),) = panels(1, 1, size)
    metric = table["metric"].iloc[0]
    bar = {"label": f"similarity ({metric})", "pad": 0.02}
    sns.heatmap(values, ax=ax, cmap="mako", cbar_kws=bar, linewidths=1, xticklabels=columns, yticklabels=rows)
    ax.grid(False)
    ax.tick_params(length=0, labelrotation=0)
    low, high = np.nanmin(values), np.nanmax(values)
    for (row, column), (_, one) in zip(cells, table.iterrows(), strict=True):
        if pd.isna(one.score):
            continue
        dark = (one.score - low) / max(high - low, 1e-12) < 0.6
        text = {"ha": "center", "color": "white" if dark else "black"}
        layers = (one.layer, one.reference_layer) if not both else (one.reference_layer, one.layer)
        ax.text(column + 0.5, row + 0.47, f"{one.score:.3f}", va="bottom", fontweight="bold", **text)
        ax.text(column + 0.5, row + 0.55, " × ".join(map(_short, layers)), va="top", fontsize=points(8), **text)
        if one.p > NOISE:
            edge = {"fill": False, "hatch": "///", "edgecolor": text["color"], "lw": 0, "alpha": 0.5}
            ax.add_patch(Rectangle((column, row), 1, 1, gid="chance", **edge))
            ax.text(column + 0.5, row + 0.92, f"p = {one.p:.2g}", va="bottom", fontsize=points(8), **text)
    first = table.iloc[0]
    most = table["compared"].max() if "compared" in table else 1
    numbers = measured(first.metric, first.k, first.samples, first.chance)
    chosen = "best pair of layers (column × row)" if most > 1 else "stated layers (column × row)"
    heading(ax, "every pair of models", f"{numbers}\n{chosen}; hatched: p above {NOISE:g}")
    shown = table[["subject", "layer", "reference", "reference_layer", "score", "p"]]
    how = numbers.replace(" · ", ", ")
    text = f"Similarity of every pair of models ({how}), with the {chosen}; hatched: p above {NOISE:g}."
    remember(figure, Drawn("model_matrix", {"pairs": table}, text, shown))
    return figure


def _names(table: pd.DataFrame, subject: str, prefix: str) -> list[str]:
    """Return the name of one side of each pair: subject, modality and timestep."""
    names = []
    for _, row in table.iterrows():
        timestep = row.get(f"{prefix}timestep")
        time = "" if timestep is None or pd.isna(timestep) else f", t = {timestep:g}"
        names.append(f"{fill(str(row[subject]), 18)}\n{row[f'{prefix}modality']}{time}")
    return names


def _short(layer: object) -> str:
    return "emb." if layer == "embeddings" else str(layer)
