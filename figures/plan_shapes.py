"""Draw the parts of a bridge plan: numbered blocks, boxes and arrows."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path

from .style import QUIET, TASK_COLOUR, TRAINED

# Left edges of the two towers and of what lies between them, and their widths, in units of the drawing's width.
PLACES, WIDTH = (0.08, 0.66), 0.26
BETWEEN, BLOCK = 0.45, 0.1
TRUNK = 0.37


def draw_block(ax: Axes, left: float, row: int, number: str, task: str | None, size: float) -> None:
    """Draw one numbered block of a tower or a trunk.

    Parameters
    ----------
    ax : Axes
        Where to draw.
    left : float
        The left edge, in units of the drawing's width.
    row : int
        The row that the block stands in, from the bottom.
    number : str
        The block's number, which is written on it and is its `gid`.
    task : str or None
        "understanding" or "generation" for a block that is bridged or belongs to one task, "both" for a shared block,
        None for any other, which is grey.
    size : float
        The size of letters in points.
    """
    colour = {**TASK_COLOUR, "both": TRAINED, None: "#f1f1f1"}[task]
    edge = colour if task else "#bbbbbb"
    ax.add_patch(rounded_box((left + 0.005, row + 0.12), WIDTH - 0.01, 0.76, colour, edge, number))
    ax.text(
        left + WIDTH / 2,
        row + 0.5,
        number,
        ha="center",
        va="center_baseline",
        fontsize=size - 1.5,
        color=QUIET if task is None else "black" if task == "generation" else "white",
        fontweight="bold" if task else "normal",
    )


def rounded_box(
    corner: tuple[float, float], width: float, height: float, face: str, edge: str, name: str
) -> FancyBboxPatch:
    """Return a box with rounded corners.

    Parameters
    ----------
    corner : (float, float)
        The left lower corner (x, row).
    width, height : float
        In units of the drawing's width, and in rows.
    face, edge : str
        The colours.
    name : str
        The `gid` of the patch.

    Returns
    -------
    FancyBboxPatch
        The box, not yet added to any axes.
    """
    return FancyBboxPatch(
        corner,
        width,
        height,
        boxstyle="round,pad=0,rounding_size=0.012",
        mutation_aspect=20,
        facecolor=face,
        edgecolor=edge,
        linewidth=0.9,
        gid=name,
    )


def draw_arrow(
    ax: Axes,
    points: list[tuple[float, float]],
    size: float,
    colour: str = TRAINED,
    heads: str = "-|>",
    name: str | None = None,
) -> None:
    """Draw an arrow along points; grey arrows are thin.

    Parameters
    ----------
    ax : Axes
        Where to draw.
    points : list of (float, float)
        The points (x, row) that it runs through.
    size : float
        The size of letters in points, which the arrow's width and head follow.
    colour : str
        The colour.
    heads : str
        The arrow style of matplotlib, such as "-|>" or "<|-|>".
    name : str, optional
        The `gid` of the patch.
    """
    width = size / 9 if colour == QUIET else size / 5
    arrow = FancyArrowPatch(
        path=Path(points), arrowstyle=heads, mutation_scale=1.2 * size, color=colour, lw=width, gid=name
    )
    ax.add_patch(arrow)


def point_along(line: list[tuple[float, float]], share: float) -> tuple[float, float]:
    """Return the point at a share of the way along a line.

    Parameters
    ----------
    line : list of (float, float)
        The two ends (x, row).
    share : float
        0 is the first end, 1 the second.

    Returns
    -------
    (float, float)
        The point (x, row).
    """
    (x, y), (right, end) = line
    return x + share * (right - x), y + share * (end - y)
