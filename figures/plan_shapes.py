"""Draw the boxes and arrows of a bridge plan."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path

from .style import QUIET, TASK_COLOUR, TRAINED

# Left edges of the two towers and of what lies between them, and their widths, in units of the drawing's width.
PLACES, WIDTH = (0.08, 0.66), 0.26
BETWEEN, BLOCK = 0.45, 0.1
TRUNK = 0.37


def _along(line: list[tuple[float, float]], share: float) -> tuple[float, float]:
    (x, y), (right, end) = line
    return x + share * (right - x), y + share * (end - y)


def _block(ax: Axes, left: float, row: int, number: str, task: str | None, size: float) -> None:
    """One block: of a task's colour where it is bridged or its own, green where it is shared, else grey."""
    colour = {**TASK_COLOUR, "both": TRAINED, None: "#f1f1f1"}[task]
    ax.add_patch(_box((left + 0.005, row + 0.12), WIDTH - 0.01, 0.76, colour, colour if task else "#bbbbbb", number))
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


def _box(corner: tuple[float, float], width: float, height: float, face: str, edge: str, name: str) -> FancyBboxPatch:
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


def _arrow(
    ax: Axes,
    points: list[tuple[float, float]],
    size: float,
    colour: str = TRAINED,
    heads: str = "-|>",
    name: str | None = None,
) -> None:
    """Along the points; grey arrows are thin."""
    width = size / 9 if colour == QUIET else size / 5
    path = Path(points)
    ax.add_patch(
        FancyArrowPatch(path=path, arrowstyle=heads, mutation_scale=1.2 * size, color=colour, lw=width, gid=name)
    )
