"""The fused model, drawn from its plan: two towers, and the bridges between them."""

from __future__ import annotations

from textwrap import fill
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from .style import QUIET, TASK_COLOUR, TRAINED, styled

if TYPE_CHECKING:
    from ..probes.bridges import BridgePlan

# Left edges of the two towers and their width, in units of the drawing's width.
PLACES, WIDTH = (0.08, 0.66), 0.26
STREAMS = {
    "image": "each bridge enters the image stream",
    "text": "each bridge enters the text stream",
    "both": "each bridge enters both streams, image and text",
}


@styled
def architecture(plan: BridgePlan, names: tuple[str, str] = ("understanding expert", "generation expert")) -> Figure:
    """Draw the fused model of ``plan``: frozen towers of blocks, first block at the bottom, trained one-way bridges.

    Blocks are numbered from 0. Bridged blocks are coloured and joined by an arrow from the understanding tower (left)
    to the generation tower (right); the line on top tells the number of bridges K, the rule and the stream they enter.
    Raises ValueError for a plan without bridges, with a block that a tower does not have, or with an unknown stream.
    """
    towers = (plan.understanding_layers, plan.generation_layers)
    if not plan.pairs:
        raise ValueError("architecture: the plan has no bridges: choose at least one")
    if plan.stream not in STREAMS:
        raise ValueError(f"architecture: unknown stream {plan.stream!r}: expected one of {', '.join(STREAMS)}")
    for tower, blocks, side in zip(("understanding", "generation"), towers, (0, 1), strict=True):
        for block in (pair[side] for pair in plan.pairs):
            if not 0 <= block < blocks:
                raise ValueError(
                    f"architecture: the plan bridges {tower} block {block}, the tower has 0 to {blocks - 1}"
                )

    tall = max(towers)
    figure, ax = plt.subplots(figsize=(6.2, 2.0 + min(max(0.3 * tall, 2.2), 7.0)))
    ax.set(xlim=(0, 1), ylim=(-1.9, tall + 1.5))
    ax.axis("off")
    ends = (("text", None), ("noisy image", "image"))
    for side, (blocks, (below, above)) in enumerate(zip(towers, ends, strict=True)):
        task = ("understanding", "generation")[side]
        _tower(ax, PLACES[side], blocks, {pair[side] for pair in plan.pairs}, TASK_COLOUR[task])
        middle = PLACES[side] + WIDTH / 2
        _arrow(ax, (middle, -0.95), (middle, -0.05), QUIET)
        ax.text(middle, -1.05, below, ha="center", va="top", color=QUIET)
        if above:
            _arrow(ax, (middle, blocks), (middle, blocks + 0.8), QUIET)
            ax.text(middle, blocks + 0.85, above, ha="center", va="bottom", color=QUIET)
    for understanding, generation in sorted(plan.pairs):
        start, end = PLACES[0] + WIDTH, PLACES[1]
        _arrow(ax, (start + 0.01, understanding + 0.5), (end - 0.005, generation + 0.5), TRAINED, width=1.8)

    count = len(plan.pairs)
    caption = f"K = {count} {'bridge' if count == 1 else 'bridges'}, rule “{plan.rule}”; {STREAMS[plan.stream]}"
    figure.suptitle(fill(caption, 72), fontsize=10)
    for side in (0, 1):
        note = f"{fill(names[side], 26)}\n{towers[side]} blocks, frozen ❄"
        ax.text(PLACES[side] + WIDTH / 2, -1.95, note, ha="center", va="top", color="#333333", linespacing=1.4)
    ax.text(0.5, -1.95, "bridges:\ntrained, one way →", ha="center", va="top", color=TRAINED, linespacing=1.4)
    return figure


def _tower(ax: Axes, left: float, blocks: int, bridged: set[int], colour: str) -> None:
    for block in range(blocks):
        joined = block in bridged
        box = FancyBboxPatch(
            (left + 0.005, block + 0.12),
            WIDTH - 0.01,
            0.76,
            boxstyle="round,pad=0,rounding_size=0.012",
            mutation_aspect=20,
            facecolor=colour if joined else "#f1f1f1",
            edgecolor=colour if joined else "#bbbbbb",
            linewidth=0.9,
        )
        ax.add_patch(box)
        ax.text(
            left + WIDTH / 2,
            block + 0.5,
            str(block),
            ha="center",
            va="center_baseline",
            fontsize=7.5,
            color=("white" if colour == TASK_COLOUR["understanding"] else "black") if joined else QUIET,
            fontweight="bold" if joined else "normal",
        )


def _arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float], colour: str, width: float = 1.0) -> None:
    arrow = FancyArrowPatch(
        start, end, arrowstyle="-|>", mutation_scale=11, color=colour, lw=width, shrinkA=0, shrinkB=0
    )
    ax.add_patch(arrow)
